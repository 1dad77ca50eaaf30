//! Copies in and out of memory that a peer may read or write at the same moment.
//!
//! A plain `memcpy` that races is undefined behaviour even if the result is thrown away. These
//! copies go through relaxed atomics, so a race yields a mix of old and new bytes and nothing
//! worse. (The open proposal for such a copy in Rust is RFC 3301,
//! <https://github.com/rust-lang/rfcs/pull/3301>.)
//!
//! # Unit of access
//!
//! Racing atomics must be of one size, or they are undefined behaviour again. The size of each
//! access therefore follows from the type alone, whether one value is copied or a slice: the
//! greatest power of two up to 8 that divides `size_of::<T>()`. A value of 1, 2, 4 or 8 bytes is
//! one access and so is never torn; a larger one is several and may mix two writes. Where the
//! shared address is not a multiple of the unit, every byte is an access.

use core::mem::MaybeUninit;
use core::ptr;
// Bytes are copied in every build, also in a model that does not look at them.
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use bytemuck::{AnyBitPattern, NoUninit};

mod wide;

use wide::copy_wide;

/// Copies a `T` out of shared memory. Values of 1, 2, 4 and 8 bytes, naturally aligned, are
/// never torn; others may mix two writes.
///
/// # Safety
///
/// `source` must be valid for reads of `size_of::<T>()` bytes, and no access in this process
/// that races with this one may be non-atomic, or atomic in another [unit](self#unit-of-access).
/// It need not be aligned.
#[inline]
pub unsafe fn load<T: AnyBitPattern>(source: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the source is valid by the caller's word, the target is a local of the same
    // size, so the two cannot overlap; the unit divides that size.
    unsafe {
        from_shared(
            source.cast(),
            value.as_mut_ptr().cast(),
            size_of::<T>(),
            Unit::of::<T>(),
        );
    }
    // SAFETY: every byte was written, and `AnyBitPattern` accepts whatever they are.
    unsafe { value.assume_init() }
}

/// Copies a `T` into shared memory; the counterpart of [`load`].
///
/// # Safety
///
/// As [`load`], with `target` valid for writes.
#[inline]
pub unsafe fn store<T: NoUninit>(target: *mut T, value: T) {
    // SAFETY: the target is valid by the caller's word; `NoUninit` means that every byte of
    // the local source is initialised; the unit divides the size.
    unsafe {
        to_shared(
            ptr::from_ref(&value).cast(),
            target.cast(),
            size_of::<T>(),
            Unit::of::<T>(),
        );
    }
}

/// Copies as many `T`s out of shared memory as `target` holds; none is torn that [`load`] would
/// not tear.
///
/// # Safety
///
/// As [`load`], for as many bytes as `target` has.
#[inline]
pub unsafe fn load_slice<T: AnyBitPattern + NoUninit>(source: *const T, target: &mut [T]) {
    let len = size_of_val(target);
    // SAFETY: the source is valid by the caller's word; the target is borrowed, so it is no
    // shared memory, and takes any bytes; the unit divides the size of each element.
    unsafe {
        from_shared(
            source.cast(),
            target.as_mut_ptr().cast(),
            len,
            Unit::of::<T>(),
        )
    };
}

/// Copies `source` into shared memory; the counterpart of [`load_slice`].
///
/// # Safety
///
/// As [`load_slice`], with `target` valid for writes.
#[inline]
pub unsafe fn store_slice<T: NoUninit>(target: *mut T, source: &[T]) {
    let len = size_of_val(source);
    // SAFETY: the target is valid by the caller's word; every byte of the source is
    // initialised; the unit divides the size of each element.
    unsafe { to_shared(source.as_ptr().cast(), target.cast(), len, Unit::of::<T>()) };
}

/// Copies bytes out of shared memory, by eights and the rest one by one: faster than [`load_slice`] of
/// `u8`, where all who access these bytes begin at the same address.
///
/// # Safety
///
/// As [`load_slice`] of `[u8; 8]` for as many eights as `target` has, and of `u8` for the rest.
#[inline]
pub unsafe fn load_bytes(source: *const u8, target: &mut [u8]) {
    let (eights, rest) = target.as_chunks_mut::<8>();
    // SAFETY: as the caller says; the rest begins inside, or at the end.
    unsafe {
        load_slice(source.cast(), eights);
        load_slice(source.add(size_of_val(eights)), rest);
    }
}

/// Copies bytes into shared memory; the counterpart of [`load_bytes`].
///
/// # Safety
///
/// As [`load_bytes`], with `target` valid for writes.
#[inline]
pub unsafe fn store_bytes(target: *mut u8, source: &[u8]) {
    let (eights, rest) = source.as_chunks::<8>();
    // SAFETY: as in `load_bytes`.
    unsafe {
        store_slice(target.cast(), eights);
        store_slice(target.add(size_of_val(eights)), rest);
    }
}

/// A value that several may copy in and out at the same moment, by relaxed atomics: a copy may mix
/// two writes, and whoever makes it finds out by other means (a sequence number).
///
/// All zero bytes are a valid cell if they are a valid `T`.
#[repr(transparent)]
pub struct RacyCell<T>(
    #[cfg(not(loom))] core::cell::UnsafeCell<T>,
    #[cfg(loom)] model::Words<T>,
);

#[cfg(not(loom))]
impl<T: AnyBitPattern + NoUninit> RacyCell<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Copies the value out. As [`load`].
    #[inline]
    pub fn load(&self) -> T {
        let mut value = MaybeUninit::uninit();
        self.load_into(&mut value);
        // SAFETY: every byte was written, and `AnyBitPattern` accepts whatever they are.
        unsafe { value.assume_init() }
    }

    /// Copies the value out to where it is wanted: a large one is moved about less.
    #[inline]
    pub fn load_into(&self, value: &mut MaybeUninit<T>) {
        let (source, target) = (self.0.get().cast(), value.as_mut_ptr().cast());
        // SAFETY: valid as long as it is borrowed; nobody accesses it but through these
        // functions, in one unit, or in another process by the same code. The target is borrowed for
        // a T, and becomes one. A cell is as aligned as its T.
        unsafe { from_shared(source, target, size_of::<T>(), Unit::in_place::<T>()) };
    }

    /// Copies a value in. As [`store`].
    #[inline]
    pub fn store(&self, value: T) {
        let source = ptr::from_ref(&value).cast();
        // SAFETY: as in `load_into`; `NoUninit` means that every byte of the source is initialised.
        unsafe {
            to_shared(
                source,
                self.0.get().cast(),
                size_of::<T>(),
                Unit::in_place::<T>(),
            )
        };
    }
}

#[cfg(not(loom))]
impl<const N: usize> RacyCell<[u64; N]> {
    /// Copies the first words out, as many as `words` has, but not more than there are.
    #[inline]
    pub fn load_first(&self, words: &mut [u64]) {
        let count = words.len().min(N);
        // SAFETY: as in `load_into`, and inside the array.
        unsafe { load_slice(self.0.get().cast(), &mut words[..count]) };
    }

    /// Copies the first words in, as many as `words` has, but not more than there are. The others stay.
    #[inline]
    pub fn store_first(&self, words: &[u64]) {
        // SAFETY: as in `load_first`.
        unsafe { store_slice(self.0.get().cast::<u64>(), &words[..words.len().min(N)]) };
    }
}

/// In a model a value is up to two words, each an atomic of loom's.
#[cfg(loom)]
mod model {
    use super::{AnyBitPattern, NoUninit, RacyCell};
    use crate::atomic::{AtomicU64, Ordering::Relaxed};
    use core::marker::PhantomData;

    pub(super) struct Words<T>([AtomicU64; 2], PhantomData<T>);

    impl<const N: usize> RacyCell<[u64; N]> {
        /// Copies the first words out.
        pub fn load_first(&self, words: &mut [u64]) {
            for (word, at) in words.iter_mut().zip(&self.0.0) {
                *word = at.load(Relaxed);
            }
        }

        /// Copies the first words in.
        pub fn store_first(&self, words: &[u64]) {
            for (word, at) in words.iter().zip(&self.0.0) {
                at.store(*word, Relaxed);
            }
        }
    }

    impl<T: AnyBitPattern + NoUninit> RacyCell<T> {
        /// Holds `value`.
        pub fn new(value: T) -> Self {
            let cell = Self(Words([AtomicU64::new(0), AtomicU64::new(0)], PhantomData));
            cell.store(value);
            cell
        }

        /// Copies the value out.
        pub fn load(&self) -> T {
            let words = [self.0.0[0].load(Relaxed), self.0.0[1].load(Relaxed)];
            {
                let bytes: &[u8] = bytemuck::cast_slice(&words);
                bytemuck::pod_read_unaligned(&bytes[..size_of::<T>()])
            }
        }

        /// Copies the value out to where it is wanted.
        pub fn load_into(&self, value: &mut core::mem::MaybeUninit<T>) {
            value.write(self.load());
        }

        /// Copies a value in.
        pub fn store(&self, value: T) {
            let mut words = [0u64; 2];
            let bytes = bytemuck::bytes_of(&value);
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
            self.0.0[0].store(words[0], Relaxed);
            self.0.0[1].store(words[1], Relaxed);
        }
    }
}

impl<T> core::fmt::Debug for RacyCell<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RacyCell")
    }
}

// SAFETY: all access is by atomics.
unsafe impl<T: Send> Sync for RacyCell<T> {}

// SAFETY: transparent around a T, which accepts any bytes.
unsafe impl<T: crate::ShmSafe + AnyBitPattern + NoUninit> crate::ShmSafe for RacyCell<T> {
    const LAYOUT: crate::LayoutHash = crate::LayoutHash::of("RacyCell").mix(T::LAYOUT.bits());
}

/// How a `T` is accessed.
#[derive(Clone, Copy)]
struct Unit {
    /// Bytes of one access.
    size: usize,
    /// Whether the shared address is known to be a multiple of that.
    is_aligned: bool,
}

impl Unit {
    /// Of a `T` anywhere.
    const fn of<T>() -> Self {
        let size = match size_of::<T>().trailing_zeros() {
            0 => 1,
            1 => 2,
            2 => 4,
            _ => 8,
        };
        Self {
            size,
            is_aligned: false,
        }
    }

    /// Of a `T` that lies where a `T` may lie.
    #[cfg(not(loom))]
    const fn in_place<T>() -> Self {
        let Self { size, .. } = Self::of::<T>();
        Self {
            size,
            is_aligned: align_of::<T>() >= size,
        }
    }

    #[inline(always)]
    fn fits(self, address: *const u8) -> bool {
        self.is_aligned || address.addr().is_multiple_of(self.size)
    }
}

/// Copies `len` bytes out of shared memory, a unit at a time.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `len` bytes, a multiple of
/// the unit's size, and the shared one be aligned if the unit says so; they must not overlap;
/// nobody else may access the target; no racing access to the source by this process may be
/// non-atomic.
#[inline(always)]
unsafe fn from_shared(source: *const u8, target: *mut u8, len: usize, unit: Unit) {
    let source = source.cast_mut();
    // SAFETY: valid, and a whole number of units, by the caller's word; an address that is a
    // multiple of the unit is aligned for the unit's atomic.
    unsafe {
        match unit.size {
            8 if unit.fits(source) => {
                let wide = copy_wide(source, target, len);
                let (source, target) = (source.add(wide), target.add(wide));
                load_units(source, target, len - wide, |at| {
                    AtomicU64::from_ptr(at).load(Relaxed)
                });
            }
            4 if unit.fits(source) => {
                load_units(source, target, len, |at| {
                    AtomicU32::from_ptr(at).load(Relaxed)
                });
            }
            2 if unit.fits(source) => {
                load_units(source, target, len, |at| {
                    AtomicU16::from_ptr(at).load(Relaxed)
                });
            }
            _ => load_units(source, target, len, |at| {
                AtomicU8::from_ptr(at).load(Relaxed)
            }),
        }
    }
}

/// Copies `len` bytes into shared memory, a unit at a time.
///
/// # Safety
///
/// As [`from_shared`], with the roles of source and target exchanged; the bytes of the source
/// must be initialised.
#[inline(always)]
unsafe fn to_shared(source: *const u8, target: *mut u8, len: usize, unit: Unit) {
    // SAFETY: as in `from_shared`.
    unsafe {
        match unit.size {
            8 if unit.fits(target) => {
                let wide = copy_wide(source, target, len);
                let (source, target) = (source.add(wide), target.add(wide));
                store_units(source, target, len - wide, |at, word| {
                    AtomicU64::from_ptr(at).store(word, Relaxed);
                });
            }
            4 if unit.fits(target) => {
                store_units(source, target, len, |at, word| {
                    AtomicU32::from_ptr(at).store(word, Relaxed);
                });
            }
            2 if unit.fits(target) => {
                store_units(source, target, len, |at, word| {
                    AtomicU16::from_ptr(at).store(word, Relaxed);
                });
            }
            _ => store_units(source, target, len, |at, word| {
                AtomicU8::from_ptr(at).store(word, Relaxed);
            }),
        }
    }
}

/// # Safety
///
/// As [`from_shared`], with `U` for the unit and `source` aligned for `load`.
#[inline(always)]
unsafe fn load_units<U>(source: *mut u8, target: *mut u8, len: usize, load: impl Fn(*mut U) -> U) {
    for at in (0..len).step_by(size_of::<U>()) {
        // SAFETY: `at` is below `len`, a multiple of the unit, so a whole unit is inside both
        // buffers; the target is ours alone and written unaligned.
        unsafe {
            let word = load(source.add(at).cast());
            target.add(at).cast::<U>().write_unaligned(word);
        }
    }
}

/// # Safety
///
/// As [`to_shared`], with `U` for the unit and `target` aligned for `store`.
#[inline(always)]
unsafe fn store_units<U>(
    source: *const u8,
    target: *mut u8,
    len: usize,
    store: impl Fn(*mut U, U),
) {
    for at in (0..len).step_by(size_of::<U>()) {
        // SAFETY: as in `load_units`; the source is initialised, private and read unaligned.
        unsafe {
            let word = source.add(at).cast::<U>().read_unaligned();
            store(target.add(at).cast(), word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores and loads slices of `[u8; N]` at every offset from an aligned address, so that
    /// every unit is used, aligned and not.
    fn copies_at_every_offset<const N: usize>()
    where
        [u8; N]: AnyBitPattern + NoUninit,
    {
        #[repr(align(8))]
        struct Shared([u8; 128]);
        let source: [[u8; N]; 3] =
            core::array::from_fn(|i| core::array::from_fn(|j| (i * N + j) as u8 + 1));
        let flat = source.as_flattened();
        for offset in 0..9 {
            for count in 0..=3 {
                let mut shared = Shared([0; 128]);
                let mut back = [[0; N]; 3];
                let (len, end) = (count * N, offset + count * N);
                // SAFETY: `end <= 8 + 3 * N <= 128`; distinct local arrays.
                unsafe {
                    let at = shared.0.as_mut_ptr().add(offset).cast::<[u8; N]>();
                    store_slice(at, &source[..count]);
                    load_slice(at, &mut back[..count]);
                    for (i, value) in source[..count].iter().enumerate() {
                        assert_eq!(load(at.add(i)), *value);
                        store(at.add(i), *value);
                    }
                }
                assert_eq!(back.as_flattened()[..len], flat[..len]);
                assert_eq!(shared.0[offset..end], flat[..len]);
                let around = shared.0[..offset].iter().chain(&shared.0[end..]);
                assert!(around.copied().all(|byte| byte == 0));
            }
        }
    }

    #[test]
    fn values_of_every_unit_are_copied_at_every_offset() {
        copies_at_every_offset::<1>();
        copies_at_every_offset::<2>();
        copies_at_every_offset::<3>();
        copies_at_every_offset::<4>();
        copies_at_every_offset::<6>();
        copies_at_every_offset::<8>();
        copies_at_every_offset::<12>();
        copies_at_every_offset::<24>();
        copies_at_every_offset::<32>();
    }

    #[test]
    fn long_copies_are_whole() {
        #[repr(align(8))]
        struct Shared([u8; 1200]);
        let mut shared = Shared([0; 1200]);
        for (i, byte) in shared.0.iter_mut().enumerate() {
            *byte = (i * 7 + i / 256) as u8;
        }
        for words in (0..140).chain([145]) {
            for offset in [0, 8, 16, 4] {
                let mut back = [u64::MAX; 146];
                let mut again = Shared([0; 1200]);
                // SAFETY: `16 + 145 * 8 <= 1200`; distinct arrays.
                unsafe {
                    let at = shared.0.as_ptr().add(offset).cast::<u64>();
                    load_slice(at, &mut back[..words]);
                }
                let bytes = bytemuck::cast_slice::<u64, u8>(&back[..words]);
                assert_eq!(
                    bytes,
                    &shared.0[offset..offset + words * 8],
                    "{words} {offset}"
                );
                assert_eq!(back[words], u64::MAX, "behind the end");
                // SAFETY: as above.
                unsafe {
                    let at = again.0.as_mut_ptr().add(offset).cast::<u64>();
                    store_slice(at, &back[..words]);
                }
                let end = offset + words * 8;
                assert_eq!(
                    again.0[offset..end],
                    shared.0[offset..end],
                    "{words} {offset}"
                );
                let around = again.0[..offset].iter().chain(&again.0[end..]);
                assert!(around.copied().all(|byte| byte == 0), "around it");
            }
        }
    }

    #[test]
    fn bytes_are_copied_from_and_to_every_address() {
        let pattern: [u8; 900] = core::array::from_fn(|i| (i * 7 + i / 256) as u8 | 1);
        for (offset, private) in [(0, 0), (0, 3), (5, 0), (24, 17), (8, 8)] {
            for len in (0..80).chain([511, 512, 520, 521, 640, 777, 800]) {
                let (mut shared, mut back) = ([0_u64; 128], [0_u8; 900]);
                let shared: &mut [u8] = bytemuck::cast_slice_mut(&mut shared);
                // SAFETY: `24 + 800 <= 1024`; distinct local arrays.
                unsafe {
                    store_bytes(
                        shared.as_mut_ptr().add(offset),
                        &pattern[private..private + len],
                    );
                    load_bytes(
                        shared.as_ptr().add(offset),
                        &mut back[private..private + len],
                    );
                }
                assert_eq!(
                    back[private..private + len],
                    pattern[private..private + len]
                );
                let around = back[..private].iter().chain(&back[private + len..]);
                assert!(around.copied().all(|byte| byte == 0), "{offset} {len}");
                let around = shared[..offset].iter().chain(&shared[offset + len..]);
                assert!(around.copied().all(|byte| byte == 0), "{offset} {len}");
            }
        }
    }

    #[test]
    fn copies_that_leave_the_cache_are_whole() {
        const MOST: usize = 5000;
        let words: [u64; MOST] = core::array::from_fn(|i| i as u64 * 0x9e37_79b9_7f4a_7c15);
        for len in [4094, 4095, 4096, 4097, 4098, 4111, 4112, MOST - 8] {
            for (offset, private) in [(0, 0), (1, 0), (0, 1), (2, 3), (5, 6)] {
                let (mut shared, mut back) = ([0_u64; MOST], [0_u64; MOST]);
                // SAFETY: `6 + MOST - 8 < MOST`; distinct local arrays.
                unsafe {
                    let at = shared.as_mut_ptr().add(offset);
                    store_slice(at, &words[private..][..len]);
                    load_slice(at, &mut back[private..][..len]);
                }
                let end = private + len;
                assert!(back[private..end] == words[private..end]);
                assert!(shared[offset..][..len] == words[private..end]);
                let around = [&back[..private], &back[end..], &shared[..offset]];
                let around = around.into_iter().chain([&shared[offset + len..]]);
                assert!(around.flatten().all(|word| *word == 0), "{len} {offset}");
            }
        }
    }

    #[test]
    fn small_values_are_one_access() {
        assert_eq!([Unit::of::<u8>().size, Unit::of::<u16>().size], [1, 2]);
        assert_eq!([Unit::of::<[u8; 4]>().size, Unit::of::<u64>().size], [4, 8]);
        assert_eq!(
            [Unit::of::<[u8; 3]>().size, Unit::of::<[u32; 3]>().size],
            [1, 4]
        );
        assert_eq!([Unit::of::<u128>().size, Unit::of::<()>().size], [8, 8]);
    }
}
