//! Supervised classification: the training strategy of most image and table tasks, and the experiment to copy.

use solstice_plugin_api::prelude::*;

/// Trains a model to name the class of each sample; metrics see `logits` `[batch, classes]` and `target` `[batch]`.
#[config]
#[derive(Default)]
pub struct Classification {
    /// Share of the target that is spread over all classes while training. Evaluation logs the plain cross-entropy.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_smoothing: f64,
}

impl Experiment for Classification {
    const ID: &'static str = "classification";

    fn train_step(&self, step: &mut Step) -> Result<()> {
        let loss = classified(step, self.label_smoothing)?;
        let loss = step.batch_mean(loss);
        step.minimize(loss)
    }

    fn eval_step(&self, step: &mut Step) -> Result<()> {
        classified(step, 0.0).map(drop)
    }
}

/// Cross-entropy of each sample, `[batch]`, logged and with what it came from shown to the metrics.
fn classified(step: &mut Step, label_smoothing: f64) -> Result<Tensor> {
    let input = step.input()?;
    let target = step.target()?; // [batch]
    let logits = step.model(input)?; // [batch, classes]
    let loss = step.cross_entropy(logits, target, label_smoothing);
    step.log_mean("loss", loss)?;
    step.observe("logits", logits);
    step.observe("target", target);
    Ok(loss)
}

export_plugin! { experiments: [Classification] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{Components, step_request};
    use solstice_plugin_api::wire::{StepRequest, StepTrace};

    fn traced(entry: &str, request: &StepRequest) -> Result<StepTrace> {
        Components::linear(3).trace(&Classification { label_smoothing: 0.1 }, entry, request)
    }

    fn request() -> StepRequest {
        step_request("train", 4, TensorType::new(DType::F32, [5]), TensorType::new(DType::I32, []))
    }

    #[test]
    fn training_changes_every_weight_and_evaluation_none() -> Result<()> {
        let changed = |trace: &StepTrace| -> Vec<String> {
            trace.graph.updates.iter().map(|update| update.state.clone()).filter(|name| name.starts_with("model.")).collect()
        };
        assert_eq!(changed(&traced("train_step", &request())?), ["model.fc.weight", "model.fc.bias"]);
        let evaluation = traced("eval_step", &request())?;
        assert!(changed(&evaluation).is_empty());
        assert_eq!(evaluation.metrics[0].name, "loss");
        Ok(())
    }

    #[test]
    fn a_target_of_real_numbers_is_refused() {
        let wrong = step_request("train", 4, TensorType::new(DType::F32, [5]), TensorType::new(DType::F32, []));
        assert!(traced("train_step", &wrong).is_err_and(|error| error.message.contains("target")));
    }
}
