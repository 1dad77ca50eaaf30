//! A queue of jobs.

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::Timeout;
use serde::{Serialize, de::DeserializeOwned};

use super::shared::{InHand, Rx, Shared};
use super::{GetError, PutError, Queue, QueueConfig, QueueError, decode};
use crate::mpmc::{Statistics, WaitDoneError};

/// A queue whose values are jobs: each stays in the queue's books until who got it says that it is done,
/// and goes to another worker if that one dies before. [`join`](Self::join) waits until all are done.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::queue::JoinableQueue;
///
/// let jobs = JoinableQueue::<u64>::bounded(100)?;
/// jobs.put(21)?;
/// let worker = jobs.clone();
/// std::thread::spawn(move || {
///     while let Ok(job) = worker.get() {
///         println!("{}", *job * 2);
///         job.done();                     // killed before this, another worker gets it
///     }
/// });
/// jobs.join(None)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// As [`Queue`]; a job in the hands of a worker that is killed is done again by another one, and if
/// none is left `join` says so.
///
/// # Fork
///
/// As [`Queue`]; a parent's jobs are not the child's.
pub struct JoinableQueue<T> {
    pub(super) queue: Queue<T>,
}

impl<T> JoinableQueue<T> {
    /// A queue for at most `maxsize` jobs that nobody has got.
    ///
    /// # Errors
    ///
    /// As [`Queue::bounded`].
    pub fn bounded(maxsize: u64) -> Result<Self, QueueError> {
        Self::with(&QueueConfig::new(maxsize))
    }

    /// With another [`QueueConfig`].
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn with(config: &QueueConfig) -> Result<Self, QueueError> {
        let mut shape = config.shape();
        shape.ring = shape.ring.joinable();
        let queue = Queue::of_shape(shape)?;
        Ok(Self { queue })
    }

    /// As [`Queue::attach`].
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn attach(file: OwnedFd) -> Result<Self, QueueError> {
        let queue = Queue::attach(file)?;
        Ok(Self { queue })
    }

    /// As [`Queue::attach_with_rack`].
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn attach_with_rack(file: OwnedFd, rack: OwnedFd) -> Result<Self, QueueError> {
        let queue = Queue::attach_with_rack(file, rack)?;
        Ok(Self { queue })
    }

    /// As [`Queue::rack`].
    pub fn rack(&self) -> Option<BorrowedFd<'_>> {
        self.queue.rack()
    }

    /// Waits until all jobs are done, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`WaitDoneError::Abandoned`] once jobs are left and the last worker has gone or died (a process that
    /// has ever called `get` counts as a worker, also this one);
    /// [`WaitDoneError::Timeout`]; [`WaitDoneError::NotJoinable`] if the descriptor that was attached to
    /// was a plain queue's.
    pub fn join(&self, timeout: impl Into<Timeout>) -> Result<(), WaitDoneError> {
        match self.queue.shared.onlooker() {
            Ok(onlooker) => onlooker.join(timeout),
            Err(_) => Err(WaitDoneError::NotJoinable),
        }
    }

    /// Jobs that nobody has got.
    pub fn len(&self) -> u64 {
        self.queue.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As [`Queue::is_full`].
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// The most jobs that it may have.
    pub fn maxsize(&self) -> u64 {
        self.queue.maxsize()
    }

    /// As [`Queue::close`]. Workers that find nothing are told so, though a job may still be in another
    /// one's hands: if that one dies, and all others have left by then, [`join`](Self::join) says
    /// `Abandoned`. Join first, then close.
    pub fn close(&self) {
        self.queue.close();
    }

    /// As [`Queue::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// As [`Queue::recover`].
    pub fn recover(&self) {
        self.queue.recover();
    }

    /// As [`Queue::statistics`].
    pub fn statistics(&self) -> Statistics {
        self.queue.statistics()
    }
}

impl<T: Serialize> JoinableQueue<T> {
    /// As [`Queue::put`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.queue.put(value)
    }

    /// As [`Queue::try_put`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.queue.try_put(value)
    }

    /// As [`Queue::put_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_timeout(&self, value: T, timeout: impl Into<Timeout>) -> Result<(), PutError<T>> {
        self.queue.put_timeout(value, timeout)
    }
}

impl<T: DeserializeOwned> JoinableQueue<T> {
    /// Gets a job, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`GetError`].
    pub fn get(&self) -> Result<Job<T>, GetError> {
        self.get_timeout(Timeout::Never)
    }

    /// Gets a job if one is there.
    ///
    /// # Errors
    ///
    /// [`GetError`].
    pub fn try_get(&self) -> Result<Job<T>, GetError> {
        self.get_timeout(std::time::Duration::ZERO)
    }

    /// Gets a job, waiting for one for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`GetError`]. A job that cannot be decoded is done; one for whose descriptors there was no room is not.
    pub fn get_timeout(&self, timeout: impl Into<Timeout>) -> Result<Job<T>, GetError> {
        let shared = &self.queue.shared;
        let no_place = |error| GetError::Queue(QueueError::from(error));
        let mut receiver = shared.receiver().map_err(no_place)?;
        match shared.take(&mut receiver, timeout.into(), decode) {
            Ok((hand, Ok(value))) => Ok(Job {
                value,
                held: Some((receiver, hand)),
                shared: Arc::clone(shared),
            }),
            Ok((hand, Err(error))) => {
                shared.put_aside(&mut receiver, hand, &error);
                shared.keep(receiver);
                Err(error)
            }
            Err(error) => {
                shared.keep(receiver);
                Err(error)
            }
        }
    }
}

/// A job in our hands. Say [`done`](Self::done), Python's `task_done`; dropped otherwise it is done too,
/// unless the thread panics: then it goes to another worker.
#[must_use = "a job that is dropped counts as done"]
pub struct Job<T> {
    value: T,
    held: Option<(Box<Rx>, InHand)>,
    shared: Arc<Shared>,
}

impl<T> Job<T> {
    /// It has been worked on.
    pub fn done(self) {
        drop(self);
    }

    /// It was not worked on: it goes to another worker, perhaps to this one again.
    pub fn give_up(mut self) {
        self.return_it();
    }

    fn return_it(&mut self) {
        if let Some((mut receiver, hand)) = self.held.take() {
            Shared::give_up(&mut receiver, &hand);
            self.shared.keep(receiver);
        }
    }
}

impl<T> Deref for Job<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.return_it();
        }
        if let Some((mut receiver, hand)) = self.held.take() {
            self.shared.release(&mut receiver, hand);
            self.shared.keep(receiver);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.value).finish()
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T> AsFd for JoinableQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinableQueue").field(&self.queue).finish()
    }
}
