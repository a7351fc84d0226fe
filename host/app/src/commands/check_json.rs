//! `solstice check --settings-only --json`: a recipe as a form needs it. One JSON object says every mistake with the field it belongs to and where in
//! the text it stands; when there is none, also the recipe with all its settings and the learning rate over the run.
//!
//! Reads no data and opens no device, so that it can be asked while somebody types.

use super::catalog;
use crate::assemble::{resolve_component, slots};
use crate::cli::CheckArgs;
use crate::loader::{Catalog, PluginError};
use crate::outcome::{Exit, OrExit, exit, sentence};
use crate::recipe::{LISTS, Recipe, RecipeFile, ResolvedRecipe, SLOTS, STDIN_PLACE, options, strip_comments};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use solstice_engine::reference::{Tensor, evaluate};
use solstice_ir::{DType, TensorType};
use solstice_plugin_abi::wire::{Kind, NamedType, TraceRequest};
use solstice_plugin_abi::{EpochShape, Unit};
use std::collections::BTreeMap;

/// Intervals of the learning rate's curve.
const CURVE_PARTS: u64 = 200;
/// The length that a run of unknown length is drawn with.
const ASSUMED_STEPS: u64 = 1000;

/// A mistake.
#[derive(Debug, PartialEq, Serialize)]
struct Problem {
    /// Dotted path as in `--set`: `model.hidden`, `trainer.budget`; a slot, when it is about the component; empty for the recipe as a whole.
    field: String,
    /// What is wrong.
    message: String,
    /// From 1, in the recipe's text.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
}

/// Prints the object; returns the exit code.
pub fn run(args: &CheckArgs) -> Result<i32, Exit> {
    let path = &args.recipe.recipe;
    let (text, place) = match &args.recipe.text {
        Some(text) => (text.clone(), STDIN_PLACE.to_owned()),
        None => {
            let read = std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {}", path.display()));
            (read.or_exit(exit::USAGE)?, path.display().to_string())
        }
    };
    let catalog = catalog(&args.recipe.data).or_exit(exit::FAILED)?;
    let (problems, resolved) = match Recipe::from_args(&args.recipe) {
        Ok(recipe) => check(&recipe, &text, &catalog),
        Err(error) => (vec![problem_of_recipe(&error.to_string(), &place, &text)], None),
    };
    let curve = resolved.as_ref().and_then(|resolved| curve(resolved, &catalog, args.steps_per_epoch).ok());
    println!("{}", json!({ "ok": problems.is_empty(), "problems": problems, "recipe": resolved, "schedule": curve }));
    Ok(if problems.is_empty() { exit::OK } else { exit::USAGE })
}

fn check(recipe: &Recipe, text: &str, catalog: &Catalog) -> (Vec<Problem>, Option<ResolvedRecipe>) {
    let (mut problems, mut components) = (vec![], BTreeMap::new());
    let mut lists: BTreeMap<String, Vec<_>> = LISTS.iter().map(|list| ((*list).to_owned(), vec![])).collect();
    let parts = Parts::of(text);
    for (slot, kind) in slots(recipe) {
        match resolve_component(recipe, &slot, kind, catalog) {
            Err(error) => problems.extend(problems_of_component(&error, &slot, &parts, text)),
            Ok(component) => match slot.split_once('.') {
                Some((list, _)) => lists.get_mut(list).expect("all lists are there").push(component),
                None => drop(components.insert(slot, component)),
            },
        }
    }
    let resolved = problems.is_empty().then(|| ResolvedRecipe {
        name: recipe.name.clone(),
        expect: recipe.expect.clone(),
        components,
        lists,
        trainer: recipe.trainer.clone(),
    });
    (problems, resolved)
}

// ---- where a mistake is ------------------------------------------------------------------------------------------------------------------

/// Where the text of each component stands in a recipe: byte range by slot.
struct Parts(BTreeMap<String, std::ops::Range<usize>>);

impl Parts {
    fn of(text: &str) -> Parts {
        let mut parts = BTreeMap::new();
        let Ok(file) = options().from_str::<RecipeFile>(text) else { return Parts(parts) };
        let mut add = |slot: String, raw: &str, from: usize| -> usize {
            let raw = raw.trim();
            let Some(at) = text[from..].find(raw).map(|at| at + from).filter(|_| !raw.is_empty()) else { return from };
            parts.insert(slot, at..at + raw.len());
            at + raw.len()
        };
        // After its own name: two slots may hold the same text.
        let key = |name: &str| text.find(&format!("{name}:")).unwrap_or(0);
        for (slot, raw) in SLOTS.iter().zip([&file.experiment, &file.model, &file.dataset, &file.optimizer, &file.schedule]) {
            add((*slot).to_owned(), raw.get_ron(), key(slot));
        }
        for (list, raws) in LISTS.iter().zip([&file.metrics, &file.transforms, &file.callbacks, &file.loggers]) {
            let mut from = key(list);
            for (index, raw) in raws.iter().enumerate() {
                from = add(format!("{list}.{index}"), raw.get_ron(), from);
            }
        }
        Parts(parts)
    }
}

fn problems_of_component(error: &anyhow::Error, slot: &str, parts: &Parts, text: &str) -> Vec<Problem> {
    let part = parts.0.get(slot);
    let start = part.map(|part| line_and_column(text, part.start));
    let new = |field: String, message: String, place: Option<(usize, usize)>| Problem {
        field,
        message,
        line: place.map(|place| place.0),
        column: place.map(|place| place.1),
    };
    let message = match error.chain().find_map(|cause| cause.downcast_ref::<PluginError>()) {
        Some(PluginError::Config { message, .. }) => message,
        Some(other) => return vec![new(slot.into(), other.to_string(), start)],
        None => return vec![new(slot.into(), sentence(error), start)],
    };
    let (position, rest) = position(message);
    // Breaches of ranges are told together, each with its field in front.
    let is_list = rest.split("; ").all(|part| part.starts_with('`') || part.starts_with("the value"));
    let sentences: Vec<&str> = if is_list { rest.split("; ").collect() } else { vec![rest] };
    let problem = |sentence: &str| {
        let named = sentence.strip_prefix('`').and_then(|rest| rest.split_once('`'));
        let Some((field, said)) = named else { return new(slot.into(), sentence.into(), place_in(text, part, position).or(start)) };
        let said = said.strip_prefix(": ").unwrap_or(said).trim_start();
        let place = place_in(text, part, position).or_else(|| place_of_field(text, part, field)).or(start);
        new(format!("{slot}.{field}"), said.into(), place)
    };
    sentences.into_iter().map(problem).collect()
}

/// `line 1, column 7: rest`.
fn position(message: &str) -> (Option<(usize, usize)>, &str) {
    let parse = || {
        let (line, rest) = message.strip_prefix("line ")?.split_once(", column ")?;
        let (column, rest) = rest.split_once(": ")?;
        Some(((line.parse().ok()?, column.parse().ok()?), rest))
    };
    parse().map_or((None, message), |(position, rest)| (Some(position), rest))
}

/// From a place in a component's settings, `(hidden: 64)`, to one in the recipe, where its id stands before them.
fn place_in(text: &str, part: Option<&std::ops::Range<usize>>, position: Option<(usize, usize)>) -> Option<(usize, usize)> {
    let ((line, column), part) = (position?, part?);
    let raw = &text[part.clone()];
    // The plugin has seen the text without its comments.
    if strip_comments(raw) != raw {
        return None;
    }
    let settings = part.start + raw.find('(')?;
    let (first_line, first_column) = line_and_column(text, settings);
    // Settings in braces are handed on without the parentheses around them.
    let before = usize::from(raw[raw.find('(')? + 1..].trim_start().starts_with('{'));
    Some(if line == 1 { (first_line, first_column + column - 1 + before) } else { (first_line + line - 1, column) })
}

/// Where the last name of a field's path is set.
fn place_of_field(text: &str, part: Option<&std::ops::Range<usize>>, field: &str) -> Option<(usize, usize)> {
    let part = part?;
    let name = field.split('.').next()?;
    let at = text[part.clone()].find(&format!("{name}:"))?;
    Some(line_and_column(text, part.start + at))
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A mistake outside the components: `place:3:7: what`, `place: trainer.batch_size what`.
fn problem_of_recipe(message: &str, place: &str, text: &str) -> Problem {
    let rest = message.strip_prefix(place).unwrap_or(message);
    let numbered = || {
        let (line, rest) = rest.strip_prefix(':')?.split_once(':')?;
        let (column, rest) = rest.split_once(": ")?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?, rest))
    };
    if let Some((line, column, rest)) = numbered() {
        let field = if rest.starts_with("there is no field") { String::new() } else { trainer_field(text, line, column) };
        return Problem { field, message: rest.into(), line: Some(line), column: Some(column) };
    }
    let rest = rest.strip_prefix(": ").unwrap_or(rest);
    // `trainer.clip must be ..`, `metrics.0: wanted ..`
    let (field, said) = rest.split_once(' ').unwrap_or(("", rest));
    let name = field.trim_end_matches(':');
    let is_field = name.split('.').next().is_some_and(|first| first == "trainer" || SLOTS.contains(&first) || LISTS.contains(&first));
    let (field, said) = if is_field { (name.to_owned(), said) } else { (String::new(), rest) };
    let key = format!("{}:", field.rsplit('.').next().unwrap_or_default());
    let at = (is_field && key.len() > 1).then(|| text.rfind(&key)).flatten().map(|at| line_and_column(text, at));
    Problem { field, message: said.into(), line: at.map(|at| at.0), column: at.map(|at| at.1) }
}

/// The trainer's field whose value is being read at a place; empty when the place is not in the trainer.
fn trainer_field(text: &str, line: usize, column: usize) -> String {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let here = text[line_start..].char_indices().nth(column.saturating_sub(1)).map_or(text.len(), |(at, _)| line_start + at);
    let Some(trainer) = text.find("trainer:").filter(|at| *at < here) else { return String::new() };
    // The reader stops before or behind the value, never behind the next comma.
    let before = &text[trainer + "trainer:".len()..here];
    let end = before.rfind(':').unwrap_or(0);
    let name: String = before[..end].chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() { "trainer".into() } else { format!("trainer.{}", name.chars().rev().collect::<String>()) }
}

// ---- the learning rate -------------------------------------------------------------------------------------------------------------------

/// The learning rate over the run: pairs of step and rate, computed by the schedule's own graph.
fn curve(resolved: &ResolvedRecipe, catalog: &Catalog, steps_per_epoch: Option<u64>) -> Result<Value> {
    let (schedule, trainer) = (resolved.component("schedule"), &resolved.trainer);
    let handle =
        catalog.plugin(Kind::LrSchedule, &schedule.id)?.create_traced(Kind::LrSchedule, &schedule.id, &schedule.config.to_string())?;
    let scalar = TensorType::new(DType::F32, []);
    let inputs = ["base_lr", "step", "total_steps"].map(|name| NamedType { name: name.into(), ty: scalar.clone() }).to_vec();
    let graph = handle.trace("rate", &TraceRequest { inputs, training: true, ..TraceRequest::default() })?;
    let samples_per_step = (trainer.batch_size * trainer.accumulate) as u64;
    let known = match (trainer.budget.unit, steps_per_epoch) {
        (Unit::Epochs | Unit::Samples, Some(steps)) => trainer.budget.steps(EpochShape { samples: steps * samples_per_step, steps }),
        (Unit::Samples, None) => Some((trainer.budget.amount / samples_per_step as f64).ceil() as u64),
        (Unit::Steps, _) => Some(trainer.budget.amount.ceil() as u64),
        (Unit::Epochs | Unit::Seconds, _) => None,
    };
    let total = known.unwrap_or(ASSUMED_STEPS).max(1);
    let base = resolved.component("optimizer").config.get("lr").and_then(Value::as_f64);
    let value = |value: f64| Tensor::f32([], [f64::from(value as f32)]);
    let mut points: Vec<(u64, f64)> = vec![];
    for part in 0..=CURVE_PARTS {
        let step = (u128::from(total - 1) * u128::from(part) / u128::from(CURVE_PARTS)) as u64;
        if points.last().is_some_and(|(last, _)| *last == step) {
            continue;
        }
        let inputs = [("base_lr", base.unwrap_or(1.0)), ("step", step as f64), ("total_steps", total as f64)];
        let inputs = inputs.map(|(name, number)| (name.to_owned(), value(number))).into();
        let rate = evaluate(&graph, &inputs)?.outputs.get("lr").and_then(|rate| rate.to_f64().first().copied());
        points.push((step, rate.context("the schedule has no output `lr`")?));
    }
    Ok(json!({ "total_steps": known, "assumed_steps": total, "has_base": base.is_some(), "points": points }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "(\n    model: mlp(hidden: [8]),\n    trainer: (budget: \"5xx\", batch_size: 0),\n)";

    #[test]
    fn mistakes_outside_the_components_have_a_field_where_they_can() {
        let problem = problem_of_recipe("p:3:26: `xx` is no unit", "p", TEXT);
        assert_eq!((problem.field.as_str(), problem.line, problem.column), ("trainer.budget", Some(3), Some(26)));
        let problem = problem_of_recipe("p: trainer.batch_size must be at least 1, got 0", "p", TEXT);
        assert_eq!((problem.field.as_str(), problem.message.as_str()), ("trainer.batch_size", "must be at least 1, got 0"));
        assert_eq!((problem.line, problem.column), (Some(3), Some(30)));
        let problem = problem_of_recipe("p:2:5: there is no field `modle`", "p", TEXT);
        assert_eq!((problem.field.as_str(), problem.line), ("", Some(2)));
    }

    #[test]
    fn a_place_in_settings_is_one_in_the_recipe() {
        let start = TEXT.find("mlp").unwrap();
        let part = start..start + "mlp(hidden: [8])".len();
        // `(hidden: [8])`: the bracket is its column 10.
        let (line, column) = place_in(TEXT, Some(&part), Some((1, 10))).unwrap();
        assert_eq!(TEXT.lines().nth(line - 1).unwrap().chars().nth(column - 1), Some('['));
    }
}
