//! `wait_any`: wait until one of several things is ready. Algorithm: announce oneself on every
//! word, then sleep on all of them at once
//! (`futex_waitv`, <https://docs.kernel.org/userspace-api/futex2.html>).
//!
//! # Protocol
//!
//! (1) return the first source that is ready; (2) *arm* each source: return it if it is ready by
//! now, else announce a sleeper in its word and remember the word; (3) sleep while no word has
//! changed; (4) look at all sources again; (5) if one is ready and (3) ended by a wake, pass the
//! wake on to the next sleeper of each ready source that wakes only some of its sleepers.
//!
//! A change between 2 and 3 is found by the kernel, which compares and falls asleep in one step.
//!
//! # Ordering
//!
//! Each source's own: its `is_ready` and `arm` load with what its waiters load with.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1, 4 | nothing | go on |
//! | 2, 3 | announcements in vain | each word's next change makes one wake too many |
//! | 3, woken | a wake that was meant for one sleeper is used up | sleepers of that word notice at their inner bound, at most 1 s later |
//!
//! A setter killed between its store and its wake: this sleeper, too, has the inner bound, at which it
//! asks each source to find out who died ([`Source::recheck`]).

use core::time::Duration;

use multiprocess_core::park::{MAX_WAIT_ANY, Parked, Patience, WaitEntry};
use multiprocess_core::{Deadline, Errno, Timeout};

use crate::WaitError;

/// Something that [`wait_any`] can wait for: an [`Event`](crate::Event), a
/// [`Lock`](crate::Lock), a [`ConditionWatch`](crate::ConditionWatch).
///
/// # Implementing
///
/// For a word in shared memory whose setters wake its sleepers when the word announces any:
///
/// - `is_ready` changes nothing. Use Acquire if a ready source publishes something.
/// - `arm` looks, and if the source is not ready sets the word's announcement and returns the word
///   with the value that it has *now*, announcement included. Every change that makes the source
///   ready must change that value and then wake.
/// - `pass_on` wakes one sleeper, if the word's setters do not wake all.
///
/// A wrong implementation makes its waiters wait too long or spin; memory stays safe.
pub trait Source {
    /// Whether what is waited for is there, at the moment of asking.
    fn is_ready(&self) -> bool;

    /// Announces a sleeper, unless the source is ready.
    fn arm(&self) -> Armed<'_>;

    /// Wakes another sleeper in place of this one, which does not necessarily take what is there.
    fn pass_on(&self) {}

    /// The inner bound of a wait has passed: whoever would have made the source ready may be dead. If
    /// the kernel says so the source may become ready by that. May make system calls.
    fn recheck(&self) {}
}

/// What [`Source::arm`] found.
#[derive(Debug, Clone, Copy)]
pub enum Armed<'a> {
    /// No need to sleep.
    Ready,
    /// A sleeper is announced: sleep while the word has this value.
    Waiting(WaitEntry<'a>),
    /// As `Waiting`, but who makes the source ready may not see the announcement: the word is in
    /// memory that is mapped for reading, or the kernel refuses a fence. Look again within
    /// [`UNHEARD`].
    Unheard(WaitEntry<'a>),
}

/// Longest sleep on a word of which nobody may know that somebody sleeps there.
pub const UNHEARD: Duration = Duration::from_millis(1);

/// How long a source can stay unnoticed that is not among the words of the present sleep.
const SLICE: Duration = Duration::from_millis(10);

/// Waits until one of `sources` is ready, for at most `timeout`; which one.
///
/// If several are ready, it is the one that stands first in the list: put what matters most at the
/// front, and rotate the list if none may starve. Nothing is taken: waiting is not acquiring, and
/// another process may be faster. Events and conditions can be mixed with locks. Not for
/// one source: its own `wait` spins before it sleeps and misses no pulse.
///
/// **Many sources.** Up to 128 ([`MAX_WAIT_ANY`]) are slept on at once. Of more, 128 at a time for
/// 10 ms, in turn: one that is not among them is noticed up to 10 ms late, and an idle waiter wakes
/// a hundred times a second. The same holds, with one at a time, where `futex_waitv` is missing
/// (Linux before 5.16, some sandboxes). [`wait_any_with`](crate::wait_any_with) a doorbell has
/// neither limit.
///
/// # Examples
///
/// The one right loop: wait, then try to take, and go on waiting if somebody else was faster.
///
/// ```
/// use multiprocess_sync::{Event, Lock, wait_any};
///
/// static STOP: Event = Event::new();     // or in a shared segment
/// static TURN: Lock = Lock::new();
///
/// let guard = loop {
///     match wait_any(&[&STOP, &TURN], None)? {
///         0 => break None,
///         _ => {
///             if let Ok(guard) = TURN.try_lock() {
///                 break Some(guard);
///             }
///         }
///     }
/// };
/// assert!(guard.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`WaitError::Timeout`]; [`WaitError::NoSources`] if the list is empty; [`WaitError::System`].
///
/// # Memory ordering
///
/// That of the source: after an event, what its setter wrote; for a lock, nothing before
/// `try_lock`.
///
/// # Crash safety
///
/// A waiter killed at any point blocks nobody. What is set by a process that is killed before it
/// wakes anybody is noticed after at most 1 s. Trust: as the sources.
pub fn wait_any(sources: &[&dyn Source], timeout: impl Into<Timeout>) -> Result<usize, WaitError> {
    if sources.is_empty() {
        return Err(WaitError::NoSources);
    }
    match first_ready(sources) {
        Some(index) => Ok(index),
        None => wait_until(sources, Deadline::after(timeout)),
    }
}

pub(crate) fn first_ready(sources: &[&dyn Source]) -> Option<usize> {
    sources.iter().position(|source| source.is_ready())
}

/// Somebody may have died.
pub(crate) fn recheck(sources: &[&dyn Source]) {
    sources.iter().for_each(|source| source.recheck());
}

#[cold]
fn wait_until(sources: &[&dyn Source], deadline: Deadline) -> Result<usize, WaitError> {
    let mut patience = Patience::new();
    let mut width = MAX_WAIT_ANY; // words per sleep
    let mut start = 0; // the first of them
    while !deadline.has_passed() {
        let window = Window {
            sources,
            start,
            len: sources.len().min(width),
        };
        let (entries, is_heard) = match window.arm() {
            Ok(armed) => armed,
            Err(ready) => return Ok(ready),
        };
        let bound = match (is_heard, window.is_whole()) {
            (true, true) => deadline,
            (true, false) => deadline.min(Deadline::now().plus(SLICE)),
            (false, _) => deadline.min(Deadline::now().plus(UNHEARD)),
        };
        let woken = match patience.park_any(&entries[..window.len], bound) {
            Ok(parked) => {
                if parked == Parked::Recheck || deadline.has_passed() {
                    recheck(sources);
                }
                parked == Parked::Woken
            }
            // No such call, or a sandbox that does not know it.
            Err(Errno::NOSYS | Errno::PERM) if width > 1 => {
                width = 1;
                continue;
            }
            Err(errno) => return Err(WaitError::System(errno)),
        };
        if let Some(ready) = first_ready(sources) {
            if woken {
                window.pass_on();
            }
            return Ok(ready);
        }
        start = window.next();
    }
    Err(WaitError::Timeout)
}

/// The sources of one sleep: `len` from `start` on, round the end of the list.
struct Window<'a> {
    sources: &'a [&'a dyn Source],
    start: usize,
    len: usize,
}

impl<'a> Window<'a> {
    fn is_whole(&self) -> bool {
        self.len == self.sources.len()
    }

    fn next(&self) -> usize {
        (self.start + self.len) % self.sources.len()
    }

    fn indices(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (start, count) = (self.start, self.sources.len());
        (start..start + self.len).map(move |index| index % count)
    }

    /// Step 2: entries, of which the first `len` count, and whether all announcements are seen; or the
    /// index of a source that is ready.
    fn arm(&self) -> Result<([WaitEntry<'a>; MAX_WAIT_ANY], bool), usize> {
        let mut is_heard = true;
        let mut armed = |index: usize| match self.sources[index].arm() {
            Armed::Ready => Err(index),
            Armed::Waiting(entry) => Ok(entry),
            Armed::Unheard(entry) => {
                is_heard = false;
                Ok(entry)
            }
        };
        let mut entries = [armed(self.start)?; MAX_WAIT_ANY];
        for (entry, index) in entries.iter_mut().zip(self.indices()).skip(1) {
            *entry = armed(index)?;
        }
        Ok((entries, is_heard))
    }

    /// Step 5. The kernel names one of the words that woke us, and there may be more.
    fn pass_on(&self) {
        for index in self.indices() {
            if self.sources[index].is_ready() {
                self.sources[index].pass_on();
            }
        }
    }
}
