//! Blocks that belong to nobody alone: their word names the counter that says who has them.

use core::ptr::NonNull;

use multiprocess_core::{Memory, ParticipantId, Peers};

use super::words::SHARED_SLOT;
use super::{Arena, Block};

/// The word of a block that is counted in `counter`.
const fn shared(counter: u16) -> u32 {
    ParticipantId::new(SHARED_SLOT, counter).bits()
}

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Leaves a block of ours to `counter`.
    pub(crate) fn give(&self, block: Block, counter: u16) -> bool {
        self.claim(block.unit, self.peers.me().bits(), shared(counter))
    }

    /// Takes a block that was left to `counter`, which the caller has to itself.
    pub(crate) fn take_back(&self, offset: u64, counter: u16) -> Option<Block> {
        let block = self.find(offset)?;
        let me = self.peers.me();
        let mine = !me.is_anonymous() && self.claim(block.unit, shared(counter), me.bits());
        mine.then_some(block)
    }

    /// Address and size of a block that is left to `counter`.
    pub(crate) fn shared(&self, offset: u64, counter: u16) -> Option<(NonNull<u8>, usize)> {
        let block = self.find(offset)?;
        let is_theirs = self.unit_word(block.unit)? == shared(counter);
        is_theirs.then(|| (self.data(&block), block.size()))
    }
}
