//! A plain convolutional network for images.

use solstice_plugin_api::nn::Conv2d;
use solstice_plugin_api::prelude::*;

/// Convolutional network: stages of convolution, batch norm, relu and pooling, then dense layers.
#[config]
pub struct ConvNet {
    /// Channels of each convolution, the first one next to the image.
    pub channels: Vec<u32>,
    /// Height and width of the kernels, in pixels.
    #[schemars(range(min = 1, max = 15))]
    pub kernel: u32,
    /// Zeros around the image.
    pub padding: Padding,
    /// Where 2 x 2 max pooling stands.
    pub pool: Pool,
    /// Normalises after each convolution, which then has no bias.
    pub batch_norm: bool,
    /// Width of the dense layer before the last one; 0 leaves it out.
    #[schemars(range(max = 65536))]
    pub dense: u32,
    /// Share of the values that training sets to zero before each dense layer.
    #[schemars(range(min = 0.0, max = 0.95))]
    pub dropout: f64,
    /// Width of the last layer; by default what the data set says: its `classes`, else its `targets`.
    pub outputs: Option<u32>,
}

/// Zeros around the image.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// A convolution keeps height and width (odd kernels).
    Same,
    /// None: a convolution takes `kernel - 1` pixels off height and width.
    Valid,
}

/// Where pooling stands.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// After every convolution.
    Each,
    /// After the last convolution.
    Last,
    /// Nowhere.
    None,
}

impl Default for ConvNet {
    // On 28 x 28 pixels 9 million floating-point operations an image, forward.
    fn default() -> Self {
        ConvNet {
            channels: vec![32, 64],
            kernel: 3,
            padding: Padding::Same,
            pool: Pool::Each,
            batch_norm: true,
            dense: 128,
            dropout: 0.25,
            outputs: None,
        }
    }
}

impl Model for ConvNet {
    const ID: &'static str = "convnet";

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        if g.shape(x).len() != 4 {
            return Err(Error::new(format!("convnet wants images [batch, channels, height, width], got {:?}", g.shape(x))));
        }
        let outputs = self.outputs.map(|width| width as usize).or(g.fact("classes")).or(g.fact("targets"));
        let outputs = outputs.ok_or_else(|| Error::new("set `outputs`: the data set tells neither `classes` nor `targets`"))?;
        let kernel = self.kernel as usize;
        let padding = match self.padding {
            Padding::Same if kernel.is_multiple_of(2) => {
                return Err(Error::new(format!("padding `same` wants an odd kernel, got {kernel}")));
            }
            Padding::Same => kernel / 2,
            Padding::Valid => 0,
        };
        let mut h = x; // [batch, channels, height, width]
        for (index, &channels) in self.channels.iter().enumerate() {
            let stage = index + 1;
            let conv = Conv2d::new(channels as usize, kernel).padding(padding).bias(!self.batch_norm);
            h = g.conv2d(&format!("conv{stage}"), h, conv)?;
            if self.batch_norm {
                h = g.batch_norm(&format!("norm{stage}"), h)?;
            }
            h = g.relu(h);
            if self.pool == Pool::Each || (self.pool == Pool::Last && stage == self.channels.len()) {
                h = g.max_pool2d(h, 2)?;
            }
        }
        let mut h = g.flatten(h); // [batch, features]
        let mut layer = 1;
        if self.dense > 0 {
            h = g.dropout(h, self.dropout)?;
            h = g.linear("fc1", h, self.dense as usize)?;
            h = g.relu(h);
            layer = 2;
        }
        h = g.dropout(h, self.dropout)?;
        g.linear(&format!("fc{layer}"), h, outputs)
    }
}

export_plugin! { models: [ConvNet] }

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(model: &ConvNet) -> Result<(Graph, Tensor)> {
        let mut g = Graph::new("forward", true).with_facts([("classes".to_owned(), 10.into())].into());
        let x = g.input("x", TensorType::new(DType::F32, [2, 1, 28, 28]));
        let y = model.forward(&mut g, x)?;
        g.output("y", y);
        Ok((g, y))
    }

    fn parameter_count(g: &Graph) -> usize {
        g.params().iter().map(|(_, weight)| g.ty(*weight).element_count()).sum()
    }

    #[test]
    fn the_benchmark_network_is_the_one_of_the_pytorch_example() -> Result<()> {
        let plain = ConvNet { padding: Padding::Valid, pool: Pool::Last, batch_norm: false, dropout: 0.0, ..ConvNet::default() };
        let (g, y) = traced(&plain)?;
        assert_eq!(g.shape(y), [2, 10]);
        // conv 1 -> 32 and 32 -> 64 of 3 x 3, then 12 * 12 * 64 = 9216 -> 128 -> 10, all with bias.
        assert_eq!(parameter_count(&g), 320 + 18_496 + 9_216 * 128 + 128 + 1_290);
        g.finish().map(drop)
    }

    #[test]
    fn the_default_network_normalises_and_pools_after_each_convolution() -> Result<()> {
        let (g, y) = traced(&ConvNet::default())?;
        assert_eq!(g.shape(y), [2, 10]);
        // Scale and shift in place of the biases; 7 * 7 * 64 = 3136 features.
        assert_eq!(parameter_count(&g), 32 * 9 + 64 + 64 * 32 * 9 + 128 + 3_136 * 128 + 128 + 1_290);
        g.finish().map(drop)
    }

    #[test]
    fn no_dense_layer_leaves_one_layer_after_the_last_stage() -> Result<()> {
        let (g, _) = traced(&ConvNet { dense: 0, ..ConvNet::default() })?;
        let names: Vec<String> = g.params().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("fc")).collect();
        assert_eq!(names, ["fc1.weight", "fc1.bias"]);
        Ok(())
    }
}
