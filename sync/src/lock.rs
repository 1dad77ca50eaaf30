//! `Lock`: mutual exclusion that any process or thread may release. Algorithm: Drepper,
//! *Futexes Are Tricky* (<https://dept-info.labri.fr/~denis/Enseignement/2008-IR/Articles/01-futex.pdf>),
//! mutex 2, with a sticky waiters bit and bounded parks.
//!
//! # Protocol
//!
//! *lock*: (1) CAS free → locked, stamped with the caller's participant. If held: (2) spin;
//! (3) set WAITERS by CAS; (4) park while the low half is LOCKED|WAITERS; then from (1) again,
//! keeping WAITERS set, because others may sleep behind us.
//! *release*: (5) swap to zero; if WAITERS was set: (6) set WAITERS again, (7) wake one;
//! (8) if nobody slept and the lock is still free, clear WAITERS.
//!
//! Step 6 closes the hole of the plain protocol in which a third party that barges in between
//! 5 and the woken waiter's 3 releases without waking the others when that waiter is killed.
//!
//! # Ordering
//!
//! The CAS of step 1 is Acquire and pairs with the Release swap of step 5. Everything else is
//! Relaxed: it moves hints.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | held by the dead, stamped | [`Lock::lock_among`] finds out within its inner bound; others wait until somebody who knows of the death calls [`Lock::release_dead`] |
//! | 2 | nothing | go on |
//! | 3, 4 | WAITERS set with nobody asleep | one wake too many, then step 8 clears it |
//! | 5 | free, WAITERS lost | a sleeper notices at its inner bound, at most 1 s later |
//! | 6 | free, WAITERS set, nobody woken | the same; or the next release wakes |
//! | 7, 8 | WAITERS perhaps set in vain | one wake too many |

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::{Deadline, LayoutHash, ParticipantId, Peers, ShmSafe, Timeout, spin};

use crate::{LockError, NotLocked, TryLockError};

#[cfg(all(feature = "lock_api", not(loom)))]
mod api;
mod guard;
mod source;

pub use guard::LockGuard;
pub(crate) use guard::SuspendedLock;

const FREE: u64 = 0; // a zeroed page is an unlocked lock
const LOCKED: u64 = 1;
const WAITERS: u64 = 2;
const STATE: u64 = LOCKED | WAITERS;
const LOW_HALF: u64 = 0xffff_ffff;

fn is_locked(word: u64) -> bool {
    word & LOCKED != 0
}

fn has_waiters(word: u64) -> bool {
    word & WAITERS != 0
}

fn is_corrupt(word: u64) -> bool {
    word & LOW_HALF & !STATE != 0
}

fn stamp(holder: ParticipantId) -> u64 {
    u64::from(holder.bits()) << 32
}

fn holder(word: u64) -> ParticipantId {
    ParticipantId::from_bits((word >> 32) as u32)
}

/// A lock in shared memory: not recursive, and anyone may release it.
///
/// Python's `multiprocessing.Lock`. It guards whatever its users agree on; it holds no data.
/// Not for data that must survive the death of whoever writes it: [`Mutex`](crate::Mutex) is.
///
/// Unfair: a newcomer may barge in before a woken waiter. (A fair lock would hand itself to
/// waiters that are dead.)
///
/// # Examples
///
/// ```
/// use multiprocess_sync::Lock;
///
/// static LOCK: Lock = Lock::new();       // or in a shared segment
///
/// let guard = LOCK.lock()?;
/// assert!(LOCK.try_lock().is_err());
/// drop(guard);
/// assert!(LOCK.try_lock().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What a holder wrote before releasing is visible to the next holder.
///
/// # Crash safety
///
/// Killed while it holds the lock: the lock stays held. If it was taken with
/// [`lock_among`](Self::lock_among) or [`lock_as`](Self::lock_as), the next one that waits with
/// `lock_among` finds out within 50 ms to 1 s and has it with [`LockError::OwnerDied`]; or whoever
/// learns of the death otherwise (a readable pidfd) gives it back with
/// [`release_dead`](Self::release_dead), exactly once. Killed at any
/// other point: nobody is blocked; a sleeper whose wake died with its waker goes on after at
/// most 1 s. Trust: *guarded*; a peer can keep the lock for ever, or break mutual exclusion,
/// but not make a caller crash or spin without end.
///
/// # Fork
///
/// A child does not hold its parent's locks: do not fork while holding a guard.
// State of the low half of `word`; the high half is the holder's stamp while LOCKED.
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | FREE | unlocked | releaser (5, 8) | any locker (1) |
// | LOCKED | held | locker (1) | a waiter (3), any releaser (5) |
// | LOCKED WAITERS | held, somebody may sleep | waiter (1, 3), releaser (6) after a barge | any releaser (5) |
// | WAITERS | unlocked, somebody may sleep | releaser (6) | any locker (1), releaser (8) |
#[repr(C)]
pub struct Lock {
    word: AtomicU64,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Lock>(), 8);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(align_of::<Lock>(), 8);

impl Lock {
    multiprocess_core::const_unless_loom! {
        /// An unlocked lock; the same as eight zero bytes.
        pub fn new() -> Self {
            Self { word: AtomicU64::new(FREE) }
        }
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`], [`LockError::System`].
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.lock_as(ParticipantId::ANONYMOUS, Timeout::Never)
    }

    /// Locks unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`LockError::Timeout`], [`LockError::Corrupt`], [`LockError::System`].
    #[inline]
    pub fn lock_timeout(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.lock_as(ParticipantId::ANONYMOUS, timeout)
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`], [`TryLockError::Corrupt`].
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_>, TryLockError<LockGuard<'_>>> {
        self.try_lock_as(ParticipantId::ANONYMOUS)
    }

    /// Locks in the name of `participant`, so that its death can be told from its slowness.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Self::lock_timeout).
    #[inline]
    pub fn lock_as(
        &self,
        participant: ParticipantId,
        timeout: impl Into<Timeout>,
    ) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        // Acquire pairs with the Release swap in `release`.
        let free = self
            .word
            .compare_exchange(FREE, LOCKED | stamp(participant), Acquire, Relaxed);
        if free.is_err() {
            self.lock_contended(participant, None, Deadline::after(timeout))
                .map_err(|error| error.map(|()| LockGuard::of(self, participant, None)))?;
        }
        Ok(LockGuard::of(self, participant, None))
    }

    /// Locks as one of several participants; a holder among them that has died is found out, and
    /// the lock taken from it.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Self::lock_timeout), and [`LockError::OwnerDied`], which carries the
    /// guard: what the lock guards may be half-written. Nobody is told a second time.
    #[inline]
    pub fn lock_among<'a>(
        &'a self,
        peers: &'a dyn Peers,
        timeout: impl Into<Timeout>,
    ) -> Result<LockGuard<'a>, LockError<LockGuard<'a>>> {
        let me = peers.me();
        // Acquire pairs with the Release swap in `release`.
        let free = self
            .word
            .compare_exchange(FREE, LOCKED | stamp(me), Acquire, Relaxed);
        if free.is_err() {
            self.lock_contended(me, Some(peers), Deadline::after(timeout))
                .map_err(|error| error.map(|()| LockGuard::of(self, me, Some(peers))))?;
        }
        Ok(LockGuard::of(self, me, Some(peers)))
    }

    /// As [`try_lock`](Self::try_lock), in the name of `participant`.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn try_lock_as(
        &self,
        participant: ParticipantId,
    ) -> Result<LockGuard<'_>, TryLockError<LockGuard<'_>>> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if is_corrupt(seen) {
                return Err(TryLockError::Corrupt);
            }
            if is_locked(seen) {
                return Err(TryLockError::WouldBlock);
            }
            // Acquire pairs with the Release swap in `release`.
            let locked = LOCKED | (seen & WAITERS) | stamp(participant);
            match self.word.compare_exchange(seen, locked, Acquire, Relaxed) {
                Ok(_) => return Ok(LockGuard::of(self, participant, None)),
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn lock_contended(
        &self,
        participant: ParticipantId,
        peers: Option<&dyn Peers>,
        deadline: Deadline,
    ) -> Result<(), LockError<()>> {
        let mut patience = park::Patience::new();
        let mut spins = spin::lock_budget();
        let mut slept = FREE; // WAITERS once we have slept: others may sleep behind us
        loop {
            let seen = self.word.load(Relaxed);
            if is_corrupt(seen) {
                return Err(LockError::Corrupt);
            }
            if !is_locked(seen) {
                // Acquire pairs with the Release swap in `release`.
                let locked = LOCKED | (seen & WAITERS) | slept | stamp(participant);
                if self
                    .word
                    .compare_exchange(seen, locked, Acquire, Relaxed)
                    .is_ok()
                {
                    return Ok(());
                }
                continue;
            }
            if spins > 0 && !has_waiters(seen) {
                spins -= 1;
                spin_loop();
                continue;
            }
            if deadline.has_passed() {
                return Err(match self.inherit(participant, peers) {
                    true => LockError::OwnerDied(()),
                    false => LockError::Timeout,
                });
            }
            if !has_waiters(seen)
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            slept = WAITERS;
            match patience.park(&self.word, STATE as u32, deadline) {
                Ok(Parked::TimedOut | Parked::Recheck) => {
                    if self.inherit(participant, peers) {
                        return Err(LockError::OwnerDied(()));
                    }
                }
                Ok(_) => spins = spin::lock_budget(),
                Err(errno) => return Err(LockError::System(errno)),
            }
        }
    }

    /// Takes the lock from a holder that is dead by the word of the participants.
    fn inherit(&self, participant: ParticipantId, peers: Option<&dyn Peers>) -> bool {
        let Some(peers) = peers else {
            return false;
        };
        let seen = self.word.load(Relaxed);
        let holder = holder(seen);
        if !is_locked(seen) || holder.is_anonymous() || !peers.is_dead(holder) {
            return false;
        }
        // The stamp that was judged is the stamp that is replaced. Acquire: as any locker.
        let mine = LOCKED | WAITERS | stamp(participant);
        self.word
            .compare_exchange(seen, mine, Acquire, Relaxed)
            .is_ok()
    }

    /// Releases the lock, whoever holds it; the counterpart of a forgotten guard.
    ///
    /// # Errors
    ///
    /// [`NotLocked`] if nobody held it.
    #[inline]
    pub fn release(&self) -> Result<(), NotLocked> {
        // Release pairs with the Acquire CAS of the next locker. The load half decides only
        // whether to wake.
        let was = self.word.swap(FREE, Release);
        if has_waiters(was) {
            self.wake_one();
        }
        if is_locked(was) {
            Ok(())
        } else {
            Err(NotLocked)
        }
    }

    #[cold]
    fn wake_one(&self) {
        // Others may sleep beside the one we wake. Should it die before it has the lock, the
        // next release must still wake: the bit stays until a release finds nobody asleep.
        self.word.fetch_or(WAITERS, Relaxed);
        if park::wake(&self.word, 1) == 0
            && self
                .word
                .compare_exchange(WAITERS, FREE, Relaxed, Relaxed)
                .is_ok()
        {
            // A third party may have held it in between, with others asleep behind it.
            park::wake(&self.word, 1);
        }
    }

    /// Gives back what a dead participant held. `true` if it was the holder.
    ///
    /// The stamp that was judged is the stamp that is replaced, so two callers release once,
    /// and a lock that has changed hands meanwhile is left alone. What the lock guards may be
    /// half-written.
    ///
    /// Call it only when the kernel has attested the death: stopped is not dead.
    pub fn release_dead(&self, dead: ParticipantId) -> bool {
        let mut seen = self.word.load(Relaxed);
        while is_locked(seen) && holder(seen) == dead && !dead.is_anonymous() {
            // Release: the dead one's stores reached memory when it died; this pairs with
            // the Acquire CAS of the next locker all the same.
            match self.word.compare_exchange(seen, FREE, Release, Relaxed) {
                Ok(_) => {
                    if has_waiters(seen) {
                        self.wake_one();
                    }
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Whether somebody holds it, at the moment of asking.
    pub fn is_locked(&self) -> bool {
        is_locked(self.word.load(Relaxed))
    }

    /// Who holds it, at the moment of asking; anonymous holders say
    /// [`ParticipantId::ANONYMOUS`].
    pub fn holder(&self) -> Option<ParticipantId> {
        let word = self.word.load(Relaxed);
        is_locked(word).then(|| holder(word))
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("Lock")
            .field("locked", &is_locked(word))
            .field("waiters", &has_waiters(word))
            .field("holder", &holder(word))
            .finish()
    }
}

// SAFETY: `repr(C)` around one u64 word; every value is handled, unknown ones as corrupt.
unsafe impl ShmSafe for Lock {
    const LAYOUT: LayoutHash = LayoutHash::of("Lock").mix(8).mix(1);
}
