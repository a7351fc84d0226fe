//! Range test for the learning rate.

use crate::common::{Exact, figure, problem, shown};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Entry, Event, Moment, RunFacts};

/// Raises the learning rate step by step and suggests the one at which the loss falls most steeply; the run ends when it knows.
///
/// The run is for that alone: its weights are of no use. Needs the schedule `constant`.
/// Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; the rule is that of PyTorch Lightning's `tuner/lr_finder.py`.
#[config]
pub struct LrFinder {
    /// First rate.
    #[schemars(range(min = 1e-12))]
    pub low: f64,
    /// Last rate.
    #[schemars(range(min = 1e-12))]
    pub high: f64,
    /// Rates to try, one a step. Fewer than 13 suggest nothing.
    #[schemars(range(min = 2, max = 100000))]
    pub steps: u32,
    /// How the rates lie between `low` and `high`.
    pub mode: Spacing,
    /// End as soon as the smoothed loss is above this many times its lowest.
    #[schemars(range(min = 1.0))]
    pub stop_factor: f64,
    /// What the smoothed loss keeps of itself at each step; 0 smooths nothing. More lags behind, so that what is suggested is too high.
    #[schemars(range(min = 0.0, max = 0.999))]
    pub smoothing: f64,
}

impl Default for LrFinder {
    fn default() -> Self {
        // Lightning smooths with 0.98; on softmax regression by plain descent that suggested five to ten times the rate of no smoothing, 0.8 twice.
        LrFinder { low: 1e-7, high: 10.0, steps: 100, mode: Spacing::Exponential, stop_factor: 4.0, smoothing: 0.8 }
    }
}

/// How rates lie between the first and the last.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Each is the one before times a factor.
    Exponential,
    /// Each is the one before plus a number.
    Linear,
}

/// The first losses are those of untouched weights, the last may be where it broke.
const SKIPPED_FIRST: usize = 10;
const SKIPPED_LAST: usize = 1;

/// What the search remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LrFinderState {
    /// Loss at each rate so far.
    losses: Vec<Exact>,
    smoothed: Vec<Exact>,
    /// The running mean before its correction for the beginning.
    average: Exact,
    /// The reason of the stop, once there is one.
    conclusion: Option<String>,
}

impl Callback for LrFinder {
    const ID: &'static str = "lr-finder";
    const MOMENTS: &'static [Moment] = &[Moment::RunStart, Moment::Report, Moment::NotFinite];
    type State = LrFinderState;

    fn start(&self, facts: &RunFacts) -> Result<()> {
        let (low, high, steps) = (self.low, self.high, self.steps);
        if low >= high {
            return Err(problem(format!("lr-finder: wanted `low` below `high`, got {low} and {high}")));
        }
        let schedule = facts.config.pointer("/components/schedule");
        let id = schedule.and_then(|schedule| schedule["id"].as_str()).unwrap_or("constant");
        let factor = schedule.and_then(|schedule| schedule.pointer("/config/factor")).and_then(Value::as_f64).unwrap_or(1.0);
        if id != "constant" || factor != 1.0 {
            let got = if id == "constant" { format!("constant(factor: {factor})") } else { id.to_owned() };
            return Err(problem(format!(
                "lr-finder: the schedule `{got}` would change the rates that are tried; wanted `constant()`: `--set schedule=constant()`"
            )));
        }
        match facts.total_steps {
            Some(total) if total < u64::from(steps) => Err(problem(format!(
                "lr-finder: it tries {steps} rates, one a step, but the run has {total} steps; set `trainer.budget` to at least {steps}st, or \
                 fewer `steps`"
            ))),
            _ => Ok(()),
        }
    }

    fn on_event(&self, state: &mut LrFinderState, event: &Event, _: &Run<'_>) -> Result<Vec<Action>> {
        if let Some(conclusion) = &state.conclusion {
            let again = event.moment == Moment::RunStart;
            return Ok(if again { vec![Action::Stop { reason: conclusion.clone() }] } else { vec![] });
        }
        match event.moment {
            Moment::RunStart => {
                let every_step = Action::Set { key: "trainer.log_every".into(), value: "1st".into() };
                return Ok(vec![every_step, self.set_rate(state.losses.len())]);
            }
            Moment::NotFinite => return Ok(self.conclude(state)),
            _ => {}
        }
        let loss = figure(Self::ID, event, "train/loss")?;
        if !loss.is_finite() {
            return Ok(self.conclude(state));
        }
        let count = state.losses.len() as i32 + 1;
        state.average.0 = self.smoothing * state.average.0 + (1.0 - self.smoothing) * loss;
        // The mean begins at 0; this divides by the weight that the losses have in it.
        let smoothed = state.average.0 / (1.0 - self.smoothing.powi(count));
        let lowest = state.smoothed.iter().map(|value| value.0).fold(f64::INFINITY, f64::min);
        state.losses.push(Exact(loss));
        state.smoothed.push(Exact(smoothed));
        // `stop_factor * lowest` where that is above 0.
        let is_broken = smoothed > lowest + (self.stop_factor - 1.0) * lowest.abs();
        if is_broken || state.losses.len() >= self.steps as usize {
            return Ok(self.conclude(state));
        }
        Ok(vec![self.set_rate(state.losses.len())])
    }
}

impl LrFinder {
    fn set_rate(&self, index: usize) -> Action {
        Action::Set { key: "optimizer.lr".into(), value: self.rate(index).into() }
    }

    /// The rate of step `index`, from 0.
    fn rate(&self, index: usize) -> f64 {
        let share = index as f64 / f64::from(self.steps - 1);
        match self.mode {
            Spacing::Exponential => self.low * (self.high / self.low).powf(share),
            Spacing::Linear => self.low + (self.high - self.low) * share,
        }
    }

    /// Ends the search with what it has seen.
    fn conclude(&self, state: &mut LrFinderState) -> Vec<Action> {
        let count = state.losses.len();
        let rates: Vec<f64> = (0..count).map(|index| self.rate(index)).collect();
        let smoothed: Vec<f64> = state.smoothed.iter().map(|value| value.0).collect();
        let seen = match rates.last() {
            Some(last) => format!("{count} of {} rates were tried, from {} to {}", self.steps, shown(self.low), shown(*last)),
            None => "No rate was tried".into(),
        };
        let (reason, text) = match steepest(&rates, &smoothed) {
            Ok(index) => {
                let reason = format!("suggested learning rate {:.1e}", rates[index]);
                let loss = shown(smoothed[index]);
                let text = format!("{reason}: there the smoothed loss, {loss}, falls most steeply over the logarithm of the rate. {seen}.");
                (reason, text)
            }
            Err(why) => (format!("no learning rate can be suggested: {why}"), format!("No learning rate can be suggested: {why}. {seen}.")),
        };
        let rows = rates.iter().zip(&state.losses).zip(&smoothed);
        let rows = rows.map(|((rate, loss), smoothed)| vec![json!(rate), json!(loss.0), json!(smoothed)]).collect();
        state.conclusion = Some(reason.clone());
        vec![
            Action::Log(Entry::Table {
                name: "lr_finder/curve".into(),
                columns: ["lr", "loss", "smoothed"].map(String::from).into(),
                rows,
            }),
            Action::Log(Entry::Text { name: "lr_finder/suggestion".into(), text }),
            Action::Stop { reason },
        ]
    }
}

/// Where the loss falls most steeply over the logarithm of the rate, or why nowhere.
fn steepest(rates: &[f64], losses: &[f64]) -> Result<usize, String> {
    let least = SKIPPED_FIRST + SKIPPED_LAST + 2;
    let count = rates.len();
    if count < least {
        return Err(format!("the loss was seen at {count} rates, at least {least} are needed"));
    }
    let kept = SKIPPED_FIRST..count - SKIPPED_LAST;
    let x: Vec<f64> = rates[kept.clone()].iter().map(|rate| rate.ln()).collect();
    let slopes = gradient(&x, &losses[kept]);
    let (index, slope) = slopes.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).expect("two points at least");
    if *slope >= 0.0 {
        return Err("the loss never falls".into());
    }
    Ok(SKIPPED_FIRST + index)
}

/// Slope at each of two or more points, as `numpy.gradient`: a parabola through a point and its neighbours, straight lines at the ends.
fn gradient(x: &[f64], y: &[f64]) -> Vec<f64> {
    let last = x.len() - 1;
    let line = |a: usize, b: usize| (y[b] - y[a]) / (x[b] - x[a]);
    (0..=last)
        .map(|at| match at {
            0 => line(0, 1),
            at if at == last => line(last - 1, last),
            at => {
                let (before, after) = (x[at] - x[at - 1], x[at + 1] - x[at]);
                (after * line(at - 1, at) + before * line(at, at + 1)) / (before + after)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, facts, refusal, replay, silent};

    /// Runs a search in which the loss is a function of the rate, and gives what it did at its end, with the number of rates that it tried.
    fn search(config: &LrFinder, loss: impl Fn(f64) -> f64) -> (usize, Vec<Action>) {
        let steps = u64::from(config.steps);
        let rate = |step: u64| {
            let share = (step - 1) as f64 / (steps - 1) as f64;
            match config.mode {
                Spacing::Exponential => 10f64.powf(config.low.log10() * (1.0 - share) + config.high.log10() * share),
                Spacing::Linear => config.low * (1.0 - share) + config.high * share,
            }
        };
        let mut events = vec![event(Moment::RunStart, 0, &[])];
        events.extend((1..=steps).map(|step| event(Moment::Report, step, &[("train/loss", loss(rate(step)))])));
        let all = replay(config, &facts(), &silent, &events).unwrap();
        assert_eq!(all[0][0], Action::Set { key: "trainer.log_every".into(), value: "1st".into() });
        // The rate that is set after a step is that of the next one.
        let mut tried = 0;
        for (actions, step) in all.iter().zip(1..) {
            let Some(Action::Set { key, value }) = actions.last() else { break };
            assert_eq!(key, "optimizer.lr");
            let (set, wanted) = (value.as_f64().unwrap(), rate(step));
            assert!((set / wanted - 1.0).abs() < 1e-9, "step {step}: {set}, wanted {wanted}");
            tried += 1;
        }
        assert!(all[tried + 1..].iter().all(Vec::is_empty), "it ends once");
        (tried, all[tried].clone())
    }

    fn stopped(actions: &[Action]) -> (&str, &str, usize) {
        let [
            Action::Log(Entry::Table { name, columns, rows }),
            Action::Log(Entry::Text { name: text_name, text }),
            Action::Stop { reason },
        ] = actions
        else {
            panic!("{actions:?}")
        };
        assert_eq!((name.as_str(), text_name.as_str()), ("lr_finder/curve", "lr_finder/suggestion"));
        assert_eq!(columns, &["lr", "loss", "smoothed"]);
        assert!(rows.iter().all(|row| row.len() == 3));
        (reason, text, rows.len())
    }

    // A fall along a logistic curve, steepest where its argument is 0, at a rate of 1e-3; then up, without end, from a rate of about 1.
    fn valley(rate: f64) -> f64 {
        let x = rate.log10();
        2.0 / (1.0 + (3.0 * (x + 3.0)).exp()) + 0.1 + rate.powi(2)
    }

    #[test]
    fn the_steepest_point_of_a_known_curve_is_suggested() {
        // 81 rates, ten to a power of ten: 1e-3 is one of them.
        let config = LrFinder { steps: 81, smoothing: 0.0, ..LrFinder::default() };
        let (tried, actions) = search(&config, valley);
        let (reason, text, rows) = stopped(&actions);
        assert_eq!(reason, "suggested learning rate 1.0e-3");
        // The lowest is at 10^-1.2: 0.1 + 0.009 + 0.004 and four times that is 0.45. 0.1 + r^2 is above it from r = 10^-0.2 on, the 69th rate.
        assert_eq!((tried, rows), (69, 69));
        assert!(text.contains("69 of 81 rates were tried, from 1e-7 to 0.630957"), "{text}");
    }

    #[test]
    fn rates_on_a_line_are_judged_over_their_logarithm_as_well() {
        // Over ln(rate) the loss 2 / (1 + rate / 0.3) is steepest at 0.3; over the rate itself it would be at the first one.
        let config = LrFinder { low: 0.01, high: 1.0, mode: Spacing::Linear, smoothing: 0.0, ..LrFinder::default() };
        let (tried, actions) = search(&config, |rate| 2.0 / (1.0 + rate / 0.3));
        assert_eq!((tried, stopped(&actions).0), (100, "suggested learning rate 3.0e-1"));
    }

    #[test]
    fn the_slope_is_exact_on_a_parabola_of_uneven_points() {
        let x = [0.0, 1.0, 3.0, 4.5, 5.0];
        let y = x.map(|x| x * x - 4.0 * x);
        let slopes = gradient(&x, &y);
        // 2 x - 4 inside; chords at the ends.
        for (slope, wanted) in slopes.iter().zip([-3.0, -2.0, 2.0, 5.0, 5.5]) {
            assert!((slope - wanted).abs() < 1e-12, "{slopes:?}");
        }
    }

    #[test]
    fn smoothing_is_a_mean_that_is_corrected_at_its_beginning() {
        let config = LrFinder { steps: 2, smoothing: 0.5, ..LrFinder::default() };
        let (_, actions) = search(&config, |rate| if rate < 1e-3 { 4.0 } else { 1.0 });
        let Action::Log(Entry::Table { rows, .. }) = &actions[0] else { panic!() };
        // 4, then (0.25 * 4 + 0.5 * 1) / 0.75.
        assert_eq!((rows[0][2].as_f64(), rows[1][2].as_f64()), (Some(4.0), Some(2.0)));
    }

    #[test]
    fn without_a_fall_or_with_too_few_rates_a_sentence_says_so() {
        let config = LrFinder { stop_factor: 1000.0, smoothing: 0.0, ..LrFinder::default() };
        let (_, actions) = search(&config, |rate| 1.0 + rate);
        assert_eq!(stopped(&actions).0, "no learning rate can be suggested: the loss never falls");
        let (_, actions) = search(&LrFinder { steps: 12, ..config.clone() }, valley);
        assert_eq!(stopped(&actions).0, "no learning rate can be suggested: the loss was seen at 12 rates, at least 13 are needed");
        let (_, actions) = search(&LrFinder { steps: 13, ..config }, |rate| -rate.ln());
        assert!(stopped(&actions).0.starts_with("suggested"));
    }

    #[test]
    fn a_loss_that_is_not_finite_ends_the_search_and_a_negative_one_does_not() {
        let config = LrFinder { steps: 81, smoothing: 0.0, ..LrFinder::default() };
        let (tried, actions) = search(&config, |rate| if rate < 0.1 { valley(rate) } else { f64::NAN });
        assert_eq!(stopped(&actions).0, "suggested learning rate 1.0e-3");
        assert_eq!(stopped(&actions).2, tried - 1);
        let (tried, _) = search(&config, |rate| -2.0 - rate);
        assert_eq!(tried, 81);
        let events = [event(Moment::RunStart, 0, &[]), event(Moment::NotFinite, 1, &[]), event(Moment::RunStart, 1, &[])];
        let all = replay(&config, &facts(), &silent, &events).unwrap();
        assert!(stopped(&all[1]).1.contains("No rate was tried"));
        assert!(matches!(&all[2][..], [Action::Stop { reason }] if reason.contains("seen at 0 rates")), "a search that is over stays so");
    }

    #[test]
    fn a_search_that_goes_on_sets_its_place_again() {
        let report = |step| event(Moment::Report, step, &[("train/loss", 1.0)]);
        let resumed = Event { resumed: true, ..event(Moment::RunStart, 2, &[]) };
        let events = [event(Moment::RunStart, 0, &[]), report(1), report(2), resumed];
        let all = replay(&LrFinder::default(), &facts(), &silent, &events).unwrap();
        assert_eq!(all[3][1], all[2][0]);
    }

    #[test]
    fn a_run_that_would_spoil_the_search_is_refused() {
        let with_schedule = |id: &str, config: Value| {
            let config = json!({"components": {"schedule": {"id": id, "config": config}}});
            RunFacts { config, ..facts() }
        };
        let finder = LrFinder::default();
        finder.start(&with_schedule("constant", json!({"factor": 1.0}))).unwrap();
        assert!(refusal(&finder, &with_schedule("cosine", json!({}))).contains("the schedule `cosine` would change"));
        assert!(refusal(&finder, &with_schedule("constant", json!({"factor": 0.5}))).contains("constant(factor: 0.5)"));
        assert!(refusal(&finder, &RunFacts { total_steps: Some(99), ..facts() }).contains("to at least 100st"));
        assert!(refusal(&LrFinder { low: 1.0, high: 0.1, ..finder }, &facts()).contains("wanted `low` below `high`"));
    }
}
