//! What the dead have left.

use multiprocess_core::{Memory, ParticipantId, Peers};

use super::words::{Chunk, FREE_UNIT, UNIT, holder};
use super::{Arena, Block};

/// What [`Arena::recover`] has given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// Blocks of the dead.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
    /// Chunks that the dead were at work on.
    pub chunks: u64,
}

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Gives back all that dead participants held. Walks the whole arena; to be called at any time,
    /// by any number of processes at once. Whoever holds a block as a [participant](Peers) that has
    /// only left, and whose process lives, keeps it.
    pub fn recover(&self) -> Recovered {
        self.recover_unless(|_| false)
    }

    /// As [`recover`](Self::recover), but for the blocks at offsets of which `is_passed_on` says that their
    /// holder had passed them on before it died: those wait to be [adopted](Self::adopt). It is asked after
    /// the holder was seen, and what it says must stay true until the block is adopted.
    pub fn recover_unless(&self, is_passed_on: impl Fn(u64) -> bool) -> Recovered {
        self.recover_by(is_passed_on, |unit, by, me| self.recover_unit(unit, by, me))
    }

    /// As [`recover_unless`](Self::recover_unless), but the blocks are not free yet: each becomes this
    /// participant's and goes to `heir`, for whom there is something to be done about it before it
    /// [frees](Self::free) it. Killed in between, it is one of the dead to the next one.
    pub fn inherit_unless(
        &self,
        is_passed_on: impl Fn(u64) -> bool,
        heir: impl Fn(Block),
    ) -> Recovered {
        self.recover_by(is_passed_on, |unit, by, me| {
            let Some(block) = self.find(u64::from(unit) * UNIT as u64) else {
                return self.recover_unit(unit, by, me);
            };
            // The word that was judged is the word that is replaced.
            if !self.claim(unit, by.bits(), me.bits()) {
                return 0;
            }
            let units = block.units;
            heir(block);
            units
        })
    }

    /// `recover_block` gets the unit, its holder, and who we are, and tells how many units the block had.
    fn recover_by(
        &self,
        is_passed_on: impl Fn(u64) -> bool,
        recover_block: impl Fn(u32, ParticipantId, ParticipantId) -> u32,
    ) -> Recovered {
        let mut recovered = Recovered::default();
        let me = self.peers.me();
        if me.is_anonymous() {
            return recovered;
        }
        for chunk in 0..self.config.chunks() {
            recovered.chunks += self.recover_chunk(chunk, me);
        }
        let mut last = (ParticipantId::ANONYMOUS, false);
        for unit in 0..self.parts().units.len() as u32 {
            let Some(by) = self.unit_word(unit).and_then(holder) else {
                continue;
            };
            // Blocks of one holder lie together, and the kernel is asked about each.
            if by != last.0 {
                last = (by, by != me && self.is_dead(by));
            }
            if last.1 && !is_passed_on(u64::from(unit) * UNIT as u64) {
                let units = recover_block(unit, by, me);
                recovered.blocks += u64::from(units > 0);
                recovered.bytes += u64::from(units) * UNIT as u64;
            }
        }
        recovered
    }

    /// Step 16. How many chunks it was.
    fn recover_chunk(&self, chunk: u32, me: ParticipantId) -> u64 {
        match self.chunk(chunk) {
            Some(Chunk::Claimed(by)) if by != me && self.is_dead(by) => {
                // The word that was judged is the word that is replaced.
                if !self.turn(chunk, Chunk::Claimed(by), Chunk::Claimed(me)) {
                    return 0;
                }
                let chunks = 1 + self.bodies_behind(chunk);
                self.clear_run(chunk, chunks, me, None);
                u64::from(chunks)
            }
            // It may not have looked yet: blocks of the living may be in it.
            Some(Chunk::Emptying(class, by)) if by != me && self.is_dead(by) => {
                u64::from(self.turn(chunk, Chunk::Emptying(class, by), Chunk::Slab(class)))
            }
            _ => 0,
        }
    }

    /// Step 17. How many units the block had.
    fn recover_unit(&self, unit: u32, by: ParticipantId, me: ParticipantId) -> u32 {
        let head = unit >> self.config.shift();
        match self.chunk(head) {
            Some(Chunk::Large(chunks)) if self.is_first(unit) => {
                // First the block is ours: its head is not to be touched once somebody else has it.
                if !self.claim(unit, by.bits(), me.bits()) {
                    return 0;
                }
                match self.free_large(head, chunks, me, me.bits()) {
                    true => chunks << self.config.shift(),
                    false => 0,
                }
            }
            Some(Chunk::Slab(class)) if self.claim(unit, by.bits(), FREE_UNIT) => {
                self.slab_units(class).unwrap_or(0)
            }
            _ => {
                self.claim(unit, by.bits(), FREE_UNIT);
                0
            }
        }
    }
}
