//! Keeps the pool's threads awake for the length of a run.
//!
//! A thread of rayon without work falls asleep after some microseconds. A run is a hundred kernels with a moment of one thread's work between them, so its
//! threads would fall asleep and be woken at each, for 5 to 50 microseconds a time.

use crate::cost::cost;
use crate::kernel::Plan;
use rayon::Yield;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs of less work than this, as FLOPs plus bytes, end before it pays to wake anybody: some hundred microseconds.
const LONG_RUN: u64 = 20_000_000;

/// Looks for work between two turns of other programs.
const LOOKS: u32 = 64;

/// True for a plan whose runs are worth it.
pub(super) fn is_long(plan: &Plan) -> bool {
    plan.kernels.iter().map(|kernel| cost(plan, &kernel.op)).map(|cost| cost.flops + cost.bytes).sum::<u64>() >= LONG_RUN
}

/// While it lives, every thread of the pool but the one that made it looks for work without a pause.
pub(super) struct Hot {
    is_over: Arc<AtomicBool>,
}

impl Hot {
    /// Called on a thread of the pool that has begun nothing else; returns when the others are awake.
    pub(super) fn start() -> Hot {
        let is_over = Arc::new(AtomicBool::new(false));
        let awake = Arc::new(AtomicUsize::new(0));
        let (maker, threads) = (rayon::current_thread_index(), rayon::current_num_threads());
        let (until, arrived) = (is_over.clone(), awake.clone());
        rayon::spawn_broadcast(move |context| {
            if Some(context.index()) == maker {
                return;
            }
            arrived.fetch_add(1, Ordering::Release);
            let mut looks = 0;
            while !until.load(Ordering::Acquire) {
                if !matches!(rayon::yield_now(), Some(Yield::Executed)) {
                    looks += 1;
                    if looks % LOOKS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
                }
            }
        });
        // A thread that met its call only while it waits for a part of a kernel would not come back to that part before the run's end.
        while awake.load(Ordering::Acquire) + 1 < threads {
            std::hint::spin_loop();
        }
        Hot { is_over }
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    /// Nested parallel work finishes while the threads are hot, many times over, and a panic lets them go.
    #[test]
    fn threads_work_while_they_are_hot_and_are_let_go() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads start");
        let sum = || (0..64u64).into_par_iter().map(|i| (0..i).into_par_iter().sum::<u64>()).sum::<u64>();
        for _ in 0..200 {
            let found = pool.install(|| {
                let _hot = Hot::start();
                sum()
            });
            assert_eq!(found, (0..64).map(|i| i * (i.max(1) - 1) / 2).sum::<u64>());
        }
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| {
                let _hot = Hot::start();
                panic!("a kernel fails");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(pool.install(sum), sum());
    }
}
