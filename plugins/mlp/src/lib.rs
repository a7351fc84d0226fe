//! A multi-layer perceptron, the smallest useful model plugin: copy it to start your own.

use solstice_plugin_api::prelude::*;

/// Multi-layer perceptron: flattens its input and maps it through dense layers `fc1`, `fc2`, ..
#[config]
pub struct Mlp {
    /// Widths of the hidden layers; none at all makes a linear model.
    pub hidden: Vec<u32>,
    /// Function between the layers.
    pub activation: Activation,
    /// Share of the hidden values that training sets to zero.
    #[schemars(range(min = 0.0, max = 0.95))]
    pub dropout: f64,
    /// Width of the last layer; by default what the data set says: its `classes`, else its `targets`.
    pub outputs: Option<u32>,
}

/// A function of one number.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` times the normal distribution function of `x`.
    Gelu,
    /// `x / (1 + e^-x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Default for Mlp {
    fn default() -> Self {
        Mlp { hidden: vec![128], activation: Activation::Relu, dropout: 0.0, outputs: None }
    }
}

impl Model for Mlp {
    const ID: &'static str = "mlp";

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let outputs = self.outputs.map(|width| width as usize).or(g.fact("classes")).or(g.fact("targets"));
        let outputs = outputs.ok_or_else(|| Error::new("set `outputs`: the data set tells neither `classes` nor `targets`"))?;
        let mut h = g.flatten(x); // [batch, features]
        for (index, &width) in self.hidden.iter().enumerate() {
            h = g.linear(&format!("fc{}", index + 1), h, width as usize)?; // [batch, width]
            h = match self.activation {
                Activation::Relu => g.relu(h),
                Activation::Gelu => g.gelu(h),
                Activation::Silu => g.silu(h),
                Activation::Tanh => g.tanh(h),
            };
            h = g.dropout(h, self.dropout)?;
        }
        g.linear(&format!("fc{}", self.hidden.len() + 1), h, outputs)
    }
}

export_plugin! { models: [Mlp] }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_becomes_ten_logits_through_two_layers() -> Result<()> {
        let mut g = Graph::new("forward", true);
        let x = g.input("x", TensorType::new(DType::F32, [64, 1, 28, 28]));
        let y = Mlp { outputs: Some(10), ..Mlp::default() }.forward(&mut g, x)?;
        assert_eq!(g.shape(y), [64, 10]);
        let weights: Vec<(String, Vec<usize>)> =
            g.params().iter().map(|(name, weight)| (name.clone(), g.shape(*weight).to_vec())).collect();
        let wanted = [("fc1.weight", vec![128, 784]), ("fc1.bias", vec![128]), ("fc2.weight", vec![10, 128]), ("fc2.bias", vec![10])];
        assert_eq!(weights, wanted.map(|(name, shape)| (name.to_owned(), shape)));
        g.output("y", y);
        g.finish().map(drop)
    }

    #[test]
    fn the_data_set_tells_the_number_of_outputs() -> Result<()> {
        let outputs = |facts: &[(&str, u64)]| {
            let facts = facts.iter().map(|(name, value)| (name.to_string(), (*value).into())).collect();
            let mut g = Graph::new("forward", false).with_facts(facts);
            let x = g.input("x", TensorType::new(DType::F32, [3, 8]));
            Mlp::default().forward(&mut g, x).map(|y| g.shape(y)[1])
        };
        assert_eq!(outputs(&[("classes", 7), ("targets", 2)])?, 7);
        assert_eq!(outputs(&[("targets", 2)])?, 2);
        assert!(outputs(&[]).is_err_and(|error| error.message.contains("outputs")));
        Ok(())
    }
}
