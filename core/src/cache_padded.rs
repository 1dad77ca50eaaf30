//! Keeps words of different writers on different cache lines.

use core::ops::{Deref, DerefMut};

use crate::{LayoutHash, ShmSafe};

/// A value that shares its cache line with nothing else: 128-byte aligned and sized.
///
/// 128 and not 64 bytes: x86-64 prefetches lines in pairs, and some aarch64 cores have 128-byte
/// lines. The figure is part of the ABI and therefore does not vary with the target.
///
/// # Examples
///
/// ```
/// use multiprocess_core::CachePadded;
///
/// assert_eq!(size_of::<CachePadded<u8>>(), 128);
/// assert_eq!(*CachePadded::new(7), 7);
/// ```
///
/// # Crash safety
///
/// Adds no state of its own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct CachePadded<T>(T);

impl<T> CachePadded<T> {
    /// Pads `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The padded value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for CachePadded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

// SAFETY: `repr(C)` around one `ShmSafe` field at offset 0; the padding is never read.
unsafe impl<T: ShmSafe> ShmSafe for CachePadded<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("CachePadded").mix(T::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part.
        unsafe { self.0.placed() };
    }

    fn may_unmap(&self) -> bool {
        self.0.may_unmap()
    }
}
