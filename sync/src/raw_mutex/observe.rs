//! A [`RawMutex`] seen by those who do not want it: a writer that must wait for readers to be gone,
//! a reader that must not pass a writer.

use multiprocess_core::atomic::{
    Ordering::{Relaxed, SeqCst},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::thread::{Caller, thread_exists};
use multiprocess_core::{Deadline, Peers, spin};

use super::{
    CONSISTENT, INCONSISTENT, LOW_HALF, RawMutex, TID, WAITERS, has_waiters, is_held, name, owner,
    owner_died,
};
use crate::LockError;

/// What a mutex looks like to somebody who does not want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Free,
    Held,
    /// Free, its last owner died, and nobody has repaired what it guards.
    Died,
    NotRecoverable,
}

impl RawMutex {
    /// What somebody who does not want it, but must not pass while it is held, finds.
    #[inline]
    pub(crate) fn look(&self) -> Look {
        // SeqCst: Acquire pairs with the Release half in `give_up`; and see `RwLock`.
        let word = self.word.load(SeqCst);
        match self.state.load(Relaxed) {
            _ if is_held(word) => Look::Held,
            _ if owner_died(word) => Look::Died,
            CONSISTENT => Look::Free,
            INCONSISTENT => Look::Died,
            _ => Look::NotRecoverable,
        }
    }

    /// Whether its owner is dead by the word of the participants.
    pub(crate) fn owner_is_dead(&self, peers: &dyn Peers) -> bool {
        let seen = self.word.load(Relaxed);
        is_held(seen)
            && !owner(seen).is_anonymous()
            && peers.is_dead(owner(seen))
            // As in `inherit`.
            && !(peers.share_pid_namespace() && thread_exists((seen & TID) as u32))
    }

    /// Waits until it is not held, without taking it; an owner that died holds it no more.
    pub(crate) fn wait_until_free(
        &self,
        caller: &Caller<'_>,
        deadline: Deadline,
    ) -> Result<(), LockError<()>> {
        let mut patience = park::Patience::new();
        let mut spins = spin::lock_budget();
        loop {
            // SeqCst: Acquire pairs with the Release half in `give_up`; and see `RwLock`.
            let seen = self.word.load(SeqCst);
            if !is_held(seen) {
                return Ok(());
            }
            if seen & !WAITERS == name(caller) {
                return Err(LockError::Deadlock);
            }
            if spins > 0 && !has_waiters(seen) {
                spins -= 1;
                spin_loop();
                continue;
            }
            let dead = |peers: &dyn Peers| self.owner_is_dead(peers);
            if deadline.has_passed() {
                return match caller.peers().is_some_and(dead) {
                    true => Ok(()),
                    false => Err(LockError::Timeout),
                };
            }
            let asleep = seen | WAITERS;
            if !has_waiters(seen)
                && self
                    .word
                    .compare_exchange(seen, asleep, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            match patience.park(&self.word, (asleep & LOW_HALF) as u32, deadline) {
                Ok(Parked::TimedOut | Parked::Recheck) => {
                    if caller.peers().is_some_and(dead) {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(errno) => return Err(LockError::System(errno)),
            }
        }
    }

    /// Plays the kernel at the death of thread `id`, in a model.
    #[cfg(loom)]
    pub fn kernel_ends(&self, id: u32) {
        let mut seen = self.word.load(Relaxed);
        while seen & TID == u64::from(id) {
            let marked = seen & !TID | super::DIED;
            // The kernel's exchange is a full barrier.
            match self.word.compare_exchange(
                seen,
                marked,
                multiprocess_core::atomic::Ordering::AcqRel,
                Relaxed,
            ) {
                Ok(_) => {
                    if has_waiters(seen) {
                        park::wake(&self.word, 1);
                    }
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }
}
