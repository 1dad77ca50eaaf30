//! Blocks of whole chunks.

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::{Memory, ParticipantId, Peers};

use super::words::{self, Chunk, FREE_UNIT};
use super::{Arena, Block};

impl<M: Memory, P: Peers> Arena<M, P> {
    #[cold]
    pub(super) fn allocate_large(&self, chunks: u32, me: ParticipantId) -> Option<Block> {
        self.claim_somewhere(chunks, me)
            .or_else(|| match self.reclaim(me) {
                true => self.claim_somewhere(chunks, me),
                false => None,
            })
    }

    /// The first run that is free.
    fn claim_somewhere(&self, chunks: u32, me: ParticipantId) -> Option<Block> {
        let last = self.config.chunks().checked_sub(chunks)?;
        let words = self.parts().chunks;
        let mut head = 0;
        while head <= last {
            // Look for a run before claiming any of it, from its end: one that is taken rules out all
            // runs that it is in.
            let run = words.get(head as usize..(head + chunks) as usize)?;
            let free = Chunk::Free.word();
            match run.iter().rposition(|word| word.load(Relaxed) != free) {
                Some(taken) => head += taken as u32 + 1,
                None if self.claim_run(head, chunks, me) => {
                    let (unit, units) =
                        (head << self.config.shift(), chunks << self.config.shift());
                    return Some(self.block(unit, units));
                }
                None => head += 1,
            }
        }
        None
    }

    /// Steps 5 to 8.
    fn claim_run(&self, head: u32, chunks: u32, me: ParticipantId) -> bool {
        let run = head..head + chunks;
        let unit = head << self.config.shift();
        let refused = run
            .clone()
            .find(|chunk| !self.turn(*chunk, Chunk::Free, Chunk::Claimed(me)));
        // A word may be taken that an allocator of the slab that was here has yet to give back.
        if refused.is_some() || !self.claim(unit, FREE_UNIT, me.bits()) {
            for chunk in head..refused.unwrap_or(run.end) {
                self.turn(chunk, Chunk::Claimed(me), Chunk::Free);
            }
            return false;
        }
        for chunk in head + 1..run.end {
            self.turn(chunk, Chunk::Claimed(me), Chunk::Body(chunk - head));
        }
        self.turn(head, Chunk::Claimed(me), Chunk::Large(chunks))
    }

    /// Steps 9 to 12. `holder`: the word of its first unit. `false`: somebody else is at it.
    pub(super) fn free_large(
        &self,
        head: u32,
        chunks: u32,
        me: ParticipantId,
        holder: u32,
    ) -> bool {
        let unit = head << self.config.shift();
        if !self.turn(head, Chunk::Large(chunks), Chunk::Claimed(me)) {
            return false;
        }
        if self.unit_word(unit) != Some(holder) {
            // It has been freed and allocated anew since we looked.
            self.turn(head, Chunk::Claimed(me), Chunk::Large(chunks));
            return false;
        }
        self.clear_run(head, chunks, me, Some(holder));
        true
    }

    /// Steps 10 to 12, of a head that we have claimed. `holder`: whose word it is at the first unit;
    /// `None`: whoever's, if dead.
    pub(super) fn clear_run(&self, head: u32, chunks: u32, me: ParticipantId, holder: Option<u32>) {
        let end = head.saturating_add(chunks).min(self.config.chunks());
        for chunk in (head + 1..end).rev() {
            self.turn(chunk, Chunk::Body(chunk - head), Chunk::Free);
        }
        // The word of a living one is an allocator's that is about to give it back: the stamp of a
        // thread of ours looks like ours.
        let unit = head << self.config.shift();
        let seen = self.unit_word(unit).unwrap_or(FREE_UNIT);
        let is_theirs = match holder {
            Some(holder) => seen == holder,
            None => words::holder(seen).is_some_and(|by| by != me && self.is_dead(by)),
        };
        if is_theirs {
            self.claim(unit, seen, FREE_UNIT);
        }
        self.turn(head, Chunk::Claimed(me), Chunk::Free);
    }

    /// How many bodies are right behind a head.
    pub(super) fn bodies_behind(&self, head: u32) -> u32 {
        let behind = head.saturating_add(1)..self.config.chunks();
        let bodies =
            behind.take_while(|chunk| self.chunk(*chunk) == Some(Chunk::Body(chunk - head)));
        bodies.count() as u32
    }
}
