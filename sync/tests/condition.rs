//! Semantics of `Condition` (L10 to L13), with each lock it works with.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::Timeout;
use multiprocess_sync::{Condition, Lock, LockError, Mutex, RLock};

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn a_wait_that_nobody_ends_times_out_with_the_lock_held() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (mutex, condition) = (Mutex::new(0u8), Condition::new());
    let guard = mutex.lock().unwrap();
    let start = Instant::now();
    let (guard, notified) = condition.wait_timeout(guard, SHORT).unwrap();
    assert!(!notified && start.elapsed() >= SHORT);
    assert_eq!(mutex.lock().err(), Some(LockError::Deadlock), "held again");
    drop(guard);
}

#[test]
fn timeouts_of_zero_and_of_centuries_are_what_they_say() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (mutex, condition) = (Mutex::new(0u8), Condition::new());
    let guard = mutex.lock().unwrap();
    let (guard, notified) = condition.wait_timeout(guard, Timeout::TRY).unwrap();
    assert!(!notified);
    let (guard, there) = condition
        .wait_for(guard, Duration::MAX, |n| **n == 0)
        .unwrap();
    assert!(there);
    drop(guard);
}

#[test]
fn notify_wakes_one_of_several_and_notify_all_the_rest() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (mutex, condition) = (Mutex::new(0u32), Condition::new());
    let (asleep, woken) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let guard = mutex.lock().unwrap();
                asleep.fetch_add(1, Relaxed);
                let (guard, there) = condition
                    .wait_for(guard, None, |tickets| **tickets > 0)
                    .unwrap();
                assert!(there);
                let mut guard = guard;
                *guard -= 1;
                woken.fetch_add(1, Relaxed);
            });
        }
        until(|| asleep.load(Relaxed) == 3);
        *mutex.lock().unwrap() += 1;
        condition.notify(1);
        until(|| woken.load(Relaxed) == 1);
        std::thread::sleep(SHORT);
        assert_eq!(woken.load(Relaxed), 1, "one ticket, one winner");
        *mutex.lock().unwrap() += 2;
        condition.notify_all();
        until(|| woken.load(Relaxed) == 3);
    });
}

#[test]
fn notify_with_nobody_waiting_is_forgotten() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (mutex, condition) = (Mutex::new(0u8), Condition::new());
    condition.notify(1);
    condition.notify_all();
    condition.notify(0);
    let (_guard, notified) = condition
        .wait_timeout(mutex.lock().unwrap(), SHORT)
        .unwrap();
    assert!(!notified);
}

#[test]
fn all_levels_of_an_rlock_are_released_and_taken_again() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (lock, condition) = (RLock::new(), Condition::new());
    let _outer = lock.lock().unwrap();
    let _middle = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    let entered = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _other = lock.lock().unwrap();
            entered.store(1, Relaxed);
            condition.notify(1);
        });
        let (inner, there) = condition
            .wait_for(inner, None, |_| entered.load(Relaxed) == 1)
            .unwrap();
        assert!(there);
        assert_eq!(lock.depth(), 3);
        drop(inner);
        assert_eq!(lock.depth(), 2);
    });
}

#[test]
fn it_works_with_a_plain_lock() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (lock, condition) = (Lock::new(), Condition::new());
    let ready = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock.lock().unwrap();
            ready.store(1, Relaxed);
            condition.notify_all();
        });
        let guard = lock.lock().unwrap();
        let (_guard, there) = condition
            .wait_for(guard, None, |_| ready.load(Relaxed) == 1)
            .unwrap();
        assert!(there && lock.is_locked());
    });
}

#[test]
fn the_deadline_of_wait_for_is_one_for_all_its_wakes() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let (mutex, condition) = (Mutex::new(0u8), Condition::new());
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Relaxed) == 0 {
                condition.notify_all();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let start = Instant::now();
        let guard = mutex.lock().unwrap();
        let timeout = Duration::from_millis(50);
        let (_guard, there) = condition.wait_for(guard, timeout, |_| false).unwrap();
        stop.store(1, Relaxed);
        assert!(!there && start.elapsed() >= timeout);
    });
}

#[test]
fn a_lock_whose_owner_died_meanwhile_says_so_after_the_wait() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let stage = multiprocess_shm::Shared::new(Mutex::new(0u8)).unwrap();
    let condition = Condition::new();
    std::thread::scope(|scope| {
        let guard = stage.lock().unwrap();
        scope.spawn(|| {
            std::mem::forget(stage.lock().unwrap());
            condition.notify(1);
        });
        let error = condition.wait(guard).unwrap_err();
        let mut guard = error.into_guard().expect("held, from the dead");
        guard.mark_consistent();
    });
    drop(stage.lock().unwrap());
}

fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        std::thread::yield_now();
    }
}
