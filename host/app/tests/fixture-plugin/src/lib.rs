//! A plugin that misbehaves on demand, for the tests of the loader and the worker. Its settings choose how; the defaults behave.

use solstice_plugin_api::prelude::*;

/// What happens instead of an answer.
#[config]
#[derive(Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Misdeed {
    /// Nothing: a good answer.
    #[default]
    None,
    /// An error in the author's words.
    Error,
    /// Sizes that do not fit.
    ShapeError,
    /// A panic.
    Panic,
    /// A panic in a thread of the plugin's own, carried over.
    PanicInThread,
    /// A panic when the component is dropped.
    PanicInDrop,
    /// A panic while unwinding: the runtime aborts.
    DoublePanic,
    /// `abort()`.
    Abort,
    /// `exit(0)`, as if all were well.
    Exit,
    /// No answer, ever.
    Loop,
    /// Recursion without an end.
    StackOverflow,
    /// A write to an address that is not there.
    Segfault,
}

impl Misdeed {
    fn commit(self) -> Result<()> {
        match self {
            Misdeed::None | Misdeed::ShapeError | Misdeed::PanicInDrop => {}
            Misdeed::Error => return Err(Error::new("wanted to fail, and did")),
            Misdeed::Panic => panic!("index {} out of range", 7),
            Misdeed::PanicInThread => {
                let thread = std::thread::spawn(|| {
                    if std::hint::black_box(true) {
                        panic!("a thread fell over")
                    }
                });
                if let Err(payload) = thread.join() {
                    std::panic::resume_unwind(payload);
                }
            }
            Misdeed::DoublePanic => {
                let _second = PanicsWhenDropped;
                panic!("the first of two");
            }
            Misdeed::Abort => std::process::abort(),
            Misdeed::Exit => std::process::exit(0),
            Misdeed::Loop => loop {
                std::thread::sleep(std::time::Duration::from_millis(50));
            },
            Misdeed::StackOverflow => drop(deeper(1)),
            Misdeed::Segfault => segfault(),
        }
        Ok(())
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped badly");
    }
}

fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    if frame[0] == 0 { 0 } else { deeper(depth + 1) + frame[511] }
}

#[allow(unsafe_code)]
fn segfault() {
    let nowhere = std::hint::black_box(std::ptr::without_provenance_mut::<u64>(64));
    // SAFETY: there is none, which is the point of this fixture: the first page is never mapped.
    unsafe { nowhere.write_volatile(1) };
}

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

export_plugin! { experiments: [Watching], datasets: [Counting], models: [Rogue] }
