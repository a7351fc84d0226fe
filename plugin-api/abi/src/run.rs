//! What a run tells its callbacks and loggers, what they may ask, and what a callback may ask for. JSON, as in `wire.rs`; fields are only added.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use solstice_ir::{DType, Role, TensorType};
use std::collections::BTreeMap;

/// When a callback is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Before the first step of a process: a new run, or one that goes on (then `Event::resumed` is set).
    RunStart,
    /// Before the first step of an epoch.
    EpochStart,
    /// After the last step of an epoch.
    EpochEnd,
    /// After a step. The device may still be at work; asking for numbers waits for it.
    StepEnd,
    /// The training metrics were read: `train/loss` and so on, each over the steps since the last report.
    Report,
    /// Before an evaluation.
    EvalStart,
    /// After an evaluation, with its metrics.
    EvalEnd,
    /// A checkpoint of this step was handed to the disk.
    Checkpoint,
    /// A live scalar or a setting of the trainer was changed.
    Changed,
    /// The run goes on with rebuilt plugins or shaders.
    Reloaded,
    /// The loss or a gradient was not finite; the run will end.
    NotFinite,
    /// After the last step, whatever the reason; actions are ignored.
    RunEnd,
}

impl Moment {
    /// Every moment.
    pub const ALL: [Moment; 12] = [
        Moment::RunStart,
        Moment::EpochStart,
        Moment::EpochEnd,
        Moment::StepEnd,
        Moment::Report,
        Moment::EvalStart,
        Moment::EvalEnd,
        Moment::Checkpoint,
        Moment::Changed,
        Moment::Reloaded,
        Moment::NotFinite,
        Moment::RunEnd,
    ];
}

/// Where a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// The same in epochs, with a fraction.
    pub epoch: f64,
    /// Training samples seen.
    pub samples: u64,
    /// Seconds trained, over all processes of the run.
    pub seconds: f64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub moment: Moment,
    /// Where.
    pub at: Position,
    /// Figures by name, for `Report` and `EvalEnd`; NaN and infinities are kept.
    #[serde(default, with = "figures")]
    pub metrics: BTreeMap<String, f64>,
    /// For `RunStart`: the run goes on from a checkpoint.
    #[serde(default)]
    pub resumed: bool,
    /// For `Checkpoint`, `NotFinite` and `RunEnd`: the reason; for `Changed`: the key; for `EvalEnd`: the splits that were evaluated, with commas.
    #[serde(default)]
    pub note: String,
    /// For `Changed`: old and new value.
    #[serde(default)]
    pub change: Option<(Value, Value)>,
}

impl Event {
    /// An event without figures.
    pub fn new(moment: Moment, at: Position) -> Event {
        Event { moment, at, metrics: BTreeMap::new(), resumed: false, note: String::new(), change: None }
    }
}

/// What a callback asks of the run. Carried out after the event, in order, between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Finish: save, and end the run as done, with this reason.
    Stop {
        /// A sentence.
        reason: String,
    },
    /// Evaluate now.
    Evaluate,
    /// Save a checkpoint now.
    Checkpoint {
        /// One word or a few.
        reason: String,
    },
    /// Change a live scalar (`optimizer.lr`) or a live setting of the trainer (`trainer.budget`).
    Set {
        /// Dotted key.
        key: String,
        /// New value.
        value: Value,
    },
    /// Log something at this step.
    Log(Entry),
    /// Put a mark with a sentence on the run's curves.
    Mark {
        /// Short kind, such as `spike`.
        kind: String,
        /// A sentence.
        message: String,
    },
}

/// Something to log under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// One number.
    Scalar {
        /// `train/loss`.
        name: String,
        /// May be NaN or infinite.
        #[serde(with = "figure")]
        value: f64,
    },
    /// Text, such as generated samples.
    Text {
        /// `samples/text`.
        name: String,
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// `samples/grid`.
        name: String,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// One line to show with it.
        caption: String,
        /// PNG file, as hexadecimal digits ([`hex`], [`unhex`]).
        png: String,
    },
    /// Counts between edges.
    Histogram {
        /// `gradients/model.fc1.weight`.
        name: String,
        /// Ascending, one more than `counts`.
        #[serde(with = "figure_list")]
        edges: Vec<f64>,
        /// How many values fell between two edges.
        counts: Vec<u64>,
        /// Values that were NaN or infinite.
        not_finite: u64,
    },
    /// Named columns.
    Table {
        /// `lr_finder/curve`.
        name: String,
        /// Their names.
        columns: Vec<String>,
        /// Each as long as `columns`.
        rows: Vec<Vec<Value>>,
    },
    /// Labelled rows and columns of numbers.
    Matrix {
        /// `test/confusion`.
        name: String,
        /// Labels of rows.
        row_labels: Vec<String>,
        /// Labels of columns.
        column_labels: Vec<String>,
        /// Row after row.
        #[serde(with = "figure_list")]
        cells: Vec<f64>,
    },
}

/// What a logger writes, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogItem {
    /// Where in training.
    pub at: Position,
    /// Seconds since 1970.
    pub time: f64,
    /// What.
    pub what: Logged,
}

/// The content of a [`LogItem`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logged {
    /// Figures of one step.
    Scalars(#[serde(with = "figures")] BTreeMap<String, f64>),
    /// Anything else under a name.
    Entry(Entry),
    /// A mark on the curves.
    Mark {
        /// `checkpoint`, `set`, `spike`, ..
        kind: String,
        /// A sentence.
        message: String,
    },
}

/// What a run is, for callbacks and loggers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Id of the run.
    pub id: String,
    /// What the recipe calls it.
    pub name: String,
    /// The run's folder; a logger writes below it unless its settings name another place.
    pub folder: String,
    /// The resolved recipe: components with all settings, and the trainer's.
    pub config: Value,
    /// Seed.
    pub seed: u64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Steps of one epoch.
    pub epoch_steps: u64,
    /// Samples of one epoch.
    pub epoch_samples: u64,
    /// Steps of the whole run, where that is known.
    pub total_steps: Option<u64>,
    /// The step from which this process goes on; 0 for a new run. What was logged after it is taken back.
    pub first_step: u64,
    /// Splits that are evaluated.
    pub evaluated: Vec<String>,
    /// Facts of the data set: `classes`, `class_names`, `vocabulary`, ..
    pub facts: BTreeMap<String, Value>,
    /// Fields of a sample.
    pub fields: Vec<crate::wire::Field>,
}

/// What a callback may ask about the run while it is called. Every answer is a list of tensors ([`tensors_to_bytes`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Names, types and roles of all state tensors, without their values.
    States,
    /// One state tensor. Waits for the device.
    State {
        /// `model.fc1.weight`.
        name: String,
    },
    /// Gradients of the loss of the last step's batch by every trainable weight, at the present weights, before clipping; computed anew.
    Gradients,
    /// Samples of a split: one tensor a field, `[samples, ..]`.
    Samples {
        /// `train`, `test`, ..
        split: String,
        /// At most a batch of them.
        indices: Vec<u64>,
    },
    /// What the experiment observes in an evaluation step (`logits`, ..) for the samples given with the question: one tensor a field, `[samples, ..]`,
    /// at most a batch of them. Needs an evaluated split.
    Predict,
    /// Present value of a live scalar: f32 `[]`.
    Live {
        /// `optimizer.lr`.
        key: String,
    },
}

/// A tensor with its values; `bytes` may be empty where only the type was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// Type and shape; a bool is a 32-bit word.
    pub ty: TensorType,
    /// Its part, for state tensors.
    pub role: Option<Role>,
    /// Little-endian, dense, row-major.
    pub bytes: Vec<u8>,
}

impl NamedTensor {
    /// The values of an f32 tensor; `None` for another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let words = self.bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four bytes")));
        (self.ty.dtype == DType::F32).then(|| words.collect())
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    name: String,
    #[serde(flatten)]
    ty: TensorType,
    #[serde(default)]
    role: Option<Role>,
    bytes: usize,
}

/// Tensors as one block of bytes: a length, a JSON header, the values one after the other.
pub fn tensors_to_bytes(tensors: &[NamedTensor]) -> Vec<u8> {
    let headers: Vec<Header> = tensors
        .iter()
        .map(|tensor| Header { name: tensor.name.clone(), ty: tensor.ty.clone(), role: tensor.role, bytes: tensor.bytes.len() })
        .collect();
    let header = serde_json::to_vec(&headers).expect("headers are plain data");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    for tensor in tensors {
        bytes.extend(&tensor.bytes);
    }
    bytes
}

/// Inverse of [`tensors_to_bytes`]; a sentence when the bytes are something else.
pub fn tensors_from_bytes(bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
    let wrong = || "the block of tensors is cut off or damaged".to_owned();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= rest.len()).ok_or_else(wrong)?;
    let (header, mut rest) = rest.split_at(length);
    let headers: Vec<Header> = serde_json::from_slice(header).map_err(|error| format!("the block of tensors has no header: {error}"))?;
    let mut tensors = vec![];
    for Header { name, ty, role, bytes } in headers {
        let (values, after) = rest.split_at_checked(bytes).ok_or_else(wrong)?;
        rest = after;
        tensors.push(NamedTensor { name, ty, role, bytes: values.to_vec() });
    }
    Ok(tensors)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)] as char, DIGITS[usize::from(byte & 15)] as char]).collect()
}

/// Bytes of hexadecimal digits; `None` when the text is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

// JSON has no NaN and no infinity: such numbers are written as the strings that Rust prints.
mod figure {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize)]
    pub struct Figure<'a>(#[serde(serialize_with = "serialize")] pub &'a f64);

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub enum Either {
        Number(f64),
        Word(String),
    }

    impl Either {
        pub fn value<E: Error>(self) -> Result<f64, E> {
            match self {
                Either::Number(value) => Ok(value),
                Either::Word(word) => word.parse().map_err(|_| E::custom(format!("`{word}` is no number"))),
            }
        }
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Either::deserialize(deserializer)?.value()
    }
}

mod figure_list {
    use super::figure::{Either, Figure};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Figure))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Vec::<Either>::deserialize(deserializer)?.into_iter().map(Either::value).collect()
    }
}

mod figures {
    use super::figure::{Either, Figure};
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer>(values: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(name, value)| (name, Figure(value))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Either>::deserialize(deserializer)?;
        map.into_iter().map(|(name, value)| Ok((name, value.value()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_json_cannot_write_arrive() {
        let mut event = Event::new(Moment::Report, Position::default());
        event.metrics = [("a".to_owned(), f64::NAN), ("b".into(), f64::NEG_INFINITY), ("c".into(), 0.1)].into();
        let read: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        assert!(read.metrics["a"].is_nan());
        assert_eq!((read.metrics["b"], read.metrics["c"]), (f64::NEG_INFINITY, 0.1));
        let entry = Entry::Scalar { name: "x".into(), value: f64::INFINITY };
        assert_eq!(serde_json::from_str::<Entry>(&serde_json::to_string(&entry).unwrap()).unwrap(), entry);
        let labels = |name: &str| vec![name.to_owned()];
        let cells = vec![f64::INFINITY];
        let entry = Entry::Matrix { name: "x".into(), row_labels: labels("a"), column_labels: labels("b"), cells };
        assert_eq!(serde_json::from_str::<Entry>(&serde_json::to_string(&entry).unwrap()).unwrap(), entry);
    }

    #[test]
    fn tensors_arrive_and_damage_is_told() {
        let tensors = [
            NamedTensor {
                name: "a".into(),
                ty: TensorType::new(DType::F32, [2]),
                role: Some(Role::Param),
                bytes: vec![0, 0, 128, 63, 0, 0, 0, 64],
            },
            NamedTensor { name: "b".into(), ty: TensorType::new(DType::U8, [3]), role: None, bytes: vec![1, 2, 3] },
        ];
        let bytes = tensors_to_bytes(&tensors);
        let read = tensors_from_bytes(&bytes).unwrap();
        assert_eq!(read, tensors);
        assert_eq!(read[0].to_f32().unwrap(), [1.0, 2.0]);
        for end in 0..bytes.len() {
            assert!(tensors_from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn bytes_are_hexadecimal_digits() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
        assert_eq!(unhex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
