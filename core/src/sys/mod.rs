//! The seam to the operating system: one file per backend, chosen here and nowhere else.
//!
//! | backend | file | when |
//! |---|---|---|
//! | Linux futex | `linux.rs` | `target_os` is linux or android |
//! | the same: thread ids, robust lists, fork | `linux_thread.rs` | the same |
//! | the models' mock | `model.rs` | `--cfg loom`; with shuttle: `--cfg loom --cfg shuttle` |
//! | POSIX semaphores in a table of the user | `posix_sem.rs` | `--cfg multiprocess_park="posix_sem"`, on Linux: for Unixes without futexes, where nothing else is there yet |

use crate::atomic::{AtomicU32, AtomicU64};
use crate::park::{Parked, WaitEntry};
use crate::{Deadline, Errno};

/// What a backend provides: sleep on a word, wake its sleepers.
///
/// The word is a reference into shared memory; implementations identify it across processes.
pub(crate) trait Park {
    /// Sleeps while `*word == expected`; compare and sleep are atomic with respect to a wake.
    fn wait32(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<Parked, Errno>;
    /// As `wait32`, on the low half of `word`.
    fn wait64(word: &AtomicU64, expected: u32, deadline: Deadline) -> Result<Parked, Errno>;
    /// Wakes `count` sleepers, or all, or more; how many for certain. Zero is always a right answer
    /// if nobody who slept when it began is left asleep.
    fn wake32(word: &AtomicU32, count: u32) -> u32;
    /// As `wake32`, for sleepers on the low half.
    fn wake64(word: &AtomicU64, count: u32) -> u32;
    /// Sleeps while every word has its expected value; `ENOSYS` if the system cannot.
    ///
    /// Two entries at least, [`MAX_WAIT_ANY`](crate::park::MAX_WAIT_ANY) at most.
    fn wait_any(entries: &[WaitEntry<'_>], deadline: Deadline) -> Result<Parked, Errno>;
}

#[cfg(all(not(loom), any(target_os = "linux", target_os = "android")))]
#[cfg_attr(multiprocess_park = "posix_sem", allow(dead_code))] // its futexes
mod linux;
#[cfg(all(not(loom), any(target_os = "linux", target_os = "android")))]
use linux as backend;

#[cfg(all(not(loom), multiprocess_park = "posix_sem"))]
mod posix_sem;
#[cfg(all(not(loom), multiprocess_park = "posix_sem"))]
pub(crate) use posix_sem::Backend;

#[cfg(all(not(loom), any(target_os = "linux", target_os = "android")))]
#[path = "linux_thread.rs"]
pub(crate) mod thread;

#[cfg(loom)]
pub(crate) use model::threads as thread;

#[cfg(loom)]
pub mod model;
#[cfg(loom)]
use model as backend;

#[cfg(all(not(loom), not(any(target_os = "linux", target_os = "android"))))]
compile_error!(
    "multiprocess-core has no park backend for this target yet: Linux only, see core/README.md"
);

#[cfg(any(loom, not(multiprocess_park = "posix_sem")))]
pub(crate) use backend::Backend;
pub(crate) use backend::{
    cpus, heavy_fence, light_fence, membarrier_register, membarrier_works, now,
};
