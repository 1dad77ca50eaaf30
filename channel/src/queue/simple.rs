//! A queue without a choice of size.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use super::{GetError, PutError, Queue, QueueConfig, QueueError};

/// Values that may wait in one; Python's bound is what a pipe holds.
const MAXSIZE: u64 = 1024;

/// A [`Queue`] of up to 1024 values with put, get and empty.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::queue::SimpleQueue;
///
/// let queue = SimpleQueue::<u32>::new()?;
/// queue.put(7)?;
/// assert_eq!(queue.get()?, 7);
/// assert!(queue.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SimpleQueue<T> {
    pub(super) queue: Queue<T>,
}

impl<T> SimpleQueue<T> {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn new() -> Result<Self, QueueError> {
        let queue = Queue::bounded(MAXSIZE)?;
        Ok(Self { queue })
    }

    /// An empty one, of whose values so many at a time may carry descriptors, as
    /// [`QueueConfig::descriptors`].
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn with_descriptors(values: u32) -> Result<Self, QueueError> {
        let queue = Queue::with(&QueueConfig::new(MAXSIZE).descriptors(values))?;
        Ok(Self { queue })
    }

    /// Whether nothing is there, at the moment of asking.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// As [`Queue::close`].
    pub fn close(&self) {
        self.queue.close();
    }
}

impl<T: Serialize> SimpleQueue<T> {
    /// As [`Queue::put`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.queue.put(value)
    }
}

impl<T: DeserializeOwned> SimpleQueue<T> {
    /// As [`Queue::get`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get(&self) -> Result<T, GetError> {
        self.queue.get()
    }
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T> fmt::Debug for SimpleQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimpleQueue").field(&self.queue).finish()
    }
}
