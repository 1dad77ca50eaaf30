//! The word of a slot, and the word of a seat.

use multiprocess_core::ParticipantId;

/// Bytes of a message that can be sent in one step with its slot's word.
pub(super) const WORD: usize = 8;

/// Tickets are 48 bits: at 100 million messages a second they come round after 32 days, and an
/// operation would have to stand still for exactly that long to be mistaken.
pub(super) const TICKET_BITS: u32 = 48;
const TICKET_MASK: u64 = (1 << TICKET_BITS) - 1;
const OWNER_BITS: u32 = 13;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;

/// A slot's place in the order of messages, modulo 2^48; the slot is the ticket modulo capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    pub(super) const fn new(bits: u64) -> Self {
        Self(bits & TICKET_MASK)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(super) const fn plus(self, count: u64) -> Self {
        Self::new(self.0.wrapping_add(count))
    }

    #[inline(always)]
    pub(super) const fn minus(self, count: u64) -> Self {
        Self::new(self.0.wrapping_sub(count))
    }

    /// How far this is ahead of `other`; negative if it is behind.
    #[inline(always)]
    pub(super) const fn ahead_of(self, other: Self) -> i64 {
        let shift = 64 - TICKET_BITS;
        ((self.0.wrapping_sub(other.0) << shift) as i64) >> shift
    }

    #[inline(always)]
    pub(super) const fn later(self, other: Self) -> Self {
        if other.ahead_of(self) > 0 {
            other
        } else {
            self
        }
    }
}

/// The number of a seat, from 0; at most [`MAX_SEATS`] of them.
pub(super) type Owner = u16;

pub(super) const MAX_SEATS: u32 = 1 << OWNER_BITS;

// The word of a slot: state, owner 13 bits, ticket 48 bits. `t` is the ticket that stands in it,
// `n` the capacity; numbers are the steps of the protocol in `mpmc.rs`.
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | EMPTY | free for the message with ticket t | creator; receiver (7, 9) | sender (1) |
// | WRITING | the owner, a sender, writes the message | sender (1) | it (3); receiver (8); recoverer (12) |
// | READY | sent | sender (3) | receiver (5) |
// | READING | taken by the owner, a receiver | receiver (5) | it (7, 11); sender (10); recoverer (12) |
// | SKIP | t has no message | holder (4, 7); recoverer (12) | receiver (9) |
// | HELD_WRITING | its owner stalled while it wrote: stepped over, lap after lap | receiver (8, 9) | it (4); recoverer (12); receiver (9), with t + n |
// | HELD_READING | its owner stalled with the message in hand: stepped over | sender (10); receiver (9) | it (7, 11); recoverer (12); receiver (9), with t + n |
// | ORPHAN | sent, taken by one who died or gave it up: to be taken again, in no order | receiver (11); recoverer (12) | receiver (5); sender (10), with t + n |
//
// An orphan's owner is 0 while the head has passed t, as it has for READING; 1 once t is ahead of
// it, as for HELD_READING.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Empty = 0,
    Writing = 1,
    Ready = 2,
    Reading = 3,
    Skip = 4,
    HeldWriting = 5,
    HeldReading = 6,
    Orphan = 7,
}

const STATES: [State; 8] = [
    State::Empty,
    State::Writing,
    State::Ready,
    State::Reading,
    State::Skip,
    State::HeldWriting,
    State::HeldReading,
    State::Orphan,
];

/// A slot's word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: State,
    pub(super) owner: Owner,
    pub(super) ticket: Ticket,
}

impl Word {
    #[inline(always)]
    pub(super) const fn new(state: State, owner: Owner, ticket: Ticket) -> Self {
        Self {
            state,
            owner,
            ticket,
        }
    }

    /// In no one's hands.
    #[inline(always)]
    pub(super) const fn of_nobody(state: State, ticket: Ticket) -> Self {
        Self::new(state, 0, ticket)
    }

    #[inline(always)]
    pub(super) const fn bits(self) -> u64 {
        (self.state as u64) << (TICKET_BITS + OWNER_BITS)
            | (self.owner as u64 & OWNER_MASK) << TICKET_BITS
            | self.ticket.bits()
    }

    /// Every value is a valid word.
    #[inline(always)]
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self {
            state: STATES[(bits >> (TICKET_BITS + OWNER_BITS)) as usize],
            owner: ((bits >> TICKET_BITS) & OWNER_MASK) as Owner,
            ticket: Ticket::new(bits),
        }
    }

    /// `bits` taken apart, if they say READY(ticket).
    #[inline(always)]
    pub(super) const fn ready_at(bits: u64, ticket: Ticket) -> Option<Self> {
        let owner = ((bits >> TICKET_BITS) & OWNER_MASK) as Owner;
        let ready = Self::new(State::Ready, owner, ticket);
        if ready.bits() == bits {
            Some(ready)
        } else {
            None
        }
    }

    /// The same slot in another state or lap.
    #[inline(always)]
    pub(super) const fn turned(self, state: State, ticket: Ticket) -> Self {
        Self::new(state, self.owner, ticket)
    }

    /// Handed back by a holder that was stepped over: not EMPTY, which would end the receivers' walk if
    /// it lay behind the tail.
    pub(super) const fn skipped(self) -> Self {
        Self::of_nobody(State::Skip, self.ticket)
    }

    /// The message given up by its holder, or taken back from it.
    pub(super) const fn orphaned(self) -> Self {
        let is_ahead = matches!(self.state, State::HeldReading);
        Self::new(State::Orphan, is_ahead as Owner, self.ticket)
    }

    /// An orphan that a sender steps over: `ticket` is ahead of the head.
    pub(super) const fn orphan_ahead(ticket: Ticket) -> Self {
        Self::new(State::Orphan, 1, ticket)
    }

    const fn is_orphan_ahead(self) -> bool {
        matches!(self.state, State::Orphan) && self.owner != 0
    }

    /// The message taken by `owner`. Out of order, an orphan ahead of the head stays to be stepped
    /// over.
    #[inline(always)]
    pub(super) const fn taken(self, owner: Owner, in_order: bool) -> Self {
        let state = if !in_order && self.is_orphan_ahead() {
            State::HeldReading
        } else {
            State::Reading
        };
        Self::new(state, owner, self.ticket)
    }

    /// The message taken and given back.
    #[inline(always)]
    pub(super) const fn consumed(self, in_order: bool, capacity: u64) -> Self {
        if !in_order && self.is_orphan_ahead() {
            Self::of_nobody(State::Skip, self.ticket)
        } else {
            Self::of_nobody(State::Empty, self.ticket.plus(capacity))
        }
    }

    /// Whether it is stepped over, lap after lap, until its owner hands it back.
    pub(super) const fn is_held(self) -> bool {
        matches!(self.state, State::HeldWriting | State::HeldReading)
    }
}

/// Which end a handle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Sender,
    Receiver,
}

// The word of a seat: state 2 bits, life 30 bits, participant 32 bits.
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 free | nobody's, and no slot bears its number as a holder's | creator, owner, recoverer (12) | joiner, by CAS, with life + 1 |
// | 1 sender, 2 receiver | the participant's | joiner | owner; recoverer (12), by CAS, once the participant is dead |
// | 3 recovering | the participant, a recoverer, hands back what the dead one held | recoverer (12) | it (12); another one, once it is dead |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seated {
    Free,
    Taken(Role, ParticipantId),
    Recovering(ParticipantId),
}

const LIFE: u64 = 1 << 32;
const LIFE_MASK: u64 = ((1 << 30) - 1) << 32;

/// The word after `word` that says `seated`; a new life when it is taken.
pub(super) fn seat(word: u64, seated: Seated) -> u64 {
    let life = word & LIFE_MASK;
    let part = |id: ParticipantId| u64::from(id.bits());
    match seated {
        Seated::Free => life,
        Seated::Taken(role, id) => {
            let role = match role {
                Role::Sender => 1 << 62,
                Role::Receiver => 2 << 62,
            };
            (life.wrapping_add(LIFE) & LIFE_MASK) | role | part(id)
        }
        Seated::Recovering(id) => life | 3 << 62 | part(id),
    }
}

pub(super) fn seated(word: u64) -> Seated {
    let id = ParticipantId::from_bits(word as u32);
    match word >> 62 {
        0 => Seated::Free,
        1 => Seated::Taken(Role::Sender, id),
        2 => Seated::Taken(Role::Receiver, id),
        _ => Seated::Recovering(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_apart_as_they_were_put_together() {
        for state in STATES {
            let word = Word::new(state, 8191, Ticket::new(u64::MAX));
            assert_eq!(Word::from_bits(word.bits()), word);
        }
    }

    #[test]
    fn tickets_are_compared_across_the_wrap() {
        let last = Ticket::new(u64::MAX);
        assert_eq!(last.plus(1), Ticket::new(0));
        assert_eq!(last.plus(3).ahead_of(last), 3);
        assert_eq!(last.ahead_of(last.plus(3)), -3);
        assert_eq!(last.later(last.plus(1)), Ticket::new(0));
    }

    #[test]
    fn seats_have_a_new_life_each_time_they_are_taken() {
        let me = ParticipantId::new(3, 9);
        let taken = seat(0, Seated::Taken(Role::Receiver, me));
        assert_eq!(seated(taken), Seated::Taken(Role::Receiver, me));
        let free = seat(taken, Seated::Free);
        assert_eq!(seated(free), Seated::Free);
        assert_ne!(seat(free, Seated::Taken(Role::Receiver, me)), taken);
        let recovering = seat(taken, Seated::Recovering(ParticipantId::new(1, 1)));
        assert_eq!(
            seated(recovering),
            Seated::Recovering(ParticipantId::new(1, 1))
        );
    }
}
