//! One small error enum per operation.

use core::fmt;

use multiprocess_core::Errno;

/// Why [`Lock::lock`](crate::Lock::lock) and its timed form gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError {
    /// The timeout passed first.
    Timeout,
    /// The word holds bits that no party of this protocol writes.
    Corrupt,
    /// The kernel refused to let us sleep on the word.
    System(Errno),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out waiting for the lock"),
            Self::Corrupt => f.write_str("the lock word is corrupt"),
            Self::System(errno) => write!(f, "waiting for the lock: {errno}"),
        }
    }
}

impl core::error::Error for LockError {}

/// Why [`Lock::try_lock`](crate::Lock::try_lock) did not lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryLockError {
    /// Somebody holds it.
    WouldBlock,
    /// The word holds bits that no party of this protocol writes.
    Corrupt,
}

impl fmt::Display for TryLockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the lock is held"),
            Self::Corrupt => f.write_str("the lock word is corrupt"),
        }
    }
}

impl core::error::Error for TryLockError {}

/// [`Lock::release`](crate::Lock::release) found the lock free. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotLocked;

impl fmt::Display for NotLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not held by anybody")
    }
}

impl core::error::Error for NotLocked {}

/// Why a wait for an event ended without the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The timeout passed first.
    Timeout,
    /// The kernel refused to let us sleep on the word.
    System(Errno),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out waiting for the event"),
            Self::System(errno) => write!(f, "waiting for the event: {errno}"),
        }
    }
}

impl core::error::Error for WaitError {}
