//! Processes that share memory: the top floor of `multiprocess`, and the facade over it.
//!
//! [`Context::spawn`] runs a function in another process, by fork, by a fresh start of the
//! program, or through a forkserver. Arguments and results travel by serde, and handles travel
//! in them: [`Shared`] values, [`RawValue`], [`RawArray`], [`SharedDoorbell`]s, the ends of [`spsc`] and [`bytes`]
//! rings. A child that is killed is a [`JoinError`], not a hang.
//!
//! # Examples
//!
//! ```
//! use multiprocess::{Context, Lock, RawArray, Shared, spsc};
//!
//! type Jobs = spsc::Consumer<u64>;
//!
//! fn work((mut jobs, lock, totals): (Jobs, Shared<Lock>, RawArray<u64>)) -> u64 {
//!     let mut count = 0;
//!     while let Ok(job) = jobs.pop() {
//!         let _guard = lock.lock().unwrap();
//!         totals.set(0, totals.get(0).unwrap() + job).unwrap();
//!         count += 1;
//!     }
//!     count
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     multiprocess::init(); // first line: children start here
//!     let (mut producer, consumer) = spsc::channel(16)?;
//!     let lock = Shared::new(Lock::new())?;
//!     let totals = RawArray::<u64>::zeroed(1)?;
//!     let worker = Context::default().spawn(work, (consumer, lock.clone(), totals.clone()))?;
//!     for job in 1..=10 {
//!         producer.push(job)?;
//!     }
//!     drop(producer);
//!     assert_eq!(worker.join()?, 10);
//!     assert_eq!(totals.get(0), Some(55));
//!     Ok(())
//! }
//! ```
#![warn(clippy::unnecessary_safety_comment)]

mod child;
mod context;
mod doorbell;
mod entry;
mod error;
mod forkserver;
mod locked;
pub mod owned;
pub mod prelude;
mod process;
mod raw;
mod registry;
mod sent;
mod sys;
mod view2d;
mod wire;

pub use child::init;
pub use context::{Context, StartMethod, UnknownStartMethod};
pub use doorbell::SharedDoorbell;
pub use error::{JoinError, SpawnError};
pub use locked::{Array, ArrayGuard, Value, ValueGuard};
pub use process::Process;
pub use raw::{OutOfBounds, Plain, RawArray, RawSlice, RawValue};
pub use view2d::{ShapeError, View2d, View2dMut};

// The floors below.
/// Plain data: the traits that [`Plain`] is made of, and their derives.
pub use bytemuck;
pub use multiprocess_channel::queue::{Job, JoinableQueue, Queue, QueueConfig, SimpleQueue};
pub use multiprocess_channel::{self as channel, broadcast, bytes, mpmc, spsc};
pub use multiprocess_core::copy::RacyCell;
pub use multiprocess_core::{
    AttachError, CreateError, Deadline, LayoutHash, ParticipantId, Peers, ShmSafe, Timeout, atomic,
    thread,
};
/// Everything that [`multiprocess_shm`] has: arenas, read-only segments, lists of what is named.
pub use multiprocess_shm as shm;
pub use multiprocess_shm::{
    Counted, Heap, HeapConfig, Mapping, Named, NamedSegment, Participant, Participants, Segment,
    ShareableList, Shared, SharedMemory, Snapshot, transfer,
};
/// The primitives as they lie in shared memory: fields of a struct behind a [`Shared`].
pub use multiprocess_sync as sync;
pub use multiprocess_sync::{
    Armed, Barrier, BarrierError, BoundedSemaphore, Condition, ConditionWatch, Doorbell,
    DoorbellFd, Event, InvalidParties, InvalidPermits, Lock, LockError, LockGuard, Mutex,
    MutexGuard, NotLocked, NotOwner, Once, OnceCell, Permit, RLock, RLockGuard, RawMutex,
    ReleaseError, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, Source, TryAcquireError,
    TryLockError, WaitError, wait_any, wait_any_with,
};
