//! The seats of lossless receivers: taking, giving back, and dropping the dead.

use multiprocess_core::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};
use multiprocess_core::{ParticipantId, Peers};

use super::layout::Parts;
use super::{JoinError, Statistics};
use crate::spsc::Message;

// | bits of a seat's word | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0-1: FREE | nobody's; the cursor means nothing | creator; owner; who drops a dead one | receiver (12) |
// | JOINING | the owner is about to write the cursor; counts for nothing | receiver (12) | receiver (14); who drops a dead one |
// | TAKEN | the sender waits for the cursor | receiver (14) | owner; who drops a dead one |
// | 2: LIGHT | the owner publishes its cursor with light fences only | receiver (14) | with TAKEN |
// | 3-31: lives | how often the seat was joined, modulo 2^29: no word comes twice | receiver (12) | |
// | 32-63 | the owner, a `ParticipantId` | receiver (12) | |
const FREE: u64 = 0;
const JOINING: u64 = 1;
const TAKEN: u64 = 2;
const STATE: u64 = 3;
const LIGHT: u64 = 4;
const LIFE: u64 = 8;
const LIVES: u64 = 0xffff_fff8;

fn owner(word: u64) -> ParticipantId {
    ParticipantId::from_bits((word >> 32) as u32)
}

impl<T: Message> Parts<T> {
    /// Steps 12 to 16: a free seat's number, its word, and the message that its owner starts with.
    pub(super) fn join(
        &self,
        me: ParticipantId,
        light: bool,
    ) -> Result<(u32, u64, u64), JoinError> {
        if me.is_anonymous() {
            return Err(JoinError::NotAParticipant);
        }
        for number in 0..self.readers {
            let Some(seat) = self.seat(number) else {
                break;
            };
            let free = seat.word.load(Relaxed);
            if free & STATE != FREE {
                continue;
            }
            let life = free.wrapping_add(LIFE) & LIVES;
            let joining = u64::from(me.bits()) << 32 | life | JOINING;
            // Acquire pairs with the Release half of whoever freed it: its cursor comes before ours.
            let claimed = seat
                .word
                .compare_exchange(free, joining, AcqRel, Relaxed)
                .is_ok();
            if !claimed {
                continue;
            }
            // At most what we will start with: the sender may count on it from the next line on.
            seat.cursor.store(self.tail(), Relaxed);
            let light = if light { LIGHT } else { 0 };
            let taken = joining & !STATE | TAKEN | light;
            // Release: who sees TAKEN sees the cursor. Fails only if a peer wrote to our word.
            if seat
                .word
                .compare_exchange(joining, taken, SeqCst, Relaxed)
                .is_err()
            {
                continue;
            }
            // Dekker: pairs with the fence in `slowest`.
            fence(SeqCst);
            let start = self.tail();
            seat.cursor.store(start, Release);
            return Ok((number, taken, start));
        }
        Err(JoinError::Full)
    }

    /// Gives a seat back.
    pub(super) fn leave(&self, number: u32, taken: u64) {
        let Some(seat) = self.seat(number) else {
            return;
        };
        let free = taken & LIVES;
        // Release: what we read comes before.
        if seat
            .word
            .compare_exchange(taken, free, AcqRel, Relaxed)
            .is_ok()
        {
            let room = &self.control().room.bell;
            if room.has_sleepers(false) {
                room.wake();
            }
        }
    }

    /// Step 18: messages before `tail` that the slowest lossless receiver has not read; `None` if one
    /// claims to have read what was not sent.
    pub(super) fn slowest(&self, tail: u64) -> Option<u64> {
        // Dekker: pairs with the fence in `join`. The tail was stored before.
        fence(SeqCst);
        let mut slowest = 0;
        for number in 0..self.readers {
            let Some(seat) = self.seat(number) else {
                break;
            };
            // Acquire pairs with the Release half of step 14.
            if seat.word.load(Acquire) & STATE != TAKEN {
                continue;
            }
            // Acquire pairs with the Release store of step 10: what was read there is no longer read.
            let lag = tail.wrapping_sub(seat.cursor.load(Acquire));
            if lag.cast_signed() < 0 {
                return None;
            }
            slowest = slowest.max(lag);
        }
        Some(slowest)
    }

    /// Whether a lossless receiver may wake the sender with light fences only.
    pub(super) fn may_be_light(&self) -> bool {
        (0..self.readers).any(|number| {
            let word = self.seat(number).map_or(0, |seat| seat.word.load(Relaxed));
            word & STATE == TAKEN && word & LIGHT != 0
        })
    }

    /// Frees the seats of the dead; how many. Asks the kernel about each participant.
    #[cold]
    pub(super) fn drop_dead(&self, peers: &impl Peers) -> u32 {
        let mut dropped = 0;
        let me = peers.me();
        for number in 0..self.readers {
            let Some(seat) = self.seat(number) else {
                break;
            };
            let word = seat.word.load(Acquire);
            let id = owner(word);
            if word & STATE == FREE || id == me || id.is_anonymous() || !peers.is_dead(id) {
                continue;
            }
            // The word that was judged is the word that is replaced.
            if seat
                .word
                .compare_exchange(word, word & LIVES, AcqRel, Relaxed)
                .is_ok()
            {
                dropped += 1;
            }
        }
        if dropped > 0 {
            let total = &self.control().room.dropped;
            total.fetch_add(u64::from(dropped), Relaxed);
        }
        dropped
    }

    pub(super) fn statistics(&self) -> Statistics {
        let tail = self.tail();
        let mut all = Statistics {
            sent: tail.wrapping_sub(self.first),
            dropped: self.control().room.dropped.load(Relaxed),
            ..Statistics::default()
        };
        for number in 0..self.readers {
            let Some(seat) = self.seat(number) else {
                break;
            };
            if seat.word.load(Acquire) & STATE == TAKEN {
                all.readers += 1;
                // One that has read a message before the tail says so is not behind.
                let lag = tail.wrapping_sub(seat.cursor.load(Relaxed));
                all.lag = all.lag.max(lag.cast_signed().max(0).cast_unsigned());
            }
        }
        all
    }
}
