//! Models of `RawMutex`, with a kernel that marks the words of the dead; of `RwLock`, `Once` and
//! `Condition` on top of it. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): a release that orders nothing, an acquisition that orders
//! nothing, no wake, a waiter that does not announce itself, a reader or a writer without its
//! fence, a gate that is not opened, a condition that announces its sleeper too late.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use multiprocess_core::Timeout;
use multiprocess_core::thread::{Caller, Thread};
use multiprocess_sync::{Condition, LockError, Mutex, Once, RawMutex, RwLock};

/// Each model's own threads have numbers of their own.
fn as_thread<R>(id: u32, f: impl FnOnce(Caller<'_>) -> R) -> R {
    let thread = Thread::model(id);
    f(Caller::new(&thread))
}

fn bounded(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(f);
}

fn add(mutex: &Mutex<u32>, id: u32) {
    as_thread(id, |me| *mutex.lock_as(me, Timeout::Never).unwrap() += 1);
}

#[test]
fn two_threads_lock_twice_each() {
    bounded(3, || {
        let mutex = Arc::new(Mutex::new(0));
        let other = mutex.clone();
        let thread = thread::spawn(move || {
            add(&other, 2);
            add(&other, 2);
        });
        add(&mutex, 1);
        add(&mutex, 1);
        thread.join().unwrap();
        as_thread(1, |me| assert_eq!(*mutex.lock_as(me, None).unwrap(), 4));
    });
}

#[test]
fn three_threads_lock_once_each() {
    bounded(2, || {
        let mutex = Arc::new(Mutex::new(0));
        let threads: Vec<_> = (2..4)
            .map(|id| {
                let other = mutex.clone();
                thread::spawn(move || add(&other, id))
            })
            .collect();
        add(&mutex, 1);
        for thread in threads {
            thread.join().unwrap();
        }
        as_thread(1, |me| assert_eq!(*mutex.lock_as(me, None).unwrap(), 3));
    });
}

struct Guarded {
    mutex: RawMutex,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is accessed under the mutex only; loom checks exactly that.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

#[test]
fn a_sleeper_inherits_from_a_dead_owner_what_that_wrote() {
    bounded(3, || {
        let shared = Arc::new(Guarded {
            mutex: RawMutex::new(),
            value: UnsafeCell::new(0),
        });
        let dying = shared.clone();
        let thread = thread::spawn(move || {
            as_thread(2, |me| dying.mutex.acquire(&me, None).unwrap());
            // SAFETY: the mutex is held.
            dying.value.with_mut(|value| unsafe { *value = 7 });
            dying.mutex.kernel_ends(2); // and never runs again
        });
        as_thread(1, |me| match shared.mutex.acquire(&me, None) {
            Ok(()) => shared.mutex.release(&me).unwrap(), // before it
            Err(LockError::OwnerDied(())) => {
                // SAFETY: the mutex is held.
                shared.value.with(|value| assert_eq!(unsafe { *value }, 7));
                shared.mutex.mark_consistent(&me).unwrap();
                shared.mutex.release(&me).unwrap();
            }
            Err(error) => panic!("{error}"),
        });
        thread.join().unwrap();
        as_thread(1, |me| {
            let again = shared.mutex.acquire(&me, None);
            assert!(matches!(again, Ok(()) | Err(LockError::OwnerDied(()))));
        });
    });
}

#[test]
fn an_unrepaired_lock_refuses_everybody_and_strands_nobody() {
    bounded(2, || {
        let mutex = Arc::new(RawMutex::new());
        as_thread(9, |me| mutex.acquire(&me, None).unwrap());
        mutex.kernel_ends(9);
        let other = mutex.clone();
        let end = |mutex: &RawMutex, id| {
            as_thread(id, |me| match mutex.acquire(&me, None) {
                Err(LockError::OwnerDied(())) => mutex.release(&me).unwrap(),
                Err(LockError::NotRecoverable) => {}
                other => panic!("{other:?}"),
            });
        };
        let thread = thread::spawn(move || end(&other, 2));
        end(&mutex, 1);
        thread.join().unwrap();
        as_thread(1, |me| {
            assert_eq!(mutex.acquire(&me, None), Err(LockError::NotRecoverable));
        });
    });
}

#[test]
fn a_reader_and_a_writer_exclude_each_other() {
    bounded(3, || {
        let lock = Arc::new(RwLock::<u32, 2>::new(0));
        let other = lock.clone();
        let thread = thread::spawn(move || {
            as_thread(2, |me| *other.write_as(me, None).unwrap() += 1);
        });
        as_thread(1, |me| assert!(*lock.read_as(me, None).unwrap() <= 1));
        thread.join().unwrap();
        as_thread(1, |me| assert_eq!(*lock.read_as(me, None).unwrap(), 1));
    });
}

#[test]
fn a_reader_that_sleeps_at_the_gate_is_let_in() {
    bounded(2, || {
        let lock = Arc::new(RwLock::<u32, 2>::new(0));
        let other = lock.clone();
        let guard_thread = Thread::model(1);
        let guard = lock.write_as(Caller::new(&guard_thread), None).unwrap();
        let thread = thread::spawn(move || {
            as_thread(2, |me| *other.read_as(me, None).unwrap());
        });
        drop(guard);
        thread.join().unwrap();
    });
}

#[test]
fn one_of_two_does_it_and_both_see_it() {
    bounded(3, || {
        let shared = Arc::new((Once::new(), UnsafeCellSync(UnsafeCell::new(0))));
        let other = shared.clone();
        let run = |shared: &(Once, UnsafeCellSync), id| {
            as_thread(id, |me| {
                shared
                    .0
                    .call_once_as(me, None, || {
                        // SAFETY: it is this thread's turn.
                        shared.1.0.with_mut(|value| unsafe { *value += 1 });
                    })
                    .unwrap();
            });
            // SAFETY: done: nobody writes any more.
            shared.1.0.with(|value| assert_eq!(unsafe { *value }, 1));
        };
        let thread = thread::spawn(move || run(&other, 2));
        run(&shared, 1);
        thread.join().unwrap();
    });
}

struct UnsafeCellSync(UnsafeCell<u32>);

// SAFETY: accessed as the model under test allows; loom checks exactly that.
unsafe impl Sync for UnsafeCellSync {}
// SAFETY: as above.
unsafe impl Send for UnsafeCellSync {}

#[test]
fn a_waiter_gets_the_notification_that_follows_the_change() {
    bounded(3, || {
        let shared = Arc::new((Mutex::new(0u32), Condition::new()));
        let other = shared.clone();
        let thread = thread::spawn(move || {
            as_thread(2, |me| *other.0.lock_as(me, None).unwrap() = 1);
            other.1.notify(1); // after the change, without the lock
        });
        as_thread(1, |me| {
            let guard = shared.0.lock_as(me, None).unwrap();
            let (guard, there) = shared.1.wait_for(guard, None, |n| **n == 1).unwrap();
            assert!(there && *guard == 1);
        });
        thread.join().unwrap();
    });
}

#[test]
fn notify_all_reaches_two_waiters() {
    bounded(2, || {
        let shared = Arc::new((Mutex::new(0u32), Condition::new()));
        let threads: Vec<_> = (2..4)
            .map(|id| {
                let other = shared.clone();
                thread::spawn(move || {
                    as_thread(id, |me| {
                        let guard = other.0.lock_as(me, None).unwrap();
                        let (_, there) = other.1.wait_for(guard, None, |n| **n == 1).unwrap();
                        assert!(there);
                    });
                })
            })
            .collect();
        as_thread(1, |me| {
            let mut guard = shared.0.lock_as(me, None).unwrap();
            *guard = 1;
            shared.1.notify_all();
        });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
