//! Event files, read back by a reader of this file's own: framing, checksums and protobuf.

use loggers::TensorBoard;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Entry, LogItem, Logged, Position, RunFacts, hex};
use std::path::{Path, PathBuf};

// ---- the reader ----------------------------------------------------------------------------------------------------------------------------

/// Bit by bit, as the polynomial division that it is.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |bit| u32::from(byte >> bit & 1))) {
        let carry = crc & 1 != bit;
        crc >>= 1;
        if carry {
            crc ^= 0x82f6_3b78;
        }
    }
    !crc
}

fn checked(bytes: &[u8], crc: &[u8]) -> Vec<u8> {
    let plain = crc32c(bytes);
    let masked = plain.rotate_left(17).wrapping_add(0xa282_ead8);
    assert_eq!(masked.to_le_bytes(), crc, "checksum of {} bytes", bytes.len());
    bytes.to_vec()
}

fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = vec![];
    while !file.is_empty() {
        let length = checked(&file[..8], &file[8..12]);
        let end = 12 + u64::from_le_bytes(length.try_into().unwrap()) as usize;
        records.push(checked(&file[12..end], &file[end..end + 4]));
        file = &file[end + 4..];
    }
    records
}

/// Fields of a protobuf message, in order: number and value; a fixed one as its bytes.
#[derive(Clone, Debug, PartialEq)]
struct Fields(Vec<(u64, Field)>);

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Varint(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    fn read(mut bytes: &[u8]) -> Fields {
        let mut fields = vec![];
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    fields.push((key >> 3, Field::Varint(varint(&mut bytes))));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (value, rest) = bytes.split_at(length);
            fields.push((key >> 3, Field::Bytes(value.to_vec())));
            bytes = rest;
        }
        Fields(fields)
    }

    fn all(&self, number: u64) -> Vec<Vec<u8>> {
        let bytes = |(found, field): &(u64, Field)| match field {
            Field::Bytes(bytes) if *found == number => Some(bytes.clone()),
            _ => None,
        };
        self.0.iter().filter_map(bytes).collect()
    }

    fn bytes(&self, number: u64) -> Vec<u8> {
        self.all(number).pop().unwrap_or_else(|| panic!("no field {number} in {self:?}"))
    }

    fn message(&self, number: u64) -> Fields {
        Fields::read(&self.bytes(number))
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number)).unwrap()
    }

    fn double(&self, number: u64) -> f64 {
        f64::from_le_bytes(self.bytes(number).try_into().unwrap())
    }

    fn float(&self, number: u64) -> f32 {
        f32::from_le_bytes(self.bytes(number).try_into().unwrap())
    }

    fn doubles(&self, number: u64) -> Vec<f64> {
        self.bytes(number).chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn integer(&self, number: u64) -> u64 {
        let value = |(found, field): &(u64, Field)| match field {
            Field::Varint(value) if *found == number => Some(*value),
            _ => None,
        };
        self.0.iter().find_map(value).unwrap_or(0)
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for place in 0.. {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn events(path: &Path) -> Vec<Fields> {
    records(&std::fs::read(path).unwrap()).iter().map(|record| Fields::read(record)).collect()
}

/// Step, tag and the value of every summary.
fn summaries(events: &[Fields]) -> Vec<(u64, String, Fields)> {
    let values = |event: &Fields| event.all(5).iter().flat_map(|summary| Fields::read(summary).all(1)).collect::<Vec<_>>();
    let values = events.iter().flat_map(|event| values(event).into_iter().map(|value| (event.integer(2), Fields::read(&value))));
    values.map(|(step, value)| (step, value.text(1), value)).collect()
}

/// The string of a text summary, which the text plugin must find.
fn text(value: &Fields) -> String {
    let tensor = value.message(8);
    assert_eq!((tensor.integer(1), tensor.bytes(2)), (7, vec![]), "a scalar DT_STRING");
    assert_eq!(value.message(9).message(1).text(1), "text");
    tensor.text(8)
}

// ---- the tests -----------------------------------------------------------------------------------------------------------------------------

fn facts(folder: &Path, first_step: u64) -> RunFacts {
    let folder = folder.to_str().unwrap().into();
    RunFacts {
        id: "run-1".into(),
        folder,
        first_step,
        config: r#"{"model": {"mlp": {"hidden": 8}}}"#.parse().unwrap(),
        ..RunFacts::default()
    }
}

fn at(step: u64, what: Logged) -> LogItem {
    LogItem { at: Position { step, ..Position::default() }, time: 1e9 + step as f64, what }
}

fn entry(step: u64, entry: Entry) -> LogItem {
    at(step, Logged::Entry(entry))
}

fn mark(step: u64, message: &str) -> LogItem {
    at(step, Logged::Mark { kind: "set".into(), message: message.into() })
}

/// The smallest header of a PNG: signature, length and name of IHDR, sizes, depth, colour type.
fn png(colour_type: u8) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x03\x08".to_vec();
    png.extend([colour_type, 0, 0, 0]);
    png
}

#[test]
fn the_reader_is_right_about_checksums() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
}

#[test]
fn everything_that_is_logged_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = TensorBoard::default().open(&facts(folder.path(), 0)).unwrap();
    let figures = [("train/loss".to_owned(), 0.5), ("train/odd".into(), f64::NAN)];
    let rows = vec![vec!["a|b".into(), 1.into()], vec![().into(), 2.5.into()]];
    sink.log(&[at(1, Logged::Scalars(figures.into())), entry(2, Entry::Scalar { name: "lr".into(), value: 0.0 })]).unwrap();
    sink.log(&[
        entry(300, Entry::Text { name: "samples/text".into(), text: "one\n```\ntwo".into() }),
        entry(300, Entry::Image { name: "grid".into(), width: 2, height: 3, caption: "digits".into(), png: hex(&png(6)) }),
        entry(300, Entry::Histogram { name: "h".into(), edges: vec![-1.0, 0.0, 2.0], counts: vec![3, 1], not_finite: 4 }),
        entry(301, Entry::Table { name: "curve".into(), columns: vec!["x".into(), "y".into()], rows }),
        entry(
            302,
            Entry::Matrix {
                name: "confusion".into(),
                row_labels: vec!["cat".into(), "dog".into()],
                column_labels: vec!["cat".into(), "dog".into()],
                cells: vec![1.0, 2.0, 3.0, f64::INFINITY],
            },
        ),
        mark(303, "lr 0.1 -> 0.2"),
        mark(303, "momentum 0.9 -> 0.8"),
        mark(304, "lr 0.2 -> 0.3"),
    ])
    .unwrap();
    sink.flush().unwrap();

    let files = files(&folder.path().join("tensorboard"));
    assert_eq!(files.len(), 1);
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("events.out.tfevents.") && name.ends_with(&format!(".{}.v2", std::process::id())), "{name}");
    let events = events(&files[0]);
    assert_eq!(events[0].text(3), "brain.Event:2");
    assert!(events[0].double(1) > 1.7e9, "{events:?}");
    assert_eq!(events[2].double(1), 1e9 + 1.0);
    let read = summaries(&events);
    let tags: Vec<(u64, &str)> = read.iter().map(|(step, tag, _)| (*step, tag.as_str())).collect();
    let wanted = [
        (0, "config"),
        (1, "train/loss"),
        (1, "train/odd"),
        (2, "lr"),
        (300, "samples/text"),
        (300, "grid"),
        (300, "h"),
        (300, "h/not_finite"),
        (301, "curve"),
        (302, "confusion"),
        (303, "marks/set"),
        (303, "marks/set"),
        (304, "marks/set"),
    ];
    assert_eq!(tags, wanted);
    let value = |index: usize| &read[index].2;
    assert!(text(value(0)).starts_with("```\n{\n") && text(value(0)).contains("\"hidden\": 8"), "{}", text(value(0)));
    assert_eq!((value(1).float(2), value(2).float(2).is_nan(), value(3).float(2)), (0.5, true, 0.0));
    assert_eq!(text(value(4)), "````\none\n```\ntwo\n````");
    let image = value(5).message(4);
    assert_eq!((image.integer(1), image.integer(2), image.integer(3), image.bytes(4)), (3, 2, 4, png(6)));
    assert_eq!(value(5).message(9).text(3), "digits");
    let histogram = value(6).message(5);
    // Three values at -0.5, one at 1: 4 values, sum -0.5, squares 0.75 + 1.
    assert_eq!([1, 2, 3, 4, 5].map(|field| histogram.double(field)), [-1.0, 2.0, 4.0, -0.5, 1.75]);
    assert_eq!((histogram.doubles(6), histogram.doubles(7)), (vec![0.0, 2.0], vec![3.0, 1.0]));
    assert_eq!(value(7).float(2), 4.0);
    assert_eq!(text(value(8)), "| x | y |\n| --- | --- |\n| a\\|b | 1 |\n|  | 2.5 |\n");
    assert_eq!(text(value(9)), "|  | cat | dog |\n| --- | --- | --- |\n| cat | 1 | 2 |\n| dog | 3 | inf |\n");
    // A reader keeps the last text of a step, so it holds both.
    assert_eq!(text(value(11)), "lr 0.1 -> 0.2\n\nmomentum 0.9 -> 0.8");
    assert_eq!(text(value(12)), "lr 0.2 -> 0.3");
}

#[test]
fn a_run_that_goes_on_begins_a_later_file_with_a_session_start() {
    let folder = tempfile::tempdir().unwrap();
    let logger = TensorBoard { folder: Some(folder.path().to_str().unwrap().into()) };
    for first_step in [0, 70] {
        let mut sink = logger.open(&facts(Path::new("/nowhere"), first_step)).unwrap();
        sink.log(&[entry(first_step + 1, Entry::Scalar { name: "x".into(), value: 1.0 })]).unwrap();
    }
    let files = files(&folder.path().join("run-1"));
    assert_eq!(files.len(), 2, "each process has its file, in order of names");
    let [first, second] = [events(&files[0]), events(&files[1])];
    assert_eq!((first[1].integer(2), second[0].text(3).as_str()), (0, "brain.Event:2"));
    // TensorBoard keeps what is below the step of the start (`_NotExpired`): step 70 stays.
    assert_eq!((second[1].integer(2), second[1].message(7).integer(1)), (71, 1));
    let tags: Vec<(u64, String)> = summaries(&second).into_iter().map(|(step, tag, _)| (step, tag)).collect();
    assert_eq!(tags, [(71, "x".into())]);
}

#[test]
fn a_bad_item_is_told_and_the_others_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = TensorBoard::default().open(&facts(folder.path(), 0)).unwrap();
    let image = Entry::Image { name: "grid".into(), width: 1, height: 1, caption: String::new(), png: "beef".into() };
    let error = sink.log(&[entry(5, image), entry(5, Entry::Scalar { name: "x".into(), value: 1.0 })]).unwrap_err();
    assert_eq!(error.to_string(), "the image `grid` of step 5 is no PNG file in hexadecimal digits; it is left out");
    let histogram = Entry::Histogram { name: "h".into(), edges: vec![], counts: vec![1], not_finite: 0 };
    let error = sink.log(&[entry(6, histogram)]).unwrap_err();
    assert_eq!(error.to_string(), "the histogram `h` of step 6 has 0 edges for 1 counts; it is left out");
    let read = summaries(&events(&files(&folder.path().join("tensorboard"))[0]));
    assert_eq!(read.iter().map(|(_, tag, _)| tag.as_str()).collect::<Vec<_>>(), ["config", "x"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = TensorBoard::default().open(&facts(file.path(), 0)).err().unwrap().to_string();
    assert!(error.contains("cannot make the folder") && error.contains("/tensorboard: Not a directory"), "{error}");
    solstice_plugin_api::testing::check_config::<TensorBoard>().unwrap();
}
