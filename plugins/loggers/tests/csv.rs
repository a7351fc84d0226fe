//! What the logger `csv` writes, read back by the csv crate.

use loggers::Csv;
use solstice_plugin_api::prelude::*;
use solstice_plugin_api::run::{Entry, LogItem, Logged, Position, RunFacts, hex};
use std::fs;
use std::path::Path;

fn open(folder: &Path, first_step: u64) -> Result<Box<dyn LogSink>> {
    let folder = folder.to_str().unwrap().into();
    Csv::default().open(&RunFacts { id: "run-1".into(), folder, first_step, ..RunFacts::default() })
}

fn at(step: u64, what: Logged) -> LogItem {
    let at = Position { step, epoch: step as f64 / 4.0, samples: step * 8, seconds: step as f64 / 10.0 };
    LogItem { at, time: 1e9 + step as f64, what }
}

fn scalars(step: u64, figures: &[(&str, f64)]) -> LogItem {
    at(step, Logged::Scalars(figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()))
}

fn mark(step: u64, message: &str) -> LogItem {
    at(step, Logged::Mark { kind: "set".into(), message: message.into() })
}

fn text(step: u64, name: &str, text: impl Into<String>) -> LogItem {
    at(step, Logged::Entry(Entry::Text { name: name.into(), text: text.into() }))
}

/// Header and rows.
fn table(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let reader = csv::ReaderBuilder::new().has_headers(false).from_path(folder.join("csv").join(name));
    reader.unwrap().records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join("csv").join(name)).unwrap()
}

#[test]
fn a_row_a_step_a_column_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), 0).unwrap();
    sink.log(&[scalars(1, &[("train/loss", 0.5)]), scalars(2, &[("train/loss", f64::NAN)])]).unwrap();
    // A row is in the file at once, and a later call with the same step adds to it.
    assert_eq!(table(folder.path(), "scalars.csv").len(), 3);
    sink.log(&[scalars(2, &[("b, \"quoted\"", f64::INFINITY)])]).unwrap();
    let lr = Entry::Scalar { name: "lr".into(), value: 1e-7 };
    sink.log(&[scalars(3, &[("train/loss", f64::NEG_INFINITY)]), at(3, Logged::Entry(lr)), scalars(4, &[("lr", 1e300)])]).unwrap();
    let wanted = [
        ["step", "epoch", "samples", "seconds", "train/loss", "b, \"quoted\"", "lr"],
        ["1", "0.25", "8", "0.1", "0.5", "", ""],
        ["2", "0.5", "16", "0.2", "nan", "inf", ""],
        ["3", "0.75", "24", "0.3", "-inf", "", "1e-7"],
        ["4", "1", "32", "0.4", "", "", "1e300"],
    ];
    assert_eq!(table(folder.path(), "scalars.csv"), wanted);
    assert!(!folder.path().join("csv/scalars.csv.part").exists());
}

#[test]
fn a_cell_that_shrinks_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), 0).unwrap();
    sink.log(&[scalars(1, &[("a", 0.123456789)])]).unwrap();
    sink.log(&[scalars(1, &[("a", 2.0)])]).unwrap();
    assert_eq!(read(folder.path(), "scalars.csv"), "step,epoch,samples,seconds,a\n1,0.25,8,0.1,2\n");
}

#[test]
fn marks_texts_pictures_histograms_and_tables_have_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), 0).unwrap();
    let edges = vec![-1.0, 0.0, 2.0];
    let cells = vec![1.0, 2.0, 3.0, 4.0];
    let labels = || vec!["cat".to_owned(), "dog".into()];
    sink.log(&[
        mark(5, "lr: \"0.1\", then 0.2\nnow"),
        text(5, "samples/../text", "line\nline"),
        at(6, Logged::Entry(Entry::Image { name: "grid: all".into(), width: 1, height: 1, caption: String::new(), png: hex(b"\x89PNG") })),
        at(6, Logged::Entry(Entry::Histogram { name: "w,1".into(), edges, counts: vec![3, 1], not_finite: 2 })),
        at(
            6,
            Logged::Entry(Entry::Table {
                name: "t".into(),
                columns: vec!["x".into(), "y".into()],
                rows: vec![vec!["a,b".into(), ().into()]],
            }),
        ),
        at(6, Logged::Entry(Entry::Matrix { name: "m".into(), row_labels: labels(), column_labels: labels(), cells })),
    ])
    .unwrap();
    sink.flush().unwrap();
    let folder = folder.path();
    // A row is one line.
    let wanted = [["step", "time", "kind", "message"], ["5", "1000000005", "set", "lr: \"0.1\", then 0.2 now"]];
    assert_eq!(table(folder, "marks.csv"), wanted);
    assert_eq!(read(folder, "texts/samples/_/text/5.txt"), "line\nline");
    assert_eq!(fs::read(folder.join("csv/images/grid_ all/6.png")).unwrap(), b"\x89PNG");
    let bins = [["6", "w,1", "-1", "0", "3"], ["6", "w,1", "0", "2", "1"], ["6", "w,1", "nan", "nan", "2"]];
    assert_eq!(table(folder, "histograms.csv")[0], ["step", "name", "low", "high", "count"]);
    assert_eq!(table(folder, "histograms.csv")[1..], bins);
    assert_eq!(read(folder, "tables/t/6.csv"), "x,y\n\"a,b\",\n");
    assert_eq!(read(folder, "tables/m/6.csv"), ",cat,dog\ncat,1,2\ndog,3,4\n");
}

#[test]
fn a_run_that_goes_on_takes_back_what_came_after_and_what_was_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut sink = open(folder, 0).unwrap();
    for step in 1..=4 {
        sink.log(&[scalars(step, &[("a", 1.0), ("b,c", 2.0)]), mark(step, "x,\"y"), text(step, "t", "t")]).unwrap();
    }
    drop(sink);
    // A process that was killed while it wrote.
    let add = |name: &str, text: &str| {
        let path = folder.join("csv").join(name);
        fs::write(&path, fs::read_to_string(&path).unwrap() + text).unwrap();
    };
    add("scalars.csv", "5,1.2");
    add("marks.csv", "5,1000000005,set,\"half");
    fs::write(folder.join("csv/texts/t/5.txt.part"), "").unwrap();

    let mut sink = open(folder, 4).unwrap();
    assert_eq!((table(folder, "scalars.csv").len(), table(folder, "marks.csv").len()), (5, 5));
    assert!(!folder.join("csv/texts/t/5.txt.part").exists() && folder.join("csv/texts/t/4.txt").exists());
    sink.log(&[scalars(5, &[("b,c", 3.0)])]).unwrap();
    drop(sink);

    let mut sink = open(folder, 2).unwrap();
    assert!(!folder.join("csv/texts/t/3.txt").exists() && folder.join("csv/texts/t/2.txt").exists());
    sink.log(&[scalars(3, &[("b,c", 7.0), ("new", 8.0)]), mark(3, "again")]).unwrap();
    let wanted = [
        ["step", "epoch", "samples", "seconds", "a", "b,c", "new"],
        ["1", "0.25", "8", "0.1", "1", "2", ""],
        ["2", "0.5", "16", "0.2", "1", "2", ""],
        ["3", "0.75", "24", "0.3", "", "7", "8"],
    ];
    assert_eq!(table(folder, "scalars.csv"), wanted);
    let messages: Vec<String> = table(folder, "marks.csv").into_iter().map(|row| row[3].clone()).collect();
    assert_eq!(messages, ["message", "x,\"y", "x,\"y", "again"]);
    drop(sink);

    // From the start again: nothing is left of before.
    let mut sink = open(folder, 0).unwrap();
    sink.log(&[scalars(1, &[("z", 1.0)])]).unwrap();
    assert_eq!(table(folder, "scalars.csv"), [["step", "epoch", "samples", "seconds", "z"], ["1", "0.25", "8", "0.1", "1"]]);
    assert!(!folder.join("csv/texts/t/2.txt").exists());
}

#[test]
fn a_header_that_was_not_finished_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("csv")).unwrap();
    fs::write(folder.path().join("csv/scalars.csv"), "step,epo").unwrap();
    let mut sink = open(folder.path(), 3).unwrap();
    sink.log(&[scalars(4, &[("a", 1.0)])]).unwrap();
    assert_eq!(table(folder.path(), "scalars.csv"), [["step", "epoch", "samples", "seconds", "a"], ["4", "1", "32", "0.4", "1"]]);
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("csv")).unwrap();
    fs::write(folder.path().join("csv/scalars.csv"), "name,price\nx,1\n").unwrap();
    let error = open(folder.path(), 3).err().unwrap().to_string();
    assert!(error.contains("scalars.csv is not this logger's: wanted a header that begins with `step,epoch,samples,seconds`"), "{error}");
    assert_eq!(read(folder.path(), "scalars.csv"), "name,price\nx,1\n");
}

#[test]
fn runs_with_one_folder_keep_apart() {
    let folder = tempfile::tempdir().unwrap();
    let logger = Csv { folder: Some(folder.path().to_str().unwrap().into()) };
    for id in ["one", "two"] {
        let mut sink = logger.open(&RunFacts { id: id.into(), ..RunFacts::default() }).unwrap();
        sink.log(&[scalars(1, &[(id, 1.0)])]).unwrap();
    }
    for id in ["one", "two"] {
        assert_eq!(
            fs::read_to_string(folder.path().join(id).join("scalars.csv")).unwrap().lines().next().unwrap(),
            format!("step,epoch,samples,seconds,{id}")
        );
    }
    solstice_plugin_api::testing::check_config::<Csv>().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_later_calls_write_what_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("csv")).unwrap();
    let full = ["scalars.csv", "marks.csv"].map(|name| folder.join("csv").join(name));
    full.iter().for_each(|path| std::os::unix::fs::symlink("/dev/full", path).unwrap());
    let mut sink = open(folder, 0).unwrap();
    // A file in the place of the folder of texts refuses those.
    fs::write(folder.join("csv/texts"), "").unwrap();
    let error = sink.log(&[scalars(1, &[("a", 1.0)]), mark(1, "one"), text(1, "t", "one")]).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("bytes wait in memory"), "{error}");
    fs::remove_file(folder.join("csv/texts")).unwrap();
    // Texts can be written again, the tables not.
    let error = sink.log(&[scalars(1, &[("b", 2.0)]), scalars(2, &[("a", 3.0)])]).unwrap_err().to_string();
    assert!(error.contains("scalars.csv: No space left on device"), "{error}");
    assert_eq!(read(folder, "texts/t/1.txt"), "one");
    assert!(sink.flush().is_err());
    full.iter().for_each(|path| fs::remove_file(path).unwrap());
    sink.flush().unwrap();
    assert_eq!(table(folder, "scalars.csv")[1..], [["1", "0.25", "8", "0.1", "1", "2"], ["2", "0.5", "16", "0.2", "3", ""]]);
    assert_eq!(table(folder, "marks.csv")[1][3], "one");
}

#[test]
fn what_is_dropped_is_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut sink = open(folder, 0).unwrap();
    fs::write(folder.join("csv/texts"), "").unwrap();
    // Four of a MiB, with their names, go beyond 4 MiB and are kept; of what comes then nothing is.
    let items: Vec<LogItem> = (1..=4).map(|step| text(step, "t", "x".repeat(1 << 20))).collect();
    let error = sink.log(&items).unwrap_err().to_string();
    assert!(!error.contains("dropped"), "{error}");
    let error = sink.log(&[text(5, "t", "late"), mark(5, "late")]).unwrap_err().to_string();
    assert!(error.contains("2 items were dropped because more than 4 MiB waited for the disk"), "{error}");
    fs::remove_file(folder.join("csv/texts")).unwrap();
    sink.log(&[mark(6, "again")]).unwrap();
    assert_eq!(read(folder, "texts/t/4.txt").len(), 1 << 20);
    let marks: Vec<(String, String)> = table(folder, "marks.csv").into_iter().map(|row| (row[2].clone(), row[3].clone())).collect();
    let told = "2 items were dropped because more than 4 MiB waited for the disk";
    assert_eq!(marks[1..], [("set".to_owned(), "again".to_owned()), ("logger".into(), told.into())]);
}
