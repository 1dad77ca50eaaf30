//! Semantics of `Lock`.
#![cfg(not(loom))]

use std::mem::forget;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use multiprocess_core::{ParticipantId, Timeout};
use multiprocess_sync::{Lock, LockError, NotLocked, TryLockError};

/// A lock whose word a test can write.
fn with_word(word: u64) -> Lock {
    // SAFETY: a lock is one u64 word, and every value is handled.
    unsafe { std::mem::transmute_copy(&word) }
}

fn word(lock: &Lock) -> u64 {
    // SAFETY: a lock is one u64 word.
    unsafe { std::mem::transmute_copy(lock) }
}

#[test]
fn eight_zero_bytes_are_an_unlocked_lock() {
    let lock = with_word(0);
    assert!(!lock.is_locked());
    drop(lock.lock().unwrap());
    assert_eq!(word(&lock), 0);
}

#[test]
fn it_is_not_recursive() {
    let lock = Lock::new();
    let _guard = lock.lock().unwrap();
    assert_eq!(lock.try_lock().err(), Some(TryLockError::WouldBlock));
    let again = lock.lock_timeout(Duration::from_millis(5));
    assert_eq!(again.err(), Some(LockError::Timeout));
}

#[test]
fn a_zero_timeout_tries_once() {
    let lock = Lock::new();
    drop(lock.lock_timeout(Timeout::TRY).unwrap());
    forget(lock.lock().unwrap());
    assert_eq!(
        lock.lock_timeout(Timeout::TRY).err(),
        Some(LockError::Timeout)
    );
    assert_eq!(word(&lock), 1, "a failed try announces no waiter");
}

#[test]
fn a_huge_timeout_is_for_ever_and_no_overflow() {
    let lock = Lock::new();
    drop(lock.lock_timeout(Duration::MAX).unwrap());
    forget(lock.lock().unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| drop(lock.lock_timeout(Duration::MAX).unwrap()));
        sleep_until(|| word(&lock) & 2 != 0);
        lock.release().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn a_timeout_is_not_early() {
    let lock = Lock::new();
    forget(lock.lock().unwrap());
    let start = Instant::now();
    let timed_out = lock.lock_timeout(Duration::from_millis(120));
    assert_eq!(timed_out.err(), Some(LockError::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(120));
}

#[test]
fn anyone_may_release() {
    let lock = Lock::new();
    forget(lock.lock().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| lock.release().unwrap());
    });
    assert!(!lock.is_locked());
}

#[test]
fn releasing_a_free_lock_is_an_error_and_changes_nothing() {
    let lock = Lock::new();
    assert_eq!(lock.release(), Err(NotLocked));
    assert!(!lock.is_locked());
    drop(lock.lock().unwrap());
}

#[test]
fn a_release_wakes_a_sleeper() {
    let lock = Lock::new();
    forget(lock.lock().unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| drop(lock.lock().unwrap()));
        sleep_until(|| word(&lock) & 2 != 0);
        lock.release().unwrap();
        waiter.join().unwrap();
    });
    // Sticky at most until a release finds nobody asleep.
    drop(lock.lock().unwrap());
    assert_eq!(word(&lock), 0);
}

#[test]
fn only_the_stamped_dead_are_released() {
    let (dead, other) = (ParticipantId::new(3, 1), ParticipantId::new(3, 2));
    let lock = Lock::new();
    assert!(!lock.release_dead(dead), "a free lock has no holder");
    forget(lock.lock_as(dead, Timeout::Never).unwrap());
    assert_eq!(lock.holder(), Some(dead));
    assert!(
        !lock.release_dead(other),
        "another epoch is another process"
    );
    assert!(lock.release_dead(dead));
    assert!(!lock.release_dead(dead), "only once");
    assert!(!lock.is_locked());
    forget(lock.lock().unwrap());
    assert!(!lock.release_dead(ParticipantId::ANONYMOUS));
    assert!(lock.is_locked());
}

#[test]
fn a_corrupt_word_is_an_error() {
    for bits in [4, 5, 0x8000_0000, u64::MAX, u64::from(u32::MAX)] {
        let lock = with_word(bits);
        assert_eq!(lock.lock().err(), Some(LockError::Corrupt), "{bits:#x}");
        assert_eq!(lock.try_lock().err(), Some(TryLockError::Corrupt));
    }
}

#[test]
fn threads_exclude_each_other() {
    let (lock, inside, total) = (Lock::new(), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let _guard = lock.lock().unwrap();
                    assert_eq!(inside.swap(1, Ordering::Relaxed), 0);
                    // A load and a store: lost if two are inside.
                    let seen = total.load(Ordering::Relaxed);
                    total.store(seen + 1, Ordering::Relaxed);
                    inside.store(0, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 80_000);
}

#[test]
fn debug_says_who_holds_it() {
    let lock = Lock::new();
    let guard = lock
        .lock_as(ParticipantId::new(3, 1), Timeout::Never)
        .unwrap();
    assert!(format!("{guard:?}").contains("ParticipantId(3.1)"));
}

fn sleep_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
