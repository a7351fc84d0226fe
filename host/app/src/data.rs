//! From a data set's plugin to batches: order, ragged batches, loader threads, resident tables.
//!
//! The position in the data is (seed, epoch, index) and nothing else: the order is a permutation drawn from (seed, epoch), so it does not depend on
//! the number of loader threads, and a run can go on from any step.

use crate::loader::DatasetHandle;
use crate::recipe::Fold;
use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, bounded};
use rayon::prelude::*;
use solstice_engine::random::threefry2x32;
use solstice_plugin_abi::wire::{DatasetSpec, Field};
use solstice_plugin_abi::{Span, Unit};
use std::sync::Arc;

/// Largest data set that is kept on the device, in bytes of one split.
pub const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Name of the evaluation split that cross-validation leaves out of training.
pub const FOLD: &str = "fold";

/// One split of an opened data set, or a part of one.
#[derive(Clone)]
pub struct SplitData {
    /// The plugin's side.
    pub dataset: Arc<DatasetHandle>,
    /// What the run calls it: `train`, `test`, `fold`.
    pub split: String,
    /// What the plugin calls it.
    pub source: String,
    /// Samples of the plugin's split.
    pub source_len: u64,
    /// Tensors of a sample.
    pub fields: Vec<Field>,
    // The samples that belong to it; all when absent.
    ids: Option<Arc<[u64]>>,
}

impl SplitData {
    /// The split `split`, which must have samples. With a fold, `train` lacks that part and the split `fold` is it.
    pub fn new(dataset: Arc<DatasetHandle>, spec: &DatasetSpec, split: &str, fold: Option<Fold>) -> Result<SplitData> {
        let names = || spec.splits.iter().map(|split| split.name.as_str()).collect::<Vec<_>>().join(", ");
        let held_out = fold.is_some() && split == FOLD;
        let source = if held_out { "train" } else { split };
        let Some(found) = spec.splits.iter().find(|candidate| candidate.name == source) else {
            bail!("the data set has no split `{split}`; it has {}", names());
        };
        if found.len == 0 {
            bail!("the split `{source}` of the data set is empty");
        }
        let ids = match fold {
            Some(fold) if source == "train" => {
                if found.len < fold.count {
                    bail!("{} samples cannot be divided into {} folds", found.len, fold.count);
                }
                Some(fold_ids(fold, found.len, held_out).into())
            }
            _ => None,
        };
        Ok(SplitData { dataset, split: split.into(), source: source.into(), source_len: found.len, fields: spec.fields.clone(), ids })
    }

    /// Samples; at least 1.
    pub fn len(&self) -> u64 {
        self.ids.as_ref().map_or(self.source_len, |ids| ids.len() as u64)
    }

    /// Bytes of the plugin's whole split.
    pub fn bytes(&self) -> u64 {
        self.fields.iter().map(|field| field.sample_bytes() as u64 * self.source_len).sum()
    }

    /// Samples that `limit` leaves of one pass, in whole batches where it counts batches.
    pub fn limited(&self, limit: Option<Span>, batch_size: usize) -> u64 {
        let wanted = match limit {
            None => return self.len(),
            Some(Span { amount, unit: Unit::Epochs }) => (amount * self.len() as f64).ceil() as u64,
            Some(Span { amount, unit: Unit::Samples }) => amount.ceil() as u64,
            Some(Span { amount, .. }) => amount.ceil() as u64 * batch_size as u64,
        };
        wanted.clamp(1, self.len())
    }

    /// Samples `indices`, one buffer a field; slots past them up to `batch_size` are zero.
    pub fn fill(&self, epoch: u64, indices: &[u64], batch_size: usize) -> Result<Vec<Vec<u8>>> {
        let mut buffers: Vec<Vec<u8>> = self.fields.iter().map(|field| vec![0; field.sample_bytes() * batch_size]).collect();
        let mut slots: Vec<&mut [u8]> =
            buffers.iter_mut().zip(&self.fields).map(|(buffer, field)| &mut buffer[..field.sample_bytes() * indices.len()]).collect();
        self.dataset.fill(&self.source, epoch, indices, &mut slots)?;
        Ok(buffers)
    }

    /// A batch with its samples.
    pub fn load(&self, batch: Batch, batch_size: usize) -> Result<Loaded> {
        let fields = self.fill(batch.epoch, &batch.indices, batch_size)?;
        Ok(Loaded { batch, fields })
    }

    /// The plugin's whole split, one table a field, filled by all threads.
    pub fn table(&self) -> Result<Vec<Vec<u8>>> {
        const CHUNK: u64 = 1024;
        let chunks: Vec<Vec<Vec<u8>>> = (0..self.source_len.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let indices: Vec<u64> = (chunk * CHUNK..((chunk + 1) * CHUNK).min(self.source_len)).collect();
                self.fill(0, &indices, indices.len())
            })
            .collect::<Result<_>>()
            .with_context(|| format!("while reading the split `{}`", self.source))?;
        let mut tables: Vec<Vec<u8>> =
            self.fields.iter().map(|field| Vec::with_capacity(field.sample_bytes() * self.source_len as usize)).collect();
        for chunk in chunks {
            for (table, part) in tables.iter_mut().zip(chunk) {
                table.extend(part);
            }
        }
        Ok(tables)
    }
}

/// The samples of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Sample numbers; fewer than the batch size in a ragged last batch.
    pub indices: Vec<u64>,
}

// Samples of part `fold.index`, or of all others, in file order.
fn fold_ids(fold: Fold, len: u64, held_out: bool) -> Vec<u64> {
    // Epoch `u64::MAX` is one that training never reaches: the division shares no draws with an order.
    let mixed = permutation(fold.seed, u64::MAX, len);
    let mut ids: Vec<u64> =
        (0..len).filter(|place| (place % fold.count == fold.index) == held_out).map(|place| mixed[place as usize]).collect();
    ids.sort_unstable();
    ids
}

/// Which samples each step sees.
#[derive(Clone, Debug)]
pub struct Order {
    // Samples to draw from, and how many of them an epoch sees.
    pool: u64,
    len: u64,
    ids: Option<Arc<[u64]>>,
    batch_size: usize,
    seed: Option<u32>,
    epoch: Option<(u64, Arc<Vec<u64>>)>,
    // The next epoch's, drawn a little at each step, so that the first step of an epoch takes no longer than the others.
    coming: Option<Permutation>,
}

impl Order {
    /// A new permutation of the split every epoch, of which the first `len` are seen.
    pub fn shuffled(data: &SplitData, len: u64, batch_size: usize, seed: u32) -> Order {
        Order { pool: data.len(), len, ids: data.ids.clone(), batch_size, seed: Some(seed), epoch: None, coming: None }
    }

    /// The first `len` samples in file order, for evaluation.
    pub fn sequential(data: &SplitData, len: u64, batch_size: usize) -> Order {
        Order { pool: data.len(), len, ids: data.ids.clone(), batch_size, seed: None, epoch: None, coming: None }
    }

    /// Samples of one pass.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Samples of a step that is not ragged.
    pub fn step_samples(&self) -> usize {
        self.batch_size
    }

    /// Steps of one pass, the ragged last one included.
    pub fn steps(&self) -> u64 {
        self.len.div_ceil(self.batch_size as u64)
    }

    /// The samples of step `step` (from 0).
    pub fn batch(&mut self, step: u64) -> Batch {
        let (epoch, position) = (step / self.steps(), step % self.steps());
        let start = position * self.batch_size as u64;
        let end = (start + self.batch_size as u64).min(self.len);
        let id = |place: u64| self.ids.as_ref().map_or(place, |ids| ids[place as usize]);
        let Some(seed) = self.seed else {
            return Batch { epoch, indices: (start..end).map(id).collect() };
        };
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let coming = self.coming.take().filter(|coming| coming.epoch == epoch);
            let order = coming.unwrap_or_else(|| Permutation::new(seed, epoch, self.pool)).finish();
            self.epoch = Some((epoch, Arc::new(order)));
            self.coming = Some(Permutation::new(seed, epoch + 1, self.pool));
        }
        let (steps_left, coming) = (self.steps() - position, self.coming.as_mut().expect("begun with the epoch"));
        coming.draw(coming.left.div_ceil(steps_left));
        let (_, order) = self.epoch.as_ref().expect("set above");
        Batch { epoch, indices: order[start as usize..end as usize].iter().map(|place| id(*place)).collect() }
    }

    /// The samples of step `step` in batches of at most `batch_size`.
    pub fn micro_batches(&mut self, step: u64, batch_size: usize) -> Vec<Batch> {
        let Batch { epoch, indices } = self.batch(step);
        indices.chunks(batch_size).map(|indices| Batch { epoch, indices: indices.to_vec() }).collect()
    }
}

/// Fisher-Yates over `0..len` with threefry draws of (seed, epoch): the same on every machine, however many draws are made at a time.
#[derive(Clone, Debug)]
struct Permutation {
    seed: u32,
    epoch: u64,
    order: Vec<u64>,
    // Places, from the first one on, that have not been drawn for.
    left: u64,
}

impl Permutation {
    fn new(seed: u32, epoch: u64, len: u64) -> Permutation {
        Permutation { seed, epoch, order: (0..len).collect(), left: len }
    }

    /// Draws for `count` more places.
    fn draw(&mut self, count: u64) {
        // Key word 2 marks the purpose, so that the order shares no draws with dropout or initial weights.
        const ORDER_STREAM: u32 = 0x6f72_6465;
        let key = [self.seed ^ (self.epoch >> 32) as u32, ORDER_STREAM];
        let until = self.left.saturating_sub(count);
        // The first place takes what is left.
        for index in (until.max(1)..self.left).rev() {
            let [low, high] = threefry2x32(key, [self.epoch as u32, index as u32]);
            let draw = u64::from(high) << 32 | u64::from(low);
            // Multiply-shift maps 64 random bits to 0..=index with a bias below 2^-32 for any set that fits in memory.
            let other = ((u128::from(draw) * u128::from(index + 1)) >> 64) as usize;
            self.order.swap(index as usize, other);
        }
        self.left = until;
    }

    /// The whole permutation.
    fn finish(mut self) -> Vec<u64> {
        self.draw(self.left);
        self.order
    }
}

/// A permutation of `0..len` for (seed, epoch).
pub fn permutation(seed: u32, epoch: u64, len: u64) -> Vec<u64> {
    Permutation::new(seed, epoch, len).finish()
}

/// A filled batch.
#[derive(Debug)]
pub struct Loaded {
    /// Which samples.
    pub batch: Batch,
    /// One buffer a field, `batch_size` slots each.
    pub fields: Vec<Vec<u8>>,
}

/// The batches of each step in step order, filled ahead by several threads.
///
/// Thread `j` of `n` fills steps `j, j + n, ..` into its own queue, and the consumer takes them in turn: the order of batches cannot depend on timing.
pub struct Prefetch {
    queues: Vec<Receiver<Result<Vec<Loaded>>>>,
    next: u64,
    first: u64,
}

impl Prefetch {
    /// Batches of the steps from `first` on.
    pub fn start(data: &SplitData, order: &Order, batch_size: usize, first: u64, threads: usize) -> Prefetch {
        let queues = (0..threads as u64)
            .map(|thread| {
                let (sender, receiver) = bounded(2);
                let (data, mut order) = (data.clone(), order.clone());
                std::thread::Builder::new()
                    .name(format!("loader-{thread}"))
                    .spawn(move || {
                        let mut step = first + thread;
                        loop {
                            let batches = order.micro_batches(step, batch_size).into_iter();
                            let filled: Result<Vec<Loaded>> = batches.map(|batch| data.load(batch, batch_size)).collect();
                            let failed = filled.is_err();
                            // The receiver is gone when the run is over.
                            if sender.send(filled).is_err() || failed {
                                return;
                            }
                            step += threads as u64;
                        }
                    })
                    .expect("the system can start a thread");
                receiver
            })
            .collect();
        Prefetch { queues, next: first, first }
    }

    /// The batches of the next step.
    pub fn next(&mut self) -> Result<Vec<Loaded>> {
        let queue = &self.queues[((self.next - self.first) % self.queues.len() as u64) as usize];
        self.next += 1;
        queue.recv().context("a loader thread ended early")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(len: u64, batch_size: usize, seed: u32) -> Order {
        Order { pool: len, len, ids: None, batch_size, seed: Some(seed), epoch: None, coming: None }
    }

    #[test]
    fn every_epoch_sees_every_sample_once_and_in_another_order() {
        let mut order = shuffled(103, 10, 7);
        let mut epochs = vec![];
        for epoch in 0..3 {
            let batches: Vec<Batch> = (0..11).map(|step| order.batch(epoch * 11 + step)).collect();
            assert!(batches.iter().all(|batch| batch.epoch == epoch));
            assert_eq!(batches[10].indices.len(), 3);
            let seen: Vec<u64> = batches.into_iter().flat_map(|batch| batch.indices).collect();
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..103).collect::<Vec<_>>());
            epochs.push(seen);
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(epochs[1], epochs[2]);
    }

    #[test]
    fn the_order_of_the_coming_epoch_is_drawn_a_little_at_each_step() {
        let mut order = shuffled(1000, 10, 7);
        for step in 0..250 {
            let place = (step % 100 * 10) as usize;
            assert_eq!(order.batch(step).indices, permutation(7, step / 100, 1000)[place..place + 10], "step {step}");
            assert_eq!(order.coming.as_ref().map(|coming| (coming.epoch, coming.left)), Some((step / 100 + 1, 990 - step % 100 * 10)));
        }
        // Into the middle of another epoch: what is left is drawn in the steps that are left.
        order.batch(950);
        assert_eq!(order.coming.as_ref().map(|coming| (coming.epoch, coming.left)), Some((10, 980)));
    }

    #[test]
    fn a_step_can_be_reached_without_the_ones_before() {
        let batches = |steps: &[u64]| -> Vec<Batch> {
            let mut order = shuffled(50, 8, 3);
            steps.iter().map(|&step| order.batch(step)).collect()
        };
        assert_eq!(batches(&[0, 1, 2, 9, 20])[4], batches(&[20])[0]);
    }

    #[test]
    fn micro_batches_are_the_samples_of_the_step_in_order() {
        let mut order = shuffled(25, 8, 3);
        let sizes = |batches: &[Batch]| batches.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&order.micro_batches(0, 3)), [3, 3, 2]);
        // The last step of the epoch has one sample left.
        assert_eq!(sizes(&order.micro_batches(3, 3)), [1]);
        let parts: Vec<u64> = order.micro_batches(1, 3).into_iter().flat_map(|batch| batch.indices).collect();
        assert_eq!(parts, order.batch(1).indices);
    }

    #[test]
    fn folds_divide_the_samples() {
        let fold = |index| Fold { index, count: 5, seed: 9 };
        let mut all: Vec<u64> = (0..5).flat_map(|index| fold_ids(fold(index), 23, true)).collect();
        assert_ne!(all, (0..23).collect::<Vec<_>>(), "the division is not drawn");
        all.sort_unstable();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        for index in 0..5 {
            let (held_out, rest) = (fold_ids(fold(index), 23, true), fold_ids(fold(index), 23, false));
            assert!(matches!(held_out.len(), 4 | 5) && held_out.len() + rest.len() == 23);
            assert!(held_out.iter().all(|id| !rest.contains(id)));
        }
    }

    #[test]
    fn shuffling_is_even() {
        // 4 samples, 2400 epochs: each of the 24 orders about 100 times (sd 9.8); 6 sd allowed.
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..2400 {
            *counts.entry(permutation(11, epoch, 4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&count: &i32| (count - 100).abs() < 60), "{counts:?}");
    }
}
