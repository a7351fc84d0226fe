//! What `solstice bench` can time: training steps of three models, and single products and convolutions.

use crate::assemble::Assembly;
use crate::loader::Catalog;
use crate::recipe::Recipe;
use anyhow::{Context, Result, bail, ensure};
use solstice_ir::{ConvolutionGeometry, DType, DotDims, Graph, Init, Op, Parameter, Role, TensorType, Update};
use solstice_plugin_abi::wire::{DatasetSpec, Field, FieldRole};
use std::sync::Arc;

/// A benchmark model: the nets of `research/baselines`, so that figures can stand beside PyTorch's and Burn's.
struct Model {
    name: &'static str,
    recipe: &'static str,
    input: (DType, &'static [usize]),
    target: &'static [usize],
    /// Targets and tokens are below this.
    classes: usize,
}

const MODELS: [Model; 3] = [
    Model {
        name: "mlp",
        recipe: r#"(experiment: classification(), model: mlp(hidden: [512, 512]), dataset: drawn_digits(), optimizer: adam(lr: 1e-3),
            trainer: (budget: "1st", batch_size: 128, norms: false))"#,
        input: (DType::F32, &[1, 28, 28]),
        target: &[],
        classes: 10,
    },
    Model {
        name: "convnet",
        recipe: r#"(experiment: classification(), model: convnet(channels: [32, 64], padding: valid, pool: last, batch_norm: false, dense: 128, dropout: 0.0), dataset: drawn_digits(),
            optimizer: adam(lr: 1e-3), trainer: (budget: "1st", batch_size: 64, norms: false))"#,
        input: (DType::F32, &[1, 28, 28]),
        target: &[],
        classes: 10,
    },
    Model {
        name: "gpt",
        recipe: r#"(experiment: language_model(), model: gpt(layers: 4, heads: 4, width: 128), dataset: text(context: 64),
            optimizer: adamw(lr: 1e-3), trainer: (budget: "1st", batch_size: 12, norms: false))"#,
        input: (DType::I32, &[64]),
        target: &[64],
        classes: 65,
    },
];

/// A graph to run again and again.
pub struct Work {
    pub graph: Graph,
    /// Samples of a step; 1 for what is no model.
    pub batch_size: usize,
    /// Whole numbers among the inputs are below this.
    pub classes: usize,
}

/// The work called `name`: a model, `matmul-512`, `matmul-64x784x512` (rows, inner size, columns), or `conv-64x32x26-64x3` (images, channels and side of
/// the input, channels of the result and side of the kernel; no padding) with `-input` or `-weight` behind it for a gradient.
pub fn work(name: &str) -> Result<Work> {
    if let Some(model) = MODELS.iter().find(|model| model.name == name) {
        return model_step(model);
    }
    let names = || {
        let models = MODELS.map(|model| model.name).join(", ");
        format!(
            "there is no benchmark model `{name}`; there are {models}, products as `matmul-512` or `matmul-64x784x512` (rows, inner size, columns), and convolutions as `conv-64x32x26-64x3` (images, channels, side; channels, kernel), with `-input` or `-weight` behind it for a gradient"
        )
    };
    let graph = match name.split_once('-') {
        Some(("matmul", sizes)) => match *numbers(sizes).with_context(names)? {
            [n] => product(name, n, n, n)?,
            [rows, inner, columns] => product(name, rows, inner, columns)?,
            _ => bail!(names()),
        },
        Some(("conv", sizes)) => {
            let mut parts = sizes.splitn(3, '-').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let (input, kernel, gradient) = (next(), next(), next());
            match (&*numbers(&input).with_context(names)?, &*numbers(&kernel).with_context(names)?) {
                (&[images, channels, side], &[out_channels, kernel]) if kernel <= side => {
                    convolution(name, [images, channels, side], out_channels, kernel, &gradient).with_context(names)?
                }
                _ => bail!(names()),
            }
        }
        _ => bail!(names()),
    };
    Ok(Work { graph, batch_size: 1, classes: 1 })
}

fn model_step(model: &Model) -> Result<Work> {
    let recipe = Recipe::from_text(model.recipe, model.name, "benchmark")?;
    let assembly = Assembly::new(&recipe, &Catalog::discover(&[])?)?;
    let field =
        |name: &str, role, dtype, shape: &[usize]| Field { name: name.into(), role, dtype, shape: shape.into(), scale: 1.0, offset: 0.0 };
    let classes = serde_json::json!(model.classes);
    let spec = DatasetSpec {
        splits: vec![],
        fields: vec![field("x", FieldRole::Input, model.input.0, model.input.1), field("y", FieldRole::Target, DType::I32, model.target)],
        resident: false,
        facts: ["classes", "vocabulary"].iter().map(|fact| ((*fact).to_owned(), classes.clone())).collect(),
    };
    let graph = assembly.step("train_step", "train", &spec)?.graph;
    Ok(Work { graph, batch_size: recipe.trainer.batch_size, classes: model.classes })
}

/// `512`, `64x32x26`; at least 1 each.
fn numbers(text: &str) -> Result<Vec<usize>> {
    text.split('x')
        .map(|number| {
            let number: usize = number.parse().with_context(|| format!("`{number}` is not a size"))?;
            ensure!(number > 0, "a size of 0 leaves nothing to time");
            Ok(number)
        })
        .collect()
}

/// `out = a b` of f32 matrices that stay on the device.
fn product(name: &str, rows: usize, inner: usize, columns: usize) -> Result<Graph> {
    let dims = DotDims { lhs_contract: vec![1], rhs_contract: vec![0], ..DotDims::default() };
    of_two(name, Op::DotGeneral { dims }, &[rows, inner], &[inner, columns])
}

fn convolution(name: &str, [images, channels, side]: [usize; 3], out_channels: usize, kernel: usize, gradient: &str) -> Result<Graph> {
    let geometry = ConvolutionGeometry { strides: vec![1; 2], low: vec![0; 2], high: vec![0; 2], dilation: vec![1; 2], groups: 1 };
    let out_side = side - kernel + 1;
    let (x, weight, out) =
        ([images, channels, side, side], [out_channels, channels, kernel, kernel], [images, out_channels, out_side, out_side]);
    match gradient {
        "" => of_two(name, Op::Convolution { geometry }, &x, &weight),
        "input" => of_two(name, Op::ConvolutionInputGrad { geometry, input_spatial: vec![side; 2] }, &out, &weight),
        "weight" => of_two(name, Op::ConvolutionWeightGrad { geometry, kernel_spatial: vec![kernel; 2] }, &x, &out),
        _ => bail!("`{gradient}` is neither `input` nor `weight`"),
    }
}

/// A graph of one op on two resident tensors, whose result is a third.
fn of_two(name: &str, op: Op, left: &[usize], right: &[usize]) -> Result<Graph> {
    let mut graph = Graph::new(name);
    let nowhere: Arc<str> = "".into();
    let leaf = |graph: &mut Graph, name: &str, ty: TensorType, init| {
        let parameter = Parameter { name: name.into(), role: Role::ModelState, init: Some(init) };
        graph.push_typed(Op::Parameter(parameter), vec![], ty, nowhere.clone(), nowhere.clone())
    };
    let random = Init::Uniform { low: -1.0, high: 1.0 };
    let left = leaf(&mut graph, "left", TensorType::new(DType::F32, left), random.clone());
    let right = leaf(&mut graph, "right", TensorType::new(DType::F32, right), random);
    let node = graph.push(op, &[left, right], &"".into(), &"".into())?;
    let ty = graph.ty(node).clone();
    leaf(&mut graph, "out", ty, Init::Constant(0.0));
    graph.updates.push(Update { state: "out".into(), node });
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_engine::cost::cost;
    use solstice_engine::{CompileOptions, compile};

    fn flops(name: &str) -> u64 {
        let graph = work(name).unwrap_or_else(|error| panic!("{name}: {error:#}")).graph;
        let plan = compile(&graph, &CompileOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}")).plan;
        assert_eq!(plan.kernels.len(), 1, "{name} is one kernel and no copy: {plan:?}");
        plan.kernels.iter().map(|kernel| cost(&plan, &kernel.op).flops).sum()
    }

    #[test]
    fn a_name_says_what_is_multiplied() {
        assert_eq!(flops("matmul-64"), 2 * 64 * 64 * 64);
        assert_eq!(flops("matmul-3x5x7"), 2 * 3 * 5 * 7);
        // 24 x 24 places of 64 channels, each a sum over 32 channels of 3 x 3.
        let one_image = 2 * 24 * 24 * 64 * 32 * 9;
        assert_eq!(flops("conv-2x32x26-64x3"), 2 * one_image);
        assert_eq!(flops("conv-2x32x26-64x3-weight"), 2 * one_image);
        assert_eq!(flops("conv-2x32x26-64x3-input"), 2 * one_image);
    }

    #[test]
    fn a_name_that_means_nothing_is_answered_with_those_that_do() {
        for name in
            ["mpl", "matmul", "matmul-", "matmul-0", "matmul-3x4", "matmul-a", "conv-1x1x3-1x4", "conv-1x1x3", "conv-1x1x3-1x3-bias"]
        {
            let error = work(name).err().unwrap_or_else(|| panic!("`{name}` was taken"));
            let text = format!("{error:#}");
            assert!(text.contains(&format!("`{name}`")) && text.contains("mlp, convnet, gpt") && text.contains("matmul-512"), "{text}");
        }
    }
}
