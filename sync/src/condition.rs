//! `Condition`: wait until somebody says that the state under a lock has changed. Algorithm: a
//! sequence futex, as in musl's process-shared condition variables
//! (<https://git.musl-libc.org/cgit/musl/tree/src/thread/pthread_cond_timedwait.c>); the hint that
//! somebody sleeps is a bit and not a count, so that the dead cannot leave it too high for good.
//!
//! # Protocol
//!
//! *wait*, with the lock held: (1) set SLEEPERS and remember the word; (2) release the lock, at
//! all its depth; (3) park while the word is the same; (4) take the lock again, at all its depth.
//! *notify(n)*: (5) return if SLEEPERS is clear; (6) add one to the sequence; (7) wake n; (8) if
//! fewer than n slept, clear SLEEPERS, unless the word has changed since, and (9) wake all that
//! fell asleep in between.
//!
//! # Ordering
//!
//! Everything is Relaxed: the lock orders. A waiter's (1) comes before its (2), and who changes
//! the state under the lock after that sees SLEEPERS.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1, 2, 3 | SLEEPERS in vain | one notify makes a system call too many, then clears it |
//! | 4 | as the lock's own table says | |
//! | 6 | sequence moved, nobody woken | sleepers notice at their inner bound, at most 1 s later |
//! | 7 | SLEEPERS in vain | one notify too many |
//! | 8 | SLEEPERS cleared under a sleeper | it notices at its inner bound, at most 1 s later |
//!
//! A wake that is delivered to a waiter at the moment that it is killed is lost with it. The
//! others see at their inner bound that the sequence moved, and return as if notified.

use core::fmt;

use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed, spin_loop};
use multiprocess_core::park::{self, Parked, Patience};
use multiprocess_core::thread::Caller;
use multiprocess_core::{Deadline, Errno, LayoutHash, ShmSafe, Timeout, spin};

use crate::lock::SuspendedLock;
use crate::rlock::Kept;
use crate::{LockError, LockGuard, Mutex, MutexGuard, RLock, RLockGuard};

mod watch;
pub use watch::ConditionWatch;

const SLEEPERS: u32 = 1;
const ONE: u32 = 2;

fn has_sleepers(word: u32) -> bool {
    word & SLEEPERS != 0
}

fn same_sequence(a: u32, b: u32) -> bool {
    (a ^ b) & !SLEEPERS == 0
}

mod sealed {
    pub trait Sealed {}
}

/// The guard of a lock that a [`Condition`] can wait with: of [`Mutex`], [`RLock`] and
/// [`Lock`](crate::Lock).
pub trait ConditionGuard: Sized + sealed::Sealed {
    /// The lock while it is released.
    #[doc(hidden)]
    type Suspended;

    /// Releases the lock, at all its depth.
    #[doc(hidden)]
    fn suspend(self) -> Result<Self::Suspended, LockError<Self>>;

    /// Takes it again, at the same depth.
    #[doc(hidden)]
    fn resume(suspended: Self::Suspended) -> Result<Self, LockError<Self>>;
}

impl sealed::Sealed for LockGuard<'_> {}

impl<'a> ConditionGuard for LockGuard<'a> {
    type Suspended = SuspendedLock<'a>;

    fn suspend(self) -> Result<Self::Suspended, LockError<Self>> {
        Ok(LockGuard::suspend(self))
    }

    fn resume(suspended: Self::Suspended) -> Result<Self, LockError<Self>> {
        suspended.resume()
    }
}

impl<T> sealed::Sealed for MutexGuard<'_, T> {}

impl<'a, T> ConditionGuard for MutexGuard<'a, T> {
    type Suspended = (&'a Mutex<T>, Caller<'a>);

    fn suspend(self) -> Result<Self::Suspended, LockError<Self>> {
        let suspended = (self.mutex(), self.caller());
        drop(self);
        Ok(suspended)
    }

    fn resume((mutex, caller): Self::Suspended) -> Result<Self, LockError<Self>> {
        mutex.lock_as(caller, Timeout::Never)
    }
}

impl sealed::Sealed for RLockGuard<'_> {}

impl<'a> ConditionGuard for RLockGuard<'a> {
    type Suspended = (&'a RLock, Caller<'a>, u32);

    fn suspend(self) -> Result<Self::Suspended, LockError<Self>> {
        let (lock, caller) = (self.lock(), self.caller());
        let depth = match lock.release_all(&caller) {
            Ok(depth) => depth,
            // A guard that fork has copied into a child, which then gets a depth of its own.
            Err(Kept::NotOwned) => 1,
            // Who is to notify us would wait for the lock.
            Err(Kept::Pinned) => return Err(LockError::Deadlock),
        };
        core::mem::forget(self);
        Ok((lock, caller, depth))
    }

    fn resume((lock, caller, depth): Self::Suspended) -> Result<Self, LockError<Self>> {
        match lock.acquire_all(&caller, Timeout::Never, depth) {
            Ok(()) => Ok(RLockGuard::of(lock, caller)),
            Err(error) => Err(error.map(|()| RLockGuard::of(lock, caller))),
        }
    }
}

/// A meeting point for those who change a state and those who wait for it to change, in shared
/// memory.
///
/// Python's `multiprocessing.Condition`, with differences: `notify` never waits for the woken, and
/// a waiter may wake without having been notified (as in POSIX). The lock is not part of it: pass
/// the guard of a [`Mutex`], an [`RLock`] or a [`Lock`](crate::Lock), the same lock at every call.
///
/// # Examples
///
/// The one right loop is the one inside [`wait_for`](Self::wait_for):
///
/// ```
/// use multiprocess_core::ShmSafe;
/// use multiprocess_shm::Shared;
/// use multiprocess_sync::{Condition, Mutex};
///
/// #[derive(ShmSafe)]
/// #[repr(C)]
/// struct Mailbox { letters: Mutex<u32>, arrived: Condition }
///
/// let mailbox = Shared::new(Mailbox { letters: Mutex::new(0), arrived: Condition::new() })?;
/// let postman = mailbox.clone();
/// std::thread::spawn(move || {
///     *postman.letters.lock().unwrap() += 1;
///     postman.arrived.notify(1);
/// });
/// let letters = mailbox.letters.lock().unwrap();
/// let (mut letters, there) = mailbox.arrived.wait_for(letters, None, |n| **n > 0).unwrap();
/// assert!(there);
/// *letters -= 1;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// The lock's.
///
/// # Crash safety
///
/// A waiter killed at any point blocks nobody, neither the notifiers nor the other waiters. A
/// notification whose notifier, or whose receiver, was killed reaches the others after at most
/// 1 s. Death while the lock is held is the lock's business: [`LockError::OwnerDied`]. Trust:
/// *guarded*; any word is a valid state.
///
/// # Fork
///
/// Nothing is kept per process.
// | bits of `word` | meaning | who enters | who leaves |
// |---|---|---|---|
// | SLEEPERS clear | nobody sleeps | creator; notifier (8) | waiter (1) |
// | SLEEPERS | somebody may sleep | waiter (1) | notifier (8) |
// | sequence, from bit 1 | notifications, modulo 2^31 | notifier (6) | |
#[repr(C)]
pub struct Condition {
    word: AtomicU32,
    reserved: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Condition>(), 8);

impl Condition {
    multiprocess_core::const_unless_loom! {
        /// Nobody waits; the same as eight zero bytes.
        pub fn new() -> Self {
            Self { word: AtomicU32::new(0), reserved: AtomicU32::new(0) }
        }
    }

    /// Releases the lock, waits to be notified, and takes the lock again.
    ///
    /// May return without a notification: check the state, and wait again.
    ///
    /// # Errors
    ///
    /// What taking the lock again says: with [`LockError::OwnerDied`] it is held, with any other
    /// error the guard is gone. [`LockError::Deadlock`], at once, if the thread has another guard that
    /// borrows what an [`RLock`] guards (a `Value`'s), and so cannot let go of the lock.
    pub fn wait<G: ConditionGuard>(&self, guard: G) -> Result<G, LockError<G>> {
        self.wait_until(guard, Deadline::NEVER)
            .map(|(guard, _)| guard)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; whether it was notified. Taking the lock
    /// again is not bounded by the timeout.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait). A timeout is no error.
    pub fn wait_timeout<G: ConditionGuard>(
        &self,
        guard: G,
        timeout: impl Into<Timeout>,
    ) -> Result<(G, bool), LockError<G>> {
        self.wait_until(guard, Deadline::after(timeout))
    }

    /// Waits until `predicate` holds, for at most `timeout` in all; whether it does. The predicate
    /// is asked with the lock held, before the first wait and after each.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_for<G: ConditionGuard>(
        &self,
        mut guard: G,
        timeout: impl Into<Timeout>,
        mut predicate: impl FnMut(&mut G) -> bool,
    ) -> Result<(G, bool), LockError<G>> {
        let deadline = Deadline::after(timeout);
        loop {
            if predicate(&mut guard) {
                return Ok((guard, true));
            }
            if deadline.has_passed() {
                return Ok((guard, false));
            }
            (guard, _) = self.wait_until(guard, deadline)?;
        }
    }

    fn wait_until<G: ConditionGuard>(
        &self,
        guard: G,
        deadline: Deadline,
    ) -> Result<(G, bool), LockError<G>> {
        let seen = self.word.fetch_or(SLEEPERS, Relaxed) | SLEEPERS;
        let suspended = guard.suspend()?;
        let parked = self.park(seen, deadline);
        let guard = G::resume(suspended)?;
        match parked {
            Ok(notified) => Ok((guard, notified)),
            Err(errno) => Err(LockError::System(errno)),
        }
    }

    /// Step 3; whether the sequence has moved.
    fn park(&self, seen: u32, deadline: Deadline) -> Result<bool, Errno> {
        // A hand-off between two that both run takes less than falling asleep.
        let spins = match deadline.has_passed() {
            true => 0,
            false => spin::handoff_budget(2),
        };
        for _ in 0..spins {
            let now = self.word.load(Relaxed);
            if now != seen {
                return Ok(!same_sequence(now, seen));
            }
            spin_loop();
        }
        let mut patience = Patience::new();
        loop {
            let parked = patience.park(&self.word, seen, deadline)?;
            // Looked at in any case: a wake may have died with its waker, or have come as the
            // clock ran out. Any change counts: without SLEEPERS, too, nobody would wake us.
            let now = self.word.load(Relaxed);
            if now != seen || parked == Parked::TimedOut {
                return Ok(!same_sequence(now, seen));
            }
        }
    }

    /// Wakes `count` waiters, if so many wait; perhaps some more. Never blocks.
    ///
    /// Call it with the lock held, or after having changed the state with the lock held.
    pub fn notify(&self, count: u32) {
        let seen = self.word.load(Relaxed);
        if !has_sleepers(seen) || count == 0 {
            return;
        }
        let now = self.word.fetch_add(ONE, Relaxed).wrapping_add(ONE);
        if park::wake(&self.word, count) < count {
            let cleared = now & !SLEEPERS;
            if self
                .word
                .compare_exchange(now, cleared, Relaxed, Relaxed)
                .is_ok()
            {
                // Who found SLEEPERS set, by somebody who is gone, has changed nothing and may
                // have fallen asleep since: it wakes for nothing, and announces itself anew.
                park::wake(&self.word, u32::MAX);
            }
        }
    }

    /// Wakes all waiters. Never blocks.
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("Condition")
            .field("sequence", &(word >> 1))
            .field("sleepers", &has_sleepers(word))
            .finish()
    }
}

// SAFETY: `repr(C)` around two u32 words, of which every value is valid.
unsafe impl ShmSafe for Condition {
    const LAYOUT: LayoutHash = LayoutHash::of("Condition").mix(8).mix(1);
}
