//! Blocks of slabs.

use multiprocess_core::{Memory, ParticipantId, Peers};

use super::words::{Chunk, FREE_UNIT};
use super::{Arena, Block};

/// Other slabs looked through before a new one is made.
const NEIGHBOURS: u32 = 8;

impl<M: Memory, P: Peers> Arena<M, P> {
    #[inline]
    pub(super) fn allocate_small(&self, class: u32, me: ParticipantId) -> Option<Block> {
        // More often than not the block that was freed last is free still.
        if let Some(unit) = self.hints.recent(class)
            && self.try_claim(unit, class, me)
        {
            let units = self.slab_units(class)?;
            return Some(self.block(unit, units));
        }
        self.allocate_searching(class, me)
    }

    #[cold]
    fn allocate_searching(&self, class: u32, me: ParticipantId) -> Option<Block> {
        let units = self.slab_units(class)?;
        let cursor = self.hints.cursor(class);
        let here = cursor >> self.config.shift();
        let found = self
            .search(here, cursor, class, me)
            .or_else(|| self.search_neighbours(here, class, NEIGHBOURS, me))
            .or_else(|| self.search_new(class, me))
            .or_else(|| self.search_neighbours(here, class, self.config.chunks(), me))
            .or_else(|| match self.reclaim(me) {
                true => self.search_new(class, me),
                false => None,
            })
            // A reclaimer that turned us away from a free block has turned back, perhaps because of us.
            .or_else(|| self.search_neighbours(here, class, self.config.chunks(), me));
        let unit = found?;
        self.hints.set_cursor(class, unit.saturating_add(units));
        Some(self.block(unit, units))
    }

    /// Up to `limit` slabs of the class behind the chunk `here`, and it itself from its beginning.
    fn search_neighbours(
        &self,
        here: u32,
        class: u32,
        limit: u32,
        me: ParticipantId,
    ) -> Option<u32> {
        let slab = Chunk::Slab(class).word();
        self.glance(here.saturating_add(1))
            .filter(|(_, word)| *word == slab)
            .take(limit as usize)
            .find_map(|(chunk, _)| self.search(chunk, chunk << self.config.shift(), class, me))
    }

    /// In the slab `chunk`, from the unit `from` on.
    fn search(&self, chunk: u32, from: u32, class: u32, me: ParticipantId) -> Option<u32> {
        if self.chunk(chunk) != Some(Chunk::Slab(class)) {
            return None;
        }
        let units = self.slab_units(class)?;
        let first = chunk << self.config.shift();
        let within = from.checked_sub(first)?.next_multiple_of(units);
        let blocks = (within..)
            .step_by(units as usize)
            .take_while(|at| at + units <= self.chunk_units())
            .map(|at| first + at);
        blocks
            .filter(|unit| self.unit_word(*unit) == Some(FREE_UNIT))
            .find(|unit| self.try_claim(*unit, class, me))
    }

    /// Step 1.
    #[inline]
    fn try_claim(&self, unit: u32, class: u32, me: ParticipantId) -> bool {
        if !self.claim(unit, FREE_UNIT, me.bits()) {
            return false;
        }
        if self.chunk(unit >> self.config.shift()) == Some(Chunk::Slab(class))
            && self.is_place(unit, class)
        {
            return true;
        }
        // The slab is gone. Nobody else changes a word of ours.
        self.claim(unit, me.bits(), FREE_UNIT);
        false
    }

    /// Whether a block of the class may begin there: hints are from another life of the slab.
    #[inline]
    fn is_place(&self, unit: u32, class: u32) -> bool {
        let within = unit & (self.chunk_units() - 1);
        self.slab_units(class).is_some_and(|units| {
            within.is_multiple_of(units) && within + units <= self.chunk_units()
        })
    }

    /// Steps 2 and 3, and a block of the new slab.
    fn search_new(&self, class: u32, me: ParticipantId) -> Option<u32> {
        self.glance(self.hints.chunk())
            .filter(|(_, word)| *word == Chunk::Free.word())
            .filter(|(chunk, _)| self.turn(*chunk, Chunk::Free, Chunk::Claimed(me)))
            .find_map(|(chunk, _)| {
                self.hints.set_chunk(chunk + 1);
                self.turn(chunk, Chunk::Claimed(me), Chunk::Slab(class));
                self.search(chunk, chunk << self.config.shift(), class, me)
            })
    }

    /// Steps 13 to 15, for every slab: the empty ones are Free again. Whether there was one.
    pub(super) fn reclaim(&self, me: ParticipantId) -> bool {
        let mut any = false;
        for chunk in 0..self.config.chunks() {
            let Some(Chunk::Slab(class)) = self.chunk(chunk) else {
                continue;
            };
            // First a look without turning it away from everybody.
            if !self.is_empty(chunk)
                || !self.turn(chunk, Chunk::Slab(class), Chunk::Emptying(class, me))
            {
                continue;
            }
            let empty = self.is_empty(chunk);
            let next = if empty {
                Chunk::Free
            } else {
                Chunk::Slab(class)
            };
            any |= self.turn(chunk, Chunk::Emptying(class, me), next) && empty;
        }
        any
    }

    pub(super) fn is_empty(&self, chunk: u32) -> bool {
        use multiprocess_core::atomic::{Ordering::SeqCst, fence_in_model};
        fence_in_model();
        let first = (chunk as usize) << self.config.shift();
        let units = self
            .parts()
            .units
            .get(first..first + self.chunk_units() as usize);
        // SeqCst: the second half of step 13.
        units.is_some_and(|units| units.iter().all(|unit| unit.load(SeqCst) == FREE_UNIT))
    }
}
