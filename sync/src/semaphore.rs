//! `Semaphore`: permits to take and give back. Algorithm: Drepper's mutex 2
//! (*Futexes Are Tricky*, see [`Lock`](crate::Lock)) with a number for the locked bit, a waiters
//! bit that a release keeps, and bounded parks.
//!
//! # Protocol
//!
//! *acquire*: (1) CAS value → value - 1 if there is a permit. Else: (2) spin; (3) set WAITERS by
//! CAS; (4) park while the low half is WAITERS and no permit; then from (1) again.
//! *release(n)*: (5) CAS value → value + n, unless that is more than max; if WAITERS was set:
//! (6) wake n; if fewer than n slept: (7) clear WAITERS by CAS if there is a permit, and
//! (8) wake all.
//!
//! # Why no wake is lost
//!
//! Whoever sleeps has seen WAITERS set and no permit, in the kernel's own comparison. Step 7 is
//! the only one that clears WAITERS, and step 8 then wakes whoever came between 6 and 7 (that
//! took a barging party, two sleepers and a release in between; usually nobody). So at any time
//! *somebody sleeps* implies *WAITERS is set, or a releaser is between 7 and 8*, and every
//! release that follows wakes. Nobody depends on a woken waiter to pass something on: if it was
//! killed, or a third party barged in before it, the bit is still there. That is why, unlike in
//! a lock whose release swaps the whole word away, a waiter need not set the bit again when it
//! takes its permit.
//!
//! # Ordering
//!
//! The CAS of step 1 is Acquire and pairs with the Release CAS of step 5; the exchanges between
//! them are links of one release sequence, so an acquirer sees what every earlier releaser wrote.
//! Everything else is Relaxed: it moves hints.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | a permit gone for good: a semaphore has no owner | have one permit less |
//! | 2 | nothing | go on |
//! | 3, 4 | WAITERS set with nobody asleep | one wake too many, then step 7 clears it |
//! | asleep, just woken | a permit that nobody was woken for | the next release wakes one more; a sleeper notices at its inner bound, at most 1 s later |
//! | 5, 7 | permits there, nobody woken | the same |
//! | 6, 8 | WAITERS perhaps set in vain | one wake too many |

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::{Deadline, LayoutHash, ShmSafe, Timeout, spin};

use crate::{InvalidPermits, ReleaseError, TryAcquireError, WaitError};

mod source;

const VALUE: u64 = 0x7fff_ffff;
const WAITERS: u64 = 1 << 31;
const MAX_SHIFT: u32 = 32;

fn value(word: u64) -> u32 {
    (word & VALUE) as u32
}

fn has_permit(word: u64) -> bool {
    word & VALUE != 0
}

fn has_waiters(word: u64) -> bool {
    word & WAITERS != 0
}

fn max(word: u64) -> u32 {
    match (word >> MAX_SHIFT) as u32 {
        0 => Semaphore::MAX,
        max => max,
    }
}

/// First the common case, in which every value is right.
#[inline]
fn is_corrupt(word: u64) -> bool {
    word >> MAX_SHIFT != 0 && exceeds_max(word)
}

#[inline]
fn exceeds_max(word: u64) -> bool {
    max(word) > Semaphore::MAX || value(word) > max(word)
}

/// How many more permits there may be, of a word that is not corrupt.
#[inline]
fn room(word: u64) -> u32 {
    match word >> MAX_SHIFT {
        0 => Semaphore::MAX - value(word),
        max => max as u32 - value(word),
    }
}

/// A number of permits in shared memory: take one or wait for one; anyone may give one back.
///
/// Python's `multiprocessing.Semaphore`. It has no owner: a permit that a process holds when it
/// is killed is gone. Not for mutual exclusion that must survive a death: [`Mutex`](crate::Mutex)
/// and [`Lock`](crate::Lock) are. Where a release too many is a bug to be found,
/// [`BoundedSemaphore`](crate::BoundedSemaphore) finds it.
///
/// Unfair: a newcomer may take a permit before a woken waiter does.
///
/// # Examples
///
/// ```
/// use multiprocess_sync::Semaphore;
/// use std::time::Duration;
///
/// let jobs = Semaphore::new(0)?;                 // or in a shared segment
/// std::thread::scope(|scope| {
///     let worker = scope.spawn(|| jobs.acquire());
///     jobs.release()?;                           // one more job
///     worker.join().unwrap()?;
///     assert!(jobs.acquire_timeout(Duration::from_millis(1)).is_err());
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })
/// # .map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What was written before a release is visible to whoever acquires after it.
///
/// # Crash safety
///
/// Killed with a permit: the permit is lost, whoever knows of the death may
/// [`release`](Self::release) it. Killed while it waits: nothing is lost. Killed in a release:
/// the permits are there or not, never some of them; a sleeper whose wake died with its waker
/// goes on after at most 1 s. Trust: *guarded*; a peer can take or make permits, not make a
/// caller crash or spin without end.
///
/// # Fork
///
/// Nothing is kept per process, but a child has no permits of its own: do not fork while holding
/// a [`Permit`], or it is given back twice.
// State of `word`; bits 0-30 are the permits, bit 31 is WAITERS, bits 32-63 are max.
//
// | low half | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | no permit | acquirer of the last one (1) | releaser (5), waiter (3) |
// | value | permits, nobody sleeps | releaser (5, 7) | acquirer (1), releaser (5) |
// | 0 WAITERS | no permit, somebody may sleep | waiter (3), acquirer (1) | releaser (5) |
// | value WAITERS | permits, somebody may sleep | releaser (5) | acquirer (1), releaser (5, 7) |
//
// max is written at creation only; 0 stands for `Semaphore::MAX`. value > max is corrupt.
#[repr(C)]
pub struct Semaphore {
    word: AtomicU64,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Semaphore>(), 8);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(align_of::<Semaphore>(), 8);

impl Semaphore {
    /// The most permits a semaphore can hold: POSIX's `SEM_VALUE_MAX`, 2^31 - 1.
    pub const MAX: u32 = 0x7fff_ffff;

    multiprocess_core::const_unless_loom! {
        /// With `value` permits, and room for [`MAX`](Self::MAX). Eight zero bytes are one
        /// without permits.
        ///
        /// # Errors
        ///
        /// [`InvalidPermits::TooMany`] if `value` is more than [`MAX`](Self::MAX).
        pub fn new(value: u32) -> Result<Self, InvalidPermits> {
            if value > Self::MAX {
                return Err(InvalidPermits::TooMany);
            }
            Ok(Self::of(value, 0))
        }
    }

    multiprocess_core::const_unless_loom! {
        /// From numbers that have been checked.
        pub(crate) fn of(value: u32, max: u32) -> Self {
            Self { word: AtomicU64::new(value as u64 | (max as u64) << MAX_SHIFT) }
        }
    }

    /// Takes a permit, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`WaitError::Corrupt`], [`WaitError::System`].
    #[inline]
    pub fn acquire(&self) -> Result<(), WaitError> {
        self.acquire_timeout(Timeout::Never)
    }

    /// Takes a permit unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`], [`WaitError::Corrupt`], [`WaitError::System`].
    #[inline]
    pub fn acquire_timeout(&self, timeout: impl Into<Timeout>) -> Result<(), WaitError> {
        let seen = self.word.load(Relaxed);
        // Between 1 and MAX: a permit, nobody sleeps, and no bound of its own to look at.
        if seen.wrapping_sub(1) < u64::from(Self::MAX) && self.take(seen).is_ok() {
            return Ok(());
        }
        self.acquire_contended(Deadline::after(timeout))
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`], [`TryAcquireError::Corrupt`].
    #[inline]
    pub fn try_acquire(&self) -> Result<(), TryAcquireError> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if is_corrupt(seen) {
                return Err(TryAcquireError::Corrupt);
            }
            if !has_permit(seen) {
                return Err(TryAcquireError::WouldBlock);
            }
            match self.take(seen) {
                Ok(()) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a permit that is given back when the guard is dropped.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Self::acquire_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess_sync::Semaphore;
    ///
    /// let connections = Semaphore::new(3)?;
    /// let permit = connections.permit(None)?;
    /// assert_eq!(connections.value(), 2);
    /// drop(permit);
    /// assert_eq!(connections.value(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn permit(&self, timeout: impl Into<Timeout>) -> Result<Permit<'_>, WaitError> {
        self.acquire_timeout(timeout)?;
        Ok(Permit { semaphore: self })
    }

    /// Step 1, from a word with a permit.
    #[inline]
    fn take(&self, seen: u64) -> Result<(), u64> {
        // Acquire pairs with the Release CAS in `release_many`.
        self.word
            .compare_exchange(seen, seen - 1, Acquire, Relaxed)
            .map(drop)
    }

    #[cold]
    fn acquire_contended(&self, deadline: Deadline) -> Result<(), WaitError> {
        let mut patience = park::Patience::new();
        let mut spins = spin::lock_budget();
        let mut expired = false;
        loop {
            let seen = self.word.load(Relaxed);
            if is_corrupt(seen) {
                return Err(WaitError::Corrupt);
            }
            if has_permit(seen) {
                if self.take(seen).is_ok() {
                    return Ok(());
                }
                continue;
            }
            if spins > 0 && !has_waiters(seen) {
                spins -= 1;
                spin_loop();
                continue;
            }
            // After the look for a permit: one that came as the clock ran out is taken.
            if expired || deadline.has_passed() {
                return Err(WaitError::Timeout);
            }
            if !has_waiters(seen)
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            match patience.park(&self.word, WAITERS as u32, deadline) {
                Ok(Parked::TimedOut) => expired = true,
                Ok(Parked::Recheck) => {}
                Ok(_) => spins = spin::lock_budget(),
                Err(errno) => return Err(WaitError::System(errno)),
            }
        }
    }

    /// Gives a permit back, or makes a new one.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`], with nothing changed: there is no room for it.
    #[inline]
    pub fn release(&self) -> Result<(), ReleaseError> {
        let seen = self.word.load(Relaxed);
        // Room for one more, nobody sleeps, and no bound of its own to look at.
        if seen < u64::from(Self::MAX) && self.give(seen, 1).is_ok() {
            return Ok(());
        }
        self.release_many(1)
    }

    /// Gives `count` permits at once: all of them or, with an error, none.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::TooMany`], [`ReleaseError::Corrupt`].
    #[inline]
    pub fn release_many(&self, count: u32) -> Result<(), ReleaseError> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if is_corrupt(seen) {
                return Err(ReleaseError::Corrupt);
            }
            if count > room(seen) {
                return Err(ReleaseError::TooMany);
            }
            match self.give(seen, count) {
                Ok(()) => break,
                Err(now) => seen = now,
            }
        }
        if has_waiters(seen) && count > 0 {
            self.wake(count);
        }
        Ok(())
    }

    /// Step 5, from a word with room.
    #[inline]
    fn give(&self, seen: u64, count: u32) -> Result<(), u64> {
        // Release pairs with the Acquire CAS in `take`. The load half decides only whether to wake.
        self.word
            .compare_exchange(seen, seen + u64::from(count), Release, Relaxed)
            .map(drop)
    }

    #[cold]
    fn wake(&self, count: u32) {
        if park::wake(&self.word, count) >= count {
            return; // others may sleep behind those we woke
        }
        let seen = self.word.load(Relaxed);
        if has_waiters(seen)
            && has_permit(seen)
            && self
                .word
                .compare_exchange(seen, seen & !WAITERS, Relaxed, Relaxed)
                .is_ok()
        {
            // Whoever fell asleep since our wake relied on the bit.
            park::wake(&self.word, u32::MAX);
        }
    }

    /// How many permits there are, at the moment of asking.
    pub fn value(&self) -> u32 {
        value(self.word.load(Relaxed))
    }

    /// How many permits it has room for.
    pub fn max(&self) -> u32 {
        max(self.word.load(Relaxed))
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("Semaphore")
            .field("value", &value(word))
            .field("max", &max(word))
            .field("waiters", &has_waiters(word))
            .finish()
    }
}

// SAFETY: `repr(C)` around one u64 word; every value is handled, impossible ones as corrupt.
unsafe impl ShmSafe for Semaphore {
    const LAYOUT: LayoutHash = LayoutHash::of("Semaphore").mix(8).mix(1);
}

/// A permit of a [`Semaphore`]; given back when dropped. Forget it ([`core::mem::forget`]) to let
/// somebody else give it back.
#[must_use = "the permit is given back at once if the guard is not kept"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        // No room for it: somebody has given it back already. Anyone may.
        let _ = self.semaphore.release();
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(self.semaphore).finish()
    }
}
