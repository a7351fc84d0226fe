//! Sweeps: the same recipe with other settings, many times. What a sweep file says, and what is common to sweeps and cross-validation. The commands
//! that run them are `commands/sweep.rs` and `commands/cross_validate.rs`; the processes are `pool.rs`.
//!
//! Reading order: the file here; `space` turns its fields into trials; `trials` is a folder of them, whose state is what their runs' stores say;
//! `halving` decides who goes on; `table` ranks and prints; `slurm` writes the array job.

pub mod halving;
pub mod slurm;
pub mod space;
pub mod table;
pub mod trials;

use crate::commands::{is_stdin, read_stdin};
use crate::outcome::sentence;
use crate::recipe::{Recipe, RecipeError, STDIN_PLACE, line_of, options, spanned, strip_comments};
use halving::rungs;
use ron::value::RawValue;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use solstice_plugin_abi::Span;
use space::{Domain, Fields, Settings};
use std::path::{Path, PathBuf};

/// A sweep as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Sweep")]
struct SweepFile {
    /// The recipe's file, relative to the sweep file's folder, else to the current folder; or the recipe itself.
    recipe: Box<RawValue>,
    /// Name of the metric that is compared, `test/loss`.
    metric: String,
    mode: Mode,
    search: Search,
    #[serde(default)]
    halving: Option<Halving>,
    fields: Fields,
}

/// Which end of the metric is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The least.
    Min,
    /// The greatest.
    Max,
}

impl Mode {
    /// Better first.
    pub fn compare(self, a: f64, b: f64) -> std::cmp::Ordering {
        match self {
            Mode::Min => a.total_cmp(&b),
            Mode::Max => b.total_cmp(&a),
        }
    }
}

/// How trials are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Search {
    /// Every combination, in the order of the fields, the last one fastest.
    Grid,
    /// Independent draws.
    Random {
        /// How many.
        trials: usize,
        /// Of the draws; the recipe's seed is another one.
        #[serde(default)]
        seed: u32,
    },
}

/// Successive halving: all trials train to `min`, the best 1/`factor` of them `factor` times as long, and so on up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// Budget of every trial.
    pub min: Span,
    /// Budget of the best.
    pub max: Span,
    /// How many compete for one place.
    pub factor: u32,
}

/// A sweep, checked.
#[derive(Debug)]
pub struct Sweep {
    /// Stem of the file and hash of its content, `digits-0a1b2c3d`: the same file is the same sweep.
    pub id: String,
    /// The file's content.
    pub text: String,
    /// The recipe's file; empty where the sweep itself holds the recipe.
    pub recipe: PathBuf,
    /// The recipe, where the sweep itself holds it.
    pub recipe_text: Option<String>,
    /// What is compared.
    pub metric: String,
    /// Which end is good.
    pub mode: Mode,
    /// Budgets and factor of successive halving.
    pub halving: Option<Halving>,
    /// What each trial changes.
    pub trials: Vec<Settings>,
    /// Fields whose values are listed one by one.
    pub chosen_fields: Vec<String>,
}

impl Sweep {
    /// Reads a sweep file and lays out its trials.
    pub fn from_file(path: &Path) -> Result<Sweep, RecipeError> {
        if is_stdin(path) {
            return Sweep::from_stdin();
        }
        let text =
            std::fs::read_to_string(path).map_err(|error| RecipeError(format!("cannot read the sweep {}: {error}", path.display())))?;
        let mut sweep = Sweep::from_text(&text, &path.display().to_string())?;
        let stem = path.file_stem().map_or("sweep".into(), |stem| stem.to_string_lossy().into_owned());
        sweep.id = format!("{stem}-{}", short_hash([text.as_bytes()]));
        if sweep.recipe_text.is_some() {
            return Ok(sweep);
        }
        let beside = path.parent().unwrap_or(Path::new("")).join(&sweep.recipe);
        if beside.is_file() {
            sweep.recipe = beside;
        } else if !sweep.recipe.is_file() {
            let place = format!("{}:{}", path.display(), line_of(&text, "recipe") + 1);
            return Err(RecipeError(format!(
                "{place}: there is no recipe {}, neither beside the sweep file nor in the current folder",
                sweep.recipe.display()
            )));
        }
        Ok(sweep)
    }

    // Named after the recipe, as there is no file. Its paths are relative to the current folder.
    fn from_stdin() -> Result<Sweep, RecipeError> {
        let text = read_stdin("sweep").map_err(|error| RecipeError(sentence(&error)))?;
        let mut sweep = Sweep::from_text(&text, STDIN_PLACE)?;
        let stem = match &sweep.recipe_text {
            Some(recipe) => Recipe::from_text(recipe, "recipe", "the recipe of the sweep")?.name,
            None if sweep.recipe.is_file() => sweep.recipe.file_stem().map_or("recipe".into(), |stem| stem.to_string_lossy().into_owned()),
            None => return Err(RecipeError(format!("{STDIN_PLACE}: there is no recipe {} in the current folder", sweep.recipe.display()))),
        };
        // It becomes a part of a folder's name.
        let stem: String = stem.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        sweep.id = format!("{stem}-{}", short_hash([text.as_bytes()]));
        Ok(sweep)
    }

    /// Parses a sweep file. `place` names it in errors.
    pub fn from_text(text: &str, place: &str) -> Result<Sweep, RecipeError> {
        let file: SweepFile = options().from_str(text).map_err(|error| spanned(place, &error))?;
        let wrong = |key: &str, message: String| RecipeError(format!("{place}:{}: {message}", line_of(text, key) + 1));
        if !file.metric.contains('/') {
            return Err(wrong("metric", format!("metric: wanted a split and a metric such as `test/loss`, got `{}`", file.metric)));
        }
        if let Some(halving) = &file.halving {
            rungs(halving).map_err(|message| wrong("halving", format!("halving: {message}")))?;
            if file.fields.0.iter().any(|(name, _)| name == "trainer.budget") {
                return Err(wrong("\"trainer.budget\"", "fields: with `halving` the rungs set `trainer.budget`; take it out".into()));
            }
        }
        let trials = space::trials(&file.fields, file.search).map_err(|(field, message)| {
            let key = if field.is_empty() { "search".to_owned() } else { format!("\"{field}\"") };
            wrong(&key, if field.is_empty() { message } else { format!("fields: `{field}`: {message}") })
        })?;
        let chosen_fields =
            file.fields.0.iter().filter(|(_, domain)| matches!(domain, Domain::Choice(_))).map(|(name, _)| name.clone()).collect();
        let recipe = strip_comments(file.recipe.get_ron());
        let recipe = recipe.trim();
        let is_path = !recipe.starts_with('(');
        let path = if is_path { options().from_str::<PathBuf>(recipe).map_err(|error| spanned(place, &error))? } else { PathBuf::new() };
        Ok(Sweep {
            id: String::new(),
            text: text.to_owned(),
            recipe: path,
            recipe_text: (!is_path).then(|| recipe.to_owned()),
            metric: file.metric,
            mode: file.mode,
            halving: file.halving,
            trials,
            chosen_fields,
        })
    }

    /// The trials to check before any runs: the first one, and for each listed value the first that has it.
    pub fn trials_to_check(&self) -> Vec<usize> {
        let mut seen: Vec<(&str, &str)> = vec![];
        let mut found = vec![];
        for (index, settings) in self.trials.iter().enumerate() {
            let before = seen.len();
            for (field, value) in settings.iter().filter(|(field, _)| self.chosen_fields.contains(field)) {
                if !seen.contains(&(field, value)) {
                    seen.push((field, value));
                }
            }
            if index == 0 || seen.len() > before {
                found.push(index);
            }
        }
        found
    }
}

/// The first 8 hexadecimal digits of the SHA-256 over `parts`, each with its length in front.
pub fn short_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"(
    recipe: "digits.ron",
    metric: "test/loss",
    mode: min,
    search: grid,
    fields: {
        // Two networks, two sizes.
        "model.hidden": choice([[64], /* wide */ [128, 64]]),
        "optimizer": choice(["adam(lr: 1e-3)", "sgd(lr: 0.1)"]),
        "seed": range(0, 2),
    },
)"#;

    fn refused(from: &str, to: &str) -> String {
        Sweep::from_text(&TEXT.replacen(from, to, 1), "s.ron").unwrap_err().to_string()
    }

    #[test]
    fn a_file_gives_its_trials() {
        let sweep = Sweep::from_text(TEXT, "s.ron").unwrap();
        assert_eq!((sweep.metric.as_str(), sweep.mode, sweep.halving), ("test/loss", Mode::Min, None));
        assert_eq!(sweep.trials.len(), 8);
        let pair = |field: &str, value: &str| (field.to_owned(), value.to_owned());
        assert_eq!(sweep.trials[3], [pair("model.hidden", "[64]"), pair("optimizer", "sgd(lr: 0.1)"), pair("seed", "1")]);
        // The seeds are a range: their values need no check one by one.
        assert_eq!(sweep.trials_to_check(), [0, 2, 4]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (from, to, parts) in [
            ("metric:", "metrik:", vec!["s.ron:3:", "`metrik`", "did you mean `metric`?"]),
            ("mode: min", "mode: least", vec!["s.ron:4:", "least"]),
            ("\"test/loss\"", "\"loss\"", vec!["s.ron:3:", "`test/loss`"]),
            ("range(0, 2)", "range(2, 2)", vec!["s.ron:10:", "`seed`", "below"]),
            ("range(0, 2)", "uniform(0.0, 1.0)", vec!["s.ron:10:", "`seed`", "a grid has no values between", "random"]),
            ("range(0, 2)", "choice([])", vec!["s.ron:10:", "`seed`", "no values"]),
            ("grid", "random(trials: 0)", vec!["s.ron:5:", "at least 1"]),
            ("grid", "random(trials: 3, sed: 1)", vec!["s.ron:5:", "sed"]),
            ("\"seed\"", "\"optimizer\"", vec!["s.ron:10:", "`optimizer`", "twice"]),
            ("search: grid,", "search: grid, halving: (min: \"3ep\", max: \"3ep\", factor: 3),", vec!["s.ron:5:", "halving", "3ep"]),
        ] {
            let message = refused(from, to);
            for part in parts {
                assert!(message.contains(part), "{to}: `{part}` is not in: {message}");
            }
        }
    }

    #[test]
    fn halving_owns_the_budget() {
        let text = TEXT
            .replace("search: grid,", "search: grid, halving: (min: \"1ep\", max: \"9ep\", factor: 3),")
            .replace("\"seed\": range(0, 2)", "\"trainer.budget\": choice([\"1ep\"])");
        let message = Sweep::from_text(&text, "s.ron").unwrap_err().to_string();
        assert!(message.starts_with("s.ron:10:") && message.contains("the rungs set `trainer.budget`"), "{message}");
    }
}
