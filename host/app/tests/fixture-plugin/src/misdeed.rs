//! The ways to misbehave.

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
    /// Takes memory until there is no more: at most a GiB, so that the machine survives. Linux only; elsewhere an error.
    OutOfMemory,
    /// As `loop`, at full speed.
    BusyLoop,
}

impl Misdeed {
    /// Does it; comes back if there is nothing to do, or with the error.
    pub fn commit(self) -> Result<()> {
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
            Misdeed::OutOfMemory => return out_of_memory(),
            Misdeed::BusyLoop => loop {
                std::hint::spin_loop();
            },
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

/// Ends in the allocator, which aborts the process.
#[cfg(target_os = "linux")]
fn out_of_memory() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const MORE_BYTES: u64 = 1 << 30;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let used_bytes = 1024 * kibibytes.ok_or_else(|| Error::new("the system does not say how much memory the process uses"))?;
    let mut limit = getrlimit(Resource::As);
    limit.current = Some(limit.maximum.map_or(u64::MAX, |maximum| maximum).min(used_bytes + MORE_BYTES));
    setrlimit(Resource::As, limit)?;
    let mut taken = vec![];
    loop {
        // Not zeros, which would cost no memory.
        taken.push(std::hint::black_box(vec![1u8; 16 << 20]));
    }
}

#[cfg(not(target_os = "linux"))]
fn out_of_memory() -> Result<()> {
    Err(Error::new("memory cannot be limited here, so it is not used up"))
}
