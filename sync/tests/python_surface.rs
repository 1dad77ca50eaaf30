//! What Python's `multiprocessing` does with its locks, row by row (the numbers are those of the
//! feature list that this crate was built from), and where we differ on purpose.
//!
//! | row | Python | here |
//! |---|---|---|
//! | L01 | negative timeout = 0; a recursive acquire dead-locks | timeouts are unsigned; `RawMutex` and `Mutex` say `Deadlock`, `Lock` waits |
//! | L06 | `with` returns a bool | a guard |
//! | L08 | `repr` names processes | `Debug` names threads and participants |
//! | L09 | `SemLock` has a name and a handle | nameless; made in memory of the caller's choice |
//! | L12 | `notify` waits for the woken, and hangs with a dead one | never waits |
//! | L14 | a fast set and clear can make a released waiter return False | it returns success |
//! | L15 | 0 parties are accepted | refused |
#![cfg(not(loom))]

use std::mem::forget;
use std::time::{Duration, Instant};

use multiprocess_core::Timeout;
use multiprocess_sync::{
    Barrier, BarrierError, BoundedSemaphore, Condition, Event, Lock, LockError, Mutex, NotLocked,
    NotOwner, RLock, ReleaseError, Semaphore, TryAcquireError, TryLockError, WaitError,
};
use multiprocess_testkit::watchdog::Watchdog;

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn l01_acquire_blocks_tries_or_times_out() {
    let _watchdog = Watchdog::seconds(60);
    let lock = Lock::new();
    let guard = lock.lock_timeout(Timeout::Never).unwrap();
    assert_eq!(lock.try_lock().err(), Some(TryLockError::WouldBlock));
    assert_eq!(
        lock.lock_timeout(Timeout::TRY).err(),
        Some(LockError::Timeout)
    );
    let start = Instant::now();
    assert_eq!(lock.lock_timeout(SHORT).err(), Some(LockError::Timeout));
    assert!(start.elapsed() >= SHORT);
    drop(guard);
    drop(lock.lock_timeout(Duration::MAX).unwrap());
}

#[test]
fn l02_anyone_releases_and_a_free_lock_refuses() {
    let lock = Lock::new();
    assert_eq!(lock.release(), Err(NotLocked));
    forget(lock.lock().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| lock.release().unwrap());
    });
    assert_eq!(lock.release(), Err(NotLocked));
}

#[test]
fn l03_an_rlock_belongs_to_a_thread() {
    let lock = RLock::new();
    assert_eq!(lock.release(), Err(NotOwner));
    let (_one, _two) = (lock.lock().unwrap(), lock.lock().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(lock.release(), Err(NotOwner)));
    });
    assert_eq!(lock.depth(), 2);
}

#[test]
fn l04_a_semaphore_counts_and_knows_its_limit() {
    assert!(Semaphore::new(1 << 31).is_err());
    let semaphore = Semaphore::new(2).unwrap();
    semaphore.acquire().unwrap();
    semaphore.acquire().unwrap();
    assert_eq!(semaphore.try_acquire(), Err(TryAcquireError::WouldBlock));
    assert_eq!(semaphore.acquire_timeout(SHORT), Err(WaitError::Timeout));
    semaphore.release_many(3).unwrap(); // Python's process semaphores take no number
    assert_eq!(semaphore.value(), 3);
    assert!(semaphore.release_many(Semaphore::MAX).is_err());
    assert_eq!(semaphore.value(), 3, "all or none");
}

#[test]
fn l05_a_bounded_semaphore_refuses_one_too_many_exactly() {
    let semaphore = BoundedSemaphore::new(2).unwrap();
    assert_eq!(semaphore.release(), Err(ReleaseError::TooMany));
    semaphore.acquire().unwrap();
    // Python checks and then posts: two that race both pass. One of these does.
    let passed: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| usize::from(semaphore.release().is_ok())))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!((passed, semaphore.value()), (1, 2));
    assert!(BoundedSemaphore::with_max(3, 2).is_err(), "value > max");
}

#[test]
fn l06_l07_guards_release_and_locked_is_told() {
    let lock = Lock::new();
    {
        let _guard = lock.lock().unwrap();
        assert!(lock.is_locked());
    }
    assert!(!lock.is_locked());
}

#[test]
fn l08_debug_says_what_matters() {
    let (lock, recursive) = (Lock::new(), RLock::new());
    let _guards = (lock.lock().unwrap(), recursive.lock().unwrap());
    assert!(format!("{lock:?}").contains("locked: true"));
    assert!(format!("{recursive:?}").contains("depth: 1"));
    let semaphore = BoundedSemaphore::with_max(1, 3).unwrap();
    let text = format!("{semaphore:?}");
    assert!(
        text.contains("value: 1") && text.contains("max: 3"),
        "{text}"
    );
}

#[test]
fn l09_all_zero_bytes_are_unlocked_and_handles_are_nameless() {
    // SAFETY: made of atomics; zeroes are the documented initial state.
    let (lock, semaphore): (Lock, Semaphore) = unsafe { std::mem::zeroed() };
    drop(lock.try_lock().unwrap());
    assert_eq!(semaphore.value(), 0);
}

#[test]
fn l10_l11_a_condition_releases_all_levels_and_takes_them_again() {
    let _watchdog = Watchdog::seconds(60);
    let (lock, condition) = (RLock::new(), Condition::new());
    let outer = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(lock.lock().unwrap());
            condition.notify_all();
        });
        drop(condition.wait(inner).unwrap());
    });
    assert_eq!(lock.depth(), 1);
    drop(outer);
}

#[test]
fn l12_notify_does_not_wait_for_anybody() {
    let condition = Condition::new();
    condition.notify(1); // without the lock, too: the waiter's predicate decides
    condition.notify_all();
}

#[test]
fn l13_wait_for_has_one_deadline_and_asks_first() {
    let (mutex, condition) = (Mutex::new(5), Condition::new());
    let guard = mutex.lock().unwrap();
    let (guard, there) = condition
        .wait_for(guard, Timeout::TRY, |n| **n == 5)
        .unwrap();
    assert!(there);
    let (guard, there) = condition.wait_for(guard, SHORT, |n| **n == 6).unwrap();
    assert!(!there && *guard == 5);
}

#[test]
fn l14_a_waiter_that_was_released_succeeds_although_clear_follows() {
    let _watchdog = Watchdog::seconds(60);
    let event = Event::new();
    assert_eq!(event.wait_timeout(Timeout::TRY), Err(WaitError::Timeout));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| event.wait());
        while !format!("{event:?}").contains("waiters: true") {
            std::thread::yield_now();
        }
        event.set();
        event.clear();
        waiter.join().unwrap().unwrap();
    });
    assert!(!event.is_set());
}

#[test]
fn l15_the_last_one_acts_before_anybody_goes_on() {
    let _watchdog = Watchdog::seconds(60);
    assert!(Barrier::new(0).is_err() && Barrier::new(1 << 20).is_err());
    let barrier = Barrier::new(2).unwrap();
    let acted = std::sync::atomic::AtomicU32::new(0);
    let act = || {
        acted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let mut indices = std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait_with(act, None).unwrap());
        let mine = barrier.wait_with(act, None).unwrap();
        assert_eq!(acted.load(std::sync::atomic::Ordering::Relaxed), 1);
        [mine, other.join().unwrap()]
    });
    indices.sort_unstable();
    assert_eq!(indices, [0, 1], "in the order of arrival");
}

#[test]
fn l16_a_timeout_breaks_it_for_all() {
    let _watchdog = Watchdog::seconds(60);
    let barrier = Barrier::new(3).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait());
        while barrier.waiting() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(barrier.wait_timeout(SHORT), Err(BarrierError::Timeout));
        assert!(matches!(
            other.join().unwrap(),
            Err(BarrierError::Broken { .. })
        ));
    });
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { .. })));
}

#[test]
fn l17_l18_abort_breaks_and_reset_mends() {
    let barrier = Barrier::new(2).unwrap();
    barrier.reset(); // quiet on an empty one
    barrier.abort();
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { .. })));
    barrier.reset();
    assert_eq!((barrier.parties(), barrier.waiting()), (2, 0));
    assert!(!barrier.is_broken());
}
