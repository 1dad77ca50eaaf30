//! Copies in and out of memory that a peer may read or write at the same moment.
//!
//! A plain `memcpy` that races is undefined behaviour even if the result is thrown away. These
//! copies go through relaxed atomics, a word at a time where both sides allow it, so a race
//! yields a mix of old and new bytes and nothing worse. (The open proposal for such a copy in
//! Rust is RFC 3301, <https://github.com/rust-lang/rfcs/pull/3301>.)

use core::mem::MaybeUninit;
use core::ptr;
// Bytes are copied in every build, also in a model that does not look at them.
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use bytemuck::{AnyBitPattern, NoUninit};

const WORD: usize = size_of::<u64>();

/// Copies a `T` out of shared memory. Values of at most 8 bytes that lie in one aligned word
/// are never torn; larger ones may mix two writes.
///
/// # Safety
///
/// `source` must be valid for reads of `size_of::<T>()` bytes, and no access in this process
/// that races with this one may be non-atomic. It need not be aligned.
#[inline]
pub unsafe fn load<T: AnyBitPattern>(source: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the source is valid by the caller's word, the target is a local of the same
    // size, so the two cannot overlap.
    unsafe { from_shared(source.cast(), value.as_mut_ptr().cast(), size_of::<T>()) };
    // SAFETY: every byte was written, and `AnyBitPattern` accepts whatever they are.
    unsafe { value.assume_init() }
}

/// Copies a `T` into shared memory; the counterpart of [`load`].
///
/// # Safety
///
/// `target` must be valid for writes of `size_of::<T>()` bytes, and no access in this process
/// that races with this one may be non-atomic. It need not be aligned.
#[inline]
pub unsafe fn store<T: NoUninit>(target: *mut T, value: T) {
    // SAFETY: the target is valid by the caller's word; `NoUninit` means that every byte of
    // the local source is initialised.
    unsafe { to_shared(ptr::from_ref(&value).cast(), target.cast(), size_of::<T>()) };
}

/// Copies `len` bytes from shared memory into private memory.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `len` bytes; they must not
/// overlap; nobody else may access the target; no racing access to the source by this process
/// may be non-atomic.
#[inline]
pub unsafe fn from_shared(source: *const u8, target: *mut u8, len: usize) {
    let mut at = 0;
    if source.addr().is_multiple_of(WORD) {
        while at + WORD <= len {
            // SAFETY: `at + 8 <= len` is inside both buffers by the caller's word; the source
            // is 8-aligned here and its bytes are only accessed atomically; the target is
            // ours alone and written unaligned.
            unsafe {
                let word = AtomicU64::from_ptr(source.add(at).cast_mut().cast()).load(Relaxed);
                target.add(at).cast::<u64>().write_unaligned(word);
            }
            at += WORD;
        }
    }
    while at < len {
        // SAFETY: as above, for one byte.
        unsafe {
            let byte = AtomicU8::from_ptr(source.add(at).cast_mut()).load(Relaxed);
            target.add(at).write(byte);
        }
        at += 1;
    }
}

/// Copies `len` bytes from private memory into shared memory.
///
/// # Safety
///
/// As [`from_shared`], with the roles of source and target exchanged.
#[inline]
pub unsafe fn to_shared(source: *const u8, target: *mut u8, len: usize) {
    let mut at = 0;
    if target.addr().is_multiple_of(WORD) {
        while at + WORD <= len {
            // SAFETY: `at + 8 <= len` is inside both buffers by the caller's word; the target
            // is 8-aligned here and only accessed atomically; the source is private and read
            // unaligned.
            unsafe {
                let word = source.add(at).cast::<u64>().read_unaligned();
                AtomicU64::from_ptr(target.add(at).cast()).store(word, Relaxed);
            }
            at += WORD;
        }
    }
    while at < len {
        // SAFETY: as above, for one byte.
        unsafe {
            let byte = source.add(at).read();
            AtomicU8::from_ptr(target.add(at)).store(byte, Relaxed);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length_at_every_offset() {
        let source: [u8; 64] = core::array::from_fn(|i| i as u8 + 1);
        for offset in 0..9 {
            for len in 0..48 {
                let mut shared = [0u8; 64];
                let mut back = [0u8; 64];
                // SAFETY: offset + len <= 57 < 64, three distinct local arrays.
                unsafe {
                    to_shared(source.as_ptr(), shared.as_mut_ptr().add(offset), len);
                    from_shared(shared.as_ptr().add(offset), back.as_mut_ptr(), len);
                }
                assert_eq!(back[..len], source[..len]);
                assert!(back[len..].iter().all(|b| *b == 0));
                assert!(
                    shared[..offset]
                        .iter()
                        .chain(&shared[offset + len..])
                        .all(|b| *b == 0)
                );
            }
        }
    }
}
