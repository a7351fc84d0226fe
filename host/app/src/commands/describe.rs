//! `solstice describe`: a component's fields with docs, ranges and defaults, from its schema.

use super::catalog;
use crate::cli::{DataArgs, DescribeArgs};
use crate::outcome::exit;
use crate::recipe::did_you_mean;
use anyhow::{Result, bail};
use serde_json::Value;
use solstice_plugin_abi::wire::{ComponentInfo, Kind};

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
        return Ok(exit::OK);
    };
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
            print_component(info);
        }
    }
    Ok(exit::OK)
}

fn first_sentence(doc: &str) -> &str {
    let line = doc.lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first)
}

fn print_component(info: &ComponentInfo) {
    println!("{} `{}`", info.kind.name(), info.id);
    if !info.doc.is_empty() {
        println!("  {}", info.doc.replace('\n', "\n  "));
    }
    let properties = info.schema.get("properties").and_then(Value::as_object);
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
        println!("  (no settings)");
        return;
    };
    for (name, schema) in properties {
        let default = info.defaults.get(name).map_or("-".into(), ToString::to_string);
        println!("\n  {name}: {} = {default}", type_of(schema, &info.schema));
        if let Some(doc) = doc_of(schema, &info.schema) {
            println!("      {}", doc.replace('\n', "\n      "));
        }
        for (choice, doc) in choices(schema, &info.schema) {
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
