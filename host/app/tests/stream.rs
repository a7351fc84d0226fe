#![cfg(unix)]
//! `solstice stream` as another machine would run it: by a script that stands for ssh, and by a real sshd where one is installed.

mod common;

use common::Desk;
use serde_json::json;
use solstice_dashboard::data::{Host, Library, Outbox, Remote, RemoteOptions, SentState, Snapshot};
use solstice_store::{NewRun, RunState, RunWriter};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// No limit of its own: the test runner's holds.
fn wait_for(library: &Library, is: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    loop {
        let snapshot = library.snapshot();
        if is(&snapshot) {
            return snapshot;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn options(desk: &Desk, ssh: &[&str]) -> RemoteOptions {
    let target = format!("127.0.0.1:{}", desk.path().join("runs").display());
    RemoteOptions {
        ssh: ssh.iter().map(|word| word.to_string()).collect(),
        program: env!("CARGO_BIN_EXE_solstice").to_string(),
        ..RemoteOptions::new(&target, &desk.path().join("mirrors")).unwrap()
    }
}

fn create(desk: &Desk) -> RunWriter {
    let writer = RunWriter::create(&desk.path().join("runs"), &NewRun { name: "far".into(), ..NewRun::default() }).unwrap();
    writer.state(RunState::Running, None);
    writer.scalar(1, "train/loss", 0.5);
    writer.flush().unwrap();
    writer
}

/// A run is seen, goes on, and is told to pause.
fn try_out(writer: &RunWriter, options: RemoteOptions) -> Arc<Remote> {
    let remote = Arc::new(Remote::open(options).unwrap());
    let library = Library::open_with(&[], vec![remote.clone()]);
    let count = |snapshot: &Snapshot| {
        assert!(snapshot.problems.iter().all(|problem| problem.starts_with("connecting")), "{:?}", snapshot.problems);
        snapshot.runs.first().and_then(|run| run.series.get("train/loss")).map_or(0, |series| series.len())
    };
    wait_for(&library, |snapshot| count(snapshot) == 1);
    let mut delays = Vec::new();
    for step in 2..=20u64 {
        writer.scalar(step, "train/loss", 0.25);
        let start = std::time::Instant::now();
        wait_for(&library, |snapshot| count(snapshot) == step as usize);
        delays.push(start.elapsed());
    }
    delays.sort();
    println!("a value is seen after {:?} in the middle, {:?} at worst", delays[delays.len() / 2], delays[delays.len() - 1]);
    let path = library.snapshot().runs[0].path.clone();
    library.send(&path, "pause", json!({}));
    let command = loop {
        if let Some(command) = writer.wait_for_commands(Duration::from_millis(50)).pop() {
            break command;
        }
    };
    assert_eq!(command.kind, "pause");
    writer.complete_command(command.id, Ok("paused at 20"));
    let snapshot = wait_for(&library, |snapshot| snapshot.sent[0].state == SentState::Done);
    assert_eq!(snapshot.sent[0].reason.as_deref(), Some("paused at 20"));
    remote
}

#[test]
fn the_built_program_serves_its_runs_and_itself() {
    let desk = Desk::new();
    let writer = create(&desk);
    let script = desk.write("ssh.sh", "shift 2\nexec sh -c \"$*\"\n");
    let remote = try_out(&writer, options(&desk, &["sh", script.to_str().unwrap()]));
    // An allowed command of the built program, with its complaint.
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let answer = remote.ask(&words(&["check", "no-such-recipe.ron"]), "").unwrap();
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.complaint().contains("no-such-recipe.ron"), "{answer:?}");
    let sentence = remote.ask(&words(&["runs"]), "").unwrap_err();
    assert!(sentence.contains("not carried out for a window far away"), "{sentence}");
    assert_eq!(remote.host(), "127.0.0.1");
}

#[test]
fn it_ends_with_its_input_and_says_nothing() {
    let desk = Desk::new();
    drop(create(&desk));
    let ran = desk.run(&["stream", "runs"]).expect(0);
    assert_eq!(ran.err, "");
    assert!(ran.out.starts_with("\0solstice stream\0"), "{}", ran.out);
    let help = desk.run(&["stream", "--help"]).expect(0);
    assert!(help.out.contains("dashboard --ssh"), "{}", help.out);
}

struct Sshd {
    child: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An sshd for this user alone on a free port of this machine, with keys of its own; or why there is none.
fn start_sshd(folder: &Path) -> Result<(Sshd, Vec<String>), String> {
    let dirs = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let places = dirs.into_iter().chain(["/usr/sbin".into(), "/usr/local/sbin".into()] as [PathBuf; 2]);
    let program = places.map(|dir| dir.join("sshd")).find(|path| path.is_file()).ok_or("no sshd is installed")?;
    for key in ["host_key", "user_key"] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)).status();
        made.ok().filter(|status| status.success()).ok_or("ssh-keygen does not work")?;
    }
    fs::copy(folder.join("user_key.pub"), folder.join("authorized")).map_err(|error| error.to_string())?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(|error| error.to_string())?.port();
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n",
        at("host_key"),
        at("authorized"),
        at("pid")
    );
    fs::write(folder.join("config"), config).map_err(|error| error.to_string())?;
    let log = fs::File::create(folder.join("log")).map_err(|error| error.to_string())?;
    let child = Command::new(program).args(["-D", "-e", "-f", &at("config")]).stdin(Stdio::null()).stderr(log).spawn();
    let mut sshd = Sshd { child: child.map_err(|error| error.to_string())? };
    loop {
        if fs::read_to_string(folder.join("log")).is_ok_and(|log| log.contains("Server listening")) {
            break;
        }
        if let Ok(Some(status)) = sshd.child.try_wait() {
            return Err(format!("sshd ended with {status}: {}", fs::read_to_string(folder.join("log")).unwrap_or_default().trim()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let ssh = ["ssh", "-F", "none", "-p", &port.to_string(), "-i", &at("user_key"), "-o", "StrictHostKeyChecking=no"].map(str::to_string);
    let more = ["-o", &format!("UserKnownHostsFile={}", at("known")), "-o", "BatchMode=yes"].map(str::to_string);
    Ok((sshd, ssh.into_iter().chain(more).collect()))
}

#[test]
fn a_real_ssh_carries_it() {
    let desk = Desk::new();
    let folder = desk.path().join("ssh");
    fs::create_dir(&folder).unwrap();
    let (_sshd, ssh) = match start_sshd(&folder) {
        Ok(started) => started,
        Err(reason) => return eprintln!("NOT RUN: the test over a real ssh: {reason}"),
    };
    let writer = create(&desk);
    let ssh: Vec<&str> = ssh.iter().map(String::as_str).collect();
    let remote = try_out(&writer, options(&desk, &ssh));
    assert!(remote.problems().is_empty(), "{:?}", remote.problems());
    // A program that is not there, as ssh and the shell over there tell it.
    let missing = RemoteOptions { program: "/no/such/solstice".into(), ..options(&desk, &ssh) };
    let missing = Remote::open(missing).unwrap();
    let sentence = loop {
        match missing.problems().first() {
            Some(problem) if !problem.starts_with("connecting") => break problem.clone(),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(sentence.contains("127.0.0.1 has no `/no/such/solstice`") && sentence.contains("--remote-program"), "{sentence}");
}
