//! `solstice describe`: a component's fields with docs, ranges and defaults, from its schema. The trainer is described like one, though no plugin
//! offers it. With `--recipes` also what can be trained: everything that a form for a new run needs comes from one call.

use super::catalog;
use crate::cli::{DataArgs, DescribeArgs};
use crate::outcome::exit;
use crate::recipe::{Recipe, Trainer, did_you_mean};
use crate::sweep::Sweep;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use solstice_plugin_abi::wire::{ComponentInfo, Kind};
use solstice_plugin_abi::{Span, Unit};
use std::path::Path;

/// What the trainer is called where components have a kind.
const TRAINER: &str = "trainer";

/// Prints one component, or a line for each.
pub fn run(args: &DescribeArgs) -> Result<i32> {
    let catalog = catalog(&DataArgs::default())?;
    let all = catalog.components();
    let Some(wanted) = &args.component else {
        for info in &all {
            if args.json {
                println!("{}", serde_json::to_string(info)?);
            } else {
                println!("{:<12} {:<24} {}", info.kind.name(), info.id, first_sentence(&info.doc));
            }
        }
        if args.json {
            println!("{}", trainer());
        }
        if let Some(folder) = &args.recipes {
            list_recipes(folder)?;
        }
        return Ok(exit::OK);
    };
    if wanted == TRAINER {
        let trainer = trainer();
        if args.json {
            println!("{}", serde_json::to_string_pretty(&trainer)?);
        } else {
            print_settings(TRAINER, TRAINER, text_of(&trainer, "doc"), &trainer["schema"], &trainer["defaults"]);
        }
        return Ok(exit::OK);
    }
    let (kind, id) = match wanted.split_once('/') {
        Some((kind, id)) => match Kind::from_name(kind) {
            Some(kind) => (Some(kind), id),
            None => bail!("`{kind}` is no kind of component"),
        },
        None => (None, wanted.as_str()),
    };
    let id = id.replace('_', "-");
    let found: Vec<&ComponentInfo> = all.iter().filter(|info| info.id == id && kind.is_none_or(|kind| info.kind == kind)).collect();
    if found.is_empty() {
        let hint = did_you_mean(&id, all.iter().map(|info| info.id.as_str()));
        bail!("no plugin offers `{wanted}`{hint} `solstice describe` lists all components.");
    }
    for info in found {
        if args.json {
            println!("{}", serde_json::to_string_pretty(info)?);
        } else {
            print_settings(info.kind.name(), &info.id, &info.doc, &info.schema, &info.defaults);
        }
    }
    Ok(exit::OK)
}

/// The trainer in the form of a component. Its budget has no default: what stands there is a proposal, and the schema says that it is wanted.
fn trainer() -> Value {
    let schema = schemars::schema_for!(Trainer).to_value();
    let defaults = Trainer::with_budget(Span { amount: 1.0, unit: Unit::Epochs });
    json!({ "kind": TRAINER, "id": TRAINER, "doc": text_of(&schema, "description"), "defaults": defaults, "schema": schema })
}

/// One JSON object a recipe: its path, its name, the comment that it begins with, its text, and what is wrong with it.
fn list_recipes(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list the recipes in {}", folder.display())),
    };
    let mut paths: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "ron")).collect();
    paths.sort();
    for path in paths {
        let (stem, place) = (path.file_stem().unwrap_or_default().to_string_lossy(), path.display().to_string());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("{}", json!({ "kind": "recipe", "path": path, "name": stem, "problem": format!("it cannot be read: {error}") }));
                continue;
            }
        };
        let recipe = Recipe::from_text(&text, &stem, &place);
        // A sweep lies beside its recipe, and is none.
        if recipe.is_err() && Sweep::from_text(&text, &place).is_ok() {
            continue;
        }
        let comment: Vec<&str> = text.lines().map_while(|line| line.trim().strip_prefix("//")).map(str::trim).collect();
        let problem = recipe.as_ref().err().map(ToString::to_string);
        let name = recipe.map_or_else(|_| stem.into_owned(), |recipe| recipe.name);
        let line = json!({ "kind": "recipe", "path": path, "name": name, "doc": comment.join(" "), "text": text, "problem": problem });
        println!("{line}");
    }
    Ok(())
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn first_sentence(doc: &str) -> &str {
    let line = doc.lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first)
}

fn print_settings(kind: &str, id: &str, doc: &str, root: &Value, defaults: &Value) {
    println!("{kind} `{id}`");
    if !doc.is_empty() {
        println!("  {}", doc.replace('\n', "\n  "));
    }
    let properties = root.get("properties").and_then(Value::as_object);
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
        println!("  (no settings)");
        return;
    };
    for (name, schema) in properties {
        let default = defaults.get(name).map_or("-".into(), ToString::to_string);
        println!("\n  {name}: {} = {default}", type_of(schema, root));
        if let Some(doc) = doc_of(schema, root) {
            println!("      {}", doc.replace('\n', "\n      "));
        }
        for (choice, doc) in choices(schema, root) {
            println!("      `{choice}` {doc}");
        }
    }
}

/// Follows a `$ref` within the document.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn doc_of<'a>(schema: &'a Value, root: &'a Value) -> Option<&'a str> {
    let own = schema.get("description").and_then(Value::as_str);
    own.or_else(|| resolved(schema, root).get("description").and_then(Value::as_str))
}

fn type_of(schema: &Value, root: &Value) -> String {
    let schema = resolved(schema, root);
    let name = match schema.get("type") {
        Some(Value::String(name)) if name == "array" => {
            format!("list of {}", schema.get("items").map_or("values".into(), |items| type_of(items, root)))
        }
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).map(|name| if name == "null" { "none" } else { name }).collect();
            names.join(" or ")
        }
        _ => match schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
            Some(options) if options.iter().any(|option| option.get("type").and_then(Value::as_str) == Some("null")) => {
                let rest: Vec<String> = options
                    .iter()
                    .filter(|option| option.get("type").and_then(Value::as_str) != Some("null"))
                    .map(|option| type_of(option, root))
                    .collect();
                format!("{} or none", rest.join(" or "))
            }
            Some(_) => "one of".into(),
            None => "value".into(),
        },
    };
    let number = |key: &str| schema.get(key).map(ToString::to_string);
    let low = number("minimum").or_else(|| number("exclusiveMinimum").map(|low| format!("above {low}")));
    let high = number("maximum").or_else(|| number("exclusiveMaximum").map(|high| format!("below {high}")));
    match (low, high) {
        (None, None) => name,
        (low, high) => format!("{name} ({} .. {})", low.unwrap_or_default(), high.unwrap_or_default()),
    }
}

/// Variants of an enum with their docs.
fn choices(schema: &Value, root: &Value) -> Vec<(String, String)> {
    let schema = resolved(schema, root);
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        return names.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), String::new())).collect();
    }
    let mut found = vec![];
    for option in schema.get("oneOf").or(schema.get("anyOf")).and_then(Value::as_array).into_iter().flatten() {
        let option = resolved(option, root);
        let doc = option.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(name) = option.get("const").and_then(Value::as_str) {
            found.push((name.to_owned(), doc));
        } else if let Some(names) = option.get("enum").and_then(Value::as_array) {
            found.extend(names.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), doc.clone())));
        } else if let Some(properties) = option.get("properties").and_then(Value::as_object) {
            found.extend(properties.keys().map(|name| (format!("{name}(..)"), doc.clone())));
        }
    }
    found
}
