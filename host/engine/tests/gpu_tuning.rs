//! Whatever tile a product takes, it computes the same: every choice that the tuner may make against the oracle, with the kernels for software and for hardware.
//! And what a record of choices is: data that is looked up, that gives the same bytes each time, and that may be wrong without harm.

#[path = "common/device.rs"]
mod device;
#[path = "common/kept.rs"]
mod kept;

use device::{Case, assert_close, run};
use kept::Kept;
use solstice_engine::device::{self as devices, DeviceOptions, DeviceRequest};
use solstice_engine::gpu::{Adapter, Choice, GpuRuntime, Sources, Step, Target, Tuning, adapters, choices, launches, tune};
use solstice_engine::{Plan, Runtime};
use solstice_ir::{BinaryOp, ConvolutionGeometry, DotDims, NodeId, Op};
use std::sync::Arc;

/// Rounding of some tens of products.
const CLOSE: f64 = 4e-6;

/// `x y` and `x^T y^T`.
const STRAIGHT: [(bool, bool); 2] = [(false, false), (true, true)];

/// `x^T y` and `x y^T`.
const TURNED: [(bool, bool); 2] = [(true, false), (false, true)];

fn adapter() -> Adapter {
    adapters().into_iter().next().expect("an adapter: `apt-get install mesa-vulkan-drivers` installs one in software")
}

fn target(is_software: bool) -> Target {
    let own = GpuRuntime::new(&adapter()).expect("the adapter opens").target().clone();
    let subgroup_size = if is_software { own.subgroup_size } else { 1 };
    Target { is_software, subgroup_size, ..own }
}

fn open(target: Target) -> Box<dyn Runtime> {
    Box::new(GpuRuntime::with_target(&adapter(), target).expect("the adapter opens"))
}

/// Products in two of the four forms, batched, with and without work on their results.
fn products(rows: usize, inner: usize, columns: usize, forms: [(bool, bool); 2]) -> Case {
    let mut case = Case::new(&format!("{rows} x {inner} x {columns}"), 5);
    for (is_left_turned, is_right_turned) in forms {
        let name = format!("{is_left_turned} {is_right_turned}");
        let left = if is_left_turned { [2, inner, rows] } else { [2, rows, inner] };
        let right = if is_right_turned { [2, columns, inner] } else { [2, inner, columns] };
        let (x, y) = (case.input(&format!("x {name}"), &left), case.input(&format!("y {name}"), &right));
        let dims = DotDims {
            lhs_batch: vec![0],
            rhs_batch: vec![0],
            lhs_contract: vec![if is_left_turned { 1 } else { 2 }],
            rhs_contract: vec![if is_right_turned { 2 } else { 1 }],
        };
        let z = case.op(Op::DotGeneral { dims }, &[x, y]);
        with_bias(&mut case, &name, z, 2);
        if is_right_turned {
            case.output(&name, z);
        }
    }
    case
}

/// `max(z + bias, 0)` as an output.
fn with_bias(case: &mut Case, name: &str, z: NodeId, axis: usize) {
    let shape = case.shape(z);
    let bias = case.input(&format!("bias {name}"), &[shape[axis]]);
    let bias = case.broadcast(bias, &shape, &[axis]);
    let sum = case.add(z, bias);
    let zero = case.splat(sum, 0.0);
    let y = case.binary(BinaryOp::Maximum, sum, zero);
    case.output(&format!("{name} with a bias"), y);
}

/// The three convolutions of an image.
fn convolutions(channels: usize, out_channels: usize, groups: usize, stride: usize) -> Case {
    let mut case = Case::new(&format!("{channels} to {out_channels} channels in {groups} groups by {stride}"), 6);
    let geometry = ConvolutionGeometry { strides: vec![stride; 2], low: vec![1; 2], high: vec![1; 2], dilation: vec![1; 2], groups };
    let x = case.input("x", &[3, channels, 10, 9]);
    let weight = case.input("weight", &[out_channels, channels / groups, 3, 3]);
    let y = case.op(Op::Convolution { geometry: geometry.clone() }, &[x, weight]);
    let grad_shape = case.shape(y);
    let grad = case.input("grad", &grad_shape);
    let dx = case.op(Op::ConvolutionInputGrad { geometry: geometry.clone(), input_spatial: vec![10, 9] }, &[grad, weight]);
    let dw = case.op(Op::ConvolutionWeightGrad { geometry, kernel_spatial: vec![3; 2] }, &[x, grad]);
    with_bias(&mut case, "y", y, 1);
    case.output("dx", dx);
    case.output("dw", dw);
    case
}

/// Records that try every choice of every class of the plan at least once.
fn records(plan: &Plan, target: &Target) -> Vec<Tuning> {
    let all = choices(plan, target).unwrap_or_else(|error| panic!("{error}"));
    let most = all.iter().map(|(_, _, choices)| choices.len()).max().unwrap_or(0);
    let record =
        |index: usize| all.iter().fold(Tuning::default(), |record, (_, class, choices)| record.with(class, choices[index % choices.len()]));
    (0..most).map(record).collect()
}

fn check_every_choice(case: &Case, is_software: bool, tolerance: f64) {
    let (plan, wanted, target) = (case.plan(true), case.wanted(), target(is_software));
    let records = records(&plan, &target);
    let mut is_repeated = false;
    assert!(records.len() > 4, "{}: {} choices", case.graph.name, records.len());
    for tuning in records {
        let what = format!("{} with {}", case.graph.name, tuning.to_json());
        let tuned = || open(Target { tuning: tuning.clone(), ..target.clone() });
        let found = run(tuned(), &plan, &case.values, 1);
        assert_close(&what, &found, &wanted, tolerance);
        let is_first = !std::mem::replace(&mut is_repeated, true);
        assert!(!is_first || run(tuned(), &plan, &case.values, 1) == found, "{what}: other bytes when run again");
    }
}

#[test]
fn products_are_right_with_every_tile_for_hardware() {
    // Edges in and out of the vectors, tiles and steps; sums of up to 70 products.
    for (rows, inner, columns, forms) in [(132, 36, 68, STRAIGHT), (66, 37, 131, TURNED), (2, 70, 40, TURNED)] {
        check_every_choice(&products(rows, inner, columns, forms), false, CLOSE);
    }
}

#[test]
fn products_are_right_with_every_tile_for_software() {
    for (rows, inner, columns, forms) in [(36, 20, 40, STRAIGHT), (5, 70, 9, TURNED)] {
        check_every_choice(&products(rows, inner, columns, forms), true, CLOSE);
    }
}

#[test]
fn products_are_right_with_the_largest_tiles_for_software() {
    // Rows and columns that fill the tiles, that end within them in fours, and that end one by one; an inner axis with a rest.
    for (rows, inner, columns, forms) in [(64, 8, 64, STRAIGHT), (70, 12, 36, TURNED), (68, 11, 72, STRAIGHT), (33, 9, 67, TURNED)] {
        let (case, target) = (products(rows, inner, columns, forms), target(true));
        let (plan, wanted) = (case.plan(true), case.wanted());
        for (shared, is_swapped) in [(56, false), (64, false), (64, true)] {
            let choice = Choice::Subgroup { shared, columns: 4, is_swapped, splits: 1 };
            let classes = choices(&plan, &target).unwrap_or_else(|error| panic!("{error}"));
            let tuning = classes.iter().fold(Tuning::default(), |record, (_, class, _)| record.with(class, choice));
            let tuned = Target { tuning, ..target.clone() };
            let steps = launches(&plan, &tuned).unwrap_or_else(|error| panic!("{error}")).steps;
            let last = format!("acc_{} =", shared - 1);
            let uses = |step: &Step| matches!(step, Step::Launch { wgsl, .. } if wgsl.contains(&last));
            assert!(steps.iter().any(uses), "{} has no tile with {choice}", case.graph.name);
            assert_close(&format!("{} with {choice}", case.graph.name), &run(open(tuned), &plan, &case.values, 1), &wanted, CLOSE);
        }
    }
}

#[test]
fn convolutions_are_right_with_every_tile() {
    // Sums of up to 270 products.
    check_every_choice(&convolutions(8, 20, 2, 2), false, 1e-5);
    check_every_choice(&convolutions(4, 4, 4, 1), false, 1e-5);
    check_every_choice(&convolutions(3, 8, 1, 1), true, 1e-5);
}

#[test]
fn thin_results_have_no_tiles_on_hardware() {
    for case in [products(1, 64, 64, STRAIGHT), products(256, 64, 1, TURNED), convolutions(16, 16, 16, 1)] {
        let plan = case.plan(true);
        for (_, class, choices) in choices(&plan, &target(false)).expect("the plan has choices") {
            let is_thin = matches!(choices[0], Choice::Thin { .. });
            assert!(is_thin, "{class}: {:?}", choices[0]);
        }
    }
}

#[test]
fn measuring_keeps_to_what_is_possible_and_what_is_known() {
    let case = products(40, 64, 48, STRAIGHT);
    let plan = case.plan(true);
    let mut reports = Vec::new();
    let tuned = tune(&adapter(), &Sources::built_in(), &plan, &Tuning::default(), &mut |measured| reports.push(measured.clone()))
        .unwrap_or_else(|error| panic!("{error}"));
    let own = GpuRuntime::new(&adapter()).expect("the adapter opens").target().clone();
    let all = choices(&plan, &own).expect("the plan has choices");
    assert_eq!(reports.len(), tuned.len());
    for (_, class, choices) in &all {
        let choice = tuned.choice(class).unwrap_or_else(|| panic!("{class} was not measured"));
        assert!(choices.contains(&choice), "{class}: {choice:?}");
    }
    assert!(reports.iter().all(|report| (2..=24).contains(&report.candidates) && report.after_secs <= report.before_secs), "{reports:?}");
    // Nothing is left to measure.
    let again = tune(&adapter(), &Sources::built_in(), &plan, &tuned, &mut |measured| panic!("{} is known", measured.class));
    assert_eq!(again.unwrap_or_else(|error| panic!("{error}")), tuned);
    // The record survives being written, and the same record gives the same bytes.
    let read = Tuning::from_json(&tuned.to_json()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read, tuned);
    let found = run(open(Target { tuning: tuned, ..own.clone() }), &plan, &case.values, 1);
    assert_close("tuned", &found, &case.wanted(), 1e-5);
    assert!(run(open(Target { tuning: read, ..own }), &plan, &case.values, 1) == found, "other bytes with the same record");
}

/// A record of another version, of another device, or of somebody's hand.
#[test]
fn a_choice_that_is_not_possible_is_left() {
    let case = products(40, 64, 48, STRAIGHT);
    let plan = case.plan(true);
    for is_software in [false, true] {
        let target = target(is_software);
        let texts = |target: &Target| -> Vec<String> {
            let steps = launches(&plan, target).unwrap_or_else(|error| panic!("{error}")).steps.into_iter();
            let text = |step| match step {
                Step::Launch { wgsl, .. } => Some(wgsl),
                Step::Copy { .. } => None,
            };
            steps.filter_map(text).collect()
        };
        let usual = texts(&target);
        for wrong in [
            Choice::Tile { threads: [0, 16], quads: [1, 1], splits: 1 },
            Choice::Tile { threads: [64, 64], quads: [4, 4], splits: 1 },
            Choice::Tile { threads: [5, 3], quads: [1, 1], splits: 1 },
            Choice::Tile { threads: [16, 16], quads: [1, 1], splits: usize::MAX },
            Choice::Thin { lanes: 7, splits: 1 },
            Choice::Thin { lanes: 64, splits: 0 },
            Choice::Subgroup { shared: 7, columns: 4, is_swapped: false, splits: 1 },
            Choice::Subgroup { shared: 32, columns: 64, is_swapped: true, splits: 1 },
        ] {
            let classes = choices(&plan, &target).expect("the plan has choices");
            let tuning = classes.iter().fold(Tuning::default(), |record, (_, class, _)| record.with(class, wrong));
            assert!(texts(&Target { tuning, ..target.clone() }) == usual, "{wrong:?} was taken");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// What is kept between processes

#[test]
fn what_was_measured_and_compiled_is_kept_and_what_is_broken_is_no_error() {
    let case = products(40, 64, 48, STRAIGHT);
    let plan = case.plan(true);
    let kept = Arc::new(Kept::default());
    let options = DeviceOptions { cache: Some(kept.clone()), ..DeviceOptions::default() };
    let request = DeviceRequest::Named(adapter().name);
    let opened = || devices::open_with(&request, &options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(opened().1.tuning, "", "nothing is measured yet");
    let untuned = run(opened().0, &plan, &case.values, 1);

    let measured = devices::tune(&request, &options, &[&plan], false, &mut |_| ()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(opened().1.tuning, measured.tuning, "the record is taken by who opens the device later");
    let tuned = run(opened().0, &plan, &case.values, 1);
    assert_close("tuned", &tuned, &case.wanted(), 1e-5);
    // What is known is not measured again.
    let again = devices::tune(&request, &options, &[&plan], false, &mut |class| panic!("{} is known", class.class));
    assert_eq!(again.unwrap_or_else(|error| panic!("{error}")).tuning, measured.tuning);

    let names: Vec<String> = kept.0.lock().unwrap().keys().cloned().collect();
    assert!(names.iter().any(|name| name.starts_with("tuning-")), "{names:?}");
    for damage in
        [(|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2)) as fn(&mut Vec<u8>), |bytes| *bytes.last_mut().unwrap() ^= 1, Vec::clear]
    {
        kept.0.lock().unwrap().values_mut().for_each(damage);
        let (runtime, info) = opened();
        assert_eq!(info.tuning, "", "a broken record counts as none");
        assert!(run(runtime, &plan, &case.values, 1) == untuned, "other bytes than without a record");
    }
}

#[test]
fn the_cpu_has_nothing_to_measure_and_says_so() {
    let error = devices::tune(&DeviceRequest::Cpu, &DeviceOptions::default(), &[], false, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("--device gpu"), "{error}");
}
