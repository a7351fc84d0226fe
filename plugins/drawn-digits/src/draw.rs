//! Draws one digit: a way of writing it, bent by chance, inked by a pen of chance width.
//!
//! Uses only operations that IEEE 754 rounds exactly (no `sin`, no `ln`), so every machine draws the same bytes.

use crate::glyphs::{GLYPHS, Stroke};

/// Width and height of an image.
pub const SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// Straight pieces between two points of a stroke.
const PIECES: usize = 5;

/// What is drawn, apart from the numbers that name a sample.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// How far the shapes stray; 0 draws the glyphs as they stand in the table.
    pub distortion: f32,
    /// Standard deviation of the noisiest images' grey noise, where white is 1.
    pub noise: f32,
}

/// Draws sample `index` of a split into `image` and returns its digit. Sample and seed alone decide: a longer split begins with the same images.
pub fn draw(style: Style, seed: u64, split: u64, index: u64, image: &mut [u8; PIXELS]) -> u8 {
    let mut random = Random(mix(mix(seed ^ mix(split + 1)) ^ mix(index)));
    let digit = random.below(10);
    let glyphs = GLYPHS[digit];
    let glyph = glyphs[random.below(glyphs.len())];
    let hand = Hand::new(style.distortion, &mut random);
    let pen = Pen::new(&mut random);
    let mut ink = [0.0; PIXELS];
    let mut lines: Vec<Vec<Point>> = glyph.iter().map(|stroke| hand.bend(stroke)).collect();
    fit(&mut lines);
    for points in lines {
        let last = (points.len() - 1) as f32;
        for (place, ends) in points.windows(2).enumerate() {
            pen.line(&mut ink, ends[0], ends[1], place as f32 / last);
        }
    }
    let noise = style.noise * random.uniform();
    for (pixel, ink) in image.iter_mut().zip(ink) {
        let value = ink * pen.strength + noise * random.normal();
        *pixel = (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    }
    digit as u8
}

type Point = [f32; 2];

/// How this writer bends the glyphs.
struct Hand {
    /// Names the chance that moves single points.
    key: u64,
    wobble: f32,
    /// Coefficients of u v, u u, v v for each axis.
    warp: [[f32; 3]; 2],
    affine: [[f32; 2]; 2],
    centre: Point,
}

impl Hand {
    fn new(distortion: f32, random: &mut Random) -> Hand {
        let mut normal = |spread: f32| distortion * spread * random.normal();
        let warp = [[normal(0.4), normal(0.2), normal(0.25)], [normal(0.28), normal(0.2), normal(0.14)]];
        let (slant, widen, lengthen) = (normal(0.27), 1.0 + normal(0.17), 1.0 + normal(0.1));
        // A rotation by 2 atan(half): sine and cosine without calling either.
        let half = normal(0.085);
        let (cosine, sine) = ((1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half));
        let size = 20.5 * (1.0 + normal(0.07)); // pixels
        let (across, down) = (size * widen, size * lengthen);
        let affine = [[cosine * across, (-sine - slant * cosine) * down], [sine * across, (cosine - slant * sine) * down]];
        let middle = SIDE as f32 / 2.0;
        Hand {
            wobble: normal(0.9).abs().min(1.5 * distortion) * 0.034,
            warp,
            affine,
            centre: [middle + normal(1.0), middle + normal(1.0)],
            key: random.next(),
        }
    }

    /// The stroke as a polyline in pixels: a Catmull-Rom curve through the moved points.
    fn bend(&self, stroke: Stroke) -> Vec<Point> {
        let points: Vec<Point> = stroke.iter().map(|&point| self.place(point)).collect();
        let at = |place: isize| points[place.clamp(0, points.len() as isize - 1) as usize];
        let mut line = vec![points[0]];
        for place in 0..points.len() as isize - 1 {
            let [before, from, to, after] = [at(place - 1), at(place), at(place + 1), at(place + 2)];
            for piece in 1..=PIECES {
                let t = piece as f32 / PIECES as f32;
                line.push([0, 1].map(|axis| catmull_rom(before[axis], from[axis], to[axis], after[axis], t)));
            }
        }
        line
    }

    fn place(&self, (x, y): (i8, i8)) -> Point {
        // The same point of the table moves the same way each time, so that corners and joints stay closed.
        let mut random = Random(mix(self.key ^ ((x as u64) << 8 | y as u64)));
        let u = (f32::from(x) - 50.0) / 100.0 + self.wobble * random.normal();
        let v = (f32::from(y) - 50.0) / 100.0 + self.wobble * random.normal();
        let bent = [0, 1].map(|axis| {
            let [uv, uu, vv] = self.warp[axis];
            [u, v][axis] + uv * u * v + uu * u * u + vv * v * v
        });
        [0, 1].map(|axis| self.centre[axis] + self.affine[axis][0] * bent[0] + self.affine[axis][1] * bent[1])
    }
}

/// Moves the digit, and shrinks it when it must, so that a thick pen stays on the paper too.
fn fit(lines: &mut [Vec<Point>]) {
    const MARGIN: f32 = 2.0;
    const ROOM: f32 = SIDE as f32 - 2.0 * MARGIN;
    let bounds = [0, 1].map(|axis| {
        let values = lines.iter().flatten().map(|point| point[axis]);
        values.fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(value), high.max(value)))
    });
    let scale = bounds.iter().fold(1.0f32, |scale, (low, high)| scale.min(ROOM / (high - low)));
    for (axis, (low, high)) in bounds.into_iter().enumerate() {
        let start = low.max(MARGIN).min(MARGIN + ROOM - (high - low) * scale);
        lines.iter_mut().flatten().for_each(|point| point[axis] = start + (point[axis] - low) * scale);
    }
}

fn catmull_rom(before: f32, from: f32, to: f32, after: f32, t: f32) -> f32 {
    let cubic = 3.0 * (from - to) + after - before;
    let square = 2.0 * before - 5.0 * from + 4.0 * to - after;
    from + 0.5 * t * (to - before + t * (square + t * cubic))
}

struct Pen {
    /// Half the width of a line at its start and at its end, in pixels.
    radius: [f32; 2],
    /// Pixels over which the edge fades.
    softness: f32,
    strength: f32,
}

impl Pen {
    fn new(random: &mut Random) -> Pen {
        let radius = 0.7 + 0.9 * random.uniform();
        let taper = 1.0 + 0.25 * random.normal().clamp(-2.0, 2.0);
        Pen { radius: [radius, (radius * taper).max(0.5)], softness: 0.9 + 0.8 * random.uniform(), strength: 0.7 + 0.3 * random.uniform() }
    }

    /// Inks the line between two points; `place` in 0..1 tells how far along the stroke it is. Looks only at pixels that it can reach.
    fn line(&self, ink: &mut [f32; PIXELS], from: Point, to: Point, place: f32) {
        let radius = self.radius[0] + (self.radius[1] - self.radius[0]) * place;
        let reach = radius + self.softness / 2.0;
        let pixels = |axis: usize| {
            let (low, high) = (from[axis].min(to[axis]) - reach, from[axis].max(to[axis]) + reach);
            (low - 0.5).ceil().max(0.0) as usize..(high + 0.5).floor().clamp(0.0, SIDE as f32) as usize
        };
        let along = [to[0] - from[0], to[1] - from[1]];
        let length_squared = (along[0] * along[0] + along[1] * along[1]).max(1e-6);
        for y in pixels(1) {
            for x in pixels(0) {
                let away = [x as f32 + 0.5 - from[0], y as f32 + 0.5 - from[1]];
                let t = ((away[0] * along[0] + away[1] * along[1]) / length_squared).clamp(0.0, 1.0);
                let (dx, dy) = (away[0] - t * along[0], away[1] - t * along[1]);
                let cover = (0.5 + (radius - (dx * dx + dy * dy).sqrt()) / self.softness).clamp(0.0, 1.0);
                let pixel = &mut ink[y * SIDE + x];
                *pixel = pixel.max(cover);
            }
        }
    }
}

/// A stream of chance: splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, count: usize) -> usize {
        (((self.next() >> 32) * count as u64) >> 32) as usize
    }

    /// In 0..1, 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Mean 0, variance 1: the sum of four uniform numbers, so never beyond 3.5.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u32 = [0, 16, 32, 48].iter().map(|shift| (bits >> shift) as u32 & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
