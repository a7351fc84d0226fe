//! [`Series`]: every point of one scalar metric of one run, and a view of any range of it whose cost follows columns, not points.
//!
//! Points stand in blocks of 1024 that snapshots share. Over them stands a pyramid of buckets (16 points, 256, 1024, then 16 of the level below)
//! with least, greatest, first, last, sum and counts, so that the points of a column fold in a few dozen reads however many they are, exactly:
//! a single spike among a million points shows at every zoom. NaN and infinities are kept as they came and counted apart from the values.
//!
//! A point takes about 14 bytes, buckets included: step, value and time as offsets from their block; the epoch as a line over the steps of the block
//! and samples as a line over the epoch, while they follow one, else as a column of 4 bytes more. In training samples always follow the epoch, so 18.

use std::sync::Arc;

use solstice_store::Scalar;

/// Points of a block.
const BLOCK: usize = 1024;
/// Points of the finest bucket, and buckets of one bucket of the level above.
const FAN: usize = 16;
/// Half-lives before a view from which smoothing begins, so that it does not depend on the zoom: 2^-10 of the weight lies before them.
const WARM_UP_HALF_LIVES: f64 = 10.0;

/// What runs along the horizontal axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XAxis {
    /// Optimizer steps.
    #[default]
    Step,
    /// Passes over the training data.
    Epoch,
    /// Samples seen.
    Samples,
    /// Seconds since the run was created.
    Relative,
    /// Seconds since 1970.
    Wall,
}

impl XAxis {
    /// Every axis.
    pub const ALL: [XAxis; 5] = [XAxis::Step, XAxis::Epoch, XAxis::Samples, XAxis::Relative, XAxis::Wall];

    /// The word on screen.
    pub fn name(self) -> &'static str {
        match self {
            XAxis::Step => "step",
            XAxis::Epoch => "epoch",
            XAxis::Samples => "samples",
            XAxis::Relative => "relative time",
            XAxis::Wall => "wall time",
        }
    }

    /// The axis of this name.
    pub fn from_name(name: &str) -> Option<XAxis> {
        XAxis::ALL.into_iter().find(|axis| axis.name() == name)
    }
}

/// One point, decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Optimizer steps finished; exact.
    pub step: u64,
    /// Passes over the training data; to about 7 digits within a block.
    pub epoch: f64,
    /// Samples seen; to about 7 digits within a block.
    pub samples: f64,
    /// Seconds since 1970; to about a millisecond in a steady run.
    pub time: f64,
    /// The value, kept in 32 bits.
    pub value: f64,
}

impl Point {
    /// Where it stands on an axis of a run that began at `origin`.
    pub fn x(&self, axis: XAxis, origin: f64) -> f64 {
        match axis {
            XAxis::Step => self.step as f64,
            XAxis::Epoch => self.epoch,
            XAxis::Samples => self.samples,
            XAxis::Relative => self.time - origin,
            XAxis::Wall => self.time,
        }
    }
}

/// How close the columns of a view come to their edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each point is in its column.
    Exact,
    /// A point may be in the neighbouring column when it is within a quarter of a column from the edge: for a range that moves. No point is lost.
    Quick,
}

/// What a view shows of the points between two x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// Where to draw it: the point's own x if it is alone, else the middle between the first and the last.
    pub x: f64,
    /// x of the first point.
    pub x_first: f64,
    /// x of the last point.
    pub x_last: f64,
    /// Least finite value; NaN if there is none.
    pub min: f64,
    /// Greatest finite value; NaN if there is none.
    pub max: f64,
    /// First finite value; NaN if there is none.
    pub first: f64,
    /// Last finite value; NaN if there is none.
    pub last: f64,
    /// Mean of the finite values; NaN if there is none.
    pub mean: f64,
    /// The smoothed value, in a smoothed view; else the mean.
    pub smoothed: f64,
    /// How many finite values.
    pub count: u32,
    /// How many of them have no place on a logarithmic axis: zero and below.
    pub not_positive: u32,
    /// How many NaN and infinities: the line breaks here, and a mark belongs here.
    pub bad: u32,
    /// Some point is NaN or infinite.
    pub has_gap: bool,
}

/// Least, greatest and counts of neighbouring points.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    min: f32,
    max: f32,
    first: f32,
    last: f32,
    sum: f64,
    count: u32,
    not_positive: u32,
    bad: u32,
}

impl Bucket {
    const EMPTY: Bucket =
        Bucket { min: f32::INFINITY, max: f32::NEG_INFINITY, first: f32::NAN, last: f32::NAN, sum: 0.0, count: 0, not_positive: 0, bad: 0 };

    fn add_value(&mut self, value: f32) {
        if !value.is_finite() {
            self.bad += 1;
            return;
        }
        if self.count == 0 {
            self.first = value;
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.last = value;
        self.sum += f64::from(value);
        self.count += 1;
        self.not_positive += u32::from(value <= 0.0);
    }

    fn add(&mut self, next: &Bucket) {
        self.bad += next.bad;
        if next.count == 0 {
            return;
        }
        if self.count == 0 {
            self.first = next.first;
        }
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.last = next.last;
        self.sum += next.sum;
        self.count += next.count;
        self.not_positive += next.not_positive;
    }
}

/// A quantity that grows along a block: a line over another one while it follows one, else a column of offsets.
#[derive(Clone, Debug, Default)]
struct Ramp {
    base: f64,
    /// Growth by unit of the other; NaN until that has grown.
    slope: f64,
    /// How far from the line a value may be.
    tolerance: f64,
    /// Offsets from `base` of every point; empty while the line holds.
    offsets: Vec<f32>,
}

impl Ramp {
    fn new(base: f64, tolerance: f64) -> Ramp {
        Ramp { base, slope: f64::NAN, tolerance, offsets: Vec::new() }
    }

    /// The value of point `index`, where the other quantity is `along` beyond the block's first.
    fn get(&self, index: usize, along: f64) -> f64 {
        match self.offsets.get(index) {
            Some(&offset) => self.base + f64::from(offset),
            None if along == 0.0 || self.slope.is_nan() => self.base,
            None => self.base + self.slope * along,
        }
    }

    /// Adds point `index`, of a `value` not below the last one; `along_before` is the other quantity at the point of an index before it.
    fn push(&mut self, index: usize, value: f64, along: f64, along_before: impl Fn(usize) -> f64) {
        if self.offsets.is_empty() {
            if self.slope.is_nan() && along > 0.0 {
                self.slope = (value - self.base) / along;
            }
            if (self.get(index, along) - value).abs() <= self.tolerance {
                return;
            }
            self.offsets = (0..index).map(|index| (self.get(index, along_before(index)) - self.base) as f32).collect();
        }
        let floor = self.offsets.last().copied().unwrap_or(0.0);
        self.offsets.push(((value - self.base) as f32).max(floor));
    }

    fn bytes(&self) -> usize {
        self.offsets.capacity() * 4
    }
}

/// Up to [`BLOCK`] neighbouring points.
#[derive(Clone, Debug)]
struct Block {
    step_base: u64,
    time_base: f64,
    steps: Vec<u32>,
    /// The offsets again, when one is too great for `steps`.
    wide_steps: Vec<u64>,
    values: Vec<f32>,
    times: Vec<f32>,
    epoch: Ramp,
    samples: Ramp,
    /// One for each 16 points.
    buckets: Vec<Bucket>,
    /// One for each 256 points.
    wide_buckets: Vec<Bucket>,
}

impl Block {
    fn new(step: u64, epoch: f64, samples: f64, time: f64) -> Block {
        Block {
            step_base: step,
            time_base: time,
            steps: Vec::new(),
            wide_steps: Vec::new(),
            values: Vec::new(),
            times: Vec::new(),
            epoch: Ramp::new(epoch, 1e-6),
            samples: Ramp::new(samples, 0.5),
            buckets: Vec::new(),
            wide_buckets: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    /// Steps of point `index` after the first.
    fn steps_after(&self, index: usize) -> u64 {
        match self.wide_steps.get(index) {
            Some(&steps) => steps,
            None => u64::from(self.steps[index]),
        }
    }

    fn epoch(&self, index: usize) -> f64 {
        self.epoch.get(index, self.steps_after(index) as f64)
    }

    fn samples(&self, index: usize) -> f64 {
        self.samples.get(index, self.epoch(index) - self.epoch.base)
    }

    fn point(&self, index: usize) -> Point {
        Point {
            step: self.step_base + self.steps_after(index),
            epoch: self.epoch(index),
            samples: self.samples(index),
            time: self.time_base + f64::from(self.times[index]),
            value: f64::from(self.values[index]),
        }
    }

    fn x(&self, axis: XAxis, index: usize, origin: f64) -> f64 {
        match axis {
            XAxis::Step => (self.step_base + self.steps_after(index)) as f64,
            XAxis::Epoch => self.epoch(index),
            XAxis::Samples => self.samples(index),
            XAxis::Relative => self.time_base + f64::from(self.times[index]) - origin,
            XAxis::Wall => self.time_base + f64::from(self.times[index]),
        }
    }

    /// Adds a point that is not before the last one in anything.
    fn push(&mut self, step: u64, epoch: f64, samples: f64, time: f64, value: f32) {
        let index = self.len();
        let steps = step - self.step_base;
        // Taken out, so that the points before can be looked at meanwhile.
        let mut ramp = std::mem::take(&mut self.epoch);
        ramp.push(index, epoch, steps as f64, |index| self.steps_after(index) as f64);
        self.epoch = ramp;
        let along = self.epoch.get(index, steps as f64) - self.epoch.base;
        let mut ramp = std::mem::take(&mut self.samples);
        ramp.push(index, samples, along, |index| self.epoch(index) - self.epoch.base);
        self.samples = ramp;
        match u32::try_from(steps) {
            Ok(narrow) => {
                self.steps.push(narrow);
                if !self.wide_steps.is_empty() {
                    self.wide_steps.push(steps);
                }
            }
            Err(_) => {
                if self.wide_steps.is_empty() {
                    self.wide_steps = self.steps.iter().map(|&steps| u64::from(steps)).collect();
                }
                self.wide_steps.push(steps);
                self.steps.push(u32::MAX);
            }
        }
        let floor = self.times.last().copied().unwrap_or(0.0);
        self.times.push(((time - self.time_base) as f32).max(floor));
        self.values.push(value);
        for (buckets, size) in [(&mut self.buckets, FAN), (&mut self.wide_buckets, FAN * FAN)] {
            if index.is_multiple_of(size) {
                buckets.push(Bucket::EMPTY);
            }
            let last = buckets.len() - 1;
            buckets[last].add_value(value);
        }
    }

    /// Gives back what was reserved for more points.
    fn shrink(&mut self) {
        self.buckets.shrink_to_fit();
        self.wide_buckets.shrink_to_fit();
        self.wide_steps.shrink_to_fit();
        self.epoch.offsets.shrink_to_fit();
        self.samples.offsets.shrink_to_fit();
    }

    /// Keeps the first `len` points.
    fn truncate(&mut self, len: usize) {
        self.steps.truncate(len);
        self.wide_steps.truncate(len);
        self.values.truncate(len);
        self.times.truncate(len);
        self.epoch.offsets.truncate(len);
        self.samples.offsets.truncate(len);
        for (buckets, size) in [(&mut self.buckets, FAN), (&mut self.wide_buckets, FAN * FAN)] {
            buckets.truncate(len.div_ceil(size));
            if !len.is_multiple_of(size)
                && let Some(last) = buckets.last_mut()
            {
                *last = Bucket::EMPTY;
                self.values[len / size * size..].iter().for_each(|&value| last.add_value(value));
            }
        }
    }

    /// Everything in points `from..to`, onto `total`.
    fn fold(&self, from: usize, to: usize, total: &mut Bucket) {
        let mut index = from;
        while index < to {
            if index.is_multiple_of(FAN * FAN) && index + FAN * FAN <= to {
                total.add(&self.wide_buckets[index / (FAN * FAN)]);
                index += FAN * FAN;
            } else if index.is_multiple_of(FAN) && index + FAN <= to {
                total.add(&self.buckets[index / FAN]);
                index += FAN;
            } else {
                total.add_value(self.values[index]);
                index += 1;
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Block>()
            + (self.steps.capacity() + self.values.capacity() + self.times.capacity()) * 4
            + self.wide_steps.capacity() * 8
            + self.epoch.bytes()
            + self.samples.bytes()
            + (self.buckets.capacity() + self.wide_buckets.capacity()) * size_of::<Bucket>()
    }
}

/// Where a block begins: all heads together are small enough to stay near the processor while blocks are not.
#[derive(Clone, Copy, Debug)]
struct Head {
    step: u64,
    epoch: f64,
    samples: f64,
    time: f64,
}

impl Head {
    fn x(&self, axis: XAxis, origin: f64) -> f64 {
        match axis {
            XAxis::Step => self.step as f64,
            XAxis::Epoch => self.epoch,
            XAxis::Samples => self.samples,
            XAxis::Relative => self.time - origin,
            XAxis::Wall => self.time,
        }
    }
}

/// Every point of one scalar metric of one run. Cloning shares all full blocks.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// When the run began: the zero of [`XAxis::Relative`].
    origin: f64,
    blocks: Vec<Arc<Block>>,
    /// The first point of each block.
    heads: Vec<Head>,
    /// Level 0: a bucket for each full block; level n: one for each 16 full ones of level n - 1.
    levels: Vec<Vec<Bucket>>,
    len: usize,
    bad: usize,
    last: Option<Point>,
    version: u64,
}

impl Series {
    /// A series without points of a run that began at `origin`, in seconds since 1970.
    pub fn new(origin: f64) -> Series {
        Series { origin, ..Series::default() }
    }

    /// Adds a point. x never goes back: a step, epoch, sample count or time below the last one's counts as the last one's.
    pub fn push(&mut self, row: &Scalar) {
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        let (mut step, mut epoch, mut samples, mut time) = (row.at.step, finite(row.at.epoch), row.at.samples as f64, finite(row.time));
        if let Some(last) = self.last {
            step = step.max(last.step);
            epoch = epoch.max(last.epoch);
            samples = samples.max(last.samples);
            time = time.max(last.time);
        }
        // Values beyond f32 are kept as its greatest, so that they stay finite.
        let value = if row.value.is_finite() { row.value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 } else { row.value as f32 };
        if self.len.is_multiple_of(BLOCK) {
            self.blocks.push(Arc::new(Block::new(step, epoch, samples, time)));
            self.heads.push(Head { step, epoch, samples, time });
        }
        let tail = self.blocks.len() - 1;
        let block = Arc::make_mut(&mut self.blocks[tail]);
        block.push(step, epoch, samples, time, value);
        self.last = Some(block.point(block.len() - 1));
        if block.len() == BLOCK {
            block.shrink();
            let mut full = Bucket::EMPTY;
            block.fold(0, BLOCK, &mut full);
            self.add_full(0, full);
        }
        self.len += 1;
        self.bad += usize::from(!value.is_finite());
        self.version += 1;
    }

    /// Adds the bucket of a full block or group, and the one above when that makes it full.
    fn add_full(&mut self, level: usize, bucket: Bucket) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let buckets = &mut self.levels[level];
        buckets.push(bucket);
        if buckets.len().is_multiple_of(FAN) {
            let mut above = Bucket::EMPTY;
            buckets[buckets.len() - FAN..].iter().for_each(|bucket| above.add(bucket));
            self.add_full(level + 1, above);
        }
    }

    /// Drops every point after `step`: a resume took them back.
    pub fn rewind(&mut self, step: u64) {
        let keep = self.index_where(|point_step| point_step > step);
        if keep == self.len {
            return;
        }
        self.len = keep;
        self.blocks.truncate(keep.div_ceil(BLOCK));
        self.heads.truncate(keep.div_ceil(BLOCK));
        if !keep.is_multiple_of(BLOCK) {
            let tail = self.blocks.len() - 1;
            Arc::make_mut(&mut self.blocks[tail]).truncate(keep % BLOCK);
        }
        let mut full = keep / BLOCK;
        for level in &mut self.levels {
            level.truncate(full);
            full /= FAN;
        }
        self.last = (keep > 0).then(|| self.point(keep - 1));
        let mut all = Bucket::EMPTY;
        self.fold(0, keep, &mut all);
        self.bad = all.bad as usize;
        self.version += 1;
    }

    /// How many points.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No points yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many points are NaN or infinite.
    pub fn bad(&self) -> usize {
        self.bad
    }

    /// Changes with every change of the points: the key of a cached drawing.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The newest point.
    pub fn last(&self) -> Option<Point> {
        self.last
    }

    /// The zero of [`XAxis::Relative`].
    pub fn origin(&self) -> f64 {
        self.origin
    }

    /// Point `index`, in the order of the rows.
    ///
    /// # Panics
    /// If `index` is not below [`Series::len`].
    pub fn point(&self, index: usize) -> Point {
        self.blocks[index / BLOCK].point(index % BLOCK)
    }

    /// All points, decoded; for exports and tests.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        (0..self.len).map(|index| self.point(index))
    }

    /// x of point `index`.
    pub fn x(&self, axis: XAxis, index: usize) -> f64 {
        if index.is_multiple_of(BLOCK) {
            return self.heads[index / BLOCK].x(axis, self.origin);
        }
        self.blocks[index / BLOCK].x(axis, index % BLOCK, self.origin)
    }

    /// Least and greatest x; `None` without points.
    pub fn x_range(&self, axis: XAxis) -> Option<(f64, f64)> {
        (self.len > 0).then(|| (self.x(axis, 0), self.x(axis, self.len - 1)))
    }

    /// Least and greatest finite value; `None` if there is none.
    pub fn y_range(&self) -> Option<(f64, f64)> {
        let mut all = Bucket::EMPTY;
        self.fold(0, self.len, &mut all);
        (all.count > 0).then(|| (f64::from(all.min), f64::from(all.max)))
    }

    /// The least (`greatest`: the greatest) finite value and where it was first reached. Cost: a few buckets of each level.
    pub fn best(&self, greatest: bool) -> Option<Point> {
        let (min, max) = self.y_range()?;
        let wanted = if greatest { max } else { min } as f32;
        let has = |bucket: &Bucket| bucket.count > 0 && (if greatest { bucket.max } else { bucket.min }) == wanted;
        let full = self.levels.first().map_or(&[][..], |level| level);
        let block_index = full.iter().position(has).unwrap_or(full.len());
        let block = self.blocks.get(block_index)?;
        let index = block.values.iter().position(|&value| value == wanted)?;
        Some(block.point(index))
    }

    /// The point nearest to `x`; the later one of two that are equally near.
    pub fn nearest(&self, axis: XAxis, x: f64) -> Option<Point> {
        if self.len == 0 {
            return None;
        }
        let after = self.index_at(axis, x);
        if after == self.len {
            return self.last;
        }
        let is_before = after > 0 && x - self.x(axis, after - 1) < self.x(axis, after) - x;
        Some(self.point(if is_before { after - 1 } else { after }))
    }

    /// The last point before the range and the first one after it: where a line enters and leaves a plot.
    pub fn neighbours(&self, axis: XAxis, range: (f64, f64)) -> (Option<Point>, Option<Point>) {
        let (from, to) = (self.index_at(axis, range.0), self.index_after(axis, range.1));
        (from.checked_sub(1).map(|index| self.point(index)), (to < self.len).then(|| self.point(to)))
    }

    /// What to draw of the closed range in `columns` columns of equal width, in order; a column without points is left out.
    ///
    /// Cost: some hundred reads a column, however many points it holds.
    pub fn view(&self, axis: XAxis, range: (f64, f64), columns: usize) -> Vec<Column> {
        self.view_between(axis, even_edges(range, columns))
    }

    /// The same between any ascending edges, such as those of a logarithmic axis: a column holds `edge <= x < next edge`, the last one its end too.
    pub fn view_between(&self, axis: XAxis, edges: impl IntoIterator<Item = f64>) -> Vec<Column> {
        let edges: Vec<f64> = edges.into_iter().collect();
        self.view_edges(axis, &edges, 0.0, Detail::Exact)
    }

    /// [`Series::view`] with `smoothed` filled in: an exponential mean of half-life `half_life`, in units of the axis, of what lies before each
    /// column, without the bias towards the first value. It weighs points by their distance along x and not by how often they were logged, and
    /// begins before the view, so that it does not change with the zoom.
    pub fn view_smoothed(&self, axis: XAxis, range: (f64, f64), columns: usize, half_life: f64) -> Vec<Column> {
        self.view_edges(axis, &even_edges(range, columns), half_life, Detail::Exact)
    }

    /// [`Series::view_between`], smoothed where `half_life` is above 0, as closely as `detail` says.
    pub fn view_edges(&self, axis: XAxis, edges: &[f64], half_life: f64, detail: Detail) -> Vec<Column> {
        let (Some(&first), Some(&last)) = (edges.first(), edges.last()) else { return Vec::new() };
        if self.len == 0 || !first.is_finite() || !last.is_finite() || last < first {
            return Vec::new();
        }
        let begin = self.index_at(axis, first);
        let mut view = self.columns_from(axis, edges, begin, detail);
        if half_life > 0.0 && half_life.is_finite() && !view.is_empty() {
            let mut mean = Smoother::new(half_life);
            if begin > 0 {
                let (start, end) = (self.x(axis, 0), self.x(axis, begin - 1));
                let edges: Vec<f64> =
                    warm_up_edges().map(|half_lives| (first - half_lives * half_life).clamp(start, end)).chain([end]).collect();
                let from = self.index_at(axis, edges[0]);
                for column in self.columns_from(axis, &edges, from, Detail::Quick) {
                    mean.add(&column);
                }
            }
            for column in &mut view {
                column.smoothed = mean.add(column);
            }
        }
        view
    }

    /// Columns between edges of which the first is at point `begin`.
    fn columns_from(&self, axis: XAxis, edges: &[f64], begin: usize, detail: Detail) -> Vec<Column> {
        let mut columns = Vec::with_capacity(edges.len());
        let Some(last_edge) = edges.len().checked_sub(1) else { return columns };
        let end = self.index_after(axis, edges[last_edge]);
        let points_each = end.saturating_sub(begin) / last_edge.max(1);
        let mut from = begin;
        for (index, &edge) in edges.iter().enumerate().skip(1) {
            if from >= end {
                break;
            }
            // Beyond one column nothing is searched for when the next point is.
            if index < last_edge && self.x(axis, from) >= edge {
                continue;
            }
            let guess = from + points_each;
            let to = match detail {
                _ if index == last_edge => end,
                // Whole blocks, by their heads alone.
                Detail::Quick if points_each >= 2 * BLOCK => {
                    let block = self.block_near(axis, edge, guess);
                    let is_nearer = |block: usize| {
                        block < self.heads.len()
                            && self.heads[block].x(axis, self.origin) - edge < edge - self.heads[block - 1].x(axis, self.origin)
                    };
                    let block = if block > 0 && !is_nearer(block) { block - 1 } else { block };
                    (block * BLOCK).clamp(from, end)
                }
                Detail::Quick if points_each >= 8 * FAN => {
                    let to = self.index_near(axis, edge, guess);
                    ((to + FAN / 2) / FAN * FAN).clamp(from, end)
                }
                _ => self.index_near(axis, edge, guess).clamp(from, end),
            };
            if to > from {
                columns.push(self.column(axis, from, to, detail));
                from = to;
            }
        }
        columns
    }

    /// The first block that does not begin before `x`, looked for around point `guess`.
    fn block_near(&self, axis: XAxis, x: f64, guess: usize) -> usize {
        gallop(self.heads.len(), guess / BLOCK + 1, |block| self.heads[block].x(axis, self.origin) < x)
    }

    /// The first point at or after `x`, looked for around point `guess`. Reads one block.
    fn index_near(&self, axis: XAxis, x: f64, guess: usize) -> usize {
        let next = self.block_near(axis, x, guess);
        let Some(block_index) = next.checked_sub(1) else { return 0 };
        let block = &self.blocks[block_index];
        let begin = self.heads[block_index].x(axis, self.origin);
        // Points are about evenly spaced within a block.
        let part = match self.heads.get(next) {
            Some(head) => (x - begin) / (head.x(axis, self.origin) - begin),
            None => guess.saturating_sub(block_index * BLOCK) as f64 / BLOCK as f64,
        };
        let guess = (part.clamp(0.0, 1.0) * BLOCK as f64) as usize;
        block_index * BLOCK + gallop(block.len(), guess, |index| block.x(axis, index, self.origin) < x)
    }

    /// The points of a closed range, decoded.
    pub fn points_between(&self, axis: XAxis, range: (f64, f64)) -> impl Iterator<Item = Point> + '_ {
        let (from, to) = (self.index_at(axis, range.0), self.index_after(axis, range.1));
        (from..to.max(from)).map(|index| self.point(index))
    }

    /// How many points of the closed range stand at zero or before: they have no place on a logarithmic x axis.
    pub fn not_positive_x(&self, axis: XAxis) -> usize {
        self.index_after(axis, 0.0)
    }

    /// Bytes of memory that the points and the pyramid take.
    pub fn bytes(&self) -> usize {
        let levels: usize = self.levels.iter().map(|level| level.capacity() * size_of::<Bucket>()).sum();
        size_of::<Series>()
            + self.blocks.capacity() * (size_of::<Arc<Block>>() + size_of::<Head>())
            + self.blocks.iter().map(|block| block.bytes()).sum::<usize>()
            + levels
    }

    fn column(&self, axis: XAxis, from: usize, to: usize, detail: Detail) -> Column {
        let mut all = Bucket::EMPTY;
        self.fold(from, to, &mut all);
        let x_first = self.x(axis, from);
        let x_last = match detail {
            // The point after, whose block is not read.
            Detail::Quick if to.is_multiple_of(BLOCK) && to < self.len => self.x(axis, to),
            _ => self.x(axis, to - 1),
        };
        let or_nan = |value: f32| if all.count > 0 { f64::from(value) } else { f64::NAN };
        let mean = if all.count > 0 { all.sum / f64::from(all.count) } else { f64::NAN };
        Column {
            x: x_first + (x_last - x_first) / 2.0,
            x_first,
            x_last,
            min: or_nan(all.min),
            max: or_nan(all.max),
            first: or_nan(all.first),
            last: or_nan(all.last),
            mean,
            smoothed: mean,
            count: all.count,
            not_positive: all.not_positive,
            bad: all.bad,
            has_gap: all.bad > 0,
        }
    }

    /// Everything in points `from..to`, onto `total`.
    fn fold(&self, from: usize, to: usize, total: &mut Bucket) {
        let mut index = from;
        while index < to {
            let block_index = index / BLOCK;
            let within = index % BLOCK;
            if within == 0 && index + BLOCK <= to {
                // The greatest group that begins here, ends before `to` and is full.
                let (mut level, mut size) = (0, 1);
                while block_index.is_multiple_of(size * FAN)
                    && index + size * FAN * BLOCK <= to
                    && self.levels.get(level + 1).is_some_and(|above| block_index / (size * FAN) < above.len())
                {
                    level += 1;
                    size *= FAN;
                }
                total.add(&self.levels[level][block_index / size]);
                index += size * BLOCK;
            } else {
                let end = (BLOCK - within).min(to - index);
                self.blocks[block_index].fold(within, within + end, total);
                index += end;
            }
        }
    }

    /// Index of the first point at or after `x`.
    fn index_at(&self, axis: XAxis, x: f64) -> usize {
        self.index_by(|block, index| block.x(axis, index, self.origin) >= x)
    }

    /// Index of the first point after `x`.
    fn index_after(&self, axis: XAxis, x: f64) -> usize {
        self.index_by(|block, index| block.x(axis, index, self.origin) > x)
    }

    /// Index of the first point whose step is so.
    fn index_where(&self, is: impl Fn(u64) -> bool) -> usize {
        self.index_by(|block, index| is(block.step_base + block.steps_after(index)))
    }

    /// Index of the first point for which `is` holds; it holds for all after that one.
    fn index_by(&self, is: impl Fn(&Block, usize) -> bool) -> usize {
        let block_index = self.blocks.partition_point(|block| !is(block, block.len() - 1));
        let Some(block) = self.blocks.get(block_index) else { return self.len };
        block_index * BLOCK + gallop(block.len(), block.len() / 2, |index| !is(block, index))
    }
}

/// The first of `0..len` for which `is_before` does not hold; it holds for all before that one. Looks around `guess` first.
fn gallop(len: usize, guess: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    let mut stride = 1;
    let guess = guess.min(len);
    if guess < len && is_before(guess) {
        low = guess + 1;
        while low + stride < len {
            if !is_before(low + stride) {
                high = low + stride;
                break;
            }
            low += stride + 1;
            stride *= 4;
        }
    } else {
        high = guess;
        while high > 0 {
            let at = high.saturating_sub(stride);
            if is_before(at) {
                low = at + 1;
                break;
            }
            high = at;
            stride *= 4;
        }
    }
    while low < high {
        let middle = usize::midpoint(low, high);
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// `columns` columns of equal width over a closed range.
fn even_edges((from, to): (f64, f64), columns: usize) -> Vec<f64> {
    let width = to - from;
    if columns == 0 || !width.is_finite() || width < 0.0 {
        return Vec::new();
    }
    (0..columns).map(|index| from + width * (index as f64 / columns as f64)).chain([to]).collect()
}

/// Edges of the columns before a smoothed view, in half-lives before it: fine near it, coarser where little weight is left. A column a sixteenth of a
/// half-life wide, taken as one point in its middle, weighs wrong by (ln 2 / 16)^2 / 24, a ten-thousandth.
fn warm_up_edges() -> impl Iterator<Item = f64> {
    let coarse = (0..32).map(|index| WARM_UP_HALF_LIVES - f64::from(index) * 0.25);
    let fine = (0..32).map(|index| 2.0 - f64::from(index) / 16.0);
    coarse.chain(fine)
}

/// An exponential mean along x, without the bias of a first value: with weight `n` so far,
/// `n = n 2^(-dx / half_life) + count`, `mean += (value - mean) count / n`.
struct Smoother {
    half_life: f64,
    weight: f64,
    mean: f64,
    x: f64,
}

impl Smoother {
    fn new(half_life: f64) -> Smoother {
        Smoother { half_life, weight: 0.0, mean: 0.0, x: f64::NAN }
    }

    /// Takes a column in and returns the mean so far; NaN before the first finite value.
    fn add(&mut self, column: &Column) -> f64 {
        if column.count > 0 {
            let count = f64::from(column.count);
            let decay = if self.x.is_nan() { 0.0 } else { (-(column.x - self.x) / self.half_life).exp2() };
            self.weight = self.weight * decay + count;
            self.mean += (column.mean - self.mean) * count / self.weight;
            self.x = column.x;
        }
        if self.weight > 0.0 { self.mean } else { f64::NAN }
    }
}
