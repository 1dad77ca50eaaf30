//! How a receiver finds the oldest message: steps 8 and 9, and orphans.

use multiprocess_core::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use multiprocess_core::{Memory, Peers};

use super::Receiver;
use super::words::{State, Ticket, Word};
use crate::spsc::Message;

/// A message to be taken: its word, and whether the head is there. Orphans are also taken from
/// elsewhere.
pub(super) struct Found {
    pub(super) word: Word,
    pub(super) in_order: bool,
}

impl Found {
    fn at_the_head(word: Word) -> Find {
        Find::Message(Self {
            word,
            in_order: true,
        })
    }
}

pub(super) enum Find {
    Message(Found),
    /// Nothing is there, or not yet.
    Nothing,
    Corrupt,
}

impl<T: Message, M: Memory, P: Peers> Receiver<T, M, P> {
    /// The message at our cursor, if one is there that nobody has taken: nearly always the oldest.
    #[inline(always)]
    pub(super) fn find_here(&self) -> Option<Found> {
        let ticket = self.endpoint.cursor;
        // Acquire pairs with the Release half of step 3: a copy in one step may read the message now.
        let bits = self.endpoint.parts.slot(ticket).word.load(Acquire);
        let word = Word::ready_at(bits, ticket)?;
        Some(Found {
            word,
            in_order: true,
        })
    }

    /// The oldest message.
    #[cold]
    pub(super) fn find(&mut self) -> Find {
        let capacity = self.endpoint.parts.capacity;
        let start = self.endpoint.cursor;
        let mut held = 0;
        for step in 0..4 * capacity + 64 {
            let ticket = self.endpoint.cursor;
            let word = &self.endpoint.parts.slot(ticket).word;
            // Acquire as in `find_here`.
            let bits = word.load(Acquire);
            let seen = Word::from_bits(bits);
            if (seen.ticket.bits() ^ ticket.bits()) & (capacity - 1) != 0 {
                return Find::Corrupt;
            }
            let ahead = seen.ticket.ahead_of(ticket);
            if ahead < -(capacity as i64) {
                return Find::Corrupt;
            }
            if ahead < 0 || held > capacity {
                return self.found_none(start);
            }
            if ahead == 0 {
                let stepped = match seen.state {
                    State::Ready | State::Orphan => {
                        self.store_hint_if_moved(start);
                        return Found::at_the_head(seen);
                    }
                    State::Empty => return self.found_none(start),
                    // Step 8.
                    State::Writing => {
                        let patient = !self.endpoint.is_impatient(bits);
                        if patient || !self.has_message_behind(ticket) {
                            return self.found_none(start);
                        }
                        Some(seen.turned(State::HeldWriting, ticket.plus(capacity)))
                    }
                    // Step 9.
                    State::Skip => Some(Word::of_nobody(State::Empty, ticket.plus(capacity))),
                    State::HeldWriting | State::HeldReading => {
                        held += 1;
                        Some(seen.turned(seen.state, ticket.plus(capacity)))
                    }
                    // Taken by another one.
                    State::Reading => None,
                };
                if let Some(next) = stepped {
                    // SeqCst for the bell.
                    let turned = word.compare_exchange(bits, next.bits(), SeqCst, Relaxed);
                    match (turned.is_ok(), seen.state) {
                        (false, _) => continue,
                        (true, State::Writing) => {
                            self.endpoint.count_quarantine();
                            if self.endpoint.parts.limit != 0 {
                                self.endpoint.parts.control().senders.ring();
                            }
                        }
                        // Room for a sender.
                        (true, State::Skip) => self.endpoint.parts.control().senders.ring(),
                        (true, _) => {}
                    }
                }
            }
            // Likewise, a slot with ticket T says that the head has come to T - n.
            let mut next = ticket.plus(1);
            if ahead > 0 {
                next = next.later(seen.ticket.minus(capacity));
            }
            if step % 4 == 0 {
                let hint = self.endpoint.parts.control().head.load(Relaxed);
                next = next.later(Ticket::new(hint));
            }
            self.endpoint.cursor = next;
        }
        Find::Nothing
    }

    fn store_hint_if_moved(&self, start: Ticket) {
        if self.endpoint.cursor != start {
            self.store_hint();
        }
    }

    #[inline]
    fn found_none(&mut self, start: Ticket) -> Find {
        self.store_hint_if_moved(start);
        // Acquire pairs with the Release half of `announce_orphans`.
        let orphaned = self.endpoint.parts.control().rare.orphaned.load(Acquire);
        if orphaned == self.orphaned {
            return Find::Nothing;
        }
        self.find_orphan(orphaned)
    }

    /// Whether a message was sent behind a run of slots that have none.
    fn has_message_behind(&self, ticket: Ticket) -> bool {
        for offset in 1..self.endpoint.parts.capacity {
            let at = ticket.plus(offset);
            let seen = Word::from_bits(self.endpoint.parts.slot(at).word.load(Relaxed));
            match (seen.ticket.ahead_of(at), seen.state) {
                (1.., _) | (0, State::Ready | State::Reading | State::Orphan) => return true,
                (0, State::Writing | State::Skip) => {}
                (0, State::HeldWriting | State::HeldReading) => {}
                _ => return false,
            }
        }
        false
    }

    /// Orphans are taken wherever they lie; if there is none, the next one is announced.
    #[cold]
    fn find_orphan(&mut self, orphaned: u64) -> Find {
        for index in 0..self.endpoint.parts.capacity {
            let slot = self.endpoint.parts.slot(Ticket::new(index));
            // Acquire pairs with the Release half of the CAS that made it an orphan.
            let word = Word::from_bits(slot.word.load(Acquire));
            let mask = self.endpoint.parts.capacity - 1;
            if word.state == State::Orphan && word.ticket.bits() & mask == index {
                return Find::Message(Found {
                    word,
                    in_order: false,
                });
            }
        }
        self.orphaned = orphaned;
        Find::Nothing
    }
}
