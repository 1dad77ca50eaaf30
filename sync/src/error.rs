//! One small error enum per operation.

use core::fmt;

use multiprocess_core::{Errno, ParticipantId};

/// Why a lock was not taken, or not simply taken, within the time given.
///
/// `G` is the guard: [`OwnerDied`](Self::OwnerDied) carries it, because then the caller *has*
/// the lock. Two errors of one kind compare equal, whatever their guards.
///
/// # Examples
///
/// The one right way to handle it: repair, then say so.
///
/// ```
/// use multiprocess_sync::{LockError, Mutex};
///
/// # fn repair(_: &mut u32) {}
/// static COUNT: Mutex<u32> = Mutex::new(0);
///
/// let mut guard = match COUNT.lock() {
///     Ok(guard) => guard,
///     Err(LockError::OwnerDied(mut guard)) => {
///         repair(&mut guard);
///         guard.mark_consistent();
///         guard
///     }
///     Err(error) => return Err(error.into()),
/// };
/// *guard += 1;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum LockError<G> {
    /// The lock is yours, and its last owner died with it: what it guards may be half-written.
    OwnerDied(G),
    /// An owner died, and whoever got the lock next released it without declaring what it guards
    /// consistent again. For good.
    NotRecoverable,
    /// A reader's error: a writer died, and nobody has repaired the data yet. Take the lock for
    /// writing, which hands out the guard with [`OwnerDied`](Self::OwnerDied).
    WriterDied,
    /// The timeout passed first.
    Timeout,
    /// The calling thread has it already.
    Deadlock,
    /// The thread holds as many robust locks as the kernel would find when it dies, and nobody
    /// else could tell of its death.
    TooManyHeld,
    /// The lock is taken by the participants of another table: their ids mean others.
    OtherParticipants,
    /// The word holds bits that no party of this protocol writes.
    Corrupt,
    /// The kernel refused to let us sleep on the word.
    System(Errno),
}

impl<G> LockError<G> {
    /// The same error about another guard.
    pub fn map<H>(self, f: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            Self::OwnerDied(guard) => LockError::OwnerDied(f(guard)),
            other => other.without_guard(),
        }
    }

    /// The guard, if the lock was taken from a dead owner.
    pub fn into_guard(self) -> Option<G> {
        match self {
            Self::OwnerDied(guard) => Some(guard),
            _ => None,
        }
    }

    /// The same error about a guard that it does not carry.
    #[doc(hidden)]
    pub fn without_guard<H>(self) -> LockError<H> {
        match self {
            Self::OwnerDied(_) => LockError::Corrupt,
            Self::NotRecoverable => LockError::NotRecoverable,
            Self::WriterDied => LockError::WriterDied,
            Self::Timeout => LockError::Timeout,
            Self::Deadlock => LockError::Deadlock,
            Self::TooManyHeld => LockError::TooManyHeld,
            Self::OtherParticipants => LockError::OtherParticipants,
            Self::Corrupt => LockError::Corrupt,
            Self::System(errno) => LockError::System(errno),
        }
    }
}

impl<G> PartialEq for LockError<G> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System(a), Self::System(b)) => a == b,
            _ => core::mem::discriminant(self) == core::mem::discriminant(other),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnerDied(_) => "OwnerDied(..)",
            Self::NotRecoverable => "NotRecoverable",
            Self::WriterDied => "WriterDied",
            Self::Timeout => "Timeout",
            Self::Deadlock => "Deadlock",
            Self::TooManyHeld => "TooManyHeld",
            Self::OtherParticipants => "OtherParticipants",
            Self::Corrupt => "Corrupt",
            Self::System(errno) => return f.debug_tuple("System").field(errno).finish(),
        })
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied(_) => f.write_str("the lock's owner died while it held it"),
            Self::NotRecoverable => {
                f.write_str("the lock's owner died, and nobody repaired what it guards")
            }
            Self::WriterDied => f.write_str("a writer died, and the data is unrepaired"),
            Self::Timeout => f.write_str("timed out waiting for the lock"),
            Self::Deadlock => f.write_str("this thread holds the lock already"),
            Self::TooManyHeld => f.write_str("this thread holds too many robust locks"),
            Self::OtherParticipants => {
                f.write_str("the lock belongs to the participants of another table")
            }
            Self::Corrupt => f.write_str("the lock word is corrupt"),
            Self::System(errno) => write!(f, "waiting for the lock: {errno}"),
        }
    }
}

impl<G> core::error::Error for LockError<G> {}

/// Why a lock was not taken, or not simply taken, at once. As [`LockError`], which see.
#[non_exhaustive]
pub enum TryLockError<G> {
    /// Somebody holds it.
    WouldBlock,
    /// The lock is yours, and its last owner died with it.
    OwnerDied(G),
    /// An owner died, and nobody repaired what it guarded.
    NotRecoverable,
    /// A reader's error: a writer died, and nobody has repaired the data yet.
    WriterDied,
    /// The thread holds as many robust locks as the kernel would find when it dies.
    TooManyHeld,
    /// The lock is taken by the participants of another table.
    OtherParticipants,
    /// The word holds bits that no party of this protocol writes.
    Corrupt,
}

impl<G> TryLockError<G> {
    /// The guard, if the lock was taken from a dead owner.
    pub fn into_guard(self) -> Option<G> {
        match self {
            Self::OwnerDied(guard) => Some(guard),
            _ => None,
        }
    }

    /// What a blocking call with a timeout of zero says, said by a `try_` call.
    #[doc(hidden)]
    pub fn from_timed(error: LockError<G>) -> Self {
        match error {
            LockError::OwnerDied(guard) => Self::OwnerDied(guard),
            LockError::NotRecoverable => Self::NotRecoverable,
            LockError::WriterDied => Self::WriterDied,
            LockError::TooManyHeld => Self::TooManyHeld,
            LockError::Corrupt => Self::Corrupt,
            LockError::OtherParticipants => Self::OtherParticipants,
            LockError::Timeout | LockError::Deadlock | LockError::System(_) => Self::WouldBlock,
        }
    }
}

impl<G> PartialEq for TryLockError<G> {
    fn eq(&self, other: &Self) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other)
    }
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldBlock => "WouldBlock",
            Self::OwnerDied(_) => "OwnerDied(..)",
            Self::NotRecoverable => "NotRecoverable",
            Self::WriterDied => "WriterDied",
            Self::TooManyHeld => "TooManyHeld",
            Self::OtherParticipants => "OtherParticipants",
            Self::Corrupt => "Corrupt",
        })
    }
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldBlock => "the lock is held",
            Self::OwnerDied(_) => "the lock's owner died while it held it",
            Self::NotRecoverable => "the lock's owner died, and nobody repaired what it guards",
            Self::WriterDied => "a writer died, and the data is unrepaired",
            Self::TooManyHeld => "this thread holds too many robust locks",
            Self::OtherParticipants => "the lock belongs to the participants of another table",
            Self::Corrupt => "the lock word is corrupt",
        })
    }
}

impl<G> core::error::Error for TryLockError<G> {}

/// A lock was to be released that nobody held. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotLocked;

impl fmt::Display for NotLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not held by anybody")
    }
}

impl core::error::Error for NotLocked {}

/// A lock was to be released that the caller does not own. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOwner;

impl fmt::Display for NotOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not owned by this thread")
    }
}

impl core::error::Error for NotOwner {}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The timeout passed first.
    Timeout,
    /// There is nothing to wait for: the list of sources is empty.
    NoSources,
    /// The word holds bits that no party of this protocol writes.
    Corrupt,
    /// The kernel refused to let us sleep on the word.
    System(Errno),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out waiting"),
            Self::NoSources => f.write_str("no source to wait for"),
            Self::Corrupt => f.write_str("the word waited on is corrupt"),
            Self::System(errno) => write!(f, "waiting: {errno}"),
        }
    }
}

impl core::error::Error for WaitError {}

/// A semaphore was to be made that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidPermits {
    /// More than [`Semaphore::MAX`](crate::Semaphore::MAX).
    TooMany,
    /// More permits than its own limit.
    MoreThanMax,
    /// Room for none: nobody could ever acquire it.
    NoRoom,
}

impl fmt::Display for InvalidPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "a semaphore holds at most 2147483647 permits",
            Self::MoreThanMax => "more permits than the semaphore's own limit",
            Self::NoRoom => "a semaphore with room for no permit",
        })
    }
}

impl core::error::Error for InvalidPermits {}

/// Why a permit was not taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// There is none.
    WouldBlock,
    /// The word holds numbers that no party of this protocol writes.
    Corrupt,
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldBlock => "the semaphore has no permit",
            Self::Corrupt => "the semaphore's word is corrupt",
        })
    }
}

impl core::error::Error for TryAcquireError {}

/// Why permits were not given back. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// There is no room for so many.
    TooMany,
    /// The word holds numbers that no party of this protocol writes.
    Corrupt,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "the semaphore was released too many times",
            Self::Corrupt => "the semaphore's word is corrupt",
        })
    }
}

impl core::error::Error for ReleaseError {}

/// A barrier was to be made for a number of parties that cannot be: none, or more than
/// [`Barrier::MAX_PARTIES`](crate::Barrier::MAX_PARTIES).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidParties;

impl fmt::Display for InvalidParties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a barrier is for 1 to 4095 parties")
    }
}

impl core::error::Error for InvalidParties {}

/// Why a party did not pass a barrier. Nobody passes in such a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarrierError {
    /// Somebody's time ran out, or somebody aborted or reset the barrier, or somebody died.
    Broken {
        /// Who died, if a death was found.
        dead: Option<ParticipantId>,
    },
    /// This party's own time ran out, and that broke the barrier for all.
    Timeout,
    /// The words hold numbers that no party of this protocol writes.
    Corrupt,
    /// The kernel refused to let us sleep on the word, and that broke the barrier for all.
    System(Errno),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { dead: None } => f.write_str("the barrier is broken"),
            Self::Broken { dead: Some(dead) } => {
                write!(f, "the barrier is broken: {dead:?} died")
            }
            Self::Timeout => f.write_str("timed out waiting at the barrier, which is now broken"),
            Self::Corrupt => f.write_str("the barrier's words are corrupt"),
            Self::System(errno) => write!(f, "waiting at the barrier: {errno}"),
        }
    }
}

impl core::error::Error for BarrierError {}
