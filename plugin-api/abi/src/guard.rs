//! A panic does not leave the library in which it happened: it becomes an [`AbiError`] with message, line and backtrace.

use crate::{AbiError, ErrorKind};
use abi_stable::std_types::RResult;
use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};

/// Longest backtrace that is kept; symbol names of generic code are long.
const BACKTRACE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Default)]
struct Panicked {
    message: String,
    location: String,
    backtrace: String,
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static HERE: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// The newest panic of any other thread: a thread pool carries a panic to its caller without running the hook again.
static ELSEWHERE: Mutex<Option<Panicked>> = Mutex::new(None);

/// Runs `f`; its panic is an error of kind [`ErrorKind::PANIC`].
///
/// Every function that crosses the boundary goes through this, `Drop` included. The hook that takes message and line is installed once a library (each
/// `.so` has its own copy of std); it also prints, or a second panic while unwinding would die without a word. Costs about 20 ns when nothing panics.
pub fn guard<T>(f: impl FnOnce() -> Result<T, AbiError>) -> RResult<T, AbiError> {
    install_hook();
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    DEPTH.set(DEPTH.get() - 1);
    match result {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(error),
        Err(payload) => RResult::RErr(error_of(payload)),
    }
}

fn error_of(payload: Box<dyn Any + Send>) -> AbiError {
    let message = message_of(&*payload);
    // The payload's own Drop may panic as well, and nothing stands above this frame.
    std::mem::forget(payload);
    let here = HERE.with(|here| here.borrow_mut().take());
    let panicked = here.or_else(|| ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner).take()).unwrap_or_default();
    let details = serde_json::json!({ "backtrace": panicked.backtrace });
    let message = if panicked.message.is_empty() { message } else { panicked.message };
    let mut error = AbiError::at(ErrorKind::PANIC, message, panicked.location);
    error.details = details.to_string().into();
    error
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            print(info);
            let mut backtrace = Backtrace::force_capture().to_string();
            if backtrace.len() > BACKTRACE_BYTES_MAX {
                backtrace.truncate(backtrace.floor_char_boundary(BACKTRACE_BYTES_MAX));
            }
            let panicked = Panicked {
                message: message_of(info.payload()),
                location: info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default(),
                backtrace,
            };
            if DEPTH.get() > 0 {
                HERE.with(|here| *here.borrow_mut() = Some(panicked));
            } else {
                *ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) = Some(panicked);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_line() {
        let result = guard::<()>(|| panic!("index {} out of range", 7));
        let error = result.into_result().unwrap_err();
        assert_eq!(error.kind, ErrorKind::PANIC);
        assert_eq!(error.message.as_str(), "index 7 out of range");
        assert!(error.location.as_str().contains("guard.rs:"), "{error}");
        assert!(error.backtrace().is_some_and(|text| !text.is_empty()));
    }

    #[test]
    fn a_panic_that_a_thread_carried_over_keeps_its_line() {
        let result = guard::<()>(|| match std::thread::spawn(|| panic!("in a pool")).join() {
            Ok(()) => Ok(()),
            Err(payload) => std::panic::resume_unwind(payload),
        });
        let error = result.into_result().unwrap_err();
        assert_eq!(error.message.as_str(), "in a pool");
        assert!(error.location.as_str().contains("guard.rs:"), "{error}");
    }

    #[test]
    fn an_error_passes_through() {
        let result = guard::<()>(|| Err(AbiError::new(ErrorKind::CONFIG, "no")));
        assert_eq!(result.into_result().unwrap_err().kind, ErrorKind::CONFIG);
    }
}
