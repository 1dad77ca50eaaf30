//! Who sits at the ring, and what becomes of what the dead held.

use core::fmt;

use multiprocess_core::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use multiprocess_core::{ParticipantId, Peers};

use super::Orphans;
use super::layout::Parts;
use super::words::{Owner, Role, Seated, State, Ticket, Word, seat, seated};
use crate::spsc::Message;

/// Why a handle was not had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// All endpoints that the ring was made for are in use.
    Full,
    /// This process is not among the participants: their table was full when it was forked.
    NotAParticipant,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "all endpoints of the ring are in use",
            Self::NotAParticipant => "the process is not among the participants",
        })
    }
}

impl core::error::Error for JoinError {}

/// What [`Sender::recover`](super::Sender::recover) has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// Handles of dead processes.
    pub endpoints: u32,
    /// Slots in which the dead were writing: those messages were not sent.
    pub unsent: u32,
    /// Messages that the dead had in hand: to be received again, or dropped, as the ring's
    /// [`Orphans`] say.
    pub orphans: u32,
}

/// Tries at a word that others keep changing.
pub(super) const LAPS: u32 = 1 << 12;

/// Whether nobody is left in a role.
#[derive(PartialEq)]
enum Gone {
    No,
    /// The hint said so before.
    Already,
    Now,
}

impl<T: Message> Parts<T> {
    /// Takes a free seat; its number and its word.
    pub(super) fn join(&self, role: Role, me: ParticipantId) -> Result<(Owner, u64), JoinError> {
        if me.is_anonymous() {
            return Err(JoinError::NotAParticipant);
        }
        for number in 0..self.seat_count as Owner {
            let Some(place) = self.seat(number) else {
                break;
            };
            let free = place.word.load(Relaxed);
            if seated(free) != Seated::Free {
                continue;
            }
            let taken = seat(free, Seated::Taken(role, me));
            // Acquire pairs with the Release half of `leave`: the counters go on. SeqCst: see
            // `mark_gone`.
            if place
                .word
                .compare_exchange(free, taken, SeqCst, Relaxed)
                .is_ok()
            {
                self.bell_of(role).join();
                return Ok((number, taken));
            }
        }
        Err(JoinError::Full)
    }

    /// Takes over a seat that was kept for whoever gets a message; its word. `None` if somebody else has
    /// it by now, or it was taken from who died before the message came.
    #[cfg(feature = "serde")]
    pub(super) fn take_kept(
        &self,
        number: Owner,
        kept: u64,
        role: Role,
        me: ParticipantId,
    ) -> Option<u64> {
        let place = self.seat(number)?;
        if me.is_anonymous() || !matches!(seated(kept), Seated::Taken(whose, _) if whose == role) {
            return None;
        }
        let taken = seat(kept, Seated::Taken(role, me));
        place
            .word
            .compare_exchange(kept, taken, SeqCst, Relaxed)
            .ok()?;
        Some(taken)
    }

    /// Gives a seat back; its owner holds no slot any more.
    pub(super) fn leave(&self, number: Owner, taken: u64, role: Role) {
        let Some(place) = self.seat(number) else {
            return;
        };
        let free = seat(taken, Seated::Free);
        if place
            .word
            .compare_exchange(taken, free, SeqCst, Relaxed)
            .is_ok()
            && self.mark_gone(role) != Gone::No
        {
            self.tell_others(role);
        }
    }

    /// Nobody is left in `role`.
    fn tell_others(&self, role: Role) {
        match role {
            Role::Sender => self.control().receivers.ring_all(),
            Role::Receiver => {
                self.control().senders.ring_all();
                self.control().rare.joiners.ring_all();
                self.control().rare.memory.ring_all();
            }
        }
    }

    fn bell_of(&self, role: Role) -> &super::bell::Bell {
        match role {
            Role::Sender => &self.control().senders,
            Role::Receiver => &self.control().receivers,
        }
    }

    /// Sets the hint that nobody is left in `role`, or takes it away.
    ///
    /// Dekker: who leaves sets GONE and then looks at the seats; who joins takes a seat and then
    /// clears GONE. All SeqCst. Who clears it because somebody sits there looks once more: that one may have
    /// left, and set it, in between. GONE is a hint in both directions: who sees it looks at the seats, and
    /// where it is missing, since who left was killed before it set it, `recover` sets it, which all who
    /// wait call at their inner bound.
    fn mark_gone(&self, role: Role) -> Gone {
        let bell = self.bell_of(role);
        if !bell.was_ever_joined() {
            return Gone::No;
        }
        for _ in 0..LAPS {
            let is_new = !self.has_any(role) && bell.set_gone();
            if !self.has_any(role) {
                return if is_new { Gone::Now } else { Gone::Already };
            }
            if !bell.is_gone() {
                return Gone::No;
            }
            bell.clear_gone();
        }
        Gone::No
    }

    /// Whether somebody sits in `role`, alive or not recovered yet.
    fn has_any(&self, role: Role) -> bool {
        (0..self.seat_count as Owner).any(|number| {
            let word = self.seat(number).map_or(0, |seat| seat.word.load(SeqCst));
            // A dead one of unknown role whose recovery has begun is nobody.
            matches!(seated(word), Seated::Taken(which, _) if which == role)
        })
    }

    /// Whether all who were in `role` are gone.
    pub(super) fn is_deserted(&self, role: Role) -> bool {
        self.bell_of(role).is_gone() && !self.has_any(role)
    }

    /// Step 12: hands back what the dead held, and gives their seats away. Asks the kernel about each
    /// participant once.
    pub(super) fn recover(&self, peers: &impl Peers) -> Recovered {
        let mut recovered = Recovered::default();
        let me = peers.me();
        if me.is_anonymous() {
            return recovered;
        }
        let mut last = (me, false);
        for number in 0..self.seat_count as Owner {
            let Some(place) = self.seat(number) else {
                break;
            };
            // Acquire pairs with the join, and with the recoverer that died.
            let word = place.word.load(Acquire);
            let (Seated::Taken(_, id) | Seated::Recovering(id)) = seated(word) else {
                continue;
            };
            if id == me {
                continue;
            }
            if id != last.0 {
                last = (id, peers.is_dead(id));
            }
            if !last.1 {
                continue;
            }
            // The word that was judged is the word that is replaced: one recoverer at a time, and
            // the number is nobody else's until it has done.
            let mine = seat(word, Seated::Recovering(me));
            if place
                .word
                .compare_exchange(word, mine, AcqRel, Relaxed)
                .is_err()
            {
                continue;
            }
            self.take_back(number, &mut recovered);
            recovered.endpoints += 1;
            let free = seat(mine, Seated::Free);
            let _ = place.word.compare_exchange(mine, free, SeqCst, Relaxed);
        }
        for role in [Role::Sender, Role::Receiver] {
            // Who was told of it before has found it missing, perhaps, and sleeps again.
            if self.mark_gone(role) == Gone::Now {
                self.tell_others(role);
            }
        }
        if recovered.endpoints > 0 {
            // Somebody may be waiting for what has become free, or ready.
            self.control().senders.ring_all();
            self.control().receivers.ring_all();
            self.control().rare.joiners.ring_all();
            self.control().rare.memory.ring_all();
        }
        recovered
    }

    /// Hands back all that `dead`, or who leaves with messages in hand, held. By CAS on the exact word, so that it can be done twice.
    pub(super) fn take_back(&self, dead: Owner, recovered: &mut Recovered) {
        let orphans = match self.is_lending {
            true => Orphans::Redeliver,
            false => self.orphans,
        };
        for index in 0..self.capacity {
            let slot = self.slot(Ticket::new(index));
            // Others only ever advance the ticket of a held slot, once in a lap; the bound is for
            // those that do not keep to it.
            for _ in 0..LAPS {
                let bits = slot.word.load(Acquire);
                let word = Word::from_bits(bits);
                if word.owner != dead {
                    break;
                }
                let next = match (word.state, orphans) {
                    (State::Writing | State::HeldWriting, _) => word.skipped(),
                    (State::Reading | State::HeldReading, Orphans::Redeliver) => word.orphaned(),
                    (State::Reading, Orphans::Drop) => {
                        Word::of_nobody(State::Empty, word.ticket.plus(self.capacity))
                    }
                    (State::HeldReading, Orphans::Drop) => word.skipped(),
                    // Sent, or nobody's.
                    _ => break,
                };
                let turned = slot
                    .word
                    .compare_exchange(bits, next.bits(), AcqRel, Relaxed);
                if turned.is_ok() {
                    match word.state {
                        State::Writing | State::HeldWriting => recovered.unsent += 1,
                        _ => recovered.orphans += 1,
                    }
                    break;
                }
            }
        }
        // Also if there were none: a recoverer that died may have made some.
        self.announce_orphans();
    }

    /// Receivers that have nothing to do look for orphans after this.
    pub(super) fn announce_orphans(&self) {
        // Release pairs with the Acquire load in `Receiver::find_orphan`.
        self.control().rare.orphaned.fetch_add(1, Release);
    }
}
