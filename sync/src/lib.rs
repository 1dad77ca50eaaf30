//! What waits: locks, events, semaphores and barriers that live directly in shared memory.
//!
//! Every type here is plain bytes in `repr(C)`, valid when all bytes are zero (but for
//! [`Barrier`], which must know its parties), position independent, and works from any process
//! that maps them. Nothing allocates, nothing needs
//! libc, an uncontended operation makes no system call. The crate's `README.md` is its design
//! document: layouts, protocols, crash tables.
#![no_std]
#![warn(clippy::unnecessary_safety_comment)]

#[cfg(feature = "std")]
extern crate std;

mod barrier;
mod bounded_semaphore;
mod condition;
mod doorbell;
#[cfg(feature = "std")]
mod doorbell_fd;
mod error;
mod event;
mod lock;
mod mutex;
mod once;
mod raw_mutex;
mod rlock;
mod rwlock;
mod semaphore;
mod wait_any;

pub use barrier::Barrier;
pub use bounded_semaphore::BoundedSemaphore;
pub use condition::{Condition, ConditionGuard, ConditionWatch};
pub use doorbell::{Doorbell, wait_any_with};
#[cfg(feature = "std")]
pub use doorbell_fd::DoorbellFd;
pub use error::{
    BarrierError, InvalidParties, InvalidPermits, LockError, NotLocked, NotOwner, ReleaseError,
    TryAcquireError, TryLockError, WaitError,
};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use mutex::{Mutex, MutexGuard};
pub use once::{Once, OnceCell};
pub use raw_mutex::RawMutex;
pub use rlock::{RLock, RLockGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{Permit, Semaphore};
pub use wait_any::{Armed, Source, UNHEARD, wait_any};
