//! The drawing of a model: boxes and edges on a canvas that can be moved and zoomed. Folded modules are one box with their children inside.

use super::layout::{Layout, layout};
use super::{Graph, Model, ModelView, Node, grouped, shape_text, triangle};
use crate::gui::theme::Palette;
use eframe::egui::epaint::CubicBezierShape;
use eframe::egui::{self, Align2, Color32, FontId, Pos2, Rect, Role, Sense, Shape, Stroke, StrokeKind, Ui, Vec2, WidgetInfo, pos2, vec2};
use std::collections::{BTreeMap, HashMap};

/// Smaller than this, text is left out.
const TEXT_MIN: f32 = 5.5;
/// Air around the drawing.
const MARGIN: f32 = 14.0;
/// A drawing that fits only smaller than this is shown from its top instead.
const FIT_ZOOM_MIN: f32 = 0.75;

/// What a box is, which gives it its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Category {
    Input,
    Linear,
    Convolution,
    Norm,
    Attention,
    Embedding,
    Op,
    Group,
    Output,
}

impl Category {
    fn of(node: &Node) -> Category {
        let ty = node.ty.as_str();
        match node.kind.as_str() {
            "input" => Category::Input,
            "output" => Category::Output,
            _ if ty.contains("attention") => Category::Attention,
            _ if ty.contains("norm") => Category::Norm,
            _ if ty.starts_with("conv") && !ty.starts_with("convert") => Category::Convolution,
            _ if ty.contains("linear") || ty.contains("matmul") || ty.contains("dot_general") => Category::Linear,
            _ if ty.contains("embedding") || ty.contains("lookup") => Category::Embedding,
            "module" => Category::Linear,
            _ => Category::Op,
        }
    }

    fn color(self, palette: &Palette) -> Color32 {
        match self {
            Category::Linear => palette.series[0],
            Category::Convolution => palette.series[1],
            Category::Norm => palette.series[2],
            Category::Attention => palette.series[3],
            Category::Embedding => palette.series[6],
            Category::Input | Category::Output => palette.accent,
            Category::Op | Category::Group => palette.dim,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Category::Input => "input and output",
            Category::Linear => "linear",
            Category::Convolution => "convolution",
            Category::Norm => "norm",
            Category::Attention => "attention",
            Category::Embedding => "embedding",
            Category::Op => "op",
            Category::Group => "folded",
            Category::Output => "output",
        }
    }
}

/// A box.
#[derive(Debug)]
struct Item {
    /// What a click selects: the module, or its own name for one outside of all.
    key: String,
    /// Its name to those who cannot see it.
    label: String,
    title: String,
    subtitle: String,
    hover: String,
    category: Category,
    /// The module that a click on its mark opens.
    group: Option<String>,
}

/// An open module with a frame around its boxes.
#[derive(Debug)]
struct Enclosure {
    module: String,
    rect: Rect,
}

/// A graph as far as it is unfolded, with places.
#[derive(Debug, Default)]
pub struct Drawing {
    items: Vec<Item>,
    rects: Vec<Rect>,
    /// Of each edge, the boxes that it joins.
    edges: Vec<[usize; 2]>,
    routes: Vec<Vec<Pos2>>,
    enclosures: Vec<Enclosure>,
    size: Vec2,
}

/// Which part of the drawing is seen.
#[derive(Debug, Default)]
pub struct Canvas {
    zoom: f32,
    pan: Vec2,
    /// Somebody has moved it: it no longer follows the size of the panel.
    is_moved: bool,
}

impl Canvas {
    /// Shows everything at the next frame.
    pub fn fit(&mut self) {
        self.is_moved = false;
    }
}

/// What was clicked in a frame.
#[derive(Debug, Default)]
pub struct Asked {
    /// Select this, or nothing.
    pub selected: Option<Option<String>>,
    /// Open or fold this module.
    pub toggled: Option<String>,
}

impl Drawing {
    /// Lays out what `view` has open.
    pub fn new(ui: &Ui, model: &Model, view: &ModelView) -> Drawing {
        let Graph { nodes, edges, .. } = &model.graph;
        let groups: BTreeMap<&str, &super::Module> =
            model.modules.iter().filter(|module| module.has_children).map(|module| (module.path.as_str(), module)).collect();
        // The outermost folded module around a node.
        let folded_around = |node: &Node| -> Option<&str> {
            let ends = node.module.match_indices('.').map(|(end, _)| end).chain([node.module.len()]);
            let mut around = ends.map(|end| &node.module[..end]).filter_map(|path| groups.get_key_value(path).map(|(path, _)| *path));
            around.find(|path| !view.is_open(path))
        };
        let mut items: Vec<Item> = vec![];
        let mut of_group: HashMap<&str, usize> = HashMap::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let item_of: Vec<usize> = nodes
            .iter()
            .map(|node| match folded_around(node) {
                Some(path) => *of_group.entry(path).or_insert_with(|| {
                    let count = model.modules.iter().filter(|module| is_inside(&module.path, path)).count();
                    let module = groups[path];
                    let title = path.rsplit('.').next().unwrap_or(path).to_owned();
                    let subtitle =
                        if module.kind.is_empty() { format!("{count} modules") } else { format!("{}, {count} modules", module.kind) };
                    let hover = format!("{path}\n{} parameters\nDouble click to open", grouped(module.parameters));
                    let (key, label) = (path.to_owned(), format!("Node {path}"));
                    items.push(Item { key, label, title, subtitle, hover, category: Category::Group, group: Some(path.to_owned()) });
                    items.len() - 1
                }),
                None => {
                    let category = Category::of(node);
                    let is_op = category == Category::Op && node.kind == "op";
                    let path = if node.kind == "module" { node.module.clone() } else { joined(&node.module, &node.name) };
                    // The second use of a module, or the second sum of a block, is another box.
                    let count = seen.entry(path.clone()).or_insert(0);
                    *count += 1;
                    // What is no module belongs to the row of the one that it stands in.
                    let key = if node.kind == "module" { path.clone() } else { format!("{}#{} {count}", node.module, node.name) };
                    let label = if *count == 1 { format!("Node {path}") } else { format!("Node {path} {count}") };
                    let shape = shape_text(&node.shape);
                    let subtitle = match (is_op, node.kind.as_str()) {
                        (true, _) => String::new(),
                        (_, "input" | "output") => shape.clone(),
                        _ if node.ty == node.name => shape.clone(),
                        _ => format!("{} · {shape}", node.ty),
                    };
                    let mut hover = vec![path, node.ty.clone()];
                    if !node.shape.is_empty() {
                        hover.push(node.shape.clone());
                    }
                    if node.parameters > 0.0 {
                        hover.push(format!("{} parameters", grouped(node.parameters)));
                    }
                    if *count > 1 && node.kind == "module" {
                        hover.push(format!("use {count} of the same weights"));
                    }
                    items.push(Item { key, label, title: words(&node.name), subtitle, hover: hover.join("\n"), category, group: None });
                    items.len() - 1
                }
            })
            .collect();
        let mut joined_edges: Vec<[usize; 2]> =
            edges.iter().map(|[from, to]| [item_of[*from], item_of[*to]]).filter(|[a, b]| a != b).collect();
        joined_edges.sort_unstable();
        joined_edges.dedup();

        let width_of =
            |text: &str, size: f32| ui.painter().layout_no_wrap(text.into(), FontId::proportional(size), Color32::WHITE).size().x;
        let size_of = |item: &Item| {
            let mark = if item.group.is_some() { 16.0 } else { 0.0 };
            match item.subtitle.is_empty() {
                true => (width_of(&item.title, 11.5) + 20.0 + mark, 22.0),
                false => ((width_of(&item.title, 12.5) + mark).max(width_of(&item.subtitle, 10.0)) + 24.0, 38.0),
            }
        };
        let sizes: Vec<(f32, f32)> = items.iter().map(size_of).collect();
        let Layout { centers, routes, size } = layout(&sizes, &joined_edges);
        let rects: Vec<Rect> = centers
            .iter()
            .zip(&sizes)
            .map(|((x, y), (width, height))| Rect::from_center_size(pos2(*x, *y), vec2(*width, *height)))
            .collect();
        let mut drawing = Drawing {
            items,
            rects,
            edges: joined_edges,
            routes: routes.into_iter().map(|route| route.into_iter().map(|(x, y)| pos2(x, y)).collect()).collect(),
            enclosures: vec![],
            size: vec2(size.0, size.1),
        };
        for path in groups.keys().filter(|path| path.contains('.') && view.is_open(path)) {
            let inside: Vec<usize> = (0..nodes.len())
                .filter(|node| *nodes[*node].module == **path || is_inside(&nodes[*node].module, path))
                .map(|node| item_of[node])
                .collect();
            drawing.enclose(path, &inside);
        }
        drawing
    }

    // A frame around the boxes of an open module, where no other box stands among them.
    fn enclose(&mut self, module: &str, inside: &[usize]) {
        let Some(whole) = inside.iter().map(|item| self.rects[*item]).reduce(Rect::union) else { return };
        // Edges from inside to inside too.
        let within = self.edges.iter().zip(&self.routes).filter(|(ends, _)| ends.iter().all(|end| inside.contains(end)));
        let whole = within.flat_map(|(_, route)| route).fold(whole, |whole, point| whole.union(Rect::from_pos(*point)));
        let depth = module.matches('.').count() as f32;
        let rect = whole.expand2(vec2((14.0 - 3.0 * depth).max(4.0), (10.0 - 2.0 * depth).max(3.0)));
        if !(0..self.rects.len()).any(|item| !inside.contains(&item) && self.rects[item].intersects(rect)) {
            self.enclosures.push(Enclosure { module: module.into(), rect });
        }
    }
}

fn is_inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

fn joined(module: &str, name: &str) -> String {
    if module.is_empty() { name.into() } else { format!("{module}.{name}") }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Draws it in what is left of `ui`.
pub fn show(ui: &mut Ui, drawing: &Drawing, canvas: &mut Canvas, selected: Option<&str>, palette: &Palette) -> Asked {
    let mut asked = Asked::default();
    let (rect, response) = ui.allocate_exact_size(ui.available_size(), Sense::click_and_drag());
    response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, "Graph of the model"));
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 5.0, palette.background);
    navigate(ui, canvas, &response, rect, drawing.size);
    let to_screen = |at: Pos2| rect.min + canvas.pan + at.to_vec2() * canvas.zoom;
    let on_screen = |area: Rect| Rect::from_min_max(to_screen(area.min), to_screen(area.max));
    // Sizes of text in half points: each size is drawn into the window's memory once.
    let font = |size: f32| FontId::proportional((size * canvas.zoom * 2.0).round() / 2.0);

    for enclosure in &drawing.enclosures {
        let area = on_screen(enclosure.rect);
        painter.rect(area, 7.0, palette.raised.gamma_multiply(0.35), Stroke::new(1.0, palette.line), StrokeKind::Inside);
    }
    let is_chosen = |item: usize| selected == Some(drawing.items[item].key.as_str());
    for ([from, to], route) in drawing.edges.iter().zip(&drawing.routes) {
        let is_strong = is_chosen(*from) || is_chosen(*to);
        let color = if is_strong { palette.accent } else { palette.dim.gamma_multiply(0.7) };
        let stroke = Stroke::new(if is_strong { 1.6 } else { 1.0 }, color);
        edge(&painter, &route.iter().map(|at| to_screen(*at)).collect::<Vec<_>>(), stroke, canvas.zoom);
    }
    for (index, (item, area)) in drawing.items.iter().zip(&drawing.rects).enumerate() {
        let area = on_screen(*area);
        let visible = area.intersect(rect);
        if !visible.is_positive() {
            continue;
        }
        let node = ui.interact(visible, ui.scope_id().with(("node", index, &item.key)), Sense::click());
        node.widget_info(|| WidgetInfo::selected(Role::Button, true, is_chosen(index), &item.label));
        draw(&painter, item, area, is_chosen(index), node.hovered(), &font, palette);
        let mut is_mark = false;
        if let Some(group) = &item.group {
            let mark = Rect::from_center_size(pos2(area.right() - 11.0 * canvas.zoom, area.top() + 13.0 * canvas.zoom), Vec2::splat(16.0));
            let open = ui.interact(mark.intersect(rect), ui.scope_id().with(("open", group)), Sense::click());
            open.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Open {group}")));
            triangle(&painter, mark.center(), false, if open.hovered() { palette.text } else { palette.dim });
            is_mark = open.clicked();
            if is_mark || node.double_clicked() {
                asked.toggled = Some(group.clone());
            }
        }
        if node.clicked() && !is_mark {
            asked.selected = Some((!is_chosen(index)).then(|| item.key.clone()));
        }
        node.on_hover_text(&item.hover);
    }
    for enclosure in &drawing.enclosures {
        let area = on_screen(enclosure.rect);
        let mark = Rect::from_center_size(area.right_top() + vec2(-9.0, 9.0), Vec2::splat(16.0));
        if !rect.contains_rect(mark) {
            continue;
        }
        let close = ui.interact(mark, ui.scope_id().with(("close", &enclosure.module)), Sense::click());
        close.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Close {}", enclosure.module)));
        triangle(&painter, mark.center(), true, if close.hovered() { palette.text } else { palette.dim });
        if close.clicked() {
            asked.toggled = Some(enclosure.module.clone());
        }
        close.on_hover_text(format!("Fold {}", enclosure.module));
    }
    if response.clicked() {
        asked.selected = Some(None);
    }
    legend(&painter, drawing, rect, palette);
    let fit = Rect::from_min_size(rect.right_top() + vec2(-46.0, 6.0), vec2(40.0, 20.0));
    if canvas.is_moved && ui.put(fit, egui::Button::new("Fit")).on_hover_text("Show all of it (double click beside a box)").clicked() {
        canvas.fit();
    }
    asked
}

// The wheel moves, with Ctrl it zooms; a drag moves; a double click shows all.
fn navigate(ui: &Ui, canvas: &mut Canvas, response: &egui::Response, rect: Rect, size: Vec2) {
    let room = rect.size() - Vec2::splat(2.0 * MARGIN) - vec2(0.0, 16.0);
    if response.double_clicked() {
        canvas.is_moved = false;
    }
    let (delta, scroll) = ui.input(|input| (input.zoom_delta(), input.smooth_scroll_delta));
    let mouse = ui.input(|input| input.pointer.hover_pos()).filter(|mouse| rect.contains(*mouse) && ui.rect_contains_pointer(rect));
    if let Some(mouse) = mouse.filter(|_| delta != 1.0) {
        let zoom = (canvas.zoom * delta).clamp(0.15, 3.0);
        let at = mouse - rect.min - canvas.pan;
        canvas.pan = mouse - rect.min - at * (zoom / canvas.zoom.max(1e-3));
        (canvas.zoom, canvas.is_moved) = (zoom, true);
    } else if mouse.is_some() && scroll != Vec2::ZERO {
        canvas.pan += scroll;
        canvas.is_moved = true;
    }
    if response.dragged() {
        canvas.pan += response.drag_delta();
        canvas.is_moved = true;
    }
    if !canvas.is_moved || canvas.zoom <= 0.0 {
        let whole = (room.x / size.x.max(1.0)).min(room.y / size.y.max(1.0));
        canvas.zoom = whole.clamp(FIT_ZOOM_MIN.min((room.x / size.x.max(1.0)).max(0.3)), 1.0);
        let left = (rect.width() - size.x * canvas.zoom) / 2.0;
        let top = (rect.height() - 16.0 - size.y * canvas.zoom) / 2.0;
        canvas.pan = vec2(left, top.max(MARGIN));
    }
}

fn edge(painter: &egui::Painter, points: &[Pos2], stroke: Stroke, zoom: f32) {
    for (index, pair) in points.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        // Every second piece passes a layer in its lane.
        if index % 2 == 1 || (from.x - to.x).abs() < 0.5 {
            painter.line_segment([from, to], stroke);
            continue;
        }
        let bend = vec2(0.0, (to.y - from.y) * 0.5);
        painter.add(CubicBezierShape::from_points_stroke([from, from + bend, to - bend, to], false, Color32::TRANSPARENT, stroke));
    }
    if let [.., before, tip] = points
        && zoom > 0.3
    {
        let way = if tip.y >= before.y { 1.0 } else { -1.0 };
        let (width, height) = (3.2 * zoom.min(1.2), 5.0 * zoom.min(1.2) * way);
        let corners = vec![*tip, *tip + vec2(-width, -height), *tip + vec2(width, -height)];
        painter.add(Shape::convex_polygon(corners, stroke.color, Stroke::NONE));
    }
}

fn draw(
    painter: &egui::Painter,
    item: &Item,
    area: Rect,
    is_chosen: bool,
    is_hovered: bool,
    font: &dyn Fn(f32) -> FontId,
    palette: &Palette,
) {
    let color = item.category.color(palette);
    let is_pill = item.subtitle.is_empty() || matches!(item.category, Category::Input | Category::Output);
    let corner = if is_pill { area.height() / 2.0 } else { 5.0 };
    if item.group.is_some() {
        // A stack: there is more inside.
        painter.rect(area.translate(vec2(3.0, 3.0)), corner, palette.panel, Stroke::new(1.0, palette.line), StrokeKind::Inside);
    }
    painter.rect_filled(area, corner, palette.panel);
    painter.rect_filled(area, corner, color.gamma_multiply(if is_hovered { 0.3 } else { 0.16 }));
    let stroke = if is_chosen { Stroke::new(2.0, palette.accent) } else { Stroke::new(1.0, color.gamma_multiply(0.75)) };
    painter.rect_stroke(area, corner, stroke, StrokeKind::Inside);
    let (large, small) = (font(if item.subtitle.is_empty() { 11.5 } else { 12.5 }), font(10.0));
    if large.size < TEXT_MIN {
        return;
    }
    let shift = if item.group.is_some() { vec2(-6.0, 0.0) } else { Vec2::ZERO };
    if item.subtitle.is_empty() {
        painter.text(area.center() + shift, Align2::CENTER_CENTER, &item.title, large, palette.text);
        return;
    }
    let up = area.height() * 0.19;
    painter.text(area.center() - vec2(0.0, up) + shift, Align2::CENTER_CENTER, &item.title, large, palette.text);
    if small.size >= TEXT_MIN {
        painter.text(area.center() + vec2(0.0, up + 0.5), Align2::CENTER_CENTER, &item.subtitle, small, palette.dim);
    }
}

// What the colours mean, of those that are there.
fn legend(painter: &egui::Painter, drawing: &Drawing, rect: Rect, palette: &Palette) {
    let mut there: Vec<Category> =
        drawing.items.iter().map(|item| item.category).filter(|category| *category != Category::Output).collect();
    there.sort_unstable();
    there.dedup();
    let strip = Rect::from_min_max(pos2(rect.left(), rect.bottom() - 20.0), rect.max);
    painter.rect_filled(strip, 0.0, palette.background);
    let mut left = rect.left() + 10.0;
    for category in there {
        let galley = painter.layout_no_wrap(category.word().into(), FontId::proportional(10.5), palette.dim);
        if left + galley.size().x + 22.0 > rect.right() {
            break;
        }
        painter.circle_filled(pos2(left + 3.0, strip.center().y), 3.2, category.color(palette));
        let (width, height) = (galley.size().x, galley.size().y);
        painter.galley(pos2(left + 10.0, strip.center().y - height / 2.0), galley, palette.dim);
        left += width + 22.0;
    }
}
