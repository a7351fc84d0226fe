//! Tensor cores: whether an adapter multiplies on them as `shaders/dot_general_cooperative.wgsl` wants, and whether what comes out is right.
//!
//! That kernel is taken under mixed precision alone, and only after a [`self_test`] when the device is opened: the feature is experimental in wgpu 30, whose
//! compiler writes none of the memory operands that the Vulkan memory model knows for cooperative matrices, so a driver that is within its rights may get it
//! wrong. A mismatch, or any error on the way, and the f16 tiles of `dot_general.wgsl` do the work. How a product is laid out for them is in `dot/cooperative.rs`.
//!
//! No adapter that has run these tests lists the shape: that the text is sound is checked without a device, that the test finds mistakes by giving it some.

use crate::Plan;
use crate::gpu::adapter::Adapter;
use crate::gpu::dot::Choice;
use crate::gpu::launch::choices;
use crate::gpu::runtime::GpuRuntime;
use crate::gpu::tune::Tuning;
use crate::kernel::{Body, Buffer, BufferId, BufferKind, Instruction, Kernel, KernelOp, MatrixView, Port, Register, Store, View};
use crate::session::{ProgramId, Runtime};
use solstice_ir::{DType, TensorType};
use std::fmt;
use std::sync::Arc;

/// What an adapter can do on tensor cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TensorCores {
    /// The adapter does not list 16x16x16 f16 -> f32, or has no subgroups of one size.
    #[default]
    Absent,
    /// The self-test found what it wanted; mixed products run on them.
    Used {
        /// Products that it compared.
        products: usize,
    },
    /// They are there and are left alone: the sentence says why.
    Refused(String),
}

impl fmt::Display for TensorCores {
    /// For the lists of devices.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorCores::Absent => write!(f, "no tensor cores"),
            TensorCores::Used { products } => write!(f, "tensor cores (self-test passed: {products} products)"),
            TensorCores::Refused(why) => write!(f, "tensor cores not used: {why}"),
        }
    }
}

/// What the kernel wants of a device.
pub(super) const FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// True when the adapter lists what the kernel is written for.
pub(super) fn is_listed(adapter: &Adapter) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let handle = &adapter.handle;
    let shapes = handle.cooperative_matrix_properties();
    let is_wanted = |shape: &wgpu::CooperativeMatrixProperties| {
        (shape.m_size, shape.n_size, shape.k_size) == (16, 16, 16) && shape.ab_type == F16 && shape.cr_type == F32
    };
    handle.features().contains(FEATURES) && shapes.iter().any(is_wanted)
}

/// One product of the self-test: `[batch, rows, inner] * [batch, inner, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub rows: usize,
    /// Length of the sums.
    pub inner: usize,
    /// Columns of the result.
    pub columns: usize,
    /// The left operand lies `[batch, inner, rows]`.
    pub lhs_turned: bool,
    /// The right operand lies `[batch, columns, inner]`.
    pub rhs_turned: bool,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turned = |is_turned| if is_turned { " turned" } else { "" };
        let Trial { batch, rows, inner, columns, lhs_turned, rhs_turned } = *self;
        write!(f, "{batch} x {rows}x{inner}{} * {inner}x{columns}{}", turned(lhs_turned), turned(rhs_turned))
    }
}

/// Sizes: one block, whole tiles, ragged edges on every side, long sums, batches.
const SIZES: [[usize; 4]; 6] =
    [[1, 16, 16, 16], [1, 128, 64, 128], [1, 130, 50, 67], [3, 33, 17, 100], [1, 70, 2100, 40], [2, 257, 96, 129]];

/// Times that each product runs: a race need not show at once.
const ROUNDS: usize = 3;

/// What products are run by: the trial and both operands in, the result out.
type Run<'a> = dyn FnMut(&Trial, &[f32], &[f32]) -> Result<Vec<f32>, String> + 'a;

/// Runs products through `run` and compares them with f64; how many there were. Operands hold f16 numbers. Numbers that are exact in every order of the sum come
/// first, so that an element in a wrong place is seen whatever its size, then numbers with all bits of f16.
///
/// Errors: the first mismatch, or what `run` says, as a sentence.
pub fn self_test(run: &mut Run) -> Result<usize, String> {
    compare_all(&SIZES, ROUNDS, run)
}

fn compare_all(sizes: &[[usize; 4]], rounds: usize, run: &mut Run) -> Result<usize, String> {
    let mut count = 0;
    for &[batch, rows, inner, columns] in sizes {
        for form in 0..4 {
            let trial = Trial { batch, rows, inner, columns, lhs_turned: form & 1 == 1, rhs_turned: form & 2 == 2 };
            for is_exact in [true, false] {
                let lhs = numbers(batch * rows * inner, 1, is_exact);
                let rhs = numbers(batch * inner * columns, 2, is_exact);
                let wanted = product(&trial, &lhs, &rhs);
                for _ in 0..rounds {
                    let found = run(&trial, &lhs, &rhs)?;
                    compare(&trial, &found, &wanted, is_exact)?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}

/// The self-test on a device: its own way from a plan to results, with one of the choices that `pick` finds among those for a product (given the number of the
/// trial). The device keeps nothing of it.
pub(super) fn test_device(runtime: &mut GpuRuntime, pick: &dyn Fn(usize, &[Choice]) -> Option<Choice>) -> Result<usize, String> {
    let tuning = runtime.target().tuning.clone();
    let mut loaded: Option<(Trial, ProgramId)> = None;
    let mut trials = 0;
    let result = self_test(&mut |trial, lhs, rhs| {
        let program = match &loaded {
            Some((known, program)) if known == trial => *program,
            _ => {
                let plan = plan_of(trial);
                let all = choices(&plan, runtime.target())?;
                let (_, class, candidates) = all.first().ok_or("the self-test has no product")?;
                let choice = pick(trials, candidates).ok_or_else(|| format!("no kernel takes the self-test's {trial}"))?;
                trials += 1;
                runtime.set_tuning(Tuning::default().with(class, choice));
                let program = runtime.load(Arc::new(plan)).map_err(|error| error.to_string())?;
                loaded = Some((*trial, program));
                program
            }
        };
        let ticket = runtime.submit(program, &[bytemuck::cast_slice(lhs), bytemuck::cast_slice(rhs)], &[]);
        let outputs = ticket.and_then(|ticket| runtime.outputs(ticket)).map_err(|error| error.to_string())?;
        Ok(floats(&outputs[0]))
    });
    runtime.set_tuning(tuning);
    runtime.forget_programs();
    result
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// One of the tiles on tensor cores, another for each trial, so that each meets every size and every way to lie.
pub(super) fn pick_cooperative(trial: usize, candidates: &[Choice]) -> Option<Choice> {
    let tiles: Vec<&Choice> = candidates.iter().filter(|choice| matches!(choice, Choice::Cooperative { .. })).collect();
    // Four forms a size: moved on by one for each size.
    (!tiles.is_empty()).then(|| *tiles[(trial + trial / 4) % tiles.len()])
}

/// Both operands copied into f16 memory, then the product of the copies.
fn plan_of(trial: &Trial) -> Plan {
    let Trial { batch, rows, inner, columns, lhs_turned, rhs_turned } = *trial;
    let counts = [batch * rows * inner, batch * inner * columns, batch * rows * columns];
    let buffer = |kind: BufferKind, elements: usize, is_half: bool| Buffer { kind, dtype: DType::F32, elements, is_half };
    let buffers = vec![
        buffer(BufferKind::Input(0), counts[0], false),
        buffer(BufferKind::Input(1), counts[1], false),
        buffer(BufferKind::Scratch { slot: 0 }, counts[0], true),
        buffer(BufferKind::Scratch { slot: 1 }, counts[1], true),
        buffer(BufferKind::Output(0), counts[2], false),
    ];
    let kernel = |op: KernelOp, label: &str| Kernel { op, label: format!("self-test {label}"), location: Arc::from("") };
    let copy = |from: u32, to: u32, elements: usize| {
        let view = |buffer: u32| View { buffer: BufferId(buffer), offset: 0, strides: vec![1] };
        let body = Body { loads: vec![view(from)], code: vec![Instruction::Load(0)], types: vec![DType::F32] };
        KernelOp::Map { shape: vec![elements], body, stores: vec![Store { value: Register(0), to: view(to) }] }
    };
    let matrix = |buffer: u32, [rows, columns]: [usize; 2], is_turned: bool| MatrixView {
        buffer: BufferId(buffer),
        offset: 0,
        batch_strides: vec![(rows * columns) as isize],
        row_stride: if is_turned { 1 } else { columns as isize },
        column_stride: if is_turned { rows as isize } else { 1 },
    };
    let dot = KernelOp::Dot {
        batch: vec![batch],
        rows,
        columns,
        inner,
        lhs: matrix(2, [rows, inner], lhs_turned),
        rhs: matrix(3, [inner, columns], rhs_turned),
        to: BufferId(4),
        epilogue: None,
    };
    let port = |name: &str, buffer: u32, elements: usize| Port {
        name: name.into(),
        ty: TensorType::new(DType::F32, [elements]),
        buffer: BufferId(buffer),
    };
    Plan {
        name: "self-test".into(),
        slots: buffers[2..4].iter().map(|buffer| buffer.bytes().next_multiple_of(4)).collect(),
        buffers,
        kernels: vec![kernel(copy(0, 2, counts[0]), "left"), kernel(copy(1, 3, counts[1]), "right"), kernel(dot, "product")],
        inputs: vec![port("lhs", 0, counts[0]), port("rhs", 1, counts[1])],
        outputs: vec![port("product", 4, counts[2])],
        ..Plan::default()
    }
}

/// Whole numbers from -2 to 2, or f16 numbers in (-2, 2) with 11 bits each.
fn numbers(count: usize, stream: u32, is_exact: bool) -> Vec<f32> {
    let bits = |index: usize| crate::random::rng_bits(16, stream, 0, index as u32);
    (0..count)
        .map(|index| if is_exact { (bits(index) % 5) as f32 - 2.0 } else { (bits(index) % 4095) as f32 / 1024.0 - 2047.0 / 1024.0 })
        .collect()
}

/// Each element, and the sum of the sizes of its terms.
fn product(trial: &Trial, lhs: &[f32], rhs: &[f32]) -> Vec<(f64, f64)> {
    let Trial { batch, rows, inner, columns, lhs_turned, rhs_turned } = *trial;
    let mut all = Vec::with_capacity(batch * rows * columns);
    for entry in 0..batch {
        for row in 0..rows {
            for column in 0..columns {
                let terms = (0..inner).map(|k| {
                    let left = entry * rows * inner + if lhs_turned { k * rows + row } else { row * inner + k };
                    let right = entry * inner * columns + if rhs_turned { column * inner + k } else { k * columns + column };
                    f64::from(lhs[left]) * f64::from(rhs[right])
                });
                all.push(terms.fold((0.0, 0.0), |(sum, sizes), term| (sum + term, sizes + term.abs())));
            }
        }
    }
    all
}

fn compare(trial: &Trial, found: &[f32], wanted: &[(f64, f64)], is_exact: bool) -> Result<(), String> {
    if found.len() != wanted.len() {
        return Err(format!("the self-test's {trial} gave {} numbers, not {}", found.len(), wanted.len()));
    }
    for (index, (found, (wanted, sizes))) in found.iter().zip(wanted).enumerate() {
        // Tensor cores may cut instead of round when they align terms: a unit of f32 for each, of everything that was added.
        let allowed = if is_exact { 0.0 } else { sizes * trial.inner as f64 * 2f64.powi(-23) };
        let error = (f64::from(*found) - wanted).abs();
        if error.is_nan() || error > allowed {
            let (row, column) = (index / trial.columns % trial.rows, index % trial.columns);
            return Err(format!("the self-test's {trial} gave {found} at [{row}, {column}], not {wanted}"));
        }
    }
    Ok(())
}

/// Leave to use what wgpu calls experimental: cooperative matrices.
#[allow(unsafe_code)]
pub(super) fn experiments() -> wgpu::ExperimentalFeatures {
    // SAFETY: wgpu asks for an acknowledgement that experimental features may have bugs that break its promises. The one that is used is asked of adapters that list
    // its shape, by kernels of `dot_general_cooperative.wgsl` alone, whose accesses stay within their arrays by construction, after a numerical self-test.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::launch::{Step, Target, launches};

    fn right(trial: &Trial, lhs: &[f32], rhs: &[f32]) -> Vec<f32> {
        product(trial, lhs, rhs).into_iter().map(|(value, _)| value as f32).collect()
    }

    #[test]
    fn a_right_product_passes() {
        let count = self_test(&mut |trial, lhs, rhs| Ok(right(trial, lhs, rhs)));
        assert_eq!(count, Ok(SIZES.len() * 4 * 2 * ROUNDS));
    }

    #[test]
    fn the_numbers_are_f16() {
        for is_exact in [true, false] {
            for number in numbers(10_000, 1, is_exact) {
                // Eleven bits below 2.
                assert_eq!((number * 1024.0).fract(), 0.0, "{number}");
                assert!(number.abs() < 2.0 || is_exact, "{number}");
            }
        }
    }

    /// Every way of being wrong that was thought of is found: `wrong` changes a right result.
    #[test]
    fn a_wrong_product_is_found() {
        let found = |wrong: &mut dyn FnMut(&Trial, &mut Vec<f32>)| {
            self_test(&mut |trial, lhs, rhs| {
                let mut result = right(trial, lhs, rhs);
                wrong(trial, &mut result);
                Ok(result)
            })
            .expect_err("a wrong product passes")
        };
        // As reported of a loop-carried accumulator elsewhere: twice the sum.
        assert!(found(&mut |_, result| result.iter_mut().for_each(|value| *value *= 2.0)).contains("1 x 16x16 * 16x16"));
        // One element off by the smallest step of a sum of whole numbers.
        found(&mut |trial, result| result[trial.columns / 2] += 1.0);
        found(&mut |_, result| result[3] = f32::NAN);
        found(&mut |_, result| {
            result.pop();
        });
        // Only beyond the first tile, only in the last row, only in the last column.
        assert!(
            found(&mut |trial, result| if trial.rows > 128 {
                result[128 * trial.columns] += 1.0
            })
            .contains("[128, 0]")
        );
        assert!(
            found(&mut |trial, result| if trial.rows % 16 != 0 {
                *result.last_mut().unwrap() += 1.0
            })
            .contains("130x50")
        );
        // A step of a long sum left out shows as an error beyond rounding in full numbers alone.
        let mut calls = 0;
        let message = found(&mut |_, result| {
            calls += 1;
            // A race: right twice, wrong the third time.
            if calls % 3 == 0 {
                result[0] += 1.0;
            }
        });
        assert!(message.contains("[0, 0]"), "{message}");
    }

    #[test]
    fn factors_in_the_wrong_order_are_found() {
        for wrong_side in [0, 1] {
            let result = self_test(&mut |trial, lhs, rhs| {
                let mut other = *trial;
                match wrong_side {
                    0 => other.lhs_turned = !other.lhs_turned,
                    _ => other.rhs_turned = !other.rhs_turned,
                }
                Ok(right(&other, lhs, rhs))
            });
            assert!(result.is_err(), "operand {wrong_side} turned round passes");
        }
        let dropped = self_test(&mut |trial, lhs, rhs| {
            // The last step of the inner axis is not added.
            let mut lhs = lhs.to_vec();
            let last = trial.inner - 1;
            for row in 0..trial.rows {
                lhs[if trial.lhs_turned { last * trial.rows + row } else { row * trial.inner + last }] = 0.0;
            }
            Ok(right(trial, &lhs, rhs))
        });
        assert!(dropped.is_err(), "a step left out passes");
    }

    #[test]
    fn every_tile_meets_every_form_and_size() {
        let tile = |rows: usize| Choice::Cooperative { subgroups: [2, 2], blocks: [rows, 1], splits: 1 };
        let candidates = [Choice::Thin { lanes: 1, splits: 1 }, tile(1), tile(2), tile(3), tile(4)];
        let picked: Vec<Choice> = (0..24).map(|trial| pick_cooperative(trial, &candidates).unwrap()).collect();
        for rows in 1..=4 {
            let trials: Vec<usize> = (0..24).filter(|&trial| picked[trial] == tile(rows)).collect();
            let forms: std::collections::BTreeSet<usize> = trials.iter().map(|trial| trial % 4).collect();
            let sizes: std::collections::BTreeSet<usize> = trials.iter().map(|trial| trial / 4).collect();
            assert_eq!((forms.len(), sizes.len()), (4, 6), "{trials:?}");
        }
        assert_eq!(pick_cooperative(0, &candidates[..1]), None);
    }

    #[test]
    fn the_way_from_a_plan_to_results_passes_with_other_kernels() {
        let adapters = crate::gpu::adapters();
        let adapter = adapters.first().expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
        let mut runtime = GpuRuntime::new(adapter).unwrap_or_else(|error| panic!("{error}"));
        let count = test_device(&mut runtime, &|trial, candidates| Some(candidates[trial % candidates.len().min(3)]));
        assert_eq!(count, Ok(SIZES.len() * 4 * 2 * ROUNDS));
        assert_eq!(
            test_device(&mut runtime, &pick_cooperative),
            Err("no kernel takes the self-test's 1 x 16x16 * 16x16".into()),
            "this adapter has no tensor cores that pass"
        );
    }

    /// The kernel of tensor cores with its operations done by the lanes of a subgroup, each its share of a block, so that any device runs the rest of it: how a tile is
    /// filled, which block is whose, what is cut at the edges. A matrix in registers becomes the place where it begins.
    fn emulated(wgsl: &str) -> String {
        let mut text = String::new();
        for line in wgsl.lines() {
            let between =
                |start: &str, end: &str| line.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(inside, _)| inside);
            let name = || between("let ", " =").expect("a load has a name");
            let start = between("(&lhs_tile[", "], LHS_STRIDE)").or_else(|| between("(&rhs_tile[", "], RHS_STRIDE)"));
            text += &if line.starts_with("enable wgpu_cooperative_matrix") {
                String::new()
            } else if line.contains("coop_mat16x16<f32, C>()") {
                line.replace("coop_mat16x16<f32, C>()", "array<f32, 256u / SIZE>()")
            } else if let Some(start) = start {
                format!("let {} = {start};", name())
            } else if line.starts_with("coopStoreT(") {
                let acc = between("coopStoreT(", ", &results[start]").expect("a block is stored");
                format!("emulated_store({acc}, start, place);")
            } else if line.contains("coopMultiplyAdd(") {
                line.replace("coopMultiplyAdd(", "emulated_multiply_add(place, ")
            } else {
                line.to_owned()
            };
            text.push('\n');
        }
        assert!(!text.contains("coop"), "{text}");
        text + "fn emulated_multiply_add(place: u32, a: u32, b: u32, c: array<f32, 256u / SIZE>) -> array<f32, 256u / SIZE> {\n\
                var sum = c;\nfor (var i = 0u; i < 256u / SIZE; i = i + 1u) {\nlet row = (i * SIZE + place) / 16u;\n\
                let column = (i * SIZE + place) % 16u;\nfor (var k = 0u; k < 16u; k = k + 1u) {\n\
                sum[i] = sum[i] + f32(lhs_tile[a + row * LHS_STRIDE + k]) * f32(rhs_tile[b + k * RHS_STRIDE + column]);\n}\n}\nreturn sum;\n}\n\
                fn emulated_store(block: array<f32, 256u / SIZE>, start: u32, place: u32) {\nvar values = block;\n\
                for (var i = 0u; i < 256u / SIZE; i = i + 1u) {\nresults[start + i * SIZE + place] = values[i];\n}\n}\n"
    }

    #[test]
    fn all_of_the_kernel_but_the_tensor_cores_is_right() {
        let adapters = crate::gpu::adapters();
        let adapter = adapters.first().expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
        let mut runtime = GpuRuntime::new(adapter).unwrap_or_else(|error| panic!("{error}"));
        let own = Target { has_tensor_cores: true, ..runtime.target().clone() };
        assert!(own.subgroup_size > 1, "an adapter with subgroups of one size");
        let (mut loaded, mut trials, mut kernels) = (None, 0, 0);
        // One block, ragged edges on every side and more than one tile, a sum that is cut, batches: small, as each product costs a lane a walk through memory.
        let sizes = [[1, 16, 16, 16], [1, 70, 50, 67], [1, 20, 600, 40], [2, 33, 17, 100]];
        // Rows and columns differ, so that one does not pass for the other. More blocks are more of the same text, which llvmpipe's compiler takes long over.
        let tiles = [([1, 2], [2, 1]), ([2, 1], [1, 2]), ([2, 2], [1, 1])];
        let count = compare_all(&sizes, 1, &mut |trial, lhs, rhs| {
            let program = match loaded {
                Some((known, program)) if known == *trial => program,
                _ => {
                    let plan = plan_of(trial);
                    let all = choices(&plan, &own)?;
                    let (subgroups, blocks) = tiles[trials % tiles.len()];
                    let choice = Choice::Cooperative { subgroups, blocks, splits: if trial.inner > 500 { 2 } else { 1 } };
                    trials += 1;
                    let target = Target { tuning: Tuning::default().with(&all[0].1, choice), ..own.clone() };
                    let mut launches = launches(&plan, &target)?;
                    for step in &mut launches.steps {
                        if let Step::Launch { wgsl, .. } = step
                            && wgsl.contains("coop")
                        {
                            *wgsl = emulated(wgsl);
                            kernels += 1;
                        }
                    }
                    let program = runtime.load_launches(Arc::new(plan), launches).map_err(|error| error.to_string())?;
                    loaded = Some((*trial, program));
                    program
                }
            };
            let ticket = runtime.submit(program, &[bytemuck::cast_slice(lhs), bytemuck::cast_slice(rhs)], &[]);
            let outputs = ticket.and_then(|ticket| runtime.outputs(ticket)).map_err(|error| error.to_string())?;
            Ok(floats(&outputs[0]))
        });
        assert_eq!(count, Ok(sizes.len() * 4 * 2));
        assert_eq!(kernels, sizes.len() * 4, "every trial ran the kernel");
    }

    #[test]
    fn an_error_of_the_device_is_the_answer() {
        let result = self_test(&mut |_, _, _| Err("the pipeline is not valid".into()));
        assert_eq!(result, Err("the pipeline is not valid".into()));
    }
}
