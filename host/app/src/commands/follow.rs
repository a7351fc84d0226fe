//! `solstice train`, the user's side: start the worker, show the run as its store tells it, pass Ctrl-C on.

use crate::cli::{Command, ShowArgs};
use crate::outcome::exit;
use crate::reload::Reloader;
use crate::side::Job;
use crate::supervise::{Output, Worker};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use solstice_store::{RunReader, Scalar};
use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the store is read.
const POLL: Duration = Duration::from_millis(50);

/// Trains in a worker and shows it; returns the exit code.
pub fn run(args: &ShowArgs, command: &Command) -> Result<i32> {
    let shaders = if args.watch { solstice_engine::gpu::development_dir() } else { None };
    let mut worker = Worker::start(&Job { shaders, ..Job::of(command) }, Output::Logged)?;
    let _ = std::fs::write(worker.side().reloads_file(), "");
    let mut reloader: Option<Reloader> = None;
    let style = match (args.json, args.quiet, std::io::stderr().is_terminal()) {
        (true, ..) => Style::Json,
        (_, true, _) => Style::Quiet,
        (_, _, true) => Style::Bar(bar()),
        (_, _, false) => Style::Lines,
    };
    let mut view =
        View { style, reader: None, folder: None, next_row_id: 0, names: HashMap::new(), row: None, last: BTreeMap::new(), said: None };
    let mut announced = 0;
    let status = loop {
        let status = worker.poll()?;
        let pressed = worker.forward_interrupts(true);
        if pressed > announced {
            announced = pressed;
            let text = if pressed == 1 { "Stopping after this step; once more stops at once." } else { "Stopping now." };
            view.message(text);
        }
        view.look_for_run(&worker, args.verbose);
        if args.watch
            && reloader.is_none()
            && let (Some(reader), Some(folder)) = (&view.reader, &view.folder)
        {
            let plugins = reader.plugins().unwrap_or_default();
            let (started, notes) = Reloader::start(command, folder, &plugins, std::io::stderr().is_terminal());
            reloader = Some(started);
            notes.iter().for_each(|note| view.message(note));
        }
        if let Some(folder) = &view.folder
            && std::fs::remove_file(worker.side().reload_file()).is_ok()
        {
            let reloader = reloader.get_or_insert_with(|| Reloader::on_request(command, folder, std::io::stderr().is_terminal()));
            reloader.reload().iter().for_each(|text| view.message(text));
        }
        if let Some(reloader) = &mut reloader {
            reloader.poll().iter().for_each(|text| view.message(text));
        }
        view.update(status.is_some());
        let output = worker.new_output();
        if !output.is_empty() {
            view.message(output.trim_end());
        }
        if let Some(status) = status {
            match reloader.as_mut().and_then(|reloader| reloader.successor(status)) {
                Some(successor) => {
                    worker = successor;
                    let _ = std::fs::write(worker.side().reloads_file(), "");
                }
                None => break status,
            }
        }
        std::thread::sleep(POLL);
    };
    let (code, sentence) = worker.verdict(status);
    view.finish(code, args);
    if let Some(sentence) = sentence {
        eprintln!("error: {sentence}");
        if let Some(folder) = &view.folder {
            // The worker could not keep its own log any more.
            let _ = std::fs::write(folder.join("worker.log"), worker.log_tail());
            eprintln!("The run is in {}; its last checkpoint stands.", folder.display());
        }
    }
    Ok(code)
}

enum Style {
    Bar(ProgressBar),
    Lines,
    Json,
    Quiet,
}

/// What is shown of a run.
struct View {
    style: Style,
    reader: Option<RunReader>,
    folder: Option<PathBuf>,
    next_row_id: i64,
    names: HashMap<i64, String>,
    // The row under construction: scalars of one step arrive one after the other.
    row: Option<Row>,
    last: BTreeMap<String, f64>,
    // When the last plain line was printed.
    said: Option<Instant>,
}

struct Row {
    step: u64,
    epoch: f64,
    values: Vec<(String, f64)>,
}

impl View {
    fn look_for_run(&mut self, worker: &Worker, verbose: bool) {
        if self.reader.is_some() {
            return;
        }
        let Ok(text) = std::fs::read_to_string(worker.side().run_file()) else { return };
        // The folder, and the first row that this process adds to it.
        let Some((folder, first_row)) = text.split_once('\n') else { return };
        let folder = PathBuf::from(folder);
        self.next_row_id = first_row.trim().parse().unwrap_or(0);
        let Ok(reader) = RunReader::open(&folder) else { return };
        if let Ok(info) = reader.info() {
            let device = info.adapter.or(info.device).unwrap_or_default();
            let budget = info.budget.unwrap_or_default();
            self.message(&format!("{} on {device}, {budget}: {}", info.name, folder.display()));
            if let (Style::Bar(bar), Some(total)) = (&self.style, info.steps_total) {
                bar.set_length(total);
            }
        }
        if verbose {
            self.message(&format!(
                "plugins: {}",
                reader
                    .plugins()
                    .unwrap_or_default()
                    .iter()
                    .map(|plugin| format!("{} {}", plugin.name, plugin.version))
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        self.reader = Some(reader);
        self.folder = Some(folder);
    }

    /// Shows what is new in the store. At the end also the last row, which no later one completes.
    fn update(&mut self, at_end: bool) {
        while let Some(reader) = &self.reader {
            let Ok(page) = reader.scalars_since(self.next_row_id, 10_000) else { break };
            if page.rows.iter().any(|row| !self.names.contains_key(&row.metric_id))
                && let Ok(metrics) = reader.metrics()
            {
                self.names.extend(metrics.into_iter().map(|metric| (metric.id, metric.name)));
            }
            self.next_row_id = page.next_row_id;
            for scalar in &page.rows {
                self.take(scalar);
            }
            if !page.is_full {
                break;
            }
        }
        if let (Style::Bar(bar), Some(reader)) = (&self.style, &self.reader)
            && let Ok(info) = reader.info()
        {
            bar.set_position(info.at.step);
        }
        if at_end && let Some(row) = self.row.take() {
            self.show(row);
        }
    }

    fn take(&mut self, scalar: &Scalar) {
        let Some(name) = self.names.get(&scalar.metric_id).cloned() else { return };
        self.last.insert(name.clone(), scalar.value);
        match &mut self.row {
            Some(row) if row.step == scalar.at.step => row.values.push((name, scalar.value)),
            _ => {
                let row = Row { step: scalar.at.step, epoch: scalar.at.epoch, values: vec![(name, scalar.value)] };
                if let Some(done) = self.row.replace(row) {
                    self.show(done);
                }
            }
        }
    }

    fn show(&mut self, row: Row) {
        let evaluated = row.values.iter().any(|(name, _)| !name.starts_with("train/"));
        match &self.style {
            Style::Json => {
                let mut line = serde_json::Map::new();
                line.insert("step".into(), row.step.into());
                line.insert("epoch".into(), row.epoch.into());
                line.extend(row.values.into_iter().map(|(name, value)| (name, value.into())));
                self.print(&serde_json::Value::Object(line).to_string());
            }
            Style::Bar(bar) => {
                bar.set_message(summary(&row.values, true));
                if evaluated {
                    bar.println(line(&row));
                }
            }
            // At most about one line a second, but every evaluation.
            Style::Lines if evaluated || self.said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1)) => {
                self.print(&line(&row));
                self.said = Some(Instant::now());
            }
            Style::Lines | Style::Quiet => {}
        }
    }

    fn print(&self, line: &str) {
        // A reader that went away is no reason to stop training.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    fn message(&self, text: &str) {
        match &self.style {
            Style::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    fn finish(&mut self, code: i32, args: &ShowArgs) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
        let (Some(reader), Some(folder)) = (&self.reader, &self.folder) else { return };
        if args.verbose {
            for event in reader.events_since(0).unwrap_or_default().iter().filter(|event| event.kind == "startup") {
                eprintln!("  {}", event.message);
            }
        }
        if !matches!(code, exit::OK | exit::STOPPED) {
            return;
        }
        for metric in reader.metrics().unwrap_or_default() {
            // A run that went on has values that this process did not see.
            if let Some(value) = metric.last {
                self.last.entry(metric.name).or_insert(value);
            }
        }
        let finals: Vec<(String, f64)> = self.last.iter().map(|(name, value)| (name.clone(), *value)).collect();
        if !matches!(self.style, Style::Json) {
            let ended = if code == exit::OK { "Done" } else { "Stopped" };
            let rest: Vec<(String, f64)> = finals.iter().filter(|(name, _)| is_headline(name)).cloned().collect();
            self.print(&format!("{ended}: {}", summary(&rest, false)));
        }
        let info = reader.info().ok();
        let expected =
            info.as_ref().and_then(|info| info.config.get("expect")).and_then(|expect| expect.as_object().cloned()).unwrap_or_default();
        for (name, band) in expected {
            let bounds = (band[0].as_f64(), band[1].as_f64());
            if let (Some(value), (Some(low), Some(high))) = (self.last.get(&name), bounds)
                && code == exit::OK
            {
                let verdict = if (low..=high).contains(value) { "within" } else { "outside" };
                eprintln!("{name} = {value:.4} is {verdict} the recipe's band {low} .. {high} (for its own budget)");
            }
        }
        eprintln!("The run is in {}", folder.display());
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let template = "{elapsed_precise} [{bar:32.yellow/blue}] {pos}/{len} steps, {eta} left  {msg}";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed").progress_chars("=> "));
    bar
}

/// Metrics that a person wants to see in one line.
fn is_headline(name: &str) -> bool {
    let (split, metric) = name.split_once('/').unwrap_or(("", name));
    let quiet = ["lr", "grad_norm", "param_norm", "update_norm"];
    !quiet.contains(&metric)
        && !metric.contains("class_")
        && !matches!(split, "time" | "system")
        && (split != "train" || matches!(metric, "loss" | "accuracy" | "samples_per_sec"))
}

fn line(row: &Row) -> String {
    format!("step {:>6}  epoch {:>6.2}  {}", row.step, row.epoch, summary(&row.values, true))
}

fn summary(values: &[(String, f64)], headlines_only: bool) -> String {
    let parts: Vec<String> = values
        .iter()
        .filter(|(name, _)| !headlines_only || is_headline(name))
        .map(|(name, value)| if name.ends_with("samples_per_sec") { format!("{value:.0} samples/s") } else { format!("{name} {value:.4}") })
        .collect();
    parts.join("  ")
}
