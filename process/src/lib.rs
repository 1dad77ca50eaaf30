//! Processes that share memory: the top floor of `multiprocess`, and the facade over it.
//!
//! [`Context::spawn`] runs a function in another process, by fork, by a fresh start of the
//! program, or through a forkserver. Arguments and results travel by serde, and handles travel
//! in them: queues, the ends of rings, locks and their like ([`owned`]), [`Value`] and [`Array`], anything
//! [`Shared`]. A child that is killed is a [`JoinError`], not a hang.
//!
//! # Examples
//!
//! ```
//! use multiprocess::{Array, Context, Queue};
//!
//! fn count((words, lengths): (Queue<String>, Array<u64>)) {
//!     for word in words.iter() {
//!         lengths.lock().unwrap()[word.len()] += 1;
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     multiprocess::init(); // first line: children start here
//!     let words = Queue::bounded(16)?;
//!     let lengths = Array::<u64>::zeroed(8)?;
//!     let start = || Context::default().spawn(count, (words.clone(), lengths.clone()));
//!     let workers = [start()?, start()?];
//!     for word in ["kill", "any", "of", "them"] {
//!         words.put(word.to_string())?;
//!     }
//!     words.close();
//!     for worker in workers {
//!         worker.join()?;
//!     }
//!     assert_eq!(lengths.lock().unwrap()[..5], [0, 0, 1, 1, 2]);
//!     Ok(())
//! }
//! ```
#![warn(clippy::unnecessary_safety_comment)]

mod active;
mod at_fork;
mod child;
mod context;
mod current;
mod doorbell;
mod entry;
mod error;
mod finalizer;
mod forkserver;
mod locked;
mod logging;
mod named;
pub mod owned;
pub mod prelude;
mod process;
mod raw;
mod registry;
mod scope;
mod settings;
mod stdio;
mod sys;
mod view2d;
mod wire;

pub use active::{ActiveChild, active_children};
pub use at_fork::{AtFork, at_fork};
pub use child::init;
pub use context::{Context, Forkserver, StartMethod, UnknownStartMethod, set_forkserver_preload};
pub use current::{CurrentProcess, ParentProcess, cpu_count, current_process, parent_process};
pub use doorbell::SharedDoorbell;
pub use error::{JoinError, SpawnError, StillRunning};
pub use finalizer::{Finalizer, at_exit};
pub use locked::{Array, ArrayGuard, Value, ValueGuard};
#[cfg(feature = "log")]
pub use logging::{inherit_logger, log_to_stderr};
#[doc(hidden)]
pub use named::NamedEntry;
pub use process::Process;
pub use raw::{OutOfBounds, Plain, RawArray, RawSlice, RawValue};
pub use scope::{Scope, ScopeError, ScopedProcess, scope};
pub use stdio::{OutputPipe, StdinPipe, Stdio};
pub use view2d::{ShapeError, View2d, View2dMut};

// The floors below.
/// Plain data: the traits that [`Plain`] is made of, and their derives.
pub use bytemuck;
pub use multiprocess_channel::queue::{Job, JoinableQueue, Queue, QueueConfig, SimpleQueue};
/// The ends of rings in async code, on any executor (feature `async`): a worker process that sends, and a
/// task that awaits it.
///
/// ```
/// use multiprocess::tasks::{Async, Reactor};
/// use multiprocess::{Context, mpmc};
///
/// fn work(mut results: mpmc::Sender<u64>) {
///     results.send(42).unwrap();
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiprocess::init();
///     let reactor = Reactor::new();
///     let runner = reactor.clone();
///     let thread = std::thread::spawn(move || runner.run());
///
///     let (sender, receiver) = mpmc::channel::<u64>(16)?;
///     let worker = Context::default().spawn(work, sender)?;
///     let mut results = Async::new(receiver, &reactor)?;
///     let runtime = tokio::runtime::Builder::new_current_thread().build()?;
///     assert_eq!(runtime.block_on(results.recv())?, 42);
///     worker.join()?;
///
///     reactor.stop();
///     thread.join().unwrap();
///     Ok(())
/// }
/// ```
#[cfg(feature = "async")]
pub use multiprocess_channel::tasks;
pub use multiprocess_channel::{self as channel, broadcast, bytes, loan, mpmc, spsc};
pub use multiprocess_core::copy::RacyCell;
// The trait, and a macro of its name whose paths begin here: a program may depend on this crate alone.
pub use multiprocess_core::facade::{FacadeShmSafe as ShmSafe, ShmSafe};
pub use multiprocess_core::{
    AttachError, CreateError, Deadline, LayoutHash, ParticipantId, Peers, Timeout, atomic, thread,
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
    Armed, BarrierError, ConditionWatch, Doorbell, DoorbellFd, InvalidParties, InvalidPermits,
    LockError, LockGuard, MutexGuard, NotLocked, NotOwner, Permit, RLockGuard, ReleaseError,
    RwLockReadGuard, RwLockWriteGuard, Source, TryAcquireError, TryLockError, UNHEARD, WaitError,
    wait_any, wait_any_with,
};
pub use owned::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Mutex, Once, OnceCell, RLock, RwLock,
    Semaphore,
};

/// The examples of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
