//! `Attention`: a batch entry at a time, a block of queries at a time, so that the scores of a block stay in the cache and are never written.
//!
//! Entries are spread over threads by the leading batch axes whose results are apart; within an entry the order is fixed. The gradient works the weights out
//! anew from the sums that the forward kernel kept. Source: Dao et al., "FlashAttention", 2022, for the algebra; whole rows of scores fit here, so no running maximum.

use super::CpuKernel;
use super::gemm::{Matrix, MatrixMut, Result as Product, multiply, multiply_into};
use super::math;
use super::memory::{Units, Words};
use crate::kernel::{AttentionPass, KernelOp, MatrixView};
use rayon::prelude::*;
use solstice_ir::{element_count, strides_of};
use std::cell::RefCell;

/// Scores of a block: two such matrices fill half of a second-level cache.
const BLOCK_SCORES: usize = 1 << 16;

/// Queries of a block at most: with a causal mask, keys beyond the last one are left out.
const BLOCK_QUERIES: usize = 64;

/// Parts of the batch from which threads are busy.
const PARTS_WANTED: usize = 8;

pub(super) struct Attention {
    sizes: Sizes,
    q: Operand,
    k: Operand,
    v: Operand,
    backward: Option<Backward>,
    /// The result and where it is wanted the log sums, or what flows to q, k and v.
    results: Vec<Operand>,
    /// Rows and columns of each result of a batch entry.
    shapes: Vec<(usize, usize)>,
    /// Units that are written, each once.
    written: Vec<usize>,
    /// Batch entries that are one after the other in every result, and the words that they take in each written unit.
    apart: Option<Apart>,
}

/// How results are cut: each part of `entries` batch entries writes `words[unit]` words of its own, from `first[unit]` on.
struct Apart {
    entries: usize,
    first: Vec<usize>,
    words: Vec<usize>,
}

/// What the gradient reads beside q, k and v.
struct Backward {
    result: Operand,
    log_sums: usize,
    grad: Operand,
}

struct Sizes {
    batch: Vec<usize>,
    queries: usize,
    keys: usize,
    dim: usize,
    width: usize,
    scale: f32,
    causal: bool,
}

struct Operand {
    unit: usize,
    view: MatrixView,
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Attention {
    pub(super) fn new(op: &KernelOp, unit_of: &[usize]) -> Attention {
        let KernelOp::Attention { batch, queries, keys, dim, width, scale, causal, qkv, pass } = op else {
            unreachable!("only attention comes here")
        };
        let operand = |view: &MatrixView| Operand { unit: unit_of[view.buffer.index()], view: view.clone() };
        let [q, k, v] = qkv.each_ref().map(operand);
        let (queries, keys, dim, width) = (*queries, *keys, *dim, *width);
        let (backward, results, shapes): (_, Vec<Operand>, _) = match pass {
            AttentionPass::Forward { to, log_sums } => {
                // Dense: one a query.
                let mut strides: Vec<isize> =
                    strides_of(&[&batch[..], &[queries]].concat()).into_iter().map(|stride| stride as isize).collect();
                let row_stride = strides.pop().expect("one axis at least");
                let log_sums =
                    log_sums.map(|buffer| MatrixView { buffer, offset: 0, batch_strides: strides, row_stride, column_stride: 1 });
                let results: Vec<Operand> = [to].into_iter().chain(&log_sums).map(operand).collect();
                (None, results, vec![(queries, width), (queries, 1)])
            }
            AttentionPass::Gradient { result, log_sums, grad, to } => {
                let backward = Backward { result: operand(result), log_sums: unit_of[log_sums.index()], grad: operand(grad) };
                (Some(backward), to.iter().map(operand).collect(), vec![(queries, dim), (keys, dim), (keys, width)])
            }
        };
        let mut written: Vec<usize> = results.iter().map(|result| result.unit).collect();
        written.sort_unstable();
        written.dedup();
        let sizes = Sizes { batch: batch.clone(), queries, keys, dim, width, scale: *scale as f32, causal: *causal };
        let apart = apart(&sizes.batch, &results, &shapes, &written);
        Attention { sizes, q, k, v, backward, results, shapes, written, apart }
    }
}

/// The longest leading batch axes whose entries lie apart in every unit.
fn apart(batch: &[usize], results: &[Operand], shapes: &[(usize, usize)], written: &[usize]) -> Option<Apart> {
    // First and last word of a result within the entries of axes `axis..`.
    let reach = |result: &Operand, (rows, columns): (usize, usize), axis: usize| -> Option<(usize, usize)> {
        let view = &result.view;
        let inner = batch[axis..].iter().copied().zip(view.batch_strides[axis..].iter().copied());
        let axes = inner.chain([(rows, view.row_stride), (columns, view.column_stride)]);
        let mut last = view.offset;
        for (size, stride) in axes {
            last += (size - 1) * usize::try_from(stride).ok()?;
        }
        Some((view.offset, last))
    };
    for axis in (1..=batch.len()).rev() {
        let entries: usize = batch[axis..].iter().product();
        let mut first = vec![usize::MAX; written.len()];
        let mut last = vec![0; written.len()];
        let mut step = vec![None; written.len()];
        let mut is_apart = true;
        for (result, shape) in results.iter().zip(shapes) {
            let place = written.iter().position(|unit| *unit == result.unit)?;
            let (low, high) = reach(result, *shape, axis)?;
            (first[place], last[place]) = (first[place].min(low), last[place].max(high));
            // The axes before must walk as one, with the same step for all results of a unit.
            let stride = merged_step(&batch[..axis], &result.view.batch_strides[..axis]);
            is_apart &= stride.is_some() && step[place].is_none_or(|known| known == stride);
            step[place] = Some(stride);
        }
        let words: Option<Vec<usize>> = step.into_iter().map(|step| step.flatten()).collect();
        if let (true, Some(words)) = (is_apart, words)
            && (0..written.len()).all(|place| last[place] - first[place] < words[place])
        {
            return Some(Apart { entries, first, words });
        }
    }
    None
}

/// Step of leading axes that walk as one; with one entry any step does.
fn merged_step(sizes: &[usize], strides: &[isize]) -> Option<usize> {
    let mut axes = sizes.iter().zip(strides).filter(|(size, _)| **size != 1).rev();
    let Some((&size, &innermost)) = axes.next() else { return Some(usize::MAX) };
    let mut reach = innermost * size as isize;
    for (&size, &stride) in axes {
        if stride != reach {
            return None;
        }
        reach *= size as isize;
    }
    usize::try_from(innermost).ok()
}

/// Where a result of one batch entry is: within a chunk of the written units.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    offset: usize,
    row_stride: isize,
    column_stride: isize,
}

impl Operand {
    /// Element of the unit at which batch entry `entry` begins.
    fn offset(&self, batch: &[usize], entry: usize) -> usize {
        let mut rest = entry;
        let mut offset = self.view.offset as isize;
        for (size, stride) in batch.iter().zip(&self.view.batch_strides).rev() {
            offset += (rest % size) as isize * stride;
            rest /= size;
        }
        offset as usize
    }

    fn matrix<'a>(&self, units: &'a Units, batch: &[usize], entry: usize) -> Matrix<'a> {
        Matrix {
            data: units.get(self.unit).floats(),
            offset: self.offset(batch, entry),
            row_stride: self.view.row_stride,
            column_stride: self.view.column_stride,
        }
    }
}

impl Matrix<'_> {
    /// Without the rows before `row`.
    fn from(mut self, row: usize) -> Self {
        self.offset += row * self.row_stride as usize;
        self
    }

    fn transposed(mut self) -> Self {
        std::mem::swap(&mut self.row_stride, &mut self.column_stride);
        self
    }
}

impl Place {
    /// Without the rows before `row`.
    fn from(mut self, row: usize) -> Self {
        self.offset += row * self.row_stride as usize;
        self
    }

    fn of<'a>(&self, chunks: &'a mut [&mut [f32]]) -> MatrixMut<'a> {
        MatrixMut { data: &mut *chunks[self.chunk], offset: self.offset, row_stride: self.row_stride, column_stride: self.column_stride }
    }

    /// Zeros in all elements.
    fn clear(&self, chunks: &mut [&mut [f32]], rows: usize, columns: usize) {
        if self.column_stride == 1 {
            let first = |row: usize| self.offset + row * self.row_stride as usize;
            (0..rows).for_each(|row| chunks[self.chunk][first(row)..][..columns].fill(0.0));
        } else {
            self.for_each_row(chunks, rows, columns, |_, element| *element = 0.0);
        }
    }

    fn for_each_row(&self, chunks: &mut [&mut [f32]], rows: usize, columns: usize, mut each: impl FnMut(usize, &mut f32)) {
        for row in 0..rows {
            for column in 0..columns {
                let at = self.offset as isize + row as isize * self.row_stride + column as isize * self.column_stride;
                each(row, &mut chunks[self.chunk][at as usize]);
            }
        }
    }
}

impl CpuKernel for Attention {
    fn run(&self, units: &mut Units) {
        let mut taken: Vec<Words> = self.written.iter().map(|&unit| units.take(unit)).collect();
        let entries = element_count(&self.sizes.batch);
        let mut whole: Vec<&mut [f32]> = taken.iter_mut().map(Words::floats_mut).collect();
        match &self.apart {
            Some(apart) if entries / apart.entries >= PARTS_WANTED.min(entries) => self.run_apart(units, apart, entries, whole),
            _ => self.run_staged(units, entries, &mut whole),
        }
        self.written.iter().zip(taken).for_each(|(&unit, words)| units.put(unit, words));
    }
}

impl Attention {
    /// Each part of the batch writes its own stretch of every unit.
    fn run_apart(&self, units: &Units, apart: &Apart, entries: usize, whole: Vec<&mut [f32]>) {
        let mut parts: Vec<Vec<&mut [f32]>> = (0..entries / apart.entries).map(|_| Vec::with_capacity(self.written.len())).collect();
        for (unit, (data, (&first, &words))) in whole.into_iter().zip(apart.first.iter().zip(&apart.words)).enumerate() {
            let mut rest = &mut data[first..];
            for part in &mut parts {
                let (chunk, more) = rest.split_at_mut(words.min(rest.len()));
                debug_assert_eq!(part.len(), unit, "a chunk of each unit, in their order");
                part.push(chunk);
                rest = more;
            }
        }
        parts.into_par_iter().enumerate().for_each(|(part, mut chunks)| {
            for entry in part * apart.entries..(part + 1) * apart.entries {
                let place = |result: &Operand| {
                    let chunk = self.written.iter().position(|unit| *unit == result.unit).expect("collected when it was made");
                    let start = apart.first[chunk] + part * apart.words[chunk];
                    let offset = result.offset(&self.sizes.batch, entry) - start;
                    Place { chunk, offset, row_stride: result.view.row_stride, column_stride: result.view.column_stride }
                };
                self.run_entry(units, entry, &mut chunks, &self.results.iter().map(place).collect::<Vec<_>>());
            }
        });
    }

    /// Where the results of batch entries lie between each other: densely first, then copied to their places.
    fn run_staged(&self, units: &Units, entries: usize, whole: &mut [&mut [f32]]) {
        let shapes = &self.shapes[..self.results.len()];
        let size: usize = shapes.iter().map(|(rows, columns)| rows * columns).sum();
        let mut offset = 0;
        let places: Vec<Place> = shapes
            .iter()
            .map(|&(rows, columns)| {
                offset += rows * columns;
                Place { chunk: 0, offset: offset - rows * columns, row_stride: columns as isize, column_stride: 1 }
            })
            .collect();
        let mut staged = vec![0.0; entries * size];
        staged.par_chunks_mut(size).enumerate().for_each(|(entry, staged)| self.run_entry(units, entry, &mut [staged], &places));
        for (entry, staged) in staged.chunks(size).enumerate() {
            for ((result, from), &(rows, columns)) in self.results.iter().zip(&places).zip(shapes) {
                let chunk = self.written.iter().position(|unit| *unit == result.unit).expect("collected when it was made");
                let (row_stride, column_stride) = (result.view.row_stride, result.view.column_stride);
                let to = Place { chunk, offset: result.offset(&self.sizes.batch, entry), row_stride, column_stride };
                let mut values = staged[from.offset..][..rows * columns].iter();
                to.for_each_row(whole, rows, columns, |_, element| *element = *values.next().expect("as many as there are places"));
            }
        }
    }

    fn run_entry(&self, units: &Units, entry: usize, chunks: &mut [&mut [f32]], places: &[Place]) {
        let Sizes { batch, queries, keys, dim, width, scale, causal } = &self.sizes;
        let (queries, keys, dim, width) = (*queries, *keys, *dim, *width);
        let matrix = |operand: &Operand| operand.matrix(units, batch, entry);
        let (q, k, v) = (matrix(&self.q), matrix(&self.k), matrix(&self.v));
        let block = (BLOCK_SCORES / keys).clamp(1, BLOCK_QUERIES);
        let mut scratch = SCRATCH.take();
        if scratch.len() < 2 * block * keys {
            scratch.resize(2 * block * keys, 0.0);
        }
        let mut sums = [0.0; BLOCK_QUERIES];
        if let [_, to_k, to_v] = places {
            to_k.clear(chunks, keys, dim);
            to_v.clear(chunks, keys, width);
        }
        let mut first = 0;
        while first < queries {
            let rows = block.min(queries - first);
            let seen = if *causal { keys.min(first + rows) } else { keys };
            let (weights, flow) = scratch.split_at_mut(block * keys);
            let (weights, flow) = (&mut weights[..rows * seen], &mut flow[..rows * seen]);
            multiply(rows, seen, dim, weights, Product::Replace, q.from(first), k.transposed(), false);
            let as_matrix = |data| Matrix { data, offset: 0, row_stride: seen as isize, column_stride: 1 };
            let seen_by = Rows { columns: seen, first_seen: if *causal { first + 1 } else { seen }, scale: *scale };
            match (&self.backward, places) {
                (None, [to, log_sums @ ..]) => {
                    let sums = &mut sums[..rows];
                    pulp::Arch::new().dispatch(Softmax { rows: &seen_by, scores: weights, log_sums: sums });
                    if let [to] = log_sums {
                        to.from(first).for_each_row(chunks, rows, 1, |row, element| *element = sums[row]);
                    }
                    multiply_into(rows, width, seen, to.from(first).of(chunks), Product::Replace, as_matrix(weights), v, false);
                }
                (Some(backward), [to_q, to_k, to_v]) => {
                    let log_sums = &units.get(backward.log_sums).floats()[entry * queries + first..][..rows];
                    pulp::Arch::new().dispatch(Weights { rows: &seen_by, scores: weights, log_sums });
                    let grad = matrix(&backward.grad).from(first);
                    multiply_into(seen, width, rows, to_v.of(chunks), Product::AddTo, as_matrix(weights).transposed(), grad, false);
                    multiply(rows, seen, width, flow, Product::Replace, grad, v.transposed(), false);
                    let sums = &mut sums[..rows];
                    let left = matrix(&backward.result).from(first);
                    pulp::Arch::new().dispatch(RowProducts { left, right: grad, columns: width, sums });
                    pulp::Arch::new().dispatch(WeightsGrad { rows: &seen_by, weights, flow, sums });
                    multiply_into(rows, dim, seen, to_q.from(first).of(chunks), Product::Replace, as_matrix(flow), k, false);
                    multiply_into(seen, dim, rows, to_k.of(chunks), Product::AddTo, as_matrix(flow).transposed(), q.from(first), false);
                }
                _ => unreachable!("two results forward at most, three in the gradient"),
            }
            first += rows;
        }
        SCRATCH.set(scratch);
    }
}

const LANES: usize = 16;

/// A block of rows of scores.
struct Rows {
    columns: usize,
    /// Row `i` sees its first `first_seen + i` columns.
    first_seen: usize,
    scale: f32,
}

impl Rows {
    /// What a row sees, in whole chunks of [`LANES`] where there are as many columns; the rest; and how many columns it sees. A loop over whole chunks costs a
    /// sixteenth of one over single elements, so a few hidden columns are computed along.
    #[inline(always)]
    fn split<'a>(&self, row: usize, scores: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32], usize) {
        let seen = (self.first_seen + row).min(self.columns);
        let (scores, hidden) = scores.split_at_mut(seen.next_multiple_of(LANES).min(self.columns));
        (scores, hidden, seen)
    }
}

/// Calls `whole(chunk, seen)` for the chunks of `scores`, the first `seen` of whose lanes count, and `single(score, lane, is_seen)` for what is left. A macro, not a
/// function of closures: the bodies must be compiled into the caller's instruction set.
macro_rules! each_chunk {
    ($scores:expr, $seen:expr, |$chunk:ident, $left:ident| $whole:block, |$score:ident, $lane:ident, $is_seen:ident| $single:block) => {
        let seen: usize = $seen;
        let (chunks, tail) = $scores.as_chunks_mut::<LANES>();
        let first = chunks.len() * LANES;
        for (index, $chunk) in chunks.iter_mut().enumerate() {
            let $left = (seen - index * LANES) as u32;
            $whole
        }
        for ($lane, $score) in tail.iter_mut().enumerate() {
            let $is_seen = first + $lane < seen;
            $single
        }
    };
}

/// Scores become weights, 0 where a row does not see; `log_sums` are made.
struct Softmax<'a> {
    rows: &'a Rows,
    scores: &'a mut [f32],
    log_sums: &'a mut [f32],
}

impl pulp::WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let scale = self.rows.scale;
        let mut largest = [0.0; BLOCK_QUERIES];
        for (row, (scores, sum_of_row)) in self.scores.chunks_exact_mut(self.rows.columns).zip(self.log_sums.iter_mut()).enumerate() {
            let (scores, hidden, seen) = self.rows.split(row, scores);
            let mut most = [f32::NEG_INFINITY; LANES];
            each_chunk!(
                scores,
                seen,
                |chunk, left| {
                    for lane in 0..LANES {
                        chunk[lane] *= scale;
                        let score = if (lane as u32) < left { chunk[lane] } else { f32::NEG_INFINITY };
                        most[lane] = math::maximum(most[lane], score);
                    }
                },
                |score, lane, is_seen| {
                    *score *= scale;
                    most[lane] = math::maximum(most[lane], if is_seen { *score } else { f32::NEG_INFINITY });
                }
            );
            let most = folded(most, math::maximum);
            let mut sums = [0.0; LANES];
            // Hidden scores go through the exponential as they are: one of -inf would make a subnormal on the way, which takes a hundred times as long.
            each_chunk!(
                scores,
                seen,
                |chunk, left| {
                    for lane in 0..LANES {
                        let weight = math::exp(chunk[lane] - most);
                        chunk[lane] = if (lane as u32) < left { weight } else { 0.0 };
                        sums[lane] += chunk[lane];
                    }
                },
                |score, lane, is_seen| {
                    *score = if is_seen { math::exp(*score - most) } else { 0.0 };
                    sums[lane] += *score;
                }
            );
            let sum = folded(sums, |x, y| x + y);
            let factor = 1.0 / sum;
            scores.iter_mut().for_each(|weight| *weight *= factor);
            hidden.fill(0.0);
            (*sum_of_row, largest[row]) = (sum, most);
        }
        self.log_sums.iter_mut().zip(&largest).for_each(|(sum, most)| *sum = most + math::log(*sum));
    }
}

/// Scores become weights by the log sums that the forward kernel left.
struct Weights<'a> {
    rows: &'a Rows,
    scores: &'a mut [f32],
    log_sums: &'a [f32],
}

impl pulp::WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let scale = self.rows.scale;
        for (row, (scores, log_sum)) in self.scores.chunks_exact_mut(self.rows.columns).zip(self.log_sums).enumerate() {
            let (scores, hidden, seen) = self.rows.split(row, scores);
            each_chunk!(
                scores,
                seen,
                |chunk, left| {
                    for (lane, score) in (0u32..).zip(chunk) {
                        let weight = math::exp(*score * scale - log_sum);
                        *score = if lane < left { weight } else { 0.0 };
                    }
                },
                |score, _lane, is_seen| {
                    *score = if is_seen { math::exp(*score * scale - log_sum) } else { 0.0 };
                }
            );
            hidden.fill(0.0);
        }
    }
}

/// What flows to the weights becomes what flows to the scores: `flow = weights * (flow - sum(flow * weights)) * scale` row by row, where the sum is that of
/// the result and what flows to it.
struct WeightsGrad<'a> {
    rows: &'a Rows,
    weights: &'a [f32],
    flow: &'a mut [f32],
    sums: &'a [f32],
}

impl pulp::WithSimd for WeightsGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Rows { columns, scale, .. } = *self.rows;
        for ((weights, flow), sum) in self.weights.chunks_exact(columns).zip(self.flow.chunks_exact_mut(columns)).zip(self.sums) {
            flow.iter_mut().zip(weights).for_each(|(flow, weight)| *flow = weight * (*flow - sum) * scale);
        }
    }
}

/// Sums of the products of two matrices' elements, row by row.
struct RowProducts<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    columns: usize,
    sums: &'a mut [f32],
}

impl pulp::WithSimd for RowProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        row_products(self.left, self.right, self.columns, self.sums);
    }
}

#[inline(always)]
fn row_products(left: Matrix, right: Matrix, columns: usize, sums: &mut [f32]) {
    for (row, sum) in sums.iter_mut().enumerate() {
        let at = |matrix: &Matrix| matrix.offset + row * matrix.row_stride as usize;
        let (left_start, right_start) = (at(&left), at(&right));
        *sum = if left.column_stride == 1 && right.column_stride == 1 {
            let (left, right) = (&left.data[left_start..][..columns], &right.data[right_start..][..columns]);
            let mut lanes = [0.0; LANES];
            let (left_chunks, right_chunks) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
            let tails = left_chunks.remainder().iter().zip(right_chunks.remainder());
            for (left, right) in left_chunks.zip(right_chunks) {
                for lane in 0..LANES {
                    lanes[lane] += left[lane] * right[lane];
                }
            }
            tails.zip(&mut lanes).for_each(|((left, right), lane)| *lane += left * right);
            folded(lanes, |x, y| x + y)
        } else {
            let element = |matrix: &Matrix, start: usize, column: usize| matrix.data[start + column * matrix.column_stride as usize];
            (0..columns).map(|column| element(&left, left_start, column) * element(&right, right_start, column)).sum()
        };
    }
}

/// The lanes as one, pairwise.
#[inline(always)]
fn folded(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}
