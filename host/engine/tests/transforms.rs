//! Augmentation in numbers, on the oracle, the CPU and a GPU: what `plugins/transforms` makes of images whose pixels are all different. When they are
//! applied is tested in `plugin-api/tests/transform.rs`.
//!
//! Counts are binomial: with `n` draws of chance `p` they are off by more than five deviations `sqrt(n p (1 - p))` once in 1.7 million. Seeds are fixed, so
//! a test that passes always passes.

#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use machine::{Device, Machine};
use solstice_ir::{Graph as Ir, Output};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::testing::{Components, step_request, trace_transform};
use std::collections::BTreeMap;
use transforms::{GaussianNoise, RandomErase, RandomFlip, RandomShift};

const DEVICES: [Device; 3] = [Device::Reference, Device::Cpu, Device::Gpu];

fn traced(transform: &impl Transform, shape: &[usize]) -> Ir {
    trace_transform(transform, TensorType::new(DType::F32, shape)).unwrap_or_else(|error| panic!("{error}"))
}

/// The output of a transform's graph.
fn run(device: Device, graph: &Ir, x: &[f64], seed: u32, step: u32, live: &[(&str, f64)]) -> Vec<f64> {
    let mut machine = Machine::new(device, graph, &BTreeMap::new());
    let (seed, step) = ([f64::from(seed)], [f64::from(step)]);
    let mut inputs: Vec<(&str, &[f64])> = vec![("x", x), ("run.seed", &seed), ("run.step", &step)];
    inputs.extend(live.iter().map(|(name, value)| (*name, std::slice::from_ref(value))));
    machine.run(&inputs).remove("y").expect("a transform has the output `y`")
}

/// 1, 2, 3, ..: exact in f32 and never the fill.
fn pixels(count: usize) -> Vec<f64> {
    (1..=count).map(|value| value as f64).collect()
}

/// What every device gives, the same on all.
fn run_everywhere(graph: &Ir, x: &[f64], seed: u32, step: u32) -> Vec<f64> {
    let found = run(DEVICES[0], graph, x, seed, step, &[]);
    for device in &DEVICES[1..] {
        assert!(run(*device, graph, x, seed, step, &[]) == found, "{device:?} differs from {:?}", DEVICES[0]);
    }
    found
}

fn assert_count(count: usize, draws: usize, chance: f64, what: &str) {
    let (mean, deviation) = (draws as f64 * chance, (draws as f64 * chance * (1.0 - chance)).sqrt());
    assert!((count as f64 - mean).abs() <= 5.0 * deviation, "{what}: {count} of {draws}, wanted {mean} +- {:.1}", 5.0 * deviation);
}

/// An image `[planes, height, width]` read at a place that `source` says, or `fill` where it says nothing.
fn image_at(
    image: &[f64],
    (planes, height, width): (usize, usize, usize),
    fill: f64,
    source: impl Fn(usize, usize) -> Option<(usize, usize)>,
) -> Vec<f64> {
    let mut read = vec![];
    for plane in 0..planes {
        for row in 0..height {
            for column in 0..width {
                read.push(source(row, column).map_or(fill, |(row, column)| image[(plane * height + row) * width + column]));
            }
        }
    }
    read
}

// ---- flips -------------------------------------------------------------------------------------------------------------------------------

const SAMPLES: usize = 1024;

/// Which of the four ways each sample is turned: 1 for left to right, 2 for top to bottom, their sum for both.
fn flips(x: &[f64], y: &[f64], size: (usize, usize, usize)) -> Vec<usize> {
    let (planes, height, width) = size;
    let each = planes * height * width;
    let turned = |image: &[f64], way: usize| {
        image_at(image, size, 0.0, |row, column| {
            Some((if way & 2 == 0 { row } else { height - 1 - row }, if way & 1 == 0 { column } else { width - 1 - column }))
        })
    };
    let ways = x.chunks(each).zip(y.chunks(each));
    ways.map(|(x, y)| (0..4).find(|&way| turned(x, way) == y).expect("a sample is itself or its mirror image")).collect()
}

#[test]
fn a_flip_mirrors_about_half_of_the_samples() {
    for (shape, size) in [(vec![SAMPLES, 2, 3, 5], (2, 3, 5)), (vec![SAMPLES, 3, 4], (1, 3, 4))] {
        let x = pixels(shape.iter().product());
        let graph = traced(&RandomFlip::default(), &shape);
        let found = flips(&x, &run_everywhere(&graph, &x, 7, 3), size);
        assert!(found.iter().all(|&way| way < 2), "only left to right is on");
        assert_count(found.iter().sum(), SAMPLES, 0.5, "mirrored");
        // Neighbours are independent.
        assert_count(found.windows(2).filter(|pair| pair[0] == pair[1]).count(), SAMPLES - 1, 0.5, "alike");
    }
}

#[test]
fn a_flip_is_a_function_of_seed_and_step() {
    let shape = [SAMPLES, 1, 2, 2];
    let x = pixels(shape.iter().product());
    let graph = traced(&RandomFlip::default(), &shape);
    for device in DEVICES {
        let at = |seed, step| flips(&x, &run(device, &graph, &x, seed, step, &[]), (1, 2, 2));
        let first = at(7, 3);
        assert_eq!(first, at(7, 3), "{device:?}");
        for (seed, step) in [(7, 4), (8, 3), (3, 7)] {
            let other = at(seed, step);
            let changed = first.iter().zip(&other).filter(|(a, b)| a != b).count();
            assert_count(changed, SAMPLES, 0.5, "changed by another seed or step");
        }
    }
}

#[test]
fn both_ways_of_a_flip_are_drawn_apart_with_their_chance() {
    let shape = [SAMPLES, 1, 3, 4];
    let x = pixels(shape.iter().product());
    let found = |graph: &Ir| flips(&x, &run_everywhere(graph, &x, 1, 0), (1, 3, 4));
    let both = found(&traced(&RandomFlip { probability: 0.2, horizontal: true, vertical: true }, &shape));
    for (way, chance) in [0.8 * 0.8, 0.2 * 0.8, 0.8 * 0.2, 0.2 * 0.2].into_iter().enumerate() {
        assert_count(both.iter().filter(|&&found| found == way).count(), SAMPLES, chance, &format!("way {way}"));
    }
    let vertical = traced(&RandomFlip { probability: 1.0, horizontal: false, vertical: true }, &shape);
    assert_eq!(found(&vertical), [2; SAMPLES]);
    for device in DEVICES {
        assert!(run(device, &vertical, &x, 1, 0, &[("probability", 0.0)]) == x, "{device:?}: the chance is live");
    }
}

// ---- shifts ------------------------------------------------------------------------------------------------------------------------------

/// How far each sample was moved, down and to the right.
fn shifts(x: &[f64], y: &[f64], size: (usize, usize, usize), most: isize, fill: f64) -> Vec<(isize, isize)> {
    let (planes, height, width) = size;
    let each = planes * height * width;
    let moved = |image: &[f64], down: isize, right: isize| {
        image_at(image, size, fill, |row, column| {
            let row = row.checked_add_signed(-down).filter(|row| *row < height);
            row.zip(column.checked_add_signed(-right).filter(|column| *column < width))
        })
    };
    let all = || (-most..=most).flat_map(|down| (-most..=most).map(move |right| (down, right)));
    x.chunks(each)
        .zip(y.chunks(each))
        .map(|(x, y)| all().find(|&(down, right)| moved(x, down, right) == y).expect("a sample is moved by whole pixels within the range"))
        .collect()
}

#[test]
fn a_shift_moves_by_whole_pixels_and_fills_the_edge() {
    const COUNT: usize = 2000;
    let cases = [(vec![COUNT, 2, 5, 7], (2, 5, 7), 2, 0.0), (vec![COUNT, 4, 2], (1, 4, 2), 1, -0.5)];
    for (shape, size, most, fill) in cases {
        let x = pixels(shape.iter().product());
        let graph = traced(&RandomShift { pixels: most, fill }, &shape);
        let found = shifts(&x, &run_everywhere(&graph, &x, 11, 5), size, most as isize, fill);
        let mut counts: BTreeMap<(isize, isize), usize> = BTreeMap::new();
        for offset in found {
            *counts.entry(offset).or_default() += 1;
        }
        let ways = (2 * most as usize + 1).pow(2);
        assert_eq!(counts.len(), ways, "all offsets occur: {counts:?}");
        for (offset, count) in counts {
            assert_count(count, COUNT, 1.0 / ways as f64, &format!("{offset:?}"));
        }
    }
}

#[test]
fn a_shift_of_no_pixels_is_the_identity() {
    let x = pixels(4 * 9);
    assert_eq!(run_everywhere(&traced(&RandomShift { pixels: 0, fill: 9.0 }, &[4, 3, 3]), &x, 1, 1), x);
}

// ---- erased rectangles -------------------------------------------------------------------------------------------------------------------

/// Top, left, height and width of what is `fill` in an image, all planes alike; nothing when it was left alone.
fn rectangle(x: &[f64], y: &[f64], (planes, height, width): (usize, usize, usize), fill: f64) -> Option<[usize; 4]> {
    let is_filled = |plane: usize, row: usize, column: usize| y[(plane * height + row) * width + column] == fill;
    let places = || (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let filled: Vec<(usize, usize)> = places().filter(|&(row, column)| is_filled(0, row, column)).collect();
    let (top, left) = (filled.iter().map(|place| place.0).min()?, filled.iter().map(|place| place.1).min()?);
    let (bottom, right) = (filled.iter().map(|place| place.0).max()?, filled.iter().map(|place| place.1).max()?);
    for plane in 0..planes {
        for (row, column) in places() {
            let is_inside = (top..=bottom).contains(&row) && (left..=right).contains(&column);
            let index = (plane * height + row) * width + column;
            assert_eq!(y[index], if is_inside { fill } else { x[index] }, "plane {plane}, row {row}, column {column}");
        }
    }
    Some([top, left, bottom - top + 1, right - left + 1])
}

#[test]
fn an_erased_sample_has_exactly_one_rectangle() {
    const COUNT: usize = 2000;
    let size = (2, 10, 8);
    let shape = [COUNT, 2, 10, 8];
    let x = pixels(shape.iter().product());
    let erase = RandomErase { probability: 0.7, size_min: 0.2, size_max: 0.5, fill: -1.0 };
    let y = run_everywhere(&traced(&erase, &shape), &x, 3, 9);
    let each = 2 * 10 * 8;
    let found: Vec<[usize; 4]> = x.chunks(each).zip(y.chunks(each)).filter_map(|(x, y)| rectangle(x, y, size, -1.0)).collect();
    assert_count(found.len(), COUNT, 0.7, "erased");
    // A fifth to a half of 10 rows and 8 columns: 2 to 5, and 2 (1.6) to 4, all alike; then every place where it fits.
    let count = |test: &dyn Fn(&[usize; 4]) -> bool| found.iter().filter(|rectangle| test(rectangle)).count();
    for height in 2..=5 {
        let of_height = count(&|rectangle| rectangle[2] == height);
        assert_count(of_height, found.len(), 0.25, &format!("height {height}"));
        for top in 0..=10 - height {
            assert_count(
                count(&|rectangle| rectangle[2] == height && rectangle[0] == top),
                of_height,
                1.0 / (11 - height) as f64,
                &format!("height {height} at {top}"),
            );
        }
    }
    for width in 2..=4 {
        let of_width = count(&|rectangle| rectangle[3] == width);
        assert_count(of_width, found.len(), 1.0 / 3.0, &format!("width {width}"));
        for left in 0..=8 - width {
            assert_count(
                count(&|rectangle| rectangle[3] == width && rectangle[1] == left),
                of_width,
                1.0 / (9 - width) as f64,
                &format!("width {width} at {left}"),
            );
        }
    }
}

#[test]
fn a_rectangle_has_at_least_a_pixel_and_at_most_the_image() {
    const COUNT: usize = 300;
    let (shape, each) = ([COUNT, 3, 5], 15);
    let x = pixels(COUNT * each);
    for (share, height, width) in [(0.0, 1, 1), (1.0, 3, 5)] {
        let erase = RandomErase { probability: 1.0, size_min: share, size_max: share, fill: 0.0 };
        let y = run_everywhere(&traced(&erase, &shape), &x, 3, 9);
        for (x, y) in x.chunks(each).zip(y.chunks(each)) {
            assert_eq!(rectangle(x, y, (1, 3, 5), 0.0).map(|[_, _, height, width]| (height, width)), Some((height, width)));
        }
    }
}

// ---- noise -------------------------------------------------------------------------------------------------------------------------------

#[test]
fn noise_has_the_mean_the_deviation_and_the_tails_of_a_normal_distribution() {
    const COUNT: usize = 100_000;
    let shape = [50, 2000];
    let graph = traced(&GaussianNoise { deviation: 0.5 }, &shape);
    let x = vec![3.0; COUNT];
    for device in DEVICES {
        let y = run(device, &graph, &x, 5, 2, &[]);
        let noise: Vec<f64> = y.iter().map(|y| (y - 3.0) / 0.5).collect();
        let mean_of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / COUNT as f64;
        let mean = mean_of(&mut noise.iter().copied());
        let variance = mean_of(&mut noise.iter().map(|z| z * z));
        // Five deviations of a mean, 1 / sqrt(n), and of a mean square, sqrt(2 / n).
        let root = (COUNT as f64).sqrt();
        assert!(mean.abs() <= 5.0 / root, "{device:?}: the mean is off by {mean}");
        assert!((variance - 1.0).abs() <= 5.0 * 2f64.sqrt() / root, "{device:?}: the variance is {variance}");
        // Shares of a normal distribution beyond one, two and three deviations on each side.
        for (bound, share) in [(1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_349_9)] {
            assert_count(noise.iter().filter(|z| **z > bound).count(), COUNT, share, &format!("{device:?}: above {bound}"));
            assert_count(noise.iter().filter(|z| **z < -bound).count(), COUNT, share, &format!("{device:?}: below -{bound}"));
        }
        // Products of neighbours have mean 0 and deviation 1.
        let neighbours = noise.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / COUNT as f64;
        assert!(neighbours.abs() <= 5.0 / root, "{device:?}: neighbours go together by {neighbours}");
        assert_eq!(y, run(device, &graph, &x, 5, 2, &[]), "{device:?}: the same step again");
        let other = run(device, &graph, &x, 5, 3, &[]);
        let together = other.iter().zip(&noise).map(|(y, z)| (y - 3.0) / 0.5 * z).sum::<f64>() / COUNT as f64;
        assert!(together.abs() <= 5.0 / root, "{device:?}: the next step goes together with this one by {together}");
        assert!(run(device, &graph, &x, 5, 2, &[("deviation", 0.0)]) == x, "{device:?}: the deviation is live");
    }
}

#[test]
fn noise_is_the_same_on_every_device_but_for_rounding() {
    let shape = [64, 33];
    let graph = traced(&GaussianNoise { deviation: 1.0 }, &shape);
    let x = vec![0.0; 64 * 33];
    let wanted = run(Device::Reference, &graph, &x, 1, 1, &[]);
    for device in [Device::Cpu, Device::Gpu] {
        let found = run(device, &graph, &x, 1, 1, &[]);
        let off = found.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max);
        // WGSL allows a cosine to be off by 2^-11 and a logarithm by 2^-21; the radius is below 6, and near 0 the root magnifies.
        assert!(off <= 6.0 * 2f64.powi(-10), "{device:?} is off by {off:.1e}");
    }
}

// ---- in a step ---------------------------------------------------------------------------------------------------------------------------

/// Shows its input.
#[config]
#[derive(Default)]
struct Watch {}
impl Experiment for Watch {
    const ID: &'static str = "watch";
    fn train_step(&self, step: &mut Step) -> Result<()> {
        let x = step.input()?;
        step.observe("x", x);
        Ok(())
    }
    fn eval_step(&self, step: &mut Step) -> Result<()> {
        self.train_step(step)
    }
}

#[test]
fn two_flips_of_a_step_are_independent() {
    let request = step_request("train", SAMPLES, TensorType::new(DType::F32, [1, 2, 3]), TensorType::new(DType::F32, []));
    let watched = |entry: &str, components: Components| {
        let mut trace = components.trace(&Watch {}, entry, &request).unwrap_or_else(|error| panic!("{error}"));
        trace.graph.outputs = vec![Output { name: "y".into(), node: trace.observed["x"] }];
        trace.graph
    };
    let x = pixels(SAMPLES * 6);
    for device in DEVICES {
        let seen = |graph: &Ir| {
            let mask = vec![1.0; SAMPLES];
            let mut machine = Machine::new(device, graph, &BTreeMap::new());
            let outputs = machine.run(&[("batch.input", &x), ("batch.mask", &mask), ("run.seed", &[7.0]), ("run.step", &[3.0])]);
            flips(&x, &outputs["y"], (1, 2, 3))
        };
        let flip = || RandomFlip::default();
        let one = seen(&watched("train_step", Components::new().transform(flip())));
        let two = seen(&watched("train_step", Components::new().transform(flip()).transform(flip())));
        assert_count(one.iter().sum(), SAMPLES, 0.5, "flipped by one");
        assert_count(two.iter().sum(), SAMPLES, 0.5, "flipped by exactly one of two");
        assert_count(one.iter().zip(&two).filter(|(one, two)| one == two).count(), SAMPLES, 0.5, "the second left alone");
        assert_eq!(seen(&watched("eval_step", Components::new().transform(flip()))), [0; SAMPLES], "{device:?}: evaluation");
    }
}
