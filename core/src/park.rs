//! Sleep on a word of shared memory until a peer changes it and wakes the sleepers.
//!
//! The contract is futex's (<https://man7.org/linux/man-pages/man2/futex.2.html>), always in
//! its *shared* form: the word is identified by the file behind the mapping, not by its
//! address, so every process may map it elsewhere. A word of 64 bits parks on its low half.
//!
//! # Examples
//!
//! The one right loop: check, park on the value you checked, check again. Every park has an
//! inner bound ([`Patience`]), so that a wake that was lost with a killed process costs
//! milliseconds and not for ever.
//!
//! ```
//! use multiprocess_core::{Deadline, park, atomic::{AtomicU32, Ordering}};
//! use std::time::Duration;
//!
//! let word = AtomicU32::new(0);
//! let deadline = Deadline::after(Duration::from_millis(10));
//! let mut patience = park::Patience::new();
//! let timed_out = loop {
//!     if word.load(Ordering::Acquire) != 0 {
//!         break false;
//!     }
//!     if patience.park(&word, 0, deadline) == Ok(park::Parked::TimedOut) {
//!         break true;
//!     }
//! };
//! assert!(timed_out);
//! ```

use core::time::Duration;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::sys::{self, Park};
use crate::{Deadline, Errno};

/// Why a park ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// A peer called [`wake`], or the kernel woke us for no reason: check again.
    Woken,
    /// The word no longer had the expected value: check again at once.
    Changed,
    /// A signal handler ran.
    Interrupted,
    /// The deadline passed.
    TimedOut,
    /// The inner bound of a [`Patience`] passed, not the caller's deadline: check the
    /// predicate and the owner's liveness, and park again.
    Recheck,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::atomic::AtomicU32 {}
    impl Sealed for crate::atomic::AtomicU64 {}
}

/// A word that can be parked on: `AtomicU32`, or `AtomicU64` by its low half.
pub trait ParkWord: sealed::Sealed {
    #[doc(hidden)]
    fn park(&self, expected: u32, deadline: Deadline) -> Result<Parked, Errno>;
    #[doc(hidden)]
    fn unpark(&self, count: u32) -> u32;
    #[doc(hidden)]
    fn wait_word(&self) -> WaitWord<'_>;
}

/// A word of either size. An implementation detail of [`WaitEntry`].
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum WaitWord<'a> {
    Bits32(&'a AtomicU32),
    Bits64(&'a AtomicU64),
}

impl ParkWord for AtomicU32 {
    #[inline]
    fn park(&self, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        sys::Backend::wait32(self, expected, deadline)
    }

    #[inline]
    fn unpark(&self, count: u32) -> u32 {
        sys::Backend::wake32(self, count)
    }

    #[inline]
    fn wait_word(&self) -> WaitWord<'_> {
        WaitWord::Bits32(self)
    }
}

impl ParkWord for AtomicU64 {
    #[inline]
    fn park(&self, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        sys::Backend::wait64(self, expected, deadline)
    }

    #[inline]
    fn unpark(&self, count: u32) -> u32 {
        sys::Backend::wake64(self, count)
    }

    #[inline]
    fn wait_word(&self) -> WaitWord<'_> {
        WaitWord::Bits64(self)
    }
}

/// Sleeps while the (low half of the) word is `expected`, until woken or until `deadline`.
///
/// The comparison and the falling asleep are one step for [`wake`]. Use [`Patience::park`]
/// instead, unless an unbounded sleep is harmless.
///
/// # Errors
///
/// The kernel's error if the word cannot be slept on at all: `EFAULT` (the mapping was cut
/// off), `ENOSYS` or `EPERM` (forbidden). Retrying does not help.
///
/// # Memory ordering
///
/// None: the caller's own load of the word orders.
pub fn wait(word: &impl ParkWord, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
    word.park(expected, deadline)
}

/// Wakes `count` sleepers, or all if there are fewer; `u32::MAX` for all. Returns how many.
///
/// Some backends wake more, and sleepers of other words, and say zero though they have woken
/// somebody. So zero is no more than a hint that nobody is left asleep: a caller that drops its
/// announcement of sleepers at a zero does so by CAS, and wakes once more if that succeeds.
///
/// A sleeper that is woken and killed before it runs takes the wake with it: that is what the
/// inner bound of [`Patience`] heals.
///
/// # Memory ordering
///
/// None: store the word with `Release` before.
pub fn wake(word: &impl ParkWord, count: u32) -> u32 {
    word.unpark(count)
}

/// How many words [`wait_any`] can sleep on at once: the limit of Linux's `futex_waitv`.
pub const MAX_WAIT_ANY: usize = 128;

/// One word for [`wait_any`] to sleep on, and the value it is expected to have.
#[derive(Debug, Clone, Copy)]
pub struct WaitEntry<'a> {
    word: WaitWord<'a>,
    expected: u32,
}

impl<'a> WaitEntry<'a> {
    /// To sleep while the (low half of the) word is `expected`.
    pub fn new(word: &'a impl ParkWord, expected: u32) -> Self {
        Self {
            word: word.wait_word(),
            expected,
        }
    }

    pub(crate) fn word(&self) -> WaitWord<'a> {
        self.word
    }

    /// The value.
    pub fn expected(&self) -> u32 {
        self.expected
    }
}

/// Sleeps while *every* word has its expected value, until one is woken or until `deadline`.
///
/// Wakers need nothing special: [`wake`] on any of the words. Which one it was is not said: more
/// than one may have been, and a wake-up proves nothing, so look at all. A sleeper that [`wake`]
/// counted on *one* word has used that wake up, whichever word its caller turns to: where only
/// some sleepers of a word are woken at a time, pass the wake on.
///
/// # Examples
///
/// ```
/// use multiprocess_core::{Deadline, park::{self, WaitEntry}, atomic::{AtomicU32, AtomicU64}};
/// use std::time::Duration;
///
/// let (a, b) = (AtomicU32::new(0), AtomicU64::new(5));
/// let entries = [WaitEntry::new(&a, 0), WaitEntry::new(&b, 4)];
/// let parked = park::wait_any(&entries, Deadline::NEVER);
/// # if parked != Err(multiprocess_core::Errno::NOSYS) {
/// assert_eq!(parked, Ok(park::Parked::Changed));
/// # }
/// ```
///
/// # Errors
///
/// `EINVAL` for no entry, and for more than [`MAX_WAIT_ANY`]. `ENOSYS` before Linux 5.16, and
/// from backends without it; `EPERM` from some sandboxes (one entry always works). Else as
/// [`wait`].
///
/// # Memory ordering
///
/// None: the caller's own loads of the words order.
pub fn wait_any(entries: &[WaitEntry<'_>], deadline: Deadline) -> Result<Parked, Errno> {
    match entries {
        [only] => match only.word {
            WaitWord::Bits32(word) => wait(word, only.expected, deadline),
            WaitWord::Bits64(word) => wait(word, only.expected, deadline),
        },
        [] => Err(Errno::INVAL),
        _ if entries.len() > MAX_WAIT_ANY => Err(Errno::INVAL),
        _ => sys::Backend::wait_any(entries, deadline),
    }
}

/// The growing inner bound of a series of parks: 50 ms, doubling to 1 s.
///
/// No sleep in this toolkit is unbounded: after the inner bound the waiter re-checks its
/// predicate and its owner's liveness. This alone heals every wake that a `kill -9` loses.
///
/// A bound runs from the first park after the last [`Parked::Recheck`]: wakes in between, however
/// many, do not put it off.
#[derive(Debug, Clone)]
pub struct Patience {
    bound: Duration,
    /// When the present bound passes, if it runs.
    inner: Option<Deadline>,
}

impl Patience {
    /// The first bound.
    pub const FIRST: Duration = Duration::from_millis(50);
    /// The largest bound.
    pub const LAST: Duration = Duration::from_secs(1);

    /// Starts a series.
    pub const fn new() -> Self {
        Self {
            bound: Self::FIRST,
            inner: None,
        }
    }

    /// [`wait`] until `deadline`, but not longer than the inner bound.
    ///
    /// Returns [`Parked::TimedOut`] only if the caller's own deadline has passed.
    ///
    /// # Errors
    ///
    /// As [`wait`].
    pub fn park(
        &mut self,
        word: &impl ParkWord,
        expected: u32,
        deadline: Deadline,
    ) -> Result<Parked, Errno> {
        self.bounded(deadline, |bound| wait(word, expected, bound))
    }

    /// [`wait_any`] until `deadline`, but not longer than the inner bound.
    ///
    /// # Errors
    ///
    /// As [`wait_any`].
    pub fn park_any(
        &mut self,
        entries: &[WaitEntry<'_>],
        deadline: Deadline,
    ) -> Result<Parked, Errno> {
        self.bounded(deadline, |bound| wait_any(entries, bound))
    }

    fn bounded(
        &mut self,
        deadline: Deadline,
        sleep: impl FnOnce(Deadline) -> Result<Parked, Errno>,
    ) -> Result<Parked, Errno> {
        let bound = self.bound;
        let inner = *self
            .inner
            .get_or_insert_with(|| Deadline::now().plus(bound));
        if deadline <= inner {
            return sleep(deadline);
        }
        let parked = sleep(inner)?;
        Ok(if parked == Parked::TimedOut {
            self.bound = (bound * 2).min(Self::LAST);
            self.inner = None;
            Parked::Recheck
        } else {
            parked
        })
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}
