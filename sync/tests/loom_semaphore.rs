//! Models of `Semaphore`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): the CAS in `release_many` made Relaxed, the CAS in `take` made
//! Relaxed, the wake left out, one wake for many permits, the WAITERS bit not set before parking,
//! a release that drops the WAITERS bit.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use multiprocess_sync::{BoundedSemaphore, ReleaseError, Semaphore, WaitError};

struct Stage {
    semaphore: Semaphore,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is accessed by whoever has the permit for it; loom checks exactly that.
unsafe impl Sync for Stage {}
// SAFETY: as above.
unsafe impl Send for Stage {}

impl Stage {
    fn new(permits: u32) -> Arc<Self> {
        Arc::new(Self {
            semaphore: Semaphore::new(permits).unwrap(),
            value: UnsafeCell::new(0),
        })
    }

    fn increment(&self) {
        let _permit = self.semaphore.permit(None).unwrap();
        // SAFETY: the only permit is held.
        self.value.with_mut(|value| unsafe { *value += 1 });
    }
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(f);
}

#[test]
fn one_permit_is_a_lock() {
    model(Some(4), || {
        let stage = Stage::new(1);
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || {
            other.increment();
            other.increment();
        });
        stage.increment();
        stage.increment();
        thread.join().unwrap();
        // SAFETY: the other thread has ended.
        assert_eq!(stage.value.with(|value| unsafe { *value }), 4);
        assert_eq!(stage.semaphore.value(), 1);
    });
}

#[test]
fn an_acquirer_sees_what_the_releaser_wrote() {
    model(None, || {
        let stage = Stage::new(0);
        let consumer = Arc::clone(&stage);
        let thread = thread::spawn(move || {
            consumer.semaphore.acquire().unwrap();
            // SAFETY: the permit came after the value.
            assert_eq!(consumer.value.with(|value| unsafe { *value }), 7);
        });
        // SAFETY: no permit yet, nobody reads.
        stage.value.with_mut(|value| unsafe { *value = 7 });
        stage.semaphore.release().unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn one_release_of_two_wakes_two() {
    model(Some(3), || {
        let stage = Stage::new(0);
        let waiters = [(); 2].map(|()| {
            let waiter = Arc::clone(&stage);
            thread::spawn(move || waiter.semaphore.acquire().unwrap())
        });
        stage.semaphore.release_many(2).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(stage.semaphore.value(), 0);
    });
}

/// Two sleepers, and one permit that goes round: whoever has it must wake the other.
#[test]
fn a_permit_goes_round_among_sleepers() {
    model(Some(3), || {
        let stage = Stage::new(0);
        let waiters = [(); 2].map(|()| {
            let waiter = Arc::clone(&stage);
            thread::spawn(move || waiter.increment())
        });
        stage.semaphore.release().unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(stage.semaphore.value(), 1);
    });
}

#[test]
fn a_release_and_a_timeout_lose_no_permit_and_double_none() {
    model(Some(3), || {
        let stage = Stage::new(0);
        let waiter = Arc::clone(&stage);
        let timed = thread::spawn(move || {
            let timeout = core::time::Duration::from_millis(1);
            match waiter.semaphore.acquire_timeout(timeout) {
                Ok(()) => 1,
                Err(error) => {
                    assert_eq!(error, WaitError::Timeout);
                    0
                }
            }
        });
        let clock = thread::spawn(|| multiprocess_core::model::expire_one());
        stage.semaphore.release().unwrap();
        clock.join().unwrap();
        let taken = timed.join().unwrap();
        assert_eq!(stage.semaphore.value() + taken, 1);
    });
}

/// A bit that a timed-out waiter left is cleared while another falls asleep.
#[test]
fn a_bit_in_vain_hides_no_sleeper() {
    model(Some(3), || {
        let stage = Stage::new(0);
        let (timed, waiter) = (Arc::clone(&stage), Arc::clone(&stage));
        let timed = thread::spawn(move || {
            let timeout = core::time::Duration::from_millis(1);
            let taken = timed.semaphore.acquire_timeout(timeout).is_ok();
            timed.semaphore.release().unwrap();
            u32::from(taken)
        });
        let waiter = thread::spawn(move || waiter.semaphore.acquire().unwrap());
        multiprocess_core::model::expire_one();
        stage.semaphore.release().unwrap();
        waiter.join().unwrap();
        stage.semaphore.release().unwrap(); // if nobody's time ran out
        let taken = timed.join().unwrap();
        // Three releases; the waiter's permit, and perhaps the timed one's.
        assert_eq!(stage.semaphore.value() + taken, 2);
    });
}

#[test]
fn of_two_releases_for_one_place_one_is_refused() {
    model(None, || {
        let slots = Arc::new(BoundedSemaphore::with_max(1, 2).unwrap());
        let other = Arc::clone(&slots);
        let thread = thread::spawn(move || other.release());
        let results = [slots.release(), thread.join().unwrap()];
        let refused = results.iter().filter(|r| **r == Err(ReleaseError::TooMany));
        assert_eq!(refused.count(), 1);
        assert_eq!(slots.value(), 2);
    });
}
