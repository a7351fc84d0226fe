//! The `images` data set: a folder of class folders with JPEG and PNG files.
//!
//! `folder.rs` finds files and classes; here they are decoded and served.

mod folder;

use folder::{Folder, ImageFile};
use image::{DynamicImage, imageops::FilterType};
use solstice_plugin_api::prelude::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Images in a folder a class, JPEG or PNG.
///
/// Either `train/<class>/*` with `test/<class>/*` or `val/<class>/*` beside it, or `<class>/*`, split by a seed into `train` and `val`. Classes are the names of
/// the folders of `train`, sorted. Fields: `image` (u8 `[channels, height, width]`, scaled to 0..1) and `label` (i32).
#[config]
pub struct Images {
    /// The folder. A relative path is looked for in the working folder, then in the data folder.
    pub path: String,
    /// Resize every image to this height and width; without it all must be as large as the first.
    #[schemars(range(min = 1, max = 4096))]
    pub size: Option<u32>,
    /// One channel instead of three; by default one if the first image of every class is grey.
    pub grayscale: Option<bool>,
    /// Part of each class that is kept for `val` when the folder has no `test` or `val`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub val_fraction: f64,
    /// Another seed splits otherwise.
    pub seed: u64,
}

impl Default for Images {
    fn default() -> Self {
        Images { path: String::new(), size: None, grayscale: None, val_fraction: 0.2, seed: 0 }
    }
}

/// Sets up to this size are decoded once, when they are opened; larger ones sample by sample.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;

impl Dataset for Images {
    const ID: &'static str = "images";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        Ok(Box::new(self.load(host).map_err(problem)?))
    }
}

impl Images {
    fn load(&self, host: &dyn DataHost) -> Result<Opened, String> {
        let Folder { classes, splits } = folder::read(&self.locate(host)?, self.val_fraction, self.seed)?;
        let format = self.format(&classes, &splits[0].1)?;
        let image_count: usize = splits.iter().map(|(_, files)| files.len()).sum();
        let is_resident = image_count as u64 * format.bytes() as u64 <= RESIDENT_BYTES_MAX;
        let mut opened = Opened { classes, format, splits: Vec::new() };
        for (name, files) in splits {
            let pixels = if is_resident { Some(decode_all(host, &files, &opened.format)?) } else { None };
            opened.splits.push(OpenSplit { name, files, pixels });
        }
        Ok(opened)
    }

    fn locate(&self, host: &dyn DataHost) -> Result<PathBuf, String> {
        if self.path.is_empty() {
            return Err("images: `path` is not set; name a folder of class folders".into());
        }
        let mut paths = vec![PathBuf::from(&self.path)];
        paths.extend(host.data_dir().map(|dir| dir.join(&self.path)));
        if let Some(path) = paths.iter().find(|path| path.is_dir()) {
            return Ok(path.clone());
        }
        paths.dedup();
        let looked: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        Err(format!(
            "images: there is no folder {}; name one with `path`, or the folder that it is in with `--data-dir DIR`",
            looked.join(", ")
        ))
    }

    /// Size and channels, from the first image of each class.
    fn format(&self, classes: &[String], train: &[ImageFile]) -> Result<Format, String> {
        let mut firsts = Vec::new();
        for class in 0..classes.len() {
            let file = train.iter().find(|file| file.label as usize == class).expect("every class has an image in train");
            firsts.push((file, decode(file)?));
        }
        let (first, image) = &firsts[0];
        let (height, width) = self.size.map_or((image.height(), image.width()), |size| (size, size));
        let is_gray = self.grayscale.unwrap_or_else(|| firsts.iter().all(|(_, image)| !image.color().has_color()));
        Ok(Format {
            height: height as usize,
            width: width as usize,
            is_gray,
            is_gray_by_guess: self.grayscale.is_none() && is_gray,
            resize: self.size.is_some(),
            first: first.path.clone(),
        })
    }
}

/// What every image is brought to.
struct Format {
    height: usize,
    width: usize,
    is_gray: bool,
    /// Then a coloured image is an error: to take its colour away is for the user to say.
    is_gray_by_guess: bool,
    resize: bool,
    /// The image that `height` and `width` come from, for messages.
    first: PathBuf,
}

impl Format {
    fn channels(&self) -> usize {
        if self.is_gray { 1 } else { 3 }
    }

    /// Bytes of an image.
    fn bytes(&self) -> usize {
        self.channels() * self.height * self.width
    }

    /// Decodes a file into `out`, channel by channel.
    fn decode_into(&self, file: &ImageFile, out: &mut [u8]) -> Result<(), String> {
        let path = file.path.display();
        let mut image = decode(file)?;
        let (height, width) = (image.height() as usize, image.width() as usize);
        if (height, width) != (self.height, self.width) {
            if !self.resize {
                let (wanted_height, wanted_width, first) = (self.height, self.width, self.first.display());
                return Err(format!(
                    "{path}: wanted {wanted_height} x {wanted_width} pixels (height x width) as {first}, got {height} x {width}; set `size` to resize all"
                ));
            }
            image = image.resize_exact(self.width as u32, self.height as u32, FilterType::Triangle);
        }
        if self.is_gray_by_guess && image.color().has_color() {
            return Err(format!(
                "{path}: wanted a grey image, as the first of every class are, got a coloured one; set `grayscale` to true or false"
            ));
        }
        if self.is_gray {
            out.copy_from_slice(image.into_luma8().as_raw());
        } else {
            let plane = self.height * self.width;
            for (at, pixel) in image.into_rgb8().pixels().enumerate() {
                (0..3).for_each(|channel| out[channel * plane + at] = pixel[channel]);
            }
        }
        Ok(())
    }
}

fn decode(file: &ImageFile) -> Result<DynamicImage, String> {
    let path = file.path.display();
    let reader = image::ImageReader::open(&file.path).and_then(|reader| reader.with_guessed_format());
    let reader = reader.map_err(|error| format!("{path}: cannot be read: {error}"))?;
    reader.decode().map_err(|error| {
        format!("{path}: wanted a whole JPEG or PNG image, got one that cannot be decoded ({error}); replace or remove the file")
    })
}

/// All images of a split, one after another. Several threads decode; the first bad file in the order of the split is the error.
fn decode_all(host: &dyn DataHost, files: &[ImageFile], format: &Format) -> Result<Vec<u8>, String> {
    let bytes = format.bytes();
    let mut pixels = vec![0; files.len() * bytes];
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let share = files.len().div_ceil(threads).max(1);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let decode_share = |files: &[ImageFile], pixels: &mut [u8]| -> Result<(), String> {
            for (file, image) in files.iter().zip(pixels.chunks_exact_mut(bytes)) {
                format.decode_into(file, image)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let shares = files.chunks(share).zip(pixels.chunks_mut(share * bytes));
        let jobs: Vec<_> = shares.map(|(files, pixels)| scope.spawn(move || decode_share(files, pixels))).collect();
        let mut reported = Instant::now();
        while !jobs.iter().all(|job| job.is_finished()) {
            std::thread::sleep(Duration::from_millis(2));
            if reported.elapsed() > Duration::from_secs(1) {
                host.progress(&format!("decoded {} of {} images", done.load(Ordering::Relaxed), files.len()));
                reported = Instant::now();
            }
        }
        jobs.into_iter().try_for_each(|job| job.join().expect("decoding does not panic"))
    })?;
    Ok(pixels)
}

/// The files of a split, and their pixels when they fit in memory.
struct OpenSplit {
    name: String,
    files: Vec<ImageFile>,
    pixels: Option<Vec<u8>>,
}

struct Opened {
    classes: Vec<String>,
    format: Format,
    splits: Vec<OpenSplit>,
}

impl Samples for Opened {
    fn spec(&self) -> DatasetSpec {
        let shape = vec![self.format.channels(), self.format.height, self.format.width];
        DatasetSpec {
            splits: self.splits.iter().map(|split| Split { name: split.name.clone(), len: split.files.len() as u64 }).collect(),
            fields: vec![
                Field { name: "image".into(), role: FieldRole::Input, dtype: DType::U8, shape, scale: 1.0 / 255.0, offset: 0.0 },
                Field { name: "label".into(), role: FieldRole::Target, dtype: DType::I32, shape: vec![], scale: 1.0, offset: 0.0 },
            ],
            resident: self.splits.iter().all(|split| split.pixels.is_some()),
            facts: [("classes".into(), self.classes.len().into()), ("class_names".into(), self.classes.clone().into())].into(),
        }
    }

    fn fill(&self, split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        let found = self.splits.iter().find(|known| known.name == split);
        let names = || self.splits.iter().map(|split| split.name.as_str()).collect::<Vec<_>>().join(", ");
        let OpenSplit { files, pixels, .. } =
            found.ok_or_else(|| problem(format!("images: there is no split `{split}`; there are {}", names())))?;
        let [image_out, label_out] = out else {
            return Err(problem(format!("images: wanted buffers for image and label, got {}", out.len())));
        };
        let bytes = self.format.bytes();
        for ((&index, image), label) in indices.iter().zip(image_out.chunks_exact_mut(bytes)).zip(label_out.chunks_exact_mut(4)) {
            let at = usize::try_from(index).ok().filter(|&at| at < files.len());
            let at = at.ok_or_else(|| problem(format!("images: sample {index} of `{split}` was asked for, it has {}", files.len())))?;
            match pixels {
                Some(pixels) => image.copy_from_slice(&pixels[at * bytes..][..bytes]),
                None => self.format.decode_into(&files[at], image).map_err(problem)?,
            }
            label.copy_from_slice(&files[at].label.to_le_bytes());
        }
        Ok(())
    }
}

/// What is wrong is in the user's files: the line of this plugin would not help.
fn problem(message: String) -> Error {
    Error::at(message, "")
}

export_plugin! { datasets: [Images] }

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb, RgbImage};
    use solstice_plugin_api::testing::{self, read_samples};
    use std::fs;
    use std::path::Path;

    fn config(path: &str) -> Images {
        Images { path: path.into(), ..Images::default() }
    }

    fn refusal(config: &Images, folder: &Path) -> String {
        testing::open_dataset(config, folder).err().expect("this must not open").to_string()
    }

    fn save(folder: &Path, name: &str, image: impl Into<DynamicImage>) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.into().save(path).unwrap();
    }

    /// 3 wide, 2 high; red counts pixels from `first`, green is 100, blue 200.
    fn colour(first: u8) -> RgbImage {
        RgbImage::from_fn(3, 2, |x, y| Rgb([first + 3 * y as u8 + x as u8, 100, 200]))
    }

    fn grey(value: u8) -> GrayImage {
        GrayImage::from_pixel(4, 4, Luma([value]))
    }

    #[test]
    fn folders_of_splits_are_read_in_order_of_names_as_planes() {
        let folder = tempfile::tempdir().unwrap();
        for (name, first) in [("train/cat/b.png", 10), ("train/cat/a.PNG", 0), ("train/bird/z.png", 20), ("test/cat/q.png", 30)] {
            save(&folder.path().join("pets"), name, colour(first));
        }
        fs::write(folder.path().join("pets/train/cat/.hidden.png"), "no image").unwrap();
        fs::write(folder.path().join("pets/train/cat/notes.txt"), "no image").unwrap();
        let samples = testing::open_dataset(&config("pets"), folder.path()).unwrap();
        let spec = samples.spec();
        assert_eq!(spec.splits.iter().map(|split| (split.name.as_str(), split.len)).collect::<Vec<_>>(), [("train", 3), ("test", 1)]);
        assert_eq!((&spec.fields[0].shape[..], spec.resident, &spec.facts["classes"]), (&[3, 2, 3][..], true, &2.into()));
        let read = read_samples(&*samples, "train", 0, &[1, 0]).unwrap();
        assert_eq!(read[0][..6], [0, 1, 2, 3, 4, 5]);
        assert_eq!(read[0][6..18], [[100; 6], [200; 6]].concat());
        assert_eq!(read[0][18], 20);
        assert_eq!(read[1], [1, 0, 0, 0, 0, 0, 0, 0]);
        testing::check_samples(&*samples).unwrap();
        testing::check_config::<Images>().unwrap();
    }

    #[test]
    fn class_folders_alone_are_split_by_the_seed_class_by_class() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..10 {
            save(folder.path(), &format!("pets/cat/{at}.png"), grey(at));
            save(folder.path(), &format!("pets/dog/{at}.png"), grey(100 + at));
        }
        let val = |seed| {
            let samples = testing::open_dataset(&Images { seed, ..config("pets") }, folder.path()).unwrap();
            assert_eq!(samples.spec().splits.iter().map(|split| split.len).collect::<Vec<_>>(), [16, 4]);
            assert_eq!(samples.spec().fields[0].shape, [1, 4, 4]);
            read_samples(&*samples, "val", 0, &[0, 1, 2, 3]).unwrap()
        };
        assert_eq!(val(0)[1], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(val(0), val(0));
        assert_ne!(val(0), val(1));
    }

    #[test]
    fn sets_too_large_for_memory_are_decoded_sample_by_sample_to_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        (0..6).for_each(|at| save(folder.path(), &format!("pets/{}/{at}.jpg", ["cat", "dog"][at as usize % 2]), colour(40 * at)));
        let config = Images { size: Some(5), grayscale: Some(false), val_fraction: 0.4, ..config("pets") };
        let host = testing::TestHost { data_dir: Some(folder.path().into()), cache_dir: folder.path().into() };
        let mut opened = config.load(&host).unwrap();
        let resident = read_samples(&opened, "train", 0, &[3, 0, 1]).unwrap();
        opened.splits.iter_mut().for_each(|split| split.pixels = None);
        assert_eq!(read_samples(&opened, "train", 0, &[3, 0, 1]).unwrap(), resident);
        assert_eq!((opened.spec().resident, &opened.spec().fields[0].shape[..]), (false, &[3, 5, 5][..]));
        testing::check_samples(&opened).unwrap();
    }

    #[test]
    fn bad_folders_and_files_are_named() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        assert!(refusal(&config(""), folder).contains("`path` is not set"));
        assert!(refusal(&config("pets"), folder).contains("there is no folder pets, "));
        fs::create_dir_all(folder.join("pets")).unwrap();
        assert!(refusal(&config("pets"), folder).contains("wanted a folder for each class, got none"));
        save(folder, "pets/cat/1.png", grey(1));
        assert!(refusal(&config("pets"), folder).contains("wanted at least two class folders, got only `cat`"));
        fs::create_dir_all(folder.join("pets/dog")).unwrap();
        assert!(refusal(&config("pets"), folder).contains("pets/dog: wanted at least one image (.jpg, .jpeg, .png), got none"));
        save(folder, "pets/dog/1.png", grey(1));
        assert!(refusal(&config("pets"), folder).contains("got 0 for `val`"));

        let halves = Images { val_fraction: 0.5, ..config("pets") };
        save(folder, "pets/dog/2.png", grey(2));
        save(folder, "pets/cat/2.png", GrayImage::new(4, 3));
        let sizes = refusal(&halves, folder);
        assert!(sizes.contains("pixels (height x width) as ") && sizes.contains("3 x 4") && sizes.contains("set `size`"), "{sizes}");
        let whole = fs::read(folder.join("pets/dog/1.png")).unwrap();
        fs::write(folder.join("pets/cat/2.png"), &whole[..whole.len() - 20]).unwrap();
        let cut = refusal(&halves, folder);
        assert!(cut.contains("pets/cat/2.png: wanted a whole JPEG or PNG image"), "{cut}");
        fs::write(folder.join("pets/cat/2.png"), "text").unwrap();
        assert!(refusal(&halves, folder).contains("pets/cat/2.png: wanted a whole JPEG or PNG image"));

        fs::create_dir_all(folder.join("split/train")).unwrap();
        fs::create_dir_all(folder.join("split/test")).unwrap();
        fs::rename(folder.join("pets/dog"), folder.join("split/train/dog")).unwrap();
        save(folder, "split/train/cat/1.png", grey(1));
        assert!(refusal(&config("split"), folder).contains("split/test: wanted a folder for each class, got none"));
        save(folder, "split/test/cow/1.png", grey(1));
        assert!(refusal(&config("split"), folder).contains("split/test/cow: there is no class `cow` in `train`"));
        fs::remove_dir_all(folder.join("split/test/cow")).unwrap();
        save(folder, "split/test/cat/1.png", RgbImage::from_pixel(4, 4, Rgb([9, 0, 0])));
        assert!(refusal(&config("split"), folder).contains("test/cat/1.png: wanted a grey image"));
        testing::open_dataset(&Images { grayscale: Some(true), ..config("split") }, folder).unwrap();
    }
}
