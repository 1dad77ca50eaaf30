//! Semantics of `RawMutex`, `Mutex` and `RLock` within one process; deaths are in `xproc_mutex.rs`.
#![cfg(not(loom))]

use std::mem::forget;
use std::time::Duration;

use multiprocess_core::thread::{Caller, MAX_HELD};
use multiprocess_core::{Peers, Timeout};
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{LockError, Mutex, NotOwner, RLock, RawMutex, TryLockError};

#[test]
fn zero_bytes_are_an_unlocked_mutex() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    // SAFETY: a mutex of atomics; the claim under test is that zeroes are a valid state.
    let mutex: Mutex<u64> = unsafe { std::mem::zeroed() };
    *mutex.lock().unwrap() += 1;
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn relocking_is_a_deadlock_and_trying_is_refused() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Mutex::new(0u8);
    let _guard = mutex.lock().unwrap();
    assert_eq!(mutex.lock().err(), Some(LockError::Deadlock));
    assert_eq!(mutex.try_lock().err(), Some(TryLockError::WouldBlock));
}

#[test]
fn only_the_owner_releases() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = RawMutex::new();
    let me = Caller::current();
    assert_eq!(mutex.release(&me), Err(NotOwner), "free");
    mutex.acquire(&me, None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = Caller::current();
            assert_eq!(mutex.release(&other), Err(NotOwner));
            assert_eq!(mutex.mark_consistent(&other), Err(NotOwner));
            assert_eq!(
                mutex.acquire(&other, Duration::from_millis(5)),
                Err(LockError::Timeout)
            );
        });
    });
    mutex.release(&me).unwrap();
    assert!(!mutex.is_locked());
}

#[test]
fn threads_exclude_each_other_and_order_what_they_write() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Shared::new(Mutex::new([0u64; 2])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let mut both = mutex.lock().unwrap();
                    assert_eq!(both[0], both[1]);
                    both[0] += 1;
                    both[1] += 1;
                }
            });
        }
    });
    assert_eq!(*mutex.lock().unwrap(), [200_000; 2]);
}

#[test]
fn a_thread_that_ends_with_it_is_an_owner_that_died() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Shared::new(Mutex::new(7u32)).unwrap();
    let end_with_it = || {
        std::thread::scope(|scope| {
            scope.spawn(|| match mutex.lock() {
                Ok(guard) | Err(LockError::OwnerDied(guard)) => forget(guard),
                Err(error) => panic!("{error}"),
            });
        });
    };
    end_with_it();
    match mutex.lock() {
        Err(LockError::OwnerDied(mut guard)) => {
            *guard = 8;
            guard.mark_consistent();
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*mutex.lock().unwrap(), 8, "repaired: as new");
    assert_eq!(mutex.deaths(), 1);

    end_with_it();
    end_with_it(); // died, and then died again in the hands of the one who should repair
    assert_eq!(mutex.deaths(), 2);
    drop(mutex.lock().unwrap_err().into_guard().unwrap()); // not declared consistent
    assert_eq!(mutex.lock().err(), Some(LockError::NotRecoverable));
    assert_eq!(mutex.try_lock().err(), Some(TryLockError::NotRecoverable));
    assert!(!mutex.is_locked());
}

#[test]
fn a_forgotten_guard_keeps_the_memory_mapped() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let bystander = Shared::new(Mutex::new(0u64)).unwrap();
    for _ in 0..3 {
        let mutex = Shared::new(Mutex::new(0u64)).unwrap();
        forget(mutex.lock().unwrap());
        drop(mutex); // its node is in this thread's list: the next lock writes to it
        *bystander.lock().unwrap() += 1;
    }
    assert_eq!(*bystander.lock().unwrap(), 3);
}

#[test]
fn a_mutex_in_private_memory_may_move_while_it_is_locked() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let bystander = Shared::new(Mutex::new(0u64)).unwrap();
    for _ in 0..3 {
        let mutex = Box::new(Mutex::new([0u8; 200]));
        forget(mutex.lock().unwrap());
        let moved = *mutex;
        assert!(moved.is_locked());
        *bystander.lock().unwrap() += 1;
    }
    assert_eq!(*bystander.lock().unwrap(), 3);
}

#[test]
fn threads_that_end_with_any_of_many_hand_on_just_those() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let all = Shared::new([const { RawMutex::new() }; 8]).unwrap();
    for round in 0..200_u32 {
        let mut held = [false; 8];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let me = Caller::current();
                let mut seed = round;
                for _ in 0..round {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let i = (seed >> 16) as usize % 8;
                    if held[i] {
                        all[i].release(&me).unwrap();
                    } else {
                        all[i].acquire(&me, Timeout::TRY).unwrap();
                    }
                    held[i] = !held[i];
                }
                assert_eq!(
                    me.thread().held() as usize,
                    held.iter().filter(|h| **h).count()
                );
            });
        });
        // The scope ends when the closure has: the thread itself may take a moment longer.
        let me = Caller::current();
        for (mutex, held) in all.iter().zip(held) {
            let taken = mutex.acquire(&me, Duration::from_secs(10));
            let expected = if held {
                Err(LockError::OwnerDied(()))
            } else {
                Ok(())
            };
            assert_eq!(taken, expected, "round {round}");
            mutex.mark_consistent(&me).unwrap();
            mutex.release(&me).unwrap();
        }
    }
}

#[test]
fn one_lock_too_many_is_refused() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    // One more than the limit counts the first one out.
    const MANY: usize = MAX_HELD as usize + 1;
    let all = Shared::new([const { RawMutex::new() }; MANY + 1]).unwrap();
    let me = Caller::current();
    for mutex in &all[..MANY] {
        mutex.acquire(&me, None).unwrap();
    }
    assert_eq!(me.thread().held() as usize, MANY);
    let one_more = &all[MANY];
    assert_eq!(one_more.acquire(&me, None), Err(LockError::TooManyHeld));
    assert_eq!(one_more.try_acquire(&me), Err(TryLockError::TooManyHeld));
    // What is in no list is no matter.
    let private = RawMutex::new();
    private.acquire(&me, None).unwrap();
    for mutex in &all[..MANY] {
        mutex.release(&me).unwrap();
    }
    one_more.acquire(&me, None).unwrap();
    one_more.release(&me).unwrap();
    assert_eq!(me.thread().held(), 0);
}

#[test]
fn a_word_that_nobody_writes_is_corrupt() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    // The kernel takes the thread id away when it marks the word.
    for word in [0x4000_0001_u64, 0xc000_0001, 0x1234_4000_0001] {
        let mut bytes = [0u64; 5];
        bytes[0] = word;
        // SAFETY: same size; every value of every field is handled.
        let mutex: RawMutex = unsafe { std::mem::transmute_copy(&bytes) };
        let error = mutex.acquire(&Caller::current(), Duration::from_millis(1));
        assert_eq!(error, Err(LockError::Corrupt), "{word:#x}");
    }
}

#[test]
fn an_rlock_counts() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = RLock::new();
    let (first, second, third) = (lock.lock(), lock.try_lock(), lock.lock_timeout(None));
    assert_eq!(lock.depth(), 3);
    assert!(lock.is_owned());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(!lock.is_owned());
            assert_eq!(lock.try_lock().err(), Some(TryLockError::WouldBlock));
            assert_eq!(lock.release(), Err(NotOwner));
        });
    });
    drop(first.unwrap());
    forget(second.unwrap());
    lock.release().unwrap();
    assert_eq!(lock.depth(), 1);
    drop(third.unwrap());
    assert_eq!(lock.depth(), 0);
    assert_eq!(lock.release(), Err(NotOwner));
}

#[test]
fn an_rlock_of_a_dead_thread_starts_anew() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let lock = Shared::new(RLock::new()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forget(lock.lock().unwrap());
            forget(lock.lock().unwrap());
        });
    });
    let mut guard = lock.lock().unwrap_err().into_guard().unwrap();
    assert_eq!(lock.depth(), 1);
    guard.mark_consistent();
    drop(guard);
    drop(lock.lock().unwrap());
}

#[test]
fn a_guard_is_released_by_unwinding_and_poisons_nothing() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Mutex::new(0u8);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = mutex.lock().unwrap();
        panic!("on purpose");
    }));
    assert!(unwound.is_err());
    drop(mutex.try_lock().unwrap());
}

#[test]
fn a_lock_inside_a_mutex_may_be_moved_out_and_overwritten_while_it_is_held() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let bystander = Shared::new(Mutex::new(0u64)).unwrap();
    let outer = Shared::new(Mutex::new(Mutex::new(0u64))).unwrap();
    for _ in 0..3 {
        let mut private = Box::new(Mutex::new(0u64));
        std::mem::swap(&mut *outer.lock().unwrap(), &mut *private);
        forget(private.lock().unwrap());
        drop(private);
        *bystander.lock().unwrap() += 1;
        forget(outer.lock().unwrap().lock().unwrap());
        *outer.lock().unwrap() = Mutex::new(0);
        *bystander.lock().unwrap() += 1;
    }
    assert_eq!(Caller::current().thread().held(), 0);
    assert_eq!(*bystander.lock().unwrap(), 6);
}

#[test]
fn participants_of_another_table_are_refused() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Shared::new(Mutex::new(0u64)).unwrap();
    let (one, other) = (Participants::new(4).unwrap(), Participants::new(4).unwrap());
    let (mine, theirs) = (one.join().unwrap(), other.join().unwrap());
    // Both are slot 0 in its first life.
    assert_eq!(mine.me(), theirs.me());
    let guard = mutex.lock_as(Caller::current().among(&mine), None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let refused = mutex.lock_as(Caller::current().among(&theirs), None);
            assert_eq!(refused.err(), Some(LockError::OtherParticipants));
        });
    });
    drop(guard);
}

#[test]
fn a_participant_that_left_with_a_lock_is_not_dead() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let mutex = Shared::new(Mutex::new(0u64)).unwrap();
    let table = Participants::new(4).unwrap();
    let (leaves, stays) = (table.join().unwrap(), table.join().unwrap());
    forget(
        mutex
            .lock_as(Caller::current().among(&leaves), None)
            .unwrap(),
    );
    drop(leaves);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let refused = mutex.lock_as(
                Caller::current().among(&stays),
                Duration::from_millis(80), // more than the first inner bound
            );
            assert_eq!(refused.err(), Some(LockError::Timeout));
        });
    });
}
