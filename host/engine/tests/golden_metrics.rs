//! Every metric against scikit-learn: increments of ragged batches on each device, figures from their sums.
//!
//! Padded rows hold NaNs and a class that does not exist: they must add nothing.

#[allow(dead_code)]
#[path = "common/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "common/machine.rs"]
mod machine;

use machine::{Device, Machine};
use metrics::{Accuracy, Auroc, Confusion, Perplexity, Regression};
use serde::Deserialize;
use solstice_ir::{DType, TensorType};
use solstice_plugin_api::{Metric, testing};
use std::collections::BTreeMap;

const BATCH: usize = 64;

#[derive(Clone, Deserialize)]
struct Row {
    name: String,
    #[serde(default)]
    classes: usize,
    targets: Vec<f64>,
    #[serde(default)]
    predictions: Vec<f64>,
    #[serde(default)]
    scores: Vec<f64>,
    #[serde(default)]
    confusion: Vec<Vec<f64>>,
    #[serde(flatten)]
    figures: BTreeMap<String, serde_json::Value>,
}

impl Row {
    /// Figures that the file gives, by name.
    fn wanted(&self) -> Vec<(&str, f64)> {
        self.figures.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?))).collect()
    }
}

fn rows(has: impl Fn(&Row) -> bool) -> Vec<Row> {
    let path = golden::folder().join("metrics.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<Row> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<Row> = rows.into_iter().filter(has).collect();
    assert!(!rows.is_empty(), "{} has no row for this metric", path.display());
    rows
}

/// A column of observations: width of a sample, its type and what stands in padded rows.
struct Column<'a> {
    name: &'a str,
    sample: &'a [usize],
    dtype: DType,
    padding: f64,
    values: Vec<f64>,
}

struct Measured {
    sums: BTreeMap<String, Vec<f64>>,
    figures: BTreeMap<String, f64>,
}

/// Sums of a metric's increments over batches of 64, the last one ragged, and the figures from them, worked out in f64.
fn measure(device: Device, metric: &impl Metric, count: usize, columns: &[Column]) -> Measured {
    let types: Vec<(&str, TensorType)> =
        columns.iter().map(|column| (column.name, TensorType::new(column.dtype, [&[BATCH], column.sample].concat()))).collect();
    let (update, compute) = testing::trace_metric(metric, &types).unwrap_or_else(|error| panic!("{error}"));
    let mut machine = Machine::new(device, &update, &BTreeMap::new());
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for start in (0..count).step_by(BATCH) {
        let rows = BATCH.min(count - start);
        let mask: Vec<f64> = (0..BATCH).map(|row| if row < rows { 1.0 } else { 0.0 }).collect();
        let mut inputs: Vec<(&str, Vec<f64>)> = vec![("mask", mask)];
        for column in columns {
            let width: usize = column.sample.iter().product();
            let mut values = column.values[start * width..(start + rows) * width].to_vec();
            values.resize(BATCH * width, column.padding);
            inputs.push((column.name, values));
        }
        let inputs: Vec<(&str, &[f64])> = inputs.iter().map(|(name, values)| (*name, &values[..])).collect();
        for (name, increment) in machine.run(&inputs) {
            let sum = sums.entry(name).or_insert_with(|| vec![0.0; increment.len()]);
            sum.iter_mut().zip(&increment).for_each(|(sum, more)| *sum += more);
        }
    }
    let borrowed: Vec<(&str, &[f64])> = sums.iter().map(|(name, values)| (name.as_str(), &values[..])).collect();
    let figures = Machine::new(Device::Reference, &compute, &BTreeMap::new()).run(&borrowed);
    Measured { figures: figures.into_iter().map(|(name, value)| (name, value[0])).collect(), sums }
}

/// Logits whose largest is the prediction.
fn classified(row: &Row) -> [Column<'static>; 2] {
    let shape: &'static [usize] = vec![row.classes].leak();
    let logits = row
        .predictions
        .iter()
        .flat_map(|&guess| (0..row.classes).map(move |class| if class as f64 == guess { 3.0 } else { -0.5 * class as f64 }));
    [
        Column { name: "logits", sample: shape, dtype: DType::F32, padding: f64::NAN, values: logits.collect() },
        Column { name: "target", sample: &[], dtype: DType::I32, padding: 99.0, values: row.targets.clone() },
    ]
}

fn on_each_device(test: impl Fn(Device)) {
    [Device::Reference, Device::Cpu, Device::Gpu].into_iter().for_each(test);
}

#[test]
fn a_confusion_matrix_gives_scikit_learns_figures() {
    on_each_device(|device| {
        for row in rows(|row| row.classes > 0) {
            let measured = measure(device, &Confusion::default(), row.targets.len(), &classified(&row));
            assert_eq!(measured.sums["matrix"], row.confusion.concat(), "{} on {device:?}", row.name);
            let wanted = row.wanted();
            assert_eq!(wanted.len(), 7);
            for (name, wanted) in wanted {
                // Counts are exact and the ratios are f64.
                assert!((measured.figures[name] - wanted).abs() < 1e-12, "{} {name} on {device:?}: {}", row.name, measured.figures[name]);
            }
        }
    });
}

#[test]
fn accuracy_alone_is_the_same() {
    on_each_device(|device| {
        for row in rows(|row| row.classes > 0) {
            let columns = classified(&row);
            let top_1 = measure(device, &Accuracy::default(), row.targets.len(), &columns).figures["accuracy"];
            assert!((top_1 - row.figures["accuracy"].as_f64().expect("an accuracy")).abs() < 1e-12, "{} on {device:?}", row.name);
            // Guesses after the first are the classes in order.
            let right = row
                .targets
                .iter()
                .zip(&row.predictions)
                .filter(|(target, guess)| target == guess || **target < if **guess < 2.0 { 3.0 } else { 2.0 });
            let wanted = right.count() as f64 / row.targets.len() as f64;
            let top_3 = measure(device, &Accuracy { top_k: 3 }, row.targets.len(), &columns).figures["top_3_accuracy"];
            assert!((top_3 - wanted).abs() < 1e-12, "{} on {device:?}: {top_3}, wanted {wanted}", row.name);
        }
    });
}

#[test]
fn an_empty_split_gives_zeros_not_nans() {
    let row = &rows(|row| row.classes > 0)[0];
    let mut columns = classified(row);
    columns[1].values.fill(-1.0); // no row has a class
    for figures in [
        measure(Device::Reference, &Confusion { per_class: true, ..Confusion::default() }, BATCH, &columns).figures,
        measure(Device::Reference, &Accuracy::default(), BATCH, &columns).figures,
        measure(Device::Reference, &Auroc::default(), BATCH, &columns).figures,
    ] {
        assert!(!figures.is_empty() && figures.values().all(|figure| *figure == 0.0), "{figures:?}");
    }
}

/// How far figures from bins may be off: pairs of a positive and another score that share a bin without being equal.
///
/// A pair with a negative counts half in place of 0 or 1 of `positives * negatives` in the area. In the average precision, one such pair
/// moves the precision at one positive by at most 1 / the number found so far.
fn binning_error(row: &Row, bins: f64) -> (f64, f64) {
    let bin = |score: f64| (f64::from(score as f32) * bins).floor().min(bins - 1.0);
    let positives: Vec<f64> = row.scores.iter().zip(&row.targets).filter(|(_, target)| **target > 0.0).map(|(score, _)| *score).collect();
    let negative_count = (row.scores.len() - positives.len()) as f64;
    let (mut area, mut precision) = (0.0, 0.0);
    for &score in &positives {
        let found = row.scores.iter().filter(|other| bin(**other) > bin(score)).count() as f64 + 1.0;
        let pairs = row.scores.iter().filter(|other| bin(**other) == bin(score) && **other != score).count() as f64;
        area += 0.5 * pairs / (positives.len() as f64 * negative_count);
        precision += pairs / (found * positives.len() as f64);
    }
    (area + 1e-12, precision + 1e-12)
}

#[test]
fn a_histogram_of_scores_gives_the_areas_within_its_bins() {
    on_each_device(|device| {
        for row in rows(|row| !row.scores.is_empty()) {
            let (area_off, precision_off) = binning_error(&row, 16_384.0);
            assert!(area_off < 1e-3 && precision_off < 1e-2, "the bound means something: {area_off:.2e}, {precision_off:.2e}");
            let target = Column { name: "target", sample: &[], dtype: DType::I32, padding: 1.0, values: row.targets.clone() };
            let scores = Column { name: "scores", sample: &[], dtype: DType::F32, padding: f64::NAN, values: row.scores.clone() };
            let figures = measure(device, &Auroc::default(), row.targets.len(), &[scores, target]).figures;
            for (name, allowed) in [("auroc", area_off), ("average_precision", precision_off)] {
                let off = (figures[name] - row.figures[name].as_f64().expect("a figure")).abs();
                assert!(off <= allowed, "{name} on {device:?} is off by {off:.2e}, allowed {allowed:.2e}");
            }
        }
    });
}

#[test]
fn two_logits_rank_as_their_scores_do() {
    for row in rows(|row| !row.scores.is_empty()) {
        // Margins of the same order; scores at the ends stay ties.
        let logits = row.scores.iter().flat_map(|score| [-4.0 * score, 4.0 * score - 3.0]).collect();
        let columns = [
            Column { name: "logits", sample: &[2], dtype: DType::F32, padding: f64::NAN, values: logits },
            Column { name: "target", sample: &[], dtype: DType::I32, padding: 99.0, values: row.targets.clone() },
        ];
        let figures = measure(Device::Cpu, &Auroc::default(), row.targets.len(), &columns).figures;
        // Margins of -3 to 5 take about half of the bins, so twice the bound of uniform ones and some more near the ends.
        assert!((figures["auroc"] - row.figures["auroc"].as_f64().expect("an area")).abs() < 2e-3);
    }
}

#[test]
fn regression_figures_are_scikit_learns() {
    on_each_device(|device| {
        for row in rows(|row| row.figures.contains_key("r2")) {
            let column =
                |name, values: &[f64]| Column { name, sample: &[1], dtype: DType::F32, padding: f64::NAN, values: values.to_vec() };
            let columns = [column("prediction", &row.predictions), column("target", &row.targets)];
            let figures = measure(device, &Regression::default(), row.targets.len(), &columns).figures;
            for (name, wanted) in row.wanted() {
                // Two batches of sums of 64 terms: some 10 roundings of 2^-24, which r2 divides by each other.
                let allowed = device.pick(1e-9, 2e-6) * wanted.abs().max(1.0);
                assert!((figures[name] - wanted).abs() <= allowed, "{name} on {device:?} is {}, wanted {wanted}", figures[name]);
            }
            assert!((figures["rmse"] - figures["mse"].sqrt()).abs() < 1e-12);
        }
    });
}

#[test]
fn a_pivot_keeps_the_digits_of_a_far_target() {
    let row = &rows(|row| row.figures.contains_key("r2"))[0];
    let far = |values: &[f64]| values.iter().map(|value| f64::from((value + 1000.0) as f32)).collect::<Vec<f64>>();
    let column = |name, values: Vec<f64>| Column { name, sample: &[], dtype: DType::F32, padding: f64::NAN, values };
    let columns = [column("prediction", far(&row.predictions)), column("target", far(&row.targets))];
    let figures = measure(Device::Cpu, &Regression { pivot: 1000.0 }, row.targets.len(), &columns).figures;
    // The shifted values are rounded to 2^-14; without a pivot r2 would be 6 % off.
    assert!((figures["r2"] - row.figures["r2"].as_f64().expect("r2")).abs() < 1e-3, "{}", figures["r2"]);
}

#[test]
fn perplexity_is_the_number_of_equally_likely_classes() {
    on_each_device(|device| {
        let columns = [
            Column { name: "logits", sample: &[5, 7], dtype: DType::F32, padding: f64::NAN, values: vec![0.25; 100 * 35] },
            // Every fifth token has no target.
            Column {
                name: "target",
                sample: &[5],
                dtype: DType::I32,
                padding: 0.0,
                values: (0..500).map(|index| f64::from(index % 5 - 1)).collect(),
            },
        ];
        let measured = measure(device, &Perplexity::default(), 100, &columns);
        assert_eq!(measured.sums["count"], [400.0]);
        let found = measured.figures["perplexity"];
        assert!((found - 7.0).abs() < device.pick(1e-12, 1e-5), "{device:?}: {found}");
    });
}
