//! `at_exit`: what runs once, when the process that registered it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::registry::registry;

/// Has `run` called when this process ends by itself: `main` returns, somebody calls `exit`, or,
/// in a child, its function has returned or panicked. Those of the highest priority are called
/// first, and of one priority the last that was registered. One that panics does not keep the others
/// from running. None runs if the process is killed, aborts or calls `_exit`.
///
/// It runs in this process only: a forked child neither runs it nor drops what it holds. A
/// forkserver's preload that registers one has it run nowhere: servers end without ceremony.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, RawArray, at_exit};
///
/// let trace = RawArray::<u64>::zeroed(1)?;
/// let child = |trace: RawArray<u64>| {
///     at_exit(0, move || trace.set(0, 7).unwrap());
/// };
/// Context::default().spawn(child, trace.clone())?.join()?;
/// assert_eq!(trace.get(0), Some(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn at_exit(priority: i32, run: impl FnOnce() + Send + 'static) -> Finalizer {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        extern "C" fn handler() {
            run_all();
        }
        // SAFETY: registers a function of ours, which does not unwind. No room for it: children
        // run theirs all the same.
        unsafe { libc::atexit(handler) };
    });
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    registry().finalizers.push(Pending {
        id,
        pid: std::process::id(),
        priority,
        run: Box::new(run),
    });
    Finalizer { id }
}

/// What [`at_exit`] registered. Dropping it changes nothing.
#[derive(Debug)]
pub struct Finalizer {
    id: u64,
}

impl Finalizer {
    /// Runs it now, and not again. `false`: it has run, or belongs to another process.
    ///
    /// # Panics
    ///
    /// If it does.
    pub fn run(self) -> bool {
        match self.take() {
            Some(pending) => {
                (pending.run)();
                true
            }
            None => false,
        }
    }

    /// Drops it. `false`: it has run, or belongs to another process.
    pub fn cancel(self) -> bool {
        self.take().is_some()
    }

    fn take(&self) -> Option<Pending> {
        let own = std::process::id();
        let mut registry = registry();
        let finalizers = &mut registry.finalizers;
        let matches = |pending: &Pending| pending.id == self.id && pending.pid == own;
        let index = finalizers.iter().position(matches)?;
        Some(finalizers.remove(index))
    }
}

pub(crate) struct Pending {
    id: u64,
    /// Where it was registered: a process that others forked has a copy.
    pid: u32,
    priority: i32,
    run: Box<dyn FnOnce() + Send>,
}

/// Those of this process, until there are none: one that runs may register another one.
pub(crate) fn run_all() {
    let own = std::process::id();
    loop {
        let next = {
            let mut registry = registry();
            let finalizers = &mut registry.finalizers;
            let ours = finalizers.iter().enumerate();
            let ours = ours.filter(|(_, pending)| pending.pid == own);
            // Of equals, `max_by_key` takes the last.
            let first = ours.max_by_key(|(_, pending)| pending.priority);
            let Some((index, _)) = first else { return };
            finalizers.remove(index)
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(next.run)) {
            // The panic hook has said what is to be said. To drop this may be the next panic.
            std::mem::forget(payload);
        }
    }
}
