//! Fields from a JSON schema: ranges as sliders, other numbers as fields, choices as menus, optional values with a box, lists as text, structures
//! within. Every widget has its dotted path as its name, as `--set` writes it.

use super::draft::{Choice, choice_value, choices, default_of, field, is_same, optional, resolved};
use crate::data::Problem;
use crate::gui::theme::{self, Palette};
use eframe::egui::{self, Button, ComboBox, RichText, Role, Sense, Slider, TextEdit, TextStyle, Ui, WidgetInfo, vec2};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Width of the names of fields.
const NAME_WIDTH: f32 = 116.0;
/// Width of the mark in front of a name.
const MARK_WIDTH: f32 = 12.0;
/// Of more fields than this, those at the end that are as by default wait behind a button.
const FIELDS_MAX: usize = 9;
/// Fields that are shown then.
const FIELDS_FIRST: usize = 7;
/// A range wider than this is no use as a slider.
const SLIDER_MAX: f64 = 1e7;

/// What all fields share.
pub struct Form<'a> {
    /// Colours.
    pub palette: &'a Palette,
    /// What is wrong in the recipe.
    pub problems: &'a [Problem],
    /// Texts of fields that are being edited, by path.
    pub edits: &'a mut BTreeMap<String, String>,
    /// Sections whose further fields are shown, by path.
    pub opened: &'a mut BTreeSet<String>,
    /// What a value goes back to: `the default`.
    pub base_name: &'static str,
}

/// The fields of the structure `value`; returns whether one was changed. `base` is what they are compared with and go back to.
pub fn fields(ui: &mut Ui, form: &mut Form, path: &str, schema: &Value, root: &Value, value: &mut Value, base: Option<&Value>) -> bool {
    let names: Vec<String> = resolved(schema, root)["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    // The seed of a run stands at the top of the panel.
    let names: Vec<String> = names.into_iter().filter(|name| !(path == "trainer" && name == "seed")).collect();
    if names.is_empty() {
        ui.horizontal(|ui| {
            ui.add_space(MARK_WIDTH);
            ui.label(RichText::new("No settings").small().color(form.palette.dim));
        });
        return false;
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let is_open = names.len() <= FIELDS_MAX || form.opened.contains(path);
    let (mut changed, mut hidden) = (false, 0);
    for (index, name) in names.iter().enumerate() {
        let (path, inner) = (format!("{path}.{name}"), field(schema, root, name));
        let default = default_of(inner, root);
        let object = value.as_object_mut().expect("made above");
        // A run of an older version lacks newer fields: shown as by default, and not put in unless they are changed.
        let is_missing = !object.contains_key(name);
        let at = object.entry(name.clone()).or_insert_with(|| default.clone());
        let base = base.map(|base| base.get(name).unwrap_or(&default));
        let is_touched =
            base.is_some_and(|base| !is_same(base, at)) || form.problems.iter().any(|problem| problem.field.starts_with(&path));
        if !is_open && index >= FIELDS_FIRST && !is_touched {
            hidden += 1;
        } else if entry(ui, form, &path, name, inner, root, at, base) {
            changed = true;
            continue;
        }
        if is_missing {
            value.as_object_mut().expect("made above").shift_remove(name);
        }
    }
    if hidden > 0 || (is_open && names.len() > FIELDS_MAX) {
        ui.horizontal(|ui| {
            ui.add_space(MARK_WIDTH);
            let text = if hidden > 0 { format!("{hidden} more settings") } else { "Fewer settings".into() };
            let button = Button::new(RichText::new(&text).small().color(form.palette.dim)).frame(false);
            if ui.add(button).accessible_name(format!("{text} of {path}")).clicked() && !form.opened.remove(path) {
                form.opened.insert(path.to_owned());
            }
        });
    }
    changed
}

/// One field, with what is wrong with it below.
#[expect(clippy::too_many_arguments, reason = "a schema, where it stands, and the value that it is for")]
fn entry(
    ui: &mut Ui,
    form: &mut Form,
    path: &str,
    name: &str,
    schema: &Value,
    root: &Value,
    value: &mut Value,
    base: Option<&Value>,
) -> bool {
    let doc = schema.get("description").or(resolved(schema, root).get("description")).and_then(Value::as_str).unwrap_or_default();
    let inner = optional(schema, root);
    let kind = inner.as_deref().unwrap_or(schema);
    let mut changed = false;
    ui.horizontal(|ui| {
        changed |= mark(ui, form, path, value, base);
        let color = if base.is_some_and(|base| !is_same(base, value)) { form.palette.text } else { form.palette.dim };
        name_of(ui, name, doc, color);
        if inner.is_some() {
            let mut is_set = !value.is_null();
            let response = ui.checkbox(&mut is_set, "").accessible_name(format!("{path} is set")).on_hover_text("Set it, or leave it out");
            if response.changed() {
                *value = if is_set { default_of(kind, root) } else { Value::Null };
                form.edits.remove(path);
                changed = true;
            }
            if value.is_null() {
                ui.label(RichText::new("not set").color(form.palette.dim)).on_hover_text(doc);
                return;
            }
        }
        changed |= inline(ui, form, path, kind, root, value);
    });
    problems(ui, form, |field| field == path);
    if !value.is_null() {
        changed |= below(ui, form, path, kind, root, value, base);
    }
    changed
}

/// What is wrong with the fields that `wanted` names.
pub fn problems(ui: &mut Ui, form: &Form, wanted: impl Fn(&str) -> bool) {
    for problem in form.problems.iter().filter(|problem| wanted(&problem.field)) {
        ui.horizontal(|ui| {
            ui.add_space(MARK_WIDTH);
            ui.add(egui::Label::new(RichText::new(&problem.message).small().color(form.palette.error)).wrap());
        });
    }
}

/// The name of a section with its documentation: what stands behind it stands over the fields.
pub fn title_of(ui: &mut Ui, name: &str, doc: &str, color: egui::Color32) {
    name_in(ui, name, doc, color, NAME_WIDTH + MARK_WIDTH);
}

/// A name with its documentation, as wide as all names.
pub fn name_of(ui: &mut Ui, name: &str, doc: &str, color: egui::Color32) {
    name_in(ui, name, doc, color, NAME_WIDTH);
}

fn name_in(ui: &mut Ui, name: &str, doc: &str, color: egui::Color32, width: f32) {
    let text = RichText::new(name).color(color);
    let label = egui::Label::new(text).truncate().halign(egui::Align::LEFT).sense(Sense::hover());
    let (rect, _) = ui.allocate_exact_size(vec2(width, theme::ROW_HEIGHT), Sense::hover());
    let mut inner = ui.new_child(egui::UiBuilder::new().max_rect(rect).layout(egui::Layout::left_to_right(egui::Align::Center)));
    let response = inner.add(label);
    if !doc.is_empty() {
        response.on_hover_text(doc);
    }
}

// The disc before a changed value, which takes it back.
fn mark(ui: &mut Ui, form: &mut Form, path: &str, value: &mut Value, base: Option<&Value>) -> bool {
    let size = vec2(MARK_WIDTH - ui.spacing().item_spacing.x, theme::ROW_HEIGHT);
    let Some(base) = base.filter(|base| !is_same(base, value)) else {
        ui.allocate_exact_size(size, Sense::hover());
        return false;
    };
    let (rect, response) = ui.allocate_exact_size(size, Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Back to {}: {path}", form.base_name)));
    let is_under = response.hovered() || response.has_focus();
    ui.painter().circle_filled(rect.center(), if is_under { 4.5 } else { 3.0 }, form.palette.accent);
    let response = response.on_hover_text(format!("Changed. Click: back to {}, {}", form.base_name, shown(base)));
    if !response.clicked() {
        return false;
    }
    *value = base.clone();
    form.edits.retain(|edited, _| !edited.starts_with(path));
    true
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

// What stands in the row.
fn inline(ui: &mut Ui, form: &mut Form, path: &str, schema: &Value, root: &Value, value: &mut Value) -> bool {
    let choices = choices(schema, root);
    if !choices.is_empty() {
        let mut changed = menu(ui, path, &choices, root, value);
        // A choice that holds one plain value has it beside its name.
        if let Some((name, inner)) = held(&choices, value)
            && is_plain(inner, root)
        {
            let at = &mut value[name.as_str()];
            changed |= inline(ui, form, &format!("{path}.{name}"), inner, root, at);
        }
        return changed;
    }
    let schema = resolved(schema, root);
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => {
            let mut is_on = value.as_bool().unwrap_or_default();
            let changed = ui.checkbox(&mut is_on, "").accessible_name(path).changed();
            if changed {
                *value = Value::Bool(is_on);
            }
            changed
        }
        Some("integer" | "number") => number(ui, form, path, schema, value),
        Some("string") => {
            let parse = |text: &str| Some(Value::String(text.into()));
            text(ui, form, path, value.as_str().unwrap_or_default().to_owned(), ui.available_width(), "A text is wanted", value, parse)
        }
        Some("array") => {
            let items = resolved(schema.get("items").unwrap_or(&Value::Null), root);
            if !is_plain(items, root) && schema.get("prefixItems").is_none() {
                let items = schema.get("items").unwrap_or(&Value::Null);
                return add_item(ui, path, items, root, value);
            }
            let is_text = items.get("type").and_then(Value::as_str) == Some("string") || items.get("enum").is_some();
            let parse = move |text: &str| list(text, is_text);
            text(ui, form, path, list_text(value), ui.available_width(), "Values with commas between them are wanted", value, parse)
        }
        Some("object") if schema.get("properties").is_some() => false,
        _ => {
            let parse = |text: &str| serde_json::from_str(text).ok();
            text(ui, form, path, value.to_string(), ui.available_width(), "JSON is wanted", value, parse)
        }
    }
}

// What stands under the row: structures, and lists of them.
fn below(ui: &mut Ui, form: &mut Form, path: &str, schema: &Value, root: &Value, value: &mut Value, base: Option<&Value>) -> bool {
    let choices = choices(schema, root);
    if let Some((name, inner)) = held(&choices, value) {
        if is_plain(inner, root) {
            problems(ui, form, |field| field == format!("{path}.{name}"));
            return false;
        }
        let base = base.and_then(|base| base.get(&name));
        let path = format!("{path}.{name}");
        let at = &mut value[name.as_str()];
        return ui.indent(&path, |ui| structure(ui, form, &path, inner, root, at, base)).inner;
    }
    let kind = resolved(schema, root);
    if kind.get("properties").is_some() {
        return ui.indent(path, |ui| fields(ui, form, path, kind, root, value, base)).inner;
    }
    let items = kind.get("items").unwrap_or(&Value::Null);
    if kind.get("type").and_then(Value::as_str) != Some("array") || is_plain(items, root) || kind.get("prefixItems").is_some() {
        return false;
    }
    let Some(list) = value.as_array_mut() else { return false };
    let (mut changed, mut asked) = (false, None);
    ui.indent(path, |ui| {
        let count = list.len();
        for (index, item) in list.iter_mut().enumerate() {
            let path = format!("{path}.{index}");
            ui.horizontal(|ui| {
                ui.label(RichText::new(format!("{}.", index + 1)).color(form.palette.dim));
                asked = asked.or(moves(ui, &path, index, count));
            });
            let base = base.and_then(|base| base.get(index));
            changed |= structure(ui, form, &path, items, root, item, base);
        }
    });
    if let Some(asked) = asked {
        asked.carry_out(list);
        form.edits.retain(|edited, _| !edited.starts_with(path));
        changed = true;
    }
    changed
}

// A value without a name of its own: that of a choice or of a list.
fn structure(ui: &mut Ui, form: &mut Form, path: &str, schema: &Value, root: &Value, value: &mut Value, base: Option<&Value>) -> bool {
    let kind = resolved(schema, root);
    if kind.get("properties").is_some() && choices(schema, root).is_empty() {
        return fields(ui, form, path, kind, root, value, base);
    }
    let mut changed = false;
    ui.horizontal(|ui| changed |= inline(ui, form, path, schema, root, value));
    problems(ui, form, |field| field == path);
    changed | below(ui, form, path, schema, root, value, base)
}

/// A change of the order of a list.
#[derive(Clone, Copy, Debug)]
pub enum Move {
    /// Change places with the one before.
    Up(usize),
    /// Change places with the one behind.
    Down(usize),
    /// Take it out.
    Remove(usize),
}

impl Move {
    /// Does it.
    pub fn carry_out<T>(self, list: &mut Vec<T>) {
        match self {
            Move::Up(index) => list.swap(index - 1, index),
            Move::Down(index) => list.swap(index, index + 1),
            Move::Remove(index) => drop(list.remove(index)),
        }
    }
}

/// The buttons that change the order of a list.
pub fn moves(ui: &mut Ui, path: &str, index: usize, count: usize) -> Option<Move> {
    let mut asked = None;
    let mut button = |ui: &mut Ui, is_possible: bool, text: &str, what: Move| {
        let button = Button::new(RichText::new(text).small()).small();
        if ui.add_enabled(is_possible, button).accessible_name(format!("{text} {path}")).clicked() {
            asked = Some(what);
        }
    };
    ui.spacing_mut().item_spacing.x = 4.0;
    if count > 1 {
        button(ui, index > 0, "Up", Move::Up(index));
        button(ui, index + 1 < count, "Down", Move::Down(index));
    }
    button(ui, true, "Remove", Move::Remove(index));
    asked
}

fn add_item(ui: &mut Ui, path: &str, items: &Value, root: &Value, value: &mut Value) -> bool {
    let clicked = ui.button("Add").accessible_name(format!("Add to {path}")).clicked();
    if clicked {
        let item = default_of(items, root);
        match value.as_array_mut() {
            Some(list) => list.push(item),
            None => *value = json!([item]),
        }
    }
    clicked
}

fn menu(ui: &mut Ui, path: &str, choices: &[Choice], root: &Value, value: &mut Value) -> bool {
    let present = match &*value {
        Value::String(name) => name.clone(),
        Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        other => other.to_string(),
    };
    let mut changed = false;
    let shown = ComboBox::from_id_salt(path).selected_text(&present).width(120.0).show_ui(ui, |ui| {
        for choice in choices {
            let response = ui.selectable_label(choice.name == present, choice.name);
            let response = if choice.doc.is_empty() { response } else { response.on_hover_text(choice.doc) };
            if response.clicked() && choice.name != present {
                *value = choice_value(choice, root);
                changed = true;
            }
        }
    });
    shown.response.accessible_name(path);
    changed
}

// The name and schema of what the present choice holds.
fn held<'a>(choices: &[Choice<'a>], value: &Value) -> Option<(String, &'a Value)> {
    let name = value.as_object().filter(|fields| fields.len() == 1)?.keys().next()?;
    let choice = choices.iter().find(|choice| choice.name == name)?;
    Some((name.clone(), choice.inner?))
}

// One widget does it.
fn is_plain(schema: &Value, root: &Value) -> bool {
    let choices = choices(schema, root);
    if !choices.is_empty() {
        return choices.iter().all(|choice| choice.inner.is_none());
    }
    matches!(resolved(schema, root).get("type").and_then(Value::as_str), Some("boolean" | "integer" | "number" | "string"))
}

fn number(ui: &mut Ui, form: &mut Form, path: &str, schema: &Value, value: &mut Value) -> bool {
    let is_whole = schema.get("type").and_then(Value::as_str) == Some("integer");
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (low, high) = (bound("minimum"), bound("maximum"));
    let mut changed = false;
    if let (Some(low), Some(high)) = (low, high)
        && high - low <= SLIDER_MAX
        && ui.available_width() > 84.0 + 70.0
    {
        let mut number = value.as_f64().unwrap_or(low);
        // From 1 to 65536 every power of two is as interesting as the next.
        let is_wide = high > 300.0 * low.max(1.0);
        ui.spacing_mut().slider_width = (ui.available_width() - 84.0 - 16.0).min(150.0);
        let slider = Slider::new(&mut number, low..=high).show_value(false).logarithmic(is_wide);
        let slider = if is_whole { slider.step_by(1.0) } else { slider };
        if ui.add(slider).accessible_name(format!("{path} slider")).changed() {
            *value = if is_whole { json!(number.round() as i64) } else { json!(tidy(number, high - low)) };
            form.edits.remove(path);
            changed = true;
        }
    }
    let parse = move |text: &str| {
        let text = text.trim().replace('_', "");
        if is_whole {
            return text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok();
        }
        text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from)
    };
    let wanted = if is_whole { "A whole number is wanted" } else { "A number is wanted" };
    let present = shown(value);
    changed | self::text(ui, form, path, present, 84.0, wanted, value, parse)
}

// A slider's value with as many digits as its range deserves.
fn tidy(number: f64, range: f64) -> f64 {
    let digits = (3.0 - range.log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{number:.digits$}").parse().unwrap_or(number)
}

// A field of text; what does not parse stays red and changes nothing.
#[expect(clippy::too_many_arguments, reason = "a text, where it stands, and the value that it is for")]
fn text(
    ui: &mut Ui,
    form: &mut Form,
    path: &str,
    present: String,
    width: f32,
    wanted: &str,
    value: &mut Value,
    parse: impl Fn(&str) -> Option<Value>,
) -> bool {
    let mut typed = form.edits.get(path).cloned().unwrap_or_else(|| present.clone());
    let is_wrong = parse(&typed).is_none() || form.problems.iter().any(|problem| problem.field == path);
    let color = if is_wrong { form.palette.error } else { form.palette.text };
    let field = TextEdit::singleline(&mut typed).font(TextStyle::Monospace).text_color(color).align(egui::Align2::LEFT_CENTER);
    let response = ui.add_sized(vec2(width.max(60.0), 22.0), field).accessible_name(path);
    let parsed = parse(&typed);
    let response = if parsed.is_none() { response.on_hover_text(wanted) } else { response };
    if response.has_focus() || response.changed() {
        form.edits.insert(path.to_owned(), typed);
    } else {
        form.edits.remove(path);
    }
    match parsed {
        Some(parsed) if response.changed() && !is_same(&parsed, value) => {
            *value = parsed;
            true
        }
        _ => false,
    }
}

// A list as people type it; as JSON where that would be taken for something else.
fn list_text(value: &Value) -> String {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let is_simple =
        |item: &Value| item.is_number() || item.as_str().is_some_and(|text| !text.is_empty() && !text.contains([',', '[', '"']));
    if items.iter().all(is_simple) { items.iter().map(shown).collect::<Vec<_>>().join(", ") } else { value.to_string() }
}

fn list(text: &str, is_text: bool) -> Option<Value> {
    if text.trim().starts_with('[') {
        return serde_json::from_str(text).ok().filter(Value::is_array);
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let item = |part: &str| if is_text { Some(Value::from(part)) } else { serde_json::from_str(part).ok().filter(Value::is_number) };
    parts.map(item).collect::<Option<Vec<Value>>>().map(Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_typed_with_commas() {
        assert_eq!(list("64, 32", false), Some(json!([64, 32])));
        assert_eq!(list("", false), Some(json!([])));
        assert_eq!(list("[64]", false), Some(json!([64])));
        assert_eq!(list("a, b", true), Some(json!(["a", "b"])));
        assert_eq!(list("a, b", false), None);
        assert_eq!(list_text(&json!([64, 32])), "64, 32");
        assert_eq!(list_text(&json!(["", "NA"])), "[\"\",\"NA\"]");
    }

    #[test]
    fn sliders_give_short_numbers() {
        assert_eq!(tidy(0.123_456, 0.95), 0.1235);
        assert_eq!(tidy(57.123_456, 100.0), 57.1);
    }
}
