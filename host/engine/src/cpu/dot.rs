//! `Dot`: batched matrix products.

use super::CpuKernel;
use super::gemm::{Matrix, Result, multiply};
use super::memory::Units;
use crate::kernel::{KernelOp, MatrixView};
use rayon::prelude::*;
use solstice_ir::element_count;

/// Multiply-adds from which one product is worth several threads.
const PARALLEL_PRODUCT: usize = 1 << 21;

/// Multiply-adds that one thread takes at once of a batch.
const PARALLEL_BATCH: usize = 1 << 18;

pub(super) struct Dot {
    batch: Vec<usize>,
    rows: usize,
    columns: usize,
    inner: usize,
    lhs: Operand,
    rhs: Operand,
    to: usize,
}

struct Operand {
    unit: usize,
    view: MatrixView,
}

impl Dot {
    pub(super) fn new(op: &KernelOp, unit_of: &[usize]) -> Dot {
        let KernelOp::Dot { batch, rows, columns, inner, lhs, rhs, to, .. } = op else { unreachable!("only dots come here") };
        let operand = |view: &MatrixView| Operand { unit: unit_of[view.buffer.index()], view: view.clone() };
        let (rows, columns, inner) = (*rows, *columns, *inner);
        Dot { batch: batch.clone(), rows, columns, inner, lhs: operand(lhs), rhs: operand(rhs), to: unit_of[to.index()] }
    }

    fn one(&self, units: &Units, entry: usize, out: &mut [f32], parallel: bool) {
        let matrix = |operand: &Operand| -> Matrix<'_> {
            let view = &operand.view;
            let mut rest = entry;
            let mut offset = view.offset as isize;
            for (size, stride) in self.batch.iter().zip(&view.batch_strides).rev() {
                offset += (rest % size) as isize * stride;
                rest /= size;
            }
            Matrix {
                data: units.get(operand.unit).floats(),
                offset: offset as usize,
                row_stride: view.row_stride,
                column_stride: view.column_stride,
            }
        };
        multiply(self.rows, self.columns, self.inner, out, Result::Replace, matrix(&self.lhs), matrix(&self.rhs), parallel);
    }
}

impl CpuKernel for Dot {
    fn run(&self, units: &mut Units) {
        let size = self.rows * self.columns;
        let entries = element_count(&self.batch);
        let work = size * self.inner;
        units.with_written(self.to, |units, words| {
            let out = &mut words.floats_mut()[..entries * size];
            if size == 0 {
            } else if work < PARALLEL_PRODUCT && entries > 1 {
                let at_once = (PARALLEL_BATCH / work.max(1)).max(1);
                out.par_chunks_mut(size).enumerate().with_min_len(at_once).for_each(|(entry, out)| self.one(units, entry, out, false));
            } else {
                out.chunks_mut(size).enumerate().for_each(|(entry, out)| self.one(units, entry, out, work >= PARALLEL_PRODUCT));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads share no sum: see `gemm.rs`.
    #[test]
    fn a_product_has_the_same_bytes_on_one_thread_and_on_several() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads start");
        for (rows, columns, inner) in
            [(130, 517, 783), (1, 4099, 600), (700, 1, 3000), (513, 511, 2), (64, 64, 5000), (8, 300, 700), (901, 9, 70)]
        {
            let values = |count: usize, seed: u32| -> Vec<f32> {
                (0..count).map(|i| (crate::random::rng_bits(seed, 0, 0, i as u32) as f32) / 4e9 - 0.5).collect()
            };
            let (lhs, rhs) = (values(rows * inner, 1), values(inner * columns, 2));
            for (row_stride, column_stride) in [(inner as isize, 1), (1, rows as isize)] {
                let lhs = Matrix { data: &lhs, offset: 0, row_stride, column_stride };
                let rhs = Matrix { data: &rhs, offset: 0, row_stride: columns as isize, column_stride: 1 };
                let mut alone = vec![0.0; rows * columns];
                let mut shared = vec![0.0; rows * columns];
                multiply(rows, columns, inner, &mut alone, Result::Replace, lhs, rhs, false);
                pool.install(|| multiply(rows, columns, inner, &mut shared, Result::Replace, lhs, rhs, true));
                assert_eq!(bytemuck::cast_slice::<f32, u32>(&alone), bytemuck::cast_slice::<f32, u32>(&shared), "{rows} {columns} {inner}");
            }
        }
    }
}
