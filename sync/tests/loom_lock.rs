//! Models of `Lock`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants` breaks the source and expects these models to object):
//! the swap in `release` made Relaxed, the CAS in `lock_as` made Relaxed, the wake left out,
//! the WAITERS bit not set before parking.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use multiprocess_sync::{Lock, LockError};

struct Counter {
    lock: Lock,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is accessed under `lock` only; loom checks exactly that.
unsafe impl Sync for Counter {}
// SAFETY: as above.
unsafe impl Send for Counter {}

impl Counter {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock::new(),
            value: UnsafeCell::new(0),
        })
    }

    fn increment(&self) {
        let _guard = self.lock.lock().unwrap();
        // SAFETY: the lock is held.
        self.value.with_mut(|value| unsafe { *value += 1 });
    }

    fn get(&self) -> u32 {
        let _guard = self.lock.lock().unwrap();
        // SAFETY: the lock is held.
        self.value.with(|value| unsafe { *value })
    }
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(f);
}

#[test]
fn two_threads_lock_twice_each() {
    model(Some(4), || {
        let counter = Counter::new();
        let other = Arc::clone(&counter);
        let thread = thread::spawn(move || {
            other.increment();
            other.increment();
        });
        counter.increment();
        counter.increment();
        thread.join().unwrap();
        assert_eq!(counter.get(), 4);
    });
}

#[test]
fn three_threads_lock_once_each() {
    model(Some(2), || {
        let counter = Counter::new();
        let threads = [(); 2].map(|()| {
            let other = Arc::clone(&counter);
            thread::spawn(move || other.increment())
        });
        counter.increment();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(counter.get(), 3);
    });
}

#[test]
fn another_thread_may_release() {
    model(None, || {
        let counter = Counter::new();
        core::mem::forget(counter.lock.lock().unwrap());
        let other = Arc::clone(&counter);
        let thread = thread::spawn(move || {
            // SAFETY: the main thread holds the lock and left it to us.
            other.value.with_mut(|value| unsafe { *value += 1 });
            other.lock.release().unwrap();
        });
        assert_eq!(counter.get(), 1);
        thread.join().unwrap();
    });
}

#[test]
fn a_timed_out_waiter_takes_no_wake_with_it() {
    model(Some(3), || {
        let counter = Counter::new();
        core::mem::forget(counter.lock.lock().unwrap());
        let waiter = Arc::clone(&counter);
        let timed = thread::spawn(move || {
            match waiter
                .lock
                .lock_timeout(core::time::Duration::from_millis(1))
            {
                Ok(_guard) => {}
                Err(error) => assert_eq!(error, LockError::Timeout),
            }
        });
        let clock = thread::spawn(move || multiprocess_core::model::expire_one());
        counter.lock.release().unwrap();
        clock.join().unwrap();
        timed.join().unwrap();
        assert!(!counter.lock.is_locked());
    });
}
