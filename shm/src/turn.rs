//! `Turn`: one process at a time, for the few steps that change a shared structure of this crate.
//!
//! Not for users: `sync` has the locks. It has no owner but a participant, no recursion, and no
//! fairness.
//!
//! # Protocol
//!
//! *take*: (1) CAS free → me. If it is taken: (2) spin; (3) ask whether the holder is dead, and if so
//! CAS its exact word → me; else set WAITERS by CAS; (4) park, to the inner bound at most; again.
//! *give*: (5) swap → free; (6) if WAITERS was set, wake one.
//!
//! # Ordering
//!
//! The CASes of 1 and 3 are Acquire and pair with the Release swap of 5. What the dead have written
//! is visible since the kernel ended them, and is repaired by whoever inherits.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | taken by the dead | inherit, within their inner bound |
//! | 2, 3, 4 | WAITERS in vain | one wake too many |
//! | 5 | free, nobody woken | go on at their inner bound |
//! | 6 | nothing | |

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::{Deadline, Errno, ParticipantId, Peers, spin};

// | word | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | free; a zeroed page is | giver (5) | taker (1) |
// | participant, table | taken | taker (1), heir (3) | giver (5), heir (3) |
// | participant, table, WAITERS | taken, somebody may sleep | waiter (3), taker that has slept (1) | the same |
// | of a slot that there is not, or of another table: its participants we cannot judge | `Corrupt` | | |
//
// The participant in bits 0-31, WAITERS in bit 32, the low bits of its table's number above.
const FREE: u64 = 0;
const WAITERS: u64 = 1 << 32;
const TABLE: u32 = 33;

/// In shared memory; any party, by CAS.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Turn(AtomicU64);

/// Why it could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnError {
    Timeout,
    /// The caller is anonymous: its death could not be told.
    NotAParticipant,
    /// Nobody of ours has written what stands there.
    Corrupt,
    System(Errno),
}

/// Given back when dropped.
#[must_use]
pub(crate) struct Taken<'a> {
    turn: &'a Turn,
    #[cfg_attr(
        not(feature = "std"),
        expect(dead_code, reason = "asked by the directory")
    )]
    inherited: bool,
}

impl Taken<'_> {
    /// Whether its last holder died with it: what that one was at must be repaired first.
    #[cfg(feature = "std")]
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }
}

impl Turn {
    multiprocess_core::const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self(AtomicU64::new(FREE))
        }
    }

    #[inline]
    pub(crate) fn take<P: Peers + ?Sized>(
        &self,
        peers: &P,
        deadline: Deadline,
    ) -> Result<Taken<'_>, TurnError> {
        let me = peers.me();
        if me.is_anonymous() {
            return Err(TurnError::NotAParticipant);
        }
        let table = u64::from(peers.table()) << TABLE;
        let mine = u64::from(me.bits()) | table;
        // Acquire pairs with the Release half in `drop`.
        match self.0.compare_exchange(FREE, mine, Acquire, Relaxed) {
            Ok(_) => Ok(self.taken(false)),
            Err(_) => self.take_contended(peers, mine, deadline),
        }
    }

    fn taken(&self, inherited: bool) -> Taken<'_> {
        Taken {
            turn: self,
            inherited,
        }
    }

    #[cold]
    fn take_contended<P: Peers + ?Sized>(
        &self,
        peers: &P,
        mine: u64,
        deadline: Deadline,
    ) -> Result<Taken<'_>, TurnError> {
        let mut patience = park::Patience::new();
        let mut spins = spin::lock_budget();
        let mut slept = 0; // WAITERS once we have slept: others may sleep behind us
        loop {
            let seen = self.0.load(Relaxed);
            if seen & !WAITERS == FREE {
                // Acquire: as in `take`.
                let taken = self
                    .0
                    .compare_exchange(seen, mine | slept, Acquire, Relaxed);
                if taken.is_ok() {
                    return Ok(self.taken(false));
                }
                continue;
            }
            if spins > 0 && seen & WAITERS == 0 {
                spins -= 1;
                spin_loop();
                continue;
            }
            let holder = ParticipantId::from_bits(seen as u32);
            if seen >> TABLE != mine >> TABLE || !peers.can_be(holder) {
                return Err(TurnError::Corrupt);
            }
            // Before it sleeps, too: whoever holds it for longer than we spin may well be dead.
            if self.inherit(peers, seen, holder, mine) {
                return Ok(self.taken(true));
            }
            if deadline.has_passed() {
                return Err(TurnError::Timeout);
            }
            let asleep = seen | WAITERS;
            if asleep != seen
                && self
                    .0
                    .compare_exchange(seen, asleep, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            slept = WAITERS;
            match patience.park(&self.0, asleep as u32, deadline) {
                Ok(Parked::TimedOut | Parked::Recheck) => {}
                Ok(_) => spins = spin::lock_budget(),
                Err(errno) => return Err(TurnError::System(errno)),
            }
        }
    }

    /// The word that was judged is the word that is replaced: slot and epoch.
    fn inherit<P: Peers + ?Sized>(
        &self,
        peers: &P,
        seen: u64,
        holder: ParticipantId,
        mine: u64,
    ) -> bool {
        // Acquire: as in `take`.
        peers.is_dead(holder)
            && self
                .0
                .compare_exchange(seen, mine | WAITERS, Acquire, Relaxed)
                .is_ok()
    }
}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire CASes of takers; the load half decides whether to wake.
        if self.turn.0.swap(FREE, AcqRel) & WAITERS != 0 {
            park::wake(&self.turn.0, 1);
        }
    }
}
