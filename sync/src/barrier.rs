//! `Barrier`: nobody goes on before all have come. Algorithm: a counter with a round number, as in
//! Mellor-Crummey and Scott's centralised barrier
//! (<https://doi.org/10.1145/103727.103729>, section 3.1), in one word that also says how the last
//! rounds ended.
//!
//! # Protocol
//!
//! *wait*: (1) sign the register, if the caller is a participant; (2) CAS arrived + 1. The last one:
//! (3) CAS to the next round at once, or, if it has an action: (4) CAS all arrived, ACTION; (5) run
//! the action; (6) CAS to the next round, completed; (7) wake all if SLEEPERS was set. The others:
//! (8) spin; (9) set SLEEPERS by CAS; (10) park while the round is the same; then: passed if the
//! round was completed, broken if it was cut.
//! *break*, by a time-out, an abort, a panic in the action, or a waiter that finds a participant
//! dead at its inner bound: (11) note the dead one; (12) CAS to the next round, cut, BROKEN;
//! (13) wake all. *reset*: (14) CAS to the next round, cut, not BROKEN; (15) wake all.
//!
//! Every end of a round is one CAS of the whole word, so a time-out and the last arrival, an abort
//! and a completion agree on how it ended, and so do all who wait. A waiter that sleeps for long
//! finds the end of its round among the last 16; the word knows no older one, and calls it cut.
//!
//! # Ordering
//!
//! The CAS of step 2 is Release and pairs with the Acquire half of step 3 or 4: the last one has
//! seen what all others wrote. The Release half of 3, 6, 12 and 14 pairs with the Acquire load
//! after step 10. Step 11 comes before 12 and is seen with it. SLEEPERS and the register are
//! Relaxed: hints, and words that are judged when their writer is dead.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | a party that is missing, and known | who waits with [`Barrier::wait_among`] finds out at its inner bound, 50 ms to 1 s, and breaks the barrier for all |
//! | 2, 8, 9, 10 | a party that has arrived | the same; or all pass, if the last one comes first, and the next round misses it |
//! | 3, 6 | the round is over, nobody woken | pass; sleepers notice at their inner bound |
//! | 4, 5 | a round that nobody completes | as after 1 |
//! | 11 | a name | as before |
//! | 12, 14 | cut, nobody woken | get `Broken`; sleepers notice at their inner bound |
//! | 7, 13, 15 | nothing | go on |

mod passage;
mod register;
mod round;

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use multiprocess_core::{LayoutHash, Peers, ShmSafe, Timeout};

use crate::{BarrierError, InvalidParties};
use register::Register;
use round::End;

/// A meeting point in shared memory for a fixed number of parties: nobody goes on before all have
/// come. Used again and again.
///
/// Python's `multiprocessing.Barrier`. One party that gives up gives up for all: a time-out or an
/// [`abort`](Self::abort) makes it *broken*, and every waiter, now and later, gets
/// [`BarrierError::Broken`] until somebody calls [`reset`](Self::reset). So does a death, if the
/// parties are participants of a segment and wait with [`wait_among`](Self::wait_among): then the
/// error says who died. Not for parties that come and go: a participant that ends between two
/// rounds is missed like one that was killed, unless the barrier is reset.
///
/// # Examples
///
/// ```
/// use multiprocess_sync::Barrier;
///
/// let barrier = Barrier::new(2)?;                // or in a shared segment
/// std::thread::scope(|scope| {
///     let other = scope.spawn(|| barrier.wait());
///     let mine = barrier.wait().unwrap();
///     let theirs = other.join().unwrap().unwrap();
///     assert_eq!(mine + theirs, 1);              // one was first, one was last
/// });
/// # Ok::<(), multiprocess_sync::InvalidParties>(())
/// ```
///
/// # Memory ordering
///
/// What any party wrote before it came is visible to the action and, after it has passed, to
/// every party; so is what the action wrote.
///
/// # Crash safety
///
/// With `wait_among`, the death of a participant that took part in this round or in the last one
/// (or was [`enlist`](Self::enlist)ed) breaks the barrier for all, 50 ms to 1 s after it happened
/// while somebody waits; up to 64 participants are kept in mind. With the other calls a dead
/// party is one that does not come: give a timeout. Trust: *guarded*; a peer can break the
/// barrier or keep it from being full, not make a caller crash or spin without end.
///
/// # Fork
///
/// Nothing is kept per process.
// | `state` (see `round.rs`) | meaning | who enters | who leaves |
// |---|---|---|---|
// | arrived < parties | filling | creator; ender of the last round (3, 6, 14) | last party (3, 4), breaker (12), reset (14) |
// | ACTION, all arrived | the last one runs the action | last party (4) | itself (6), breaker (12), reset (14) |
// | BROKEN, none arrived | nobody passes | breaker (12) | reset (14) |
//
// parties: written at creation only. dead: {round:32, participant:32} of the last death that was
// found, by breakers (11). register: each participant its own place.
#[repr(C)]
pub struct Barrier {
    state: AtomicU64,
    parties: AtomicU32,
    reserved: AtomicU32,
    dead: AtomicU64,
    register: Register,
}

#[cfg(not(loom))]
mod layout {
    use super::{Barrier, register::PLACES};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Barrier>(), 24 + 8 * PLACES);
    const_assert_eq!(align_of::<Barrier>(), 8);
    const_assert_eq!(offset_of!(Barrier, state), 0);
    const_assert_eq!(offset_of!(Barrier, parties), 8);
    const_assert_eq!(offset_of!(Barrier, dead), 16);
    const_assert_eq!(offset_of!(Barrier, register), 24);
}

impl Barrier {
    /// The most parties a barrier can have.
    pub const MAX_PARTIES: u32 = round::MAX_PARTIES;

    multiprocess_core::const_unless_loom! {
        /// For `parties` parties, 1 to [`MAX_PARTIES`](Self::MAX_PARTIES). Zeroed bytes are a
        /// barrier for none: waiting at one is [`BarrierError::Corrupt`].
        ///
        /// # Errors
        ///
        /// [`InvalidParties`].
        pub fn new(parties: u32) -> Result<Self, InvalidParties> {
            if parties == 0 || parties > Self::MAX_PARTIES {
                return Err(InvalidParties);
            }
            Ok(Self {
                state: AtomicU64::new(0),
                parties: AtomicU32::new(parties),
                reserved: AtomicU32::new(0),
                dead: AtomicU64::new(0),
                register: Register::new(),
            })
        }
    }

    /// Waits until all parties have come; which one this was, from 0, in the order of arrival.
    ///
    /// # Errors
    ///
    /// [`BarrierError`]; none of the parties of this round passes.
    pub fn wait(&self) -> Result<u32, BarrierError> {
        self.pass(self.call(None, Timeout::Never), None::<fn()>)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; when that has passed, the barrier is
    /// broken for all. Zero passes only for the last one.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: impl Into<Timeout>) -> Result<u32, BarrierError> {
        self.pass(self.call(None, timeout), None::<fn()>)
    }

    /// As [`wait_timeout`](Self::wait_timeout); if this is the last one to come, it runs `action`
    /// before anyone passes.
    ///
    /// Give all parties the same action: who will be the last is not known. One that waits for
    /// the action of others does so within its own timeout.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait); also when the barrier was broken while the action ran.
    ///
    /// # Panics
    ///
    /// If the action does; the barrier is broken then.
    pub fn wait_with(
        &self,
        action: impl FnOnce(),
        timeout: impl Into<Timeout>,
    ) -> Result<u32, BarrierError> {
        self.pass(self.call(None, timeout), Some(action))
    }

    /// As [`wait_timeout`](Self::wait_timeout), as one of several participants: if one that took
    /// part in the last round or this one has died, all learn who.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait); [`BarrierError::Broken`] names the dead.
    pub fn wait_among(
        &self,
        peers: &dyn Peers,
        timeout: impl Into<Timeout>,
    ) -> Result<u32, BarrierError> {
        self.pass(self.call(Some(peers), timeout), None::<fn()>)
    }

    /// [`wait_among`](Self::wait_among) and [`wait_with`](Self::wait_with) in one: also a death
    /// in the action is found.
    ///
    /// # Errors
    ///
    /// As [`wait_among`](Self::wait_among).
    ///
    /// # Panics
    ///
    /// As [`wait_with`](Self::wait_with).
    pub fn wait_among_with(
        &self,
        peers: &dyn Peers,
        action: impl FnOnce(),
        timeout: impl Into<Timeout>,
    ) -> Result<u32, BarrierError> {
        self.pass(self.call(Some(peers), timeout), Some(action))
    }

    /// Makes this participant one of the present round without waiting, so that its death is
    /// found even if it comes before the first round that it waits in.
    pub fn enlist(&self, peers: &dyn Peers) {
        let round = round::round(self.state.load(Relaxed));
        self.register.sign(peers.me(), round);
    }

    /// Breaks the barrier: all who wait, and all who come, get [`BarrierError::Broken`], until
    /// [`reset`](Self::reset).
    pub fn abort(&self) {
        let mut seen = self.state.load(Relaxed);
        while !round::is_broken(seen) {
            match self.break_round(round::round(seen)) {
                Ok(()) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Makes the barrier as new: all who wait get [`BarrierError::Broken`], all who come later
    /// find it usable, and the dead are forgotten.
    pub fn reset(&self) {
        let mut seen = self.state.load(Relaxed);
        loop {
            // Release: as in `end_round`.
            let fresh = round::next(seen, End::Cut);
            match self.state.compare_exchange(seen, fresh, AcqRel, Relaxed) {
                Ok(_) => return self.wake(seen),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether it is broken, at the moment of asking.
    pub fn is_broken(&self) -> bool {
        round::is_broken(self.state.load(Relaxed))
    }

    /// How many parties must come.
    pub fn parties(&self) -> u32 {
        self.parties.load(Relaxed)
    }

    /// How many have come to a round that is not full yet, at the moment of asking.
    pub fn waiting(&self) -> u32 {
        let state = self.state.load(Relaxed);
        if round::runs_action(state) {
            0
        } else {
            round::arrived(state)
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.load(Relaxed);
        f.debug_struct("Barrier")
            .field("round", &round::round(state))
            .field("parties", &self.parties())
            .field("arrived", &round::arrived(state))
            .field("runs_action", &round::runs_action(state))
            .field("broken", &round::is_broken(state))
            .finish()
    }
}

// SAFETY: `repr(C)` around atomic words; every value is handled, impossible ones as corrupt.
unsafe impl ShmSafe for Barrier {
    const LAYOUT: LayoutHash = LayoutHash::of("Barrier")
        .mix(24 + 8 * register::PLACES as u64)
        .mix(1);
}
