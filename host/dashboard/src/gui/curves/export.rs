//! A chart as a file: its points as CSV, its drawing as SVG or as PNG with twice the window's pixels. Files are written by a thread; the panel says where.

use super::super::Panel;
use super::super::theme::{self, Palette};
use super::chart::Trace;
use super::lines::{Line, Picture, STRIP_HEIGHT};
use super::{marks, raster};
use crate::data::{Series, XAxis};
use crossbeam_channel::{Receiver, Sender};
use eframe::egui::{self, Align2, FontId, Frame, Margin, Painter, Pos2, Rect, RichText, Ui, pos2, vec2};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pixels of a PNG for each of the window's, along each side.
const PNG_SCALE: f32 = 2.0;
/// Between a chart and the names of its curves below.
const LEGEND_GAP: f32 = 8.0;
/// Height of a name there.
const LEGEND_ROW: f32 = 16.0;

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Every point of the shown runs in the shown range.
    Csv,
    /// The drawing.
    Svg,
    /// The same as pixels.
    Png,
}

impl Format {
    /// All of them, in the order of the menu.
    pub const ALL: [Format; 3] = [Format::Csv, Format::Svg, Format::Png];

    /// What the menu says.
    pub fn title(self) -> &'static str {
        match self {
            Format::Csv => "Save points as CSV",
            Format::Svg => "Save drawing as SVG",
            Format::Png => "Save picture as PNG",
        }
    }
}

/// Files under way, and what became of the last one.
#[derive(Debug)]
pub struct Exports {
    channel: (Sender<Result<PathBuf, String>>, Receiver<Result<PathBuf, String>>),
    /// Where the last one is, or why it is not.
    pub said: Option<Result<PathBuf, String>>,
}

impl Default for Exports {
    fn default() -> Exports {
        Exports { channel: crossbeam_channel::unbounded(), said: None }
    }
}

/// Takes up what the threads have written. Called once a frame.
pub fn poll(panel: &mut Panel) {
    let exports = &mut panel.session.charts.exports;
    while let Ok(outcome) = exports.channel.1.try_recv() {
        exports.said = Some(outcome);
    }
}

/// The line that says where the last file is.
pub fn line(ui: &mut Ui, panel: &mut Panel) {
    let palette = Palette::of(ui);
    let exports = &mut panel.session.charts.exports;
    let Some(said) = &exports.said else { return };
    let mut is_closed = false;
    let frame = Frame::new().fill(palette.raised).corner_radius(5).inner_margin(Margin::symmetric(10, 4));
    egui::Panel::bottom("exported").frame(frame).show_separator_line(false).show(ui, |ui| {
        ui.horizontal(|ui| {
            // The buttons first, so that a long path is cut and they are not.
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                is_closed = ui.button("Close").clicked();
                if let Ok(path) = said
                    && ui.button("Copy path").clicked()
                {
                    ui.ctx().copy_text(path.display().to_string());
                }
                ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
                    let (text, color) = match said {
                        Ok(path) => (format!("Saved {}", path.display()), palette.text),
                        Err(reason) => (reason.clone(), palette.error),
                    };
                    ui.add(egui::Label::new(RichText::new(text).color(color)).truncate());
                });
            });
        });
    });
    if is_closed {
        exports.said = None;
    }
}

/// Begins what was asked of this chart. `notes`: what its title says besides its name.
pub fn carry_out(ui: &Ui, panel: &mut Panel, runs: &[Trace], picture: &Picture, notes: &[(String, bool)], palette: &Palette) {
    let context = ui.ctx();
    let Some((_, format)) = panel.session.charts.export.take_if(|(metric, _)| *metric == picture.title) else { return };
    let folders = folders(panel.folders, runs);
    let sender = panel.session.charts.exports.channel.0.clone();
    let stem = stem(&picture.title);
    let waker = context.clone();
    let send = move |outcome| {
        // The panel may be gone.
        let _ = sender.send(outcome);
        waker.request_repaint();
    };
    match format {
        Format::Csv => {
            let of = |trace: &Trace| {
                let run = trace.run?;
                Some((run.id.clone(), trace.name.clone(), run.series.get(&picture.title)?.clone()))
            };
            let curves: Vec<(String, String, Arc<Series>)> = runs.iter().filter_map(of).collect();
            let (x_axis, range) = (picture.x_axis, (picture.x.low, picture.x.high));
            spawn(move || send(save(&folders, &stem, "csv", |file| write_csv(file, &curves, x_axis, range))));
        }
        Format::Svg => {
            let text = svg(picture, palette);
            spawn(move || send(save(&folders, &stem, "svg", |file| file.write_all(text.as_bytes()))));
        }
        Format::Png => {
            let (picture, palette, scale) = (picture.clone(), *palette, context.pixels_per_point() * PNG_SCALE);
            let marks = marks::seen(panel, runs, &picture.x, &palette);
            let notes: Vec<String> = notes.iter().map(|(note, _)| note.clone()).collect();
            spawn(move || {
                let picture = png(&picture, &marks, &notes, &palette, scale);
                let write = |file: &mut BufWriter<File>| picture.write_to(file, image::ImageFormat::Png).map_err(io::Error::other);
                send(save(&folders, &stem, "png", write));
            });
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    // Without a thread there is no file, and nothing that could be done about it.
    let _ = std::thread::Builder::new().name("export".into()).spawn(work);
}

// Beside the runs folder; where that cannot be written, the folder that the window was started in.
fn folders(watched: &[PathBuf], runs: &[Trace]) -> Vec<PathBuf> {
    let run_folder = runs.iter().find_map(|trace| trace.run).and_then(|run| run.path.parent());
    let runs_folder = watched.first().map(PathBuf::as_path).or(run_folder);
    let beside = runs_folder.map(|folder| {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        folder.parent().map_or(folder.clone(), Path::to_path_buf).join("exports")
    });
    beside.into_iter().chain([PathBuf::from(".")]).collect()
}

// A file's name without what file systems do not like.
fn stem(metric: &str) -> String {
    metric.chars().map(|letter| if letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.') { letter } else { '-' }).collect()
}

/// Writes a new file in the first of `folders` that takes it; one that is there stays as it is, and the new one gets a number.
fn save(folders: &[PathBuf], stem: &str, ending: &str, fill: impl Fn(&mut BufWriter<File>) -> io::Result<()>) -> Result<PathBuf, String> {
    let mut reasons = Vec::new();
    for folder in folders {
        let outcome = std::fs::create_dir_all(folder).and_then(|()| create(folder, stem, ending)).and_then(|(path, file)| {
            let mut file = BufWriter::new(file);
            match fill(&mut file).and_then(|()| file.flush()) {
                Ok(()) => Ok(path),
                Err(error) => {
                    // Half a file is worse than none.
                    let _ = std::fs::remove_file(&path);
                    Err(error)
                }
            }
        });
        match outcome {
            Ok(path) => return Ok(std::path::absolute(&path).unwrap_or(path)),
            Err(error) => reasons.push(format!("{} ({error})", folder.display())),
        }
    }
    Err(format!("{stem}.{ending} could not be written in {}", reasons.join(" or in ")))
}

fn create(folder: &Path, stem: &str, ending: &str) -> io::Result<(PathBuf, File)> {
    let mut number = 1;
    loop {
        let name = if number == 1 { format!("{stem}.{ending}") } else { format!("{stem}-{number}.{ending}") };
        let path = folder.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            outcome => return outcome.map(|file| (path, file)),
        }
    }
}

/// Every point of the range, a line each: run id, step, epoch, samples, seconds since 1970, value, and the run's name. Values as short as 32 bits
/// can be written exactly.
pub fn write_csv(file: &mut impl Write, curves: &[(String, String, Arc<Series>)], x_axis: XAxis, range: (f64, f64)) -> io::Result<()> {
    file.write_all(b"run,step,epoch,samples,time,value,name\r\n")?;
    for (id, name, series) in curves {
        let (id, name) = (csv_field(id), csv_field(name));
        for point in series.points_between(x_axis, range) {
            let value = point.value as f32;
            write!(file, "{id},{},{:.6},{:.0},{:.3},{value},{name}\r\n", point.step, point.epoch, point.samples, point.time)?;
        }
    }
    Ok(())
}

// RFC 4180: quoted where it has to be.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The drawing at `scale` pixels a point: title, axes, bands, lines, marks and a legend.
fn png(picture: &Picture, marks: &[marks::Place], notes: &[String], palette: &Palette, scale: f32) -> image::RgbaImage {
    let offset = -picture.frame.min.to_vec2();
    let size = picture.frame.size() + vec2(0.0, LEGEND_GAP * 2.0 + LEGEND_ROW * picture.lines.len() as f32);
    raster::drawn(size, scale, |painter| {
        let chart = picture.clone().translated(offset);
        painter.rect_filled(Rect::from_min_size(Pos2::ZERO, size), 0.0, palette.background);
        let title = painter.text(pos2(10.0, 14.0), Align2::LEFT_CENTER, &chart.title, FontId::proportional(12.5), palette.text);
        let small = FontId::proportional(10.5);
        painter.text(pos2(title.right() + 12.0, 14.5), Align2::LEFT_CENTER, notes.join(", "), small.clone(), palette.dim);
        let name = super::x_axis_name(chart.x_axis);
        painter.text(pos2(chart.plot.right(), 14.5), Align2::RIGHT_CENTER, name, small, palette.dim);
        chart.paint_grid(painter, palette);
        let strip = chart.plot.bottom() + STRIP_HEIGHT / 2.0 + 0.5;
        for mark in marks {
            theme::event_mark(painter, pos2(mark.at + offset.x, strip), mark.shape, mark.color);
        }
        legend(painter, &chart, palette);
        let plot = chart.plot;
        chart.paint_lines(&painter.with_clip_rect(plot.expand(1.0)), palette);
    })
}

// The names of the curves under the chart, the last drawn first.
fn legend(painter: &Painter, chart: &Picture, palette: &Palette) {
    for (index, line) in chart.lines.iter().rev().enumerate() {
        let y = chart.frame.bottom() + LEGEND_GAP + LEGEND_ROW * (index as f32 + 0.5);
        let sample = vec![pos2(chart.plot.left(), y), pos2(chart.plot.left() + 20.0, y)];
        theme::dashed(painter, sample, egui::Stroke::new(2.4, line.color), line.dash);
        painter.text(pos2(chart.plot.left() + 28.0, y), Align2::LEFT_CENTER, &line.name, FontId::proportional(11.0), palette.text);
    }
}

/// The drawing: title, axes, ticks, bands, lines and a legend; texts are texts.
pub fn svg(picture: &Picture, palette: &Palette) -> String {
    let frame = picture.frame;
    let plot = picture.plot.translate(-frame.min.to_vec2());
    let at = |point: Pos2| point - frame.min.to_vec2();
    let legend_top = frame.height() + LEGEND_GAP;
    let height = legend_top + picture.lines.len() as f32 * LEGEND_ROW + LEGEND_GAP;
    let (text_color, dim) = (theme::hex(palette.text), theme::hex(palette.dim));
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{height}" viewBox="0 0 {0} {height}" font-family="sans-serif">"#,
        frame.width()
    );
    let _ = writeln!(svg, "<title>{}</title>", escaped(&picture.title));
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" fill="{}"/>"#, theme::hex(palette.background));
    let _ = writeln!(svg, r#"<text x="10" y="18" font-size="12.5" fill="{text_color}">{}</text>"#, escaped(&picture.title));
    let _ = writeln!(
        svg,
        r#"<clipPath id="plot"><rect x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}"/></clipPath>"#,
        plot.left(),
        plot.top(),
        plot.width(),
        plot.height()
    );
    let grid = theme::hex(palette.grid);
    let _ = writeln!(svg, r#"<g id="y-axis" font-size="10.5" fill="{dim}" text-anchor="end">"#);
    for (tick, text) in picture.y_ticks() {
        let y = at(pos2(0.0, picture.y.pixel(tick))).y;
        let _ = writeln!(svg, r#"<path d="M{:.2} {y:.2}H{:.2}" stroke="{grid}"/>"#, plot.left(), plot.right());
        let _ = writeln!(svg, r#"<text x="{:.2}" y="{:.2}">{}</text>"#, plot.left() - 6.0, y + 3.6, escaped(&text));
    }
    let _ = writeln!(svg, r#"</g><g id="x-axis" font-size="10.5" fill="{dim}" text-anchor="middle">"#);
    for (tick, text) in picture.x_ticks() {
        let x = at(pos2(picture.x.pixel(tick), 0.0)).x;
        let _ = writeln!(svg, r#"<path d="M{x:.2} {:.2}V{:.2}" stroke="{grid}"/>"#, plot.top(), plot.bottom());
        let _ = writeln!(svg, r#"<text x="{x:.2}" y="{:.2}">{}</text>"#, plot.bottom() + STRIP_HEIGHT + 11.0, escaped(&text));
    }
    let name = super::x_axis_name(picture.x_axis);
    let _ = writeln!(svg, r#"<text x="{:.2}" y="18" text-anchor="end">{name}</text></g>"#, plot.right());
    let _ = writeln!(svg, r#"<g id="curves" clip-path="url(#plot)" fill="none" stroke-linejoin="round">"#);
    for line in &picture.lines {
        svg_line(&mut svg, line, &at);
    }
    let _ = writeln!(svg, r#"</g><g id="legend" font-size="11" fill="{text_color}">"#);
    for (index, line) in picture.lines.iter().rev().enumerate() {
        let y = legend_top + LEGEND_ROW * index as f32 + 6.0;
        let _ = writeln!(
            svg,
            r#"<path d="M{:.2} {y:.2}h20" fill="none" stroke="{}" stroke-width="2.4"{}/>"#,
            plot.left(),
            theme::hex(line.color),
            dashes(line)
        );
        let _ = writeln!(svg, r#"<text x="{:.2}" y="{:.2}">{}</text>"#, plot.left() + 28.0, y + 4.0, escaped(&line.name));
    }
    svg += "</g>\n</svg>\n";
    svg
}

fn svg_line(svg: &mut String, line: &Line, at: &impl Fn(Pos2) -> Pos2) {
    let color = theme::hex(line.color);
    let path = |points: &mut dyn Iterator<Item = Pos2>| {
        let mut path = String::new();
        for (index, point) in points.enumerate() {
            let point = at(point);
            let _ = write!(path, "{}{:.2} {:.2}", if index == 0 { "M" } else { "L" }, point.x, point.y);
        }
        path
    };
    for piece in &line.pieces {
        if piece.band.len() > 1 {
            let lower = piece.band.iter().map(|[x, low, _]| pos2(*x, *low));
            let upper = piece.band.iter().rev().map(|[x, _, high]| pos2(*x, *high));
            let outline = path(&mut lower.chain(upper));
            let _ = writeln!(svg, r#"<path class="band" d="{outline}Z" fill="{color}" fill-opacity="{:.3}"/>"#, line.band_opacity);
        }
        if piece.shadow.len() > 1 {
            let shadow = path(&mut piece.shadow.iter().copied());
            let _ = writeln!(svg, r#"<path class="raw" d="{shadow}" stroke="{color}" stroke-opacity="{:.3}"/>"#, theme::SHADOW_OPACITY);
        }
        if let [point] = piece.line[..] {
            let point = at(point);
            let _ = writeln!(svg, r#"<circle cx="{:.2}" cy="{:.2}" r="{}" fill="{color}"/>"#, point.x, point.y, line.width + 1.0);
        } else if !piece.line.is_empty() {
            let points = path(&mut piece.line.iter().copied());
            let _ = writeln!(svg, r#"<path class="line" d="{points}" stroke="{color}" stroke-width="{}"{}/>"#, line.width, dashes(line));
        }
    }
}

fn dashes(line: &Line) -> String {
    let (dashes, gaps) = theme::DASHES[line.dash % theme::DASHES.len()];
    let pairs: Vec<String> = dashes.iter().zip(gaps).flat_map(|(dash, gap)| [dash.to_string(), gap.to_string()]).collect();
    if pairs.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{}""#, pairs.join(" ")) }
}

fn escaped(text: &str) -> String {
    // What XML has no place for at all is left out.
    let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_stays_and_a_folder_that_refuses_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("a file, no folder");
        std::fs::write(&blocked, "").unwrap();
        let folders = [blocked.join("exports"), folder.path().join("other")];
        let write = |text: &'static str| save(&folders, "train-loss", "csv", move |file| file.write_all(text.as_bytes()));
        let (first, second) = (write("one").unwrap(), write("two").unwrap());
        assert_eq!((first.file_name().unwrap(), second.file_name().unwrap()), ("train-loss.csv".as_ref(), "train-loss-2.csv".as_ref()));
        assert_eq!(std::fs::read_to_string(first).unwrap(), "one");
        let failed = save(&folders[..1], "train-loss", "csv", |_| Ok(())).unwrap_err();
        assert!(failed.starts_with("train-loss.csv could not be written in "), "{failed}");
        let broken = save(&folders, "half", "csv", |_| Err(io::Error::other("no space"))).unwrap_err();
        assert!(broken.contains("no space") && !folders[1].join("half.csv").exists());
    }

    #[test]
    fn names_are_safe_in_files() {
        assert_eq!(stem("train/loss of \"a\" <b>"), "train-loss-of--a---b-");
        assert_eq!(csv_field("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(escaped("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot;");
    }
}
