//! Queues of values between processes: anything that serde can serialise, from anybody to anybody.
//!
//! | type | Python | for |
//! |---|---|---|
//! | [`Queue`] | `multiprocessing.Queue` | values, with a limit |
//! | [`JoinableQueue`] | `JoinableQueue` | jobs: one that its worker did not finish goes to another |
//! | [`SimpleQueue`] | `SimpleQueue` | put and get |
//!
//! A value is serialised (postcard) by who puts it, and lies in a slot of an [`mpmc`](crate::mpmc) ring, or, if
//! it is larger than 120 bytes, in a block of an arena beside it. There is no thread behind it: when `put`
//! has returned, everybody can get the value, and a value that cannot be serialised is the putter's
//! error. A process that is killed, at either end, harms nobody. One small system object (a memfd)
//! stands behind each queue; the kernel frees it with its last user.
//!
//! Handles and descriptors travel in the values of a queue that was made for it
//! ([`QueueConfig::descriptors`]); others refuse them as not serialisable.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::Timeout;
use serde::{Serialize, de::DeserializeOwned};

use crate::mpmc::Statistics;

mod config;
mod envelope;
mod error;
mod joinable;
mod pouch;
mod rack;
mod shared;
mod simple;
mod spare;
mod travel;

pub use config::QueueConfig;
pub use error::{GetError, PutError, PutFailure, QueueError};
pub use joinable::{Job, JoinableQueue};
pub use simple::SimpleQueue;

use crate::home::Home;
use crate::store::{Shape, Store};
use envelope::{Envelope, serialise, serialise_carrying};
use pouch::Pouches;
use rack::Rack;
use shared::Shared;

/// A queue of values that any number of processes put into and get from.
///
/// Clones, and copies that were sent to other processes, are the same queue. By reference from any number
/// of threads. First in, first out, per putter. Not for one-way streams of plain data between two: that is
/// [`spsc`](crate::spsc), twenty times faster.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::queue::{GetError, Queue};
///
/// let queue = Queue::<(String, u32)>::bounded(100)?;
/// queue.put(("one".into(), 1))?;
/// assert_eq!(queue.get()?, ("one".into(), 1));
/// assert!(matches!(queue.try_get(), Err(GetError::Empty)));
/// queue.close();
/// assert!(matches!(queue.get(), Err(GetError::Closed)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// Of a putter that is killed at most the last value is in doubt; what a getter had taken out is gone with
/// it (a [`JoinableQueue`] gives it to another one). Killed or stopped, neither blocks anybody. What the
/// dead had of the memory for large values, and of the places for descriptors, comes back when it is
/// needed, and [`recover`](Self::recover) takes it back at once. Trust: *guarded*; a hostile peer
/// can put any value, which is an error where it is not one of `T`'s.
///
/// # Fork
///
/// A child has places of its own from its first use on. One that was forked while another thread was inside
/// `put` or `get` may find the queue's list of places locked for ever: fork from a process with one
/// thread.
pub struct Queue<T> {
    shared: Arc<Shared>,
    value: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A queue for at most `maxsize` values at a time.
    ///
    /// # Errors
    ///
    /// [`QueueError`]; a `maxsize` of 0, or above 2^40, is a
    /// [`Capacity`](multiprocess_core::CreateError::Capacity) error.
    pub fn bounded(maxsize: u64) -> Result<Self, QueueError> {
        Self::with(&QueueConfig::new(maxsize))
    }

    /// With another [`QueueConfig`].
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn with(config: &QueueConfig) -> Result<Self, QueueError> {
        Self::of_shape(config.shape())
    }

    fn of_shape(mut shape: Shape) -> Result<Self, QueueError> {
        let rack = Pouches::rack(&mut shape)?;
        let home = Home::create::<Store<Envelope>>(&shape)?;
        Self::over(home, shape, rack)
    }

    fn over(home: Home, shape: Shape, rack: Option<Rack>) -> Result<Self, QueueError> {
        Ok(Self {
            shared: Arc::new(Shared::new(home, shape, rack)?),
            value: PhantomData,
        })
    }

    /// Attaches to the queue behind a descriptor that came from [`as_fd`](AsFd::as_fd). That its values
    /// are `T`s is not checked before one comes.
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn attach(file: OwnedFd) -> Result<Self, QueueError> {
        Self::attach_as(file, None)
    }

    /// As [`attach`](Self::attach), for a queue that carries descriptors: with the other descriptor of it, from
    /// [`rack`](Self::rack).
    ///
    /// # Errors
    ///
    /// [`QueueError`]; [`OtherSockets`](QueueError::OtherSockets) if the two do not belong together.
    pub fn attach_with_rack(file: OwnedFd, rack: OwnedFd) -> Result<Self, QueueError> {
        Self::attach_as(file, Some(rack))
    }

    fn attach_as(file: OwnedFd, rack: Option<OwnedFd>) -> Result<Self, QueueError> {
        let (home, shape) = Home::attach_with_config::<Store<Envelope>>(file)?;
        let rack = match (shape.pouches, rack) {
            (0, None) => None,
            (1.., Some(root)) => Rack::attach(root, shape.pouches, shape.rack),
            _ => return Err(QueueError::OtherSockets),
        };
        if shape.pouches > 0 && rack.is_none() {
            return Err(QueueError::OtherSockets);
        }
        Self::over(home, shape, rack)
    }

    /// The socket behind which the descriptors of values wait, if it carries any:
    /// [`attach_with_rack`](Self::attach_with_rack) in another process needs it beside
    /// [`as_fd`](AsFd::as_fd). A queue inside a message has both with it.
    pub fn rack(&self) -> Option<BorrowedFd<'_>> {
        self.shared.pouches.as_ref().map(Pouches::rack_fd)
    }

    /// Values that nobody has got, at the moment of asking, and `maxsize` at most: a job that comes back
    /// to a full queue makes one more than is told. Walks the ring.
    pub fn len(&self) -> u64 {
        self.shared.onlooker().map_or(0, |onlooker| onlooker.len())
    }

    /// Whether nothing is there, at the moment of asking.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has as many values as it may, at the moment of asking.
    pub fn is_full(&self) -> bool {
        self.len() == self.maxsize()
    }

    /// The most values that it may have.
    pub fn maxsize(&self) -> u64 {
        self.shared.shape.ring.most()
    }

    /// Nothing more is put, by anybody; who gets is told once nothing is left. A put at the same moment may
    /// succeed and not be got.
    pub fn close(&self) {
        if let Ok(mut onlooker) = self.shared.onlooker() {
            onlooker.close_ring();
        }
    }

    /// Whether somebody has closed it.
    pub fn is_closed(&self) -> bool {
        let onlooker = self.shared.onlooker();
        onlooker.is_ok_and(|onlooker| onlooker.is_closed())
    }

    /// Takes back what dead processes had. Who waits, or finds no room, does this by itself.
    pub fn recover(&self) {
        self.shared.recover();
    }

    /// What has gone through it.
    pub fn statistics(&self) -> Statistics {
        let onlooker = self.shared.onlooker();
        onlooker.map_or_else(|_| Statistics::default(), |onlooker| onlooker.statistics())
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts `value`, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`PutError`], with the value.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_timeout(value, Timeout::Never)
    }

    /// Puts `value` if there is room. Python's `put_nowait`.
    ///
    /// # Errors
    ///
    /// [`PutError`], with the value.
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_timeout(value, std::time::Duration::ZERO)
    }

    /// Puts `value`, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`PutError`], with the value.
    pub fn put_timeout(&self, value: T, timeout: impl Into<Timeout>) -> Result<(), PutError<T>> {
        let put = match &self.shared.pouches {
            None => {
                let mut envelope = Envelope::default();
                let serialised = serialise(&value, &mut envelope);
                serialised.and_then(|large| self.shared.send(&mut envelope, large, timeout.into()))
            }
            Some(pouches) => serialise_carrying(&value).and_then(|(bytes, parcel)| {
                let timeout = timeout.into();
                self.shared.send_carrying(pouches, bytes, parcel, timeout)
            }),
        };
        put.map_err(|reason| PutError { value, reason })
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Gets a value, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`GetError`].
    pub fn get(&self) -> Result<T, GetError> {
        self.get_timeout(Timeout::Never)
    }

    /// Gets a value if one is there. Python's `get_nowait`.
    ///
    /// # Errors
    ///
    /// [`GetError`].
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_timeout(std::time::Duration::ZERO)
    }

    /// Gets a value, waiting for one for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`GetError`].
    pub fn get_timeout(&self, timeout: impl Into<Timeout>) -> Result<T, GetError> {
        let no_place = |error| GetError::Queue(QueueError::from(error));
        let mut receiver = self.shared.receiver().map_err(no_place)?;
        let taken = self.shared.take(&mut receiver, timeout.into(), decode);
        let got = taken.and_then(|(hand, decoded)| {
            match &decoded {
                Ok(_) => self.shared.release(&mut receiver, hand),
                Err(error) => self.shared.put_aside(&mut receiver, hand, error),
            }
            decoded
        });
        self.shared.keep(receiver);
        got
    }

    /// Values as they come, until the queue is closed; another error ends it, too.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.get().ok())
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, GetError> {
    postcard::from_bytes(bytes).map_err(|error| GetError::Undecodable(error.to_string()))
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            value: PhantomData,
        }
    }
}

impl<T> AsFd for Queue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.home.as_fd()
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("maxsize", &self.maxsize())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
