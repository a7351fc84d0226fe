//! Configuration text to a config type and back: parsing, the author's ranges, the canonical JSON.
//!
//! The text never goes through `ron::Value`, which loses the names of enum variants: the plugin's own serde type reads it, so a mistake is found at its
//! line and column. Ranges stand in the JSON schema (`#[schemars(range(min = 1))]`); serde does not know them, so they are checked on the canonical JSON.

use crate::error::{Error, Result};
use crate::traits::Config;
use serde_json::Value;

/// Reads a config: JSON when the text starts with `{`, RON otherwise (`(hidden: 64)`); nothing at all means the defaults. Ranges are checked.
pub fn parse<C: Config>(text: &str) -> Result<C> {
    let trimmed = text.trim();
    let config = if trimmed.is_empty() {
        C::default()
    } else if trimmed.starts_with('{') {
        serde_json::from_str(text).map_err(|error| Error::at(json_problem(text, &error), ""))?
    } else {
        ron_options().from_str(text).map_err(|error| Error::at(ron_problem(text, &error), ""))?
    };
    let problems = range_problems(&schema::<C>(), &canonical(&config)?);
    if problems.is_empty() { Ok(config) } else { Err(Error::at(problems.join("; "), "")) }
}

/// The JSON of a config with every field filled in; it is what is stored, hashed, compared and shown as a form.
pub fn canonical_json<C: Config>(config: &C) -> Result<String> {
    // Written as text at once: through `Value` an f32 of 0.1 would read 0.10000000149011612.
    Ok(serde_json::to_string(config)?)
}

/// The JSON schema of a config type.
pub fn schema<C: Config>() -> Value {
    schemars::schema_for!(C).to_value()
}

pub(crate) fn canonical<C: Config>(config: &C) -> Result<Value> {
    Ok(serde_json::from_str(&canonical_json(config)?)?)
}

fn ron_options() -> ron::Options {
    // `dropout: 0.1` for an `Option<f64>` and `cosine(min_lr: 0.1)` for a variant that holds a struct, as a reader of the recipe would expect.
    let extensions = ron::extensions::Extensions::IMPLICIT_SOME | ron::extensions::Extensions::UNWRAP_VARIANT_NEWTYPES;
    ron::Options::default().with_default_extension(extensions)
}

// ---- what is wrong with the text ---------------------------------------------------------------------------------------------------------

fn ron_problem(text: &str, error: &ron::error::SpannedError) -> String {
    use ron::Error::{DuplicateStructField, InvalidValueForType, MissingStructField, NoSuchEnumVariant, NoSuchStructField};
    let (start, end) = (error.span.start, error.span.end);
    let end_offset = offset_of(text, end.line, end.col);
    let path = field_path(text, end_offset);
    let start_offset = offset_of(text, start.line, start.col);
    // The reader's span begins at the blanks before the value.
    let start_offset = text.len() - text[start_offset..].trim_start().len();
    let (mut position, mut subject) = (line_and_column(text, start_offset), in_field(&path));
    let problem = match &error.code {
        NoSuchStructField { expected, found, .. } => {
            subject = in_field(around(&path, found));
            unknown("field", found, expected)
        }
        NoSuchEnumVariant { expected, found, .. } => unknown("choice", found, expected),
        InvalidValueForType { expected, found } => format!("wanted {expected}, got {found}"),
        MissingStructField { field, .. } => format!("the field `{field}` is missing"),
        DuplicateStructField { field, .. } => format!("the field `{field}` is given twice"),
        ron::Error::Message(message) => message.clone(),
        _ if text[end_offset..].trim().is_empty() && error.code != ron::Error::TrailingCharacters => {
            position = (end.line, end.col);
            "the text ends too early".into()
        }
        other => {
            let message = other.to_string();
            match message.strip_prefix("Expected ") {
                Some(wanted) => format!("wanted {wanted}, got `{}`", token_at(&text[start_offset..])),
                None => lower_first(&message),
            }
        }
    };
    format!("line {}, column {}: {subject}{problem}", position.0, position.1)
}

fn token_at(text: &str) -> String {
    text.chars().take(40).take_while(|letter| !matches!(letter, ',' | ')' | ']' | '}' | '\n')).collect()
}

fn json_problem(text: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let whole = error.to_string();
    let message = whole.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&whole);
    let path = field_path(text, offset_of(text, line, column));
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let problem = match (message.split(' ').next(), quoted.split_first()) {
        (Some("unknown"), Some((found, expected))) => {
            let what = if message.starts_with("unknown variant") { "choice" } else { "field" };
            let subject = in_field(if what == "field" { around(&path, found) } else { &path });
            return format!("line {line}, column {column}: {subject}{}", unknown(what, found, expected));
        }
        _ => match message
            .strip_prefix("invalid type: ")
            .or(message.strip_prefix("invalid value: "))
            .and_then(|rest| rest.split_once(", expected "))
        {
            Some((found, expected)) => format!("wanted {expected}, got {found}"),
            None => message.to_owned(),
        },
    };
    format!("line {line}, column {column}: {}{problem}", in_field(&path))
}

fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match closest(found, known.iter().copied()) {
        Some(close) => format!("unknown {what} `{found}`, did you mean `{close}`? (it may be {list})"),
        None if known.is_empty() => format!("unknown {what} `{found}`; there are none"),
        None => format!("unknown {what} `{found}`; it may be {list}"),
    }
}

/// The name nearest to `found`, when a slip of the keyboard explains the difference.
pub(crate) fn closest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = (found.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|name| (strsim::osa_distance(&found.to_lowercase(), &name.to_lowercase()), name));
    distances.filter(|(distance, _)| *distance <= slips_max).min().map(|(_, name)| name)
}

fn in_field(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("`{path}`: ") }
}

/// The path of what holds `field`; the reader may stop before or after the field's colon.
fn around<'a>(path: &'a str, field: &str) -> &'a str {
    match path.rsplit_once('.') {
        Some((outer, last)) if last == field => outer,
        None if path == field => "",
        _ => path,
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let line_text = &text[start..];
    start + line_text.char_indices().nth(column.saturating_sub(1)).map_or(line_text.len(), |(at, _)| at)
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Dotted path of the field that is being read at byte `offset` of a RON or JSON text.
fn field_path(text: &str, offset: usize) -> String {
    let mut keys: Vec<Option<String>> = vec![None];
    let mut word = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        if at >= offset {
            break;
        }
        match letter {
            '/' if matches!(letters.peek(), Some((_, '/'))) => {
                letters.by_ref().find(|(_, letter)| *letter == '\n');
            }
            '"' => {
                word.clear();
                while let Some((_, letter)) = letters.next() {
                    match letter {
                        '"' => break,
                        '\\' => drop(letters.next()),
                        _ => word.push(letter),
                    }
                }
            }
            ':' => *keys.last_mut().expect("the outermost level stays") = Some(std::mem::take(&mut word)),
            ',' => *keys.last_mut().expect("the outermost level stays") = None,
            '(' | '{' | '[' => keys.push(None),
            ')' | '}' | ']' if keys.len() > 1 => drop(keys.pop()),
            letter if letter.is_whitespace() => {}
            letter if letter.is_alphanumeric() || letter == '_' => {
                if text[..at].ends_with(|before: char| !(before.is_alphanumeric() || before == '_')) {
                    word.clear();
                }
                word.push(letter);
            }
            _ => word.clear(),
        }
    }
    keys.into_iter().flatten().collect::<Vec<_>>().join(".")
}

// ---- the author's ranges -----------------------------------------------------------------------------------------------------------------

/// Breaches of `minimum`, `maximum` and their kin in `schema`, one sentence each.
pub fn range_problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    walk(schema, schema, value, "", &mut problems);
    problems.dedup();
    problems
}

fn walk(root: &Value, schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else { return };
    if let Some(target) = referenced(root, schema) {
        walk(root, target, value, path, problems);
    }
    let subject = if path.is_empty() { "the value".to_owned() } else { format!("`{path}`") };
    if value.is_null() && rules.get("type").and_then(Value::as_str) == Some("number") {
        problems.push(format!("{subject} must be a finite number"));
    }
    if let Some(number) = value.as_f64() {
        let limit = |name: &str| rules.get(name).and_then(|limit| Some((limit.as_f64()?, limit)));
        let checks: [(&str, &str, fn(f64, f64) -> bool); 4] = [
            ("minimum", "at least", |number, limit| number >= limit),
            ("maximum", "at most", |number, limit| number <= limit),
            ("exclusiveMinimum", "greater than", |number, limit| number > limit),
            ("exclusiveMaximum", "less than", |number, limit| number < limit),
        ];
        for (name, words, holds) in checks {
            if let Some((bound, shown)) = limit(name)
                && !holds(number, bound)
            {
                problems.push(format!("{subject} must be {words} {}, got {value}", shown_number(shown)));
            }
        }
    }
    let sizes = [
        (value.as_array().map(Vec::len), "minItems", "maxItems", "items"),
        (value.as_str().map(|text| text.chars().count()), "minLength", "maxLength", "characters"),
    ];
    for (size, least, most, unit) in sizes {
        let Some(size) = size else { continue };
        if let Some(limit) = rules.get(least).and_then(Value::as_u64).filter(|&limit| (size as u64) < limit) {
            problems.push(format!("{subject} must have at least {limit} {unit}, it has {size}"));
        }
        if let Some(limit) = rules.get(most).and_then(Value::as_u64).filter(|&limit| (size as u64) > limit) {
            problems.push(format!("{subject} must have at most {limit} {unit}, it has {size}"));
        }
    }
    if let Some(fields) = value.as_object() {
        let properties = rules.get("properties");
        for (name, field) in fields {
            let inner = properties.and_then(|properties| properties.get(name)).or(rules.get("additionalProperties"));
            if let Some(inner) = inner {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(root, inner, field, &path, problems);
            }
        }
    }
    if let Some(items) = value.as_array() {
        let prefix = rules.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate() {
            if let Some(inner) = prefix.get(index).or(rules.get("items")) {
                walk(root, inner, item, &format!("{path}[{index}]"), problems);
            }
        }
    }
    for part in rules.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        walk(root, part, value, path, problems);
    }
    for choice in ["anyOf", "oneOf"] {
        let parts = rules.get(choice).and_then(Value::as_array);
        if let Some(part) = parts.and_then(|parts| parts.iter().find(|part| fits(root, part, value))) {
            walk(root, part, value, path, problems);
        }
    }
}

fn referenced<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    let target = schema.get("$ref")?.as_str()?;
    root.pointer(target.strip_prefix('#')?)
}

/// Whether the value has the form that a schema describes, limits aside: which variant of an enum it is.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(rules) = schema.as_object() else { return true };
    let referenced_fits = referenced(root, schema).is_none_or(|target| fits(root, target, value));
    let const_fits = rules.get("const").is_none_or(|constant| constant == value);
    let enum_fits = rules.get("enum").and_then(Value::as_array).is_none_or(|values| values.contains(value));
    let type_fits = match rules.get("type") {
        Some(Value::String(name)) => has_type(value, name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| has_type(value, name)),
        _ => true,
    };
    let fields_fit = value.as_object().is_none_or(|fields| {
        let required = rules.get("required").and_then(Value::as_array);
        let properties = rules.get("properties").and_then(Value::as_object);
        let closed = rules.get("additionalProperties") == Some(&Value::Bool(false));
        required.is_none_or(|names| names.iter().filter_map(Value::as_str).all(|name| fields.contains_key(name)))
            && (!closed || fields.keys().all(|name| properties.is_some_and(|properties| properties.contains_key(name))))
            && properties.is_none_or(|properties| {
                properties.iter().all(|(name, inner)| fields.get(name).is_none_or(|field| fits(root, inner, field)))
            })
    });
    let parts_fit =
        |choice: &str| rules.get(choice).and_then(Value::as_array).is_none_or(|parts| parts.iter().any(|part| fits(root, part, value)));
    referenced_fits && const_fits && enum_fits && type_fits && fields_fit && parts_fit("anyOf") && parts_fit("oneOf")
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn shown_number(number: &Value) -> String {
    // A range of `min = 1` on a float field is written 1.0 or 1, as the schema has it; whole numbers read better without the point.
    match number.as_f64() {
        Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole:.0}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    // The attributes are those that `#[config]` writes; it names this crate from outside, so it cannot be used in here.

    /// A net.
    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Net {
        /// Width.
        #[schemars(range(min = 1, max = 4096))]
        hidden: u32,
        #[schemars(range(min = 0.0, max = 0.95))]
        dropout: Option<f64>,
        rate: f32,
        rule: Rule,
        sizes: Vec<u8>,
        inner: Inner,
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        #[schemars(range(max = 3))]
        depth: u32,
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    enum Rule {
        Plain,
        Adam {
            #[schemars(range(min = 0.0, max = 1.0))]
            beta: f64,
        },
        Scaled(f64),
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Empty {}

    impl Default for Net {
        fn default() -> Self {
            Net { hidden: 128, dropout: None, rate: 0.1, rule: Rule::Plain, sizes: vec![], inner: Inner::default() }
        }
    }

    fn canonical_of(text: &str) -> String {
        canonical_json(&parse::<Net>(text).unwrap()).unwrap()
    }

    fn problem(text: &str) -> String {
        parse::<Net>(text).unwrap_err().message
    }

    const DEFAULTS: &str = r#"{"hidden":128,"dropout":null,"rate":0.1,"rule":"Plain","sizes":[],"inner":{"depth":0}}"#;

    #[test]
    fn missing_fields_take_the_defaults() {
        for text in ["", "  \n", "()", "{}", "(hidden: 128)", "Net(hidden: 128,)"] {
            assert_eq!(canonical_of(text), DEFAULTS, "{text}");
        }
        assert_eq!(canonical_json(&parse::<Empty>("()").unwrap()).unwrap(), "{}");
    }

    #[test]
    fn ron_and_json_agree_and_enum_names_survive() {
        let ron = canonical_of("(dropout: 0.5, rule: Adam(beta: 0.9), inner: (depth: 2))");
        assert_eq!(ron, r#"{"hidden":128,"dropout":0.5,"rate":0.1,"rule":{"Adam":{"beta":0.9}},"sizes":[],"inner":{"depth":2}}"#);
        assert_eq!(canonical_of(&ron), ron);
        assert_eq!(canonical_of("(rule: Scaled(2))"), canonical_of(r#"{"rule":{"Scaled":2}}"#));
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_place_and_a_guess() {
        let ron = problem("(\n    hiden: 64)");
        assert!(ron.starts_with("line 2, column 5: unknown field `hiden`, did you mean `hidden`?"), "{ron}");
        let json = problem(r#"{"hiden": 64}"#);
        assert!(json.contains("unknown field `hiden`, did you mean `hidden`?"), "{json}");
        assert!(json.starts_with("line 1, column "), "{json}");
        let nested = problem("(inner: (deep: 1))");
        assert!(nested.contains("`inner`: unknown field `deep`"), "{nested}");
        let far = problem("(zzzzzz: 1)");
        assert!(!far.contains("did you mean") && far.contains("`hidden`"), "{far}");
    }

    #[test]
    fn a_wrong_type_names_the_field_what_was_wanted_and_what_came() {
        for text in ["(hidden: \"wide\")", r#"{"hidden": "wide"}"#] {
            let message = problem(text);
            assert!(message.contains("`hidden`") && message.starts_with("line 1, column "), "{message}");
        }
        assert_eq!(problem("(hidden: \"wide\", rate: 1)"), "line 1, column 10: `hidden`: wanted integer, got `\"wide\"`");
        let json = problem(r#"{"hidden": "wide"}"#);
        assert!(json.contains("wanted u32, got string \"wide\""), "{json}");
        let nested = problem("(inner: (depth: true))");
        assert!(nested.contains("`inner.depth`"), "{nested}");
        let variant = problem("(rule: Adem(beta: 0.9))");
        assert!(variant.contains("unknown choice `Adem`, did you mean `Adam`?"), "{variant}");
        let early = problem("(hidden: 64");
        assert!(early.starts_with("line 1, column 12"), "{early}");
    }

    #[test]
    fn ranges_are_enforced_at_any_depth() {
        assert_eq!(problem("(hidden: 0)"), "`hidden` must be at least 1, got 0");
        assert_eq!(problem(r#"{"hidden": 5000}"#), "`hidden` must be at most 4096, got 5000");
        assert_eq!(problem("(dropout: 0.99)"), "`dropout` must be at most 0.95, got 0.99");
        assert_eq!(problem("(inner: (depth: 4))"), "`inner.depth` must be at most 3, got 4");
        assert_eq!(problem("(rule: Adam(beta: 1.5))"), "`rule.Adam.beta` must be at most 1, got 1.5");
        assert_eq!(problem("(rate: inf)"), "`rate` must be a finite number");
        assert_eq!(problem("(hidden: 0, dropout: -1)"), "`hidden` must be at least 1, got 0; `dropout` must be at least 0, got -1.0");
    }

    #[test]
    fn doc_comments_are_in_the_schema() {
        let schema = schema::<Net>();
        assert_eq!(schema["description"], "A net.");
        assert_eq!(schema["properties"]["hidden"]["description"], "Width.");
    }
}
