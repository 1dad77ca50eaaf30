//! `Lock` under the guards of `lock_api`.
#![cfg(all(not(loom), feature = "lock_api"))]

use std::time::Duration;

use lock_api::RawMutex as _;
use multiprocess_sync::Lock;
use multiprocess_testkit::watchdog::Watchdog;

type Mutex<T> = lock_api::Mutex<Lock, T>;

#[test]
fn it_locks_tries_and_times_out() {
    let _watchdog = Watchdog::seconds(60);
    static SUM: Mutex<u64> = Mutex::const_new(Lock::INIT, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| *SUM.lock() += 1));
        }
    });
    let guard = SUM.lock();
    assert_eq!(*guard, 40_000);
    assert!(SUM.try_lock().is_none() && SUM.is_locked());
    assert!(SUM.try_lock_for(Duration::from_millis(5)).is_none());
    drop(guard);
    assert!(SUM.try_lock().is_some());
}

#[test]
fn a_destroyed_word_is_waited_for_and_not_a_panic() {
    let _watchdog = Watchdog::seconds(60);
    // SAFETY: a lock is one u64 word, and every value is handled.
    let lock: Lock = unsafe { std::mem::transmute_copy(&u64::MAX) };
    let mutex = Mutex::from_raw(lock, ());
    assert!(mutex.try_lock_for(Duration::from_millis(5)).is_none());
}
