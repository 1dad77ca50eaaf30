//! What may lie in shared memory, and a hash of how it lies there.

use crate::atomic::{AtomicU32, AtomicU64};

/// A hash of what a layout depends on: type names, sizes, alignments, offsets.
///
/// Two builds compare hashes before they share bytes. FNV-1a, 64 bits
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>), evaluated at compile time.
///
/// # Examples
///
/// ```
/// use multiprocess_core::{LayoutHash, ShmSafe};
///
/// assert_ne!(<u32 as ShmSafe>::LAYOUT, <i32 as ShmSafe>::LAYOUT);
/// assert_ne!(LayoutHash::of("a").mix(1), LayoutHash::of("a").mix(2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct LayoutHash(u64);

impl LayoutHash {
    /// Starts from a name.
    pub const fn of(name: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).mix_str(name)
    }

    /// Adds a number, byte by byte from the least significant.
    #[must_use]
    pub const fn mix(self, value: u64) -> Self {
        let mut hash = self.0;
        let bytes = value.to_le_bytes();
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// Adds a string and its length.
    #[must_use]
    pub const fn mix_str(self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut hash = self.mix(bytes.len() as u64).0;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// Starts from a name, and adds size and alignment of `T`.
    pub const fn of_type<T>(name: &str) -> Self {
        Self::of(name)
            .mix(size_of::<T>() as u64)
            .mix(align_of::<T>() as u64)
    }

    /// As it stands in headers.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// A type that may live in memory shared between processes.
///
/// Derive it for a struct whose fields all are `ShmSafe`:
///
/// ```
/// use multiprocess_core::{ShmSafe, atomic::AtomicU64};
///
/// #[derive(ShmSafe)]
/// #[repr(C)]
/// struct Totals {
///     words: AtomicU64,
///     table: [AtomicU64; 64],
/// }
/// ```
///
/// Plain `bytemuck` data goes in as it is when it is one of the primitive number types, as a
/// derived struct of them, or wrapped by the handles that copy it in and out.
///
/// # Safety
///
/// The implementor promises that the type
/// * has a layout fixed by `repr(C)` or `repr(transparent)`, the same in every build that has
///   the same [`LAYOUT`](Self::LAYOUT);
/// * accepts every bit pattern, because a peer may have written any;
/// * holds no pointer, reference, file descriptor, `usize` or other thing that means something
///   in one process only;
/// * needs no `Drop`: its bytes go away with the mapping.
pub unsafe trait ShmSafe: Sized + 'static {
    /// Names this type and everything its layout depends on.
    const LAYOUT: LayoutHash;

    /// Tells the value that it lies in shared memory, where it will stay: a robust lock joins the
    /// kernel's list of its holder only then, because that list holds addresses.
    ///
    /// Idempotent. A value that is never told works, but a holder's death is then seen by
    /// participant liveness alone. Structs pass it on to their fields.
    ///
    /// # Safety
    ///
    /// From now on the value must not move, and its memory must stay mapped in every process
    /// while [`may_unmap`](Self::may_unmap) is false there.
    unsafe fn placed(&self) {}

    /// Whether this process may unmap the value: not while one of its threads holds a lock in it
    /// that it has forgotten to release. Asked when nobody in this process uses the value.
    fn may_unmap(&self) -> bool {
        true
    }
}

macro_rules! number_types {
    ($($t:ty),*) => {$(
        // SAFETY: a fixed-width number accepts any bit pattern and means the same everywhere.
        unsafe impl ShmSafe for $t {
            const LAYOUT: LayoutHash = LayoutHash::of_type::<$t>(stringify!($t));
        }
    )*};
}
number_types!(
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
    u128,
    i128,
    f32,
    f64,
    ()
);

// SAFETY: `repr(C)` around one u32, any value valid.
unsafe impl ShmSafe for AtomicU32 {
    const LAYOUT: LayoutHash = LayoutHash::of("AtomicU32");
}

// SAFETY: `repr(C)` around one u64, any value valid.
unsafe impl ShmSafe for AtomicU64 {
    const LAYOUT: LayoutHash = LayoutHash::of("AtomicU64");
}

#[cfg(not(loom))]
mod more_atomics {
    use super::{LayoutHash, ShmSafe};
    use core::sync::atomic::{AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicU8, AtomicU16};

    number_types!(
        AtomicU8, AtomicU16, AtomicI8, AtomicI16, AtomicI32, AtomicI64
    );
}

// SAFETY: an array adds no padding between elements that are ShmSafe themselves.
unsafe impl<T: ShmSafe, const N: usize> ShmSafe for [T; N] {
    const LAYOUT: LayoutHash = LayoutHash::of("array").mix(N as u64).mix(T::LAYOUT.bits());

    unsafe fn placed(&self) {
        for element in self {
            // SAFETY: the caller's word holds for every part.
            unsafe { element.placed() };
        }
    }

    fn may_unmap(&self) -> bool {
        self.iter().all(T::may_unmap)
    }
}

// SAFETY: no bytes at all.
unsafe impl<T: 'static> ShmSafe for core::marker::PhantomData<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("PhantomData");
}
