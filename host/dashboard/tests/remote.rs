#![cfg(unix)]
//! Runs of another machine, mirrored here. The other machine is a process of its own: this test program again, started by a script that stands for
//! ssh. What the test harness prints there before it begins is the noise of a login shell.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use solstice_dashboard::data::{
    Answer, COMMANDS, Host, Hosts, Library, Outbox, PROTOCOL, Remote, RemoteOptions, START, SentState, Snapshot, Timing, serve,
};
use solstice_store::{Image, NewRun, RunReader, RunState, RunWriter};

static TICKETS: AtomicU64 = AtomicU64::new(7);

/// The program over there: it only says what it was asked.
struct Echo;

impl Host for Echo {
    fn ask(&self, args: &[String], input: &str) -> Result<Answer, String> {
        Ok(Answer { code: 0, out: format!("{}|{input}", args.join(" ")), err: String::new() })
    }

    fn start(&self, args: &[String], _: &str) -> Result<u64, String> {
        if args.len() == 1 { Ok(TICKETS.fetch_add(1, Ordering::Relaxed)) } else { Err("cannot start that".into()) }
    }

    /// Ends when a file appears.
    fn ended(&self, ticket: u64) -> Option<Answer> {
        let folder = PathBuf::from(std::env::var_os("FAR_DIR")?);
        folder.join("end").exists().then(|| Answer { code: 3, out: String::new(), err: format!("error: ticket {ticket}") })
    }
}

/// Not a test: the other end, when the script starts it.
#[test]
#[ignore = "started by the other tests"]
fn other_end() {
    let Some(folder) = std::env::var_os("FAR_DIR") else { return };
    let outcome = serve(Path::new(&folder), Arc::new(Echo), timing(), std::io::stdin(), &mut std::io::stdout());
    if let Err(sentence) = outcome {
        eprintln!("error: {sentence}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn timing() -> Timing {
    Timing { retry_first: Duration::from_millis(20), retry_max: Duration::from_millis(100), ..Timing::default() }
}

/// A folder with the runs over there, the mirrors here, and the script.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("runs")).unwrap();
        let desk = Desk { folder };
        // `-T HOST 'solstice stream DIR'`, taken apart as the shell over there would. `exec` keeps the process id.
        desk.script(&format!(
            "eval \"set -- $3\"\nexport FAR_DIR=\"$3\"\necho $$ > {}\nexec {} --ignored --exact other_end --nocapture --test-threads 1",
            desk.path("pid").display(),
            std::env::current_exe().unwrap().display()
        ));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn runs(&self) -> PathBuf {
        self.path("runs")
    }

    fn script(&self, text: &str) {
        fs::write(self.path("ssh.sh"), format!("{text}\n")).unwrap();
    }

    fn options(&self) -> RemoteOptions {
        let target = format!("box:{}", self.runs().display());
        let ssh = vec!["sh".to_string(), self.path("ssh.sh").display().to_string()];
        RemoteOptions { ssh, timing: timing(), ..RemoteOptions::new(&target, &self.path("cache")).unwrap() }
    }

    fn open(&self) -> (Arc<Remote>, Library) {
        let remote = Arc::new(Remote::open(self.options()).unwrap());
        let library = Library::open_with(&[], vec![remote.clone()]);
        (remote, library)
    }

    fn create(&self, name: &str) -> RunWriter {
        let writer =
            RunWriter::create(&self.runs(), &NewRun { name: name.into(), recipe: format!("recipe of {name}"), ..NewRun::default() });
        let writer = writer.unwrap();
        writer.state(RunState::Running, None);
        writer.flush().unwrap();
        writer
    }

    /// Ends the process over there, as a cut of the connection does.
    fn cut(&self) {
        let pid = fs::read_to_string(self.path("pid")).unwrap();
        Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    }
}

/// No limit of its own: the test runner's holds.
fn until(mut is: impl FnMut() -> bool) {
    while !is() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait_for(library: &Library, is: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    until(|| is(&library.snapshot()));
    library.snapshot()
}

/// The sentence that is shown once the connection has failed.
fn failure(remote: &Remote) -> String {
    let mut sentence = String::new();
    until(|| {
        sentence = remote.problems().first().cloned().unwrap_or_default();
        !sentence.is_empty() && !sentence.starts_with("connecting")
    });
    sentence
}

fn values(snapshot: &Snapshot, name: &str) -> Vec<(u64, f64)> {
    let series = snapshot.runs.iter().find_map(|run| run.series.get(name));
    series.map_or(Vec::new(), |series| series.points().map(|point| (point.step, point.value)).collect())
}

#[test]
fn curves_come_and_commands_and_marks_go() {
    let desk = Desk::new();
    let writer = desk.create("far");
    writer.scalar(1, "train/loss", 0.5);
    let (remote, library) = desk.open();
    wait_for(&library, |snapshot| values(snapshot, "train/loss") == [(1, 0.5)]);
    assert!(remote.is_connected());
    writer.scalar(2, "train/loss", 0.25);
    let snapshot = wait_for(&library, |snapshot| values(snapshot, "train/loss") == [(1, 0.5), (2, 0.25)]);
    let run = snapshot.runs[0].clone();
    assert_eq!((&*run.id, run.info.as_ref().unwrap().state), (writer.id(), RunState::Running));
    assert!(run.path.starts_with(remote.folder()) && snapshot.problems.is_empty(), "{:?}", snapshot.problems);

    // A command reaches the worker there, and its answer comes back.
    let ticket = library.send(&run.path, "set", json!({"key": "optimizer.lr", "value": 0.000_3}));
    let mut commands = Vec::new();
    until(|| {
        commands.extend(writer.pending_commands());
        !commands.is_empty()
    });
    assert_eq!((&*commands[0].kind, &commands[0].args), ("set", &json!({"key": "optimizer.lr", "value": 0.000_3})));
    writer.complete_command(commands[0].id, Ok("lr is 0.0003"));
    let sent = |snapshot: &Snapshot, ticket| snapshot.sent.iter().find(|sent| sent.ticket == ticket).cloned();
    let snapshot = wait_for(&library, |snapshot| sent(snapshot, ticket).is_some_and(|sent| sent.state == SentState::Done));
    assert_eq!(sent(&snapshot, ticket).unwrap().reason.as_deref(), Some("lr is 0.0003"));
    assert_eq!(sent(&snapshot, ticket).unwrap().id, Some(commands[0].id));

    // So do marks, set and taken away.
    let there = || RunReader::open(writer.path()).unwrap().info().unwrap().labels;
    let here = |snapshot: &Snapshot| snapshot.runs[0].info.as_ref().unwrap().labels.clone();
    library.set_label(&run.path, "name", Some("the good one"));
    wait_for(&library, |snapshot| here(snapshot).get("name").is_some_and(|name| name == "the good one"));
    assert_eq!(there()["name"], "the good one");
    let ticket = library.set_label(&run.path, "name", None);
    let snapshot = wait_for(&library, |snapshot| here(snapshot).is_empty());
    assert!(there().is_empty());
    assert_eq!(sent(&snapshot, ticket).unwrap().state, SentState::Done);

    // What the worker's machine refuses is a sentence.
    writer.state(RunState::Done, None);
    drop(writer);
    wait_for(&library, |snapshot| snapshot.runs[0].info.as_ref().unwrap().state == RunState::Done);
    let ticket = library.send(&run.path, "pause", json!({}));
    let snapshot = wait_for(&library, |snapshot| sent(snapshot, ticket).is_some_and(|sent| sent.state == SentState::Failed));
    let reason = sent(&snapshot, ticket).unwrap().reason.unwrap();
    assert!(reason.contains("the run is done"), "{reason}");
}

#[test]
fn a_connection_that_is_cut_again_and_again_loses_no_row_and_doubles_none() {
    let desk = Desk::new();
    let writer = Arc::new(desk.create("far"));
    for step in 0..60_000u64 {
        writer.scalar(step, "train/loss", step as f64);
    }
    for step in 0..20 {
        writer.image(step, "samples", Image { format: "png".into(), data: vec![step as u8; 150_000], ..Image::default() });
    }
    writer.flush().unwrap();
    let goes_on = Arc::new(AtomicBool::new(true));
    let training = std::thread::spawn({
        let (writer, goes_on) = (writer.clone(), goes_on.clone());
        move || {
            let mut step = 60_000u64;
            while goes_on.load(Ordering::Relaxed) {
                writer.scalar(step, "train/loss", step as f64);
                step += 1;
                if step.is_multiple_of(5000) {
                    writer.rewind(step - 2500).unwrap();
                    step -= 2499;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    });
    let (remote, library) = desk.open();
    // Ever later, so that each connection gets a little further, and the first ones not to the end of their first chunk.
    for pause in 0..12 {
        until(|| remote.is_connected());
        std::thread::sleep(Duration::from_millis(4 << (pause / 2)));
        desk.cut();
        until(|| !remote.is_connected());
    }
    assert!(failure(&remote).contains("connection to box lost"), "{}", failure(&remote));
    goes_on.store(false, Ordering::Relaxed);
    training.join().unwrap();
    writer.state(RunState::Done, None);
    let there = writer.path().to_path_buf();
    drop(writer);
    let rows = |path: &Path| RunReader::open(path).and_then(|reader| reader.series("train/loss")).unwrap();
    let here = remote.folder().join(there.file_name().unwrap());
    let pictures = |path: &Path| RunReader::open(path).map_or(0, |reader| reader.images("samples", 0).map_or(0, |rows| rows.len()));
    wait_for(&library, |snapshot| snapshot.runs.first().and_then(|run| run.info.as_ref()).is_some_and(|info| info.state == RunState::Done));
    until(|| pictures(&here) == 20 && rows(&here).len() == rows(&there).len());
    assert_eq!(rows(&here), rows(&there));
    let expected: Vec<(u64, f64)> = rows(&there).iter().map(|row| (row.at.step, row.value)).collect();
    wait_for(&library, |snapshot| values(snapshot, "train/loss").len() == expected.len());
    assert_eq!(values(&library.snapshot(), "train/loss"), expected);
}

#[test]
fn what_is_known_stays_while_the_connection_is_cut_and_says_so() {
    let desk = Desk::new();
    let writer = desk.create("far");
    writer.scalar(1, "train/loss", 0.5);
    writer.flush().unwrap();
    let (remote, library) = desk.open();
    let snapshot = wait_for(&library, |snapshot| values(snapshot, "train/loss").len() == 1);
    let run = snapshot.runs[0].path.clone();
    desk.script("echo 'ssh: connect to host box port 22: No route to host' >&2; exit 255");
    desk.cut();
    let snapshot = wait_for(&library, |snapshot| snapshot.problems.iter().any(|problem| problem.contains("No route")));
    let problem = &snapshot.problems[0];
    assert!(problem.starts_with("connection to box lost, trying again ") && problem.contains("; last news "), "{problem}");
    assert_eq!(snapshot.runs[0].info.as_ref().unwrap().state, RunState::Running, "nobody here can know that it is not");
    assert_eq!(values(&snapshot, "train/loss"), [(1, 0.5)]);
    let ticket = library.send(&run, "pause", json!({}));
    let snapshot = wait_for(&library, |snapshot| snapshot.sent.iter().any(|sent| sent.ticket == ticket && sent.state == SentState::Failed));
    let reason = snapshot.sent[0].reason.clone().unwrap();
    assert!(reason.contains("connection to box"), "{reason}");
    assert!(writer.pending_commands().is_empty());
    // A second window meanwhile has mirrors of its own.
    let other = Remote::open(desk.options()).unwrap();
    assert_ne!(other.folder(), remote.folder());
    // And the next one finds the first one's.
    let folder = remote.folder().to_path_buf();
    drop((library, remote));
    let (remote, library) = desk.open();
    assert_eq!(remote.folder(), folder);
    wait_for(&library, |snapshot| values(snapshot, "train/loss") == [(1, 0.5)]);
}

#[test]
fn runs_that_are_deleted_there_go_and_sweeps_keep_their_group() {
    let desk = Desk::new();
    let trials = desk.runs().join("2026-sweep/trial-1");
    fs::create_dir_all(&trials).unwrap();
    fs::write(desk.runs().join("2026-sweep/trials.json"), "{\"trials\": []}").unwrap();
    drop(RunWriter::create(&trials, &NewRun { name: "trial".into(), ..NewRun::default() }).unwrap());
    let single = desk.create("single").path().to_path_buf();
    let (remote, library) = desk.open();
    let snapshot = wait_for(&library, |snapshot| {
        snapshot.runs.len() == 2
            && snapshot.runs.iter().all(|run| run.info.is_some())
            && snapshot.runs.iter().any(|run| run.group.is_some())
    });
    let groups: BTreeMap<bool, Option<String>> = snapshot.runs.iter().map(|run| (run.id.contains("trial"), run.group.clone())).collect();
    assert_eq!(groups, BTreeMap::from([(true, Some("2026-sweep".to_string())), (false, None)]));
    let id = single.file_name().unwrap();
    // Files beside the store come too.
    until(|| fs::read_to_string(remote.folder().join(id).join("recipe.ron")).is_ok_and(|text| text == "recipe of single"));
    assert_eq!(fs::read_to_string(remote.folder().join("2026-sweep/trials.json")).unwrap(), "{\"trials\": []}");
    fs::remove_dir_all(&single).unwrap();
    wait_for(&library, |snapshot| snapshot.runs.len() == 1);
    assert!(!remote.folder().join(id).exists());
    fs::remove_dir_all(desk.runs().join("2026-sweep")).unwrap();
    wait_for(&library, |snapshot| snapshot.runs.is_empty());
    // A folder that is not there is told, and nothing is forgotten for it.
    let writer = desk.create("again");
    wait_for(&library, |snapshot| snapshot.runs.len() == 1);
    drop(writer);
    fs::rename(desk.runs(), desk.path("elsewhere")).unwrap();
    let snapshot = wait_for(&library, |snapshot| !snapshot.problems.is_empty());
    assert!(snapshot.problems[0].starts_with("box: there is no folder"), "{:?}", snapshot.problems);
    assert_eq!(snapshot.runs.len(), 1);
    fs::rename(desk.path("elsewhere"), desk.runs()).unwrap();
    let snapshot = wait_for(&library, |snapshot| snapshot.problems.is_empty());
    assert_eq!(snapshot.runs.len(), 1);
}

#[test]
fn command_lines_are_carried_out_there_with_the_paths_of_there_and_others_are_refused() {
    let desk = Desk::new();
    let writer = desk.create("far");
    let (remote, library) = desk.open();
    let path = wait_for(&library, |snapshot| snapshot.runs.len() == 1).runs[0].path.clone();
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let answer = remote.ask(&words(&["describe", "--json"]), "in\nput").unwrap();
    assert_eq!(answer, Answer { code: 0, out: "describe --json|in\nput".into(), err: String::new() });
    let base = desk.runs().canonicalize().unwrap();
    let fork = words(&["fork", &format!("{}@12", path.display()), &format!("--runs-dir={}", remote.folder().display())]);
    let run = base.join(writer.path().file_name().unwrap());
    assert_eq!(remote.ask(&fork, "").unwrap().out, format!("fork {}@12 --runs-dir={}|", run.display(), base.display()));
    for refused in [&["ctl", "x", "stop"][..], &["worker"], &["plugin", "trust", "x"], &["--help"], &["stream"], &["export"], &[]] {
        let sentence = remote.ask(&words(refused), "").unwrap_err();
        assert!(sentence.contains("is not carried out for a window far away; what is: describe, check"), "{sentence}");
        assert!(remote.start(&words(refused), "").is_err());
    }
    for allowed in COMMANDS {
        assert!(remote.ask(&words(&[allowed]), "").is_ok(), "{allowed}");
    }
    assert_eq!(remote.start(&words(&["train", "x"]), "").unwrap_err(), "cannot start that");
    let ticket = remote.start(&words(&["train"]), "").unwrap();
    assert_eq!(remote.ended(ticket), None);
    fs::write(desk.runs().join("end"), "").unwrap();
    until(|| remote.ended(ticket).is_some());
    assert_eq!(remote.ended(ticket).unwrap(), Answer { code: 3, out: String::new(), err: "error: ticket 7".into() });
    fs::remove_file(desk.runs().join("end")).unwrap();
    let ticket = remote.start(&words(&["train"]), "").unwrap();
    desk.cut();
    until(|| remote.ended(ticket).is_some());
    assert!(remote.ended(ticket).unwrap().complaint().contains("the run goes on and is in the list"));

    // Beside a program here, what names a run there goes there.
    let hosts = Hosts::new(Some(Arc::new(Echo)), std::slice::from_ref(&remote));
    assert_eq!(hosts.ask(&words(&["ctl"]), "").unwrap().out, "ctl|", "here nothing is refused");
    until(|| remote.is_connected());
    assert_eq!(hosts.ask(&fork, "").unwrap().out, format!("fork {}@12 --runs-dir={}|", run.display(), base.display()));
    let alone = Hosts::new(None, &[remote]);
    assert!(alone.ask(&words(&["ctl"]), "").is_err());
}

/// A hello of a frame: its length, a line.
fn hello(protocol: u32) -> Vec<u8> {
    let line = format!("{}\n", json!({"message": "hello", "protocol": protocol, "version": "9.9.9"}));
    [&(line.len() as u32).to_le_bytes(), line.as_bytes()].concat()
}

#[test]
fn another_protocol_is_a_sentence_on_both_sides() {
    let desk = Desk::new();
    fs::write(desk.path("hello"), [b"Welcome to box\n", START, &hello(PROTOCOL + 1)].concat()).unwrap();
    desk.script(&format!("cat {}\ncat > /dev/null", desk.path("hello").display()));
    let remote = Remote::open(desk.options()).unwrap();
    let sentence = failure(&remote);
    assert!(sentence.contains("no connection to box") && sentence.contains("Solstice 9.9.9 on box speaks protocol"), "{sentence}");
    assert!(sentence.contains("install the same version on both"), "{sentence}");

    let mut output = Vec::new();
    let sentence = serve(&desk.runs(), Arc::new(Echo), timing(), Cursor::new(hello(PROTOCOL + 1)), &mut output).unwrap_err();
    assert!(sentence.contains("Solstice 9.9.9 at the window speaks protocol"), "{sentence}");
    assert!(output.starts_with(START));
    assert!(String::from_utf8_lossy(&output).contains("refused"), "the window is told too");
    // Something else than a window, and nobody.
    let sentence = serve(&desk.runs(), Arc::new(Echo), timing(), Cursor::new(b"GET / HTTP/1.1\r\n\r\n"), &mut Vec::new()).unwrap_err();
    assert!(sentence.contains("no message of Solstice") && sentence.contains("dashboard --ssh"), "{sentence}");
    serve(&desk.runs(), Arc::new(Echo), timing(), Cursor::new(b""), &mut Vec::new()).unwrap();
}

#[test]
fn what_ssh_and_the_shell_over_there_say_is_told() {
    let desk = Desk::new();
    let said = |script: &str| {
        desk.script(script);
        failure(&Remote::open(desk.options()).unwrap())
    };
    let sentence = said("echo 'Warning: a banner' >&2; echo 'ssh: Could not resolve hostname box' >&2; exit 255");
    assert!(
        sentence.starts_with("no connection to box, trying again ") && sentence.ends_with(": ssh: Could not resolve hostname box"),
        "{sentence}"
    );
    let sentence = said("echo 'bash: line 1: solstice: command not found' >&2; exit 127");
    assert!(sentence.contains("box has no `solstice`") && sentence.contains("--remote-program"), "{sentence}");
    let sentence = said("echo \"error: unrecognized subcommand 'stream'\" >&2; exit 2");
    assert!(sentence.contains("too old for --ssh"), "{sentence}");
    let sentence = said("echo 'Please log in with your card'");
    assert!(sentence.contains("it said: Please log in with your card"), "{sentence}");
    let sentence = said("yes 'This account is closed.' | head -c 300000");
    assert!(sentence.contains("it said: ") && sentence.contains("This account is closed.") && sentence.len() < 600, "{sentence}");
    let missing = RemoteOptions { ssh: vec!["no-such-program".into()], ..desk.options() };
    let sentence = failure(&Remote::open(missing).unwrap());
    assert!(sentence.contains("cannot start `no-such-program`"), "{sentence}");
}

#[test]
fn silence_is_a_cut_on_both_sides() {
    let desk = Desk::new();
    fs::write(desk.path("hello"), [START, &hello(PROTOCOL)].concat()).unwrap();
    desk.script(&format!("cat {}\ncat > /dev/null", desk.path("hello").display()));
    let timing = Timing { silence: Duration::from_millis(300), ..timing() };
    let remote = Remote::open(RemoteOptions { timing, ..desk.options() }).unwrap();
    let sentence = failure(&remote);
    assert!(sentence.contains("nothing was heard for 0.3 s"), "{sentence}");

    let (input, mut window) = std::io::pipe().unwrap();
    window.write_all(&hello(PROTOCOL)).unwrap();
    let sentence = serve(&desk.runs(), Arc::new(Echo), timing, input, &mut Vec::new()).unwrap_err();
    assert!(sentence.contains("nothing was heard from the window"), "{sentence}");
}
