//! Memory for rings in tests: a heap block that both ends keep alive.
#![allow(dead_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use multiprocess_core::{Memory, Place, Region};

#[derive(Debug)]
struct Block {
    base: NonNull<u8>,
    layout: Layout,
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `Heap::holding` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: an address; what is done through it is argued by the ring.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Reference-counted bytes.
#[derive(Debug, Clone)]
pub(crate) struct Heap(Arc<Block>);

impl Heap {
    /// A fresh block that holds one initialised `P`.
    pub(crate) fn holding<P: Place>(config: P::Config) -> Self {
        let layout = P::layout(&config).unwrap();
        // SAFETY: a ring's layout is never empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        let heap = Self(Arc::new(Block { base, layout }));
        // SAFETY: the block was allocated a moment ago.
        unsafe { P::init(heap.region(), &config).unwrap() };
        heap
    }
}

// SAFETY: the block's address does not change, and it lives as long as a `Heap` does.
unsafe impl Memory for Heap {
    fn region(&self) -> Region<'_> {
        // SAFETY: allocated with that size; accessed through the ring only.
        unsafe { Region::new(self.0.base, self.0.layout.size()) }
    }
}
