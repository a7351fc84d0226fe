//! [`Clock`]: the time before and after every step of a program, measured by the device itself with timestamp queries.
//!
//! Exists only for programs that were profiled. Dispatches are timed by the two ends of a pass of their own; copies only where the device takes
//! timestamps between passes, which not all do.

use crate::gpu::staging::Staging;
use std::time::Duration;

/// Steps of one query set: two queries each.
const STEPS_PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
const QUERY_BYTES: usize = wgpu::QUERY_SIZE as usize;

/// Queries and their memory for one program.
pub struct Clock {
    sets: Vec<wgpu::QuerySet>,
    /// Which pair of queries each step has, if any. One that is never written must never be asked for: the device would wait for it.
    pair_of: Vec<Option<usize>>,
    pair_count: usize,
    resolved: wgpu::Buffer,
    readback: Staging,
    nanoseconds_per_tick: f64,
}

impl Clock {
    /// What is asked of an adapter that has it; without the first there is no clock.
    pub const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

    /// A clock for a program's steps; `copies` tells which of them are copies.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, copies: impl Iterator<Item = bool>) -> Clock {
        let times_copies = device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
        let mut pair_count = 0;
        let pair_of = copies
            .map(|is_copy| {
                (!is_copy || times_copies).then(|| {
                    pair_count += 1;
                    pair_count - 1
                })
            })
            .collect();
        let set = |_| {
            let (ty, count) = (wgpu::QueryType::Timestamp, wgpu::QUERY_SET_MAX_QUERIES);
            device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("kernel times"), ty, count })
        };
        let bytes = (pair_count * 2 * QUERY_BYTES).max(QUERY_BYTES);
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("kernel times"),
            size: bytes as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Clock {
            sets: (0..pair_count.div_ceil(STEPS_PER_SET)).map(set).collect(),
            pair_of,
            pair_count,
            resolved,
            readback: Staging::readback(device, bytes),
            nanoseconds_per_tick: f64::from(queue.get_timestamp_period()),
        }
    }

    /// The set of a step's pair, and the index of its first query.
    fn place(&self, step: usize) -> Option<(&wgpu::QuerySet, u32)> {
        let pair = self.pair_of[step]?;
        Some((&self.sets[pair / STEPS_PER_SET], (pair % STEPS_PER_SET * 2) as u32))
    }

    /// Where the pass of a dispatch leaves its times.
    pub fn of_pass(&self, step: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let (query_set, first) = self.place(step)?;
        let (beginning_of_pass_write_index, end_of_pass_write_index) = (Some(first), Some(first + 1));
        Some(wgpu::ComputePassTimestampWrites { query_set, beginning_of_pass_write_index, end_of_pass_write_index })
    }

    /// Before a copy.
    pub fn begin_copy(&self, encoder: &mut wgpu::CommandEncoder, step: usize) {
        if let Some((set, first)) = self.place(step) {
            encoder.write_timestamp(set, first);
        }
    }

    /// After a copy.
    pub fn end_copy(&self, encoder: &mut wgpu::CommandEncoder, step: usize) {
        if let Some((set, first)) = self.place(step) {
            encoder.write_timestamp(set, first + 1);
        }
    }

    /// After the last step: brings the times to where the host can read them.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.pair_count == 0 {
            return;
        }
        for (index, set) in self.sets.iter().enumerate() {
            let pairs = (self.pair_count - index * STEPS_PER_SET).min(STEPS_PER_SET);
            encoder.resolve_query_set(set, 0..2 * pairs as u32, &self.resolved, (index * STEPS_PER_SET * 2 * QUERY_BYTES) as u64);
        }
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readback.buffer, 0, None);
        self.readback.map_after(encoder);
    }

    /// Adds the times of the run that has just ended to those of the kernels. Steps of one kernel count as one call. For each call: the kernel, how long
    /// before the end of the last one it began, its time.
    ///
    /// Errors: the times cannot be read.
    pub fn add(&self, kernel_of: &[usize], times: &mut [(u64, Duration)]) -> Result<Vec<(usize, Duration, Duration)>, String> {
        if self.pair_count == 0 {
            return Ok(Vec::new());
        }
        let ticks: Vec<u64> = self
            .readback
            .read(|bytes| bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
            .map_err(|message| format!("reading the times of kernels: {message}"))?;
        let between = |begin: u64, end: u64| Duration::from_nanos((end.saturating_sub(begin) as f64 * self.nanoseconds_per_tick) as u64);
        let latest = ticks.iter().copied().max().unwrap_or(0);
        let mut calls: Vec<(usize, Duration, Duration)> = Vec::new();
        for (&kernel, pair) in kernel_of.iter().zip(&self.pair_of) {
            let Some(pair) = pair else { continue };
            let (begin, end) = (ticks[2 * pair], ticks[2 * pair + 1]);
            let time = between(begin, end);
            match calls.last_mut() {
                Some((last, _, total)) if *last == kernel => *total += time,
                _ => {
                    times[kernel].0 += 1;
                    calls.push((kernel, between(begin, latest), time));
                }
            }
            times[kernel].1 += time;
        }
        Ok(calls)
    }
}
