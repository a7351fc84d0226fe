//! WGSL of a [`Body`]: a straight line of `let`s for one element, or for four neighbours at once.
//!
//! An [`Emitter`] knows the iteration space as one or two [`Group`]s of axes, each counted by one shader variable (`i` for a map; `o` and `k` for a
//! reduction), and how every view moves along them. Axes that all views cross in one stride are merged, so a contiguous kernel has no division left.
//! Four neighbours share one `vec4` access where a view is packed and aligned, and one scalar access where it stands still; their arithmetic is written
//! four times (WGSL has no overloading, and the compilers see scalars anyway). Shapes and strides are constants of the text; negative strides are
//! written modulo 2^32, in which u32 arithmetic lives. Registers never hold f16: a load of a half widens it, a store rounds.

use crate::gpu::launch::{Binding, Context, Memory, memory_type, register_type};
use crate::gpu::template::library;
use crate::kernel::{Body, BufferId, Instruction, Register, View};
use solstice_ir::{BinaryOp, Compare, DType, UnaryOp, strides_of};
use std::fmt::Write;

/// A run of axes of the iteration space that one shader variable counts in row-major order.
pub struct Group {
    variable: &'static str,
    axes: Vec<usize>,
    /// Sizes of the merged axes, none of them 1.
    sizes: Vec<usize>,
    /// Strides of each view along the merged axes.
    strides: Vec<Vec<isize>>,
}

/// How a view moves from one of the four neighbours to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Not at all.
    Still,
    /// To the next element, from a multiple of four.
    Packed,
    /// By a stride.
    Strided(isize),
}

/// A buffer as the shader declares it.
struct Declaration {
    binding: Binding,
    /// WGSL element type: that of all uses, or `u32` where buffers of two types share memory.
    element: &'static str,
    /// Declared as `array<vec4<..>>`.
    is_packed: bool,
}

/// Writer of one kernel's text.
pub struct Emitter<'a> {
    body: &'a Body,
    shape: &'a [usize],
    groups: Vec<Group>,
    /// Loads, then stores, then the row-major index as a view of its own.
    views: Vec<(Option<Use>, usize)>,
    /// Elements an invocation handles at once: 1, or 4 neighbours along the last axis of `groups[lane_group]`.
    width: usize,
    lane_group: usize,
    declarations: Vec<Declaration>,
    text: String,
    registers: Vec<Vec<String>>,
    /// A load that is not of memory: the variable `product`, a vector where neighbours are handled at once.
    given: Option<usize>,
    /// Number of the first binding.
    first_binding: usize,
}

/// What a view stands on: its declaration, the type of its elements, whether it is written.
#[derive(Clone, Copy)]
struct Use {
    declaration: usize,
    dtype: DType,
}

impl<'a> Emitter<'a> {
    /// An emitter for `body` over `shape`, whose axes `groups` shares out; the stores stand in `to`. The width is 1 until [`Emitter::widen`].
    pub fn new(context: &Context, shape: &'a [usize], body: &'a Body, to: &[&View], groups: &[(&'static str, Vec<usize>)]) -> Emitter<'a> {
        Emitter::with_given(context, shape, body, to, groups, None, 0)
    }

    /// The same where load `given` is the variable `product` and the bindings begin at `first_binding`.
    pub fn with_given(
        context: &Context,
        shape: &'a [usize],
        body: &'a Body,
        to: &[&View],
        groups: &[(&'static str, Vec<usize>)],
        given: Option<usize>,
        first_binding: usize,
    ) -> Emitter<'a> {
        let row_major: Vec<isize> = strides_of(shape).iter().map(|&stride| stride as isize).collect();
        let mut strides: Vec<&[isize]> = body.loads.iter().map(|view| &view.strides[..]).collect();
        strides.extend(to.iter().map(|view| &view.strides[..]));
        strides.push(&row_major);
        let groups = groups.iter().map(|(variable, axes)| merged(variable, shape, axes, &strides)).collect();
        let mut emitter = Emitter {
            body,
            shape,
            groups,
            views: Vec::new(),
            width: 1,
            lane_group: 0,
            declarations: Vec::new(),
            text: String::new(),
            registers: vec![Vec::new(); body.code.len()],
            given,
            first_binding,
        };
        for (view, is_written) in body.loads.iter().map(|view| (view, false)).chain(to.iter().map(|view| (*view, true))) {
            if given == Some(emitter.views.len()) {
                emitter.views.push((None, view.offset));
                continue;
            }
            let dtype = context.buffer(view.buffer).dtype;
            let declaration = emitter.declare(context.memory(view.buffer), is_written, context.element(view.buffer));
            emitter.views.push((Some(Use { declaration, dtype }), view.offset));
        }
        emitter.views.push((None, 0));
        emitter
    }

    fn declare(&mut self, memory: Memory, is_written: bool, element: &'static str) -> usize {
        let known = self.declarations.iter().position(|declaration| declaration.binding.memory == memory);
        let index = known.unwrap_or_else(|| {
            self.declarations.push(Declaration { binding: Binding { memory, is_written }, element, is_packed: false });
            self.declarations.len() - 1
        });
        let declaration = &mut self.declarations[index];
        declaration.binding.is_written |= is_written;
        if declaration.element != element {
            // Words of two types share memory, never halves and words: a kernel's scratch buffers stand in slots of their own.
            assert!(declaration.element != "f16" && element != "f16", "a buffer of halves shares its memory with one of words");
            declaration.element = "u32";
        }
        index
    }

    /// Size of the last merged axis of group `group`; 1 when the group has one element.
    pub fn inner_size(&self, group: usize) -> usize {
        self.groups[group].sizes.last().copied().unwrap_or(1)
    }

    /// Number of merged axes of group `group`.
    pub fn axis_count(&self, group: usize) -> usize {
        self.groups[group].sizes.len()
    }

    /// How load `load` moves along the last merged axis of `group`.
    pub fn load_motion(&self, load: usize, group: usize) -> Motion {
        self.motion(load, group)
    }

    /// How store `store` moves along the last merged axis of `group`.
    pub fn store_motion(&self, store: usize, group: usize) -> Motion {
        self.motion(self.body.loads.len() + store, group)
    }

    fn motion(&self, view: usize, lane_group: usize) -> Motion {
        let Some(&stride) = self.groups[lane_group].strides[view].last() else { return Motion::Still };
        let is_last = |group: usize, axis: usize| group == lane_group && axis + 1 == self.groups[group].sizes.len();
        let others_aligned = self
            .groups
            .iter()
            .enumerate()
            .all(|(index, group)| group.strides[view].iter().enumerate().all(|(axis, stride)| is_last(index, axis) || stride % 4 == 0));
        match stride {
            0 => Motion::Still,
            1 if others_aligned && self.views[view].1.is_multiple_of(4) => Motion::Packed,
            stride => Motion::Strided(stride),
        }
    }

    /// Handles four neighbours along the last merged axis of `group` at once. Their number must be a multiple of 4, or reading and writing up to three
    /// elements further must be harmless.
    pub fn widen(&mut self, group: usize) {
        self.width = 4;
        self.lane_group = group;
        self.declarations.iter_mut().for_each(|declaration| declaration.is_packed = true);
        for view in 0..self.views.len() {
            let Some(Use { declaration, dtype }) = self.views[view].0 else { continue };
            // Bytes are packed in words already.
            if dtype == DType::U8 || self.motion(view, group) != Motion::Packed {
                self.declarations[declaration].is_packed = false;
            }
        }
    }

    /// The buffers, binding `i` at position `i`.
    pub fn bindings(&self) -> Vec<Binding> {
        self.declarations.iter().map(|declaration| declaration.binding).collect()
    }

    /// Declarations of the buffers.
    pub fn bindings_text(&self) -> String {
        let mut text = String::new();
        for (index, declaration) in self.declarations.iter().enumerate() {
            let access = if declaration.binding.is_written { "read_write" } else { "read" };
            let element = declaration.element;
            let element = if declaration.is_packed { format!("vec4<{element}>") } else { element.to_owned() };
            let _ = writeln!(text, "@group(0) @binding({}) var<storage, {access}> b{index}: array<{element}>;", self.first_binding + index);
        }
        text
    }

    /// Writes coordinates and all instructions; afterwards [`Emitter::value`] names the registers.
    pub fn run(&mut self) {
        (0..self.groups.len()).for_each(|group| self.coordinates_of(group));
        (0..self.body.code.len()).for_each(|index| self.emit_register(index));
    }

    /// Writes one instruction, whose operands stand already.
    pub fn emit_register(&mut self, index: usize) {
        let values = self.instruction(index);
        let ty = register_type(self.body.types[index]);
        let mut names = Vec::with_capacity(values.len());
        for (lane, value) in values.iter().enumerate() {
            let name = if values.len() == 1 { format!("r{index}") } else { format!("r{index}_{lane}") };
            let _ = writeln!(self.text, "let {name}: {ty} = {value};");
            names.push(name);
        }
        self.registers[index] = names;
    }

    /// Writes register `index` as the value of an expression, the same for all neighbours.
    pub fn define(&mut self, index: usize, expression: &str) {
        let _ = writeln!(self.text, "let r{index} = {expression};");
        self.registers[index] = vec![format!("r{index}")];
    }

    /// Writes a line of the caller's.
    pub fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Writes register `value` to store `store` for one element.
    pub fn store_once(&mut self, store: usize, value: Register) {
        let width = std::mem::replace(&mut self.width, 1);
        self.store(store, value);
        self.width = width;
    }

    /// Expression for a register of neighbour `lane`.
    pub fn value(&self, register: Register, lane: usize) -> &str {
        let names = &self.registers[register.0 as usize];
        if names.len() == 1 { &names[0] } else { &names[lane] }
    }

    /// Writes register `value` to store `store`.
    pub fn store(&mut self, store: usize, value: Register) {
        let view = self.body.loads.len() + store;
        let address = self.address(view);
        let Use { declaration, dtype } = self.views[view].0.expect("a store stands on a buffer");
        let Declaration { element, is_packed, .. } = self.declarations[declaration];
        let lanes: Vec<String> = (0..self.width)
            .map(|lane| {
                let value = self.value(value, lane);
                let word = if dtype == DType::Bool { format!("select(0u, 1u, {value})") } else { value.to_owned() };
                match element {
                    "f16" => format!("half_of({word})"),
                    _ if element == memory_type(dtype) => word,
                    _ => format!("bitcast<{element}>({word})"),
                }
            })
            .collect();
        if is_packed {
            let _ = writeln!(self.text, "b{declaration}[({address}) >> 2u] = vec4<{element}>({});", lanes.join(", "));
            return;
        }
        for (lane, word) in lanes.iter().enumerate() {
            let position = self.lane_address(view, &address, lane);
            let _ = writeln!(self.text, "b{declaration}[{position}] = {word};");
        }
    }

    /// The statements so far.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Writes the names of the merged coordinates of a group: `i_0`, `i_1`, ..
    pub fn coordinates_of(&mut self, group: usize) {
        let group = &self.groups[group];
        let variable = group.variable;
        let mut rest = variable.to_owned();
        for (axis, size) in group.sizes.iter().enumerate().rev() {
            if axis == 0 {
                let _ = writeln!(self.text, "let {variable}_0 = {rest};");
            } else {
                let _ = writeln!(self.text, "let {variable}_{axis} = {rest} % {size}u;");
                let _ = writeln!(self.text, "let {variable}_rest_{axis} = {rest} / {size}u;");
                rest = format!("{variable}_rest_{axis}");
            }
        }
    }

    /// Address of the first neighbour.
    fn address(&self, view: usize) -> String {
        let mut terms = Vec::new();
        for group in &self.groups {
            for (axis, &stride) in group.strides[view].iter().enumerate() {
                match stride {
                    0 => {}
                    1 => terms.push(format!("{}_{axis}", group.variable)),
                    stride => terms.push(format!("{}_{axis} * {}u", group.variable, stride as u32)),
                }
            }
        }
        let offset = self.views[view].1;
        if offset > 0 || terms.is_empty() {
            terms.push(format!("{offset}u"));
        }
        terms.join(" + ")
    }

    /// Address of neighbour `lane`.
    fn lane_address(&self, view: usize, address: &str, lane: usize) -> String {
        let step = match self.motion(view, self.lane_group) {
            Motion::Still => 0,
            Motion::Packed => lane as isize,
            Motion::Strided(stride) => lane as isize * stride,
        };
        if step == 0 { address.to_owned() } else { format!("{address} + {}u", step as u32) }
    }

    fn instruction(&mut self, index: usize) -> Vec<String> {
        let dtype = self.body.types[index];
        let each = |operands: &[Register], expression: &dyn Fn(&[&str]) -> String| {
            let lanes = operands.iter().map(|register| self.registers[register.0 as usize].len()).max().unwrap_or(1);
            (0..lanes).map(|lane| expression(&operands.iter().map(|&register| self.value(register, lane)).collect::<Vec<_>>())).collect()
        };
        let type_of = |register: Register| self.body.types[register.0 as usize];
        match self.body.code[index] {
            Instruction::Load(load) => self.load(load as usize, dtype),
            Instruction::Constant(value) => vec![constant(dtype, value)],
            Instruction::Index(axis) => {
                let as_type = |index: String| if dtype == DType::U32 { index } else { format!("{}({index})", register_type(dtype)) };
                self.axis_index(axis as usize).into_iter().map(as_type).collect()
            }
            Instruction::LinearIndex => {
                let view = self.views.len() - 1;
                let address = self.address(view);
                let is_still = self.motion(view, self.lane_group) == Motion::Still;
                let lanes = if is_still { 1 } else { self.width };
                (0..lanes).map(|lane| self.lane_address(view, &address, lane)).collect()
            }
            Instruction::Unary(function, x) => each(&[x], &|operands| unary(function, dtype, operands[0])),
            Instruction::Binary(function, x, y) => {
                let known = |register: Register| match self.body.code[register.0 as usize] {
                    Instruction::Constant(value) => Some(value),
                    _ => None,
                };
                each(&[x, y], &|operands| binary(function, dtype, (operands[0], known(x)), (operands[1], known(y))))
            }
            Instruction::Compare(direction, x, y) => {
                each(&[x, y], &|operands| compare(direction, type_of(x), operands[0], operands[1], x == y))
            }
            Instruction::Select(predicate, on_true, on_false) => {
                each(&[predicate, on_true, on_false], &|operands| format!("select({}, {}, {})", operands[2], operands[1], operands[0]))
            }
            Instruction::Convert(x) => each(&[x], &|operands| convert(type_of(x), dtype, operands[0])),
            Instruction::Bitcast(x) => each(&[x], &|operands| format!("bitcast<{}>({})", register_type(dtype), operands[0])),
            Instruction::Fold(..) => panic!("a fold is written by the kernel over rows"),
            Instruction::Random { seed, step, element, stream } => each(&[seed, step, element], &|operands| {
                format!("threefry2x32({}, {stream}u, {}, {})", operands[0], operands[1], operands[2])
            }),
        }
    }

    fn load(&mut self, load: usize, dtype: DType) -> Vec<String> {
        if self.given == Some(load) {
            let one = |component: &&str| format!("product.{component}");
            return if self.width == 4 { ["x", "y", "z", "w"].iter().map(one).collect() } else { vec!["product".into()] };
        }
        let address = self.address(load);
        let motion = self.motion(load, self.lane_group);
        let Use { declaration, dtype: stored } = self.views[load].0.expect("a load stands on a buffer");
        let Declaration { element, is_packed, .. } = self.declarations[declaration];
        let lanes = if motion == Motion::Still { 1 } else { self.width };
        let from_memory = |word: String| {
            let wanted = memory_type(dtype);
            let word = match element {
                "f16" => format!("f32({word})"),
                _ if element == wanted => word,
                _ => format!("bitcast<{wanted}>({word})"),
            };
            if dtype == DType::Bool { format!("({word} != 0u)") } else { word }
        };
        if stored == DType::U8 {
            if lanes == 4 && motion == Motion::Packed {
                let _ = writeln!(self.text, "let w{load} = b{declaration}[({address}) >> 2u];");
                return (0..4).map(|lane| format!("(w{load} >> {}u) & 255u", lane * 8)).collect();
            }
            return (0..lanes)
                .map(|lane| {
                    let position = self.lane_address(load, &address, lane);
                    format!("(b{declaration}[({position}) >> 2u] >> ((({position}) & 3u) * 8u)) & 255u")
                })
                .collect();
        }
        if is_packed {
            let _ = writeln!(self.text, "let w{load} = b{declaration}[({address}) >> 2u];");
            return ["x", "y", "z", "w"].iter().map(|component| from_memory(format!("w{load}.{component}"))).collect();
        }
        (0..lanes).map(|lane| from_memory(format!("b{declaration}[{}]", self.lane_address(load, &address, lane)))).collect()
    }

    /// Index along an axis of the iteration space, as u32.
    fn axis_index(&self, axis: usize) -> Vec<String> {
        let (index, group) =
            self.groups.iter().enumerate().find(|(_, group)| group.axes.contains(&axis)).expect("groups share out all axes");
        let place = group.axes.iter().position(|&other| other == axis).expect("found above");
        let size = self.shape[axis];
        if size <= 1 {
            return vec!["0u".into()];
        }
        let after: usize = group.axes[place + 1..].iter().map(|&axis| self.shape[axis]).product();
        let lanes = if index == self.lane_group && !after.is_multiple_of(4) { self.width } else { 1 };
        (0..lanes)
            .map(|lane| {
                let position = if lane == 0 { group.variable.to_owned() } else { format!("({} + {lane}u)", group.variable) };
                let quotient = if after == 1 { position } else { format!("{position} / {after}u") };
                if place == 0 { quotient } else { format!("({quotient}) % {size}u") }
            })
            .collect()
    }
}

/// Axes of size 1 dropped, and neighbours that every view crosses in one stride made one.
fn merged(variable: &'static str, shape: &[usize], axes: &[usize], views: &[&[isize]]) -> Group {
    let mut group = Group { variable, axes: axes.to_vec(), sizes: Vec::new(), strides: vec![Vec::new(); views.len()] };
    for &axis in axes.iter().filter(|&&axis| shape[axis] != 1) {
        let size = shape[axis];
        let continues = !group.sizes.is_empty()
            && group.strides.iter().zip(views).all(|(known, view)| known.last() == Some(&(view[axis] * size as isize)));
        if continues {
            *group.sizes.last_mut().expect("not empty") *= size;
        } else {
            group.sizes.push(size);
        }
        for (known, view) in group.strides.iter_mut().zip(views) {
            if continues {
                known.pop();
            }
            known.push(view[axis]);
        }
    }
    group
}

/// The declaration of a dense f32 result at a binding, and the function `write(position, value)` over it.
pub fn write_function(context: &Context, to: BufferId, binding: usize) -> String {
    let (element, value) = if context.buffer(to).is_half { ("f16", "half_of(value)") } else { ("f32", "value") };
    let text = format!(
        "@group(0) @binding({binding}) var<storage, read_write> to: array<{element}>;\n\
         fn write(position: u32, value: f32) {{\nto[position] = {value};\n}}\n"
    );
    library(context.sources(), &text) + &text
}

/// A constant of a register.
pub fn constant(dtype: DType, value: f64) -> String {
    match dtype {
        DType::F32 => {
            let value = value as f32;
            let is_plain = value.is_normal() || value.to_bits() == 0;
            match is_plain {
                true if value < 0.0 => format!("({value:?}f)"),
                true => format!("{value:?}f"),
                // Not to be written as a literal, or not to survive as one.
                false => format!("f32_from_bits({:#x}u)", value.to_bits()),
            }
        }
        DType::I32 => match value as i32 {
            i32::MIN => "bitcast<i32>(0x80000000u)".into(),
            value => format!("i32({value})"),
        },
        DType::U32 | DType::U8 => format!("{}u", value as u32),
        DType::Bool => (value != 0.0).to_string(),
    }
}

fn unary(function: UnaryOp, dtype: DType, x: &str) -> String {
    match function {
        UnaryOp::Negate => format!("-({x})"),
        UnaryOp::Abs => format!("abs({x})"),
        UnaryOp::Sign if dtype == DType::F32 => format!("sign_f32({x})"),
        UnaryOp::Sign => format!("sign({x})"),
        UnaryOp::Floor => format!("floor({x})"),
        UnaryOp::Exponential => format!("exponential({x})"),
        UnaryOp::Log => format!("logarithm({x})"),
        UnaryOp::Sqrt => format!("sqrt({x})"),
        // Two roundings, but inverseSqrt may be off by two units and more.
        UnaryOp::Rsqrt => format!("1.0 / sqrt({x})"),
        UnaryOp::Tanh => format!("hyperbolic_tangent({x})"),
        UnaryOp::Logistic => format!("logistic({x})"),
        UnaryOp::Sine => format!("sine({x})"),
        UnaryOp::Cosine => format!("cosine({x})"),
        UnaryOp::Erf => format!("error_function({x})"),
        UnaryOp::Not if dtype == DType::Bool => format!("!({x})"),
        UnaryOp::Not => format!("~({x})"),
    }
}

/// Operands come with their value where it is a constant.
fn binary(function: BinaryOp, dtype: DType, (x, known_x): (&str, Option<f64>), (y, known_y): (&str, Option<f64>)) -> String {
    let is_float = dtype == DType::F32;
    let suffix = register_type(dtype);
    let is_number = |known: Option<f64>| known.is_some_and(|value| !value.is_nan());
    match function {
        BinaryOp::Add => format!("{x} + {y}"),
        BinaryOp::Subtract => format!("{x} - {y}"),
        BinaryOp::Multiply => format!("{x} * {y}"),
        BinaryOp::Divide if is_float => format!("{x} / {y}"),
        BinaryOp::Divide => format!("divide_{suffix}({x}, {y})"),
        // A constant first: then the other operand is what comes out of a failed comparison, NaNs included.
        BinaryOp::Maximum if is_float && is_number(known_x) => format!("select({y}, {x}, {x} > {y})"),
        BinaryOp::Maximum if is_float && is_number(known_y) => format!("select({x}, {y}, {y} > {x})"),
        BinaryOp::Minimum if is_float && is_number(known_x) => format!("select({y}, {x}, {x} < {y})"),
        BinaryOp::Minimum if is_float && is_number(known_y) => format!("select({x}, {y}, {y} < {x})"),
        BinaryOp::Maximum if is_float => format!("maximum_f32({x}, {y})"),
        BinaryOp::Minimum if is_float => format!("minimum_f32({x}, {y})"),
        BinaryOp::Maximum => format!("max({x}, {y})"),
        BinaryOp::Minimum => format!("min({x}, {y})"),
        BinaryOp::Power => match known_y {
            Some(2.0) => format!("{x} * {x}"),
            Some(3.0) => format!("{x} * {x} * {x}"),
            Some(4.0) => format!("({x} * {x}) * ({x} * {x})"),
            Some(-1.0) => format!("1.0 / {x}"),
            Some(-2.0) => format!("1.0 / ({x} * {x})"),
            _ => format!("power({x}, {y})"),
        },
        BinaryOp::Remainder => format!("remainder_{suffix}({x}, {y})"),
        BinaryOp::And => format!("{x} & {y}"),
        BinaryOp::Or => format!("{x} | {y}"),
        BinaryOp::Xor if dtype == DType::Bool => format!("{x} != {y}"),
        BinaryOp::Xor => format!("{x} ^ {y}"),
        BinaryOp::ShiftLeft => format!("shift_left_{suffix}({x}, {y})"),
        BinaryOp::ShiftRight => format!("shift_right_{suffix}({x}, {y})"),
    }
}

fn compare(direction: Compare, dtype: DType, x: &str, y: &str, is_same: bool) -> String {
    let is_float = dtype == DType::F32;
    let (x, y) = if dtype == DType::Bool { (format!("u32({x})"), format!("u32({y})")) } else { (x.to_owned(), y.to_owned()) };
    match direction {
        // `x == x` is how graphs ask for NaNs; a compiler may take it for true.
        Compare::Equal if is_float && is_same => format!("!is_nan({x})"),
        Compare::NotEqual if is_float && is_same => format!("is_nan({x})"),
        Compare::Equal => format!("{x} == {y}"),
        // naga's `!=` on floats is false for NaNs.
        Compare::NotEqual if is_float => format!("!({x} == {y})"),
        Compare::NotEqual => format!("{x} != {y}"),
        Compare::Less => format!("{x} < {y}"),
        Compare::LessEqual => format!("{x} <= {y}"),
        Compare::Greater => format!("{x} > {y}"),
        Compare::GreaterEqual => format!("{x} >= {y}"),
    }
}

/// `Op::Convert`.
pub fn convert(from: DType, to: DType, x: &str) -> String {
    use DType::{Bool, F32, I32, U8, U32};
    match (from, to) {
        (Bool, Bool) | (F32, F32) | (I32, I32) | (U32 | U8, U32 | U8) => x.to_owned(),
        (Bool, F32) => format!("select(0.0, 1.0, {x})"),
        (Bool, I32) => format!("select(0, 1, {x})"),
        (Bool, U32 | U8) => format!("select(0u, 1u, {x})"),
        (F32, I32) => format!("i32_from_f32({x})"),
        (F32, U32 | U8) => format!("u32_from_f32({x})"),
        (F32, Bool) => format!("!({x} == 0.0)"),
        (I32 | U32 | U8, F32) => format!("f32({x})"),
        (I32, U32 | U8) => format!("bitcast<u32>({x})"),
        (U32 | U8, I32) => format!("bitcast<i32>({x})"),
        (I32, Bool) => format!("{x} != 0"),
        (U32 | U8, Bool) => format!("{x} != 0u"),
    }
}
