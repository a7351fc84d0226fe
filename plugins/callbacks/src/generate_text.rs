//! Text that a language model writes.

use crate::common::{list, named, problem};
use solstice_plugin_api::Run;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Action, Entry, Event, Moment, NamedTensor, RunFacts};

/// Lets the model go on from a prompt after each evaluation, one character at a time: `samples/text`.
///
/// For data sets with the field `tokens` and the fact `characters` (as `text` has), and experiments that observe `logits`
/// `[batch, time, vocabulary]`, those of a place coming from the tokens up to it. Every character is one pass of the model.
#[config]
pub struct GenerateText {
    /// What the text begins with. An empty one stands for a line that begins.
    pub prompt: String,
    /// Characters to write after the prompt.
    #[schemars(range(min = 1, max = 100000))]
    pub length: u32,
    /// Below 1 keeps to what is likely, above 1 is bolder; 0 always takes the likeliest.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: f64,
    /// Choose among so many of the likeliest characters; 0 means all.
    pub top_k: u32,
    /// Another seed writes another text. Each step writes its own.
    pub seed: u64,
}

impl Default for GenerateText {
    // nanoGPT's `sample.py`, but for `top_k`: 200 there is for a vocabulary of words.
    fn default() -> Self {
        GenerateText { prompt: String::new(), length: 200, temperature: 0.8, top_k: 40, seed: 0 }
    }
}

impl Callback for GenerateText {
    const ID: &'static str = "generate-text";
    const MOMENTS: &'static [Moment] = &[Moment::RunStart, Moment::EvalEnd];
    type State = ();

    fn start(&self, facts: &RunFacts) -> Result<()> {
        if facts.evaluated.is_empty() {
            return Err(problem(
                "generate-text: no split is evaluated, so there is nothing to predict with; set `trainer.evaluate`".into(),
            ));
        }
        Language::of(facts)?.tokens(&self.prompt).map(drop)
    }

    fn on_event(&self, _: &mut (), event: &Event, run: &Run<'_>) -> Result<Vec<Action>> {
        let language = Language::of(run.facts())?;
        let mut tokens = language.tokens(&self.prompt)?;
        if event.moment == Moment::RunStart {
            // An experiment without logits is better known now than after an epoch.
            return language.next_logits(run, &tokens).map(|_| vec![]);
        }
        let mut text = self.prompt.clone();
        for index in 0..u64::from(self.length) {
            let logits = language.next_logits(run, &tokens)?;
            // Nothing to choose from: the run itself says what is not finite.
            let Some(token) = self.choose(&logits, uniform(self.seed, event.at.step, index)) else { break };
            tokens.push(token);
            text.push(language.characters[token]);
        }
        Ok(vec![Action::Log(Entry::Text { name: "samples/text".into(), text })])
    }
}

impl GenerateText {
    /// The token that a number in `[0, 1)` falls on; `None` when no logit is a number.
    fn choose(&self, logits: &[f32], at: f64) -> Option<usize> {
        let mut ranked: Vec<(usize, f64)> =
            logits.iter().map(|&logit| f64::from(logit)).enumerate().filter(|(_, logit)| !logit.is_nan()).collect();
        // Of equals the first: `sort_by` keeps their order.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        let &(first, highest) = ranked.first().filter(|(_, logit)| logit.is_finite())?;
        if self.temperature == 0.0 {
            return Some(first);
        }
        if self.top_k > 0 {
            ranked.truncate(self.top_k as usize);
        }
        let weights: Vec<f64> = ranked.iter().map(|(_, logit)| ((logit - highest) / self.temperature).exp()).collect();
        let mut left = at * weights.iter().sum::<f64>();
        for ((token, _), weight) in ranked.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return Some(*token);
            }
        }
        // Rounding may leave a crumb.
        Some(first)
    }
}

/// The data set's side of a language model.
struct Language<'a> {
    /// In the order of their tokens.
    characters: Vec<char>,
    /// All fields of a sample.
    fields: &'a [Field],
    /// Tokens of a sample.
    context: usize,
}

/// The field that the model reads.
const TOKENS: &str = "tokens";

impl Language<'_> {
    fn of(facts: &RunFacts) -> Result<Language<'_>> {
        let fields = &facts.fields[..];
        let field = fields.iter().find(|field| field.name == TOKENS && field.role == FieldRole::Input);
        let context = field.and_then(|field| match field.shape[..] {
            [context] if context > 0 && field.dtype == DType::I32 => Some(context),
            _ => None,
        });
        let Some(context) = context else {
            let known = list(fields.iter().map(|field| &field.name));
            return Err(problem(format!("generate-text: wanted text, an input `tokens` of i32 [context]; the data set has {known}")));
        };
        let characters: Vec<char> =
            facts.facts.get("characters").and_then(|characters| characters.as_str()).unwrap_or_default().chars().collect();
        if characters.is_empty() {
            let known = list(facts.facts.keys());
            return Err(problem(format!(
                "generate-text: wanted the fact `characters`, the data set's characters in the order of their tokens; its facts are {known}"
            )));
        }
        Ok(Language { characters, fields, context })
    }

    /// The tokens of a prompt, at least one.
    fn tokens(&self, prompt: &str) -> Result<Vec<usize>> {
        let token = |letter: char| self.characters.iter().position(|&known| known == letter);
        if prompt.is_empty() {
            return Ok(vec![token('\n').unwrap_or(0)]);
        }
        let tokens: Option<Vec<usize>> = prompt.chars().map(token).collect();
        tokens.ok_or_else(|| {
            let mut unknown: Vec<char> = prompt.chars().filter(|&letter| token(letter).is_none()).collect();
            unknown.sort_unstable();
            unknown.dedup();
            let unknown: String = unknown.into_iter().collect();
            let known: String = self.characters.iter().collect();
            problem(format!("generate-text: the data set has no {unknown:?}, which `prompt` holds; its characters are {known:?}"))
        })
    }

    /// Logits of the token after `tokens`, one a character. Waits for the device.
    fn next_logits(&self, run: &Run<'_>, tokens: &[usize]) -> Result<Vec<f32>> {
        let window = &tokens[tokens.len().saturating_sub(self.context)..];
        // A window that is not full yet is followed by zeros: what comes later does not change the logits of a place.
        let sample: Vec<NamedTensor> = self
            .fields
            .iter()
            .map(|field| {
                let mut bytes = vec![0; field.sample_bytes()];
                if field.name == TOKENS {
                    let words = bytes.chunks_exact_mut(4);
                    words.zip(window).for_each(|(word, &token)| word.copy_from_slice(&(token as i32).to_le_bytes()));
                }
                let shape = [&[1], &field.shape[..]].concat();
                NamedTensor { name: field.name.clone(), ty: TensorType::new(field.dtype, shape), role: None, bytes }
            })
            .collect();
        let observed = run.predict(&sample)?;
        let logits = named("generate-text", "an evaluation of this experiment", &observed, "logits")?;
        let vocabulary = self.characters.len();
        let values = match logits.ty.shape[..] {
            [_, time, classes] if time == self.context && classes == vocabulary => logits.to_f32(),
            _ => None,
        };
        let place = (window.len() - 1) * vocabulary;
        let values = values
            .filter(|values| values.len() >= place + vocabulary)
            .ok_or_else(|| problem(format!("generate-text: wanted logits f32 [1, {}, {vocabulary}], got {}", self.context, logits.ty)))?;
        Ok(values[place..][..vocabulary].to_vec())
    }
}

/// A number in `[0, 1)` that is a function of its arguments.
fn uniform(seed: u64, step: u64, index: u64) -> f64 {
    let bits = mixed(mixed(mixed(seed).wrapping_add(step)).wrapping_add(index));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// One step of SplitMix64. Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
fn mixed(state: u64) -> u64 {
    let x = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{event, refusal, replay};
    use solstice_plugin_api::run::Question;
    use std::cell::RefCell;

    const CONTEXT: usize = 4;

    fn facts() -> RunFacts {
        let field = |name: &str, role| Field { name: name.into(), role, dtype: DType::I32, shape: vec![CONTEXT], scale: 1.0, offset: 0.0 };
        RunFacts {
            batch_size: 2,
            fields: vec![field("tokens", FieldRole::Input), field("targets", FieldRole::Target)],
            facts: [("characters".to_owned(), "\nabcé".into())].into(),
            ..crate::tests::facts()
        }
    }

    fn integers(tensor: &NamedTensor) -> Vec<i32> {
        tensor.bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// A model whose logits at each place are a function of the token there.
    fn model(logits: impl Fn(i32) -> [f32; 5]) -> impl Fn(&Question, &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        move |question, fields| {
            assert_eq!(*question, Question::Predict);
            let [tokens, targets] = fields else { panic!("{fields:?}") };
            assert_eq!((tokens.name.as_str(), targets.name.as_str()), ("tokens", "targets"));
            assert_eq!((&tokens.ty.shape[..], tokens.ty.dtype, targets.bytes.len()), (&[1, CONTEXT][..], DType::I32, 4 * CONTEXT));
            let bytes = integers(tokens).into_iter().flat_map(&logits).flat_map(f32::to_le_bytes).collect();
            Ok(vec![NamedTensor { name: "logits".into(), ty: TensorType::new(DType::F32, [1, CONTEXT, 5]), role: None, bytes }])
        }
    }

    /// The next character is that after the last one, `a` after `é`; each is all but certain.
    fn alphabet(token: i32) -> [f32; 5] {
        let mut logits = [0.0; 5];
        logits[(token % 4 + 1) as usize] = 1000.0;
        logits
    }

    fn written(config: &GenerateText, step: u64, logits: impl Fn(i32) -> [f32; 5]) -> String {
        let events = [event(Moment::RunStart, 0, &[]), event(Moment::EvalEnd, step, &[])];
        let all = replay(config, &facts(), &model(logits), &events).unwrap();
        assert!(all[0].is_empty());
        let [Action::Log(Entry::Text { name, text })] = &all[1][..] else { panic!("{all:?}") };
        assert_eq!(name, "samples/text");
        text.clone()
    }

    #[test]
    fn a_model_that_knows_what_comes_writes_it_however_it_is_sampled() {
        for temperature in [0.0, 0.8, 2.0] {
            let config = GenerateText { prompt: "b".into(), length: 9, temperature, ..GenerateText::default() };
            assert_eq!(written(&config, 10, alphabet), "bcéabcéabc");
        }
        // From the beginning of a line, which is not shown.
        assert_eq!(written(&GenerateText { length: 3, ..GenerateText::default() }, 10, alphabet), "abc");
    }

    #[test]
    fn the_window_slides_over_the_last_tokens() {
        let seen = RefCell::new(vec![]);
        let answer = |question: &Question, fields: &[NamedTensor]| {
            seen.borrow_mut().push(integers(&fields[0]));
            model(alphabet)(question, fields)
        };
        let config = GenerateText { prompt: "ab".into(), length: 5, ..GenerateText::default() };
        let facts = facts();
        config.on_event(&mut (), &event(Moment::EvalEnd, 1, &[]), &Run::new(&facts, &answer)).unwrap();
        assert_eq!(seen.take(), [[1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4], [2, 3, 4, 1], [3, 4, 1, 2]]);
        // A prompt that is longer than the window.
        let config = GenerateText { prompt: "abcéab".into(), length: 1, ..GenerateText::default() };
        config.on_event(&mut (), &event(Moment::EvalEnd, 1, &[]), &Run::new(&facts, &answer)).unwrap();
        assert_eq!(seen.take(), [[3, 4, 1, 2]]);
    }

    #[test]
    fn the_text_is_a_function_of_seed_and_step() {
        let config = GenerateText { length: 40, ..GenerateText::default() };
        let any = |_| [0.0; 5];
        let text = written(&config, 10, any);
        assert_eq!(written(&config, 10, any), text);
        assert_ne!(written(&config, 20, any), text);
        assert_ne!(written(&GenerateText { seed: 1, ..config }, 10, any), text);
    }

    #[test]
    fn characters_are_drawn_as_often_as_they_are_likely() {
        // Weights 6, 3 and 1 at temperature 1; 36, 9 and 1 at one half; the last one is not among the two likeliest.
        let logits = [1.0f32.ln(), 6.0f32.ln(), f32::NEG_INFINITY, 3.0f32.ln()];
        for (temperature, top_k, wanted) in [
            (1.0, 0, [0.1, 0.6, 0.0, 0.3]),
            (0.5, 0, [1.0 / 46.0, 36.0 / 46.0, 0.0, 9.0 / 46.0]),
            (1.0, 2, [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]),
        ] {
            let config = GenerateText { temperature, top_k, ..GenerateText::default() };
            let mut counts = [0.0; 4];
            let draws = 20_000;
            for index in 0..draws {
                counts[config.choose(&logits, uniform(7, 3, index)).unwrap()] += 1.0 / draws as f64;
            }
            for (share, wanted) in counts.iter().zip(wanted) {
                // The deviation of a share is at most sqrt(0.25 / 20000) = 0.0035; four of them.
                assert!((share - wanted).abs() < 0.014, "{counts:?} at temperature {temperature}, top {top_k}");
            }
            assert_eq!(counts[2], 0.0);
        }
    }

    #[test]
    fn logits_that_are_no_numbers_end_the_text() {
        assert_eq!(written(&GenerateText { prompt: "a".into(), ..GenerateText::default() }, 1, |_| [f32::NAN; 5]), "a");
        let half = |token| alphabet(token).map(|logit| if logit == 0.0 { f32::NAN } else { logit });
        assert_eq!(written(&GenerateText { prompt: "a".into(), length: 2, ..GenerateText::default() }, 1, half), "abc");
    }

    #[test]
    fn what_is_no_text_or_not_in_it_is_refused() {
        let prompt = |prompt: &str| GenerateText { prompt: prompt.into(), ..GenerateText::default() };
        let error = refusal(&prompt("xa?x"), &facts());
        assert!(error.contains("the data set has no \"?x\"") && error.contains("its characters are \"\\nabcé\""), "{error}");
        let error = refusal(&prompt(""), &RunFacts { facts: [("vocabulary".to_owned(), 5.into())].into(), ..facts() });
        assert!(error.contains("wanted the fact `characters`") && error.contains("its facts are `vocabulary`"), "{error}");
        let error = refusal(&prompt(""), &crate::tests::facts());
        assert!(error.contains("wanted text, an input `tokens`") && error.contains("has none"), "{error}");
        let wrong = |_: &Question, _: &[NamedTensor]| {
            let logits = NamedTensor { name: "logits".into(), ty: TensorType::new(DType::F32, [1, 5]), role: None, bytes: vec![0; 20] };
            Ok(vec![logits])
        };
        let error = replay(&prompt(""), &facts(), &wrong, &[event(Moment::RunStart, 0, &[])]).unwrap_err().to_string();
        assert!(error.contains("wanted logits f32 [1, 4, 5]"), "{error}");
    }
}
