//! `solstice watch RUN`: a run in a terminal, while it goes on or afterwards: curves, progress, last values, events, and keys that steer it.
//!
//! [`View`] is what is on screen, drawn by [`View::draw`] from a [`Run`] and changed by [`View::press`]; it opens no file. Without a terminal the
//! same run is told in lines.

use crate::cli::WatchArgs;
use crate::commands::ctl::user;
use crate::outcome::exit;
use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{DefaultTerminal, Frame};
use serde_json::{Value, json};
use solstice_dashboard::data::{Run, RunData, Series, XAxis};
use solstice_store::{CommandState, RunState, find_run, send_command};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at the run and at the keyboard.
const POLL: Duration = Duration::from_millis(50);
/// Without a terminal: least time between two lines of values.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Events on screen.
const EVENT_ROWS: u16 = 5;
/// Width of the list of metrics.
const LIST_COLUMNS: u16 = 40;
/// Colours of curves, in order.
const COLOURS: [Color; 6] = [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::LightRed, Color::LightBlue];

const HELP: &str = "q quit  p pause/resume  s step  e evaluate  c checkpoint  x stop  ↑↓ metric  l log scale  ? more";
const MORE_HELP: &str =
    "↑ past the first metric: the chosen ones together. x asks first; the run is saved and can be resumed. q leaves the run alone.";

/// Shows the run; returns the exit code: 1 for a run that failed or was lost, where nobody sits at a terminal to see it.
pub fn run(args: &WatchArgs) -> Result<i32> {
    let folder = find_run(&args.runs_dir, &args.run)?;
    let mut data = RunData::new(&folder);
    read_all(&mut data);
    if let (Some(problem), None) = (&data.run().problem, &data.run().info) {
        anyhow::bail!("{problem}");
    }
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        let mut terminal = ratatui::try_init().context("could not take over the terminal; `solstice watch RUN | cat` prints lines")?;
        let view = View::new(data.run(), &args.metric);
        let outcome = show(&mut terminal, &mut data, view);
        ratatui::restore();
        outcome.map(|()| exit::OK)
    } else {
        tell(&mut data, &args.metric)
    }
}

/// Everything that is on disk now.
fn read_all(data: &mut RunData) {
    data.poll();
    while !data.run().is_complete {
        data.poll();
    }
}

fn show(terminal: &mut DefaultTerminal, data: &mut RunData, mut view: View) -> Result<()> {
    let mut is_stale = true;
    let mut drawn_at = Instant::now();
    loop {
        if data.poll() {
            view.update(data.run());
            is_stale = true;
        }
        // The time left counts down also when nothing comes.
        if is_stale || drawn_at.elapsed() >= Duration::from_secs(1) {
            terminal.draw(|frame| view.draw(frame)).context("could not draw to the terminal")?;
            (is_stale, drawn_at) = (false, Instant::now());
        }
        let wait = if data.run().is_complete { POLL } else { Duration::ZERO };
        if event::poll(wait).context("could not read the keyboard")? {
            // Also a new size is drawn.
            is_stale = true;
            let Input::Key(key) = event::read().context("could not read the keyboard")? else { continue };
            match view.press(key) {
                Action::Nothing => {}
                Action::Quit => return Ok(()),
                Action::Send(kind, args) => view.send(kind, &args),
            }
        }
    }
}

/// What a key asks of the outside.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Quit,
    Send(&'static str, Value),
}

/// What is on screen.
struct View {
    run: Arc<Run>,
    /// `--metric`; empty: the losses.
    chosen: Vec<String>,
    /// Row of the list that is shown alone; `None`: the chosen metrics together.
    selected: Option<usize>,
    is_log: bool,
    asks_stop: bool,
    is_helping: bool,
    /// The last command: its word, and its row in the run's table until it is answered.
    sent: Option<(&'static str, i64)>,
    note: String,
}

impl View {
    fn new(run: Arc<Run>, chosen: &[String]) -> View {
        let chosen = chosen.to_vec();
        let mut view =
            View { run, chosen, selected: None, is_log: false, asks_stop: false, is_helping: false, sent: None, note: String::new() };
        let known = names(&view.run);
        if let Some(unknown) = view.chosen.iter().find(|name| !known.contains(&name.as_str()) && !known.is_empty()) {
            view.note = format!("there is no metric {unknown} yet; there are {}", known.join(", "));
        }
        view
    }

    fn update(&mut self, run: Arc<Run>) {
        self.run = run;
        let Some((kind, id)) = self.sent else { return };
        let Some(row) = self.run.commands.iter().find(|row| row.id == id) else { return };
        let reason = row.reason.as_deref().unwrap_or_default();
        match row.state {
            CommandState::Done => {
                self.note = format!("{kind}: {}", if reason.is_empty() { "done" } else { reason });
                self.sent = None;
            }
            CommandState::Failed => {
                self.note = format!("{kind} was refused: {reason}");
                self.sent = None;
            }
            CommandState::Taken => self.note = format!("{kind}: the run is at it"),
            CommandState::Sent if self.state().is_some_and(RunState::is_over) => {
                self.note = format!("{kind}: the run ended before it answered");
                self.sent = None;
            }
            CommandState::Sent => {}
        }
    }

    fn send(&mut self, kind: &'static str, args: &Value) {
        match send_command(&self.run.path, &user(), kind, args) {
            Ok(id) => {
                self.note = format!("{kind}: sent");
                self.sent = Some((kind, id));
            }
            Err(error) => self.note = error.to_string(),
        }
    }

    fn state(&self) -> Option<RunState> {
        self.run.info.as_ref().map(|info| info.state)
    }

    fn press(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Nothing };
        }
        if std::mem::take(&mut self.asks_stop) {
            let is_yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
            return if is_yes { Action::Send("stop", json!({})) } else { Action::Nothing };
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('p') => {
                let is_paused = self.state() == Some(RunState::Paused);
                return Action::Send(if is_paused { "resume" } else { "pause" }, json!({}));
            }
            KeyCode::Char('s') => return Action::Send("step", json!({"steps": 1})),
            KeyCode::Char('e') => return Action::Send("eval", json!({})),
            KeyCode::Char('c') => return Action::Send("checkpoint", json!({})),
            KeyCode::Char('x') => self.asks_stop = true,
            KeyCode::Char('l') => self.is_log = !self.is_log,
            KeyCode::Char('?') => self.is_helping = !self.is_helping,
            KeyCode::Up | KeyCode::Left => self.selected = self.selected.and_then(|row| row.checked_sub(1)),
            KeyCode::Down | KeyCode::Right => {
                let last = names(&self.run).len().checked_sub(1);
                self.selected = last.map(|last| self.selected.map_or(0, |row| (row + 1).min(last)));
            }
            _ => {}
        }
        Action::Nothing
    }

    /// The metrics whose curves are drawn.
    fn shown(&self) -> Vec<&str> {
        let names = names(&self.run);
        match self.selected.and_then(|row| names.get(row).copied()) {
            Some(name) => vec![name],
            None => chosen(&self.run, &self.chosen),
        }
    }

    fn draw(&self, frame: &mut Frame) {
        let rows =
            [Constraint::Length(1), Constraint::Length(1), Constraint::Min(3), Constraint::Length(EVENT_ROWS), Constraint::Length(1)];
        let [title, progress, middle, events, bottom] = Layout::vertical(rows).areas(frame.area());
        let list_columns = LIST_COLUMNS.min(middle.width / 2);
        let [list, plot] = Layout::horizontal([Constraint::Length(list_columns), Constraint::Min(10)]).areas(middle);
        frame.render_widget(self.title(), title);
        self.draw_progress(frame, progress);
        self.draw_list(frame, list);
        self.draw_plot(frame, plot);
        self.draw_events(frame, events);
        frame.render_widget(self.bottom(), bottom);
    }

    fn title(&self) -> Paragraph<'_> {
        let mut spans =
            vec![Span::styled(self.run.title(), Style::new().add_modifier(Modifier::BOLD)), Span::raw(format!("  {}  ", self.run.id))];
        if let Some(info) = &self.run.info {
            let colour = match info.state {
                RunState::Starting | RunState::Running => Color::Green,
                RunState::Paused | RunState::Stopped => Color::Yellow,
                RunState::Done => Color::Cyan,
                RunState::Failed | RunState::Lost => Color::Red,
            };
            spans.push(Span::styled(info.state.name(), Style::new().fg(colour).add_modifier(Modifier::BOLD)));
            if let Some(reason) = &info.state_reason {
                spans.push(Span::raw(format!(": {reason}")));
            }
        }
        if let Some(problem) = &self.run.problem {
            spans.push(Span::styled(format!("  {problem}"), Style::new().fg(Color::Red)));
        }
        Paragraph::new(Line::from(spans))
    }

    fn draw_progress(&self, frame: &mut Frame, area: Rect) {
        let text = progress(&self.run);
        match self.run.progress() {
            Some(part) => {
                let gauge =
                    Gauge::default().ratio(part.clamp(0.0, 1.0)).label(text).gauge_style(Style::new().fg(Color::Blue).bg(Color::Black));
                frame.render_widget(gauge, area);
            }
            None => frame.render_widget(Paragraph::new(text), area),
        }
    }

    fn draw_list(&self, frame: &mut Frame, area: Rect) {
        let names = names(&self.run);
        let shown = self.shown();
        let name_columns = usize::from(area.width).saturating_sub(24).max(8);
        let lines = names.iter().enumerate().map(|(row, name)| {
            let series = &self.run.series[*name];
            let last = series.last().map_or(String::new(), |point| number(point.value));
            let best = series.best(is_better_greater(name)).map_or(String::new(), |point| number(point.value));
            let colour = shown.iter().position(|shown| shown == name).map_or(Color::Reset, |index| COLOURS[index % COLOURS.len()]);
            let mut style = Style::new().fg(colour);
            if self.selected == Some(row) {
                style = style.add_modifier(Modifier::REVERSED);
            }
            let short = shortened(name, name_columns);
            Line::styled(format!("{short:<name_columns$} {last:>10} {best:>10}"), style)
        });
        let height = usize::from(area.height.saturating_sub(1)).max(1);
        let skipped = self.selected.map_or(0, |row| (row + 1).saturating_sub(height));
        let header =
            Line::styled(format!("{:<name_columns$} {:>10} {:>10}", "metric", "last", "best"), Style::new().add_modifier(Modifier::DIM));
        let text: Vec<Line> = std::iter::once(header).chain(lines.skip(skipped).take(height)).collect();
        frame.render_widget(Paragraph::new(text), area);
    }

    fn draw_plot(&self, frame: &mut Frame, area: Rect) {
        let shown = self.shown();
        let title = if shown.is_empty() { "waiting for a metric".to_string() } else { shown.join(", ") };
        let block = Block::bordered().title(if self.is_log { format!("{title} (log)") } else { title });
        let curves: Vec<&Series> = shown.iter().map(|name| &*self.run.series[*name]).collect();
        let ranges: Vec<(f64, f64)> = curves.iter().filter_map(|series| series.x_range(XAxis::Step)).collect();
        let Some(x) = ranges.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
            frame.render_widget(block, area);
            return;
        };
        let (x, x_labels) = if x.0 == x.1 {
            ((x.0 - 0.5, x.1 + 0.5), [String::new(), format!("{:.0}", x.0), String::new()])
        } else {
            (x, [x.0, (x.0 + x.1) / 2.0, x.1].map(|x| format!("{x:.0}")))
        };
        // Two dots of braille side by side in a cell.
        let columns = usize::from(area.width.max(1)) * 2;
        let lines: Vec<Vec<Vec<(f64, f64)>>> = curves.iter().map(|series| self.lines(series, x, columns)).collect();
        let dots = || lines.iter().flatten().flatten().map(|&(_, y)| y);
        let (low, high) = (dots().fold(f64::INFINITY, f64::min), dots().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = match (low < high, low == high) {
            (true, _) => (low, high),
            (_, true) => (low - low.abs() * 0.1 - 0.5, high + high.abs() * 0.1 + 0.5),
            // Nothing finite, or nothing above zero on a log scale.
            _ => (0.0, 1.0),
        };
        let datasets = lines.iter().enumerate().flat_map(|(index, lines)| {
            let style = Style::new().fg(COLOURS[index % COLOURS.len()]);
            lines.iter().map(move |line| Dataset::default().data(line).marker(Marker::Braille).graph_type(GraphType::Line).style(style))
        });
        let y_label = |y: f64| number(if self.is_log { 10f64.powf(y) } else { y });
        let chart = Chart::new(datasets.collect())
            .block(block)
            .x_axis(Axis::default().bounds([x.0, x.1]).labels(x_labels))
            .y_axis(Axis::default().bounds([low, high]).labels([y_label(low), y_label((low + high) / 2.0), y_label(high)]));
        frame.render_widget(chart, area);
    }

    /// A curve as lines that break where a value is NaN or infinite, or on a log scale not above zero.
    fn lines(&self, series: &Series, x: (f64, f64), columns: usize) -> Vec<Vec<(f64, f64)>> {
        let mut lines = vec![Vec::new()];
        for column in series.view(XAxis::Step, x, columns) {
            let values = [column.first, column.min, column.max, column.last];
            let scaled = values.map(|value| if self.is_log { value.log10() } else { value });
            let line = lines.len() - 1;
            let finite = scaled.into_iter().filter(|value| value.is_finite());
            lines[line].extend(finite.map(|value| (column.x, value)));
            lines[line].dedup();
            if column.has_gap && !lines[line].is_empty() {
                lines.push(Vec::new());
            }
        }
        lines
    }

    fn draw_events(&self, frame: &mut Frame, area: Rect) {
        let newest = self.run.events.iter().rev().filter(|event| is_shown(event)).take(usize::from(area.height));
        let mut lines: Vec<Line> = newest.map(|event| Line::raw(event_line(event))).collect();
        lines.reverse();
        frame.render_widget(Paragraph::new(lines).style(Style::new().add_modifier(Modifier::DIM)), area);
    }

    fn bottom(&self) -> Paragraph<'_> {
        if self.asks_stop {
            return Paragraph::new("Stop the run after this step? It saves first. y / n").style(Style::new().fg(Color::Yellow));
        }
        if self.is_helping {
            return Paragraph::new(MORE_HELP);
        }
        if self.note.is_empty() {
            return Paragraph::new(HELP).style(Style::new().add_modifier(Modifier::DIM));
        }
        Paragraph::new(Line::from(vec![
            Span::styled(self.note.as_str(), Style::new().fg(Color::Yellow)),
            Span::raw("   "),
            Span::raw(HELP),
        ]))
    }
}

/// Scalar metrics, losses first, `train/loss` before all.
fn names(run: &Run) -> Vec<&str> {
    let mut names: Vec<&str> = run.series.keys().map(String::as_str).collect();
    names.sort_by_key(|name| (*name != "train/loss", !name.ends_with("/loss")));
    names
}

/// The metrics asked for that there are, or else the losses, or else the first metric.
fn chosen<'a>(run: &'a Run, asked: &[String]) -> Vec<&'a str> {
    let names = names(run);
    let asked: Vec<&str> = asked.iter().filter_map(|asked| names.iter().copied().find(|name| name == asked)).collect();
    if !asked.is_empty() {
        return asked;
    }
    let losses: Vec<&str> = names.iter().copied().filter(|name| name.ends_with("/loss")).collect();
    if losses.is_empty() { names.into_iter().take(1).collect() } else { losses }
}

/// Of an accuracy or a score the greatest is the best, of anything else the least.
fn is_better_greater(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    ["accuracy", "acc", "f1", "precision", "recall", "auc", "r2", "score", "per_sec"].iter().any(|word| last.contains(word))
}

/// `step 120/1000  epoch 1.20  41.3 steps/s  about 21 s left`.
fn progress(run: &Run) -> String {
    let Some(info) = &run.info else { return String::new() };
    let mut text = format!("step {}", info.at.step);
    if let (Some(total), Some(part)) = (info.steps_total, run.progress()) {
        text += &format!("/{total}  {:.0} %", part * 100.0);
    }
    text += &format!("  epoch {:.2}", info.at.epoch);
    if info.state == RunState::Running {
        if let Some(speed) = run.steps_per_sec() {
            text += &format!("  {speed:.1} steps/s");
        }
        if let Some(secs) = run.eta_secs() {
            text += &format!("  about {} left", duration(secs));
        }
    }
    text
}

fn duration(secs: f64) -> String {
    match secs {
        secs if secs < 100.0 => format!("{secs:.0} s"),
        secs if secs < 6000.0 => format!("{:.0} min", secs / 60.0),
        secs => format!("{:.1} h", secs / 3600.0),
    }
}

/// A value in at most 10 characters.
fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-3..1e5).contains(&size) || !value.is_finite() { format!("{value:.4}") } else { format!("{value:.2e}") }
}

/// The end of a name that is too long: that is where names differ.
fn shortened(name: &str, columns: usize) -> String {
    let count = name.chars().count();
    if count <= columns { name.to_string() } else { format!("…{}", name.chars().skip(count + 1 - columns).collect::<String>()) }
}

/// Where the start-up time went is for `solstice train --verbose`, what can be changed for the dashboard.
fn is_shown(event: &solstice_store::Event) -> bool {
    !matches!(event.kind.as_str(), "startup" | "live")
}

fn event_line(event: &solstice_store::Event) -> String {
    format!("step {}  {} ({}): {}", event.step, event.kind, event.who, event.message)
}

/// The run in lines, until it ends.
fn tell(data: &mut RunData, asked: &[String]) -> Result<i32> {
    let mut out = std::io::stdout().lock();
    let mut told = Told { events: 0, step: None, at: None };
    let run = data.run();
    if let Some(info) = &run.info {
        writeln!(out, "{} ({}), {}", run.title(), run.id, info.path.display())?;
    }
    loop {
        let run = data.run();
        let is_over = run.info.as_ref().is_none_or(|info| info.state.is_over()) || run.problem.is_some();
        told.tell(&run, asked, is_over && run.is_complete, &mut out)?;
        out.flush()?;
        if is_over && run.is_complete {
            return end(&run, &mut out);
        }
        std::thread::sleep(POLL);
        data.poll();
    }
}

struct Told {
    events: usize,
    step: Option<u64>,
    at: Option<Instant>,
}

impl Told {
    /// Events that are new, and the values of now if it is time for them.
    fn tell(&mut self, run: &Run, asked: &[String], is_last: bool, out: &mut impl Write) -> std::io::Result<()> {
        for event in run.events.iter().skip(self.events).filter(|event| is_shown(event)) {
            writeln!(out, "{}", event_line(event))?;
        }
        self.events = run.events.len();
        let shown = chosen(run, asked);
        let step = shown.iter().filter_map(|name| run.series[*name].last()).map(|point| point.step).max();
        let is_due = is_last || self.at.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if step.is_some() && step != self.step && is_due {
            let values = shown.iter().filter_map(|name| Some(format!("{name} {}", number(run.series[*name].last()?.value))));
            writeln!(out, "{}  {}", progress(run), values.collect::<Vec<_>>().join("  "))?;
            (self.step, self.at) = (step, Some(Instant::now()));
        }
        Ok(())
    }
}

/// The last line: how the run ended.
fn end(run: &Run, out: &mut impl Write) -> Result<i32> {
    if let Some(problem) = &run.problem {
        anyhow::bail!("{problem}");
    }
    let Some(info) = &run.info else { return Ok(exit::FAILED) };
    let reason = info.state_reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    writeln!(out, "{}{reason}", info.state)?;
    out.flush()?;
    Ok(if matches!(info.state, RunState::Failed | RunState::Lost) { exit::FAILED } else { exit::OK })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use solstice_store::{At, Event, NewRun, RunUpdate, RunWriter};
    use std::path::Path;

    /// A run of 100 steps of 200 whose `train/loss` is `value(step)`.
    fn run_with(folder: &Path, value: impl Fn(u64) -> f64) -> RunWriter {
        let writer = RunWriter::create(folder, &NewRun { name: "tiny".to_string(), ..NewRun::default() }).unwrap();
        writer.state(RunState::Running, None);
        writer.update(RunUpdate { steps_total: Some(200), ..RunUpdate::default() });
        for step in 1..=100 {
            let at = At { step, epoch: step as f64 / 50.0, samples: step };
            writer.scalar(at, "train/loss", value(step));
            writer.progress(at);
        }
        writer.scalar(At::from(100), "val/accuracy", 0.75);
        writer.event(Event::new(100, "eval", "worker", "evaluated val"));
        writer.flush().unwrap();
        writer
    }

    fn view_of(writer: &RunWriter, chosen: &[&str]) -> View {
        let mut data = RunData::new(writer.path());
        read_all(&mut data);
        View::new(data.run(), &chosen.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    /// The screen, a string a row.
    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect()).collect()
    }

    /// Cells with a dot of a curve: column and row.
    fn dots(rows: &[String]) -> Vec<(usize, usize)> {
        let is_dot = |cell: char| ('\u{2801}'..='\u{28ff}').contains(&cell);
        let of_row =
            |(y, row): (usize, &String)| row.chars().enumerate().filter(|(_, cell)| is_dot(*cell)).map(|(x, _)| (x, y)).collect::<Vec<_>>();
        rows.iter().enumerate().flat_map(of_row).collect()
    }

    fn key(letter: char) -> KeyEvent {
        KeyEvent::from(KeyCode::Char(letter))
    }

    #[test]
    fn a_rising_curve_is_drawn_upwards_and_a_falling_one_down() {
        let folder = tempfile::tempdir().unwrap();
        for is_rising in [true, false] {
            let writer = run_with(folder.path(), |step| if is_rising { step as f64 } else { 100.0 - step as f64 });
            let dots = dots(&screen(&view_of(&writer, &[]), 100, 30));
            let (left, right) = (dots.iter().min().unwrap(), dots.iter().max().unwrap());
            // Row 0 is the uppermost.
            assert!(dots.len() > 20 && (left.1 > right.1) == is_rising && left.1.abs_diff(right.1) > 10, "{left:?} {right:?}");
        }
    }

    #[test]
    fn the_screen_tells_name_state_progress_values_events_and_keys() {
        let folder = tempfile::tempdir().unwrap();
        let writer = run_with(folder.path(), |step| 2.0 - step as f64 / 100.0);
        let mut view = view_of(&writer, &[]);
        let rows = screen(&view, 120, 30);
        assert!(rows[0].starts_with("tiny  ") && rows[0].contains(writer.id()) && rows[0].contains("running"), "{}", rows[0]);
        assert!(rows[1].contains("step 100/200  50 %  epoch 2.00"), "{}", rows[1]);
        let row_of = |text: &str| rows.iter().find(|row| row.starts_with(text)).unwrap();
        assert!(row_of("train/loss").contains("1.0000"), "{rows:#?}");
        assert!(row_of("val/accuracy").contains("0.7500"), "{rows:#?}");
        assert!(rows.iter().any(|row| row.contains("eval (worker): evaluated val")), "{rows:#?}");
        assert!(rows[29].starts_with("q quit"), "{}", rows[29]);
        // The curve's own axis: 1.99 at step 1 to 1 at step 100.
        assert!(rows.iter().any(|row| row.contains("1.9900")), "{rows:#?}");
        view.press(KeyEvent::from(KeyCode::Down));
        view.press(KeyEvent::from(KeyCode::Down));
        assert_eq!(view.shown(), ["val/accuracy"]);
        view.press(KeyEvent::from(KeyCode::Up));
        view.press(KeyEvent::from(KeyCode::Up));
        assert_eq!(view.shown(), ["train/loss"]);
        assert_eq!(view_of(&writer, &["val/accuracy"]).shown(), ["val/accuracy"]);
        assert!(view_of(&writer, &["val/acuracy"]).note.contains("val/accuracy"));
    }

    #[test]
    fn every_size_of_terminal_and_every_kind_of_value_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let odd = [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e300, 1e-300];
        for (kind, value) in odd.into_iter().enumerate() {
            let writer = run_with(folder.path(), |step| if step % 7 == 0 || kind % 2 == 1 { value } else { step as f64 });
            let mut view = view_of(&writer, &[]);
            for is_log in [false, true] {
                view.is_log = is_log;
                for (width, height) in [(1, 1), (5, 3), (20, 8), (80, 24), (300, 80)] {
                    screen(&view, width, height);
                }
            }
        }
    }

    #[test]
    fn keys_become_commands_and_stop_asks_first() {
        let folder = tempfile::tempdir().unwrap();
        let writer = run_with(folder.path(), |step| step as f64);
        let mut view = view_of(&writer, &[]);
        let wanted = [('p', "pause"), ('e', "eval"), ('c', "checkpoint")];
        for (letter, kind) in wanted {
            assert_eq!(view.press(key(letter)), Action::Send(kind, json!({})));
        }
        assert_eq!(view.press(key('s')), Action::Send("step", json!({"steps": 1})));
        assert_eq!(view.press(key('x')), Action::Nothing);
        assert!(screen(&view, 80, 24)[23].contains("y / n"));
        assert_eq!(view.press(key('n')), Action::Nothing);
        assert_eq!(view.press(key('y')), Action::Nothing);
        view.press(key('x'));
        assert_eq!(view.press(key('y')), Action::Send("stop", json!({})));
        assert_eq!(view.press(key('q')), Action::Quit);
        assert_eq!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);

        // The answer of the run shows.
        writer.state(RunState::Paused, None);
        writer.flush().unwrap();
        view.send("resume", &json!({}));
        let id = view.sent.unwrap().1;
        while writer.wait_for_commands(Duration::from_secs(1)).is_empty() {}
        writer.complete_command(id, Err("it is too late"));
        writer.flush().unwrap();
        let mut data = RunData::new(writer.path());
        read_all(&mut data);
        view.update(data.run());
        assert_eq!(view.press(key('p')), Action::Send("resume", json!({})));
        assert!(screen(&view, 80, 24)[23].contains("resume was refused: it is too late"));
    }

    #[test]
    fn without_a_terminal_the_run_is_told_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let writer = run_with(folder.path(), |step| step as f64);
        writer.state(RunState::Failed, Some("the loss is NaN"));
        writer.flush().unwrap();
        let mut data = RunData::new(writer.path());
        read_all(&mut data);
        let mut out = Vec::new();
        Told { events: 0, step: None, at: None }.tell(&data.run(), &[], true, &mut out).unwrap();
        assert_eq!(end(&data.run(), &mut out).unwrap(), exit::FAILED);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("step 100/200  50 %  epoch 2.00  train/loss 100.0000\n"), "{text}");
        assert!(text.ends_with("failed: the loss is NaN\n"), "{text}");
    }
}
