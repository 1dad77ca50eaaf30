//! Whether a block could be had.

use core::alloc::Layout;

use multiprocess_core::{Memory, Peers};

use super::words::{Chunk, FREE_UNIT};
use super::{Arena, Fitting};

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Whether [`allocate`](Self::allocate) would find a block for `layout`, at the moment of asking. Walks
    /// the arena, and changes nothing.
    pub fn has_room(&self, layout: Layout) -> bool {
        match self.fitting(layout) {
            Ok(Fitting::Small(class)) => self.has_small(class),
            Ok(Fitting::Large(chunks)) => self.has_run(chunks),
            Err(_) => false,
        }
    }

    fn has_small(&self, class: u32) -> bool {
        (0..self.config.chunks()).any(|chunk| match self.chunk(chunk) {
            Some(Chunk::Slab(other)) if other == class => self.has_place(chunk, class),
            _ => self.is_idle(chunk),
        })
    }

    fn has_place(&self, chunk: u32, class: u32) -> bool {
        let Some(units) = self.slab_units(class) else {
            return false;
        };
        let first = chunk << self.config.shift();
        let mut places = (0..self.chunk_units() / units).map(|number| first + number * units);
        places.any(|unit| self.unit_word(unit) == Some(FREE_UNIT))
    }

    fn has_run(&self, chunks: u32) -> bool {
        let mut run = 0;
        (0..self.config.chunks()).any(|chunk| {
            run = if self.is_idle(chunk) { run + 1 } else { 0 };
            run >= chunks
        })
    }

    /// Whether a chunk is for nothing, or can be reclaimed.
    fn is_idle(&self, chunk: u32) -> bool {
        match self.chunk(chunk) {
            Some(Chunk::Free) => true,
            Some(Chunk::Slab(_)) => self.is_empty(chunk),
            _ => false,
        }
    }
}
