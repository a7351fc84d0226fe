//! Files that a data set needs: found in the user's folders, else downloaded, checked and kept in the cache.
//!
//! Knows nothing of any format but gzip. Behind the feature `fetch`, so that plugins without data stay light.

use crate::DataHost;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing that a built-in data set downloads is larger.
const DOWNLOAD_BYTES_MAX: u64 = 1 << 30;

/// The first file among `names` in each of `dirs`, folder by folder.
pub fn find(dirs: &[PathBuf], names: &[String]) -> Option<PathBuf> {
    dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).find(|path| path.is_file())
}

/// The bytes of a file, unpacked when they are gzip. The error names the file.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    unpack(bytes).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// SHA-256 in hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Downloads the first of `urls` whose unpacked bytes have this SHA-256 to `target`, whole or not at all.
///
/// The error lists what each mirror answered. Reports progress at least every few seconds, so that the host sees a live call.
pub fn download(host: &dyn DataHost, urls: &[String], sha256: &str, target: &Path) -> Result<(), String> {
    let mut problems = Vec::new();
    for url in urls {
        let checked = get(host, url).and_then(unpack).and_then(|bytes| match sha256_hex(&bytes) {
            hash if hash == sha256 => Ok(bytes),
            hash => Err(format!("wanted SHA-256 {sha256}, got {hash} ({} bytes)", bytes.len())),
        });
        match checked {
            Ok(bytes) => return write_whole(target, &bytes).map_err(|error| format!("{}: cannot be written: {error}", target.display())),
            Err(problem) => problems.push(format!("{url}: {problem}")),
        }
    }
    Err(problems.join("; "))
}

fn get(host: &dyn DataHost, url: &str) -> Result<Vec<u8>, String> {
    host.progress(&format!("downloading {url}"));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(20)))
        .timeout_per_read(Some(Duration::from_secs(20)))
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let mut body = response.body_mut().with_config().limit(DOWNLOAD_BYTES_MAX).reader();
    let mut bytes = Vec::new();
    loop {
        // One report a megabyte.
        let count =
            (&mut body).take(1 << 20).read_to_end(&mut bytes).map_err(|error| format!("stopped after {} bytes: {error}", bytes.len()))?;
        if count == 0 {
            return Ok(bytes);
        }
        host.progress(&format!("downloading {url}: {:.1} MB", bytes.len() as f64 / 1e6));
    }
}

fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::with_capacity(bytes.len() * 4);
    match MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked) {
        Ok(_) => Ok(unpacked),
        Err(error) => {
            let got = format!("{} bytes that unpack to {} before they end or go wrong ({error})", bytes.len(), unpacked.len());
            Err(format!("wanted a whole gzip file, got {got}; the file is cut off or damaged"))
        }
    }
}

/// Written beside and renamed: another run never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("a file in a folder");
    fs::create_dir_all(folder)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.partial", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let placed = written.and_then(|()| fs::rename(&beside, path));
    if placed.is_err() {
        let _ = fs::remove_file(&beside); // The first error is the one to report.
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;
    use std::io::BufRead;
    use std::net::TcpListener;

    fn quiet() -> TestHost {
        TestHost { data_dir: None, cache_dir: PathBuf::new() }
    }

    /// Serves `body` once on the loopback interface.
    fn serve_once(body: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = io::BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while request.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).unwrap();
            stream.write_all(body).unwrap();
        });
        url
    }

    #[test]
    fn a_mirror_with_other_bytes_is_passed_over_and_the_next_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("sub/file");
        let urls = [serve_once(b"wrong"), serve_once(b"right")];
        download(&quiet(), &urls, &sha256_hex(b"right"), &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"right");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing partial stays behind");
    }

    #[test]
    fn when_no_mirror_helps_each_one_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let closed = "http://127.0.0.1:1/file".to_owned();
        let problem = download(&quiet(), &[closed, serve_once(b"wrong")], &sha256_hex(b"right"), &target).unwrap_err();
        assert!(problem.contains("127.0.0.1:1") && problem.contains("wanted SHA-256") && problem.contains("(5 bytes)"), "{problem}");
        assert!(!target.exists());
    }
}
