//! Memory of the CPU device: units of 32-bit words, aligned to cache lines.

use solstice_ir::{DType, Literal};

/// A block of words whose first one is at a multiple of 64 bytes. Floats and bytes are seen through casts.
#[derive(Debug, Default)]
pub(super) struct Words {
    data: Vec<u32>,
    start: usize,
    len: usize,
}

impl Words {
    pub(super) fn zeroed(len: usize) -> Words {
        let data = vec![0u32; len + 15];
        let start = data.as_ptr().align_offset(64).min(15);
        Words { data, start, len }
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.data[self.start..self.start + self.len]
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.data[self.start..self.start + self.len]
    }

    pub(super) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(self.words())
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.words_mut())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.words())
    }

    pub(super) fn byte_capacity(&self) -> usize {
        self.len * 4
    }

    pub(super) fn write_bytes(&mut self, bytes: &[u8]) {
        bytemuck::cast_slice_mut::<u32, u8>(self.words_mut())[..bytes.len()].copy_from_slice(bytes);
    }
}

/// All units of a runtime. A kernel takes out what it writes, so that reads and writes never alias.
#[derive(Debug, Default)]
pub(super) struct Units {
    units: Vec<Words>,
}

impl Units {
    pub(super) fn add(&mut self, words: Words) -> usize {
        self.units.push(words);
        self.units.len() - 1
    }

    pub(super) fn get(&self, unit: usize) -> &Words {
        &self.units[unit]
    }

    pub(super) fn get_mut(&mut self, unit: usize) -> &mut Words {
        &mut self.units[unit]
    }

    pub(super) fn take(&mut self, unit: usize) -> Words {
        std::mem::take(&mut self.units[unit])
    }

    pub(super) fn put(&mut self, unit: usize, words: Words) {
        self.units[unit] = words;
    }

    /// Runs `kernel` with the unit `to` taken out.
    pub(super) fn with_written(&mut self, to: usize, kernel: impl FnOnce(&Units, &mut Words)) {
        let mut words = self.take(to);
        kernel(self, &mut words);
        self.put(to, words);
    }

    pub(super) fn byte_count(&self) -> usize {
        self.units.iter().map(Words::byte_capacity).sum()
    }
}

/// The bits of a constant of type `dtype` in a word.
pub(super) fn word_of(dtype: DType, value: f64) -> u32 {
    match dtype {
        DType::F32 => (value as f32).to_bits(),
        DType::I32 => value as i32 as u32,
        // A negative number stands for its bits modulo 2^32.
        DType::U32 | DType::U8 => value as i64 as u32,
        DType::Bool => u32::from(value != 0.0),
    }
}

pub(super) fn words_of_literal(literal: &Literal) -> Words {
    let count = literal.ty.element_count();
    let mut words = Words::zeroed((count * literal.ty.dtype.size()).div_ceil(4));
    if literal.ty.dtype == DType::U8 {
        let bytes: Vec<u8> = (0..count).map(|index| literal.value(index) as u8).collect();
        words.write_bytes(&bytes);
    } else {
        words.words_mut()[..count].iter_mut().enumerate().for_each(|(index, word)| *word = word_of(literal.ty.dtype, literal.value(index)));
    }
    words
}
