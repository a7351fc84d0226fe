//! From cells to numbers: column types, missing values, one-hot categories, standardisation, the target. All statistics are those of the train rows.

use crate::table::{Table, number};
use crate::{Csv, Fill, Task};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that samples are made of.
pub struct Encoded {
    /// Row-major, `feature_names.len()` numbers a row.
    pub features: Vec<f32>,
    pub feature_names: Vec<String>,
    pub target: Target,
}

/// The target of every row.
pub enum Target {
    /// `(value - mean) / std`.
    Regression { values: Vec<f32>, mean: f64, std: f64 },
    /// Indices into `names`.
    Classification { labels: Vec<i32>, names: Vec<String> },
}

/// Encodes all rows. `is_train` tells which rows statistics may see.
pub fn encode(config: &Csv, table: &Table, is_train: &[bool]) -> Result<Encoded, String> {
    let target_column = column(table, &config.target, "target")?;
    let columns_of =
        |names: &[String], field: &str| names.iter().map(|name| column(table, name, field)).collect::<Result<BTreeSet<usize>, String>>();
    let unused = columns_of(&config.drop, "drop")?;
    let categorical = columns_of(&config.categorical, "categorical")?;
    let encoder = Encoder { config, table, is_train };
    let target = encoder.target(target_column)?;
    let mut columns = Vec::new();
    for column in (0..table.names.len()).filter(|column| *column != target_column && !unused.contains(column)) {
        let numeric = !categorical.contains(&column) && encoder.is_numeric(column)?;
        columns.extend(if numeric { encoder.numeric(column)? } else { encoder.categories(column)? });
    }
    if columns.is_empty() {
        return Err(format!("{}: no column is left to learn from beside the target `{}`", table.file, config.target));
    }
    let features = (0..table.rows.len()).flat_map(|row| columns.iter().map(move |(_, values)| values[row])).collect();
    Ok(Encoded { features, feature_names: columns.into_iter().map(|(name, _)| name).collect(), target })
}

/// Index of the column that `field` of the config names.
fn column(table: &Table, name: &str, field: &str) -> Result<usize, String> {
    if let Some(index) = table.names.iter().position(|known| known == name) {
        return Ok(index);
    }
    let quoted = table.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (file, names) = (&table.file, &table.names);
    let header = if table.header_guessed_absent {
        " (line 1 has a number in it, so it was not taken for a header: set `header: true` if it is one)"
    } else {
        ""
    };
    if name.is_empty() {
        return Err(format!("csv: `{field}` is not set; name one of the columns of {file}: {quoted}{header}"));
    }
    let slips = |known: &&String| strsim::osa_distance(&known.to_lowercase(), &name.to_lowercase());
    let close = names.iter().min_by_key(slips).filter(|known| slips(known) <= (name.chars().count() / 3).max(1));
    let meant = close.map_or(String::new(), |close| format!(", did you mean `{close}`?"));
    Err(format!(
        "{file}: `{field}` names the column `{name}`, which is not there{meant}{} its columns are {quoted}{header}",
        if close.is_some() { "" } else { ";" }
    ))
}

struct Encoder<'a> {
    config: &'a Csv,
    table: &'a Table,
    is_train: &'a [bool],
}

/// A feature: its name, its value in every row.
type Feature = (String, Vec<f32>);

impl<'a> Encoder<'a> {
    /// A column's cells; `None` where the value is missing.
    fn cells(&self, column: usize) -> impl Iterator<Item = Option<&'a str>> {
        let (table, missing) = (self.table, &self.config.missing_values);
        table.rows.iter().map(move |row| Some(row.cell(column)).filter(|cell| !missing.iter().any(|token| token == cell)))
    }

    /// The values of the train rows.
    fn train<T: Copy>(&self, values: &[T]) -> Vec<T> {
        values.iter().zip(self.is_train).filter_map(|(&value, &train)| train.then_some(value)).collect()
    }

    /// Whether a column holds numbers. Mostly numbers is taken for a mistake in the file.
    fn is_numeric(&self, column: usize) -> Result<bool, String> {
        let (file, name) = (&self.table.file, &self.table.names[column]);
        let (mut number_count, mut text_count, mut first_text) = (0, 0, None);
        let remedy = "or name the column in `categorical` or `drop`";
        for (cell, row) in self.cells(column).zip(&self.table.rows) {
            let Some(cell) = cell else { continue };
            if number(cell).is_some() {
                number_count += 1;
            } else if number(&cell.replace(',', "")).is_some() {
                let line = row.line;
                return Err(format!(
                    "{file}:{line}: wanted numbers like 1234.5 in column `{name}`, got `{cell}` with a comma; rewrite the column, {remedy}"
                ));
            } else {
                text_count += 1;
                first_text.get_or_insert((cell, row.line));
            }
        }
        match first_text {
            None if number_count == 0 => Err(format!("{file}: the column `{name}` has no values; name it in `drop`")),
            None => Ok(true),
            Some((cell, line)) if number_count > 9 * text_count => Err(format!(
                "{file}:{line}: wanted a number in column `{name}`, as in {number_count} other rows, got `{cell}`; correct it, add it to `missing_values`, {remedy}"
            )),
            Some(_) => Ok(false),
        }
    }

    fn numeric(&self, column: usize) -> Result<Vec<Feature>, String> {
        let (file, name) = (&self.table.file, &self.table.names[column]);
        let cells: Vec<Option<f64>> = self.cells(column).map(|cell| cell.and_then(number)).collect();
        let train_cells = self.train(&cells);
        let known: Vec<f64> = train_cells.iter().copied().flatten().collect();
        if known.is_empty() {
            return Err(format!("{file}: the column `{name}` has no values in the train rows; name it in `drop`"));
        }
        let missing_in_train = known.len() < train_cells.len();
        let fill = match self.config.fill {
            Fill::Median => median(known),
            Fill::Mean => mean_and_std(&known).0,
        };
        let filled: Vec<f64> = cells.iter().map(|cell| cell.unwrap_or(fill)).collect();
        let (mean, std) = if self.config.standardise { mean_and_std(&self.train(&filled)) } else { (0.0, 1.0) };
        // A column that never changes in the train rows says nothing: 0 there, and no division by 0.
        let scale = if std > 0.0 { 1.0 / std } else { 0.0 };
        let mut features = vec![(name.clone(), filled.iter().map(|value| ((value - mean) * scale) as f32).collect())];
        if missing_in_train && self.config.indicator {
            features.push((format!("{name} missing"), cells.iter().map(|cell| f32::from(cell.is_none())).collect()));
        }
        Ok(features)
    }

    fn categories(&self, column: usize) -> Result<Vec<Feature>, String> {
        let (file, name, most) = (&self.table.file, &self.table.names[column], self.config.categories_max as usize);
        let cells: Vec<Option<&str>> = self.cells(column).collect();
        // `None`, which sorts first, is the category of its own of missing values.
        let categories: BTreeSet<Option<&str>> = self.train(&cells).into_iter().collect();
        if categories.len() > most {
            let count = categories.len();
            return Err(format!(
                "{file}: the column `{name}` is text with {count} different values, at most {most} become features; name it in `drop`, or raise \
                                `categories_max`"
            ));
        }
        // A category that no train row has is 0 in all of them.
        let feature = |category: Option<&str>| {
            let values = cells.iter().map(|&cell| f32::from(cell == category)).collect();
            (category.map_or_else(|| format!("{name} missing"), |category| format!("{name}={category}")), values)
        };
        Ok(categories.into_iter().map(feature).collect())
    }

    fn target(&self, column: usize) -> Result<Target, String> {
        let (file, name) = (&self.table.file, &self.table.names[column]);
        let mut cells = Vec::new();
        for (cell, row) in self.cells(column).zip(&self.table.rows) {
            let missing = || format!("{file}:{}: the target `{name}` is missing, got `{}`; remove the row", row.line, row.cell(column));
            cells.push(cell.ok_or_else(missing)?);
        }
        let distinct: BTreeSet<&str> = cells.iter().copied().collect();
        if distinct.len() == 1 {
            return Err(format!("{file}: the target `{name}` is `{}` in every row; there is nothing to learn", cells[0]));
        }
        let numbers: Vec<Option<f64>> = cells.iter().map(|cell| number(cell)).collect();
        let classes = || distinct.len() <= 20 && numbers.iter().flatten().all(|number| number.fract() == 0.0);
        match self.config.task {
            Task::Regression => self.regression(column, &cells, &numbers),
            Task::Auto if numbers.iter().all(Option::is_some) && !classes() => self.regression(column, &cells, &numbers),
            Task::Auto | Task::Classification => self.classification(column, &cells, &numbers),
        }
    }

    fn regression(&self, column: usize, cells: &[&str], numbers: &[Option<f64>]) -> Result<Target, String> {
        let (file, name) = (&self.table.file, &self.table.names[column]);
        if let Some(at) = numbers.iter().position(Option::is_none) {
            return Err(format!("{file}:{}: wanted a number in the target `{name}`, got `{}`", self.table.rows[at].line, cells[at]));
        }
        let values: Vec<f64> = numbers.iter().copied().flatten().collect();
        let (mean, std) = mean_and_std(&self.train(&values));
        if std == 0.0 {
            return Err(format!("{file}: the target `{name}` is {mean} in every train row; there is nothing to learn"));
        }
        let (mean, std) = if self.config.standardise { (mean, std) } else { (0.0, 1.0) };
        Ok(Target::Regression { values: values.iter().map(|value| ((value - mean) / std) as f32).collect(), mean, std })
    }

    fn classification(&self, column: usize, cells: &[&str], numbers: &[Option<f64>]) -> Result<Target, String> {
        let most = self.config.categories_max as usize;
        // Numbers are classes by value, in order of value: 2 before 10, and 1 is 1.0.
        let keys: Vec<(Option<u64>, String)> = if numbers.iter().all(Option::is_some) {
            numbers.iter().flatten().map(|&number| (Some(ordered(number)), number.to_string())).collect()
        } else {
            cells.iter().map(|&cell| (None, cell.to_owned())).collect()
        };
        let classes: BTreeSet<&(Option<u64>, String)> = keys.iter().collect();
        if classes.len() > most {
            let (file, name, count) = (&self.table.file, &self.table.names[column], classes.len());
            return Err(format!(
                "{file}: the target `{name}` has {count} classes, at most {most} are taken; set `task: regression`, or raise `categories_max`"
            ));
        }
        let ids: BTreeMap<&(Option<u64>, String), i32> = classes.iter().copied().zip(0..).collect();
        let labels = keys.iter().map(|key| ids[key]).collect();
        Ok(Target::Classification { labels, names: classes.into_iter().map(|(_, name)| name.clone()).collect() })
    }
}

/// Mean and population standard deviation of at least one value.
fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    // The mean of a constant column may be a rounding error away from the constant.
    let std = variance.sqrt();
    (mean, if std <= 1e-12 * mean.abs() { 0.0 } else { std })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) }
}

/// Bits that sort as the numbers do.
fn ordered(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits(); // -0 becomes 0.
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}
