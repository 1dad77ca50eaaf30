//! What an arena holds, at the moment of asking.

use multiprocess_core::{Memory, ParticipantId, Peers};

use super::Arena;
use super::words::{Chunk, FREE_UNIT, UNIT, holder};

/// Numbers about an arena. Counted by walking it: exact when nobody is at work, near otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ArenaStatistics {
    /// Bytes of all blocks that it could hold.
    pub capacity: u64,
    /// Blocks in use.
    pub blocks: u64,
    /// Bytes of the blocks in use, rounded up to their size classes.
    pub used: u64,
    /// Bytes of free blocks in slabs: for blocks of the same class, until the slab is empty.
    pub free_in_slabs: u64,
    /// Bytes of chunks that are used for nothing.
    pub free: u64,
    /// Bytes of the longest run of those: the largest block there can be.
    pub largest_free: u64,
}

/// A block in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// From the start of the heap.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Whose it is; `None`: shared, and counted.
    pub holder: Option<ParticipantId>,
}

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Numbers about it.
    pub fn statistics(&self) -> ArenaStatistics {
        let mut all = ArenaStatistics {
            capacity: self.config.bytes(),
            ..ArenaStatistics::default()
        };
        for block in self.blocks() {
            all.blocks += 1;
            all.used += block.size;
        }
        let mut run = 0;
        let chunk_bytes = self.config.chunk_bytes();
        for chunk in 0..self.config.chunks() {
            match self.chunk(chunk) {
                Some(Chunk::Free) => {
                    all.free += chunk_bytes;
                    run += chunk_bytes;
                    all.largest_free = all.largest_free.max(run);
                    continue;
                }
                Some(Chunk::Slab(class)) => all.free_in_slabs += self.free_in_slab(chunk, class),
                _ => {}
            }
            run = 0;
        }
        all
    }

    fn free_in_slab(&self, chunk: u32, class: u32) -> u64 {
        let Some(units) = self.slab_units(class) else {
            return 0;
        };
        let first = chunk << self.config.shift();
        let places = (0..self.chunk_units() / units).map(|number| first + number * units);
        let free = places.filter(|unit| self.unit_word(*unit) == Some(FREE_UNIT));
        free.count() as u64 * u64::from(units) * UNIT as u64
    }

    /// The blocks in use, in the order of their offsets.
    pub fn blocks(&self) -> impl Iterator<Item = BlockInfo> + '_ {
        let units = 0..self.parts().units.len() as u32;
        units.filter_map(|unit| {
            let word = self.unit_word(unit)?;
            let block = (word != FREE_UNIT).then(|| self.find(u64::from(unit) * UNIT as u64))??;
            Some(BlockInfo {
                offset: block.offset(),
                size: block.size() as u64,
                holder: holder(word),
            })
        })
    }
}
