//! Who takes part in a barrier's rounds, so that a death can be told from slowness.

use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed, zeroes};
use multiprocess_core::{ParticipantId, Peers};

use super::round::{self, End};

/// Participants that a barrier keeps in mind.
pub(super) const PLACES: usize = 64;

fn stamp(participant: ParticipantId, round: u32) -> u64 {
    u64::from(round) | u64::from(participant.bits()) << 32
}

fn participant(stamp: u64) -> ParticipantId {
    ParticipantId::from_bits((stamp >> 32) as u32)
}

/// Where the search for a place begins: neighbours in the table of participants, which sign at the
/// same time, lie on cache lines of their own.
fn home(slot: u16) -> usize {
    usize::from(slot % 8 * 8 + slot / 8 % 8)
}

/// Whether a stamp says nothing about `round` and the one before it any more.
fn is_outdated(stamp: u64, round: u32) -> bool {
    let age = round.wrapping_sub(stamp as u32);
    (2..1 << 31).contains(&age)
}

/// A stamp for each participant: who, and the round it came to last.
///
/// A participant stamps *before* it is counted as arrived. Killed between the two it is known,
/// and missed. (If it were counted first, one that is killed in between would be counted and not
/// known, and nobody would miss it in the next round.)
// | a place | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | never used | creator | any participant, by CAS |
// | {id, round} | id has come to this round | id, by CAS from its own, from 0, or from one that is two rounds old | the same |
#[repr(C)]
pub(super) struct Register {
    places: [AtomicU64; PLACES],
}

impl Register {
    multiprocess_core::const_unless_loom! {
        /// Knows nobody.
        pub(super) fn new() -> Self {
            Self { places: zeroes() }
        }
    }

    /// Notes that `who` has come to `round`, in the first place that it can have, from the one that
    /// its slot number says. With more than [`PLACES`] participants in two rounds there is none.
    pub(super) fn sign(&self, who: ParticipantId, round: u32) {
        let home = home(who.slot());
        for i in 0..PLACES {
            let place = &self.places[(home + i) % PLACES];
            let mut seen = place.load(Relaxed);
            while participant(seen) == who || seen == 0 || is_outdated(seen, round) {
                // Relaxed: read after the kernel has said that its writer is dead.
                match place.compare_exchange(seen, stamp(who, round), Relaxed, Relaxed) {
                    Ok(_) => return,
                    Err(now) => seen = now,
                }
            }
        }
    }

    /// Somebody who is dead and without whom no round can be full: it came to this round, or to
    /// the last one, if that was completed.
    pub(super) fn find_dead(&self, state: u64, peers: &dyn Peers) -> Option<ParticipantId> {
        let present = round::round(state);
        let last = present.wrapping_sub(1);
        let last_counts = round::end_of(state, last) == End::Completed;
        let me = peers.me();
        self.places.iter().find_map(|place| {
            let seen = place.load(Relaxed);
            let (who, came) = (participant(seen), seen as u32);
            let counts = came == present || (came == last && last_counts);
            let suspect = counts && !who.is_anonymous() && who != me;
            (suspect && peers.is_dead(who)).then_some(who)
        })
    }
}
