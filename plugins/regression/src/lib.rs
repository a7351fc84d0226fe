//! Supervised regression.

use solstice_plugin_api::prelude::*;

/// Trains a model to predict numbers; metrics see `prediction` and `target`, both `[batch, ..]`.
///
/// Loss and metrics are in the units of the target as the data set gives it: a data set that standardises its target reports standard
/// deviations.
#[config]
#[derive(Default)]
pub struct Regression {
    /// Distance of a prediction from its target. Evaluation logs the same one.
    pub loss: Loss,
}

/// Distance of a prediction from its target.
#[config]
#[derive(Copy, PartialEq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Square of the difference.
    #[default]
    Mse,
    /// Absolute difference.
    L1,
    /// Half the square up to a difference of `delta`, a line after it.
    Huber {
        /// Where the line starts.
        #[schemars(range(min = 1e-6))]
        delta: f64,
    },
}

impl Experiment for Regression {
    const ID: &'static str = "regression";

    fn train_step(&self, step: &mut Step) -> Result<()> {
        let loss = self.predicted(step)?;
        let loss = step.batch_mean(loss);
        step.minimize(loss)
    }

    fn eval_step(&self, step: &mut Step) -> Result<()> {
        self.predicted(step).map(drop)
    }
}

impl Regression {
    /// Loss of each sample, `[batch]`, logged and with what it came from shown to the metrics.
    fn predicted(&self, step: &mut Step) -> Result<Tensor> {
        let input = step.input()?;
        let target = step.target()?;
        let prediction = step.model(input)?;
        step.check()?;
        // [batch] and [batch, 1] are the same numbers.
        if step.ty(target).element_count() != step.ty(prediction).element_count() {
            let (prediction, target) = (step.ty(prediction), step.ty(target));
            return Err(Error::new(format!(
                "the model predicts {prediction}, the data set's target is {target}: set the model's `outputs`"
            )));
        }
        let shape = step.shape(prediction).to_vec();
        let target = step.reshape(target, &shape);
        let target = step.convert(target, DType::F32);
        let loss = match self.loss {
            Loss::Mse => step.mse(prediction, target),
            Loss::L1 => step.l1(prediction, target),
            Loss::Huber { delta } => step.huber(prediction, target, delta),
        };
        step.log_mean("loss", loss)?;
        step.observe("prediction", prediction);
        step.observe("target", target);
        Ok(loss)
    }
}

export_plugin! { experiments: [Regression] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{Components, step_request};

    fn evaluated(loss: Loss, target: &[usize]) -> Result<Vec<String>> {
        let request = step_request("test", 4, TensorType::new(DType::F32, [5]), TensorType::new(DType::F32, target));
        let trace = Components::linear(2).trace(&Regression { loss }, "eval_step", &request)?;
        Ok(trace.metrics.into_iter().map(|metric| metric.name).collect())
    }

    #[test]
    fn each_loss_is_logged() -> Result<()> {
        for loss in [Loss::Mse, Loss::L1, Loss::Huber { delta: 1.0 }] {
            assert_eq!(evaluated(loss, &[2])?, ["loss"]);
        }
        Ok(())
    }

    #[test]
    fn a_model_of_the_wrong_width_is_told_to_change() {
        assert!(evaluated(Loss::Mse, &[3]).is_err_and(|error| error.message.contains("outputs")));
    }
}
