//! One small error enum per operation; what could not be sent comes back.

use core::fmt;

use multiprocess_core::Errno;

use crate::waiter::GaveUp;

/// Why a message was not sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// No slot is free.
    Full(T),
    /// The consumer is gone, or this producer was closed or sent to another process.
    Disconnected(T),
    /// The consumer's index contradicts ours.
    Corrupt(T),
}

impl<T> TrySendError<T> {
    /// The same about another message.
    pub(crate) fn with<V>(self, message: V) -> TrySendError<V> {
        match self {
            Self::Full(_) => TrySendError::Full(message),
            Self::Disconnected(_) => TrySendError::Disconnected(message),
            Self::Corrupt(_) => TrySendError::Corrupt(message),
        }
    }
}

/// Why a blocking send gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// The timeout passed first.
    Timeout(T),
    /// The consumer is gone, or this producer was closed or sent to another process.
    Disconnected(T),
    /// The consumer's index contradicts ours.
    Corrupt(T),
    /// The kernel refused to let us sleep.
    System(T, Errno),
}

/// Why nothing was received at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing is there yet.
    Empty,
    /// Nothing is there and nothing will come: the producer is gone, or this consumer was
    /// closed or sent to another process.
    Disconnected,
    /// The producer's index or a record header contradicts the ring's bounds.
    Corrupt,
}

/// Why a blocking receive gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// The timeout passed first.
    Timeout,
    /// Nothing is there and nothing will come: the producer is gone, or this consumer was
    /// closed or sent to another process.
    Disconnected,
    /// The producer's index or a record header contradicts the ring's bounds.
    Corrupt,
    /// The kernel refused to let us sleep.
    System(Errno),
}

/// Why room for a record was not reserved at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryReserveError {
    /// Not enough bytes are free.
    Full,
    /// No ring of this capacity ever holds such a record.
    TooLarge {
        /// The longest record, bytes.
        max: usize,
    },
    /// The consumer is gone, or this producer was closed or sent to another process.
    Disconnected,
    /// The consumer's index contradicts ours.
    Corrupt,
}

/// Why a blocking reservation gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// The timeout passed first.
    Timeout,
    /// No ring of this capacity ever holds such a record.
    TooLarge {
        /// The longest record, bytes.
        max: usize,
    },
    /// The consumer is gone, or this producer was closed or sent to another process.
    Disconnected,
    /// The consumer's index contradicts ours.
    Corrupt,
    /// The kernel refused to let us sleep.
    System(Errno),
}

/// Why a record was not copied into the caller's buffer. The record is still in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PopIntoError {
    /// The buffer is too short.
    BufferTooShort {
        /// Bytes needed.
        need: usize,
    },
    /// There is no record to copy.
    Recv(TryRecvError),
}

const FULL: &str = "the ring is full";
const EMPTY: &str = "the ring is empty";
const TIMEOUT: &str = "timed out";
const DISCONNECTED: &str = "the other end is gone";
const CORRUPT: &str = "the ring is corrupt";

impl<T> TrySendError<T> {
    /// The same error without what was not sent, which may be borrowed from the sender.
    pub fn without_message(self) -> TrySendError<()> {
        match self {
            Self::Full(_) => TrySendError::Full(()),
            Self::Disconnected(_) => TrySendError::Disconnected(()),
            Self::Corrupt(_) => TrySendError::Corrupt(()),
        }
    }
}

impl<T> SendError<T> {
    /// The same error without what was not sent, which may be borrowed from the sender.
    pub fn without_message(self) -> SendError<()> {
        match self {
            Self::Timeout(_) => SendError::Timeout(()),
            Self::Disconnected(_) => SendError::Disconnected(()),
            Self::Corrupt(_) => SendError::Corrupt(()),
            Self::System(_, errno) => SendError::System((), errno),
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => FULL,
            Self::Disconnected(_) => DISCONNECTED,
            Self::Corrupt(_) => CORRUPT,
        })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(_) => f.write_str(TIMEOUT),
            Self::Disconnected(_) => f.write_str(DISCONNECTED),
            Self::Corrupt(_) => f.write_str(CORRUPT),
            Self::System(_, errno) => write!(f, "waiting for room: {errno}"),
        }
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => EMPTY,
            Self::Disconnected => DISCONNECTED,
            Self::Corrupt => CORRUPT,
        })
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str(TIMEOUT),
            Self::Disconnected => f.write_str(DISCONNECTED),
            Self::Corrupt => f.write_str(CORRUPT),
            Self::System(errno) => write!(f, "waiting for a message: {errno}"),
        }
    }
}

impl fmt::Display for TryReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str(FULL),
            Self::TooLarge { max } => write!(f, "records are at most {max} bytes long"),
            Self::Disconnected => f.write_str(DISCONNECTED),
            Self::Corrupt => f.write_str(CORRUPT),
        }
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str(TIMEOUT),
            Self::TooLarge { max } => write!(f, "records are at most {max} bytes long"),
            Self::Disconnected => f.write_str(DISCONNECTED),
            Self::Corrupt => f.write_str(CORRUPT),
            Self::System(errno) => write!(f, "waiting for room: {errno}"),
        }
    }
}

impl fmt::Display for PopIntoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooShort { need } => write!(f, "the record has {need} bytes"),
            Self::Recv(error) => error.fmt(f),
        }
    }
}

impl<T: fmt::Debug> core::error::Error for TrySendError<T> {}
impl<T: fmt::Debug> core::error::Error for SendError<T> {}
impl core::error::Error for TryRecvError {}
impl core::error::Error for RecvError {}
impl core::error::Error for TryReserveError {}
impl core::error::Error for ReserveError {}
impl core::error::Error for PopIntoError {}

impl<T> TrySendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Disconnected(value) | Self::Corrupt(value) => value,
        }
    }
}

impl<T> SendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Timeout(value)
            | Self::Disconnected(value)
            | Self::Corrupt(value)
            | Self::System(value, _) => value,
        }
    }
}

impl From<TryRecvError> for PopIntoError {
    fn from(error: TryRecvError) -> Self {
        Self::Recv(error)
    }
}

impl From<TryRecvError> for RecvError {
    /// As after a wait that was over at once.
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::Timeout,
            TryRecvError::Disconnected => Self::Disconnected,
            TryRecvError::Corrupt => Self::Corrupt,
        }
    }
}

impl From<GaveUp> for RecvError {
    fn from(reason: GaveUp) -> Self {
        match reason {
            GaveUp::Timeout => Self::Timeout,
            GaveUp::Abandoned => Self::Disconnected,
            GaveUp::System(errno) => Self::System(errno),
        }
    }
}

impl From<GaveUp> for ReserveError {
    fn from(reason: GaveUp) -> Self {
        match reason {
            GaveUp::Timeout => Self::Timeout,
            GaveUp::Abandoned => Self::Disconnected,
            GaveUp::System(errno) => Self::System(errno),
        }
    }
}

/// Why a receiver of a `broadcast` ring that may miss messages got none at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryReadError {
    /// Nothing is there yet.
    Empty,
    /// The sender was faster: so many messages were missed, and the next call goes on behind them.
    Lagged(u64),
    /// Nothing is there and nothing will come: the sender has closed.
    Disconnected,
    /// The sequence of a slot, or the tail, contradicts the ring's bounds.
    Corrupt,
}

/// Why a receiver of a `broadcast` ring that may miss messages gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The timeout passed first.
    Timeout,
    /// The sender was faster: so many messages were missed, and the next call goes on behind them.
    Lagged(u64),
    /// Nothing is there and nothing will come: the sender has closed.
    Disconnected,
    /// The sequence of a slot, or the tail, contradicts the ring's bounds.
    Corrupt,
    /// The kernel refused to let us sleep.
    System(Errno),
}

impl fmt::Display for TryReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(EMPTY),
            Self::Lagged(missed) => write!(f, "{missed} messages were missed"),
            Self::Disconnected => f.write_str(DISCONNECTED),
            Self::Corrupt => f.write_str(CORRUPT),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str(TIMEOUT),
            Self::Lagged(missed) => write!(f, "{missed} messages were missed"),
            Self::Disconnected => f.write_str(DISCONNECTED),
            Self::Corrupt => f.write_str(CORRUPT),
            Self::System(errno) => write!(f, "waiting for a message: {errno}"),
        }
    }
}

impl core::error::Error for TryReadError {}
impl core::error::Error for ReadError {}

impl From<TryReadError> for ReadError {
    /// As after a wait that was over at once.
    fn from(error: TryReadError) -> Self {
        match error {
            TryReadError::Empty => Self::Timeout,
            TryReadError::Lagged(missed) => Self::Lagged(missed),
            TryReadError::Disconnected => Self::Disconnected,
            TryReadError::Corrupt => Self::Corrupt,
        }
    }
}
