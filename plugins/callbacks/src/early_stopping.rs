//! Ends a run that has stopped getting better.

use crate::common::{Exact, Place, epoch, figure, list, problem, shown};
use serde::{Deserialize, Serialize};
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Event, Moment, RunFacts};
use solstice_plugin_api::{Run, Span, Unit};

/// Ends the run when a metric has not improved for a while, has reached a goal, has become much worse, or is not finite.
///
/// The first evaluation at or after `patience` past the best one stops. A run that goes on after it was stopped begins its patience anew.
#[config]
pub struct EarlyStopping {
    /// The metric: of evaluations (`test/loss`, `val/accuracy`), or of training reports when it begins with `train/`.
    pub monitor: String,
    /// Which way is better; `auto` tells it by the metric's name.
    pub mode: Mode,
    /// How long to wait after the best value, in any unit: `3ep`, `500st`, `10min`.
    #[schemars(with = "String")]
    pub patience: Span,
    /// A value counts as better when it is better by more than this.
    #[schemars(range(min = 0.0))]
    pub min_delta: f64,
    /// Goal: stop as soon as the value is there or better.
    pub stopping_threshold: Option<f64>,
    /// Stop as soon as the value is worse than this.
    pub divergence_threshold: Option<f64>,
    /// Stop when the value is NaN or infinite. Otherwise such a value is only not an improvement.
    pub check_finite: bool,
    /// Values before this are not looked at.
    #[schemars(with = "Option<String>")]
    pub warm_up: Option<Span>,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        EarlyStopping {
            monitor: "test/loss".into(),
            mode: Mode::Auto,
            patience: Span { amount: 3.0, unit: Unit::Epochs },
            min_delta: 0.0,
            stopping_threshold: None,
            divergence_threshold: None,
            check_finite: true,
            warm_up: None,
        }
    }
}

/// Which way is better.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
    /// By the metric's name: losses and errors fall, accuracies and scores rise.
    Auto,
}

/// Words in the names of metrics that should fall, and of those that should rise.
const FALLING: [&str; 11] = ["loss", "perplexity", "error", "err", "mse", "rmse", "mae", "nll", "entropy", "distance", "divergence"];
const RISING: [&str; 17] = [
    "accuracy",
    "acc",
    "f1",
    "r2",
    "auc",
    "auroc",
    "auprc",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "kappa",
    "mcc",
    "iou",
    "dice",
    "bleu",
    "rouge",
];

/// What early stopping remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EarlyStoppingState {
    best: Option<Exact>,
    /// Place of the best value, or of the first look while there is none.
    since: Option<Place>,
    stopped: bool,
}

impl Callback for EarlyStopping {
    const ID: &'static str = "early-stopping";
    const MOMENTS: &'static [Moment] = &[Moment::RunStart, Moment::Report, Moment::EvalEnd];
    type State = EarlyStoppingState;

    fn start(&self, facts: &RunFacts) -> Result<()> {
        let monitor = &self.monitor;
        let Some((split, _)) = monitor.split_once('/') else {
            return Err(problem(format!(
                "early-stopping: wanted a split and a metric as `monitor`, such as `test/loss` or `train/loss`, got `{monitor}`"
            )));
        };
        let is_evaluated = |known: &String| split == known || split.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('-'));
        if split != "train" && !facts.evaluated.iter().any(is_evaluated) {
            let known = list(&facts.evaluated);
            return Err(problem(format!(
                "early-stopping: `monitor` is `{monitor}`, but no split `{split}` is evaluated (evaluated are {known}); set `monitor`"
            )));
        }
        let falls = self.falls()?;
        if let (Some(goal), Some(limit)) = (self.stopping_threshold, self.divergence_threshold)
            && !better(goal, limit, falls)
        {
            let way = if falls { "below" } else { "above" };
            return Err(problem(format!(
                "early-stopping: wanted `stopping_threshold` {way} `divergence_threshold` for `{monitor}`, got {goal} and {limit}"
            )));
        }
        Ok(())
    }

    fn on_event(&self, state: &mut EarlyStoppingState, event: &Event, run: &Run<'_>) -> Result<Vec<Action>> {
        let now = Place::of(event);
        if event.moment == Moment::RunStart {
            if event.resumed && state.stopped {
                (state.stopped, state.since) = (false, Some(now));
            }
            return Ok(vec![]);
        }
        if (event.moment == Moment::Report) != self.monitor.starts_with("train/") {
            return Ok(vec![]);
        }
        // Splits may be evaluated at times of their own: this evaluation was of others.
        let (split, _) = self.monitor.split_once('/').unwrap_or_default();
        let is_of = |known: &str| split == known || split.strip_prefix(known).is_some_and(|rest| rest.starts_with('-'));
        if event.moment == Moment::EvalEnd && !event.note.is_empty() && !event.note.split(',').any(is_of) {
            return Ok(vec![]);
        }
        let value = figure(Self::ID, event, &self.monitor)?;
        let is_early = self.warm_up.is_some_and(|warm_up| !over(warm_up, now.progress(), run.facts()));
        if state.stopped || is_early {
            return Ok(vec![]);
        }
        Ok(match self.verdict(state, value, now, run.facts())? {
            Some(reason) => {
                state.stopped = true;
                vec![Action::Mark { kind: Self::ID.into(), message: reason.clone() }, Action::Stop { reason }]
            }
            None => vec![],
        })
    }
}

impl EarlyStopping {
    /// Why to stop now, if there is a reason. Takes the value into the state.
    fn verdict(&self, state: &mut EarlyStoppingState, value: f64, now: Place, facts: &RunFacts) -> Result<Option<String>> {
        let falls = self.falls()?;
        let what = format!("`{}` is {} at step {}", self.monitor, shown(value), now.step);
        if self.check_finite && !value.is_finite() {
            return Ok(Some(format!("{what}: not finite")));
        }
        let since = *state.since.get_or_insert(now);
        if let Some(goal) = self.stopping_threshold.filter(|&goal| value == goal || better(value, goal, falls)) {
            return Ok(Some(format!("{what}: it has reached the goal of {}", shown(goal))));
        }
        if let Some(limit) = self.divergence_threshold.filter(|&limit| better(limit, value, falls)) {
            return Ok(Some(format!("{what}: worse than the limit of {}", shown(limit))));
        }
        let worst = if falls { f64::INFINITY } else { f64::NEG_INFINITY };
        let best = state.best.map_or(worst, |best| best.0);
        let to_beat = if falls { best - self.min_delta } else { best + self.min_delta };
        if better(value, to_beat, falls) {
            (state.best, state.since) = (Some(Exact(value)), Some(now));
            return Ok(None);
        }
        if !over(self.patience, now.since(&since), facts) {
            return Ok(None);
        }
        let than = match state.best {
            Some(_) if self.min_delta > 0.0 => format!("better than {} by more than {}", shown(best), shown(self.min_delta)),
            Some(_) => format!("better than {}", shown(best)),
            None => "a number".into(),
        };
        Ok(Some(format!("{what}: not {than} for {} since step {}", self.patience, since.step)))
    }

    /// True when lower is better.
    fn falls(&self) -> Result<bool> {
        match self.mode {
            Mode::Min => return Ok(true),
            Mode::Max => return Ok(false),
            Mode::Auto => {}
        }
        let metric = self.monitor.rsplit('/').next().unwrap_or_default().to_lowercase();
        let has = |known: &[&str]| metric.split(|letter: char| !letter.is_alphanumeric()).any(|word| known.contains(&word));
        match (has(&FALLING), has(&RISING)) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(problem(format!(
                "early-stopping: the name `{}` does not tell whether lower or higher is better; set `mode: min` or `mode: max`",
                self.monitor
            ))),
        }
    }
}

fn better(a: f64, b: f64, falls: bool) -> bool {
    if falls { a < b } else { a > b }
}

/// True when a span ends at or before `progress`.
fn over(span: Span, progress: solstice_plugin_api::Progress, facts: &RunFacts) -> bool {
    // As in `Span::fires`: the small constant keeps `3 * (1 / 3)` at 1.
    span.share(progress, epoch(facts)) >= 1.0 - 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, facts, refusal, replay, silent};

    fn patient(patience: &str) -> EarlyStopping {
        EarlyStopping { patience: patience.parse().unwrap(), ..EarlyStopping::default() }
    }

    /// Step and reason of the stop, for values of the metric at these steps.
    fn stop(config: &EarlyStopping, series: &[(u64, f64)]) -> Option<(u64, String)> {
        let moment = if config.monitor.starts_with("train/") { Moment::Report } else { Moment::EvalEnd };
        let events: Vec<Event> = series.iter().map(|&(step, value)| event(moment, step, &[(config.monitor.as_str(), value)])).collect();
        let all = replay(config, &facts(), &silent, &events).unwrap();
        let mut stops = all.iter().zip(series).filter(|(actions, _)| !actions.is_empty());
        let (actions, &(step, _)) = stops.next()?;
        assert!(stops.next().is_none(), "it stops once");
        let [Action::Mark { kind, message }, Action::Stop { reason }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((kind.as_str(), message), ("early-stopping", reason));
        Some((step, reason.clone()))
    }

    // Best at step 20; the evaluations are not evenly spaced, so counting them would stop elsewhere.
    const SERIES: [(u64, f64); 9] = [(10, 0.9), (20, 0.5), (22, 0.6), (24, 0.5), (30, 0.7), (39, 0.8), (40, 0.6), (50, 0.55), (60, 0.51)];

    #[test]
    fn patience_is_counted_from_the_best_value_in_any_unit() {
        // 10 steps, 1000 samples and 20 seconds are an epoch.
        for (patience, step) in
            [("2ep", 40), ("1.9ep", 39), ("10st", 30), ("11st", 39), ("21st", 50), ("2000samples", 40), ("40s", 40), ("1min", 50)]
        {
            let (at, reason) = stop(&patient(patience), &SERIES).unwrap();
            assert_eq!(at, step, "{patience}");
            let value = SERIES.iter().find(|(at, _)| *at == step).unwrap().1;
            let wanted =
                format!("`test/loss` is {value} at step {step}: not better than 0.5 for {} since step 20", patient(patience).patience);
            assert_eq!(reason, wanted);
        }
        assert_eq!(stop(&patient("5ep"), &SERIES), None);
    }

    #[test]
    fn an_improvement_must_be_larger_than_min_delta() {
        let creeping: Vec<(u64, f64)> = (1..=8).map(|index| (10 * index, 1.0 - 0.125 * index as f64)).collect();
        assert_eq!(stop(&patient("3ep"), &creeping), None);
        // From 0.875 at step 10: 0.75 and 0.625 are within 0.25, 0.5 at step 40 is better by more; the next such value is at step 70.
        assert_eq!(stop(&EarlyStopping { min_delta: 0.25, ..patient("4ep") }, &creeping), None);
        let (step, reason) = stop(&EarlyStopping { min_delta: 0.25, ..patient("2ep") }, &creeping).unwrap();
        assert_eq!((step, reason.contains("not better than 0.875 by more than 0.25 for 2ep")), (30, true), "{reason}");
    }

    #[test]
    fn a_rising_metric_is_known_by_its_name() {
        let config = EarlyStopping { monitor: "test/accuracy".into(), ..patient("2ep") };
        let series = [(10, 0.5), (20, 0.9), (30, 0.8), (40, 0.85), (50, 0.99)];
        assert_eq!(stop(&config, &series).unwrap().0, 40);
        let falling = EarlyStopping { mode: Mode::Min, ..config };
        assert_eq!(stop(&falling, &series).unwrap().0, 30);
    }

    #[test]
    fn a_goal_a_limit_and_a_value_that_is_no_number_stop_at_once() {
        let goal = EarlyStopping { stopping_threshold: Some(0.5), ..EarlyStopping::default() };
        assert_eq!(stop(&goal, &SERIES).unwrap(), (20, "`test/loss` is 0.5 at step 20: it has reached the goal of 0.5".into()));
        let limit = EarlyStopping { divergence_threshold: Some(0.7), ..patient("9ep") };
        assert_eq!(stop(&limit, &SERIES[1..]).unwrap(), (39, "`test/loss` is 0.8 at step 39: worse than the limit of 0.7".into()));
        let broken = [(10, 0.9), (20, f64::NAN), (30, f64::INFINITY), (40, 0.95)];
        assert_eq!(stop(&patient("3ep"), &broken).unwrap(), (20, "`test/loss` is NaN at step 20: not finite".into()));
        let tolerant = EarlyStopping { check_finite: false, ..patient("3ep") };
        assert_eq!(stop(&tolerant, &broken).unwrap().0, 40);
        // Never a number: the patience counts from the first look.
        let (step, reason) = stop(&tolerant, &[(10, f64::NAN), (30, f64::NAN), (40, f64::NAN)]).unwrap();
        assert_eq!((step, reason.contains("not a number for 3ep since step 10")), (40, true), "{reason}");
    }

    #[test]
    fn values_of_the_warm_up_count_for_nothing() {
        let config = EarlyStopping { warm_up: Some("3ep".parse().unwrap()), ..patient("2ep") };
        // 0.1 at step 10 would be the best.
        let series = [(10, 0.1), (20, f64::NAN), (30, 0.9), (40, 0.8), (50, 0.85), (60, 0.9)];
        assert_eq!(stop(&config, &series).unwrap().0, 60);
    }

    #[test]
    fn training_metrics_are_read_at_reports() {
        let config = EarlyStopping { monitor: "train/loss".into(), ..patient("5st") };
        assert_eq!(stop(&config, &[(1, 0.5), (4, 0.6), (6, 0.7)]).unwrap().0, 6);
        let others = [event(Moment::EvalEnd, 5, &[("test/loss", 1.0)]), event(Moment::Report, 6, &[("train/loss", 1.0)])];
        assert!(replay(&config, &facts(), &silent, &others).unwrap().concat().is_empty());
    }

    #[test]
    fn a_run_that_goes_on_after_the_stop_gets_new_patience() {
        let eval = |step, value| event(Moment::EvalEnd, step, &[("test/loss", value)]);
        let resumed = Event { resumed: true, ..event(Moment::RunStart, 40, &[]) };
        let events = [eval(20, 0.5), eval(40, 0.6), resumed, eval(50, 0.6), eval(59, 0.6), eval(60, 0.6)];
        let all = replay(&patient("2ep"), &facts(), &silent, &events).unwrap();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0, 0, 0, 2]);
    }

    #[test]
    fn what_cannot_be_watched_is_refused_with_what_there_is() {
        let monitor = |monitor: &str| EarlyStopping { monitor: monitor.into(), ..EarlyStopping::default() };
        assert!(refusal(&monitor("val/loss"), &facts()).contains("no split `val` is evaluated (evaluated are `test`)"));
        assert!(refusal(&monitor("loss"), &facts()).contains("wanted a split and a metric"));
        assert!(refusal(&monitor("test/wiggle"), &facts()).contains("`mode: min` or `mode: max`"));
        // Copies of the weights are evaluated beside them.
        for known in ["test-ema/loss", "train/loss", "test/top_5_accuracy", "test/f1_macro", "test/rmse"] {
            monitor(known).start(&facts()).unwrap();
        }
        let crossed = EarlyStopping { stopping_threshold: Some(2.0), divergence_threshold: Some(1.0), ..EarlyStopping::default() };
        assert!(refusal(&crossed, &facts()).contains("wanted `stopping_threshold` below"));
        let missing = [event(Moment::EvalEnd, 10, &[("test/accuracy", 0.5), ("test/mse", 1.0)])];
        let error = replay(&monitor("test/loss"), &facts(), &silent, &missing).unwrap_err().to_string();
        assert_eq!(error, "early-stopping: there is no metric `test/loss` at step 10; there are `test/accuracy`, `test/mse`");
    }
}
