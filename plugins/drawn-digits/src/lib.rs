//! The `drawn-digits` data set: handwriting-like digits made on the spot, for machines without a network and for tests.
//!
//! `draw.rs` draws one digit, `glyphs.rs` holds the shapes.

mod draw;
mod glyphs;

use draw::{PIXELS, SIDE, Style};
use solstice_plugin_api::prelude::*;

/// Digits of 28 x 28 pixels, drawn from strokes with chance shapes, slant, pen and noise. Needs no files.
///
/// Fields as those of `mnist`: `image` (u8 `[1, 28, 28]`, scaled to 0..1) and `label` (i32). Splits: `train`, `test`. A sample is a function of seed,
/// split and index, the same on every machine.
#[config]
pub struct DrawnDigits {
    /// Training images.
    #[schemars(range(min = 1, max = 4000000))]
    pub train: u64,
    /// Test images.
    #[schemars(range(min = 1, max = 4000000))]
    pub test: u64,
    /// Another seed draws other images.
    pub seed: u64,
    /// Standard deviation of the grey noise in the noisiest images, where white is 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub noise: f32,
    /// How far shapes stray from clean ones: 0 not at all, 1 like handwriting.
    #[schemars(range(min = 0.0, max = 3.0))]
    pub distortion: f32,
}

impl Default for DrawnDigits {
    fn default() -> Self {
        DrawnDigits { train: 20_000, test: 4_000, seed: 0, noise: 0.15, distortion: 1.0 }
    }
}

impl Dataset for DrawnDigits {
    const ID: &'static str = "drawn-digits";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        host.progress(&format!("drawing {} digits", self.train + self.test));
        Ok(Box::new(Digits { parts: [self.part("train", 0, self.train), self.part("test", 1, self.test)] }))
    }
}

impl DrawnDigits {
    fn part(&self, name: &'static str, split: u64, count: u64) -> Part {
        let style = Style { distortion: self.distortion, noise: self.noise };
        let (mut images, mut labels) = (vec![[0; PIXELS]; count as usize], vec![0; count as usize]);
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let share = labels.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            for (chunk, (images, labels)) in images.chunks_mut(share).zip(labels.chunks_mut(share)).enumerate() {
                scope.spawn(move || {
                    for (place, (image, label)) in images.iter_mut().zip(labels).enumerate() {
                        *label = draw::draw(style, self.seed, split, (chunk * share + place) as u64, image);
                    }
                });
            }
        });
        Part { name, images, labels }
    }
}

/// One split, drawn.
struct Part {
    name: &'static str,
    images: Vec<[u8; PIXELS]>,
    labels: Vec<u8>,
}

struct Digits {
    parts: [Part; 2],
}

impl Samples for Digits {
    fn spec(&self) -> DatasetSpec {
        let class_names: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        DatasetSpec {
            splits: self.parts.iter().map(|part| Split { name: part.name.into(), len: part.labels.len() as u64 }).collect(),
            fields: vec![
                Field {
                    name: "image".into(),
                    role: FieldRole::Input,
                    dtype: DType::U8,
                    shape: vec![1, SIDE, SIDE],
                    scale: 1.0 / 255.0,
                    offset: 0.0,
                },
                Field { name: "label".into(), role: FieldRole::Target, dtype: DType::I32, shape: vec![], scale: 1.0, offset: 0.0 },
            ],
            resident: true,
            facts: [("classes".into(), 10.into()), ("class_names".into(), class_names.into())].into(),
        }
    }

    fn fill(&self, split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        let part = self.parts.iter().find(|part| part.name == split);
        let part = part.ok_or_else(|| Error::new(format!("drawn-digits: there is no split `{split}`; there are train, test")))?;
        let [image_out, label_out] = out else {
            return Err(Error::new(format!("drawn-digits: wanted buffers for image and label, got {}", out.len())));
        };
        for ((&index, image), label) in indices.iter().zip(image_out.chunks_exact_mut(PIXELS)).zip(label_out.chunks_exact_mut(4)) {
            let at = usize::try_from(index).ok().filter(|&at| at < part.labels.len());
            let count = part.labels.len();
            let at = at.ok_or_else(|| Error::new(format!("drawn-digits: sample {index} of `{split}` was asked for, it has {count}")))?;
            image.copy_from_slice(&part.images[at]);
            label.copy_from_slice(&i32::from(part.labels[at]).to_le_bytes());
        }
        Ok(())
    }
}

export_plugin! { datasets: [DrawnDigits] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{self, read_samples};
    use std::path::Path;

    fn open(config: &DrawnDigits) -> Box<dyn Samples> {
        testing::open_dataset(config, Path::new("not there")).unwrap()
    }

    const FEW: DrawnDigits = DrawnDigits { train: 60, test: 21, seed: 7, noise: 0.15, distortion: 1.0 };

    #[test]
    fn the_promises_of_config_and_samples_hold() {
        testing::check_config::<DrawnDigits>().unwrap();
        testing::check_samples(&*open(&FEW)).unwrap();
    }

    #[test]
    fn a_sample_depends_on_seed_split_and_index_alone() {
        let indices: Vec<u64> = (0..21).collect();
        let read = |config: &DrawnDigits, split| read_samples(&*open(config), split, 0, &indices).unwrap();
        let train = read(&FEW, "train");
        assert_eq!(train, read(&DrawnDigits { train: 21, test: 1, ..FEW }, "train"));
        assert_ne!(train, read(&FEW, "test"));
        assert_ne!(train, read(&DrawnDigits { seed: 8, ..FEW }, "train"));
    }

    #[test]
    fn drawing_never_changes() {
        // FNV-1a over 500 images: a change of the drawing changes everyone's results and must be meant.
        let samples = open(&DrawnDigits { train: 500, test: 1, ..DrawnDigits::default() });
        let read = read_samples(&*samples, "train", 0, &(0..500).collect::<Vec<_>>()).unwrap();
        let hash =
            read.concat().iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(format!("{hash:016x}"), "6c1c79b91b3891be");
    }

    #[test]
    fn every_digit_is_there_and_ink_stays_inside() {
        let samples = open(&DrawnDigits { train: 2_000, test: 1, noise: 0.0, ..DrawnDigits::default() });
        let read = read_samples(&*samples, "train", 0, &(0..2_000).collect::<Vec<_>>()).unwrap();
        let mut counts = [0; 10];
        read[1].chunks_exact(4).for_each(|label| counts[label[0] as usize] += 1);
        assert!(counts.iter().all(|count| (150..250).contains(count)), "{counts:?}");
        let (mut inside, mut edge) = (0u64, 0u64);
        for image in read[0].chunks_exact(PIXELS) {
            let ink: u64 = image.iter().map(|&pixel| u64::from(pixel)).sum();
            assert!(ink > 12 * 255, "an image is nearly empty: {ink}"); // A thin one has about 20 white pixels.
            inside += ink;
            edge += (0..SIDE)
                .flat_map(|at| [at, PIXELS - SIDE + at, at * SIDE, at * SIDE + SIDE - 1])
                .map(|at| u64::from(image[at]))
                .sum::<u64>();
        }
        assert!(edge * 200 < inside, "more than half a percent of the ink lies on the border");
    }

    /// A picture of the digits, for the eye: `SOLSTICE_GRID=/tmp/digits.png cargo test -p dataset-drawn-digits grid`.
    #[test]
    fn grid() {
        let Some(path) = std::env::var_os("SOLSTICE_GRID") else { return };
        let (rows, columns) = (20, 30);
        let samples = open(&DrawnDigits { train: rows * columns, test: 1, ..DrawnDigits::default() });
        let read = read_samples(&*samples, "train", 0, &(0..rows * columns).collect::<Vec<_>>()).unwrap();
        let image = image::GrayImage::from_fn(columns as u32 * SIDE as u32, rows as u32 * SIDE as u32, |x, y| {
            let (x, y) = (x as usize, y as usize);
            image::Luma([read[0][(y / SIDE * columns as usize + x / SIDE) * PIXELS + y % SIDE * SIDE + x % SIDE]])
        });
        image.save(path).unwrap();
    }
}
