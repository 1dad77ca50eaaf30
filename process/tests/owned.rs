//! Every primitive as an owned handle: made, sent, and the same at the other end.

mod common;

use std::time::Duration;

use multiprocess::prelude::*;
use multiprocess::{CreateError, sync};

use common::start;

under_all_methods!(every_handle_is_the_same_object_elsewhere, |method| {
    type All = (
        (Lock, RLock, Mutex<u64>, RwLock<u64>),
        (Semaphore, BoundedSemaphore, Event, Barrier),
        (Once, OnceCell<u64>),
    );
    let elsewhere = |(locks, counts, once): All| {
        let (lock, rlock, mutex, table) = locks;
        let (seats, bounded, done, start) = counts;
        start.wait().unwrap();
        assert!(lock.is_locked(), "its parent has it");
        lock.release().unwrap(); // anybody may
        assert!(rlock.try_lock().is_err(), "this one's owner only");
        *mutex.lock().unwrap() += 1;
        assert_eq!(*table.read().unwrap(), 5);
        seats.acquire().unwrap();
        assert!(bounded.release().is_err(), "never more than it began with");
        once.0.call_once(|| panic!("done already")).unwrap();
        assert_eq!(once.1.get(), Some(&6));
        done.set();
    };
    let all: All = (
        (
            Lock::new().unwrap(),
            RLock::new().unwrap(),
            Mutex::new(1).unwrap(),
            RwLock::new(5).unwrap(),
        ),
        (
            Semaphore::new(3).unwrap(),
            BoundedSemaphore::new(2).unwrap(),
            Event::new().unwrap(),
            Barrier::new(2).unwrap(),
        ),
        (Once::new().unwrap(), OnceCell::new().unwrap()),
    );
    let (locks, counts, once) = &all;
    std::mem::forget(locks.0.lock().unwrap());
    let _ours = locks.1.lock().unwrap();
    once.0.call_once(|| ()).unwrap();
    once.1.get_or_init(|| 6).unwrap();
    let worker = start(method, elsewhere, all.clone());
    counts.3.wait().unwrap();
    counts.2.wait().unwrap();
    worker.join().unwrap();
    assert!(!locks.0.is_locked());
    assert_eq!(*locks.2.lock().unwrap(), 2);
    assert_eq!(counts.0.value(), 2);
});

under_all_methods!(conditions_wait_with_each_kind_of_lock, |method| {
    type Both = (Condition<sync::Lock>, Condition<sync::Mutex<u32>>, Event);
    let elsewhere = |(bare, full, ready): Both| {
        let held = bare.lock().unwrap();
        ready.set();
        let (held, told) = bare.wait_timeout(held, Duration::from_secs(60)).unwrap();
        assert!(told);
        drop(held);
        let guard = full.lock().unwrap();
        let (guard, _) = full.wait_for(guard, None, |n| **n == 3).unwrap();
        *guard
    };
    let bare = Condition::with_lock(Lock::new().unwrap()).unwrap();
    let full = Condition::with_lock(Mutex::new(0).unwrap()).unwrap();
    let ready = Event::new().unwrap();
    let waiter = start(
        method,
        elsewhere,
        (bare.clone(), full.clone(), ready.clone()),
    );
    ready.wait().unwrap();
    let held = bare.lock().unwrap(); // it waits, or the lock would be taken
    bare.notify_all();
    drop(held);
    *full.lock().unwrap() = 3;
    full.notify(1);
    assert_eq!(waiter.join().unwrap(), 3);
});

#[test]
fn numbers_that_no_primitive_takes_are_errors() {
    let none = Barrier::new(0).unwrap_err();
    assert!(matches!(none, CreateError::Capacity { requested: 0, .. }));
    let none = BoundedSemaphore::new(0).unwrap_err();
    assert!(matches!(none, CreateError::Capacity { requested: 0, .. }));
    let many = Semaphore::new(1 << 31).unwrap_err();
    let max = (1 << 31) - 1;
    assert!(matches!(many, CreateError::Capacity { max: most, .. } if most == max));
    assert_eq!(Semaphore::new(0).unwrap().value(), 0);
}

#[test]
fn handles_and_shared_primitives_are_one_thing() {
    let lock = Shared::new(sync::RLock::new()).unwrap();
    let owned = RLock::from(lock.clone());
    assert!(Shared::ptr_eq(owned.shared(), &lock));
    let _guard = owned.lock().unwrap();
    assert_eq!(lock.depth(), 1);
    assert_eq!(format!("{owned:?}"), format!("{:?}", *lock));
    let again: Shared<sync::RLock> = owned.clone().into();
    assert!(again.is_owned());
}
