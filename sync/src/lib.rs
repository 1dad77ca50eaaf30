//! What waits: locks and events that live directly in shared memory.
//!
//! Every type here is plain bytes in `repr(C)`, valid when all bytes are zero, position
//! independent, and works from any process that maps them. Nothing allocates, nothing needs
//! libc, an uncontended operation makes no system call. The crate's `README.md` is its design
//! document: layouts, protocols, crash tables.
#![no_std]
#![warn(clippy::unnecessary_safety_comment)]

#[cfg(feature = "std")]
extern crate std;

mod condition;
mod doorbell;
#[cfg(feature = "std")]
mod doorbell_fd;
mod error;
mod event;
mod lock;
mod mutex;
mod raw_mutex;
mod rlock;
mod wait_any;

pub use condition::{Condition, ConditionGuard, ConditionWatch};
pub use doorbell::{Doorbell, wait_any_with};
#[cfg(feature = "std")]
pub use doorbell_fd::DoorbellFd;
pub use error::{LockError, NotLocked, NotOwner, TryLockError, WaitError};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use mutex::{Mutex, MutexGuard};
pub use raw_mutex::RawMutex;
pub use rlock::{RLock, RLockGuard};
pub use wait_any::{Armed, Source, wait_any};
