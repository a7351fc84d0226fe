//! Moving average of the weights.

use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Event, Moment};

/// Exponential moving average of the weights; evaluations are made with it as well, as `<split>-ema/..`.
#[config]
pub struct Ema {
    /// What the average keeps of itself at each step.
    #[schemars(range(min = 0.0, max = 0.9999999))]
    pub decay: f64,
    /// Keep less at first, `min(decay, (1 + step) / (10 + step))`, so that the initial weights are soon forgotten.
    pub warm_up: bool,
}

impl Default for Ema {
    fn default() -> Self {
        Ema { decay: 0.999, warm_up: true }
    }
}

impl Callback for Ema {
    const ID: &'static str = "ema";
    const MOMENTS: &'static [Moment] = &[];
    type State = ();

    fn on_event(&self, _: &mut (), _: &Event, _: &Run<'_>) -> Result<Vec<Action>> {
        Ok(vec![])
    }

    fn shadow(&self, g: &mut Graph, at: ShadowUpdate) -> Result<Option<Tensor>> {
        // shadow * keep + param * (1 - keep), written so that a weight that stays leaves its average exactly where it is.
        let distance = g.sub(at.param, at.shadow);
        let way = if self.warm_up {
            // 1 - min(decay, (1 + step) / (10 + step)), without the difference of numbers near 1.
            let steps = g.offset(at.step, 10.0);
            let nine = g.constant(9.0);
            let early = g.div(nine, steps);
            let least = g.constant(1.0 - self.decay);
            let share = g.maximum(early, least);
            g.mul(share, distance)
        } else {
            g.scale(distance, 1.0 - self.decay)
        };
        Ok(Some(g.add(at.shadow, way)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::ir::{self, BinaryOp, Op};

    /// The traced update of a single weight, worked out node by node in f64.
    fn updated(ema: &Ema, shadow: f64, param: f64, step: f64) -> f64 {
        let mut g = Graph::new("shadow", true);
        let [s, p, n] = ["shadow", "param", "step"].map(|name| g.input(name, TensorType::new(DType::F32, [])));
        let new = ema.shadow(&mut g, ShadowUpdate { shadow: s, param: p, step: n }).unwrap().unwrap();
        g.output("shadow", new);
        let graph: ir::Graph = g.finish().unwrap();
        let mut values: Vec<f64> = vec![];
        for node in &graph.nodes {
            let input = |index: usize| values[node.inputs[index].index()];
            let value = match &node.op {
                Op::Parameter(parameter) => match parameter.name.as_str() {
                    "shadow" => shadow,
                    "param" => param,
                    _ => step,
                },
                Op::Constant { value } => value.value(0),
                Op::Binary { function } => match function {
                    BinaryOp::Add => input(0) + input(1),
                    BinaryOp::Subtract => input(0) - input(1),
                    BinaryOp::Multiply => input(0) * input(1),
                    BinaryOp::Divide => input(0) / input(1),
                    BinaryOp::Maximum => input(0).max(input(1)),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            };
            values.push(value);
        }
        values[graph.outputs[0].node.index()]
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn the_average_keeps_its_share() {
        let ema = Ema { decay: 0.9, warm_up: false };
        // 4 * 0.9 + 2 * 0.1
        close(updated(&ema, 4.0, 2.0, 1.0), 3.8);
        close(updated(&ema, -1.0, -1.0, 7.0), -1.0);
        close(updated(&Ema { decay: 0.0, warm_up: false }, 4.0, 2.0, 1.0), 2.0);
    }

    #[test]
    fn the_warm_up_keeps_less_until_it_meets_the_decay() {
        let ema = Ema { decay: 0.9, warm_up: true };
        // 2 / 11 at the first step, 12 / 21 at the eleventh; (1 + n) / (10 + n) is 0.9 at n = 80.
        for (step, keep) in [(1.0, 2.0 / 11.0), (11.0, 12.0 / 21.0), (80.0, 0.9), (1000.0, 0.9)] {
            close(updated(&ema, 4.0, 2.0, step), 4.0 * keep + 2.0 * (1.0 - keep));
        }
    }

    #[test]
    fn a_weight_of_any_shape_keeps_it() {
        for warm_up in [false, true] {
            let mut g = Graph::new("shadow", true);
            let weight = TensorType::new(DType::F32, [3, 1, 5]);
            let (shadow, param) = (g.input("shadow", weight.clone()), g.input("param", weight.clone()));
            let step = g.input("step", TensorType::new(DType::F32, []));
            let new = Ema { warm_up, ..Ema::default() }.shadow(&mut g, ShadowUpdate { shadow, param, step }).unwrap().unwrap();
            assert_eq!(*g.ty(new), weight);
        }
    }
}
