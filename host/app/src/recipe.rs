//! A recipe: which components make a run, with which settings. Read from RON, changed by `--set`, resolved against the plugins.
//!
//! A component is written as a call, `mlp(hidden: [128])`; dashes in its id are written as underscores. Its settings stay raw text until the plugin
//! that owns them has parsed them, so errors name the plugin's own fields.

use crate::cli::RecipeArgs;
use ron::value::RawValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use solstice_engine::Precision;
use solstice_plugin_abi::{Span, Unit, wire::Clip};
use solstice_store::MonitorMode;
use std::collections::BTreeMap;
use std::path::Path;

/// A recipe as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Recipe")]
pub struct RecipeFile {
    /// Name of the runs; the file's stem by default.
    #[serde(default)]
    pub name: Option<String>,
    /// Metric bands that a full run should end in: name to (low, high).
    #[serde(default)]
    pub expect: BTreeMap<String, (f64, f64)>,
    /// Training strategy.
    pub experiment: Box<RawValue>,
    /// Network.
    pub model: Box<RawValue>,
    /// Data set.
    pub dataset: Box<RawValue>,
    /// Update rule.
    pub optimizer: Box<RawValue>,
    /// Learning-rate schedule; constant by default.
    #[serde(default = "constant")]
    pub schedule: Box<RawValue>,
    /// Metrics beside the loss.
    #[serde(default)]
    pub metrics: Vec<Box<RawValue>>,
    /// What is done to the model's input in training, in this order, on the device.
    #[serde(default)]
    pub transforms: Vec<Box<RawValue>>,
    /// What watches the run and may steer it, in the order in which it is called.
    #[serde(default)]
    pub callbacks: Vec<Box<RawValue>>,
    /// Where the log goes besides the run's own store.
    #[serde(default)]
    pub loggers: Vec<Box<RawValue>>,
    /// The loop's settings.
    pub trainer: Box<RawValue>,
}

/// Settings of the training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Trainer")]
pub struct Trainer {
    /// How long to train: `2ep`, `500st`, `1e6samples`, `90s`, `30min`, `2h`.
    #[schemars(with = "String")]
    pub budget: Span,
    /// Samples in a batch.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Batches whose gradients make one step: the mean over all their samples. The last step of an epoch may have fewer.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub accumulate: usize,
    /// Seed of weights, order and dropout.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u64))]
    pub seed: u64,
    /// Splits to evaluate; all but `train` by default.
    #[serde(default)]
    pub evaluate: Option<Vec<String>>,
    /// When to evaluate; always at the end.
    #[serde(default = "one_epoch")]
    #[schemars(with = "String")]
    pub evaluate_every: Span,
    /// Splits that are evaluated at another time than `evaluate_every`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub evaluate_each: BTreeMap<String, Span>,
    /// Batches of every evaluated split that are tried before the first step of a new run, so that a mistake there shows at once.
    #[serde(default = "two_batches")]
    pub sanity_batches: u64,
    /// When to report the training metrics; always at the end.
    #[serde(default = "ten_steps")]
    #[schemars(with = "String")]
    pub log_every: Span,
    /// When to save; always at the end and on a stop.
    #[serde(default = "one_epoch")]
    #[schemars(with = "String")]
    pub checkpoint_every: Span,
    /// Newest checkpoints that are kept.
    #[serde(default = "two")]
    pub keep_last: usize,
    /// Best checkpoints that are kept; an evaluation that is better than all before is saved at once.
    #[serde(default = "one")]
    pub keep_best: usize,
    /// Also keep one checkpoint in every span of this length for good.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub keep_every: Option<Span>,
    /// What is best: a metric of an evaluation. By default the loss of the first evaluated split.
    #[serde(default)]
    pub monitor: Option<String>,
    /// Whether a small or a large value of `monitor` is good.
    #[serde(default = "small")]
    #[schemars(with = "schema::MonitorMode")]
    pub monitor_mode: MonitorMode,
    /// Bound on the gradients: `norm(1.0)`, `value(0.5)`, `adaptive(0.01)`.
    #[serde(default)]
    #[schemars(with = "Option<schema::Clip>")]
    pub clip: Option<Clip>,
    /// Parameters with settings of their own; the first group that a parameter fits in counts.
    #[serde(default)]
    pub groups: Vec<GroupRule>,
    /// Train on the beginning of each epoch only.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub limit_train: Option<Span>,
    /// Evaluate on the beginning of each split only.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub limit_evaluate: Option<Span>,
    /// Train on these many first batches again and again, unshuffled, and evaluate on as many: a model that cannot learn them by heart is broken.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub overfit_batches: Option<u64>,
    /// Cross-validation: train without this part of the split `train`, and evaluate on it as `fold`.
    #[serde(default)]
    pub fold: Option<Fold>,
    /// Threads that fill batches of sets that are not resident on the device.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 256))]
    pub loader_threads: usize,
    /// Keep small data sets on the device.
    #[serde(default = "yes")]
    pub resident: bool,
    /// Also report the norms of gradients, weights and updates.
    #[serde(default = "yes")]
    pub norms: bool,
    /// How activations are kept and multiplied: `f32`, or `mixed` for f16 with f32 sums, f32 weights and a loss scale that finds itself, on a GPU with f16.
    #[serde(default)]
    #[schemars(with = "schema::Precision")]
    pub precision: Precision,
}

/// Settings for the parameters that a rule fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// Regular expression that a parameter's whole name matches, such as `model\.encoder\..*`.
    pub params: String,
    /// Only parameters with at most this many axes: 1 for biases and the scales of norms.
    #[serde(default)]
    pub rank_max: Option<usize>,
    /// Factor on the learning rate. Live.
    #[serde(default = "one_fold")]
    #[schemars(range(min = 0))]
    pub lr: f64,
    /// Factor on the optimizer's weight decay; 0 for none. Live.
    #[serde(default = "one_fold")]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Not trained at all.
    #[serde(default)]
    pub frozen: bool,
}

/// One part of a split that is left out of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// Which part, from 0.
    pub index: u64,
    /// How many parts.
    #[schemars(range(min = 2))]
    pub count: u64,
    /// Seed of the division; the same for all folds of a cross-validation.
    #[serde(default)]
    pub seed: u32,
}

/// How the schema of the trainer shows types of other crates.
mod schema {
    use schemars::JsonSchema;

    /// Which way a metric gets better.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only its schema is wanted")]
    pub enum MonitorMode {
        /// Lower is better: a loss.
        Min,
        /// Higher is better: an accuracy.
        Max,
    }

    /// How activations are kept and multiplied.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only its schema is wanted")]
    pub enum Precision {
        /// All floats in f32.
        F32,
        /// Large activations and their gradients in f16; sums, weights and optimizer state in f32; a dynamic loss scale.
        Mixed,
    }

    /// How gradients are bounded.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is wanted")]
    pub enum Clip {
        /// The norm of all gradients together.
        Norm(f64),
        /// Each element.
        Value(f64),
        /// The norm of each row of a gradient beside the norm of that row of its weight.
        Adaptive(f64),
    }
}

fn constant() -> Box<RawValue> {
    RawValue::from_ron("constant()").expect("this is RON").to_owned()
}
fn batch_size() -> usize {
    64
}
fn one_epoch() -> Span {
    Span { amount: 1.0, unit: Unit::Epochs }
}
fn ten_steps() -> Span {
    Span { amount: 10.0, unit: Unit::Steps }
}
fn one() -> usize {
    1
}
fn one_fold() -> f64 {
    1.0
}
fn two() -> usize {
    2
}
fn small() -> MonitorMode {
    MonitorMode::Min
}
fn two_batches() -> u64 {
    2
}
fn yes() -> bool {
    true
}

/// A component's id and the text of its settings: RON `(hidden: 64)`, JSON `{"hidden": 64}`, or empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentText {
    /// Kebab-case id.
    pub id: String,
    /// Settings.
    pub config: String,
}

/// A recipe whose components are named but not yet checked by their plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of the runs.
    pub name: String,
    /// Expected metric bands.
    pub expect: BTreeMap<String, (f64, f64)>,
    /// By slot: `experiment`, `model`, `dataset`, `optimizer`, `schedule`.
    pub components: BTreeMap<String, ComponentText>,
    /// By list: `metrics`, `transforms`, `callbacks`, `loggers`.
    pub lists: BTreeMap<String, Vec<ComponentText>>,
    /// The loop.
    pub trainer: Trainer,
    /// `--set` of component fields: slot path below the component, raw value. Applied on the plugin's canonical JSON.
    pub overrides: Vec<Override>,
}

/// One `--set slot.path=value` for a component field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// `model`, `callbacks.0`.
    pub slot: String,
    /// Field path below the component.
    pub path: Vec<String>,
    /// Text of the value.
    pub value: String,
}

/// What errors call a recipe that came on standard input.
pub const STDIN_PLACE: &str = "standard input";

/// Slots of a recipe that hold one component.
pub const SLOTS: [&str; 5] = ["experiment", "model", "dataset", "optimizer", "schedule"];

/// Lists of a recipe: any number of components of one kind.
pub const LISTS: [&str; 4] = ["metrics", "transforms", "callbacks", "loggers"];

/// A mistake in a recipe or in `--set`; the message is the whole sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecipeError(pub String);

impl Recipe {
    /// Reads a recipe file.
    pub fn from_file(path: &Path) -> Result<Recipe, RecipeError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| RecipeError(format!("cannot read the recipe {}: {error}", path.display())))?;
        let stem = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
        Recipe::from_text(&text, &stem, &path.display().to_string())
    }

    /// The recipe of a command line, from its file or from standard input, with its `--set` applied.
    pub fn from_args(args: &RecipeArgs) -> Result<Recipe, RecipeError> {
        let mut recipe = match &args.text {
            Some(text) => Recipe::from_text(text, "run", STDIN_PLACE)?,
            None => Recipe::from_file(&args.recipe)?,
        };
        for assignment in &args.set {
            recipe.set(assignment)?;
        }
        Ok(recipe)
    }

    /// Parses a recipe. `place` names the file in errors.
    pub fn from_text(text: &str, default_name: &str, place: &str) -> Result<Recipe, RecipeError> {
        let file: RecipeFile = options().from_str(text).map_err(|error| spanned(place, &error))?;
        let mut components = BTreeMap::new();
        let slots = [&file.experiment, &file.model, &file.dataset, &file.optimizer, &file.schedule];
        for (slot, raw) in SLOTS.iter().zip(slots) {
            components.insert((*slot).to_owned(), component(raw.get_ron(), slot, place)?);
        }
        let mut lists = BTreeMap::new();
        for (list, raws) in LISTS.iter().zip([&file.metrics, &file.transforms, &file.callbacks, &file.loggers]) {
            lists.insert((*list).to_owned(), list_of(raws, list, place)?);
        }
        let trainer: Trainer =
            options().from_str(file.trainer.get_ron()).map_err(|error| shifted(place, &error, text, file.trainer.get_ron()))?;
        let recipe = Recipe {
            name: file.name.unwrap_or_else(|| default_name.into()),
            expect: file.expect,
            components,
            lists,
            trainer,
            overrides: vec![],
        };
        recipe.trainer.check(place)?;
        Ok(recipe)
    }

    /// Applies one `--set path=value`.
    pub fn set(&mut self, assignment: &str) -> Result<(), RecipeError> {
        let Some((path, value)) = assignment.split_once('=') else {
            return Err(RecipeError(format!("--set {assignment}: wanted `field=value`, for example `trainer.budget=3ep`")));
        };
        let (path, value) = (path.trim(), value.trim());
        let place = format!("--set {assignment}");
        let mut parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        match parts[0].as_str() {
            "name" if parts.len() == 1 => self.name = value.into(),
            "seed" if parts.len() == 1 => return self.set_trainer(&["seed".into()], value, &place),
            "trainer" => return self.set_trainer(&parts[1..], value, &place),
            list if LISTS.contains(&list) => {
                let list = list.to_owned();
                if parts.len() == 1 {
                    let raws: Vec<Box<RawValue>> = options().from_str(value).map_err(|error| spanned(&place, &error))?;
                    self.lists.insert(list.clone(), list_of(&raws, &list, &place)?);
                    self.overrides.retain(|change| !change.slot.starts_with(&format!("{list}.")));
                } else {
                    let count = self.lists[&list].len();
                    if parts[1].parse::<usize>().map_or(true, |index| index >= count) || parts.len() < 3 {
                        let last = count.saturating_sub(1);
                        return Err(RecipeError(format!("{place}: wanted `{list}.<0..{last}>.<field>`, the recipe has {count} {list}")));
                    }
                    let slot = format!("{list}.{}", parts[1]);
                    self.overrides.push(Override { slot, path: parts.split_off(2), value: value.into() });
                }
            }
            slot if SLOTS.contains(&slot) => {
                let slot = slot.to_owned();
                if parts.len() == 1 {
                    self.components.insert(slot.clone(), component(value, &slot, &place)?);
                    self.overrides.retain(|change| change.slot != slot);
                } else {
                    self.overrides.push(Override { slot, path: parts.split_off(1), value: value.into() });
                }
            }
            other => {
                let known = ["name", "seed", "trainer"].into_iter().chain(SLOTS).chain(LISTS);
                return Err(RecipeError(format!("{place}: a recipe has no `{other}`{}", did_you_mean(other, known))));
            }
        }
        Ok(())
    }

    fn set_trainer(&mut self, path: &[String], value: &str, place: &str) -> Result<(), RecipeError> {
        self.trainer = self.trainer.with(path, value, place)?;
        Ok(())
    }

    /// Component of a slot (`model`, `metrics.0`).
    pub fn component(&self, slot: &str) -> &ComponentText {
        match slot.split_once('.') {
            Some((list, index)) => &self.lists[list][index.parse::<usize>().expect("slots of a list are numbered")],
            None => &self.components[slot],
        }
    }
}

impl Trainer {
    /// These settings with one field changed. `path` is below `trainer`; `place` begins an error.
    pub fn with(&self, path: &[String], value: &str, place: &str) -> Result<Trainer, RecipeError> {
        let wrong = |message: String| RecipeError(format!("{place}: {message}"));
        let mut json = serde_json::to_value(self).expect("trainer settings are plain data");
        set_field(&mut json, path, value).map_err(wrong)?;
        let changed: Trainer = match serde_json::from_value(json) {
            Ok(trainer) => trainer,
            // Written as a recipe writes it: `norm(1.0)`, `(index: 0, count: 5)`.
            Err(error) => self.with_ron(path, value).unwrap_or(Err(error.to_string())).map_err(wrong)?,
        };
        changed.check(place)?;
        Ok(changed)
    }

    // The fields whose values are no plain data. `None` for any other.
    fn with_ron(&self, path: &[String], value: &str) -> Option<Result<Trainer, String>> {
        fn read<T: serde::de::DeserializeOwned>(value: &str) -> Result<T, String> {
            options().from_str(value).map_err(|error| error.to_string())
        }
        let mut changed = self.clone();
        let [field] = path else { return None };
        let outcome = match field.as_str() {
            "clip" => read(value).map(|clip| changed.clip = clip),
            "fold" => read(value).map(|fold| changed.fold = fold),
            "groups" => read(value).map(|groups| changed.groups = groups),
            "evaluate_each" => read(value).map(|each| changed.evaluate_each = each),
            _ => return None,
        };
        Some(outcome.map(|()| changed))
    }

    /// The settings of a recipe that only says how long to train.
    pub fn with_budget(budget: Span) -> Trainer {
        serde_json::from_value(serde_json::json!({ "budget": budget })).expect("all other settings have defaults")
    }

    /// A mistake in the settings, as a sentence that begins with `place`.
    pub fn check(&self, place: &str) -> Result<(), RecipeError> {
        let fail = |field: &str, message: &str| Err(RecipeError(format!("{place}: trainer.{field} {message}")));
        if self.batch_size == 0 {
            return fail("batch_size", "must be at least 1, got 0");
        }
        if self.accumulate == 0 {
            return fail("accumulate", "must be at least 1, got 0");
        }
        if let Some(Clip::Norm(bound) | Clip::Value(bound) | Clip::Adaptive(bound)) = self.clip
            && !(bound > 0.0 && bound.is_finite())
        {
            return fail("clip", &format!("must be above zero, got {bound}"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            if let Err(error) = regex::Regex::new(&group.params) {
                return fail(&format!("groups.{index}.params"), &format!("is no regular expression: {error}"));
            }
            for (name, factor) in [("lr", group.lr), ("weight_decay", group.weight_decay)] {
                if !(factor >= 0.0 && factor.is_finite()) {
                    return fail(&format!("groups.{index}.{name}"), &format!("must be at least 0, got {factor}"));
                }
            }
        }
        if let Some(fold) = self.fold
            && (fold.count < 2 || fold.index >= fold.count)
        {
            return fail("fold", &format!("must be one of at least two parts, got part {} of {}", fold.index, fold.count));
        }
        if self.overfit_batches == Some(0) {
            return fail("overfit_batches", "must be at least 1, got 0");
        }
        for (name, limit) in [("limit_train", self.limit_train), ("limit_evaluate", self.limit_evaluate)] {
            if let Some(limit) = limit
                && (limit.unit == Unit::Seconds || (limit.unit == Unit::Epochs && limit.amount > 1.0))
            {
                return fail(name, &format!("must be a part of one epoch, such as `0.1ep` or `20st`, got `{limit}`"));
            }
        }
        if self.loader_threads == 0 || self.loader_threads > 256 {
            return fail("loader_threads", &format!("must be 1 to 256, got {}", self.loader_threads));
        }
        if u32::try_from(self.seed).is_err() {
            return fail("seed", &format!("must be below 2^32, got {}", self.seed));
        }
        Ok(())
    }
}

/// A recipe whose settings are canonical JSON: what is stored, hashed and compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedRecipe {
    /// Name of the run.
    pub name: String,
    /// Expected metric bands.
    pub expect: BTreeMap<String, (f64, f64)>,
    /// By slot.
    pub components: BTreeMap<String, ResolvedComponent>,
    /// By list: `metrics`, `transforms`, `callbacks`, `loggers`.
    #[serde(flatten)]
    pub lists: BTreeMap<String, Vec<ResolvedComponent>>,
    /// The loop.
    pub trainer: Trainer,
}

/// What differs between two resolved recipes: dotted key to (old, new); a part that one side lacks is null there.
pub fn differences(old: &ResolvedRecipe, new: &ResolvedRecipe) -> BTreeMap<String, (Value, Value)> {
    fn walk(path: &str, old: &Value, new: &Value, found: &mut BTreeMap<String, (Value, Value)>) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match (old, new) {
            (Value::Object(a), Value::Object(b)) => {
                for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                    walk(&below(key), a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
                }
            }
            // A list that one side does not have, written before there was one, is an empty list.
            (Value::Null, Value::Array(list)) | (Value::Array(list), Value::Null) if list.is_empty() => {}
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&below(&index.to_string()), a, b, found);
                }
            }
            (a, b) if a != b => drop(found.insert(path.to_owned(), (a.clone(), b.clone()))),
            _ => {}
        }
    }
    let value = |recipe: &ResolvedRecipe| {
        // Keys as `--set` writes them: `optimizer.lr`, not `components.optimizer.config.lr`.
        let part = |component: &ResolvedComponent| {
            let mut fields = component.config.as_object().cloned().unwrap_or_default();
            fields.insert("id".into(), component.id.clone().into());
            Value::Object(fields)
        };
        let mut root = serde_json::Map::new();
        root.extend(recipe.components.iter().map(|(slot, component)| (slot.clone(), part(component))));
        root.extend(recipe.lists.iter().map(|(list, parts)| (list.clone(), parts.iter().map(part).collect())));
        root.insert("trainer".into(), serde_json::to_value(&recipe.trainer).expect("trainer settings are plain data"));
        Value::Object(root)
    };
    let mut found = BTreeMap::new();
    walk("", &value(old), &value(new), &mut found);
    found
}

/// A component with all its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedComponent {
    /// Kebab-case id.
    pub id: String,
    /// All fields.
    pub config: Value,
}

impl ResolvedRecipe {
    /// Component of a slot (`model`, `callbacks.0`), which must be there.
    pub fn component(&self, slot: &str) -> &ResolvedComponent {
        match slot.split_once('.') {
            Some((list, index)) => &self.lists[list][index.parse::<usize>().expect("slots of a list are numbered")],
            None => &self.components[slot],
        }
    }

    /// As a recipe file that gives this recipe again.
    pub fn to_ron(&self) -> String {
        let call = |component: &ResolvedComponent| format!("{}({})", component.id.replace('-', "_"), component.config);
        let mut text = String::from("// Resolved by Solstice: every setting of the run, defaults included.\n(\n");
        text += &format!("    name: {:?},\n", self.name);
        if !self.expect.is_empty() {
            let bands: Vec<String> = self.expect.iter().map(|(name, (low, high))| format!("{name:?}: ({low:?}, {high:?})")).collect();
            text += &format!("    expect: {{{}}},\n", bands.join(", "));
        }
        for slot in SLOTS {
            text += &format!("    {slot}: {},\n", call(&self.components[slot]));
        }
        for (list, components) in &self.lists {
            text += &format!("    {list}: [{}],\n", components.iter().map(call).collect::<Vec<_>>().join(", "));
        }
        let trainer = ron::to_string(&self.trainer).expect("trainer settings are plain data");
        text += &format!("    trainer: {trainer},\n)\n");
        text
    }
}

// `evaluate: ["test"]` for an `Option`, as a reader would write it.
pub(crate) fn options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

fn list_of(raws: &[Box<RawValue>], list: &str, place: &str) -> Result<Vec<ComponentText>, RecipeError> {
    raws.iter().enumerate().map(|(index, raw)| component(raw.get_ron(), &format!("{list}.{index}"), place)).collect()
}

/// Splits `mlp(hidden: 64)` into the id and the settings.
fn component(raw: &str, slot: &str, place: &str) -> Result<ComponentText, RecipeError> {
    let text = strip_comments(raw);
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    let (id, rest) = (&text[..end], text[end..].trim());
    let well_formed = rest.is_empty() || (rest.starts_with('(') && rest.ends_with(')'));
    if id.is_empty() || !well_formed {
        return Err(RecipeError(format!("{place}: {slot}: wanted a component such as `mlp(hidden: 64)`, got `{text}`")));
    }
    let inner = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or("").trim();
    let config = if inner.is_empty() {
        String::new()
    } else if inner.starts_with('{') {
        inner.to_owned()
    } else {
        format!("({inner})")
    };
    Ok(ComponentText { id: id.replace('_', "-"), config })
}

// A raw value keeps the comments around it, which would hide the id. Strings may hold `//`.
pub(crate) fn strip_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c: char| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            let end = end.map_or(rest.len(), |end| end + 2);
            out += &rest[..end];
            rest = &rest[end..];
        } else if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Sets a field of a JSON value: objects by key, arrays by index. The field must exist, so that a slip of the pen is found.
pub fn set_field(root: &mut Value, path: &[String], value: &str) -> Result<(), String> {
    let mut at = root;
    for key in path {
        at = match at {
            Value::Object(map) => {
                let known: Vec<String> = map.keys().cloned().collect();
                map.get_mut(key).ok_or_else(|| {
                    format!(
                        "there is no field `{key}`{}; there are {}",
                        did_you_mean(key, known.iter().map(String::as_str)),
                        known.join(", ")
                    )
                })?
            }
            Value::Array(items) => {
                let count = items.len();
                let index: Option<usize> = key.parse().ok();
                index.and_then(|index| items.get_mut(index)).ok_or_else(|| format!("`{key}` is no index of a list of {count}"))?
            }
            _ => return Err(format!("`{key}` is below a plain value")),
        };
    }
    *at = parse_value(value);
    Ok(())
}

/// The value of `--set`: JSON, or RON data, or else a plain word.
fn parse_value(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    // RON enum variants would lose their names on the way through `ron::Value`, so only lists, maps and numbers are read as RON.
    let is_data = text.starts_with(['[', '{']) || text.parse::<f64>().is_ok();
    if is_data && let Ok(value) = ron::from_str::<Value>(text) {
        return value;
    }
    match text {
        "None" => Value::Null,
        _ => match text.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')) {
            Some(inner) => parse_value(inner),
            None => Value::String(text.into()),
        },
    }
}

/// `; did you mean `x`?`, or nothing.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // A word cut short (`batch` for `batch_size`) is as good as a slip of one letter.
    let distance = |name: &str| if word.len() > 2 && name.starts_with(word) { 1 } else { strsim::damerau_levenshtein(word, name) };
    let best = known.into_iter().map(|name| (distance(name), name)).min();
    match best {
        Some((distance, name)) if distance <= 1 + word.len() / 4 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

pub(crate) fn spanned(place: &str, error: &ron::error::SpannedError) -> RecipeError {
    shifted(place, error, "", "")
}

// The error stands in `part` of `text`.
fn shifted(place: &str, error: &ron::error::SpannedError, text: &str, part: &str) -> RecipeError {
    let start = &error.span.start;
    let before = &text[..text.find(part).unwrap_or(0)];
    let line = before.matches('\n').count() + start.line;
    let column = if start.line == 1 { before.chars().rev().take_while(|c| *c != '\n').count() + start.col } else { start.col };
    let mut message = error.code.to_string();
    if let ron::Error::NoSuchStructField { expected, found, .. } = &error.code {
        message =
            format!("there is no field `{found}`{}; there are {}", did_you_mean(found, expected.iter().copied()), expected.join(", "));
    }
    RecipeError(format!("{place}:{line}:{column}: {message}"))
}

// How many lines stand before `part` in `text`.
pub(crate) fn line_of(text: &str, part: &str) -> usize {
    text.find(part).map_or(0, |offset| text[..offset].matches('\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"(
    // A comment before a component.
    experiment: classification(),
    model: mlp(hidden: [64], name: "a // b"), // and one behind
    dataset: drawn_digits,
    optimizer: adam(lr: 1e-3),
    metrics: [accuracy()],
    trainer: (budget: "2ep"),
)"#;

    fn recipe() -> Recipe {
        Recipe::from_text(TEXT, "test", "test.ron").unwrap()
    }

    #[test]
    fn components_keep_their_settings_as_text() {
        let recipe = recipe();
        assert_eq!(recipe.component("model").id, "mlp");
        assert_eq!(recipe.component("model").config, r#"(hidden: [64], name: "a // b")"#);
        assert_eq!(recipe.component("dataset").id, "drawn-digits");
        assert_eq!(recipe.component("dataset").config, "");
        assert_eq!(recipe.component("schedule").id, "constant");
    }

    #[test]
    fn unknown_fields_are_named_with_line_and_suggestion() {
        let message = Recipe::from_text(&TEXT.replace("optimizer:", "optimiser:"), "test", "test.ron").unwrap_err().to_string();
        assert!(message.starts_with("test.ron:6:") && message.contains("did you mean `optimizer`?"), "{message}");
        let message = Recipe::from_text(&TEXT.replace("budget:", "budgets:"), "test", "test.ron").unwrap_err().to_string();
        assert!(message.starts_with("test.ron:8:") && message.contains("did you mean `budget`?"), "{message}");
    }

    #[test]
    fn set_reaches_every_part() {
        let mut recipe = recipe();
        for assignment in
            ["trainer.budget=5st", "seed=7", "model.hidden=[32, 32]", "dataset=mnist(limit: 3)", "metrics.0.top_k=5", "name=x"]
        {
            recipe.set(assignment).unwrap();
        }
        assert_eq!(recipe.trainer.budget.to_string(), "5st");
        assert_eq!(recipe.trainer.seed, 7);
        assert_eq!(recipe.component("dataset").config, "(limit: 3)");
        assert_eq!(recipe.overrides[0], Override { slot: "model".into(), path: vec!["hidden".into()], value: "[32, 32]".into() });
        for (wrong, part) in [
            ("trainer.bugdet=3ep", "did you mean `budget`?"),
            ("modle.hidden=3", "did you mean `model`?"),
            ("trainer.budget=0ep", "not above zero"),
            ("trainer.batch_size=0", "must be at least 1"),
            ("metrics.3.top_k=1", "the recipe has 1 metrics"),
            ("budget", "wanted `field=value`"),
        ] {
            let message = recipe.set(wrong).unwrap_err().to_string();
            assert!(message.contains(part), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_resolved_recipe_reads_back_as_itself() {
        let resolved = ResolvedRecipe {
            name: "x".into(),
            expect: BTreeMap::from([("test/accuracy".into(), (0.9, 1.0))]),
            components: SLOTS
                .iter()
                .map(|slot| {
                    let config = serde_json::json!({"a": [1, 2.5], "b": null, "c": {"Huber": {"delta": 1.0}}, "d": "x // y"});
                    ((*slot).to_owned(), ResolvedComponent { id: "some-thing".into(), config })
                })
                .collect(),
            lists: LISTS
                .iter()
                .map(|list| ((*list).to_owned(), vec![ResolvedComponent { id: "accuracy".into(), config: serde_json::json!({}) }]))
                .collect(),
            trainer: recipe()
                .trainer
                .with(&["clip".into()], "norm(1.0)", "")
                .and_then(|trainer| trainer.with(&["fold".into()], "(index: 1, count: 5)", ""))
                .and_then(|trainer| trainer.with(&["groups".into()], r#"[(params: ".*", rank_max: 1, weight_decay: 0)]"#, ""))
                .unwrap(),
        };
        let read = Recipe::from_text(&resolved.to_ron(), "y", "run.ron").unwrap();
        assert_eq!((&read.name, &read.expect, &read.trainer), (&resolved.name, &resolved.expect, &resolved.trainer));
        for slot in SLOTS {
            assert_eq!(read.component(slot).id, "some-thing");
            assert_eq!(serde_json::from_str::<Value>(&read.component(slot).config).unwrap(), resolved.components[slot].config);
        }
    }
}
