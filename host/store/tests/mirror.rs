//! Mirrors of runs: equal to the original whatever happens to it, to the connection and to the mirror. The truth is a dump of both files by SQL.

mod common;

use std::fs;
use std::path::Path;

use common::{Random, checkpoint_at, new_run};
use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::json;
use solstice_store::mirror::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Chunk, Depth, Mirror, RunFeed};
use solstice_store::{
    At, Event, Histogram, Image, Matrix, NewRun, RunReader, RunState, RunUpdate, RunWriter, StoreError, Table, forget_label, send_command,
    set_label,
};

/// Every table of the list with every row and its id, in words of this test and not of the code under test.
fn dump(run: &Path) -> Vec<(String, Vec<Vec<Value>>)> {
    let connection = Connection::open(run.join("run.sqlite")).unwrap();
    let tables = [
        "run",
        "plugins",
        "metrics",
        "scalars",
        "histograms",
        "images",
        "texts",
        "tables",
        "matrices",
        "events",
        "logs",
        "checkpoints",
        "rewinds",
        "heartbeat",
        "commands",
        "labels",
    ];
    let known: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> 'mirror'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(known, tables.len() as i64, "a new table: add it to this list");
    let of = |table: &&str| {
        let mut select = connection.prepare(&format!("SELECT rowid, * FROM {table} ORDER BY rowid")).unwrap();
        let count = select.column_count();
        let rows = select.query_map([], |row| (0..count).map(|index| row.get(index)).collect()).unwrap();
        (table.to_string(), rows.map(Result::unwrap).collect())
    };
    tables.iter().map(of).collect()
}

/// Brings the mirror up to date; the chunks that it took.
fn catch_up(feed: &mut RunFeed, mirror: &mut Mirror) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while let Some(chunk) = feed.next(Depth::All).unwrap() {
        mirror.apply(&chunk).unwrap();
        chunks.push(chunk);
    }
    chunks
}

#[track_caller]
fn assert_equal(run: &Path, mirror: &Path) {
    for (original, copy) in dump(run).into_iter().zip(dump(mirror)) {
        assert_eq!(original.1.len(), copy.1.len(), "rows of {}", original.0);
        assert_eq!(original, copy);
    }
}

/// One of everything that a run may do.
fn change(random: &mut Random, writer: &RunWriter, step: &mut u64) {
    let at = At { step: *step, epoch: *step as f64 / 7.0, samples: *step * 3 };
    match random.below(18) {
        0..=4 => {
            for _ in 0..random.below(300) {
                *step += 1;
                let at = At { step: *step, epoch: *step as f64 / 7.0, samples: *step * 3 };
                let value = [0.1, f64::NAN, f64::INFINITY, -1e-300][random.below(4)];
                writer.scalars(at, &[("train/loss", value), ("lr", 0.1 / *step as f64)]);
            }
        }
        5 => writer.scalar(at, &format!("odd/{}", random.below(5)), 1.0),
        6 => writer.histogram(at, "w", Histogram { edges: vec![0.0, 1.0, 2.0], counts: vec![3, 4], not_finite: 1 }),
        7 => {
            let data = vec![random.below(256) as u8; random.below(200_000)];
            writer.image(at, "samples", Image { format: "png".into(), width: 8, height: 9, caption: "µ".into(), data });
        }
        8 => writer.text(at, "said", "once\nupon"),
        9 => writer.table(at, "rows", Table { columns: vec!["a".into()], rows: vec![vec![json!(null)]] }),
        10 => {
            writer.matrix(at, "confusion", Matrix { row_labels: vec!["x".into()], column_labels: vec!["y".into()], cells: vec![f64::NAN] })
        }
        11 => {
            writer.event(Event::new(*step, "eval", "worker", "evaluated"));
            writer.log("info", "worker", "a line");
        }
        12 => {
            *step = random.below(*step as usize + 1) as u64;
            writer.rewind(*step).unwrap();
        }
        13 => {
            let key = ["name", "note", "tags"][random.below(3)];
            if random.below(3) == 0 { forget_label(writer.path(), key) } else { set_label(writer.path(), key, &step.to_string()) }.unwrap();
        }
        14 => {
            writer.state([RunState::Running, RunState::Paused][random.below(2)], None);
            let id = send_command(writer.path(), "me", "set", &json!({"key": "optimizer.lr", "value": 0.5})).unwrap();
            if random.below(2) == 0 {
                writer.complete_command(id, Ok("done"));
            }
        }
        15 => drop(writer.save_checkpoint(&checkpoint_at(*step), &[]).unwrap()),
        16 => {
            let rows = RunReader::open(writer.path()).unwrap().checkpoints().unwrap();
            if let Some(row) = rows.first() {
                writer.remove_checkpoint(&row.file).unwrap();
            }
        }
        _ => {
            let plugins = (0..random.below(3)).map(|index| solstice_store::PluginInfo { name: index.to_string(), ..Default::default() });
            writer.plugins(&plugins.collect::<Vec<_>>());
            writer.update(RunUpdate { steps_total: Some(*step + 5), ..RunUpdate::default() });
        }
    }
}

#[test]
fn a_mirror_equals_its_run_whatever_happens_and_wherever_the_connection_is_cut() {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let mut random = Random(seed);
        let runs = tempfile::tempdir().unwrap();
        let copy = runs.path().join("copy");
        let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
        let mut mirror = Mirror::new(&copy, "box:runs");
        let mut feed = RunFeed::new(writer.path(), None);
        let mut step = 0;
        for _ in 0..120 {
            change(&mut random, &writer, &mut step);
            match random.below(8) {
                // Some of what is new.
                0..=3 => {
                    writer.flush().unwrap();
                    let depth = [Depth::Curves, Depth::All][random.below(2)];
                    for _ in 0..random.below(3) {
                        if let Some(chunk) = feed.next(depth).unwrap() {
                            mirror.apply(&chunk).unwrap();
                        }
                    }
                }
                // The connection is cut: what was read does not arrive, and both sides begin again from what the mirror has.
                4 => {
                    let _ = feed.next(Depth::All).unwrap();
                    mirror = Mirror::new(&copy, "box:runs");
                    feed = RunFeed::new(writer.path(), mirror.have());
                }
                // Half of it arrives: refused, and nothing changes.
                5 if copy.exists() => {
                    if let Some(mut chunk) = feed.next(Depth::All).unwrap()
                        && !chunk.rows.is_empty()
                    {
                        let before = dump(&copy);
                        chunk.rows.truncate(chunk.rows.len() - 1);
                        assert!(matches!(mirror.apply(&chunk), Err(StoreError::Mirror { .. })));
                        assert_eq!(before, dump(&copy));
                    }
                    feed = RunFeed::new(writer.path(), mirror.have());
                }
                _ => {}
            }
        }
        // Closed, so that the heartbeat stands still.
        let run = writer.path().to_path_buf();
        drop(writer);
        catch_up(&mut feed, &mut mirror);
        assert_equal(&run, &copy);
        // Nothing is sent twice: neither by this feed nor by a new one.
        assert_eq!(feed.next(Depth::All).unwrap(), None);
        assert_eq!(RunFeed::new(&run, mirror.have()).next(Depth::All).unwrap(), None);
    }
}

#[test]
fn chunks_are_small_and_scalars_come_before_pictures() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    for step in 0..20 {
        writer.image(step, "large", Image { format: "png".into(), data: vec![7; 100_000], ..Image::default() });
    }
    writer.image(20, "larger", Image { format: "png".into(), data: vec![7; 3 * CHUNK_BYTES_MAX], ..Image::default() });
    for step in 0..20_000 {
        writer.scalar(step, "train/loss", 0.5);
    }
    writer.log("info", "worker", "a line");
    writer.flush().unwrap();
    let mut mirror = Mirror::new(&runs.path().join("copy"), "box:runs");
    let chunks = catch_up(&mut RunFeed::new(writer.path(), None), &mut mirror);
    let names: Vec<&str> = chunks.iter().flat_map(|chunk| &chunk.header.tables).map(|table| table.name.as_str()).collect();
    let last = |name: &str| names.iter().rposition(|known| *known == name).unwrap();
    let first = |name: &str| names.iter().position(|known| *known == name).unwrap();
    assert!(first("metrics") < first("scalars") && last("scalars") < first("logs") && last("logs") < first("images"), "{names:?}");
    for chunk in &chunks {
        let rows: usize = chunk.header.tables.iter().map(|table| table.row_count).sum();
        assert!(rows <= CHUNK_ROWS_MAX);
        assert!(chunk.rows.len() <= CHUNK_BYTES_MAX || rows == 1, "{} bytes of {rows} rows", chunk.rows.len());
    }
    assert_equal(writer.path(), &runs.path().join("copy"));
}

#[test]
fn a_run_that_goes_on_costs_its_new_rows_and_the_cells_that_changed() {
    let runs = tempfile::tempdir().unwrap();
    let config = json!({"text": "x".repeat(50_000)});
    let writer = RunWriter::create(runs.path(), &NewRun { config, ..new_run() }).unwrap();
    for step in 0..1000u64 {
        writer.scalar(step, "train/loss", 0.5);
    }
    writer.flush().unwrap();
    let mut mirror = Mirror::new(&runs.path().join("copy"), "box:runs");
    let mut feed = RunFeed::new(writer.path(), None);
    catch_up(&mut feed, &mut mirror);
    writer.scalar(1000, "train/loss", 0.25);
    writer.flush().unwrap();
    let bytes: usize = catch_up(&mut feed, &mut mirror).iter().map(|chunk| chunk.rows.len()).sum();
    // One scalar of about 40 bytes, a few cells of `metrics`, `run` and maybe the heartbeat: not the config again.
    assert!((1..400).contains(&bytes), "{bytes} bytes");
    let copy = RunReader::open(&runs.path().join("copy")).unwrap();
    assert_eq!(copy.info().unwrap().at.step, 1000);
    assert_eq!(copy.metrics().unwrap()[0].last, Some(0.25));
}

#[test]
fn the_state_of_a_mirror_is_what_the_machine_of_the_run_says() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    writer.state(RunState::Running, None);
    writer.flush().unwrap();
    let run = writer.path().to_path_buf();
    let copy = runs.path().join("copy");
    let mut mirror = Mirror::new(&copy, "box:runs");
    catch_up(&mut RunFeed::new(&run, None), &mut mirror);
    // A heartbeat of this machine's name, of a process that is not here, an hour old: only the other machine can say that it lives.
    let beat = "UPDATE heartbeat SET pid = 1073741823, pid_start = NULL, time = time - 3600";
    Connection::open(copy.join("run.sqlite")).unwrap().execute(beat, []).unwrap();
    assert_eq!(RunReader::open(&copy).unwrap().info().unwrap().state, RunState::Running);
    // Nor is one lost that is merely no longer heard of from another machine.
    Connection::open(copy.join("run.sqlite")).unwrap().execute("UPDATE heartbeat SET host = 'box'", []).unwrap();
    assert_eq!(RunReader::open(&copy).unwrap().info().unwrap().state, RunState::Running);

    // The original is closed without an end: lost there, and so here.
    drop(writer);
    let mut feed = RunFeed::new(&run, mirror.have());
    catch_up(&mut feed, &mut mirror);
    let (there, here) = (RunReader::open(&run).unwrap().info().unwrap(), RunReader::open(&copy).unwrap().info().unwrap());
    assert_eq!(there.state, RunState::Lost);
    assert_eq!((here.state, &here.state_reason, here.state_time), (there.state, &there.state_reason, there.state_time));
    assert!(feed.is_over());
    // And taken up again.
    let writer = RunWriter::open(&run).unwrap();
    catch_up(&mut feed, &mut mirror);
    assert_eq!(RunReader::open(&copy).unwrap().info().unwrap().state, RunState::Starting);
    assert!(!feed.is_over());
    drop(writer);
}

#[test]
fn nobody_but_the_other_machine_changes_a_mirror() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    writer.state(RunState::Running, None);
    writer.flush().unwrap();
    let copy = runs.path().join("copy");
    catch_up(&mut RunFeed::new(writer.path(), None), &mut Mirror::new(&copy, "box:runs"));
    let sentences = [
        RunWriter::open(&copy).unwrap_err().to_string(),
        send_command(&copy, "me", "pause", &json!({})).unwrap_err().to_string(),
        set_label(&copy, "name", "mine").unwrap_err().to_string(),
    ];
    assert!(
        sentences.iter().all(|sentence| sentence.contains("a mirror of box:runs: only what comes from there may change it")),
        "{sentences:?}"
    );
    // And a run of this machine is never taken for a mirror.
    assert_eq!(Mirror::new(writer.path(), "box:runs").have(), None);
}

#[test]
fn another_run_in_the_same_folder_an_older_copy_and_a_damaged_mirror_begin_anew() {
    let runs = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let copy = runs.path().join("copy");
    let folder = there.path().join("run");
    let make = |steps: u64| {
        let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
        for step in 0..steps {
            writer.scalar(step, "train/loss", steps as f64);
        }
        let path = writer.path().to_path_buf();
        drop(writer);
        let _ = fs::remove_dir_all(&folder);
        fs::rename(path, &folder).unwrap();
    };
    make(50);
    let old = there.path().join("old.sqlite");
    fs::copy(folder.join("run.sqlite"), &old).unwrap();
    let mut mirror = Mirror::new(&copy, "box:runs");
    let mut feed = RunFeed::new(&folder, None);
    catch_up(&mut feed, &mut mirror);
    let reader = RunReader::open(&copy).unwrap();
    make(20);
    assert!(catch_up(&mut feed, &mut mirror)[0].header.anew);
    assert_equal(&folder, &copy);
    // A reader that had the mirror open reads the new run.
    assert_eq!(reader.series("train/loss").unwrap().len(), 20);

    // The first run goes on; then its older copy is put back.
    drop(feed);
    let put_back = || {
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::copy(&old, folder.join("run.sqlite")).unwrap();
    };
    put_back();
    let writer = RunWriter::open(&folder).unwrap();
    writer.scalar(50, "train/loss", 1.0);
    drop(writer);
    let mut feed = RunFeed::new(&folder, mirror.have());
    catch_up(&mut feed, &mut mirror);
    assert_equal(&folder, &copy);
    drop(feed);
    put_back();
    catch_up(&mut RunFeed::new(&folder, mirror.have()), &mut mirror);
    assert_equal(&folder, &copy);

    drop((reader, mirror));
    fs::write(copy.join("run.sqlite"), b"no database").unwrap();
    let mut mirror = Mirror::new(&copy, "box:runs");
    assert_eq!(mirror.have(), None);
    catch_up(&mut RunFeed::new(&folder, mirror.have()), &mut mirror);
    assert_equal(&folder, &copy);
    Mirror::remove(&copy).unwrap();
    assert!(!copy.exists());
    Mirror::remove(&copy).unwrap();
}

#[test]
fn rows_that_do_not_follow_and_tables_of_a_newer_build_are_refused_in_a_sentence() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let mut feed = RunFeed::new(writer.path(), None);
    let chunk = feed.next(Depth::All).unwrap().unwrap();
    let mut mirror = Mirror::new(&runs.path().join("copy"), "box:runs");
    let mut go_on = chunk.clone();
    go_on.header.anew = false;
    let sentence = mirror.apply(&go_on).unwrap_err().to_string();
    assert!(sentence.contains("go on where this mirror is not"), "{sentence}");
    let mut newer = chunk.clone();
    newer.header.version = 99;
    let sentence = mirror.apply(&newer).unwrap_err().to_string();
    assert!(sentence.contains("written by a newer Solstice (store version 99"), "{sentence}");
    let mut odd = chunk.clone();
    odd.header.tables[0].name = "mirror".into();
    let sentence = mirror.apply(&odd).unwrap_err().to_string();
    assert!(sentence.contains("there is no table `mirror`"), "{sentence}");
    assert!(!runs.path().join("copy").exists());
    mirror.apply(&chunk).unwrap();
    let mut other = go_on;
    other.header.identity = "another".into();
    let sentence = mirror.apply(&other).unwrap_err().to_string();
    assert!(sentence.contains("those of another run"), "{sentence}");
}
