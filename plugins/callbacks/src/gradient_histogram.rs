//! Histograms of gradients and weights.

use crate::common::{Place, epoch, list, problem};
use solstice_plugin_api::ir::Role;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Entry, Event, Moment, NamedTensor, Question};
use solstice_plugin_api::{Run, Span, Unit};

/// Logs how the values of gradients (and weights) are spread, now and then: `gradients/<param>`, `weights/<param>`.
///
/// Gradients are computed anew for the last batch, which costs about a step each time.
#[config]
pub struct GradientHistogram {
    /// How often: `1ep`, `200st`, `5min`.
    #[schemars(with = "String")]
    pub every: Span,
    /// Bins of equal width from the lowest to the highest value.
    #[schemars(range(min = 1, max = 4096))]
    pub bins: u32,
    /// Beginnings of the names of parameters to look at, such as `model.fc1`; none means all.
    pub names: Vec<String>,
    /// The weights as well.
    pub weights: bool,
}

impl Default for GradientHistogram {
    fn default() -> Self {
        GradientHistogram { every: Span { amount: 1.0, unit: Unit::Epochs }, bins: 64, names: vec![], weights: false }
    }
}

impl Callback for GradientHistogram {
    const ID: &'static str = "gradient-histogram";
    const MOMENTS: &'static [Moment] = &[Moment::RunStart, Moment::StepEnd];
    /// Where the last step ended.
    type State = Place;

    fn on_event(&self, state: &mut Place, event: &Event, run: &Run<'_>) -> Result<Vec<Action>> {
        let before = std::mem::replace(state, Place::of(event));
        if event.moment == Moment::RunStart {
            return self.check_names(run).map(|()| vec![]);
        }
        if !self.every.fires(before.progress(), state.progress(), epoch(run.facts())) {
            return Ok(vec![]);
        }
        // From here on it waits for the device.
        let mut actions = vec![];
        for gradient in run.gradients()?.iter().filter(|gradient| self.wants(&gradient.name)) {
            actions.push(Action::Log(self.histogram("gradients", gradient)?));
        }
        if self.weights {
            for name in self.params(run)? {
                for weight in run.ask(&Question::State { name })? {
                    actions.push(Action::Log(self.histogram("weights", &weight)?));
                }
            }
        }
        Ok(actions)
    }
}

impl GradientHistogram {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| name.starts_with(wanted))
    }

    /// Names of the trainable parameters that are wanted.
    fn params(&self, run: &Run<'_>) -> Result<Vec<String>> {
        let params = run.states()?.into_iter().filter(|state| state.role == Some(Role::Param)).map(|state| state.name);
        Ok(params.filter(|name| self.wants(name)).collect())
    }

    /// Every one of `names` must be the beginning of something.
    fn check_names(&self, run: &Run<'_>) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let states = run.states()?;
        let params: Vec<&str> = states.iter().filter(|state| state.role == Some(Role::Param)).map(|state| state.name.as_str()).collect();
        match self.names.iter().find(|wanted| !params.iter().any(|name| name.starts_with(wanted.as_str()))) {
            Some(wanted) => {
                let known = list(params);
                Err(problem(format!("gradient-histogram: no parameter's name begins with `{wanted}`, as `names` asks; there are {known}")))
            }
            None => Ok(()),
        }
    }

    fn histogram(&self, group: &str, tensor: &NamedTensor) -> Result<Entry> {
        let values = tensor.to_f32().ok_or_else(|| Error::new(format!("wanted f32 values of `{}`, got {}", tensor.name, tensor.ty)))?;
        let (edges, counts, not_finite) = histogram(&values, self.bins as usize);
        Ok(Entry::Histogram { name: format!("{group}/{}", tensor.name), edges, counts, not_finite })
    }
}

/// Edges, counts between them (a value on an edge belongs above it, the highest one to the last bin), and the number of values that are not finite.
fn histogram(values: &[f32], bins: usize) -> (Vec<f64>, Vec<u64>, u64) {
    let finite = || values.iter().copied().filter(|value| value.is_finite()).map(f64::from);
    let (mut low, mut high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        (low, high) = (0.0, 1.0); // no finite value at all
    } else if low == high {
        // Room around the one value there is.
        let room = if low == 0.0 { 0.5 } else { low.abs() / 2.0 };
        (low, high) = (low - room, high + room);
    }
    let mut edges: Vec<f64> = (0..bins).map(|edge| low + (high - low) * edge as f64 / bins as f64).collect();
    edges.push(high);
    let mut counts = vec![0; bins];
    let mut finite_count = 0;
    for value in finite() {
        let mut bin = (((value - low) / (high - low) * bins as f64) as usize).min(bins - 1);
        // The division may land beside the edge that is written.
        if value < edges[bin] {
            bin -= 1;
        } else if bin + 1 < bins && value >= edges[bin + 1] {
            bin += 1;
        }
        counts[bin] += 1;
        finite_count += 1;
    }
    (edges, counts, values.len() as u64 - finite_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, facts, replay, silent};
    use std::cell::Cell;

    fn tensor(name: &str, role: Role, values: &[f32]) -> NamedTensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        NamedTensor { name: name.into(), ty: TensorType::new(DType::F32, [values.len()]), role: Some(role), bytes }
    }

    /// A run with two parameters and a state that is none; the gradients of the first hold 0 to 4 and what is no number.
    fn answer(question: &Question, _: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let weight = tensor("model.fc1.weight", Role::Param, &[1.0, 2.0]);
        let bias = tensor("model.fc2.bias", Role::Param, &[0.5]);
        Ok(match question {
            Question::States => vec![weight, tensor("model.bn.mean", Role::ModelState, &[0.0]), bias],
            Question::Gradients => {
                let gradient = [0.0, 1.0, 1.5, 2.0, 4.0, f32::NAN, f32::INFINITY];
                vec![tensor("model.fc1.weight", Role::Param, &gradient), tensor("model.fc2.bias", Role::Param, &[-0.25])]
            }
            Question::State { name } if *name == weight.name => vec![weight],
            Question::State { name } if *name == bias.name => vec![bias],
            other => panic!("{other:?}"),
        })
    }

    fn steps(range: std::ops::RangeInclusive<u64>) -> Vec<Event> {
        range.map(|step| event(Moment::StepEnd, step, &[])).collect()
    }

    #[test]
    fn values_are_counted_by_hand() {
        let (edges, counts, not_finite) = histogram(&[0.0, 1.0, 1.5, 2.0, 4.0, f32::NAN, f32::NEG_INFINITY], 4);
        assert_eq!((&edges[..], &counts[..], not_finite), (&[0.0, 1.0, 2.0, 3.0, 4.0][..], &[1, 2, 1, 1][..], 2));
    }

    #[test]
    fn one_value_equal_values_and_none_have_edges_that_ascend() {
        for values in [&[3.0][..], &[0.0, 0.0], &[-1e-45], &[f32::MAX], &[f32::NAN], &[], &[f32::MIN, f32::MAX], &[1.0, 1.0 + f32::EPSILON]]
        {
            for bins in [1, 7, 4096] {
                let (edges, counts, not_finite) = histogram(values, bins);
                assert_eq!((edges.len(), counts.len()), (bins + 1, bins));
                assert!(edges.windows(2).all(|pair| pair[0] < pair[1]) && edges.iter().all(|edge| edge.is_finite()), "{values:?}, {bins}");
                assert_eq!(counts.iter().sum::<u64>() + not_finite, values.len() as u64);
            }
        }
        let (edges, counts, _) = histogram(&[2.0], 2);
        assert_eq!((&edges[..], &counts[..]), (&[1.0, 2.0, 3.0][..], &[0, 1][..]));
    }

    #[test]
    fn every_value_lies_between_its_edges() {
        // Thirds and sevenths do not lie on the grid of the edges.
        let values: Vec<f32> = (0..1000).map(|index| index as f32 / 7.0 - 1.0 / 3.0).collect();
        for bins in [3, 10, 49, 999] {
            let (edges, counts, _) = histogram(&values, bins);
            for (bin, pair) in edges.windows(2).enumerate() {
                let inside = |value: &&f32| f64::from(**value) >= pair[0] && (f64::from(**value) < pair[1] || bin + 1 == bins);
                assert_eq!(counts[bin], values.iter().filter(inside).count() as u64);
            }
        }
    }

    #[test]
    fn nothing_is_asked_between_the_marks() {
        let asked = Cell::new(0);
        let count = |question: &Question, tensors: &[NamedTensor]| {
            asked.set(asked.get() + 1);
            answer(question, tensors)
        };
        let config = GradientHistogram { bins: 4, ..GradientHistogram::default() };
        let all = replay(&config, &facts(), &count, &steps(1..=25)).unwrap();
        let fired: Vec<usize> = all.iter().zip(1..).filter(|(actions, _)| !actions.is_empty()).map(|(_, step)| step).collect();
        assert_eq!(fired, [10, 20]);
        assert_eq!(asked.get(), 4, "twice, each by the run that goes on and by the resumed one");
        let [Action::Log(first), Action::Log(second)] = &all[9][..] else { panic!("{:?}", all[9]) };
        let wanted = |name: &str, edges: [f64; 5], counts: [u64; 4], not_finite| Entry::Histogram {
            name: name.into(),
            edges: edges.into(),
            counts: counts.into(),
            not_finite,
        };
        assert_eq!(*first, wanted("gradients/model.fc1.weight", [0.0, 1.0, 2.0, 3.0, 4.0], [1, 2, 1, 1], 2));
        assert_eq!(*second, wanted("gradients/model.fc2.bias", [-0.375, -0.3125, -0.25, -0.1875, -0.125], [0, 0, 1, 0], 0));
    }

    #[test]
    fn names_choose_and_weights_come_with_them() {
        let config = GradientHistogram {
            every: "1st".parse().unwrap(),
            names: vec!["model.fc2".into()],
            weights: true,
            ..GradientHistogram::default()
        };
        let mut events = steps(1..=1);
        events.insert(0, event(Moment::RunStart, 0, &[]));
        let all = replay(&config, &facts(), &answer, &events).unwrap();
        let names: Vec<&str> = all[1]
            .iter()
            .map(|action| match action {
                Action::Log(Entry::Histogram { name, .. }) => name.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["gradients/model.fc2.bias", "weights/model.fc2.bias"]);
        let config = GradientHistogram { names: vec!["model.bn".into()], ..config };
        let error = replay(&config, &facts(), &answer, &events).unwrap_err().to_string();
        assert!(error.contains("begins with `model.bn`") && error.contains("there are `model.fc1.weight`, `model.fc2.bias`"), "{error}");
    }

    #[test]
    fn a_run_that_goes_on_counts_from_where_it_is() {
        // A callback that joins at step 15 must not fire for the epoch that ended at 10.
        let mut events = vec![Event { resumed: true, ..event(Moment::RunStart, 15, &[]) }];
        events.extend(steps(16..=19));
        assert!(replay(&GradientHistogram::default(), &facts(), &silent, &events).unwrap().concat().is_empty());
    }
}
