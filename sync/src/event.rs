//! `Event`: a flag to wait for. Algorithm: futex word with a generation, so that a waiter
//! knows that the flag *was* set even if it is clear again.
//!
//! # Protocol
//!
//! *set*: (1) CAS clear → set, generation + 1, WAITERS dropped; (2) wake all if WAITERS was
//! set. *clear*: (3) take SET away. *wait*: (4) return if SET, else remember the generation;
//! (5) set WAITERS by CAS; (6) park on the word; (7) return if SET or the generation moved.
//!
//! # Ordering
//!
//! The Release CAS of step 1 pairs with the Acquire loads of steps 4 and 7.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | set, nobody woken | newcomers pass; sleepers notice at their inner bound, at most 1 s later |
//! | 2, 3, 4 | nothing | go on |
//! | 5, 6 | WAITERS set with nobody asleep | the next `set` makes one wake too many |

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    spin_loop,
};
use multiprocess_core::park::{self, Parked, WaitEntry};
use multiprocess_core::{Deadline, LayoutHash, ShmSafe, Timeout, spin};

use crate::{Armed, Source, WaitError};

const SET: u32 = 1;
const WAITERS: u32 = 2;
const GENERATION_ONE: u32 = 4;
const GENERATION: u32 = !(SET | WAITERS);

fn is_set(word: u32) -> bool {
    word & SET != 0
}

fn has_waiters(word: u32) -> bool {
    word & WAITERS != 0
}

fn next_generation(word: u32) -> u32 {
    (word & GENERATION).wrapping_add(GENERATION_ONE)
}

/// A flag in shared memory that processes can set, clear and wait for.
///
/// Python's `multiprocessing.Event`, with two differences: a waiter that a `set` released
/// returns success even if a `clear` follows at once, and [`set`](Self::set) may be called
/// from a signal handler. Not a counter: two `set`s release like one.
///
/// # Examples
///
/// ```
/// use multiprocess_sync::Event;
/// use std::time::Duration;
///
/// static READY: Event = Event::new();    // or in a shared segment
///
/// assert!(READY.wait_timeout(Duration::from_millis(1)).is_err());
/// std::thread::spawn(|| READY.set());
/// READY.wait()?;
/// assert!(READY.is_set());
/// # Ok::<(), multiprocess_sync::WaitError>(())
/// ```
///
/// # Memory ordering
///
/// What the setter wrote before the `set` that changed the flag is visible after a successful
/// wait, and after `is_set` has returned `true`.
///
/// # Crash safety
///
/// A waiter killed at any point changes nothing for the others. A setter killed after its
/// store has set the event; sleepers whose wake died with it go on after at most 1 s. Trust:
/// *guarded*; any word is a valid state.
///
/// # Fork
///
/// Nothing is kept per process.
// | bits of `word` | meaning | who enters | who leaves |
// |---|---|---|---|
// | SET clear | wait | creator, `clear` (3) | `set` (1) |
// | SET | pass | `set` (1) | `clear` (3) |
// | WAITERS | somebody may sleep; only while SET is clear | a waiter (5) | `set` (1) |
// | generation, from bit 2 | times it became set, modulo 2^30 | `set` (1) | |
#[repr(C)]
pub struct Event {
    word: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Event>(), 4);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(align_of::<Event>(), 4);

impl Event {
    multiprocess_core::const_unless_loom! {
        /// An event that is not set; the same as four zero bytes.
        pub fn new() -> Self {
            Self { word: AtomicU32::new(0) }
        }
    }

    /// Sets the flag and releases everybody who waits. Does nothing if it is set already.
    ///
    /// Async-signal-safe: no lock, no allocation, at most one system call.
    #[inline]
    pub fn set(&self) {
        let mut seen = self.word.load(Relaxed);
        while !is_set(seen) {
            // Release pairs with the Acquire loads in `is_set` and `wait_until`.
            let set = next_generation(seen) | SET;
            match self.word.compare_exchange(seen, set, Release, Relaxed) {
                Ok(_) => {
                    if has_waiters(seen) {
                        park::wake(&self.word, u32::MAX);
                    }
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Takes the flag away.
    #[inline]
    pub fn clear(&self) {
        // Relaxed: clearing publishes nothing.
        self.word.fetch_and(!SET, Relaxed);
    }

    /// Whether the flag is set. One load.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Acquire pairs with the Release CAS in `set`.
        is_set(self.word.load(Acquire))
    }

    /// Waits until the flag is set, or has been set since the call began.
    ///
    /// # Errors
    ///
    /// [`WaitError::System`].
    #[inline]
    pub fn wait(&self) -> Result<(), WaitError> {
        self.wait_timeout(Timeout::Never)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; zero only looks.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`], [`WaitError::System`].
    #[inline]
    pub fn wait_timeout(&self, timeout: impl Into<Timeout>) -> Result<(), WaitError> {
        if self.is_set() {
            return Ok(());
        }
        self.wait_until(Deadline::after(timeout))
    }

    #[cold]
    fn wait_until(&self, deadline: Deadline) -> Result<(), WaitError> {
        let mut patience = park::Patience::new();
        let mut spins = spin::handoff_budget(2);
        // Acquire pairs with the Release CAS in `set`, here and below.
        let first = self.word.load(Acquire);
        let mut seen = first;
        loop {
            if is_set(seen) || seen & GENERATION != first & GENERATION {
                return Ok(());
            }
            if spins > 0 {
                spins -= 1;
                spin_loop();
                seen = self.word.load(Acquire);
                continue;
            }
            if deadline.has_passed() {
                return Err(WaitError::Timeout);
            }
            if !has_waiters(seen) {
                // The load half of a failed exchange is Acquire for the check above.
                let armed = seen | WAITERS;
                if let Err(now) = self.word.compare_exchange(seen, armed, Relaxed, Acquire) {
                    seen = now;
                    continue;
                }
                seen = armed;
            }
            match patience.park(&self.word, seen, deadline) {
                // One more look: the flag may have been set while the clock ran out.
                Ok(Parked::TimedOut) => {
                    let last = self.word.load(Acquire);
                    let passed = is_set(last) || last & GENERATION != first & GENERATION;
                    return if passed {
                        Ok(())
                    } else {
                        Err(WaitError::Timeout)
                    };
                }
                Ok(_) => seen = self.word.load(Acquire),
                Err(errno) => return Err(WaitError::System(errno)),
            }
        }
    }
}

/// Ready while it is set. A `set` and a `clear` that both come before the waiter has looked again
/// are missed; [`Event::wait`] misses none.
impl Source for Event {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn arm(&self) -> Armed<'_> {
        // Acquire, also on failure: pairs with the Release CAS in `set`.
        let mut seen = self.word.load(Acquire);
        loop {
            if is_set(seen) {
                return Armed::Ready;
            }
            let armed = seen | WAITERS;
            if seen == armed {
                return Armed::Waiting(WaitEntry::new(&self.word, armed));
            }
            match self.word.compare_exchange(seen, armed, Relaxed, Acquire) {
                Ok(_) => seen = armed,
                Err(now) => seen = now,
            }
        }
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("Event")
            .field("set", &is_set(word))
            .field("waiters", &has_waiters(word))
            .finish()
    }
}

// SAFETY: `repr(C)` around one u32 word, of which every value is a valid state.
unsafe impl ShmSafe for Event {
    const LAYOUT: LayoutHash = LayoutHash::of("Event").mix(4).mix(1);
}
