//! What a painter draws, as pixels at any scale, without a window: the triangles that egui makes of it, filled one after the other on the thread that
//! asks. Curves, shapes and texts look as in the window; slow beside a GPU, and for files only.

use super::super::theme;
use eframe::egui::epaint::{ImageData, ImageDelta, Mesh, Primitive, Vertex};
use eframe::egui::{self, ColorImage, Painter, Pos2, RawInput, Rect, TextureId, Vec2, ViewportId};
use image::{Rgba, RgbaImage};
use std::collections::HashMap;

/// Draws `paint` on an area of `size` points at `scale` pixels a point; the picture begins at the painter's (0, 0).
pub fn drawn(size: Vec2, scale: f32, paint: impl Fn(&Painter)) -> RgbaImage {
    let context = egui::Context::default();
    theme::install(&context);
    let screen = Rect::from_min_size(Pos2::ZERO, size);
    let mut input = RawInput { screen_rect: Some(screen), ..RawInput::default() };
    input.viewports.entry(ViewportId::ROOT).or_default().native_pixels_per_point = Some(scale);
    let mut output = context.run_ui(input, |ui| paint(&ui.painter().with_clip_rect(screen)));
    let mut textures: HashMap<TextureId, ColorImage> = HashMap::new();
    for (id, deltas) in std::mem::take(&mut output.textures_delta.set) {
        deltas.into_iter().for_each(|delta| put(textures.entry(id).or_default(), delta));
    }
    output.textures_delta.free.clear();
    let pixels = |points: f32| (points * scale).round().max(1.0) as usize;
    let mut canvas = Canvas { width: pixels(size.x), height: pixels(size.y), pixels: Vec::new() };
    canvas.pixels = vec![[0.0; 4]; canvas.width * canvas.height];
    for part in context.tessellate(std::mem::take(&mut output.shapes), scale) {
        let Primitive::Mesh(mesh) = part.primitive else { continue };
        if let Some(texture) = textures.get(&mesh.texture_id) {
            canvas.mesh(&mesh, texture, part.clip_rect, scale);
        }
    }
    RgbaImage::from_fn(canvas.width as u32, canvas.height as u32, |x, y| {
        let [red, green, blue, alpha] = canvas.pixels[y as usize * canvas.width + x as usize];
        // Files have colours that are not multiplied by their opacity.
        let byte = |value: f32| if alpha > 0.0 { (value / alpha * 255.0).round().clamp(0.0, 255.0) as u8 } else { 0 };
        Rgba([byte(red), byte(green), byte(blue), (alpha * 255.0).round() as u8])
    })
}

// A texture, or a part of one.
fn put(texture: &mut ColorImage, delta: ImageDelta) {
    let ImageData::Color(image) = delta.image;
    let Some([left, top]) = delta.pos else {
        *texture = (*image).clone();
        return;
    };
    let (from, to) = (image.size[0], texture.size[0]);
    for row in 0..image.size[1] {
        texture.pixels[(top + row) * to + left..][..from].copy_from_slice(&image.pixels[row * from..][..from]);
    }
}

/// Colours multiplied by their opacity, from 0 to 1, row by row.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 4]>,
}

impl Canvas {
    fn mesh(&mut self, mesh: &Mesh, texture: &ColorImage, clip: Rect, scale: f32) {
        let bound = |at: f32, bound: usize| ((at * scale).round().max(0.0) as usize).min(bound);
        let clip = [
            bound(clip.left(), self.width),
            bound(clip.top(), self.height),
            bound(clip.right(), self.width),
            bound(clip.bottom(), self.height),
        ];
        for corners in mesh.indices.chunks_exact(3) {
            let corner = |index: usize| &mesh.vertices[corners[index] as usize];
            self.triangle([corner(0), corner(1), corner(2)], texture, clip, scale);
        }
    }

    // Row by row. A pixel is filled when its middle is inside; one whose middle is on an edge that two triangles share belongs to the one on its right, or
    // below: rows and what is between two edges begin with what they meet, and end before it.
    fn triangle(&mut self, corners: [&Vertex; 3], texture: &ColorImage, [left, top, right, bottom]: [usize; 4], scale: f32) {
        let points = corners.map(|vertex| [f64::from(vertex.pos.x * scale), f64::from(vertex.pos.y * scale)]);
        let Some(planes) = Planes::of(&points) else { return };
        let colors: [Plane; 4] =
            std::array::from_fn(|channel| planes.of_values(corners.map(|vertex| f64::from(vertex.color.to_array()[channel]) / 255.0)));
        let (u, v) =
            (planes.of_values(corners.map(|vertex| vertex.uv.x.into())), planes.of_values(corners.map(|vertex| vertex.uv.y.into())));
        // Of all that is no text the texture is one white point.
        let is_plain = corners.iter().all(|vertex| vertex.uv == corners[0].uv);
        let plain = sample(texture, corners[0].uv.x, corners[0].uv.y);
        let first = |value: f64, low: usize, high: usize| ((value - 0.5).ceil().max(0.0) as usize).clamp(low, high.max(low));
        let ys = points.map(|point| point[1]);
        let rows = first(ys.iter().copied().fold(f64::INFINITY, f64::min), top, bottom)
            ..first(ys.iter().copied().fold(f64::NEG_INFINITY, f64::max), top, bottom);
        for row in rows {
            let y = row as f64 + 0.5;
            let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
            for (one, other) in [(0, 1), (1, 2), (2, 0)] {
                // From the upper end to the lower, so that both triangles of an edge find the same place.
                let (a, b) = if points[one][1] <= points[other][1] { (points[one], points[other]) } else { (points[other], points[one]) };
                if a[1] <= y && y < b[1] {
                    let x = a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]);
                    (from, to) = (from.min(x), to.max(x));
                }
            }
            for column in first(from, left, right)..first(to, left, right) {
                let x = column as f64 + 0.5;
                let texel = if is_plain { plain } else { sample(texture, u.at(x, y), v.at(x, y)) };
                let alpha = colors[3].at(x, y).clamp(0.0, 1.0) * texel[3];
                if alpha <= 0.0 {
                    continue;
                }
                let pixel = &mut self.pixels[row * self.width + column];
                for channel in 0..3 {
                    pixel[channel] = colors[channel].at(x, y).clamp(0.0, 1.0) * texel[channel] + pixel[channel] * (1.0 - alpha);
                }
                pixel[3] = alpha + pixel[3] * (1.0 - alpha);
            }
        }
    }
}

/// What of a triangle all values between its corners need.
struct Planes<'a> {
    points: &'a [[f64; 2]; 3],
    area: f64,
}

/// A value that is given at the corners, anywhere.
#[derive(Clone, Copy)]
struct Plane {
    base: f64,
    along: [f64; 2],
}

impl Planes<'_> {
    /// None where the corners lie on a line.
    fn of(points: &[[f64; 2]; 3]) -> Option<Planes<'_>> {
        let [a, b, c] = points;
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
        (area != 0.0 && area.is_finite()).then_some(Planes { points, area })
    }

    fn of_values(&self, [first, second, third]: [f64; 3]) -> Plane {
        let [a, b, c] = self.points;
        let (second, third) = (second - first, third - first);
        let along =
            [(second * (c[1] - a[1]) - third * (b[1] - a[1])) / self.area, (third * (b[0] - a[0]) - second * (c[0] - a[0])) / self.area];
        Plane { base: first - along[0] * a[0] - along[1] * a[1], along }
    }
}

impl Plane {
    fn at(&self, x: f64, y: f64) -> f32 {
        (self.base + self.along[0] * x + self.along[1] * y) as f32
    }
}

// Between the four nearest texels.
fn sample(texture: &ColorImage, u: f32, v: f32) -> [f32; 4] {
    let [width, height] = texture.size;
    let place = |part: f32, count: usize| {
        let at = (part * count as f32 - 0.5).clamp(0.0, count as f32 - 1.0);
        (at as usize, (at as usize + 1).min(count - 1), at.fract())
    };
    let ((left, right, x), (top, bottom, y)) = (place(u, width), place(v, height));
    let texel = |column: usize, row: usize| texture.pixels[row * width + column].to_array().map(|byte| f32::from(byte) / 255.0);
    let (corners, between) =
        ([texel(left, top), texel(right, top), texel(left, bottom), texel(right, bottom)], |a: f32, b: f32, t: f32| a + (b - a) * t);
    std::array::from_fn(|channel| {
        let upper = between(corners[0][channel], corners[1][channel], x);
        between(upper, between(corners[2][channel], corners[3][channel], x), y)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use eframe::egui::{Align2, Color32, FontId, Shape, Stroke, pos2, vec2};

    #[test]
    fn shapes_stand_where_they_were_painted_at_any_scale() {
        for scale in [1.0, 2.0, 3.0] {
            let picture = drawn(vec2(20.0, 10.0), scale, |painter| {
                painter.rect_filled(Rect::from_min_size(Pos2::ZERO, vec2(20.0, 10.0)), 0.0, Color32::WHITE);
                painter.rect_filled(Rect::from_min_max(pos2(5.0, 2.0), pos2(15.0, 8.0)), 0.0, Color32::RED);
            });
            let side = scale as u32;
            assert_eq!(picture.dimensions(), (20 * side, 10 * side));
            let red = picture.pixels().filter(|pixel| pixel.0 == [255, 0, 0, 255]).count() as u32;
            // Ten by six points, but for the pixel at each edge that is half covered.
            assert!(red <= 60 * side * side && red >= (10 * side - 2) * (6 * side - 2), "{red} at {scale}");
            assert_eq!(picture.get_pixel(10 * side, 5 * side).0, [255, 0, 0, 255]);
            assert_eq!(picture.get_pixel(side, side).0, [255, 255, 255, 255]);
        }
    }

    #[test]
    fn an_edge_that_two_triangles_share_is_filled_once() {
        // Half opaque black over white is one grey everywhere: twice would be darker, and not at all white.
        let half = Color32::from_black_alpha(128);
        let picture = drawn(vec2(16.0, 16.0), 1.0, |painter| {
            painter.rect_filled(Rect::from_min_size(Pos2::ZERO, vec2(16.0, 16.0)), 0.0, Color32::WHITE);
            let mut mesh = Mesh::default();
            for (x, y) in [(0.0, 0.0), (16.0, 0.0), (16.0, 16.0), (0.0, 16.0), (6.5, 9.5)] {
                mesh.colored_vertex(pos2(x, y), half);
            }
            for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
                mesh.add_triangle(a, b, 4);
            }
            painter.add(Shape::mesh(mesh));
        });
        let grey = picture.get_pixel(8, 3).0;
        assert!((126..=128).contains(&grey[0]), "{grey:?}");
        assert!(picture.pixels().all(|pixel| pixel.0 == grey));
    }

    #[test]
    fn texts_and_thin_lines_leave_ink_and_more_of_it_at_a_larger_scale() {
        let ink = |scale: f32| {
            let picture = drawn(vec2(80.0, 20.0), scale, |painter| {
                painter.rect_filled(Rect::from_min_size(Pos2::ZERO, vec2(80.0, 20.0)), 0.0, Color32::BLACK);
                painter.text(pos2(4.0, 10.0), Align2::LEFT_CENTER, "train/loss", FontId::proportional(12.0), Color32::WHITE);
                painter.line_segment([pos2(0.0, 18.0), pos2(80.0, 19.0)], Stroke::new(1.0, Color32::WHITE));
            });
            picture.pixels().map(|pixel| f64::from(pixel.0[0]) / 255.0).sum::<f64>()
        };
        let (one, two) = (ink(1.0), ink(2.0));
        assert!(one > 100.0, "{one}");
        // Four times the pixels of the same drawing.
        assert!((3.4..4.6).contains(&(two / one)), "{one} and {two}");
    }
}
