//! `Doorbell`: one word per waiting process, rung by whoever has set something for it. Algorithm:
//! PostgreSQL's latch
//! (<https://github.com/postgres/postgres/blob/master/src/backend/storage/ipc/latch.c>).
//!
//! # Protocol
//!
//! *wait*: (1) set SLEEPERS; (2) fence; (3) look at everything that is waited for; (4) sleep while
//! the word is the same.
//! *ring*, after having published: (5) fence; (6) return if neither SLEEPERS nor POLLED is set;
//! (7) if POLLED, write to the eventfd; (8) CAS: add one to the sequence, drop both bits; again
//! from 6 if it fails; (9) if SLEEPERS was set, wake all.
//! *poll* ([`DoorbellFd`](crate::DoorbellFd)): (10) read the eventfd; (11) add one to the sequence
//! and set POLLED; (12) fence; (13) look; (14) wait for the eventfd to become readable.
//!
//! Step 7 comes before 8, so that a kill in between leaves POLLED to the next ring. Step 11 changes
//! the word, so that the 8 of a ring whose 7 was read by 10 fails, and does not take the new POLLED
//! away.
//!
//! # Ordering
//!
//! Dekker: the fences 2 and 12 pair with 5. Either the waiter's look sees what was published, or
//! the ringer's load sees the bit.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 to 4 | SLEEPERS in vain | one ring makes a system call too many |
//! | published, 5, 6 | set, nobody rung | a sleeper looks at its inner bound, at most 1 s later; a poller at its own timeout, or at the next ring |
//! | 7 | POLLED still set | the poller looks; if it has not by then, the next ring writes again |
//! | 8 | SLEEPERS gone, nobody woken | the sleeper looks at its inner bound |
//! | 9, 10 | nothing | go on |
//! | 11 to 14 | POLLED in vain | one ring writes once too often |

use core::convert::Infallible;
use core::fmt;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use multiprocess_core::park::{self, Parked, Patience};
use multiprocess_core::{Deadline, LayoutHash, ShmSafe, Timeout};

use crate::wait_any::{first_ready, recheck};
use crate::{Source, WaitError};

const SLEEPERS: u32 = 1;
const POLLED: u32 = 2;
const BITS: u32 = SLEEPERS | POLLED;
const ONE: u32 = 4;

fn has_sleepers(word: u32) -> bool {
    word & SLEEPERS != 0
}

fn is_polled(word: u32) -> bool {
    word & POLLED != 0
}

/// A word in shared memory by which others wake a process, whatever it waits for.
///
/// Give each process that waits one of its own. Whoever sets something that it may wait for,
/// an event or a word of another kind, *rings* afterwards. In exchange the process can wait for any
/// number of things, on any kernel, with one word to sleep on: see [`wait_any_with`]. Not needed for
/// up to 128 sources on Linux 5.16: [`wait_any`](crate::wait_any).
///
/// With a file descriptor for epoll or an async runtime: [`DoorbellFd`](crate::DoorbellFd).
///
/// # Examples
///
/// ```
/// use multiprocess_sync::{Doorbell, Event, Source, wait_any_with};
///
/// static BELL: Doorbell = Doorbell::new();               // or in a shared segment
/// static JOBS: [Event; 1000] = [const { Event::new() }; 1000];
///
/// std::thread::spawn(|| {
///     JOBS[700].set();                                   // publish, then
///     BELL.ring();
/// });
/// let jobs: Vec<&dyn Source> = JOBS.iter().map(|job| job as _).collect();
/// assert_eq!(wait_any_with(&BELL, &jobs, None)?, 700);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// A full fence on each side; what is seen of the sources is ordered as the sources say.
///
/// # Crash safety
///
/// A process killed at any point blocks nobody. A sleeper notices what was set by a process that was
/// killed before it rang after at most 1 s. Trust: *guarded*; any word is a valid state.
///
/// # Fork
///
/// Nothing is kept per process. A child that waits needs a doorbell of its own, or wakes with its
/// parent.
// | bits of `word` | meaning | who enters | who leaves |
// |---|---|---|---|
// | SLEEPERS | a thread may sleep on the word | sleeper (1) | ringer (8) |
// | POLLED | somebody may wait for the eventfd | poller (11) | ringer (8) |
// | sequence, from bit 2 | rings that found somebody, and polls, modulo 2^30 | ringer (8), poller (11) | |
#[repr(C)]
pub struct Doorbell {
    word: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Doorbell>(), 4);

impl Doorbell {
    multiprocess_core::const_unless_loom! {
        /// Nobody waits; the same as four zero bytes.
        pub fn new() -> Self {
            Self { word: AtomicU32::new(0) }
        }
    }

    /// Wakes who sleeps with this doorbell, to look again. Call it after having set what it may
    /// wait for.
    ///
    /// No system call, and no store, if nobody waits. Async-signal-safe. It cannot reach who waits
    /// for a file descriptor: [`DoorbellFd::ring`](crate::DoorbellFd::ring) does.
    #[inline]
    pub fn ring(&self) {
        // Dekker, ringer's half: pairs with the fences in `arm_sleeper` and `arm_poller`.
        fence(SeqCst);
        let seen = self.word.load(Relaxed);
        if has_sleepers(seen) {
            // POLLED stays, for a ring that can write.
            let Ok(()) = self.ring_armed(seen, SLEEPERS, || Ok::<(), Infallible>(()));
        }
    }

    /// As [`ring`](Self::ring); `write` reaches who polls. For [`DoorbellFd`](crate::DoorbellFd),
    /// and for models of it.
    ///
    /// # Errors
    ///
    /// What `write` says; who sleeps was woken all the same.
    #[doc(hidden)]
    #[inline]
    pub fn ring_and<E>(&self, write: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        fence(SeqCst);
        let seen = self.word.load(Relaxed);
        if seen & BITS == 0 {
            return Ok(());
        }
        self.ring_armed(seen, BITS, write)
    }

    /// Steps 7 to 9, for the bits in `reached`.
    #[cold]
    fn ring_armed<E>(
        &self,
        mut seen: u32,
        reached: u32,
        mut write: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        while seen & reached != 0 {
            let mut result = Ok(());
            if is_polled(seen & reached) {
                result = write();
            }
            // A poller that could not be reached stays announced; sleepers are woken all the same.
            let dropped = match result {
                Ok(()) => reached,
                Err(_) => SLEEPERS,
            };
            let rung = seen.wrapping_add(ONE) & !dropped;
            match self.word.compare_exchange(seen, rung, Relaxed, Relaxed) {
                Ok(_) => {
                    if has_sleepers(seen) {
                        park::wake(&self.word, u32::MAX);
                    }
                    return result;
                }
                // Another ring, or a waiter that looks only now: it sees what was published, but
                // its bit must not go unanswered.
                Err(now) => seen = now,
            }
        }
        Ok(())
    }

    /// Steps 1 and 2; what to sleep on.
    fn arm_sleeper(&self) -> u32 {
        let seen = self.word.fetch_or(SLEEPERS, Relaxed) | SLEEPERS;
        // Dekker, sleeper's half: pairs with the fence in `ring`.
        fence(SeqCst);
        seen
    }

    /// Steps 11 and 12. For whom [`ring_and`](Self::ring_and) is.
    #[doc(hidden)]
    pub fn arm_poller(&self) {
        let mut seen = self.word.load(Relaxed);
        loop {
            let armed = seen.wrapping_add(ONE) | POLLED;
            match self.word.compare_exchange(seen, armed, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // Dekker, poller's half: pairs with the fence in `ring_and`.
        fence(SeqCst);
    }
}

/// Waits until one of `sources` is ready, for at most `timeout`; which one. As
/// [`wait_any`](crate::wait_any), for any number of sources, if everybody who makes one of them
/// ready rings `doorbell` afterwards.
///
/// Only [`Source::is_ready`] is used: nothing is announced in the sources, and their setters make
/// no system call for this waiter. Who forgets to ring is noticed late, after 50 ms to 1 s.
///
/// # Examples
///
/// See [`Doorbell`].
///
/// # Errors
///
/// As [`wait_any`](crate::wait_any).
///
/// # Memory ordering
///
/// That of the sources.
///
/// # Crash safety
///
/// As [`Doorbell`].
pub fn wait_any_with(
    doorbell: &Doorbell,
    sources: &[&dyn Source],
    timeout: impl Into<Timeout>,
) -> Result<usize, WaitError> {
    if sources.is_empty() {
        return Err(WaitError::NoSources);
    }
    if let Some(ready) = first_ready(sources) {
        return Ok(ready);
    }
    let deadline = Deadline::after(timeout);
    let mut patience = Patience::new();
    while !deadline.has_passed() {
        let seen = doorbell.arm_sleeper();
        if let Some(ready) = first_ready(sources) {
            return Ok(ready);
        }
        let parked = patience.park(&doorbell.word, seen, deadline);
        if parked.map_err(WaitError::System)? == Parked::Recheck || deadline.has_passed() {
            recheck(sources);
        }
    }
    // One more look: something may have been set while the clock ran out.
    first_ready(sources).ok_or(WaitError::Timeout)
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("Doorbell")
            .field("sleepers", &has_sleepers(word))
            .field("polled", &is_polled(word))
            .finish()
    }
}

// SAFETY: `repr(C)` around one u32 word, of which every value is a valid state.
unsafe impl ShmSafe for Doorbell {
    const LAYOUT: LayoutHash = LayoutHash::of("Doorbell").mix(4).mix(1);
}
