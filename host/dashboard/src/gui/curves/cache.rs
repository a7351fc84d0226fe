//! What the series answered last: asking one again costs a hundred times more than drawing what is known.
//!
//! A frame asks for a bounded number of columns exactly; what is beyond that is asked quickly (a column every two pixels, whose edges are off by up to
//! a quarter) and exactly in the frames after. So moving through sixty curves of a million points stays fluent, and what stands still is exact after
//! two frames.

use super::super::axis::{Axis, Scale};
use crate::data::{Column, Detail, Point, Series, XAxis};
use std::collections::HashMap;
use std::sync::Arc;

/// Columns that a frame asks for exactly, at least.
const EXACT_COLUMNS: usize = 4000;
/// Frames after which a curve that is not drawn any more is forgotten.
const KEPT_FRAMES: u64 = 64;

/// The columns of the last frames.
#[derive(Debug, Default)]
pub struct ColumnCache {
    columns: HashMap<CurveKey, CachedColumns>,
    frame: u64,
    /// Columns that may still be asked for exactly in this frame.
    exact_left: usize,
    /// The same of curves whose range is another one than in the last frame, and will be another one in the next.
    moving_left: usize,
    /// Columns that were wanted in this frame, known or not.
    wanted: usize,
    has_quick: bool,
}

/// A run's id and a metric.
type CurveKey = (String, String);

/// What columns depend on: the series' version and length, axis, scale, range, number and half-life.
type ColumnsKey = (u64, usize, XAxis, bool, [u64; 2], usize, u64);

#[derive(Debug)]
struct CachedColumns {
    key: ColumnsKey,
    columns: Arc<Vec<Column>>,
    is_exact: bool,
    frame: u64,
}

impl ColumnCache {
    /// Forgets what the last frames did not draw, and begins to count again.
    pub fn begin_frame(&mut self) {
        self.frame += 1;
        // Half of what the last frame drew: what moved then stands exactly two frames later.
        self.exact_left = EXACT_COLUMNS.max(self.wanted.div_ceil(2));
        self.moving_left = EXACT_COLUMNS;
        self.wanted = 0;
        self.has_quick = false;
        let frame = self.frame;
        if frame.is_multiple_of(KEPT_FRAMES) {
            self.columns.retain(|_, cached| cached.frame + KEPT_FRAMES > frame);
        }
    }

    /// Something was drawn quickly in this frame: another frame is wanted.
    pub fn has_quick(&self) -> bool {
        self.has_quick
    }

    /// One column a pixel of `axis`, with the points just outside, so that lines come in and go out at the edges.
    pub fn columns(&mut self, run: &str, metric: &str, series: &Series, x_axis: XAxis, axis: &Axis, half_life: f64) -> Arc<Vec<Column>> {
        let count = (axis.end - axis.start).max(1.0) as usize;
        let range = [axis.low.to_bits(), axis.high.to_bits()];
        let key = (series.version(), series.len(), x_axis, axis.scale == Scale::Log, range, count, half_life.to_bits());
        let slot = (run.to_owned(), metric.to_owned());
        self.wanted += count;
        let known = self.columns.get_mut(&slot);
        let is_moving = known.as_ref().is_some_and(|cached| cached.frame + 1 >= self.frame && cached.key.4 != range);
        let can_be_exact = self.exact_left >= count && !(is_moving && self.moving_left < count);
        if let Some(cached) = known.filter(|cached| cached.key == key && (cached.is_exact || !can_be_exact)) {
            cached.frame = self.frame;
            self.has_quick |= !cached.is_exact;
            return cached.columns.clone();
        }
        let columns = if can_be_exact {
            self.exact_left -= count;
            self.moving_left = self.moving_left.saturating_sub(if is_moving { count } else { 0 });
            columns(series, x_axis, &axis.edges(count), half_life, Detail::Exact)
        } else {
            columns(series, x_axis, &axis.edges(count.div_ceil(2)), half_life, Detail::Quick)
        };
        let columns = Arc::new(columns);
        let is_exact = can_be_exact;
        self.has_quick |= !is_exact;
        self.columns.insert(slot, CachedColumns { key, columns: columns.clone(), is_exact, frame: self.frame });
        columns
    }
}

fn columns(series: &Series, x_axis: XAxis, edges: &[f64], half_life: f64, detail: Detail) -> Vec<Column> {
    let mut columns = series.view_edges(x_axis, edges, half_life, detail);
    let (Some(&low), Some(&high)) = (edges.first(), edges.last()) else { return columns };
    if half_life == 0.0 {
        let (before, after) = series.neighbours(x_axis, (low, high));
        let beyond = |point: Point| point.value.is_finite().then(|| alone(&point, point.x(x_axis, series.origin())));
        if let Some(column) = before.and_then(beyond) {
            columns.insert(0, column);
        }
        columns.extend(after.and_then(beyond));
    }
    columns
}

// A column of one point.
fn alone(point: &Point, x: f64) -> Column {
    let value = point.value;
    Column {
        x,
        x_first: x,
        x_last: x,
        min: value,
        max: value,
        first: value,
        last: value,
        mean: value,
        smoothed: value,
        count: 1,
        not_positive: u32::from(value <= 0.0),
        bad: 0,
        has_gap: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_store::{At, Scalar};

    #[test]
    fn what_moved_is_exact_two_frames_later() {
        let mut series = Series::new(0.0);
        for step in 0..200_000u64 {
            let at = At { step, epoch: 0.0, samples: 0 };
            series.push(&Scalar { id: 0, metric_id: 1, at, time: 0.0, value: (step % 977) as f64 });
        }
        let mut cache = ColumnCache::default();
        // Forty curves of 300 pixels: three times what a frame asks for exactly.
        let mut frame = |low: f64| {
            cache.begin_frame();
            let axis = Axis { scale: Scale::Linear, low, high: 150_000.0, start: 0.0, end: 300.0 };
            let exact = columns(&series, XAxis::Step, &axis.edges(300), 0.0, Detail::Exact);
            let drawn = (0..40).map(|run| cache.columns(&run.to_string(), "loss", &series, XAxis::Step, &axis, 0.0));
            let exact_count = drawn.filter(|drawn| **drawn == exact).count();
            assert_eq!(cache.has_quick(), exact_count < 40);
            exact_count
        };
        assert!(frame(10.0) < 40);
        let _ = frame(10.0);
        assert_eq!(frame(10.0), 40);
        for low in [20.0, 30.0, 40.0] {
            let moving = frame(low);
            assert!((1..20).contains(&moving), "{moving}");
        }
        let _ = frame(40.0);
        assert_eq!((frame(40.0), frame(40.0)), (40, 40));
    }
}
