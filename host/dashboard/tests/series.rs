//! A view of a series against a scan of the points that were pushed, at every size where the pyramid changes shape.

use solstice_dashboard::data::{Column, Detail, Series, XAxis};
use solstice_store::{At, Scalar};

/// SplitMix64, after Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn row(step: u64, time: f64, value: f64) -> Scalar {
    Scalar { id: step as i64, metric_id: 1, at: At { step, epoch: step as f64 / 100.0, samples: step.saturating_mul(64) }, time, value }
}

/// Random gaps between steps, uneven epochs and times, some NaN and infinities; values that 32 bits hold.
fn random_rows(random: &mut Random, count: usize) -> Vec<Scalar> {
    let (mut step, mut samples, mut time) = (random.below(5), 0, 1.7e9);
    let mut rows = Vec::with_capacity(count);
    for id in 0..count {
        let value = match random.below(50) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => -f64::from(random.unit() as f32),
            _ => f64::from(random.unit() as f32),
        };
        rows.push(Scalar { id: id as i64, metric_id: 1, at: At { step, epoch: samples as f64 / 6400.0, samples }, time, value });
        step += random.below(4);
        samples += random.below(3) * 64;
        time += random.unit();
    }
    rows
}

fn series_of(rows: &[Scalar]) -> Series {
    let mut series = Series::new(1.7e9);
    rows.iter().for_each(|row| series.push(row));
    series
}

/// The columns of a range by looking at every point; x as the series has it, values as they were pushed.
fn scanned(series: &Series, rows: &[Scalar], axis: XAxis, edges: &[f64]) -> Vec<(usize, Column)> {
    let mut columns = Vec::new();
    for (index, pair) in edges.windows(2).enumerate() {
        let is_last = index + 2 == edges.len();
        let within: Vec<usize> = (0..rows.len())
            .filter(|&row| {
                let x = series.x(axis, row);
                x >= pair[0] && (x < pair[1] || (is_last && x <= pair[1]))
            })
            .collect();
        let values: Vec<f64> = within.iter().map(|&row| rows[row].value).filter(|value| value.is_finite()).collect();
        let (Some(&from), Some(&to)) = (within.first(), within.last()) else { continue };
        let (x_first, x_last) = (series.x(axis, from), series.x(axis, to));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let bad = (within.len() - values.len()) as u32;
        columns.push((
            index,
            Column {
                x: (x_first + x_last) / 2.0,
                x_first,
                x_last,
                min: values.iter().copied().fold(f64::NAN, f64::min),
                max: values.iter().copied().fold(f64::NAN, f64::max),
                first: values.first().copied().unwrap_or(f64::NAN),
                last: values.last().copied().unwrap_or(f64::NAN),
                mean,
                smoothed: mean,
                count: values.len() as u32,
                not_positive: values.iter().filter(|value| **value <= 0.0).count() as u32,
                bad,
                has_gap: bad > 0,
            },
        ));
    }
    columns
}

fn assert_same(found: &[Column], wanted: &[(usize, Column)], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
    for (a, (_, b)) in found.iter().zip(wanted) {
        let exact = [(a.min, b.min), (a.max, b.max), (a.first, b.first), (a.last, b.last), (a.x_first, b.x_first), (a.x_last, b.x_last)];
        assert!(exact.iter().all(|&(a, b)| same(a, b)), "{what}: {a:?} is not {b:?}");
        assert_eq!((a.count, a.not_positive, a.bad, a.has_gap), (b.count, b.not_positive, b.bad, b.has_gap), "{what}");
        // Sums of up to 1e5 values below 1 in another order: some 1e5 * 2^-53 relative.
        assert!(same(a.mean, b.mean) || (a.mean - b.mean).abs() < 1e-10, "{what}: mean {} is not {}", a.mean, b.mean);
    }
}

#[test]
fn a_view_equals_a_scan_of_every_point() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    println!("seed {seed}");
    let mut random = Random(seed);
    for count in [0, 1, 2, 15, 16, 17, 255, 257, 1023, 1024, 1025, 10_007, 16 * 1024, 16 * 1024 + 1, 100_000] {
        let rows = random_rows(&mut random, count);
        let series = series_of(&rows);
        let rounds = if count > 10_000 { 2 } else { 8 };
        for axis in XAxis::ALL {
            let (first, last) = series.x_range(axis).unwrap_or((0.0, 1.0));
            for round in 0..rounds {
                let span = last - first;
                let (a, b) = (first + span * (random.unit() * 1.4 - 0.2), first + span * (random.unit() * 1.4 - 0.2));
                let range = if round == 0 { (first, last) } else { (a.min(b), a.max(b)) };
                let columns = 1 + random.below(if count > 10_000 { 12 } else { 60 }) as usize;
                let edges: Vec<f64> =
                    (0..columns).map(|index| range.0 + (range.1 - range.0) * (index as f64 / columns as f64)).chain([range.1]).collect();
                let what = format!("seed {seed}, {count} points, {} from {} to {} in {columns}", axis.name(), range.0, range.1);
                assert_same(&series.view(axis, range, columns), &scanned(&series, &rows, axis, &edges), &what);
            }
        }
    }
}

#[test]
fn points_come_back_as_they_were_pushed() {
    let mut random = Random(7);
    let rows = random_rows(&mut random, 5000);
    let series = series_of(&rows);
    for (point, row) in series.points().zip(&rows) {
        assert_eq!(point.step, row.at.step);
        assert!(point.value == row.value || (point.value.is_nan() && row.value.is_nan()));
        // Offsets of 32 bits in a block of some 1000 s, 10 epochs, 65 000 samples: half a bit of 24 each; plus the tolerance of a straight line.
        assert!((point.time - row.time).abs() < 1e-4, "{} is not {}", point.time, row.time);
        assert!((point.epoch - row.at.epoch).abs() < 3e-6, "{} is not {}", point.epoch, row.at.epoch);
        assert!((point.samples - row.at.samples as f64).abs() <= 0.5, "{} is not {}", point.samples, row.at.samples);
    }
    assert_eq!(series.bad(), rows.iter().filter(|row| !row.value.is_finite()).count());
    let finite = || rows.iter().filter(|row| row.value.is_finite());
    let least = finite().min_by(|a, b| a.value.total_cmp(&b.value)).unwrap();
    let greatest = finite().map(|row| row.value).fold(0.0, f64::max);
    assert_eq!(series.best(false).map(|point| (point.value, point.step)), Some((least.value, least.at.step)));
    assert_eq!(series.best(true).unwrap().value, greatest);
    assert_eq!(series.y_range(), Some((least.value, greatest)));
}

#[test]
fn steps_too_far_apart_for_32_bits_stay_exact() {
    let steps = [0, 1, 1 << 40, (1 << 40) + 1, 1 << 62];
    let series = series_of(&steps.map(|step| row(step, 1.7e9, 1.0)));
    assert_eq!(series.points().map(|point| point.step).collect::<Vec<_>>(), steps);
}

#[test]
fn a_step_that_goes_back_counts_as_the_last_one() {
    let series = series_of(&[row(5, 10.0, 1.0), row(3, 8.0, 2.0), row(6, 12.0, 3.0)]);
    assert_eq!(
        series.points().map(|point| (point.step, point.time, point.value)).collect::<Vec<_>>(),
        [(5, 10.0, 1.0), (5, 10.0, 2.0), (6, 12.0, 3.0)]
    );
}

#[test]
fn a_rewind_leaves_what_was_never_more() {
    let mut random = Random(11);
    let rows = random_rows(&mut random, 40_000);
    for keep_step in [0, 1, 30, 1500, 1533, 24_600, 50_000, 1 << 40] {
        let mut rewound = series_of(&rows);
        rewound.rewind(keep_step);
        let kept: Vec<Scalar> = rows.iter().copied().filter(|row| row.at.step <= keep_step).collect();
        let mut fresh = series_of(&kept);
        // Goes on from there, so that buckets left over would show.
        for index in 1..3000 {
            let more = row(keep_step + index, 1.8e9, 2.0 + index as f64);
            rewound.push(&more);
            fresh.push(&more);
        }
        assert_eq!((rewound.len(), rewound.bad()), (fresh.len(), fresh.bad()));
        assert_eq!(rewound.last(), fresh.last());
        let range = fresh.x_range(XAxis::Step).unwrap();
        let (a, b) = (rewound.view(XAxis::Step, range, 100), fresh.view(XAxis::Step, range, 100));
        assert_eq!(format!("{a:?}"), format!("{b:?}"), "kept {keep_step}");
        assert_eq!(
            rewound.points().map(|point| point.step).collect::<Vec<_>>(),
            fresh.points().map(|point| point.step).collect::<Vec<_>>()
        );
    }
}

#[test]
fn nearest_takes_the_closer_side_and_the_ends() {
    let series = series_of(&[row(10, 1.7e9, 1.0), row(20, 1.7e9, 2.0), row(40, 1.7e9, 3.0)]);
    for (x, step) in [(-5.0, 10), (10.0, 10), (14.9, 10), (15.0, 20), (29.0, 20), (31.0, 40), (1e9, 40)] {
        assert_eq!(series.nearest(XAxis::Step, x).unwrap().step, step, "x {x}");
    }
    assert_eq!(Series::new(0.0).nearest(XAxis::Step, 1.0), None);
    let (before, after) = series.neighbours(XAxis::Step, (15.0, 25.0));
    assert_eq!((before.unwrap().step, after.unwrap().step), (10, 40));
}

#[test]
fn smoothing_is_exact_on_a_constant_and_does_not_depend_on_the_logging_rate_or_the_zoom() {
    let constant = series_of(&(0..5000).map(|step| row(step, 1.7e9, 0.25)).collect::<Vec<_>>());
    assert!(constant.view_smoothed(XAxis::Step, (0.0, 4999.0), 300, 100.0).iter().all(|column| column.smoothed == 0.25));

    let curve = |step: u64| 1.0 + (step as f64 / 900.0).sin();
    let often = series_of(&(0..20_000).map(|step| row(step, 1.7e9, curve(step))).collect::<Vec<_>>());
    let seldom = series_of(&(0..2000).map(|index| row(index * 10, 1.7e9, curve(index * 10))).collect::<Vec<_>>());
    let smooth = |series: &Series, range| series.view_smoothed(XAxis::Step, range, 500, 400.0);
    let (a, b) = (smooth(&often, (0.0, 19_999.0)), smooth(&seldom, (0.0, 19_999.0)));
    // The slope is 1/900 a step, and the two differ by how points lie within 10 steps and within a column of 40.
    for (a, b) in a.iter().zip(&b) {
        assert!((a.smoothed - b.smoothed).abs() < 0.03, "at {}: {} and {}", a.x, a.smoothed, b.smoothed);
    }
    let near = smooth(&often, (10_000.0, 11_000.0));
    let (last, far) = (near.last().unwrap(), a.iter().min_by_key(|column| (column.x - 11_000.0).abs() as u64).unwrap());
    assert!((last.smoothed - far.smoothed).abs() < 0.05, "{} and {}", last.smoothed, far.smoothed);
    // By hand: values 1, then 3 one half-life later: (1/2 * 1 + 3) / (1/2 + 1).
    let two = series_of(&[row(0, 1.7e9, 1.0), row(10, 1.7e9, 3.0)]);
    let smoothed: Vec<f64> = two.view_smoothed(XAxis::Step, (0.0, 10.0), 10, 10.0).iter().map(|column| column.smoothed).collect();
    assert!(smoothed[0] == 1.0 && (smoothed[1] - 3.5 / 1.5).abs() < 1e-15, "{smoothed:?}");
}

#[test]
fn a_million_points_take_20_bytes_each_at_most() {
    let mut even = Series::new(1.7e9);
    let mut uneven = Series::new(1.7e9);
    let mut random = Random(3);
    let mut samples = 0;
    for step in 0..1_000_000u64 {
        even.push(&row(step, 1.7e9 + step as f64 * 0.01, 0.5));
        // A last batch of an epoch is smaller: samples and epoch leave the straight line in every block.
        samples += if step % 469 == 468 { 32 } else { 128 };
        let at = At { step, epoch: samples as f64 / 60_000.0, samples };
        uneven.push(&Scalar { id: 0, metric_id: 1, at, time: 1.7e9 + step as f64 * random.unit() * 1e-3, value: 0.5 });
    }
    let per_point = |series: &Series| series.bytes() as f64 / series.len() as f64;
    println!("bytes a point: {:.2} straight, {:.2} uneven", per_point(&even), per_point(&uneven));
    assert!(per_point(&even) <= 15.0, "{}", per_point(&even));
    assert!(per_point(&uneven) <= 20.0, "{}", per_point(&uneven));
}

#[test]
fn a_clone_does_not_change_with_the_original() {
    let mut series = series_of(&(0..3000).map(|step| row(step, 1.7e9, 1.0)).collect::<Vec<_>>());
    let before = series.clone();
    series.push(&row(3000, 1.7e9, 9.0));
    series.rewind(10);
    assert_eq!((before.len(), before.last().unwrap().step, before.y_range()), (3000, 2999, Some((1.0, 1.0))));
}

#[test]
fn a_quick_view_loses_no_point_and_moves_none_further_than_a_quarter_of_a_column() {
    let mut random = Random(23);
    for count in [100usize, 5000, 60_000, 700_000, 2_300_000] {
        let rows = random_rows(&mut random, count);
        let series = series_of(&rows);
        let (first, last) = series.x_range(XAxis::Step).unwrap();
        let edges: Vec<f64> = (0..=100).map(|index| first + (last - first) * f64::from(index) / 100.0).collect();
        let quick = series.view_edges(XAxis::Step, &edges, 0.0, Detail::Quick);
        let exact = series.view_edges(XAxis::Step, &edges, 0.0, Detail::Exact);
        let total = |columns: &[Column]| columns.iter().map(|column| u64::from(column.count + column.bad)).sum::<u64>();
        assert_eq!((total(&quick), total(&exact)), (count as u64, count as u64));
        let extremes = |columns: &[Column]| {
            let bounds = |range: (f64, f64), column: &Column| (range.0.min(column.min), range.1.max(column.max));
            columns.iter().fold((f64::INFINITY, f64::NEG_INFINITY), bounds)
        };
        assert_eq!(extremes(&quick), extremes(&exact));
        // Steps are 1.5 apart in the mean but not evenly so: a little more than a quarter.
        let width = (last - first) / 100.0;
        for (a, b) in quick.iter().zip(&exact) {
            assert!((a.x_first - b.x_first).abs() < 0.27 * width + 4.0, "{count}: {} and {}", a.x_first, b.x_first);
        }
    }
}

#[test]
fn points_of_a_range_and_those_that_a_logarithmic_axis_has_no_place_for() {
    let series = series_of(&[row(0, 1.7e9, 1.0), row(1, 1.7e9, -2.0), row(5, 1.7e9, 0.0), row(9, 1.7e9, 4.0)]);
    assert_eq!(series.points_between(XAxis::Step, (1.0, 5.0)).map(|point| point.step).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(series.points_between(XAxis::Step, (10.0, 50.0)).count(), 0);
    assert_eq!(series.not_positive_x(XAxis::Step), 1);
    let columns = series.view(XAxis::Step, (0.0, 9.0), 1);
    assert_eq!((columns[0].count, columns[0].not_positive), (4, 2));
}
