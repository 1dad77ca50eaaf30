//! Two words at once.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use multiprocess_core::pair::PairSwap;

/// The words, accessed by atomics and by swaps only.
#[repr(align(16))]
struct Pair(UnsafeCell<[u64; 2]>);

// SAFETY: as said.
unsafe impl Sync for Pair {}

impl Pair {
    const fn new(words: [u64; 2]) -> Self {
        Self(UnsafeCell::new(words))
    }

    fn first(&self) -> u64 {
        // SAFETY: in bounds and aligned, and borrowed.
        unsafe { AtomicU64::from_ptr(self.0.get().cast()) }.load(Relaxed)
    }

    fn swap(&self, with: PairSwap, expected: u64, new: [u64; 2]) -> bool {
        // SAFETY: valid and aligned; all accesses are atomic.
        unsafe { with.swap(NonNull::new_unchecked(self.0.get()), expected, new) }
    }
}

#[test]
fn both_words_are_swapped_or_none() {
    let Some(with) = PairSwap::detect() else {
        return;
    };
    let pair = Pair::new([1, 2]);
    assert!(pair.swap(with, 1, [3, 4]));
    assert!(!pair.swap(with, 1, [5, 6]));
    assert_eq!(pair.0.into_inner(), [3, 4]);
}

#[test]
fn no_swap_among_many_is_lost() {
    const EACH: u64 = 300_000;
    let Some(with) = PairSwap::detect() else {
        return;
    };
    let pair = Pair::new([0, 0]);
    let count = || {
        for _ in 0..EACH {
            loop {
                let seen = pair.first();
                if pair.swap(with, seen, [seen + 1, 2 * (seen + 1)]) {
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(count);
        }
    });
    assert_eq!(pair.0.into_inner(), [2 * EACH, 4 * EACH]);
}
