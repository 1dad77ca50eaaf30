//! Attacks on values and arrays, in safe code: two borrows of one value at a time were to be had.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use multiprocess::owned::Condition;
use multiprocess::{Array, LockError, NotOwner, Timeout, TryLockError, Value, transfer};
use multiprocess_testkit::watchdog::Watchdog;

#[test]
fn a_lock_cannot_be_released_under_a_guard() {
    let _watchdog = Watchdog::seconds(120);
    let value = Value::new(1u64).unwrap();
    let mut guard = value.lock().unwrap();
    // It was released, another thread took it and died with it, and the next one got a second guard.
    assert_eq!(value.get_lock().release(), Err(NotOwner));
    std::thread::scope(|scope| {
        let take = || value.get_lock().try_lock().map(std::mem::forget).is_ok();
        assert!(!scope.spawn(take).join().unwrap());
        let lock = || value.try_lock().map(drop).unwrap_err() == TryLockError::WouldBlock;
        assert!(scope.spawn(lock).join().unwrap());
    });
    *guard += 1;
    drop(guard);
    assert!(!value.get_lock().is_owned());
    assert_eq!(value.get().unwrap(), 2);
}

#[test]
fn what_is_taken_by_hand_is_released_by_hand_whatever_the_order() {
    let value = Value::new(1u64).unwrap();
    let lock = value.get_lock();
    let held = lock.lock().unwrap();
    let guard = value.lock().unwrap();
    assert_eq!(lock.depth(), 2);
    drop(held);
    assert_eq!((lock.depth(), lock.release()), (1, Err(NotOwner)));
    let again = lock.lock().unwrap();
    drop(guard);
    assert_eq!((lock.depth(), lock.is_owned()), (1, true));
    std::mem::forget(again);
    assert_eq!((lock.release(), lock.is_owned()), (Ok(()), false));
}

#[test]
fn a_condition_does_not_let_go_of_a_borrowed_value() {
    let _watchdog = Watchdog::seconds(120);
    let changed = Condition::new().unwrap();
    let stock = Value::with_lock(1u64, changed.get_lock().clone()).unwrap();
    let held = changed.lock().unwrap();
    let borrowed = stock.lock().unwrap();
    let refused = changed.wait(held).map(drop).unwrap_err();
    assert_eq!(refused, LockError::Deadlock);
    drop(borrowed);
    assert!(!changed.get_lock().is_owned());
    let held = changed.lock().unwrap();
    let (_held, notified) = changed
        .wait_timeout(held, Duration::from_millis(1))
        .unwrap();
    assert!(!notified);
}

#[test]
fn the_next_owner_after_a_death_releases_by_hand() {
    let value = Value::new(1u64).unwrap();
    std::thread::scope(|scope| {
        let die = || std::mem::forget(value.lock().unwrap());
        scope.spawn(die).join().unwrap();
    });
    let lock = value.get_lock();
    let Err(LockError::OwnerDied(mut held)) = lock.lock() else {
        panic!("its owner died");
    };
    held.mark_consistent();
    std::mem::forget(held);
    assert_eq!(lock.release(), Ok(()));
    assert_eq!(value.get().unwrap(), 1);
}

#[test]
fn a_borrower_that_cannot_be_is_corrupt() {
    const BORROWER: u64 = 0x80 + 0x30;
    let array = Array::<u8>::zeroed(4).unwrap();
    let (sent, fds) = transfer::collect(|| postcard::to_stdvec(&array));
    sent.unwrap();
    let memory: BorrowedFd<'_> = fds[0].as_fd();
    let foreign = u64::from(u32::MAX).to_ne_bytes();
    rustix::io::pwrite(memory, &foreign, BORROWER).unwrap();
    let refused = array.lock_timeout(Timeout::TRY).map(drop).unwrap_err();
    assert_eq!(refused, LockError::Corrupt);
    assert!(!array.get_lock().is_owned());
}
