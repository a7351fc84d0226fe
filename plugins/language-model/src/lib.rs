//! Prediction of the next token.

use solstice_plugin_api::prelude::*;

/// Trains a model to tell the token at each place from those before it; metrics see `logits` `[batch, time, vocabulary]` and `target`
/// `[batch, time]`.
///
/// The loss is in nats a token; a target outside the vocabulary (-1) adds nothing.
#[config]
#[derive(Default)]
pub struct LanguageModel {
    /// Share of the target that is spread over the vocabulary while training. Evaluation logs the plain cross-entropy.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_smoothing: f64,
}

impl Experiment for LanguageModel {
    const ID: &'static str = "language-model";

    fn train_step(&self, step: &mut Step) -> Result<()> {
        let loss = told(step, self.label_smoothing)?;
        let loss = step.batch_mean(loss);
        step.minimize(loss)
    }

    fn eval_step(&self, step: &mut Step) -> Result<()> {
        told(step, 0.0).map(drop)
    }
}

/// Mean cross-entropy of the tokens of each sample, `[batch]`, logged and with what it came from shown to the metrics.
fn told(step: &mut Step, label_smoothing: f64) -> Result<Tensor> {
    let tokens = step.input()?;
    let target = step.target()?; // [batch, time]
    let logits = step.model(tokens)?; // [batch, time, vocabulary]
    let token_loss = step.cross_entropy(logits, target, label_smoothing); // [batch, time]
    step.check()?;
    let loss = step.mean(token_loss, &[1]);
    step.log_mean("loss", loss)?;
    step.observe("logits", logits);
    step.observe("target", target);
    Ok(loss)
}

export_plugin! { experiments: [LanguageModel] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{Components, step_request};

    /// A table of the next token by the last one.
    #[config]
    #[derive(Default)]
    struct Bigram {}
    impl Model for Bigram {
        const ID: &'static str = "bigram";
        fn forward(&self, g: &mut Graph, tokens: Tensor) -> Result<Tensor> {
            g.embedding("table", tokens, 11, 11)
        }
    }

    #[test]
    fn evaluation_logs_the_loss_of_tokens() -> Result<()> {
        let tokens = TensorType::new(DType::I32, [16]);
        let request = step_request("val", 4, tokens.clone(), tokens);
        let trace = Components::new().model(Bigram {}).trace(&LanguageModel::default(), "eval_step", &request)?;
        let names: Vec<&str> = trace.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["loss"]);
        Ok(())
    }
}
