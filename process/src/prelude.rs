//! The names that someone who knows Python's `multiprocessing` looks for: `use
//! multiprocess::prelude::*`.
//!
//! Locks and their like are the handles of [`owned`](crate::owned): made by `new()?`, ready to be put
//! into the arguments of a process.
//!
//! # Examples
//!
//! ```
//! use multiprocess::prelude::*;
//!
//! fn work((jobs, done, totals): (Queue<u64>, Event, Array<u64>)) {
//!     done.wait().unwrap();
//!     totals.lock().unwrap()[0] += jobs.get().unwrap();
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     multiprocess::init();
//!     let (jobs, done, totals) = (Queue::bounded(8)?, Event::new()?, Array::zeroed(1)?);
//!     let worker = Context::default().spawn(work, (jobs.clone(), done.clone(), totals.clone()))?;
//!     jobs.put(42)?;
//!     done.set();
//!     worker.join()?;
//!     assert_eq!(*totals.lock().unwrap(), [42]);
//!     Ok(())
//! }
//! ```

pub use crate::{
    Array, Barrier, BoundedSemaphore, Condition, Context, Event, JoinError, JoinableQueue, Lock,
    LockError, Mutex, Once, OnceCell, Process, Queue, RLock, RawArray, RawValue, RwLock, Semaphore,
    ShareableList, Shared, SharedMemory, ShmSafe, SimpleQueue, SpawnError, StartMethod, Timeout,
    TryLockError, Value, active_children, cpu_count, current_process, init, parent_process, scope,
};
