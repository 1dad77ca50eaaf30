//! Where those who wait sleep, and how all of them are woken.
//!
//! Receivers sleep at one bell, the sender at another. Receivers that map the ring read-only cannot
//! announce themselves: they sleep on the low half of the tail, for no longer than `POLL` at a time,
//! and are woken earlier only if another one has announced itself.
//!
//! # Protocol
//!
//! *sleeper*: (a) set SLEEPERS, the word as it is then is what it sleeps on; (b) full fence, and a
//! heavy one if those who ring may run light ones; (c) look again; (d) park. *waker*, after it has
//! published: (e) light or full fence; (f) load the word; if SLEEPERS is set: (g) CAS: next sequence,
//! without SLEEPERS; (h) wake all.
//!
//! Either the look (c) sees what was published, or (f) sees SLEEPERS: b and e are a Dekker pair. A
//! sleeper that has not fallen asleep by h finds the word changed by g; one that arms after g has
//! announced itself anew.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | a to d | SLEEPERS in vain | one system call too many |
//! | published, e, f, g | nobody woken | a sleeper looks at its inner bound, at most 1 s later |

use core::time::Duration;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use multiprocess_core::park::{self, Parked, Patience, WaitEntry};
use multiprocess_core::{Deadline, Errno, asymmetric};

// | bits of the word | meaning | who enters | who leaves |
// |---|---|---|---|
// | SLEEPERS | somebody may sleep on the word | sleeper (a) | waker (g) |
// | sequence, from bit 1 | times SLEEPERS was taken away, modulo 2^31 | waker (g) | |
const SLEEPERS: u32 = 1;
const ONE: u32 = 2;

/// Longest sleep of one who may not be woken: it maps read-only, or the kernel refuses the heavy fence.
pub(super) const POLL: Duration = Duration::from_millis(1);

#[repr(transparent)]
pub(super) struct Bell(AtomicU32);

impl Bell {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Steps e and f, after what was published; whether somebody is to be woken by
    /// [`wake`](Self::wake).
    #[inline(always)]
    pub(super) fn has_sleepers(&self, light: bool) -> bool {
        if light {
            asymmetric::light();
        } else {
            fence(SeqCst);
        }
        // Relaxed: ordered by the fences.
        self.0.load(Relaxed) & SLEEPERS != 0
    }

    /// Steps g and h.
    #[cold]
    pub(super) fn wake(&self) {
        let seen = self.0.load(Relaxed);
        let awake = seen.wrapping_add(ONE) & !SLEEPERS;
        // A failure means that somebody else has changed the word, who may not live to wake.
        let _ = self.0.compare_exchange(seen, awake, SeqCst, Relaxed);
        park::wake(&self.0, u32::MAX);
    }

    /// Steps a and b; what to sleep on. `may_be_light` is asked between the fences.
    pub(super) fn arm(&self, may_be_light: impl FnOnce() -> bool) -> Armed {
        let value = self.0.fetch_or(SLEEPERS, SeqCst) | SLEEPERS;
        fence(SeqCst);
        let is_ordered = !may_be_light() || asymmetric::heavy();
        Armed { value, is_ordered }
    }

    /// What is slept on.
    #[cfg(feature = "async")]
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// To sleep on beside other words.
    pub(super) fn entry(&self, armed: Armed) -> multiprocess_sync::Armed<'_> {
        let entry = WaitEntry::new(&self.0, armed.value);
        match armed.is_ordered {
            true => multiprocess_sync::Armed::Waiting(entry),
            false => multiprocess_sync::Armed::Unheard(entry),
        }
    }

    /// Step d.
    pub(super) fn park(
        &self,
        armed: Armed,
        patience: &mut Patience,
        deadline: Deadline,
    ) -> Result<Parked, Errno> {
        let bound = match armed.is_ordered {
            true => deadline,
            false => deadline.min(Deadline::now().plus(POLL)),
        };
        patience.park(&self.0, armed.value, bound)
    }
}

/// A sleeper that has announced itself.
#[derive(Clone, Copy)]
pub(super) struct Armed {
    value: u32,
    /// Whether whoever rings is sure to see us.
    is_ordered: bool,
}
