//! Update rules, as PyTorch 2 defines them unless the type says otherwise: one file each.
//!
//! `update` is traced once for each shape of weight; what it computes runs for every weight at every step, fused into one pass over it.
//! Moving averages are written `old + (1 - beta) * (new - old)`: `1 - 0.999` is exact enough in f32 only when it is worked out in f64
//! first, here.

mod adadelta;
mod adagrad;
mod adam;
mod lion;
mod muon;
mod nadam;
mod rmsprop;
mod sgd;

pub use adadelta::Adadelta;
pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW};
pub use lion::Lion;
pub use muon::{Muon, MuonScale};
pub use nadam::Nadam;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use solstice_plugin_api::ir::Compare;
use solstice_plugin_api::prelude::*;

export_plugin! { optimizers: [Sgd, Adam, AdamW, Nadam, RmsProp, Adagrad, Adadelta, Lion, Muon] }

/// State of the weight's shape, zero at the start.
fn zeros_like(g: &mut Graph, name: &str, param: Tensor) -> Tensor {
    let shape = g.shape(param).to_vec();
    g.optimizer_state(name, &shape, Init::Constant(0.0))
}

/// `old + (1 - beta) * (new - old)`, stored as the new value of the state `old`.
fn moving_average(g: &mut Graph, old: Tensor, new: Tensor, beta: f64) -> Tensor {
    let difference = g.sub(new, old);
    let part = g.scale(difference, 1.0 - beta);
    let average = g.add(old, part);
    g.update(old, average);
    average
}

/// The gradient of the loss with `weight_decay / 2 * |param|^2` added to it; `weight_decay` is live, times the parameter's own factor.
fn with_penalty(g: &mut Graph, at: ParamUpdate, weight_decay: f64) -> Tensor {
    let decay = at.weight_decay(g, weight_decay);
    let pull = g.mul(decay, at.param);
    g.add(at.grad, pull)
}

/// The weight times `1 - lr * weight_decay`, `weight_decay` as in [`with_penalty`]. Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
/// 2019.
fn with_decay(g: &mut Graph, at: ParamUpdate, weight_decay: f64, decay_biases_and_norms: bool) -> Tensor {
    if g.shape(at.param).len() < 2 && !decay_biases_and_norms {
        return at.param;
    }
    let decay = at.weight_decay(g, weight_decay);
    let step = g.mul(at.lr, decay);
    let shrink = g.mul(step, at.param);
    g.sub(at.param, shrink)
}

/// `param - lr * direction`.
fn descend(g: &mut Graph, param: Tensor, lr: Tensor, direction: Tensor) -> Tensor {
    let step = g.mul(lr, direction);
    g.sub(param, step)
}

/// `1 - base^exponent` of a scalar, without the cancellation that costs f32 four digits at `1 - 0.999^1`.
///
/// With `y = -exponent * ln(base)`: `1 - e^-y` for large `y`, below 0.5 the series `y (1 - y/2 (1 - y/3 (1 - ..)))`, whose rest is below
/// 1e-12.
fn one_minus_power(g: &mut Graph, base: f64, exponent: Tensor) -> Tensor {
    if base == 0.0 {
        return g.constant(1.0);
    }
    let y = g.scale(exponent, -base.ln());
    let one = g.constant(1.0);
    let large = {
        let minus_y = g.neg(y);
        let power = g.exp(minus_y);
        g.sub(one, power)
    };
    let mut series = one;
    for divisor in (2..=11).rev() {
        let ratio = g.scale(y, 1.0 / f64::from(divisor));
        let term = g.mul(ratio, series);
        series = g.sub(one, term);
    }
    let small = g.mul(y, series);
    let is_small = g.compare_with(Compare::Less, y, 0.5);
    g.select(is_small, small, large)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and shapes of the state that an optimizer keeps for a weight of `shape`.
    fn states<O: Optimizer>(optimizer: &O, shape: &[usize]) -> Result<Vec<(String, Vec<usize>)>> {
        let mut g = Graph::new("update", true);
        let param = g.input("param", TensorType::new(DType::F32, shape));
        let grad = g.input("grad", TensorType::new(DType::F32, shape));
        let lr = g.input("lr", TensorType::new(DType::F32, []));
        let step = g.input("step", TensorType::new(DType::F32, []));
        let decay = g.constant(1.0);
        let updated = optimizer.update(&mut g, ParamUpdate { param, grad, lr, step, decay })?;
        assert_eq!(g.shape(updated), shape);
        let states = g.updates().iter().map(|(state, _)| g.shape(*state).to_vec()).collect::<Vec<_>>();
        g.output("param", updated);
        let names: Vec<String> = g.finish()?.updates.into_iter().map(|update| update.state).collect();
        Ok(names.into_iter().zip(states).collect())
    }

    fn of_shape(names: &[&str], shape: &[usize]) -> Vec<(String, Vec<usize>)> {
        names.iter().map(|name| (name.to_string(), shape.to_vec())).collect()
    }

    #[test]
    fn each_rule_keeps_the_state_that_it_needs() -> Result<()> {
        let shape = [5, 7];
        assert_eq!(states(&Sgd::default(), &shape)?, []);
        assert_eq!(states(&Sgd { momentum: 0.9, ..Sgd::default() }, &shape)?, of_shape(&["velocity"], &shape));
        assert_eq!(states(&Adam::default(), &shape)?, of_shape(&["mean", "square"], &shape));
        assert_eq!(states(&AdamW::default(), &shape)?, of_shape(&["mean", "square"], &shape));
        assert_eq!(states(&RmsProp::default(), &shape)?, of_shape(&["square"], &shape));
        assert_eq!(states(&Adagrad::default(), &shape)?, of_shape(&["square_sum"], &shape));
        assert_eq!(states(&Adadelta::default(), &shape)?, of_shape(&["square", "change_square"], &shape));
        assert_eq!(states(&Lion::default(), &shape)?, of_shape(&["momentum"], &shape));
        assert_eq!(states(&Nadam::default(), &shape)?.len(), 3);
        Ok(())
    }

    #[test]
    fn muon_turns_matrices_and_leaves_vectors_to_adamw() -> Result<()> {
        assert_eq!(states(&Muon::default(), &[8, 3, 2, 2])?, of_shape(&["momentum"], &[8, 3, 2, 2]));
        assert_eq!(states(&Muon::default(), &[8])?, of_shape(&["mean", "square"], &[8]));
        Ok(())
    }
}
