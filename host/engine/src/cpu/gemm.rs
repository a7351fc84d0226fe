//! Matrix products through the `gemm` crate, whose interface is raw pointers: the one place of the CPU device with `unsafe`.
//!
//! Each element of a product is one chain of fused multiply-adds over `inner`, cut only by the size of `inner`; threads share rows and columns, never a
//! sum, so the result does not depend on their number (`dot.rs` tests it).
#![allow(unsafe_code)]

use gemm::Parallelism;
use rayon::prelude::*;

/// Threads up to which each takes its own part of a product's longer side, and packs the other matrix for itself. On two threads that is 1.0 to 1.1 times as
/// fast as parts that `gemm` shares out when the parts are rows, and 1.1 to 1.6 times when they are columns (of results with more columns than rows).
const CUT_THREADS_MAX: usize = 4;

/// Rows or columns of such a part at least.
const CUT_MIN: usize = 48;

/// Columns or rows of such a part at least; `gemm` has another order of sums for vectors, which depends on their length.
const CUT_ACROSS_MIN: usize = 8;

/// A matrix within a slice: element (row, column) at `offset + row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    pub offset: usize,
    pub row_stride: isize,
    pub column_stride: isize,
}

/// What happens to what stands in the result.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Result {
    Replace,
    AddTo,
}

/// A matrix to be written, as [`Matrix`].
pub(super) struct MatrixMut<'a> {
    pub data: &'a mut [f32],
    pub offset: usize,
    pub row_stride: isize,
    pub column_stride: isize,
}

/// [`multiply_into`] a dense `[rows, columns]`.
pub(super) fn multiply(
    rows: usize,
    columns: usize,
    inner: usize,
    out: &mut [f32],
    result: Result,
    lhs: Matrix,
    rhs: Matrix,
    parallel: bool,
) {
    let out = MatrixMut { data: out, offset: 0, row_stride: columns as isize, column_stride: 1 };
    multiply_into(rows, columns, inner, out, result, lhs, rhs, parallel);
}

/// `out = lhs * rhs` (or `out += ..`) with out `[rows, columns]`, lhs `[rows, inner]`, rhs `[inner, columns]`.
pub(super) fn multiply_into(
    rows: usize,
    columns: usize,
    inner: usize,
    out: MatrixMut,
    result: Result,
    lhs: Matrix,
    rhs: Matrix,
    parallel: bool,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    check(&Matrix { data: out.data, offset: out.offset, row_stride: out.row_stride, column_stride: out.column_stride }, rows, columns);
    if inner == 0 {
        if result == Result::Replace {
            let at = |row: usize, column: usize| out.offset as isize + row as isize * out.row_stride + column as isize * out.column_stride;
            (0..rows).for_each(|row| (0..columns).for_each(|column| out.data[at(row, column) as usize] = 0.0));
        }
        return;
    }
    check(&lhs, rows, inner);
    check(&rhs, inner, columns);
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let is_cut = threads <= CUT_THREADS_MAX && rows.max(columns) >= threads * CUT_MIN && rows.min(columns) >= CUT_ACROSS_MIN;
    let parts = if is_cut { threads } else { 1 };
    let parallelism = if threads > parts { Parallelism::Rayon(0) } else { Parallelism::None };
    let side = rows.max(columns).div_ceil(parts).next_multiple_of(16);
    let to = Shared(out.data.as_mut_ptr().wrapping_add(out.offset));
    // Rows or columns `first..first + count` of the result.
    let part = |first: usize, count: usize| {
        let (row, column, rows, columns) = if rows >= columns { (first, 0, count, columns) } else { (0, first, rows, count) };
        let at = |base: *const f32, index: usize, stride: isize| base.wrapping_offset(index as isize * stride);
        let (to_row, to_column) = (row as isize * out.row_stride, column as isize * out.column_stride);
        // SAFETY: `check` asserted that every element that the sizes and strides reach lies within the slices; `out`, being borrowed mutably, overlaps neither
        // operand, and no two parts have an element of it in common, as no two elements of a result share their place. f32 is a type that gemm supports.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                to.pointer().wrapping_offset(to_row + to_column),
                out.column_stride,
                out.row_stride,
                result == Result::AddTo,
                at(lhs.data.as_ptr().wrapping_add(lhs.offset), row, lhs.row_stride),
                lhs.column_stride,
                lhs.row_stride,
                at(rhs.data.as_ptr().wrapping_add(rhs.offset), column, rhs.column_stride),
                rhs.column_stride,
                rhs.row_stride,
                1.0f32,
                1.0f32,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    let longer = rows.max(columns);
    if parts == 1 {
        part(0, longer);
    } else {
        (0..longer.div_ceil(side)).into_par_iter().for_each(|index| part(index * side, side.min(longer - index * side)));
    }
}

/// Where parts of one result are written by several threads.
struct Shared(*mut f32);

// SAFETY: the threads write elements that are apart, and the result outlives them.
unsafe impl Sync for Shared {}

impl Shared {
    fn pointer(&self) -> *mut f32 {
        self.0
    }
}

/// Asserts that every element of a matrix that is not empty lies within its slice.
fn check(matrix: &Matrix, rows: usize, columns: usize) {
    let reach = |count: usize, stride: isize| (count as isize - 1).checked_mul(stride).expect("a stride within memory");
    let (down, across) = (reach(rows, matrix.row_stride), reach(columns, matrix.column_stride));
    let first = matrix.offset as isize + down.min(0) + across.min(0);
    let last = matrix.offset as isize + down.max(0) + across.max(0);
    assert!(first >= 0 && (last as usize) < matrix.data.len(), "a matrix lies within its buffer");
}
