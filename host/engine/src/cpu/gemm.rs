//! Matrix products through the `gemm` crate, whose interface is raw pointers: the one place of the CPU device with `unsafe`.
//!
//! Each element of a product is one chain of fused multiply-adds over `inner`, cut only by the size of `inner`; threads share rows and columns, never a
//! sum, so the result does not depend on their number (`dot.rs` tests it).
#![allow(unsafe_code)]

use gemm::Parallelism;

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
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `check` asserted that every element that the sizes and strides reach lies within the slices; `out`, being borrowed mutably, overlaps neither
    // operand. f32 is a type that gemm supports.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.data.as_mut_ptr().wrapping_add(out.offset),
            out.column_stride,
            out.row_stride,
            result == Result::AddTo,
            lhs.data.as_ptr().wrapping_add(lhs.offset),
            lhs.column_stride,
            lhs.row_stride,
            rhs.data.as_ptr().wrapping_add(rhs.offset),
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
}

/// Asserts that every element of a matrix that is not empty lies within its slice.
fn check(matrix: &Matrix, rows: usize, columns: usize) {
    let reach = |count: usize, stride: isize| (count as isize - 1).checked_mul(stride).expect("a stride within memory");
    let (down, across) = (reach(rows, matrix.row_stride), reach(columns, matrix.column_stride));
    let first = matrix.offset as isize + down.min(0) + across.min(0);
    let last = matrix.offset as isize + down.max(0) + across.max(0);
    assert!(first >= 0 && (last as usize) < matrix.data.len(), "a matrix lies within its buffer");
}
