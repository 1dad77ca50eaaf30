//! What a receiver reads a ring in.

use multiprocess_core::{Memory, Region, View};
use multiprocess_shm::{ReadOnlySegment, Segment};

/// Keeps the bytes of a ring mapped at one address for as long as it lives: for reading only, or
/// for writing too.
///
/// # Safety
///
/// [`view`](Self::view) must return the same address and length at every call, also after `self` has
/// been moved, and the bytes must satisfy the contract of [`View::new`] until `self` is dropped. If
/// [`region`](Self::region) returns one, it is the same bytes.
pub unsafe trait ReadMemory {
    /// The bytes.
    fn view(&self) -> View<'_>;

    /// The same bytes if they may be written. Then a receiver announces itself when it sleeps, and
    /// is woken at once; otherwise it looks every millisecond.
    fn region(&self) -> Option<Region<'_>> {
        None
    }
}

// SAFETY: address and length never change; the lifetime outlives the value.
unsafe impl ReadMemory for View<'_> {
    fn view(&self) -> View<'_> {
        *self
    }
}

// SAFETY: as above.
unsafe impl ReadMemory for Region<'_> {
    fn view(&self) -> View<'_> {
        (*self).into()
    }
    fn region(&self) -> Option<Region<'_>> {
        Some(*self)
    }
}

// SAFETY: a mapping does not move, and ends with its segment.
unsafe impl ReadMemory for ReadOnlySegment {
    fn view(&self) -> View<'_> {
        self.payload()
    }
}

// SAFETY: as above.
unsafe impl ReadMemory for Segment {
    fn view(&self) -> View<'_> {
        self.payload().into()
    }
    fn region(&self) -> Option<Region<'_>> {
        Some(self.payload())
    }
}

// SAFETY: by the contract of `Memory`.
unsafe impl ReadMemory for super::Home {
    fn view(&self) -> View<'_> {
        Memory::region(self).into()
    }
    fn region(&self) -> Option<Region<'_>> {
        Some(Memory::region(self))
    }
}
