//! Marks sudden jumps of the training loss.

use crate::common::{Exact, figure, shown};
use serde::{Deserialize, Serialize};
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Event, Moment};
use std::collections::VecDeque;

/// Puts a mark where `train/loss` jumps far above its mean over the last reports.
///
/// Reports in a row that are too high are one spike and get one mark. They do not enter the mean, until there are as many of them as the
/// window is long: then that is the usual loss.
#[config]
pub struct LossSpike {
    /// Reports that tell what is usual. Until there are as many, nothing is a spike.
    #[schemars(range(min = 2, max = 100000))]
    pub window: u32,
    /// How many standard deviations above the mean is too high.
    #[schemars(range(min = 0.0))]
    pub factor: f64,
    /// The least that counts, as a part of the mean: 0.1 is a tenth above it.
    #[schemars(range(min = 0.0))]
    pub relative: f64,
}

impl Default for LossSpike {
    fn default() -> Self {
        LossSpike { window: 20, factor: 5.0, relative: 0.1 }
    }
}

/// What was usual so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LossSpikeState {
    /// The last usual losses, oldest first.
    usual: VecDeque<Exact>,
    /// Losses in a row that are too high.
    high: VecDeque<Exact>,
}

impl Callback for LossSpike {
    const ID: &'static str = "loss-spike";
    const MOMENTS: &'static [Moment] = &[Moment::Report];
    type State = LossSpikeState;

    fn on_event(&self, state: &mut LossSpikeState, event: &Event, _: &Run<'_>) -> Result<Vec<Action>> {
        let loss = figure(Self::ID, event, "train/loss")?;
        // The run itself says what is not finite.
        if !loss.is_finite() {
            return Ok(vec![]);
        }
        let window = self.window as usize;
        if state.usual.len() >= window {
            let (mean, deviation) = mean_and_deviation(&state.usual);
            if loss - mean > (self.factor * deviation).max(self.relative * mean.abs()) {
                state.high.push_back(Exact(loss));
                let is_first = state.high.len() == 1;
                if state.high.len() >= window {
                    state.usual = std::mem::take(&mut state.high);
                }
                let message = format!(
                    "`train/loss` is {} at step {}; usual is {} with a deviation of {} over the {window} reports before",
                    shown(loss),
                    event.at.step,
                    shown(mean),
                    shown(deviation)
                );
                return Ok(if is_first { vec![Action::Mark { kind: "spike".into(), message }] } else { vec![] });
            }
        }
        state.high.clear();
        state.usual.push_back(Exact(loss));
        while state.usual.len() > window {
            state.usual.pop_front();
        }
        Ok(vec![])
    }
}

/// Mean and standard deviation of two values or more.
fn mean_and_deviation(values: &VecDeque<Exact>) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|value| value.0).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value.0 - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, facts, replay, silent};

    /// Number (from 1) and message of each mark in a series of losses.
    fn marks(config: &LossSpike, losses: &[f64]) -> Vec<(usize, String)> {
        let reports: Vec<Event> =
            losses.iter().zip(1..).map(|(&loss, step)| event(Moment::Report, step, &[("train/loss", loss)])).collect();
        let all = replay(config, &facts(), &silent, &reports).unwrap();
        let marks = all.into_iter().zip(1..).flat_map(|(actions, number)| actions.into_iter().map(move |action| (number, action)));
        marks
            .map(|(number, action)| match action {
                Action::Mark { kind, message } if kind == "spike" => (number, message),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn numbers(config: &LossSpike, losses: &[f64]) -> Vec<usize> {
        marks(config, losses).into_iter().map(|(number, _)| number).collect()
    }

    // Mean 2, deviation 1 (squares 1 + 1 + 0 over 2): three deviations above is 5.
    const CONFIG: LossSpike = LossSpike { window: 3, factor: 3.0, relative: 0.0 };

    #[test]
    fn a_jump_is_marked_with_what_was_usual() {
        let found = marks(&CONFIG, &[1.0, 3.0, 2.0, 5.1]);
        let message = "`train/loss` is 5.1 at step 4; usual is 2 with a deviation of 1 over the 3 reports before";
        assert_eq!(found, [(4, message.to_owned())]);
        assert!(numbers(&CONFIG, &[1.0, 3.0, 2.0, 5.0]).is_empty());
        assert!(numbers(&CONFIG, &[1.0, 3.0, 2.0, -50.0]).is_empty());
    }

    #[test]
    fn nothing_is_a_spike_before_the_window_is_full() {
        assert!(numbers(&CONFIG, &[1.0, 1000.0, 2.0]).is_empty());
    }

    #[test]
    fn the_outlier_does_not_widen_what_is_usual() {
        // With 100 in the window neither 6 nor the second 100 would be far.
        assert_eq!(numbers(&CONFIG, &[1.0, 3.0, 2.0, 100.0, 2.0, 6.0, 2.0, 100.0]), [4, 6, 8]);
    }

    #[test]
    fn reports_in_a_row_are_one_spike_and_a_level_that_stays_becomes_usual() {
        let losses = [1.0, 3.0, 2.0, 101.0, 103.0, 102.0, 102.0, 104.0, 200.0];
        // The three from 101 on are the new window; 200 is far above their 102 to 104.
        assert_eq!(numbers(&CONFIG, &losses), [4, 9]);
    }

    #[test]
    fn a_quiet_loss_must_still_rise_by_its_part() {
        let config = LossSpike { relative: 0.5, ..CONFIG };
        assert!(numbers(&config, &[1.0, 1.0, 1.0, 1.5]).is_empty());
        assert_eq!(numbers(&config, &[1.0, 1.0, 1.0, 1.51]), [4]);
        assert!(numbers(&config, &[-1.0, -1.0, -1.0, -0.51]).is_empty());
        assert_eq!(numbers(&config, &[-1.0, -1.0, -1.0, -0.49]), [4]);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_left_to_the_run() {
        assert_eq!(numbers(&CONFIG, &[1.0, 3.0, f64::NAN, f64::INFINITY, 2.0, 5.1]), [6]);
    }
}
