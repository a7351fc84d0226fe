//! Many runs at once: a grid over some fields, as a sweep. The text of values becomes lists, the lists become a sweep file. No egui here.

use serde::{Deserialize, Serialize};

/// More combinations than this are a slip of the pen.
pub const COUNT_MAX: usize = 1000;

/// What is kept of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Many {
    /// The section is open.
    pub is_open: bool,
    /// Field and text of its values.
    pub rows: Vec<(String, String)>,
    /// What is compared.
    pub metric: String,
    /// A large value of it is good.
    pub is_max: bool,
    /// Runs at once.
    pub workers: u16,
}

impl Default for Many {
    fn default() -> Many {
        Many { is_open: false, rows: vec![], metric: "test/loss".into(), is_max: false, workers: 1 }
    }
}

impl Many {
    /// How many runs there are; a sentence about the first row that says nothing.
    pub fn count(&self) -> Result<usize, String> {
        if self.rows.is_empty() {
            return Err("Add a field to vary".into());
        }
        let mut count = 1usize;
        for (index, (field, text)) in self.rows.iter().enumerate() {
            if self.rows[..index].iter().any(|(other, _)| other == field) {
                return Err(format!("{field} stands there twice"));
            }
            count = count.saturating_mul(values(text).map_err(|problem| format!("{field}: {problem}"))?.len());
        }
        if count > COUNT_MAX {
            return Err(format!("{count} runs are too many: at most {COUNT_MAX}"));
        }
        Ok(count)
    }

    /// The sweep over a recipe.
    pub fn sweep(&self, recipe: &str) -> Result<String, String> {
        self.count()?;
        let mut fields = String::new();
        for (field, text) in &self.rows {
            let values: Vec<String> = values(text)?.iter().map(|value| format!("{value:?}")).collect();
            fields += &format!("        {field:?}: choice([{}]),\n", values.join(", "));
        }
        let mode = if self.is_max { "max" } else { "min" };
        let metric = self.metric.trim();
        Ok(format!(
            "(\n    recipe: {},\n    metric: {metric:?},\n    mode: {mode},\n    search: grid,\n    fields: {{\n{fields}    }},\n)\n",
            recipe.trim()
        ))
    }
}

/// The values that a text stands for: `0.1, 0.01`, or so many from one to another: `1..4 in 4`, `1e-4..1e-1 in 4 log`. Commas within brackets do
/// not part.
pub fn values(text: &str) -> Result<Vec<String>, String> {
    if let Some((range, count)) = text.split_once(" in ")
        && let Some((low, high)) = range.split_once("..")
    {
        let (count, is_log) = match count.trim().strip_suffix("log") {
            Some(count) => (count.trim(), true),
            None => (count.trim(), false),
        };
        let wanted = || "wanted such as `1..4 in 4` or `1e-4..1e-1 in 4 log`".to_owned();
        let (low, high): (f64, f64) = (low.trim().parse().map_err(|_| wanted())?, high.trim().parse().map_err(|_| wanted())?);
        let count: usize = count.parse().map_err(|_| wanted())?;
        if !(2..=COUNT_MAX).contains(&count) || !low.is_finite() || !high.is_finite() || low >= high || (is_log && low <= 0.0) {
            return Err(wanted());
        }
        let share = |index: usize| index as f64 / (count - 1) as f64;
        let value = |index: usize| match (index + 1 == count, is_log) {
            // The ends as they were typed.
            (true, _) => high,
            (false, true) if index > 0 => low * (high / low).powf(share(index)),
            (false, _) => low + (high - low) * share(index),
        };
        return Ok((0..count).map(|index| number(value(index))).collect());
    }
    let (mut parts, mut depth, mut is_text) = (vec![String::new()], 0, false);
    for letter in text.chars() {
        match letter {
            '"' => is_text = !is_text,
            '[' | '(' | '{' if !is_text => depth += 1,
            ']' | ')' | '}' if !is_text => depth -= 1,
            ',' if depth == 0 && !is_text => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is one").push(letter);
    }
    let mut values: Vec<String> = parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
    let count = values.len();
    let mut seen = std::collections::BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
    match (values.len(), count) {
        (0, _) => Err("type values with commas between them, or `1..4 in 4`".into()),
        (few, all) if few < all => Err("a value stands there twice".into()),
        _ => Ok(values),
    }
}

// To six digits: `0.30000000000000004` is nobody's learning rate.
fn number(value: f64) -> String {
    let short: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    if short != 0.0 && (short.abs() < 1e-3 || short.abs() >= 1e7) { format!("{short:e}") } else { format!("{short}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_values() {
        assert_eq!(values("0.1, 0.01,").unwrap(), ["0.1", "0.01"]);
        assert_eq!(values("[64], [128, 64]").unwrap(), ["[64]", "[128, 64]"]);
        assert_eq!(values("1..4 in 4").unwrap(), ["1", "2", "3", "4"]);
        assert_eq!(values("0..1 in 3").unwrap(), ["0", "0.5", "1"]);
        assert_eq!(values("1e-4..1e-1 in 4 log").unwrap(), ["1e-4", "0.001", "0.01", "0.1"]);
        assert_eq!(values("adam(lr: 1e-3, beta1: 0.8), sgd()").unwrap(), ["adam(lr: 1e-3, beta1: 0.8)", "sgd()"]);
        for wrong in ["", " , ", "1..4 in 1", "4..1 in 3", "0..1 in 3 log", "a..b in 3", "1, 1"] {
            assert!(values(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_are_multiplied() {
        let mut many = Many { rows: vec![("optimizer.lr".into(), "0.1, 0.2, 0.3".into())], ..Many::default() };
        assert_eq!(many.count(), Ok(3));
        many.rows.push(("model.dropout".into(), "0..0.5 in 4".into()));
        assert_eq!(many.count(), Ok(12));
        many.rows.push(("optimizer.lr".into(), "1".into()));
        assert!(many.count().unwrap_err().contains("twice"));
    }
}
