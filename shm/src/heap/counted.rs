//! `Counted<T>`: a shared value in a heap.

use std::alloc::Layout;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use multiprocess_core::thread::generation;
use multiprocess_core::{LayoutHash, Peers, ShmSafe};

use super::counts::Handle;
use super::{HeapError, Inner};
use crate::AllocError;

/// One `T` in a [`Heap`](super::Heap), owned together by every process that has a reference: an
/// `Arc` between processes, in a block of a few dozen bytes where a [`Shared`](crate::Shared) has
/// a memfd of its own.
///
/// Another process gets it by name, or by a [token](Self::token).
///
/// # Crash safety
///
/// Each process is counted for itself: what a killed one had is taken back by
/// [`Heap::recover`](super::Heap::recover). Trust: *trusting*: `&T` assumes that peers follow `T`'s
/// protocol.
///
/// # Fork
///
/// A child's copies are its parent's reference, and good as long as the parent keeps it.
pub struct Counted<T: ShmSafe> {
    value: NonNull<T>,
    heap: Arc<Inner>,
    handle: Handle,
    /// Of the process that is counted.
    generation: u64,
}

// SAFETY: the value is a `T` in shared memory; a reference to it may go where an `Arc<T>` may.
unsafe impl<T: ShmSafe + Send + Sync> Send for Counted<T> {}
// SAFETY: as above.
unsafe impl<T: ShmSafe + Send + Sync> Sync for Counted<T> {}

pub(super) const fn layout_of<T: ShmSafe>() -> LayoutHash {
    const { LayoutHash::of("Counted").mix(T::LAYOUT.bits()) }
}

/// Counts one more reference of this process. The value is large enough for a `T`, and aligned.
pub(super) fn acquire<T: ShmSafe>(heap: &Inner, handle: Handle) -> Result<NonNull<T>, HeapError> {
    let (layout, size) = (layout_of::<T>(), size_of::<T>());
    let place = heap.counts.acquire(&heap.arena, handle, layout, size)?;
    let value = place.cast::<T>();
    if !value.is_aligned() {
        // A peer has written a block of another class there.
        heap.counts
            .release(&heap.arena, handle, heap.arena.peers().me());
        return Err(HeapError::NotFound);
    }
    Ok(value)
}

impl<T: ShmSafe> Counted<T> {
    pub(super) fn share(heap: &Arc<Inner>, value: T) -> Result<Self, HeapError> {
        let size = size_of::<T>().max(1);
        let layout = Layout::from_size_align(size, align_of::<T>());
        let layout = layout.map_err(|_| AllocError::NoSpace { requested: size })?;
        let block = heap.arena.allocate(layout)?;
        let place = heap.arena.data(&block);
        // SAFETY: as many bytes as asked for, aligned as asked for, and ours alone.
        unsafe { place.cast::<T>().write(value) };
        let handle = heap.counts.share(&heap.arena, block, layout_of::<T>())?;
        let shared = Self::new(heap, handle, place.cast());
        // SAFETY: it stays there until nobody has it; this process asks `may_unmap` before it gives its
        // reference up.
        unsafe { shared.placed() };
        Ok(shared)
    }

    pub(super) fn acquire(heap: &Arc<Inner>, handle: Handle) -> Result<Self, HeapError> {
        let value = acquire(heap, handle)?;
        Ok(Self::new(heap, handle, value))
    }

    fn new(heap: &Arc<Inner>, handle: Handle, value: NonNull<T>) -> Self {
        Self {
            value,
            heap: Arc::clone(heap),
            handle,
            generation: generation(),
        }
    }

    /// A number that names it to the other processes of the heap: put it into a message, or into
    /// another shared value, and keep this reference until it has [arrived](super::Heap::by_token). Never
    /// 0, and never used again for another value.
    pub fn token(&self) -> u64 {
        self.handle.bits()
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// One more reference of this process: a `clone` that can fail.
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`] with 65,535 references in this process; [`HeapError::NotFound`] in a
    /// forked child whose parent has let go.
    pub fn try_clone(&self) -> Result<Self, HeapError> {
        Self::acquire(&self.heap, self.handle)
    }

    /// Whether both are this process's references to one value.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        a.value == b.value
    }
}

impl<T: ShmSafe> Drop for Counted<T> {
    fn drop(&mut self) {
        // A lock in it that a thread of ours has forgotten is on that thread's list, by its address: it
        // stays, and stays mapped, until we die.
        if !self.may_unmap() {
            return self.heap.arena.pin();
        }
        // In a forked child: it is the parent's.
        if self.generation == generation() {
            let me = self.heap.arena.peers().me();
            self.heap.counts.release(&self.heap.arena, self.handle, me);
        }
    }
}

impl<T: ShmSafe> Deref for Counted<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: large enough and aligned, as was checked; counted as long as `self` lives, so nobody
        // frees it; T accepts any bytes.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ShmSafe + fmt::Debug> fmt::Debug for Counted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counted").field(&**self).finish()
    }
}
