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

/// Where it lives across calls the address was given rbx, which the swap needs for a word.
#[test]
fn an_address_that_is_kept_across_calls_is_the_one_that_is_swapped() {
    #[inline(never)]
    fn next(number: u64) -> u64 {
        std::hint::black_box(number)
    }
    #[inline(never)]
    fn swap_often(pair: &Pair, with: PairSwap, times: u64) -> u64 {
        let mut swapped = 0;
        for number in 0..times {
            let expected = next(number);
            swapped += u64::from(pair.swap(with, expected, [expected + 1, 7]));
        }
        swapped
    }
    let Some(with) = PairSwap::detect() else {
        return;
    };
    let pair = Pair::new([0, 0]);
    assert_eq!(swap_often(&pair, with, 10), 10);
    assert_eq!(pair.0.into_inner(), [10, 7]);
}
