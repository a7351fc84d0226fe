//! A recipe as the form holds it: the settings of every part as JSON, written back as RON, and compared field by field. No egui here.
//!
//! The window reads no RON: a hand-edited text comes back from `solstice check` as JSON. Writing needs the schemas, which tell a choice from a
//! string and a structure from a map.

use crate::data::{Catalog, Component};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Slots of a recipe with the kind of component that goes in.
pub const SLOTS: [(&str, &str); 5] =
    [("experiment", "experiment"), ("model", "model"), ("dataset", "dataset"), ("optimizer", "optimizer"), ("schedule", "lr-schedule")];

/// Lists of a recipe with the kind of their components.
pub const LISTS: [(&str, &str); 4] = [("metrics", "metric"), ("transforms", "transform"), ("callbacks", "callback"), ("loggers", "logger")];

/// A line of the RON is at most about this long.
const LINE_CHARS: usize = 52;

/// A component with all its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Of the component.
    pub id: String,
    /// All settings.
    pub config: Value,
}

/// A recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Of the runs.
    pub name: String,
    /// Where a full run should end: name of a metric to `[low, high]`.
    pub expect: Value,
    /// By slot.
    pub parts: BTreeMap<String, Part>,
    /// By list.
    pub lists: BTreeMap<String, Vec<Part>>,
    /// All settings of the loop.
    pub trainer: Value,
}

impl Draft {
    /// From a recipe with all its settings, as `check` answers and as a run's store holds it.
    pub fn of(recipe: &Value) -> Option<Draft> {
        let part =
            |value: &Value| Some(Part { id: value.get("id")?.as_str()?.into(), config: value.get("config").cloned().unwrap_or_default() });
        let components = recipe.get("components")?.as_object()?;
        let parts: BTreeMap<String, Part> = components.iter().filter_map(|(slot, value)| Some((slot.clone(), part(value)?))).collect();
        let of_list = |list: &str| recipe.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(part).collect();
        Some(Draft {
            name: recipe.get("name").and_then(Value::as_str).unwrap_or_default().into(),
            expect: recipe.get("expect").cloned().unwrap_or_default(),
            parts,
            lists: LISTS.iter().map(|(list, _)| ((*list).to_owned(), of_list(list))).collect(),
            trainer: recipe.get("trainer").cloned().unwrap_or_default(),
        })
    }

    /// The first component of each kind, as it is by default.
    pub fn first_of(catalog: &Catalog) -> Option<Draft> {
        let part = |kind: &str| catalog.of_kind(kind).next().map(Part::default_of);
        let parts: Option<BTreeMap<String, Part>> = SLOTS.iter().map(|(slot, kind)| Some(((*slot).to_owned(), part(kind)?))).collect();
        Some(Draft {
            name: "run".into(),
            expect: Value::Null,
            parts: parts?,
            lists: LISTS.iter().map(|(list, _)| ((*list).to_owned(), vec![])).collect(),
            trainer: catalog.trainer.as_ref()?.defaults.clone(),
        })
    }

    /// As a recipe; settings that are as by default are left out.
    pub fn to_ron(&self, catalog: &Catalog) -> String {
        let mut text = String::from("(\n");
        if !self.name.is_empty() {
            text += &format!("    name: {:?},\n", self.name);
        }
        if let Some(bands) = self.expect.as_object().filter(|bands| !bands.is_empty()) {
            let bands: Vec<String> = bands.iter().map(|(name, band)| format!("{name:?}: ({}, {})", band[0], band[1])).collect();
            text += &format!("    expect: {{{}}},\n", bands.join(", "));
        }
        for (slot, kind) in SLOTS {
            if let Some(part) = self.parts.get(slot) {
                text += &format!("    {slot}: {},\n", call(part, catalog.component(kind, &part.id), 1));
            }
        }
        for (list, kind) in LISTS {
            let parts = self.lists.get(list).map_or(&[][..], Vec::as_slice);
            if parts.is_empty() {
                continue;
            }
            let calls: Vec<String> = parts.iter().map(|part| call(part, catalog.component(kind, &part.id), 2)).collect();
            text += &format!("    {list}: {},\n", wrapped("[", &calls, "]", 1));
        }
        let fields = match catalog.trainer.as_deref() {
            Some(trainer) => changed_fields(&self.trainer, &trainer.defaults, &trainer.schema),
            None => vec![],
        };
        text += &format!("    trainer: {},\n)\n", wrapped("(", &fields, ")", 1));
        text
    }

    /// The value of a dotted field: `model.hidden`, `callbacks.0.decay`, `trainer.budget`.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = keys.next()?;
        let root = match first {
            "trainer" => &self.trainer,
            list if self.lists.contains_key(list) => &self.lists[list].get(keys.next()?.parse::<usize>().ok()?)?.config,
            slot => &self.parts.get(slot)?.config,
        };
        keys.try_fold(root, |at, key| match at {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            other => other.get(key),
        })
    }

    /// Dotted fields with a plain value or a list, for a choice of what to vary.
    pub fn fields(&self) -> Vec<String> {
        let mut found = vec![];
        let mut add = |prefix: &str, config: &Value| {
            found.extend(config.as_object().into_iter().flatten().map(|(key, _)| format!("{prefix}.{key}")));
        };
        for slot in ["optimizer", "model", "schedule", "experiment", "dataset"] {
            if let Some(part) = self.parts.get(slot) {
                add(slot, &part.config);
            }
        }
        add("trainer", &self.trainer);
        for (list, parts) in &self.lists {
            for (index, part) in parts.iter().enumerate() {
                add(&format!("{list}.{index}"), &part.config);
            }
        }
        found
    }

    /// What differs from `before`, each as a `--set` has it: `optimizer.lr=0.1`.
    pub fn changes_from(&self, before: &Draft, catalog: &Catalog) -> Vec<String> {
        let mut found = vec![];
        if self.name != before.name {
            found.push(format!("name={}", self.name));
        }
        for (slot, kind) in SLOTS {
            let (Some(old), Some(new)) = (before.parts.get(slot), self.parts.get(slot)) else { continue };
            if old.id == new.id {
                walk(slot, &old.config, &new.config, &mut found);
            } else {
                found.push(format!("{slot}={}", one_line(new, catalog.component(kind, &new.id))));
            }
        }
        for (list, kind) in LISTS {
            let (old, new) = (&before.lists[list], &self.lists[list]);
            let is_same_kind = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.id == new.id);
            if is_same_kind {
                for (index, (old, new)) in old.iter().zip(new).enumerate() {
                    walk(&format!("{list}.{index}"), &old.config, &new.config, &mut found);
                }
            } else {
                let calls: Vec<String> = new.iter().map(|part| one_line(part, catalog.component(kind, &part.id))).collect();
                found.push(format!("{list}=[{}]", calls.join(", ")));
            }
        }
        walk("trainer", &before.trainer, &self.trainer, &mut found);
        found
    }
}

impl Part {
    /// A component as it is by default.
    pub fn default_of(component: &Component) -> Part {
        Part { id: component.id.clone(), config: component.defaults.clone() }
    }
}

/// Equal as settings: 1 and 1.0 are one number.
pub fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b))),
        (a, b) => a == b,
    }
}

// Settings are compared field by field, and so are structures within them; maps and choices, whose keys come and go, are set as a whole.
fn walk(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return field_change(path, old, new, found) };
    for (key, value) in new {
        // A run of an older version lacks newer fields.
        field_change(&format!("{path}.{key}"), old.get(key).unwrap_or(&Value::Null), value, found);
    }
}

fn field_change(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        _ if is_same(old, new) => {}
        (Value::Object(a), Value::Object(b)) if !a.is_empty() && a.len() == b.len() && a.keys().all(|key| b.contains_key(key)) => {
            walk(path, old, new, found);
        }
        _ => found.push(format!("{path}={}", word(new))),
    }
}

// A text is written bare where `--set` cannot take it for anything else.
fn word(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let is_data = serde_json::from_str::<Value>(text).is_ok() || text.parse::<f64>().is_ok() || text.starts_with(['[', '{']);
    let is_bare = !is_data && !text.is_empty() && text.trim() == text && text != "None" && !text.starts_with("Some(");
    if is_bare { text.clone() } else { value.to_string() }
}

// ---- RON ---------------------------------------------------------------------------------------------------------------------------------

fn call(part: &Part, component: Option<&Component>, depth: usize) -> String {
    let id = part.id.replace('-', "_");
    match component {
        Some(component) => {
            format!("{id}{}", wrapped("(", &changed_fields(&part.config, &component.defaults, &component.schema), ")", depth))
        }
        // JSON within the parentheses says the same, without a schema.
        None => format!("{id}({})", part.config),
    }
}

fn one_line(part: &Part, component: Option<&Component>) -> String {
    let id = part.id.replace('-', "_");
    match component {
        Some(component) => format!("{id}({})", changed_fields(&part.config, &component.defaults, &component.schema).join(", ")),
        None => format!("{id}({})", part.config),
    }
}

// On one line where it fits.
fn wrapped(open: &str, items: &[String], close: &str, depth: usize) -> String {
    let line = format!("{open}{}{close}", items.join(", "));
    if line.len() <= LINE_CHARS && !line.contains('\n') {
        return line;
    }
    let (inner, outer) = ("    ".repeat(depth + 1), "    ".repeat(depth));
    let items: Vec<String> = items.iter().map(|item| format!("{inner}{item},\n")).collect();
    format!("{open}\n{}{outer}{close}", items.concat())
}

// `name: value` for all that is not as by default, and for what has to be said.
fn changed_fields(config: &Value, defaults: &Value, schema: &Value) -> Vec<String> {
    let is_required = |key: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key));
    let fields = config.as_object().into_iter().flatten();
    let changed = fields.filter(|(key, value)| is_required(key) || !defaults.get(*key).is_some_and(|default| is_same(value, default)));
    changed.map(|(key, value)| format!("{key}: {}", ron(value, field(schema, schema, key), schema))).collect()
}

/// Follows a `$ref` within the document `root`.
pub fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#')) {
        Some("") => root,
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// The schema of a field of an object.
pub fn field<'a>(schema: &'a Value, root: &'a Value, key: &str) -> &'a Value {
    resolved(schema, root).get("properties").and_then(|fields| fields.get(key)).unwrap_or(&Value::Null)
}

/// The schema of what an optional value is when it is there; `None` for a value that is always there.
pub fn optional<'a>(schema: &'a Value, root: &'a Value) -> Option<std::borrow::Cow<'a, Value>> {
    let schema = resolved(schema, root);
    let is_null = |schema: &Value| schema.get("type").and_then(Value::as_str) == Some("null");
    if let Some(options) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array)
        && options.iter().any(is_null)
        && let Some(inner) = options.iter().find(|option| !is_null(option))
    {
        return Some(std::borrow::Cow::Borrowed(inner));
    }
    let types = schema.get("type").and_then(Value::as_array)?;
    if !types.iter().any(|name| name == "null") {
        return None;
    }
    let mut inner = schema.clone();
    inner.as_object_mut().expect("it has a type").remove("default");
    inner["type"] = types.iter().find(|name| *name != "null").cloned().unwrap_or_default();
    Some(std::borrow::Cow::Owned(inner))
}

/// A choice: its name, what it is, and the schema of its contents if it has any.
pub struct Choice<'a> {
    /// As in JSON and RON.
    pub name: &'a str,
    /// What it is.
    pub doc: &'a str,
    /// What it holds.
    pub inner: Option<&'a Value>,
}

/// The variants of an enum; empty for anything else.
pub fn choices<'a>(schema: &'a Value, root: &'a Value) -> Vec<Choice<'a>> {
    let schema = resolved(schema, root);
    let plain = |name: &'a Value, doc: &'a str| name.as_str().map(|name| Choice { name, doc, inner: None });
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        return names.iter().filter_map(|name| plain(name, "")).collect();
    }
    let mut found = vec![];
    for option in schema.get("oneOf").or(schema.get("anyOf")).and_then(Value::as_array).into_iter().flatten() {
        let option = resolved(option, root);
        let doc = option.get("description").and_then(Value::as_str).unwrap_or_default();
        if let Some(name) = option.get("const") {
            found.extend(plain(name, doc));
        } else if let Some(names) = option.get("enum").and_then(Value::as_array) {
            found.extend(names.iter().filter_map(|name| plain(name, doc)));
        } else if let Some((name, inner)) = option.get("properties").and_then(Value::as_object).and_then(|fields| fields.iter().next()) {
            let inner_doc = resolved(inner, root).get("description").and_then(Value::as_str).unwrap_or_default();
            found.push(Choice { name, doc: if doc.is_empty() { inner_doc } else { doc }, inner: Some(inner) });
        }
    }
    found
}

/// What a new value is: the schema's default, else the least that is one.
pub fn default_of(schema: &Value, root: &Value) -> Value {
    if let Some(default) = schema.get("default").or(resolved(schema, root).get("default")) {
        return default.clone();
    }
    let schema = resolved(schema, root);
    if let Some(choice) = choices(schema, root).first() {
        return choice_value(choice, root);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => {
            let fields = schema.get("properties").and_then(Value::as_object);
            let fields: Map<String, Value> =
                fields.into_iter().flatten().map(|(key, inner)| (key.clone(), default_of(inner, root))).collect();
            Value::Object(fields)
        }
        Some("array") => match schema.get("prefixItems").and_then(Value::as_array) {
            Some(items) => items.iter().map(|item| default_of(item, root)).collect(),
            None => Value::Array(vec![]),
        },
        Some("boolean") => Value::Bool(false),
        Some("string") => Value::String(String::new()),
        Some("integer") => schema.get("minimum").filter(|least| least.as_f64() > Some(0.0)).cloned().unwrap_or(0.into()),
        Some("number") => schema.get("minimum").filter(|least| least.as_f64() > Some(0.0)).cloned().unwrap_or(1.0.into()),
        _ => Value::Null,
    }
}

/// A choice as it is when it was just chosen.
pub fn choice_value(choice: &Choice, root: &Value) -> Value {
    match choice.inner {
        None => Value::String(choice.name.into()),
        Some(inner) => Value::Object(Map::from_iter([(choice.name.to_owned(), default_of(inner, root))])),
    }
}

fn ron(value: &Value, schema: &Value, root: &Value) -> String {
    if !value.is_null()
        && let Some(inner) = optional(schema, root)
    {
        return ron(value, &inner, root);
    }
    let choices = choices(schema, root);
    let schema = resolved(schema, root);
    match value {
        Value::Null => "None".into(),
        Value::String(text) if choices.iter().any(|choice| choice.name == text) => text.clone(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            let tuple = schema.get("prefixItems").and_then(Value::as_array);
            let of = |index: usize| tuple.and_then(|items| items.get(index)).or(schema.get("items")).unwrap_or(&Value::Null);
            let items: Vec<String> = items.iter().enumerate().map(|(index, item)| ron(item, of(index), root)).collect();
            let (open, close) = if tuple.is_some() { ("(", ")") } else { ("[", "]") };
            format!("{open}{}{close}", items.join(", "))
        }
        Value::Object(fields) => {
            let chosen = fields.iter().next().filter(|_| fields.len() == 1);
            let variant = chosen.and_then(|(name, inner)| Some((choices.iter().find(|choice| choice.name == name)?, inner)));
            if let Some((choice, inner)) = variant {
                let inner = ron(inner, choice.inner.unwrap_or(&Value::Null), root);
                // A structure and a tuple bring their own parentheses.
                return if inner.starts_with('(') { format!("{}{inner}", choice.name) } else { format!("{}({inner})", choice.name) };
            }
            if schema.get("properties").is_some() {
                let of = |key: &str, value: &Value| format!("{key}: {}", ron(value, field(schema, root, key), root));
                return format!("({})", fields.iter().map(|(key, value)| of(key, value)).collect::<Vec<_>>().join(", "));
            }
            let inner = schema.get("additionalProperties").unwrap_or(&Value::Null);
            let entries: Vec<String> = fields.iter().map(|(key, value)| format!("{key:?}: {}", ron(value, inner, root))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn catalog() -> Catalog {
        let schema = json!({
            "type": "object",
            "properties": {
                "hidden": { "type": "array", "items": { "type": "integer" } },
                "act": { "oneOf": [{ "const": "relu" }, { "type": "object", "properties": { "leaky": { "$ref": "#/$defs/Leaky" } } }] },
                "out": { "type": ["integer", "null"] },
            },
            "$defs": { "Leaky": { "type": "object", "properties": { "slope": { "type": "number", "default": 0.1 } } } },
        });
        let component = |kind: &str, id: &str, defaults: Value, schema: Value| Component {
            kind: kind.into(),
            id: id.into(),
            doc: String::new(),
            defaults,
            schema,
        };
        let trainer =
            json!({ "required": ["budget"], "properties": { "budget": { "type": "string" }, "batch_size": { "type": "integer" } } });
        Catalog {
            components: Arc::new(vec![
                component("model", "a-b", json!({ "hidden": [8], "act": "relu", "out": null }), schema),
                component("optimizer", "sgd", json!({ "lr": 0.1 }), json!({ "properties": { "lr": { "type": "number" } } })),
            ]),
            trainer: Some(Arc::new(component("trainer", "trainer", json!({ "budget": "1ep", "batch_size": 64 }), trainer))),
            ..Catalog::default()
        }
    }

    fn draft() -> Draft {
        let recipe = json!({
            "name": "x",
            "components": {
                "model": { "id": "a-b", "config": { "hidden": [8], "act": "relu", "out": null } },
                "optimizer": { "id": "sgd", "config": { "lr": 0.1 } },
            },
            "trainer": { "budget": "1ep", "batch_size": 64 },
        });
        Draft::of(&recipe).unwrap()
    }

    #[test]
    fn defaults_are_left_out_of_the_text() {
        let mut draft = draft();
        let head = "(\n    name: \"x\",\n    model: ";
        assert_eq!(draft.to_ron(&catalog()), format!("{head}a_b(),\n    optimizer: sgd(),\n    trainer: (budget: \"1ep\"),\n)\n"));
        draft.parts.get_mut("model").unwrap().config = json!({ "hidden": [8.0, 4], "act": { "leaky": { "slope": 0.2 } }, "out": 3 });
        assert!(
            draft.to_ron(&catalog()).contains("model: a_b(hidden: [8.0, 4], act: leaky(slope: 0.2), out: 3),"),
            "{}",
            draft.to_ron(&catalog())
        );
    }

    #[test]
    fn changes_are_those_of_a_fork() {
        let (before, mut draft) = (draft(), draft());
        assert!(draft.changes_from(&before, &catalog()).is_empty());
        draft.parts.get_mut("optimizer").unwrap().config["lr"] = json!(0.5);
        draft.parts.get_mut("model").unwrap().config["out"] = json!(3);
        draft.trainer["budget"] = json!("2ep");
        draft.trainer["batch_size"] = json!(64.0);
        draft.lists.get_mut("callbacks").unwrap().push(Part { id: "ema".into(), config: json!({ "decay": 0.9 }) });
        let wanted = ["model.out=3", "optimizer.lr=0.5", "callbacks=[ema({\"decay\":0.9})]", "trainer.budget=2ep"];
        assert_eq!(draft.changes_from(&before, &catalog()), wanted);
        draft.parts.insert("optimizer".into(), Part { id: "sgd-two".into(), config: json!({}) });
        assert!(draft.changes_from(&before, &catalog()).contains(&"optimizer=sgd_two({})".to_owned()));
    }

    #[test]
    fn texts_that_look_like_data_are_quoted() {
        for (text, wanted) in [("3ep", "3ep"), ("12", "\"12\""), ("true", "\"true\""), ("", "\"\""), ("inf", "\"inf\""), ("a b", "a b")] {
            assert_eq!(word(&json!(text)), wanted);
        }
    }
}
