//! Models of `Condition`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): a waiter that sleeps on though SLEEPERS was cleared under it, a
//! notifier that clears SLEEPERS and does not wake again.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;
use multiprocess_sync::{Condition, Lock};

struct Counter {
    lock: Lock,
    changed: Condition,
    value: AtomicU32,
}

impl Counter {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock::new(),
            changed: Condition::new(),
            value: AtomicU32::new(0),
        })
    }

    /// Changes the value with the lock held, and notifies without.
    fn increment(&self) {
        let guard = self.lock.lock().unwrap();
        self.value.store(self.value.load(Relaxed) + 1, Relaxed);
        drop(guard);
        self.changed.notify(1);
    }

    fn wait_until(&self, value: u32) {
        let guard = self.lock.lock().unwrap();
        let there = |_: &mut _| self.value.load(Relaxed) >= value;
        assert!(self.changed.wait_for(guard, None, there).unwrap().1);
    }
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(f);
}

#[test]
fn a_waiter_is_notified() {
    model(3, || {
        let counter = Counter::new();
        let waiter = Arc::clone(&counter);
        let waiter = thread::spawn(move || waiter.wait_until(1));
        counter.increment();
        waiter.join().unwrap();
    });
}

/// A waiter that is gone left SLEEPERS behind. A notifier that finds nobody asleep clears it, while
/// the next waiter, which found it set, falls asleep.
#[test]
fn a_hint_left_by_the_dead_is_cleared_under_no_sleeper() {
    model(3, || {
        let counter = Counter::new();
        let _ = counter.changed.watch();
        let waiter = Arc::clone(&counter);
        let waiter = thread::spawn(move || waiter.wait_until(2));
        counter.increment();
        counter.increment();
        waiter.join().unwrap();
    });
}
