//! One error for each direction; what was not put comes back.

use std::fmt;

use multiprocess_core::Errno;

use crate::mpmc::ChannelError;

/// Why there is no queue, or no place at it: as for a ring in a segment.
pub type QueueError = ChannelError;

/// Why a value was not put; here it is.
#[derive(Debug)]
pub struct PutError<T> {
    /// What was not put.
    pub value: T,
    /// Why.
    pub reason: PutFailure,
}

/// Why a value was not put.
#[derive(Debug)]
#[non_exhaustive]
pub enum PutFailure {
    /// There was no room, and no time to wait for it.
    Full,
    /// The queue is closed.
    Closed,
    /// The value refuses to be serialised; what [`transfer::take_refusal`](
    /// multiprocess_shm::transfer::take_refusal) says of a handle in it, if that is why.
    NotSerialisable(String),
    /// The kernel gave no duplicate of a descriptor in it (`EMFILE`: `RLIMIT_NOFILE`), or lets nobody send
    /// more of them at a time (`ETOOMANYREFS`: the same limit, or above 64,009 in one value). Nothing was put,
    /// and nothing is left of it.
    Descriptors(Errno),
    /// Serialised, it is larger than all the memory the queue has for large values.
    TooLarge {
        /// Bytes of the value.
        bytes: usize,
    },
    /// No place at the queue: all endpoints are in use.
    Queue(QueueError),
    /// A peer has written over the queue.
    Corrupt,
    /// The kernel refused to let us sleep.
    System(Errno),
}

impl fmt::Display for PutFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full"),
            Self::Closed => f.write_str("the queue is closed"),
            Self::NotSerialisable(why) => write!(f, "the value cannot be serialised: {why}"),
            Self::Descriptors(errno) => write!(f, "the value's descriptors: {errno}"),
            Self::TooLarge { bytes } => write!(f, "a value of {bytes} bytes is too large"),
            Self::Queue(error) => error.fmt(f),
            Self::Corrupt => f.write_str("the queue is corrupt"),
            Self::System(errno) => write!(f, "waiting for room: {errno}"),
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T: fmt::Debug> std::error::Error for PutError<T> {}

/// Why no value was got.
#[derive(Debug)]
#[non_exhaustive]
pub enum GetError {
    /// Nothing was there, and no time to wait for it.
    Empty,
    /// Nothing is there, and the queue is closed.
    Closed,
    /// A value came that is not one of this type: whoever put it has another program. It is gone.
    Undecodable(String),
    /// The kernel had no descriptor left (`RLIMIT_NOFILE`), or no memory, for the handles in the value. It is in
    /// the queue still, behind those that wait now, with all of them.
    Descriptors(Errno),
    /// No place at the queue: all endpoints are in use.
    Queue(QueueError),
    /// A peer has written over the queue.
    Corrupt,
    /// The kernel refused to let us sleep.
    System(Errno),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty"),
            Self::Closed => f.write_str("the queue is closed"),
            Self::Descriptors(errno) => write!(f, "the value's descriptors: {errno}"),
            Self::Undecodable(why) => write!(f, "not a value of this type: {why}"),
            Self::Queue(error) => error.fmt(f),
            Self::Corrupt => f.write_str("the queue is corrupt"),
            Self::System(errno) => write!(f, "waiting for a value: {errno}"),
        }
    }
}

impl std::error::Error for GetError {}
