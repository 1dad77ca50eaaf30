//! Semantics of `RwLock`.
#![cfg(not(loom))]

use std::mem::forget;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_shm::Shared;
use multiprocess_sync::{LockError, RwLock, TryLockError};

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn zero_bytes_are_an_unlocked_lock() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    // SAFETY: made of atomics and a number; the claim under test is that zeroes are valid.
    let lock: RwLock<u64, 4> = unsafe { std::mem::zeroed() };
    *lock.write().unwrap() = 3;
    assert_eq!(*lock.read().unwrap(), 3);
}

#[test]
fn many_read_and_none_writes_meanwhile() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RwLock::<u32, 4>::new(1);
    let (one, two) = (lock.read().unwrap(), lock.try_read().unwrap());
    assert_eq!((*one, *two, lock.readers()), (1, 1, 2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(*lock.read_timeout(SHORT).unwrap(), 1);
            assert_eq!(lock.try_write().err(), Some(TryLockError::WouldBlock));
            assert_eq!(lock.write_timeout(SHORT).err(), Some(LockError::Timeout));
            assert_eq!(*lock.read().unwrap(), 1, "a writer that gave up lets pass");
        });
    });
    drop((one, two));
    *lock.write().unwrap() += 1;
    assert_eq!(*lock.read().unwrap(), 2);
}

#[test]
fn none_reads_while_one_writes() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RwLock::<u32, 4>::new(1);
    let guard = lock.write().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(lock.try_read().err(), Some(TryLockError::WouldBlock));
            assert_eq!(lock.read_timeout(SHORT).err(), Some(LockError::Timeout));
            assert_eq!(lock.write_timeout(SHORT).err(), Some(LockError::Timeout));
        });
    });
    drop(guard);
    assert_eq!(lock.readers(), 0);
}

#[test]
fn reading_and_then_writing_is_a_deadlock_that_is_told() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RwLock::<u32, 4>::new(1);
    let reading = lock.read().unwrap();
    assert_eq!(lock.write().err(), Some(LockError::Deadlock));
    drop(reading);
    let writing = lock.write().unwrap();
    assert_eq!(lock.write().err(), Some(LockError::Deadlock));
    drop(writing);
}

#[test]
fn more_readers_than_slots_wait_for_each_other() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RwLock::<u32, 2>::new(1);
    std::thread::scope(|scope| {
        let (_one, two) = (lock.read().unwrap(), lock.read().unwrap());
        let third = scope.spawn(|| *lock.read().unwrap());
        std::thread::sleep(SHORT);
        drop(two);
        // Whichever slot it waits for: now and then it looks at all of them again.
        assert_eq!(third.join().unwrap(), 1);
    });
}

#[test]
fn one_thread_with_all_slots_is_told_that_it_waits_for_itself() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RwLock::<u32, 2>::new(1);
    let _both = (lock.read().unwrap(), lock.read().unwrap());
    assert_eq!(lock.read().err(), Some(LockError::Deadlock));
    assert_eq!(lock.try_read().err(), Some(TryLockError::WouldBlock));
}

#[test]
fn readers_and_writers_exclude_each_other() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = Shared::new(RwLock::<[u64; 2], 4>::new([0; 2])).unwrap();
    let reads = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let mut both = lock.write().unwrap();
                    assert_eq!(both[0], both[1]);
                    both[0] += 1;
                    both[1] += 1;
                }
            });
            scope.spawn(|| {
                while lock.read().unwrap()[0] < 10_000 {
                    let both = lock.read().unwrap();
                    assert_eq!(both[0], both[1]);
                    reads.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(*lock.read().unwrap(), [10_000; 2]);
}

#[test]
fn a_reader_that_dies_is_no_obstacle() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = Shared::new(RwLock::<u32, 4>::new(1)).unwrap();
    for _ in 0..6 {
        // More deaths than slots: each slot is used again.
        std::thread::scope(|scope| {
            scope.spawn(|| forget(lock.read().unwrap()));
        });
    }
    *lock.write().unwrap() += 1;
    assert_eq!(*lock.read().unwrap(), 2);
}

#[test]
fn a_writer_that_dies_is_told_to_readers_and_repaired_by_a_writer() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = Shared::new(RwLock::<u32, 4>::new(1)).unwrap();
    let die_writing = || {
        std::thread::scope(|scope| {
            scope.spawn(|| match lock.write() {
                Ok(guard) | Err(LockError::OwnerDied(guard)) => forget(guard),
                Err(error) => panic!("{error}"),
            });
        });
    };
    die_writing();
    assert_eq!(lock.read().err(), Some(LockError::WriterDied));
    assert_eq!(lock.try_read().err(), Some(TryLockError::WriterDied));
    let mut guard = lock.write().unwrap_err().into_guard().unwrap();
    *guard = 5;
    guard.mark_consistent();
    drop(guard);
    assert_eq!(*lock.read().unwrap(), 5);

    die_writing();
    drop(lock.write().unwrap_err().into_guard().unwrap());
    assert_eq!(lock.read().err(), Some(LockError::NotRecoverable));
    assert_eq!(lock.write().err(), Some(LockError::NotRecoverable));
}

#[test]
fn a_writer_that_runs_out_of_time_is_as_if_it_had_not_come() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = Shared::new(RwLock::<u32, 4>::new(1)).unwrap();
    let reading = lock.read().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(lock.write_timeout(SHORT).err(), Some(LockError::Timeout));
        });
    });
    assert_eq!(*lock.read().unwrap(), 1);
    drop(reading);
    assert!(lock.write().is_ok());
}
