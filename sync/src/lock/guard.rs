//! The guard of a [`Lock`], and what is left of it while its holder waits for a condition.

use core::fmt;
use core::marker::PhantomData;

use multiprocess_core::{ParticipantId, Peers, Timeout};

use super::Lock;
use crate::LockError;

/// Holds a [`Lock`]; releases it when dropped.
///
/// Not `Send`: it belongs to the thread that locked. Forget it
/// ([`core::mem::forget`]) to let another thread or process [`release`](Lock::release).
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    participant: ParticipantId,
    peers: Option<&'a dyn Peers>,
    not_send: PhantomData<*const ()>,
}

impl<'a> LockGuard<'a> {
    pub(super) fn of(
        lock: &'a Lock,
        participant: ParticipantId,
        peers: Option<&'a dyn Peers>,
    ) -> Self {
        Self {
            lock,
            participant,
            peers,
            not_send: PhantomData,
        }
    }

    /// Releases the lock, and keeps what is needed to take it again.
    pub(crate) fn suspend(self) -> SuspendedLock<'a> {
        let suspended = SuspendedLock {
            lock: self.lock,
            participant: self.participant,
            peers: self.peers,
        };
        drop(self);
        suspended
    }
}

/// A lock that a waiter for a condition has released.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct SuspendedLock<'a> {
    lock: &'a Lock,
    participant: ParticipantId,
    peers: Option<&'a dyn Peers>,
}

impl fmt::Debug for SuspendedLock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SuspendedLock").field(self.lock).finish()
    }
}

impl<'a> SuspendedLock<'a> {
    pub(crate) fn resume(self) -> Result<LockGuard<'a>, LockError<LockGuard<'a>>> {
        match self.peers {
            Some(peers) => self.lock.lock_among(peers, Timeout::Never),
            None => self.lock.lock_as(self.participant, Timeout::Never),
        }
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Somebody else may have released it already: anyone may.
        let _ = self.lock.release();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(self.lock).finish()
    }
}
