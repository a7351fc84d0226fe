//! The `csv` data set: any delimited text file with a column to predict.
//!
//! `table.rs` reads names and cells, `encode.rs` turns them into numbers; here rows are split and served.

mod encode;
mod table;

use encode::{Encoded, Target};
use solstice_plugin_api::prelude::*;
use std::path::PathBuf;
use table::Table;

/// A table in a CSV file: numbers standardised, text one-hot, missing values filled and flagged, rows split by a seed.
///
/// Fields: `features` (f32 `[columns]`) and, for regression, `target` (f32 `[1]`), for classification `label` (i32). Splits: `train`, `val`. Every
/// statistic is that of the train rows.
#[config]
pub struct Csv {
    /// The file. A relative path is looked for in the working folder, then in the data folder.
    pub path: String,
    /// Name of the column to predict.
    pub target: String,
    /// What the target is. `auto`: numbers are a regression, unless they are at most 20 different whole ones; text is a classification.
    pub task: Task,
    /// Columns to leave out.
    pub drop: Vec<String>,
    /// Columns of numbers that name categories, postal codes for instance.
    pub categorical: Vec<String>,
    /// Most values that a text column, and most classes that the target may have.
    #[schemars(range(min = 2))]
    pub categories_max: u32,
    /// The character between cells; by default tab, semicolon, bar or comma, as the first lines suggest.
    #[schemars(length(min = 1, max = 1))]
    pub delimiter: Option<String>,
    /// Whether the first line names the columns; by default it does if it has no number in it. Without names columns are `column1`, `column2`, ...
    pub header: Option<bool>,
    /// Cells that stand for a missing value.
    pub missing_values: Vec<String>,
    /// What stands in for a missing number.
    pub fill: Fill,
    /// Add a feature that is 1 where a number was missing, for columns with such rows in train.
    pub indicator: bool,
    /// Bring numbers, a regression's target included, to mean 0 and standard deviation 1.
    pub standardise: bool,
    /// Part of the rows that is kept for `val`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub val_fraction: f64,
    /// Another seed splits otherwise.
    pub seed: u64,
}

/// What is predicted.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// What the target looks like.
    Auto,
    /// A number.
    Regression,
    /// One of several classes.
    Classification,
}

/// The stand-in for a missing number.
#[config]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Median of the train rows.
    Median,
    /// Mean of the train rows.
    Mean,
}

impl Default for Csv {
    fn default() -> Self {
        Csv {
            path: String::new(),
            target: String::new(),
            task: Task::Auto,
            drop: vec![],
            categorical: vec![],
            categories_max: 256,
            delimiter: None,
            header: None,
            missing_values: ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"].map(String::from).into(),
            fill: Fill::Median,
            indicator: true,
            standardise: true,
            val_fraction: 0.2,
            seed: 0,
        }
    }
}

impl Dataset for Csv {
    const ID: &'static str = "csv";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        Ok(Box::new(self.load(host).map_err(problem)?))
    }
}

impl Csv {
    fn load(&self, host: &dyn DataHost) -> Result<Rows, String> {
        let path = self.locate(host)?;
        let file = path.display().to_string();
        let delimiter = self.delimiter.as_deref().map(|delimiter| match delimiter.as_bytes() {
            [byte] => Ok(*byte),
            _ => Err(format!("csv: wanted one ASCII character as `delimiter`, got `{delimiter}`")),
        });
        let bytes = std::fs::read(&path).map_err(|error| format!("{file}: cannot be read: {error}"))?;
        let table = table::read(file, &bytes, delimiter.transpose()?, self.header)?;
        let is_train = self.split(&table)?;
        let encoded = encode::encode(self, &table, &is_train)?;
        let rows = |train| (0..table.rows.len()).filter(|&row| is_train[row] == train).collect();
        Ok(Rows { splits: [("train", rows(true)), ("val", rows(false))], encoded })
    }

    fn locate(&self, host: &dyn DataHost) -> Result<PathBuf, String> {
        if self.path.is_empty() {
            return Err("csv: `path` is not set; name a CSV file".into());
        }
        let mut paths = vec![PathBuf::from(&self.path)];
        paths.extend(host.data_dir().map(|dir| dir.join(&self.path)));
        if let Some(path) = paths.iter().find(|path| path.is_file()) {
            return Ok(path.clone());
        }
        paths.dedup();
        let looked: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        Err(format!("csv: there is no file {}; name a CSV file with `path`, or its folder with `--data-dir DIR`", looked.join(", ")))
    }

    /// Which rows are for training: the others are the first `round(rows * val_fraction)` in the order of splitmix64(seed, row).
    fn split(&self, table: &Table) -> Result<Vec<bool>, String> {
        let count = table.rows.len();
        let val_count = (count as f64 * self.val_fraction).round() as usize;
        if val_count == 0 || val_count == count {
            let (file, fraction, train_count) = (&table.file, self.val_fraction, count - val_count);
            return Err(format!(
                "{file}: wanted at least one row for `train` and one for `val`, got {train_count} and {val_count} (`val_fraction` is {fraction})"
            ));
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&row| mix(mix(self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ row as u64));
        let mut is_train = vec![true; count];
        order[..val_count].iter().for_each(|&row| is_train[row] = false);
        Ok(is_train)
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The encoded table, and which rows belong to each split, in the order of the file.
struct Rows {
    splits: [(&'static str, Vec<usize>); 2],
    encoded: Encoded,
}

impl Samples for Rows {
    fn spec(&self) -> DatasetSpec {
        let names = &self.encoded.feature_names;
        let field = |name: &str, role, dtype, shape| Field { name: name.into(), role, dtype, shape, scale: 1.0, offset: 0.0 };
        let (target, facts) = match &self.encoded.target {
            Target::Regression { mean, std, .. } => (
                field("target", FieldRole::Target, DType::F32, vec![1]),
                vec![("targets", 1.into()), ("target_mean", (*mean).into()), ("target_std", (*std).into())],
            ),
            Target::Classification { names, .. } => (
                field("label", FieldRole::Target, DType::I32, vec![]),
                vec![("classes", names.len().into()), ("class_names", names.clone().into())],
            ),
        };
        DatasetSpec {
            splits: self.splits.iter().map(|(name, rows)| Split { name: (*name).into(), len: rows.len() as u64 }).collect(),
            fields: vec![field("features", FieldRole::Input, DType::F32, vec![names.len()]), target],
            resident: true,
            facts: facts.into_iter().chain([("feature_names", names.clone().into())]).map(|(name, fact)| (name.into(), fact)).collect(),
        }
    }

    fn fill(&self, split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        let rows = self.splits.iter().find(|(name, _)| *name == split).map(|(_, rows)| rows);
        let rows = rows.ok_or_else(|| problem(format!("csv: there is no split `{split}`; there are train, val")))?;
        let [features_out, target_out] = out else {
            return Err(problem(format!("csv: wanted buffers for features and target, got {}", out.len())));
        };
        let width = self.encoded.feature_names.len();
        for ((&index, features), target) in indices.iter().zip(features_out.chunks_exact_mut(4 * width)).zip(target_out.chunks_exact_mut(4))
        {
            let row = usize::try_from(index).ok().and_then(|at| rows.get(at));
            let row = *row.ok_or_else(|| problem(format!("csv: sample {index} of `{split}` was asked for, it has {}", rows.len())))?;
            for (value, bytes) in self.encoded.features[row * width..][..width].iter().zip(features.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            target.copy_from_slice(&match &self.encoded.target {
                Target::Regression { values, .. } => values[row].to_le_bytes(),
                Target::Classification { labels, .. } => labels[row].to_le_bytes(),
            });
        }
        Ok(())
    }
}

/// What is wrong is in the user's files: the line of this plugin would not help.
fn problem(message: String) -> Error {
    Error::at(message, "")
}

export_plugin! { datasets: [Csv] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{self, read_samples};
    use std::path::Path;

    fn config(target: &str) -> Csv {
        Csv { path: "my.csv".into(), target: target.into(), ..Csv::default() }
    }

    fn open(config: &Csv, text: impl AsRef<[u8]>) -> Result<Box<dyn Samples>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("my.csv"), text).unwrap();
        testing::open_dataset(config, folder.path())
    }

    fn refusal(config: &Csv, text: impl AsRef<[u8]>) -> String {
        open(config, text).err().expect("this must not open").to_string()
    }

    fn numbers(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn split(samples: &dyn Samples, name: &str) -> (Vec<f32>, Vec<u8>) {
        let len = samples.spec().splits.iter().find(|split| split.name == name).unwrap().len;
        let mut read = read_samples(samples, name, 0, &(0..len).collect::<Vec<_>>()).unwrap();
        let target = read.pop().unwrap();
        (numbers(&read[0]), target)
    }

    fn feature_names(samples: &dyn Samples) -> Vec<String> {
        samples.spec().facts["feature_names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// Size 0 to 9 with two unknown, colour by turns, price 2 size + 1.
    fn houses() -> String {
        let row = |i: usize| {
            let size = if i % 5 == 3 { "NA".into() } else { i.to_string() };
            format!("{size},{},{}\n", ["red", "blue"][i % 2], 2.5 * i as f64 + 1.0)
        };
        "size,colour,price\n".to_owned() + &(0..50).map(row).collect::<String>()
    }

    #[test]
    fn numbers_are_standardised_text_is_one_hot_and_missing_values_are_flagged() {
        let samples = open(&config("price"), houses()).unwrap();
        let spec = samples.spec();
        assert_eq!(feature_names(&*samples), ["size", "size missing", "colour=blue", "colour=red"]);
        assert_eq!(spec.splits.iter().map(|split| split.len).collect::<Vec<_>>(), [40, 10]);
        assert_eq!((spec.fields[1].name.as_str(), &spec.fields[1].shape[..], &spec.facts["targets"]), ("target", &[1][..], &1.into()));
        let (features, target) = split(&*samples, "train");
        let moments = |values: Vec<f32>| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32)
        };
        for (mean, variance) in [moments(features.iter().step_by(4).copied().collect()), moments(numbers(&target))] {
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}"); // 40 f32 sums.
        }
        for row in features.chunks_exact(4) {
            assert!(row[2] + row[3] == 1.0 && (row[1] == 0.0 || row[1] == 1.0));
        }
        // The facts lead back to the values of the file.
        let (mean, std) = (spec.facts["target_mean"].as_f64().unwrap(), spec.facts["target_std"].as_f64().unwrap());
        let price = f64::from(numbers(&target)[0]) * std + mean;
        assert!(((price - 1.0) / 2.5 - ((price - 1.0) / 2.5).round()).abs() < 1e-5, "{price}");
        testing::check_samples(&*samples).unwrap();
        testing::check_config::<Csv>().unwrap();
    }

    #[test]
    fn the_seed_alone_decides_the_split() {
        let [one, again, other] = [0, 0, 1].map(|seed| split(&*open(&Csv { seed, ..config("price") }, houses()).unwrap(), "val"));
        assert_eq!(one, again);
        assert_ne!(one, other);
    }

    #[test]
    fn without_standardising_cells_come_as_they_are() {
        let config = Csv { standardise: false, val_fraction: 0.25, fill: Fill::Mean, indicator: false, ..config("y") };
        let samples = open(&config, "x\ty\n\n1.5\t1\n1.5\t2.5\n 1.5 \t2\n1.5\t2\n").unwrap();
        assert_eq!(split(&*samples, "train").0, [1.5, 1.5, 1.5]);
        assert_eq!((&samples.spec().facts["target_mean"], &samples.spec().facts["target_std"]), (&0.0.into(), &1.0.into()));
    }

    #[test]
    fn classes_of_numbers_are_in_order_of_value_and_names_may_be_absent() {
        let text: String = (0..30).map(|i| format!("{}.5|{}\n", i, [10, 2, 1][i % 3])).collect();
        let samples = open(&config("column2"), &text).unwrap();
        assert_eq!(samples.spec().facts["class_names"].to_string(), r#"["1","2","10"]"#);
        assert_eq!(samples.spec().fields[1].dtype, DType::I32);
        let regression = open(&Csv { task: Task::Regression, ..config("column2") }, &text).unwrap();
        assert_eq!(regression.spec().fields[1].dtype, DType::F32);
    }

    #[test]
    fn a_category_that_train_lacks_is_zero_everywhere() {
        // One row in five is held out; the odd one is in `val` for one of these seeds.
        let text = "c,y\n".to_owned()
            + &(0..10).map(|i| format!("{},{i}.5\n", if i == 0 { "odd" } else { ["a", "b"][i % 2] })).collect::<String>();
        let held_out = (0..50)
            .map(|seed| open(&Csv { seed, ..config("y") }, &text).unwrap())
            .find(|samples| feature_names(&**samples) == ["c=a", "c=b"]);
        let (features, _) = split(&*held_out.expect("a seed that holds the row out"), "val");
        assert!(features.chunks_exact(2).any(|row| row == [0.0, 0.0]), "{features:?}");
    }

    #[test]
    fn mistakes_are_named_with_file_line_wanted_and_got() {
        let houses = houses();
        for (config, text, problem) in [
            (config("b"), "a,b\n1,2\n\n3\n", "my.csv:4: wanted 2 columns as in the header (line 1), got 1"),
            (config("b"), "a,b\n1,2\n3,\"4\n5,6\n", "my.csv:3: a quote is opened in this row and not closed"),
            (config("b"), "a;b\n1,5;2\n2;3\n3;4\n", "my.csv:2: wanted numbers like 1234.5 in column `a`, got `1,5` with a comma"),
            (
                config("pric"),
                &houses,
                "`target` names the column `pric`, which is not there, did you mean `price`? its columns are `size`, `colour`, `price`",
            ),
            (config(""), &houses, "`target` is not set"),
            (config("label"), "1,2\n3,4\n5,6\n", "its columns are `column1`, `column2` (line 1 has a number in it"),
            (config("size"), &houses, "my.csv:5: the target `size` is missing, got `NA`"),
            (config("b"), "a,b\n", "there is a header but no row below it"),
            (config("b"), "", "the file is empty"),
            (config("b"), "a,b\n1,2\n2,2\n3,2\n", "the target `b` is `2` in every row"),
            (config("b"), "a,a\n1,2\n", "two columns are named `a`"),
            (config("b"), "a,b\n1,2\n2,3\n", "wanted at least one row for `train` and one for `val`, got 2 and 0"),
            (config("b"), "b\n1\n2\n3\n4\n5\n", "no column is left to learn from"),
            (Csv { task: Task::Regression, ..config("colour") }, &houses, "my.csv:2: wanted a number in the target `colour`, got `red`"),
            (
                Csv { drop: vec!["colors".into()], ..config("price") },
                &houses,
                "`drop` names the column `colors`, which is not there, did you mean `colour`?",
            ),
            (Csv { delimiter: Some("é".into()), ..config("b") }, "a,b\n", "wanted one ASCII character as `delimiter`"),
            (
                Csv { categories_max: 2, ..config("price") },
                &houses.replace("9,blue", "9,green"),
                "is text with 3 different values, at most 2",
            ),
            (
                config("price"),
                &houses.replace("12,red", "12m,red"),
                "my.csv:14: wanted a number in column `size`, as in 39 other rows, got `12m`",
            ),
        ] {
            let error = refusal(&config, text);
            assert!(error.contains(problem), "{error}\n  wanted {problem}");
        }
        assert!(refusal(&config("b"), b"a,b\n1,\xff\n").contains("my.csv:2: wanted UTF-8 text, got the byte 0xff at offset 6"));
        let missing = testing::open_dataset(&config("b"), Path::new("/nowhere")).err().unwrap().to_string();
        assert!(missing.contains("no file my.csv, /nowhere/my.csv"), "{missing}");
    }

    /// The real table, where this machine has it.
    #[test]
    fn california_housing_opens() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let folder = std::env::var_os("SOLSTICE_DATA").map_or(beside, PathBuf::from);
        if !folder.join("california-housing.csv").is_file() {
            return;
        }
        let config = Csv { path: "california-housing.csv".into(), ..config("median_house_value") };
        let samples = testing::open_dataset(&config, &folder).unwrap();
        assert_eq!(samples.spec().splits.iter().map(|split| split.len).collect::<Vec<_>>(), [16_512, 4_128]);
        // Eight columns of numbers, one flag, five kinds of nearness to the ocean (one of them, ISLAND, in five rows only).
        assert!(matches!(feature_names(&*samples).len(), 13 | 14), "{:?}", feature_names(&*samples));
        testing::check_samples(&*samples).unwrap();
    }
}
