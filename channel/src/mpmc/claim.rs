//! How a sender claims a slot: steps 1 and 10.

use multiprocess_core::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use multiprocess_core::pair::PairSwap;
use multiprocess_core::{Memory, Peers};

use super::endpoint::{Endpoint, HINT_MASK};
use super::words::{State, Ticket, Word};
use crate::spsc::Message;

/// Most tickets for which a look at the limit holds.
const AT_A_TIME: u64 = 32;

pub(super) enum Claim {
    Slot(Ticket),
    Full,
    Corrupt,
}

/// Step 1: the slot of the next ticket.
#[inline(always)]
pub(super) fn claim<T: Message, M: Memory, P: Peers>(endpoint: &mut Endpoint<T, M, P>) -> Claim {
    let ticket = endpoint.cursor;
    let empty = Word::of_nobody(State::Empty, ticket).bits();
    let word = &endpoint.parts.slot(ticket).word;
    if word.load(Relaxed) == empty && !is_at_limit(endpoint, ticket) {
        let writing = Word::new(State::Writing, endpoint.number, ticket).bits();
        // Acquire pairs with the release of the slot's last reader: its loads come before our stores.
        if word
            .compare_exchange(empty, writing, Acquire, Relaxed)
            .is_ok()
        {
            endpoint.cursor = ticket.plus(1);
            if ticket.bits() & HINT_MASK == HINT_MASK {
                store_hint(endpoint);
            }
            return Claim::Slot(ticket);
        }
    }
    claim_slowly(endpoint)
}

/// Steps 1 to 3 in one, for a message of one word at most: nobody finds this sender in the middle.
#[inline(always)]
pub(super) fn claim_and_publish<T: Message, M: Memory, P: Peers>(
    endpoint: &mut Endpoint<T, M, P>,
    pair: PairSwap,
    message: &T,
) -> bool {
    let ticket = endpoint.cursor;
    let slot = endpoint.parts.slot(ticket);
    let empty = Word::of_nobody(State::Empty, ticket).bits();
    if slot.word.load(Relaxed) != empty || is_at_limit(endpoint, ticket) {
        return false;
    }
    let Some(pair_at) = endpoint.parts.pair(ticket) else {
        return false;
    };
    let bytes = bytemuck::bytes_of(message);
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let ready = Word::new(State::Ready, endpoint.number, ticket).bits();
    // SAFETY: word and message of a slot; both are accessed by atomics only.
    if !unsafe { pair.swap(pair_at, empty, [ready, u64::from_ne_bytes(word)]) } {
        return false;
    }
    endpoint.cursor = ticket.plus(1);
    if ticket.bits() & HINT_MASK == HINT_MASK {
        store_hint(endpoint);
    }
    true
}

/// Whether the message before this one, by as many as the limit says, has not been taken yet. Once it was,
/// it stays so. A word from before that message was sent is an old one: whoever is here has been told,
/// by a hint, of more than it has seen.
#[inline(always)]
fn is_at_limit<T: Message, M: Memory, P: Peers>(
    endpoint: &Endpoint<T, M, P>,
    ticket: Ticket,
) -> bool {
    endpoint.parts.limit != 0
        && ticket.ahead_of(endpoint.room_until.get()) >= 0
        && look_at_limit(endpoint, ticket)
}

/// That slot's line is in the receivers' hands, so a stream looks at one further on first: if the message
/// there was taken by a receiver that came to it in order, all before it were taken or skipped.
fn look_at_limit<T: Message, M: Memory, P: Peers>(
    endpoint: &Endpoint<T, M, P>,
    ticket: Ticket,
) -> bool {
    let limit = endpoint.parts.limit;
    let further = (limit / 4).min(AT_A_TIME);
    let at = |ticket: Ticket| {
        // Relaxed: nothing is read because of it.
        let seen = Word::from_bits(endpoint.parts.slot(ticket).word.load(Relaxed));
        (seen.state, seen.ticket.ahead_of(ticket))
    };
    let oldest = ticket.minus(limit);
    if let (_, 1..) | (State::Reading, 0) = at(oldest.plus(further)) {
        endpoint.room_until.set(ticket.plus(further + 1));
        return false;
    }
    // A slot that was stepped over has no message, and tells nothing of those before it. The slot of a whole
    // lap ago is our own, which is free.
    for back in 0..endpoint.parts.capacity - limit {
        match at(oldest.minus(back)) {
            (_, 1..) | (State::Reading, 0) => return false,
            (State::Skip | State::HeldWriting | State::HeldReading | State::Orphan, 0) => {}
            _ => return true,
        }
    }
    false
}

fn store_hint<T: Message, M: Memory, P: Peers>(endpoint: &Endpoint<T, M, P>) {
    let control = endpoint.parts.control();
    let tail = endpoint.cursor;
    control.tail.store(tail.bits(), Relaxed);
    // The head's line is the receivers': whoever looks at it takes it from under their stores.
    if tail.bits() & endpoint.high_water_mask == 0 {
        store_high_water(endpoint);
    }
}

#[cold]
fn store_high_water<T: Message, M: Memory, P: Peers>(endpoint: &Endpoint<T, M, P>) {
    let tail = endpoint.cursor;
    let control = endpoint.parts.control();
    let head = Ticket::new(control.head.load(Relaxed));
    let there = tail.ahead_of(head).clamp(0, endpoint.parts.capacity as i64) as u64;
    if let Some(seat) = endpoint.parts.seat(endpoint.number)
        && there > seat.high_water.load(Relaxed)
    {
        seat.high_water.store(there, Relaxed);
    }
}

#[cold]
fn claim_slowly<T: Message, M: Memory, P: Peers>(endpoint: &mut Endpoint<T, M, P>) -> Claim {
    let capacity = endpoint.parts.capacity;
    // What a ring can make us walk, and no more, whatever its words say.
    for step in 0..4 * capacity + 64 {
        let ticket = endpoint.cursor;
        let word = &endpoint.parts.slot(ticket).word;
        let bits = word.load(Relaxed);
        let seen = Word::from_bits(bits);
        if (seen.ticket.bits() ^ ticket.bits()) & (capacity - 1) != 0 {
            return Claim::Corrupt;
        }
        let ahead = seen.ticket.ahead_of(ticket);
        if ahead == 0 && seen.state == State::Empty {
            if is_at_limit(endpoint, ticket) {
                store_hint(endpoint);
                store_high_water(endpoint);
                return Claim::Full;
            }
            let writing = Word::new(State::Writing, endpoint.number, ticket).bits();
            // As in `claim`.
            if word
                .compare_exchange(bits, writing, Acquire, Relaxed)
                .is_ok()
            {
                endpoint.cursor = ticket.plus(1);
                store_hint(endpoint);
                return Claim::Slot(ticket);
            }
            continue;
        }
        if ahead >= 0 {
            // Used. A slot with ticket T says that the tail has come to T - n: a hint, however
            // stale, costs about one lap of looks.
            let mut next = ticket.plus(1).later(seen.ticket.minus(capacity));
            if step % 4 == 0 {
                next = next.later(Ticket::new(endpoint.parts.control().tail.load(Relaxed)));
            }
            endpoint.cursor = next;
            continue;
        }
        // A slot is never behind by more than a lap, and was used in the last one.
        if ahead != -(capacity as i64) || seen.state == State::Empty {
            return Claim::Corrupt;
        }
        // The last lap's message is still there: full, unless only stalled receivers, or orphans,
        // are in the way.
        let aside = match seen.state {
            State::Reading => endpoint
                .is_impatient(bits)
                .then_some(seen.turned(State::HeldReading, ticket)),
            State::Orphan => Some(Word::orphan_ahead(ticket)),
            _ => None,
        };
        let Some(stepped) = aside.filter(|_| has_room_behind(endpoint, ticket)) else {
            store_hint(endpoint);
            store_high_water(endpoint);
            return Claim::Full;
        };
        // Step 10.
        if word
            .compare_exchange(bits, stepped.bits(), AcqRel, Relaxed)
            .is_ok()
        {
            endpoint.count_quarantine();
            endpoint.cursor = ticket.plus(1);
        }
    }
    Claim::Full
}

/// Whether a slot is free behind a run of stalled receivers and orphans.
fn has_room_behind<T: Message, M: Memory, P: Peers>(
    endpoint: &Endpoint<T, M, P>,
    ticket: Ticket,
) -> bool {
    for offset in 1..endpoint.parts.capacity {
        let at = ticket.plus(offset);
        let seen = Word::from_bits(endpoint.parts.slot(at).word.load(Relaxed));
        if seen.ticket.ahead_of(at) >= 0 {
            return true;
        }
        if !matches!(seen.state, State::Reading | State::Orphan) {
            return false;
        }
    }
    false
}

/// Whether a claim would not find the ring full: `claim_slowly`, without leaving a trace. A stalled receiver
/// with room behind it counts as room: claims step over it after some more looks.
pub(super) fn has_room<T: Message, M: Memory, P: Peers>(endpoint: &Endpoint<T, M, P>) -> bool {
    let capacity = endpoint.parts.capacity;
    let mut ticket = endpoint.cursor;
    for _ in 0..4 * capacity + 64 {
        let seen = Word::from_bits(endpoint.parts.slot(ticket).word.load(Relaxed));
        let ahead = seen.ticket.ahead_of(ticket);
        if ahead == 0 && seen.state == State::Empty {
            return !is_at_limit(endpoint, ticket);
        }
        if ahead < 0 {
            // What is corrupt is for the claim to say.
            return ahead != -(capacity as i64)
                || match seen.state {
                    State::Empty => true,
                    State::Reading | State::Orphan => has_room_behind(endpoint, ticket),
                    _ => false,
                };
        }
        ticket = ticket.plus(1).later(seen.ticket.minus(capacity));
    }
    false
}
