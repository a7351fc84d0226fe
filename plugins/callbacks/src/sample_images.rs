//! A picture of samples and of what the model says about them.

use crate::common::{integers, list, named, problem};
use image::{ImageFormat, Rgb, RgbImage};
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Entry, Event, Moment, NamedTensor, RunFacts, hex};
use std::io::Cursor;

/// Draws the first images of a split after each evaluation, framed green where the model is right and red where it is wrong: `samples/<split>`.
///
/// For sets of images with a class each, and experiments that observe `logits`. Bytes are drawn as they are, f32 images from their lowest to their
/// highest value.
#[config]
pub struct SampleImages {
    /// The split; by default the first that is evaluated.
    pub split: Option<String>,
    /// Images to draw.
    #[schemars(range(min = 1, max = 1024))]
    pub count: u32,
    /// Pixels of the picture, each way, for one of an image.
    #[schemars(range(min = 1, max = 32))]
    pub scale: u32,
}

impl Default for SampleImages {
    fn default() -> Self {
        SampleImages { split: None, count: 16, scale: 2 }
    }
}

/// Pixels around an image, and between two frames.
const FRAME: u32 = 2;
const GAP: u32 = 2;
/// Pixels of the picture, each way.
const SIDE_MAX: u32 = 4096;

const BACKGROUND: Rgb<u8> = Rgb([32, 32, 32]);
// A green and a red that those who cannot tell them by hue can tell by brightness: the bluish green of Okabe and Ito, "Color Universal
// Design", 2008, and a darker red.
const RIGHT: Rgb<u8> = Rgb([0, 158, 115]);
const WRONG: Rgb<u8> = Rgb([200, 30, 20]);

impl Callback for SampleImages {
    const ID: &'static str = "sample-images";
    const MOMENTS: &'static [Moment] = &[Moment::RunStart, Moment::EvalEnd];
    type State = ();

    fn start(&self, facts: &RunFacts) -> Result<()> {
        let split = self.split(facts)?;
        if split != "train" && !facts.evaluated.iter().any(|known| known == split) {
            let known = list(&facts.evaluated);
            return Err(problem(format!("sample-images: no split `{split}` is evaluated, as `split` asks; there are {known} and `train`")));
        }
        let layout = self.layout(facts)?;
        let (width, height) = layout.size(self.count);
        if width > SIDE_MAX || height > SIDE_MAX {
            return Err(problem(format!(
                "sample-images: the picture would have {width} x {height} pixels, at most {SIDE_MAX} each way are drawn; lower `count` or `scale`"
            )));
        }
        Ok(())
    }

    fn on_event(&self, _: &mut (), event: &Event, run: &Run<'_>) -> Result<Vec<Action>> {
        let layout = self.layout(run.facts())?;
        if event.moment == Moment::RunStart {
            // A split that is too short or an experiment without logits is better known now than after an epoch.
            return self.tiles(run, &layout).map(|_| vec![]);
        }
        let tiles = self.tiles(run, &layout)?;
        let picture = layout.draw(&tiles);
        let right_count = tiles.iter().filter(|tile| tile.predicted == tile.class).count();
        let name = |class: i64| class_name(run.facts(), class);
        let pairs: Vec<String> = tiles.iter().map(|tile| format!("{}/{}", name(tile.predicted), name(tile.class))).collect();
        let mut png = Cursor::new(vec![]);
        picture.write_to(&mut png, ImageFormat::Png)?;
        Ok(vec![Action::Log(Entry::Image {
            name: format!("samples/{}", self.split(run.facts())?),
            width: picture.width(),
            height: picture.height(),
            caption: format!("{right_count} of {} right; predicted/true, row by row: {}", tiles.len(), pairs.join(", ")),
            png: hex(png.get_ref()),
        })])
    }
}

/// An image, and its class as the model says and as it is.
struct Tile {
    /// From the upper left, row by row; as many as the layout's image has.
    pixels: Vec<Rgb<u8>>,
    predicted: i64,
    class: i64,
}

impl SampleImages {
    fn split<'a>(&'a self, facts: &'a RunFacts) -> Result<&'a str> {
        let split = self.split.as_ref().or(facts.evaluated.first());
        let none = || problem("sample-images: no split is evaluated, so there is nothing to predict; set `trainer.evaluate`".into());
        split.map(String::as_str).ok_or_else(none)
    }

    /// Which fields hold the images and their classes.
    fn layout(&self, facts: &RunFacts) -> Result<Layout> {
        let fields = || list(facts.fields.iter().map(|field| format!("{} {} {:?}", field.name, field.dtype, field.shape)));
        let image = facts.fields.iter().filter(|field| field.role == FieldRole::Input).find_map(|field| {
            let (channels, height, width) = match field.shape[..] {
                [height, width] => (1, height, width),
                [channels @ (1 | 3), height, width] => (channels, height, width),
                _ => return None,
            };
            let is_drawable = matches!(field.dtype, DType::U8 | DType::F32) && height > 0 && width > 0;
            is_drawable.then(|| (field.name.clone(), channels, height as u32, width as u32))
        });
        let Some((image, channels, height, width)) = image else {
            return Err(problem(format!(
                "sample-images: wanted images, an input [1 or 3, height, width] or [height, width] of u8 or f32; the data set has {}",
                fields()
            )));
        };
        let class =
            facts.fields.iter().find(|field| field.role == FieldRole::Target && field.shape.is_empty() && field.dtype != DType::F32);
        let Some(class) = class else {
            return Err(problem(format!(
                "sample-images: wanted a class for each image, a whole number as target; the data set has {}",
                fields()
            )));
        };
        Ok(Layout { image, class: class.name.clone(), channels, height, width, scale: self.scale })
    }

    /// The first samples of the split with what the model says about them.
    fn tiles(&self, run: &Run<'_>, layout: &Layout) -> Result<Vec<Tile>> {
        let split = self.split(run.facts())?;
        let indices: Vec<u64> = (0..u64::from(self.count)).collect();
        let mut tiles = vec![];
        for part in indices.chunks(run.facts().batch_size.max(1)) {
            let samples = run.samples(split, part)?;
            let observed = run.predict(&samples)?;
            let logits = named("sample-images", "an evaluation of this experiment", &observed, "logits")?;
            let images = layout.images(named("sample-images", "the data set", &samples, &layout.image)?, part.len())?;
            let classes = integers(named("sample-images", "the data set", &samples, &layout.class)?).unwrap_or_default();
            let predicted = predictions(logits, part.len())?;
            let said = predicted.into_iter().zip(classes);
            tiles.extend(images.into_iter().zip(said).map(|(pixels, (predicted, class))| Tile { pixels, predicted, class }));
        }
        Ok(tiles)
    }
}

/// Class of each of `count` samples by logits `[samples, classes]`. A single logit stands for the classes 0 and 1.
fn predictions(logits: &NamedTensor, count: usize) -> Result<Vec<i64>> {
    let wrong = || problem(format!("sample-images: wanted logits f32 [{count}, classes], got {}", logits.ty));
    let &[samples, classes] = &logits.ty.shape[..] else { return Err(wrong()) };
    let values = logits.to_f32().filter(|values| samples >= count && classes > 0 && values.len() == samples * classes).ok_or_else(wrong)?;
    let highest = |row: &[f32]| {
        if let [logit] = row {
            return i64::from(*logit > 0.0);
        }
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            if *value > row[best] || row[best].is_nan() {
                best = class;
            }
        }
        best as i64
    };
    Ok(values.chunks_exact(classes).take(count).map(highest).collect())
}

/// What the data set calls a class.
fn class_name(facts: &RunFacts, class: i64) -> String {
    let name = facts.facts.get("class_names").and_then(|names| names.get(usize::try_from(class).ok()?)?.as_str());
    name.map_or_else(|| class.to_string(), str::to_owned)
}

/// Where things are in a sample and in the picture.
struct Layout {
    image: String,
    class: String,
    channels: usize,
    height: u32,
    width: u32,
    scale: u32,
}

impl Layout {
    /// Pixels across and down of a framed image.
    fn tile(&self) -> (u32, u32) {
        (self.width * self.scale + 2 * FRAME, self.height * self.scale + 2 * FRAME)
    }

    /// Images of a row: the picture is about as many down.
    fn columns(&self, count: u32) -> u32 {
        (1..=count).find(|columns| columns * columns >= count).unwrap_or(1)
    }

    /// Pixels of the picture across and down.
    fn size(&self, count: u32) -> (u32, u32) {
        let (columns, (width, height)) = (self.columns(count), self.tile());
        (columns * (width + GAP) + GAP, count.div_ceil(columns) * (height + GAP) + GAP)
    }

    /// The pixels of each of `count` samples.
    fn images(&self, tensor: &NamedTensor, count: usize) -> Result<Vec<Vec<Rgb<u8>>>> {
        let plane = (self.height * self.width) as usize;
        let bytes = match tensor.to_f32() {
            Some(values) => values.chunks(self.channels * plane).flat_map(stretched).collect(),
            None => tensor.bytes.clone(),
        };
        if bytes.len() != count * self.channels * plane || !matches!(tensor.ty.dtype, DType::F32 | DType::U8) {
            return Err(problem(format!("sample-images: wanted {count} images as `{}`, got {}", self.image, tensor.ty)));
        }
        let image =
            |planes: &[u8]| (0..plane).map(|at| Rgb([0, 1, 2].map(|colour| planes[(colour % self.channels) * plane + at]))).collect();
        Ok(bytes.chunks(self.channels * plane).map(image).collect())
    }

    fn draw(&self, tiles: &[Tile]) -> RgbImage {
        let count = tiles.len() as u32;
        let (columns, (tile_width, tile_height)) = (self.columns(count), self.tile());
        let (width, height) = self.size(count);
        let mut picture = RgbImage::from_pixel(width, height, BACKGROUND);
        for (tile, index) in tiles.iter().zip(0..) {
            let left = GAP + index % columns * (tile_width + GAP);
            let top = GAP + index / columns * (tile_height + GAP);
            let frame = if tile.predicted == tile.class { RIGHT } else { WRONG };
            for (x, y) in (0..tile_height).flat_map(|y| (0..tile_width).map(move |x| (x, y))) {
                let inside = (FRAME..tile_width - FRAME).contains(&x) && (FRAME..tile_height - FRAME).contains(&y);
                let colour = if inside {
                    let (column, row) = ((x - FRAME) / self.scale, (y - FRAME) / self.scale);
                    tile.pixels[(row * self.width + column) as usize]
                } else {
                    frame
                };
                picture.put_pixel(left + x, top + y, colour);
            }
        }
        picture
    }
}

/// Bytes 0 to 255 from the lowest to the highest value of an image; what is not finite is 0, an image of one value as well.
fn stretched(values: &[f32]) -> Vec<u8> {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let range = f64::from(high) - f64::from(low);
    let byte = |value: &f32| {
        let share = (f64::from(*value) - f64::from(low)) / range;
        if value.is_finite() && range > 0.0 { (share * 255.0).round() as u8 } else { 0 }
    };
    values.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, refusal, replay};
    use solstice_plugin_api::run::{Question, unhex};
    use std::cell::RefCell;

    fn field(name: &str, role: FieldRole, dtype: DType, shape: &[usize]) -> Field {
        Field { name: name.into(), role, dtype, shape: shape.into(), scale: 1.0, offset: 0.0 }
    }

    /// Batches of two; images of `shape` and classes.
    fn facts(dtype: DType, shape: &[usize]) -> RunFacts {
        let fields = vec![field("image", FieldRole::Input, dtype, shape), field("label", FieldRole::Target, DType::I32, &[])];
        let names = serde_json::json!(["cat", "dog", "eel"]);
        RunFacts { batch_size: 2, fields, facts: [("class_names".to_owned(), names)].into(), ..crate::tests::facts() }
    }

    fn tensor(name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> NamedTensor {
        NamedTensor { name: name.into(), ty: TensorType::new(dtype, shape), role: None, bytes }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// What the callback draws of samples made by a function. Sample `i` is of class `i % 3`, the model says 1 to everything.
    fn drawn(config: &SampleImages, facts: &RunFacts, image: impl Fn(u64) -> Vec<u8>) -> (RgbImage, String, String) {
        let asked = RefCell::new(vec![]);
        let image_field = facts.fields[0].clone();
        let answer = |question: &Question, fields: &[NamedTensor]| -> Result<Vec<NamedTensor>> {
            Ok(match question {
                Question::Samples { split, indices } => {
                    assert!(indices.len() <= 2, "at most a batch");
                    asked.borrow_mut().push(split.clone());
                    let shape = [&[indices.len()], &image_field.shape[..]].concat();
                    let images = indices.iter().flat_map(|&index| image(index)).collect();
                    let labels = indices.iter().flat_map(|&index| ((index % 3) as i32).to_le_bytes()).collect();
                    vec![tensor("image", image_field.dtype, &shape, images), tensor("label", DType::I32, &[indices.len()], labels)]
                }
                Question::Predict => {
                    assert_eq!(fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["image", "label"]);
                    let count = fields[0].ty.shape[0];
                    vec![tensor("logits", DType::F32, &[count, 3], floats(&[-1.0, 2.0, 0.5].repeat(count)))]
                }
                other => panic!("{other:?}"),
            })
        };
        let events = [event(Moment::RunStart, 0, &[]), event(Moment::EvalEnd, 10, &[])];
        let all = replay(config, facts, &answer, &events).unwrap();
        assert!(all[0].is_empty());
        let [Action::Log(Entry::Image { name, width, height, caption, png })] = &all[1][..] else { panic!("{:?}", all[1]) };
        assert!(asked.borrow().iter().all(|split| name.strip_prefix("samples/") == Some(split)));
        let picture = image::load_from_memory_with_format(&unhex(png).unwrap(), ImageFormat::Png).unwrap();
        assert_eq!((picture.width(), picture.height()), (*width, *height));
        (picture.into_rgb8(), caption.clone(), name.clone())
    }

    #[test]
    fn the_picture_holds_each_image_in_a_frame_that_tells_whether_it_is_right() {
        // 2 high, 3 wide; sample i is 10 i + 0 .. 5. A tile is 10 x 8 pixels, two to a row, gaps of 2 around.
        let image = |index: u64| (0..6).map(|pixel| 10 * index as u8 + pixel).collect();
        let config = SampleImages { count: 3, ..SampleImages::default() };
        let (picture, caption, name) = drawn(&config, &facts(DType::U8, &[1, 2, 3]), image);
        assert_eq!(picture.dimensions(), (26, 22));
        assert_eq!(name, "samples/test");
        assert_eq!(caption, "1 of 3 right; predicted/true, row by row: dog/cat, dog/dog, dog/eel");
        let mut wanted = RgbImage::from_pixel(26, 22, Rgb([32, 32, 32]));
        for (index, left, top, frame) in [(0, 2, 2, WRONG), (1, 14, 2, RIGHT), (2, 2, 12, WRONG)] {
            for (x, y) in (0..10).flat_map(|x| (0..8).map(move |y| (x, y))) {
                wanted.put_pixel(left + x, top + y, frame);
            }
            // Each pixel of the image is a square of two by two.
            for (x, y) in (0..6).flat_map(|x| (0..4).map(move |y| (x, y))) {
                let grey = 10 * index + 3 * (y as u8 / 2) + x as u8 / 2;
                wanted.put_pixel(left + 2 + x, top + 2 + y, Rgb([grey; 3]));
            }
        }
        assert_eq!(picture, wanted);
    }

    #[test]
    fn planes_become_colours() {
        let config = SampleImages { split: Some("train".into()), count: 1, scale: 1 };
        let (picture, _, name) = drawn(&config, &facts(DType::U8, &[3, 1, 2]), |_| vec![1, 2, 30, 40, 100, 200]);
        assert_eq!(name, "samples/train");
        // Behind a gap and a frame of 2 each.
        assert_eq!((picture[(4, 4)], picture[(5, 4)]), (Rgb([1, 30, 100]), Rgb([2, 40, 200])));
    }

    #[test]
    fn real_numbers_are_drawn_from_the_lowest_to_the_highest() {
        let config = SampleImages { count: 1, scale: 1, ..SampleImages::default() };
        let (picture, _, _) = drawn(&config, &facts(DType::F32, &[1, 4]), |_| floats(&[-1.0, 3.0, 1.0, f32::NAN]));
        // (1 - -1) / 4 of 255 is 127.5.
        let greys: Vec<u8> = (4..8).map(|x| picture[(x, 4)][0]).collect();
        assert_eq!(greys, [0, 255, 128, 0]);
        assert_eq!(stretched(&[5.0, 5.0]), [0, 0]);
    }

    #[test]
    fn one_logit_is_a_choice_of_two() {
        let logits = |shape: &[usize], values: &[f32]| tensor("logits", DType::F32, shape, floats(values));
        assert_eq!(predictions(&logits(&[3, 1], &[-1.0, 0.5, 0.0]), 2).unwrap(), [0, 1]);
        assert_eq!(predictions(&logits(&[2, 2], &[1.0, 3.0, 3.0, 1.0]), 2).unwrap(), [1, 0]);
        let error = predictions(&logits(&[1, 2, 2], &[0.0; 4]), 1).unwrap_err().to_string();
        assert!(error.contains("wanted logits f32 [1, classes]"), "{error}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_before_anything_is_trained() {
        let config = SampleImages::default();
        for shape in [&[10][..], &[2, 4, 4], &[1, 2, 3, 4], &[]] {
            assert!(refusal(&config, &facts(DType::U8, shape)).contains("wanted images"), "{shape:?}");
        }
        assert!(refusal(&config, &facts(DType::I32, &[4, 4])).contains("`image i32 [4, 4]`"));
        let mut regression = facts(DType::U8, &[4, 4]);
        regression.fields[1].dtype = DType::F32;
        assert!(refusal(&config, &regression).contains("wanted a class for each image"));
        let images = facts(DType::U8, &[3, 1000, 1000]);
        assert!(refusal(&config, &images).contains("the picture would have 8026 x 8026 pixels"));
        assert!(refusal(&SampleImages { split: Some("val".into()), ..config.clone() }, &images).contains("there are `test` and `train`"));
        assert!(refusal(&config, &RunFacts { evaluated: vec![], ..images }).contains("no split is evaluated"));
    }

    #[test]
    fn an_experiment_without_logits_is_told_at_the_start() {
        let facts = facts(DType::U8, &[1, 1]);
        let answer = |question: &Question, _: &[NamedTensor]| {
            Ok(match question {
                Question::Predict => vec![tensor("prediction", DType::F32, &[2, 1], vec![0; 8])],
                _ => vec![tensor("image", DType::U8, &[2, 1, 1], vec![0; 2]), tensor("label", DType::I32, &[2], vec![0; 8])],
            })
        };
        let error = replay(&SampleImages::default(), &facts, &answer, &[event(Moment::RunStart, 0, &[])]).unwrap_err().to_string();
        assert_eq!(error, "sample-images: an evaluation of this experiment has no `logits`; there are `prediction`");
    }
}
