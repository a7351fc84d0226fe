//! Checkpoints, written off the training thread: one at a time, one more waiting. What the policy does not keep is deleted after each.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use solstice_store::retention::{Retention, expendable};
use solstice_store::{CheckpointRow, Event, NewCheckpoint, RunWriter, Tensor};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The thread that writes checkpoints.
pub struct Saver {
    writer: Arc<RunWriter>,
    sender: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    policy: Arc<Mutex<Retention>>,
}

struct Job {
    new: NewCheckpoint,
    tensors: Vec<Tensor>,
}

/// Whether training may go on without a checkpoint that the disk has no time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The next one will do.
    MaySkip,
    /// Somebody asked for this one.
    Must,
}

impl Saver {
    /// Starts the thread. `rows` are the checkpoints that the run has.
    pub fn start(writer: Arc<RunWriter>, rows: Vec<CheckpointRow>, policy: Retention) -> Saver {
        let (sender, receiver) = bounded(1);
        let policy = Arc::new(Mutex::new(policy));
        let (thread_writer, thread_policy) = (writer.clone(), policy.clone());
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || save_all(&thread_writer, &receiver, rows, &thread_policy))
            .expect("the system can start a thread");
        Saver { writer, sender: Some(sender), thread: Some(thread), policy }
    }

    /// Changes what is kept, from the next checkpoint on.
    pub fn set_policy(&self, policy: Retention) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Hands a checkpoint over. A disk that refuses it is a warning and an event: training goes on.
    pub fn save(&self, new: NewCheckpoint, tensors: Vec<Tensor>, urgency: Urgency) {
        let Some(sender) = &self.sender else { return };
        let job = Job { new, tensors };
        match (urgency, sender.try_send(job)) {
            (_, Ok(())) => {}
            (Urgency::Must, Err(TrySendError::Full(job))) => drop(sender.send(job)),
            (_, Err(TrySendError::Full(job) | TrySendError::Disconnected(job))) => {
                let sentence = format!("the checkpoint of step {} was left out: the disk is slower than checkpoints come", job.new.at.step);
                self.writer.event(Event::new(job.new.at.step, "checkpoint_skipped", "worker", sentence));
            }
        }
    }
}

impl Drop for Saver {
    /// Waits until everything is written.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn save_all(writer: &RunWriter, jobs: &Receiver<Job>, mut rows: Vec<CheckpointRow>, policy: &Mutex<Retention>) {
    let mut is_failing = false;
    for Job { new, tensors } in jobs {
        let step = new.at.step;
        match writer.save_checkpoint(&new, &tensors) {
            Ok(row) => {
                if std::mem::take(&mut is_failing) {
                    writer.event(Event::new(step, "checkpoint", "worker", format!("checkpoints are saved again, from step {step} on")));
                }
                rows.retain(|known| known.file != row.file);
                rows.push(row);
            }
            Err(error) => {
                // Once: a disk that is full stays full for a while.
                if !std::mem::replace(&mut is_failing, true) {
                    let sentence = format!("the checkpoint of step {step} was not saved: {error}; training goes on, and the next is tried");
                    eprintln!("warning: {sentence}");
                    writer.event(Event::new(step, "checkpoint_failed", "worker", sentence));
                }
                continue;
            }
        }
        let policy = policy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let files: Vec<String> = expendable(&rows, &policy).iter().map(|row| row.file.clone()).collect();
        for file in files {
            match writer.remove_checkpoint(&file) {
                Ok(()) => rows.retain(|row| row.file != file),
                Err(error) => writer.event(Event::new(step, "checkpoint_failed", "worker", error.to_string())),
            }
        }
    }
}
