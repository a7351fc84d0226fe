//! A plugin that misbehaves on demand, for the tests of the loader and the worker. Its settings choose how; the defaults behave.
//!
//! `misdeed.rs` is what may go wrong, `meddler.rs` a callback and `sulky.rs` a logger; model, data set and experiment are here.

mod meddler;
mod misdeed;
mod sulky;

pub use meddler::Meddler;
pub use misdeed::Misdeed;
pub use sulky::Sulky;

use solstice_plugin_api::prelude::*;

/// A dense layer that may misbehave.
#[config]
pub struct Rogue {
    /// Width.
    #[schemars(range(min = 1, max = 64))]
    pub width: u32,
    /// What to do in `forward`, or when dropped.
    pub misdeed: Misdeed,
}

impl Default for Rogue {
    fn default() -> Self {
        // For the tests of a plugin that does not survive being listed.
        if std::env::var_os("SOLSTICE_FIXTURE_ABORT_IN_DESCRIBE").is_some() {
            std::process::abort();
        }
        Rogue { width: 3, misdeed: Misdeed::None }
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        if self.misdeed == Misdeed::PanicInDrop {
            panic!("dropped badly");
        }
    }
}

impl Model for Rogue {
    const ID: &'static str = "rogue";

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        self.misdeed.commit()?;
        if self.misdeed == Misdeed::ShapeError {
            let columns = g.shape(x)[1];
            let y = g.reshape(x, &[columns + 1]);
            return Ok(g.relu(y));
        }
        g.linear("fc", x, self.width as usize)
    }
}

/// Counts: sample `i` is `i`, its label `i % 2`.
#[config]
#[derive(Default)]
pub struct Counting {
    /// Samples in `train`; `test` has half as many.
    pub len: u32,
    /// What to do in `fill`.
    pub misdeed: Misdeed,
}

struct Counted {
    len: u64,
    misdeed: Misdeed,
}

impl Dataset for Counting {
    const ID: &'static str = "counting";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        host.progress("counting");
        solstice_plugin_api::log("counted");
        Ok(Box::new(Counted { len: u64::from(self.len.max(8)), misdeed: self.misdeed }))
    }
}

impl Samples for Counted {
    fn spec(&self) -> DatasetSpec {
        let field = |name: &str, role, dtype, shape: &[usize]| Field {
            name: name.into(),
            role,
            dtype,
            shape: shape.to_vec(),
            scale: 1.0,
            offset: 0.0,
        };
        DatasetSpec {
            splits: vec![Split { name: "train".into(), len: self.len }, Split { name: "test".into(), len: self.len / 2 }],
            fields: vec![field("number", FieldRole::Input, DType::F32, &[1]), field("label", FieldRole::Target, DType::I32, &[])],
            resident: false,
            facts: [("classes".to_owned(), 2.into())].into(),
        }
    }

    fn fill(&self, _split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        self.misdeed.commit()?;
        for (slot, &index) in indices.iter().enumerate() {
            out[0][slot * 4..][..4].copy_from_slice(&(index as f32).to_le_bytes());
            out[1][slot * 4..][..4].copy_from_slice(&((index % 2) as i32).to_le_bytes());
        }
        Ok(())
    }
}

/// Logs the mean of what the model says.
#[config]
#[derive(Default)]
pub struct Watching {
    /// What to do before the model is called.
    pub misdeed: Misdeed,
}

impl Experiment for Watching {
    const ID: &'static str = "watching";

    fn train_step(&self, step: &mut Step) -> Result<()> {
        self.eval_step(step)
    }

    fn eval_step(&self, step: &mut Step) -> Result<()> {
        self.misdeed.commit()?;
        let x = step.input()?;
        let y = step.model(x)?; // [batch, width]
        let mean = step.mean_all(y);
        step.log_scalar("mean", mean)
    }
}

export_plugin! { experiments: [Watching], datasets: [Counting], models: [Rogue], callbacks: [Meddler], loggers: [Sulky] }
