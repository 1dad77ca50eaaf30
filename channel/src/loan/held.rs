//! A block that is ours.

use core::mem::{ManuallyDrop, forget};
use core::ops::{Deref, DerefMut};
use core::{fmt, slice};

use multiprocess_core::thread::generation;
use multiprocess_core::{Memory, Peers, copy};
use multiprocess_shm::Block;

use super::{Reference, UNIT};
use crate::store::Blocks;

/// Freed when it is dropped, if this is the process that got it.
pub(super) struct Held<'a, M: Memory, P: Peers> {
    blocks: &'a Blocks<Reference, M, P>,
    block: ManuallyDrop<Block>,
    /// Not more than the block has.
    len: usize,
    /// The process whose it is; a forked child has only a look at it.
    generation: u64,
}

impl<'a, M: Memory, P: Peers> Held<'a, M, P> {
    /// The first `len` bytes of a block of ours; all of it if it is shorter.
    #[inline]
    pub(super) fn new(blocks: &'a Blocks<Reference, M, P>, block: Block, len: usize) -> Self {
        Self {
            blocks,
            len: len.min(block.size()),
            block: ManuallyDrop::new(block),
            generation: generation(),
        }
    }

    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.generation == generation()
    }

    /// What names it in a message.
    #[inline]
    pub(super) fn reference(&self) -> Reference {
        (self.block.offset() / UNIT) << 32 | self.len as u64
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// It is another's now.
    #[inline]
    pub(super) fn pass_on(self) {
        forget(self);
    }

    /// Copies as much as there is room for; how much.
    pub(super) fn copy_to(&self, target: &mut [u8]) -> usize {
        let len = self.len.min(target.len());
        if let Some(target) = target.get_mut(..len) {
            let source = self.blocks.arena().data(&self.block);
            // SAFETY: inside the block, and mapped; whoever writes there at the same moment breaks the
            // protocol, in another process.
            unsafe { copy::load_slice(source.as_ptr(), target) };
        }
        len
    }
}

impl<M: Memory, P: Peers> Deref for Held<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let data = self.blocks.arena().data(&self.block);
        // SAFETY: the block has so many bytes, mapped as long as the arena is borrowed; any bytes are
        // valid; it is ours until it is dropped or passed on, so nobody writes it (trusting).
        unsafe { slice::from_raw_parts(data.as_ptr(), self.len) }
    }
}

impl<M: Memory, P: Peers> DerefMut for Held<'_, M, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let data = self.blocks.arena().data(&self.block);
        // SAFETY: as in `deref`; and nobody else looks at it, nor does anybody here while it is borrowed.
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), self.len) }
    }
}

impl<M: Memory, P: Peers> Drop for Held<'_, M, P> {
    #[inline]
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: dropped once, here, and not used afterwards.
            let block = unsafe { ManuallyDrop::take(&mut self.block) };
            self.blocks.free(block);
        }
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Held<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("offset", &self.block.offset())
            .field("len", &self.len)
            .finish()
    }
}
