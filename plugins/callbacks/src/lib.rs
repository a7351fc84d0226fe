//! What watches a run and may steer it, one file a callback.
//!
//! A callback is called between two steps, so each returns at once when there is nothing for it to do. What it remembers is saved with every
//! checkpoint: a run that goes on behaves as one that never stopped. `common.rs` holds what several of them need.

mod common;
mod early_stopping;
mod ema;
mod generate_text;
mod gradient_histogram;
mod loss_spike;
mod lr_finder;
mod sample_images;

pub use early_stopping::{EarlyStopping, Mode};
pub use ema::Ema;
pub use generate_text::GenerateText;
pub use gradient_histogram::GradientHistogram;
pub use loss_spike::LossSpike;
pub use lr_finder::{LrFinder, Spacing};
pub use sample_images::SampleImages;

use solstice_plugin_api::prelude::*;

export_plugin! { callbacks: [EarlyStopping, Ema, LrFinder, LossSpike, GradientHistogram, SampleImages, GenerateText] }

#[cfg(test)]
mod tests {
    //! The host's part for the tests of all callbacks.

    use super::*;
    use solstice_plugin_api::Run;
    use solstice_plugin_api::run::{Action, Event, Moment, NamedTensor, Position, Question, RunFacts};
    use solstice_plugin_api::testing::check_config;

    /// Answers a callback's questions.
    pub type Ask<'a> = dyn Fn(&Question, &[NamedTensor]) -> Result<Vec<NamedTensor>> + 'a;

    /// A run that answers nothing.
    pub fn silent(question: &Question, _: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        panic!("nothing was to be asked, got {question:?}")
    }

    /// Ten steps and a thousand samples an epoch; `test` is evaluated.
    pub fn facts() -> RunFacts {
        RunFacts { batch_size: 100, epoch_steps: 10, epoch_samples: 1000, evaluated: vec!["test".into()], ..RunFacts::default() }
    }

    /// Something at a step of [`facts`]; a step takes two seconds.
    pub fn event(moment: Moment, step: u64, metrics: &[(&str, f64)]) -> Event {
        let at = Position { step, epoch: step as f64 / 10.0, samples: 100 * step, seconds: 2.0 * step as f64 };
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Event { metrics, ..Event::new(moment, at) }
    }

    /// What a callback asks for at each event, as the host would call it. A second one that is saved and loaded anew between any two events
    /// must ask for the same.
    pub fn replay<C: Callback>(callback: &C, facts: &RunFacts, ask: &Ask<'_>, events: &[Event]) -> Result<Vec<Vec<Action>>> {
        callback.start(facts)?;
        let run = Run::new(facts, ask);
        let (mut state, mut saved) = (C::State::default(), serde_json::to_string(&C::State::default())?);
        let mut all = vec![];
        for event in events.iter().filter(|event| C::MOMENTS.contains(&event.moment)) {
            let actions = callback.on_event(&mut state, event, &run)?;
            let mut resumed: C::State = serde_json::from_str(&saved)?;
            assert_eq!(callback.on_event(&mut resumed, event, &run)?, actions, "resumed before {event:?}");
            saved = serde_json::to_string(&resumed)?;
            all.push(actions);
        }
        Ok(all)
    }

    /// The message with which a callback refuses a run.
    pub fn refusal(callback: &impl Callback, facts: &RunFacts) -> String {
        callback.start(facts).expect_err("this run must be refused").to_string()
    }

    #[test]
    fn the_defaults_are_in_their_ranges() -> Result<()> {
        check_config::<EarlyStopping>()?;
        check_config::<Ema>()?;
        check_config::<GenerateText>()?;
        check_config::<GradientHistogram>()?;
        check_config::<LossSpike>()?;
        check_config::<LrFinder>()?;
        check_config::<SampleImages>()
    }
}
