//! The `mnist` data set: handwritten digits in the four IDX files, found on disk or downloaded.
//!
//! The plugin API's `fetch` finds and downloads; here the files are read, checked and served.

use solstice_plugin_api::fetch;
use solstice_plugin_api::prelude::*;
use std::path::{Path, PathBuf};

/// MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 pixels, or other data in the same four IDX files.
///
/// Fields: `image` (u8 `[1, 28, 28]`, scaled to 0..1) and `label` (i32). Splits: `train`, `test`. The files, plain or `.gz`, are looked for in the data
/// folder, in `mnist` and `MNIST/raw` below it, and in the cache; otherwise they are downloaded.
#[config]
pub struct Mnist {
    /// Use only the first samples of each split.
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// Compare the files with the published SHA-256. Switch it off for other data in the same format, Fashion-MNIST for instance.
    pub verify: bool,
}

impl Default for Mnist {
    fn default() -> Self {
        Mnist { limit: None, verify: true }
    }
}

/// One of the four files: its name, the other name in circulation, and the SHA-256 of its unpacked bytes.
struct IdxFile {
    name: &'static str,
    dotted_name: &'static str,
    sha256: &'static str,
}

const FILES: [IdxFile; 4] = [
    IdxFile {
        name: "train-images-idx3-ubyte",
        dotted_name: "train-images.idx3-ubyte",
        sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    },
    IdxFile {
        name: "train-labels-idx1-ubyte",
        dotted_name: "train-labels.idx1-ubyte",
        sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    },
    IdxFile {
        name: "t10k-images-idx3-ubyte",
        dotted_name: "t10k-images.idx3-ubyte",
        sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    },
    IdxFile {
        name: "t10k-labels-idx1-ubyte",
        dotted_name: "t10k-labels.idx1-ubyte",
        sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
];

/// Folders that hold `<name>.gz`. The site of the authors asks for a password since 2023 and is not among them.
const MIRRORS: [&str; 3] = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
];

impl Dataset for Mnist {
    const ID: &'static str = "mnist";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        let mut paths = Vec::new();
        for file in &FILES {
            paths.push(locate(file, host).map_err(problem)?);
        }
        // The four files are unpacked and hashed at once: it is most of the time that this takes.
        let read_all: Vec<Result<Idx, String>> = std::thread::scope(|scope| {
            let jobs: Vec<_> = FILES.iter().zip(&paths).map(|(file, path)| scope.spawn(|| self.read(file, path))).collect();
            jobs.into_iter().map(|job| job.join().expect("reading does not panic")).collect()
        });
        let mut files = read_all.into_iter().collect::<Result<Vec<Idx>, String>>().map_err(problem)?.into_iter();
        let mut part = |name: &str| {
            let (images, labels) = (files.next().expect("four files"), files.next().expect("four files"));
            Part::new(name, images, labels, self.limit).map_err(problem)
        };
        let (train, test) = (part("train")?, part("test")?);
        if train.image_shape() != test.image_shape() {
            let ([height, width], [test_height, test_width]) = (train.image_shape(), test.image_shape());
            return Err(problem(format!(
                "mnist: train images are {height} x {width}, test images are {test_height} x {test_width}; they must agree"
            )));
        }
        Ok(Box::new(Digits { parts: [train, test] }))
    }
}

impl Mnist {
    fn read(&self, file: &IdxFile, path: &Path) -> Result<Idx, String> {
        let bytes = fetch::read(path)?;
        let idx = Idx::parse(path, bytes, if file.name.contains("images") { 3 } else { 1 })?;
        let hash = if self.verify { fetch::sha256_hex(&idx.bytes) } else { file.sha256.into() };
        if hash != file.sha256 {
            return Err(format!(
                "{}: wanted the SHA-256 {} of MNIST, got {hash} (unpacked); the file is damaged: delete it, or set `verify: false` for other data in this \
                 format",
                path.display(),
                file.sha256
            ));
        }
        Ok(idx)
    }
}

/// Where the file is, after a download if that is what it takes.
fn locate(file: &IdxFile, host: &dyn DataHost) -> Result<PathBuf, String> {
    let cache = host.cache_dir().join("mnist");
    let data_dir = host.data_dir();
    let mut dirs: Vec<PathBuf> = data_dir.iter().flat_map(|dir| [dir.clone(), dir.join("mnist"), dir.join("MNIST/raw")]).collect();
    dirs.push(cache.clone());
    let names = [file.name, file.dotted_name].into_iter().flat_map(|name| [name.to_owned(), format!("{name}.gz")]).collect::<Vec<_>>();
    if let Some(path) = fetch::find(&dirs, &names) {
        return Ok(path);
    }
    let why_not = if host.offline() {
        "downloads are switched off".to_owned()
    } else {
        let urls = MIRRORS.map(|mirror| format!("{mirror}{}.gz", file.name));
        let target = cache.join(file.name);
        match fetch::download(host, &urls, file.sha256, &target) {
            Ok(()) => return Ok(target),
            Err(problem) => format!("no mirror could be used ({problem})"),
        }
    };
    let looked: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    Err(format!(
        "mnist: `{}` (plain or .gz) is not in {}, and {why_not}; put {} into a folder and name it with `--data-dir DIR`",
        file.name,
        looked.join(", "),
        FILES.iter().map(|file| file.name).collect::<Vec<_>>().join(", ")
    ))
}

/// An IDX file of unsigned bytes: a big-endian header, then the elements.
struct Idx {
    path: PathBuf,
    bytes: Vec<u8>,
    shape: Vec<usize>,
}

impl Idx {
    fn parse(path: &Path, bytes: Vec<u8>, rank: usize) -> Result<Idx, String> {
        let at = path.display();
        let header_bytes = 4 + 4 * rank;
        if bytes.len() < header_bytes {
            return Err(format!(
                "{at}: wanted an IDX header of {header_bytes} bytes, got a file of {}; it is cut off: delete it",
                bytes.len()
            ));
        }
        let word = |index: usize| u32::from_be_bytes(bytes[4 * index..][..4].try_into().expect("four bytes"));
        let magic = 0x0800 + rank as u32; // 8 stands for unsigned bytes.
        if word(0) != magic {
            return Err(format!(
                "{at}: wanted an IDX file of bytes in {rank} dimensions (it begins with {magic:#010x}), got {:#010x}",
                word(0)
            ));
        }
        let shape: Vec<usize> = (1..=rank).map(|index| word(index) as usize).collect();
        let wanted = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let got = bytes.len() - header_bytes;
        if wanted != Some(got) {
            let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
            let wanted = wanted.map_or("more bytes than memory holds".to_owned(), |count| format!("{count} bytes"));
            let sizes = sizes.join(" x ");
            return Err(format!(
                "{at}: the header announces {sizes}, wanted {wanted} after it, got {got}; the file is cut off or damaged: delete it"
            ));
        }
        Ok(Idx { path: path.to_owned(), bytes, shape })
    }

    fn elements(&self) -> &[u8] {
        &self.bytes[4 + 4 * self.shape.len()..]
    }
}

/// One split. Images and labels are equally many, at least one.
struct Part {
    name: String,
    images: Idx,
    labels: Idx,
    len: usize,
}

impl Part {
    fn new(name: &str, images: Idx, labels: Idx, limit: Option<u64>) -> Result<Part, String> {
        let (image_count, label_count) = (images.shape[0], labels.shape[0]);
        if image_count != label_count {
            let (images, labels) = (images.path.display(), labels.path.display());
            return Err(format!("{images} holds {image_count} images, {labels} holds {label_count} labels; they must be equally many"));
        }
        if images.elements().is_empty() {
            return Err(format!("{}: wanted at least one image, got {:?}", images.path.display(), images.shape));
        }
        let len = limit.map_or(image_count, |limit| image_count.min(usize::try_from(limit).unwrap_or(usize::MAX)));
        Ok(Part { name: name.into(), images, labels, len })
    }

    fn image_shape(&self) -> [usize; 2] {
        [self.images.shape[1], self.images.shape[2]]
    }
}

struct Digits {
    parts: [Part; 2],
}

impl Samples for Digits {
    fn spec(&self) -> DatasetSpec {
        let [height, width] = self.parts[0].image_shape();
        let classes = self.parts.iter().flat_map(|part| part.labels.elements()).max().map_or(0, |&label| label as usize + 1);
        let class_names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
        DatasetSpec {
            splits: self.parts.iter().map(|part| Split { name: part.name.clone(), len: part.len as u64 }).collect(),
            fields: vec![
                Field {
                    name: "image".into(),
                    role: FieldRole::Input,
                    dtype: DType::U8,
                    shape: vec![1, height, width],
                    scale: 1.0 / 255.0,
                    offset: 0.0,
                },
                Field { name: "label".into(), role: FieldRole::Target, dtype: DType::I32, shape: vec![], scale: 1.0, offset: 0.0 },
            ],
            resident: true,
            facts: [("classes".into(), classes.into()), ("class_names".into(), class_names.into())].into(),
        }
    }

    fn fill(&self, split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        let part = self.parts.iter().find(|part| part.name == split);
        let part = part.ok_or_else(|| problem(format!("mnist: there is no split `{split}`; there are train, test")))?;
        let [image_out, label_out] = out else {
            return Err(problem(format!("mnist: wanted buffers for image and label, got {}", out.len())));
        };
        let pixels = part.image_shape().iter().product();
        for ((&index, image), label) in indices.iter().zip(image_out.chunks_exact_mut(pixels)).zip(label_out.chunks_exact_mut(4)) {
            let at = usize::try_from(index).ok().filter(|&at| at < part.len);
            let at = at.ok_or_else(|| problem(format!("mnist: sample {index} of `{split}` was asked for, it has {}", part.len)))?;
            image.copy_from_slice(&part.images.elements()[at * pixels..][..pixels]);
            label.copy_from_slice(&i32::from(part.labels.elements()[at]).to_le_bytes());
        }
        Ok(())
    }
}

/// What is wrong is in the user's files: the line of this plugin would not help.
fn problem(message: String) -> Error {
    Error::at(message, "")
}

export_plugin! { datasets: [Mnist] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{self, TestHost};
    use std::fs;
    use std::io::Write;

    fn idx(shape: &[u32], elements: impl IntoIterator<Item = u8>) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(elements);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Three train and two test images of 2 x 3; pixel p of image i is 10 i + p. Plain, packed and dotted names are mixed.
    fn small(folder: &Path) {
        let images = |count: u32| idx(&[count, 2, 3], (0..count).flat_map(|image| (0..6).map(move |pixel| 10 * image as u8 + pixel)));
        fs::create_dir_all(folder.join("mnist")).unwrap();
        fs::write(folder.join("train-images-idx3-ubyte"), images(3)).unwrap();
        fs::write(folder.join("mnist/train-labels-idx1-ubyte.gz"), gzip(&idx(&[3], [7, 0, 2]))).unwrap();
        fs::write(folder.join("mnist/t10k-images.idx3-ubyte.gz"), gzip(&images(2))).unwrap();
        fs::write(folder.join("t10k-labels-idx1-ubyte"), idx(&[2], [1, 4])).unwrap();
    }

    const OTHER: Mnist = Mnist { limit: None, verify: false };

    fn refusal(config: &Mnist, folder: &Path) -> String {
        let host = TestHost { data_dir: Some(folder.into()), cache_dir: folder.join("cache") };
        config.open(&host).err().expect("this must not open").to_string()
    }

    #[test]
    fn the_defaults_are_in_range() {
        testing::check_config::<Mnist>().unwrap();
    }

    #[test]
    fn files_of_either_name_and_packing_are_read_in_the_order_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        small(folder.path());
        let samples = testing::open_dataset(&OTHER, folder.path()).unwrap();
        let spec = samples.spec();
        assert_eq!(spec.fields[0].shape, [1, 2, 3]);
        assert_eq!(spec.splits.iter().map(|split| split.len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(spec.facts["classes"], 8);
        let read = testing::read_samples(&*samples, "train", 0, &[2, 0]).unwrap();
        assert_eq!(read, [vec![20, 21, 22, 23, 24, 25, 0, 1, 2, 3, 4, 5], vec![2, 0, 0, 0, 7, 0, 0, 0]]);
        testing::check_samples(&*samples).unwrap();
        let (mut image, mut label) = ([0; 6], [0; 4]);
        let error = samples.fill("test", 0, &[2], &mut [&mut image, &mut label]).unwrap_err();
        assert_eq!(error.message, "mnist: sample 2 of `test` was asked for, it has 2");
        assert!(samples.fill("val", 0, &[], &mut [&mut [], &mut []]).unwrap_err().message.contains("no split `val`"));
    }

    #[test]
    fn a_limit_shortens_both_splits() {
        let folder = tempfile::tempdir().unwrap();
        small(folder.path());
        let spec = testing::open_dataset(&Mnist { limit: Some(1), ..OTHER }, folder.path()).unwrap().spec();
        assert!(spec.splits.iter().all(|split| split.len == 1));
    }

    #[test]
    fn damaged_files_are_named_with_what_was_wanted_and_what_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        small(path);
        assert!(refusal(&Mnist::default(), path).contains("wanted the SHA-256 ba891046"));

        let labels = path.join("t10k-labels-idx1-ubyte");
        for (bytes, problem) in [
            (vec![0, 0, 8], "wanted an IDX header of 8 bytes, got a file of 3"),
            (idx(&[2, 1], [1, 4]), "begins with 0x00000801), got 0x00000802"),
            (idx(&[2], [1]), "the header announces 2, wanted 2 bytes after it, got 1"),
            (idx(&[3], [1, 2, 3]), "holds 2 images"),
            (gzip(&idx(&[2], [1, 4]))[..20].to_vec(), "wanted a whole gzip file, got 20 bytes"),
        ] {
            fs::write(&labels, bytes).unwrap();
            let error = refusal(&OTHER, path);
            assert!(error.contains(problem) && error.contains("t10k-labels-idx1-ubyte"), "{error}");
        }
    }

    #[test]
    fn without_files_and_network_one_sentence_says_what_is_missing_where_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = refusal(&Mnist::default(), folder.path());
        assert!(!error.contains('\n'));
        for part in ["train-images-idx3-ubyte", "/mnist", "cache", "switched off", "--data-dir DIR"] {
            assert!(error.contains(part), "{error}");
        }
    }

    /// The real files, where this machine has them.
    #[test]
    fn the_published_files_open() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let folder = std::env::var_os("SOLSTICE_DATA").map_or(beside, PathBuf::from);
        if !folder.join("mnist/train-images-idx3-ubyte.gz").is_file() {
            return;
        }
        let samples = testing::open_dataset(&Mnist::default(), &folder).unwrap();
        let spec = samples.spec();
        assert_eq!(spec.splits.iter().map(|split| split.len).collect::<Vec<_>>(), [60_000, 10_000]);
        assert_eq!((&spec.fields[0].shape[..], &spec.facts["classes"]), (&[1, 28, 28][..], &10.into()));
        let first = testing::read_samples(&*samples, "test", 0, &[0]).unwrap();
        assert_eq!(first[1], [7, 0, 0, 0]); // The first test image is a seven.
    }
}
