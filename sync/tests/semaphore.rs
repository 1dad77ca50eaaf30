//! Semantics of `Semaphore` and `BoundedSemaphore`.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use multiprocess_core::{ShmSafe, Timeout};
use multiprocess_sync::{
    BoundedSemaphore, InvalidPermits, ReleaseError, Semaphore, TryAcquireError, WaitError,
};

const WAITERS: u64 = 1 << 31;

fn word(semaphore: &Semaphore) -> u64 {
    // SAFETY: a semaphore is one u64 word.
    unsafe { std::mem::transmute_copy(semaphore) }
}

fn with_word(word: u64) -> Semaphore {
    // SAFETY: a semaphore is one u64 word, and every value is handled.
    unsafe { std::mem::transmute_copy(&word) }
}

fn sleep_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn eight_zero_bytes_are_a_semaphore_without_permits() {
    let semaphore = with_word(0);
    assert_eq!(semaphore.value(), 0);
    assert_eq!(semaphore.max(), Semaphore::MAX);
    assert_eq!(semaphore.try_acquire(), Err(TryAcquireError::WouldBlock));
    semaphore.release().unwrap();
    semaphore.acquire().unwrap();
    assert_eq!(word(&semaphore), 0);
}

#[test]
fn a_constant_can_hold_one() {
    static JOBS: Semaphore = match Semaphore::new(2) {
        Ok(semaphore) => semaphore,
        Err(_) => panic!("two is in range"),
    };
    JOBS.acquire().unwrap();
    assert_eq!(JOBS.value(), 1);
}

#[test]
fn absurd_numbers_are_refused() {
    assert_eq!(Semaphore::new(1 << 31).err(), Some(InvalidPermits::TooMany));
    assert_eq!(
        Semaphore::new(u32::MAX).err(),
        Some(InvalidPermits::TooMany)
    );
    let bounded = BoundedSemaphore::with_max;
    assert_eq!(bounded(0, 0).err(), Some(InvalidPermits::NoRoom));
    assert_eq!(bounded(0, 1 << 31).err(), Some(InvalidPermits::TooMany));
    assert_eq!(bounded(3, 2).err(), Some(InvalidPermits::MoreThanMax));
    assert_eq!(BoundedSemaphore::new(0).err(), Some(InvalidPermits::NoRoom));
    let full = BoundedSemaphore::new(Semaphore::MAX).unwrap();
    assert_eq!(full.value(), Semaphore::MAX);
    assert_eq!(full.release(), Err(ReleaseError::TooMany));
}

#[test]
fn permits_are_counted() {
    let semaphore = Semaphore::new(2).unwrap();
    semaphore.acquire().unwrap();
    semaphore.try_acquire().unwrap();
    assert_eq!(semaphore.try_acquire(), Err(TryAcquireError::WouldBlock));
    semaphore.release_many(5).unwrap();
    assert_eq!(semaphore.value(), 5);
    semaphore.release_many(0).unwrap();
    assert_eq!(semaphore.value(), 5);
}

#[test]
fn a_release_too_many_changes_nothing() {
    let bounded = BoundedSemaphore::with_max(1, 3).unwrap();
    assert_eq!(bounded.release_many(3), Err(ReleaseError::TooMany));
    assert_eq!(bounded.release_many(u32::MAX), Err(ReleaseError::TooMany));
    assert_eq!(bounded.value(), 1);
    bounded.release_many(2).unwrap();
    assert_eq!(bounded.release(), Err(ReleaseError::TooMany));
    assert_eq!((bounded.value(), bounded.max()), (3, 3));

    let plain = Semaphore::new(Semaphore::MAX - 1).unwrap();
    assert_eq!(plain.release_many(2), Err(ReleaseError::TooMany));
    plain.release().unwrap();
    assert_eq!(plain.release(), Err(ReleaseError::TooMany));
    assert_eq!(plain.value(), Semaphore::MAX);
}

#[test]
fn a_zero_timeout_tries_once_and_announces_no_waiter() {
    let semaphore = Semaphore::new(1).unwrap();
    semaphore.acquire_timeout(Timeout::TRY).unwrap();
    assert_eq!(
        semaphore.acquire_timeout(Timeout::TRY),
        Err(WaitError::Timeout)
    );
    assert_eq!(word(&semaphore), 0);
}

#[test]
fn a_timeout_is_not_early() {
    let semaphore = Semaphore::new(0).unwrap();
    let start = Instant::now();
    let timeout = Duration::from_millis(120);
    assert_eq!(semaphore.acquire_timeout(timeout), Err(WaitError::Timeout));
    assert!(start.elapsed() >= timeout);
}

#[test]
fn a_huge_timeout_is_for_ever_and_no_overflow() {
    let semaphore = Semaphore::new(0).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire_timeout(Duration::MAX));
        sleep_until(|| word(&semaphore) & WAITERS != 0);
        semaphore.release().unwrap();
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn one_release_of_many_wakes_as_many_sleepers() {
    let semaphore = Semaphore::new(0).unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| semaphore.acquire()))
            .collect();
        sleep_until(|| word(&semaphore) & WAITERS != 0);
        std::thread::sleep(Duration::from_millis(20));
        semaphore.release_many(5).unwrap();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(semaphore.value(), 0);
}

#[test]
fn a_bit_in_vain_is_cleared_by_the_next_release() {
    let semaphore = Semaphore::new(0).unwrap();
    semaphore
        .acquire_timeout(Duration::from_millis(1))
        .unwrap_err();
    assert_eq!(word(&semaphore), WAITERS);
    semaphore.release().unwrap();
    assert_eq!(word(&semaphore), 1);
}

#[test]
fn a_permit_is_given_back_once() {
    let semaphore = BoundedSemaphore::new(1).unwrap();
    let permit = semaphore.permit(None).unwrap();
    assert!(semaphore.permit(Timeout::TRY).is_err());
    assert!(format!("{permit:?}").contains("value: 0"));
    drop(permit);
    let permit = semaphore.permit(None).unwrap();
    semaphore.release().unwrap(); // anyone may
    drop(permit);
    assert_eq!(semaphore.value(), 1);
    std::mem::forget(semaphore.permit(None).unwrap());
    assert_eq!(semaphore.value(), 0);
}

#[test]
fn a_corrupt_word_is_an_error_and_stays_as_it_is() {
    let above_max = 3 << 32 | 4;
    let max_too_large = 1 << 63;
    for bits in [above_max, above_max | WAITERS, max_too_large, u64::MAX] {
        let semaphore = with_word(bits);
        assert_eq!(semaphore.acquire(), Err(WaitError::Corrupt), "{bits:#x}");
        assert_eq!(semaphore.try_acquire(), Err(TryAcquireError::Corrupt));
        assert_eq!(semaphore.release(), Err(ReleaseError::Corrupt));
        assert_eq!(word(&semaphore), bits);
    }
}

#[test]
fn a_sleeper_finds_out_that_the_word_is_corrupt() {
    let semaphore = with_word(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire());
        sleep_until(|| word(&semaphore) & WAITERS != 0);
        // SAFETY: a semaphore is one atomic word.
        let raw = unsafe { &*(&raw const semaphore).cast::<std::sync::atomic::AtomicU64>() };
        raw.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(waiter.join().unwrap(), Err(WaitError::Corrupt));
    });
}

#[test]
fn no_more_are_inside_than_there_are_permits() {
    let (slots, inside) = (BoundedSemaphore::new(2).unwrap(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let _permit = slots.permit(None).unwrap();
                    assert!(inside.fetch_add(1, Ordering::Relaxed) < 2);
                    inside.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(slots.value(), 2);
    assert_eq!(slots.release(), Err(ReleaseError::TooMany));
}

#[test]
fn the_two_have_layouts_of_their_own() {
    assert_ne!(Semaphore::LAYOUT, BoundedSemaphore::LAYOUT);
}
