//! How weights start: free functions that give an [`Init`]. Fans are worked out from the shape.

use solstice_ir::Init;

/// What follows a layer, for the gain of its initial weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// Nothing: gain 1.
    Linear,
    /// Gain 1.
    Sigmoid,
    /// Gain 5/3.
    Tanh,
    /// Gain `sqrt(2)`.
    Relu,
    /// Gain `sqrt(2 / (1 + slope^2))`; the field is the slope of the negative side.
    LeakyRelu(f64),
    /// Gain 3/4.
    Selu,
}

impl Nonlinearity {
    /// Factor on the standard deviation that keeps the variance through the nonlinearity. Source: `torch.nn.init.calculate_gain`.
    pub fn gain(self) -> f64 {
        match self {
            Nonlinearity::Linear | Nonlinearity::Sigmoid => 1.0,
            Nonlinearity::Tanh => 5.0 / 3.0,
            Nonlinearity::Relu => 2f64.sqrt(),
            Nonlinearity::LeakyRelu(slope) => (2.0 / (1.0 + slope * slope)).sqrt(),
            Nonlinearity::Selu => 0.75,
        }
    }
}

/// Fan-in and fan-out of a weight: `[out, in]` of a linear layer, `[out, in / groups, kernel..]` of a convolution.
///
/// A vector has its length as both, a scalar 1; no fan is below 1.
pub fn fans(shape: &[usize]) -> (usize, usize) {
    let (inputs, outputs) = match shape {
        [] => (1, 1),
        [length] => (*length, *length),
        [out, input, kernel @ ..] => {
            let window: usize = kernel.iter().product();
            (input * window, out * window)
        }
    };
    (inputs.max(1), outputs.max(1))
}

/// All 0.
pub fn zeros() -> Init {
    Init::Constant(0.0)
}

/// All 1.
pub fn ones() -> Init {
    Init::Constant(1.0)
}

/// Uniform in `[-bound, bound)`.
pub fn uniform(bound: f64) -> Init {
    Init::Uniform { low: -bound, high: bound }
}

/// Normal with mean 0.
pub fn normal(std: f64) -> Init {
    Init::Normal { mean: 0.0, std }
}

/// Normal with mean 0, redrawn beyond two standard deviations; the result has the standard deviation `0.88 std`.
pub fn truncated_normal(std: f64) -> Init {
    Init::TruncatedNormal { mean: 0.0, std, cut: 2.0 }
}

/// Rows (or columns, whichever are fewer) orthonormal, times `gain`; a convolution's weight counts as `[out, rest]`.
///
/// Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.
pub fn orthogonal(gain: f64) -> Init {
    Init::Orthogonal { gain }
}

/// Uniform with the standard deviation `gain sqrt(2 / (fan_in + fan_out))`.
///
/// Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
pub fn xavier_uniform(shape: &[usize], gain: f64) -> Init {
    // A uniform distribution in ±b has the standard deviation b / sqrt(3).
    uniform(xavier_std(shape, gain) * 3f64.sqrt())
}

/// Normal with the standard deviation of [`xavier_uniform`].
pub fn xavier_normal(shape: &[usize], gain: f64) -> Init {
    normal(xavier_std(shape, gain))
}

fn xavier_std(shape: &[usize], gain: f64) -> f64 {
    let (fan_in, fan_out) = fans(shape);
    gain * (2.0 / (fan_in + fan_out) as f64).sqrt()
}

/// Uniform with the standard deviation `gain / sqrt(fan_in)`.
///
/// Source: He et al., "Delving Deep into Rectifiers", 2015.
pub fn kaiming_uniform(shape: &[usize], followed_by: Nonlinearity) -> Init {
    uniform(kaiming_std(shape, followed_by) * 3f64.sqrt())
}

/// Normal with the standard deviation of [`kaiming_uniform`].
pub fn kaiming_normal(shape: &[usize], followed_by: Nonlinearity) -> Init {
    normal(kaiming_std(shape, followed_by))
}

fn kaiming_std(shape: &[usize], followed_by: Nonlinearity) -> f64 {
    followed_by.gain() / (fans(shape).0 as f64).sqrt()
}

/// Uniform in `±1/sqrt(fan_in)`: what PyTorch gives linear and convolution layers, bias included.
pub fn fan_in_uniform(fan_in: usize) -> Init {
    uniform(1.0 / (fan_in.max(1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fans_count_the_kernel() {
        assert_eq!(fans(&[10, 784]), (784, 10));
        assert_eq!(fans(&[16, 3, 5, 5]), (75, 400));
        assert_eq!(fans(&[7]), (7, 7));
        assert_eq!(fans(&[0, 4]), (4, 1));
    }

    #[test]
    fn distributions_are_those_of_pytorch() {
        let bound = |init: Init| match init {
            Init::Uniform { low, high } if low == -high => high,
            other => panic!("{other:?}"),
        };
        // torch.nn.init on [128, 784]: bounds worked out by hand from its documentation.
        assert!((bound(xavier_uniform(&[128, 784], 1.0)) - (6f64 / 912.0).sqrt()).abs() < 1e-15);
        assert!((bound(kaiming_uniform(&[128, 784], Nonlinearity::Relu)) - (6f64 / 784.0).sqrt()).abs() < 1e-15);
        // torch.nn.Linear: kaiming_uniform_ with a = sqrt(5).
        let default = kaiming_uniform(&[128, 784], Nonlinearity::LeakyRelu(5f64.sqrt()));
        assert!((bound(default) - bound(fan_in_uniform(784))).abs() < 1e-15);
    }
}
