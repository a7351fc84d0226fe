//! The smallest plugin, as the design writes it: about 20 lines, and its test runs without a host.

use solstice_plugin_api::prelude::*;

/// Two-layer perceptron.
#[config]
struct Mlp {
    /// Width of the hidden layer.
    #[schemars(range(min = 1, max = 4096))]
    hidden: u32,
    classes: u32,
}
impl Default for Mlp {
    fn default() -> Self {
        Mlp { hidden: 128, classes: 10 }
    }
}
impl Model for Mlp {
    const ID: &'static str = "mlp";
    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let h = g.linear("fc1", x, self.hidden)?; // [batch, hidden]
        let h = g.relu(h);
        g.linear("fc2", h, self.classes)
    }
}
export_plugin! { models: [Mlp] }

#[test]
fn it_traces_without_a_host() {
    let graph = solstice_plugin_api::testing::trace_model(&Mlp::default(), TensorType::new(DType::F32, [32, 784])).unwrap();
    assert_eq!(graph.ty(graph.output("y").unwrap()).shape, [32, 10]);
    let weights: Vec<String> = graph.parameters().map(|(_, parameter, ty)| format!("{} {ty}", parameter.name)).collect();
    for weight in ["fc1.weight f32[128,784]", "fc1.bias f32[128]", "fc2.weight f32[10,128]", "fc2.bias f32[10]"] {
        assert!(weights.iter().any(|found| found == weight), "{weight} is not in {weights:?}");
    }
}
