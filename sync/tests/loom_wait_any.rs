//! Models of `wait_any` and of `Doorbell`. Time stands still in a model and no inner bound helps: a
//! lost wake is a deadlock. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): an event that is armed without an announcement, a wake that is not
//! passed on, a doorbell without the fence of any side, a sleeper that does not look after arming, a
//! ring that does not wake, a poller that arms without changing the word.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use multiprocess_core::Timeout;
use multiprocess_sync::{Doorbell, Event, Lock, Source, wait_any, wait_any_with};

#[derive(Default)]
struct Stage {
    events: [Event; 2],
    bell: Doorbell,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is written before event 1 is set, and read after it was waited for.
unsafe impl Sync for Stage {}
// SAFETY: as above.
unsafe impl Send for Stage {}

impl Stage {
    fn sources(&self) -> [&dyn Source; 2] {
        [&self.events[0], &self.events[1]]
    }
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(f);
}

#[test]
fn either_event_wakes_and_what_its_setter_wrote_is_seen() {
    model(None, || {
        let stage = Arc::new(Stage::default());
        let setter = Arc::clone(&stage);
        let setter = thread::spawn(move || {
            // SAFETY: nobody reads before event 1 is set.
            setter.value.with_mut(|value| unsafe { *value = 7 });
            setter.events[1].set();
        });
        assert_eq!(wait_any(&stage.sources(), None), Ok(1));
        // SAFETY: the event was set after the value was written.
        assert_eq!(stage.value.with(|value| unsafe { *value }), 7);
        setter.join().unwrap();
    });
}

#[test]
fn two_setters_lose_no_wake() {
    model(Some(3), || {
        let stage = Arc::new(Stage::default());
        let setters = [0, 1].map(|index: usize| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || stage.events[index].set())
        });
        let mut left = stage.sources().to_vec();
        while !left.is_empty() {
            let ready = wait_any(&left, None).unwrap();
            left.remove(ready);
        }
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

/// A lock wakes one sleeper. If that is the one with two sources, and it turns to the other
/// source, the plain locker behind it must be woken all the same.
#[test]
fn a_wake_that_is_not_used_is_passed_on() {
    struct Pair {
        lock: Lock,
        event: Event,
    }
    model(Some(2), || {
        let pair = Arc::new(Pair {
            lock: Lock::new(),
            event: Event::new(),
        });
        core::mem::forget(pair.lock.lock().unwrap());
        let idler = Arc::clone(&pair);
        let idler = thread::spawn(move || {
            wait_any(&[&idler.event, &idler.lock], None).unwrap();
        });
        let locker = Arc::clone(&pair);
        let locker = thread::spawn(move || drop(locker.lock.lock().unwrap()));
        pair.lock.release().unwrap();
        idler.join().unwrap();
        locker.join().unwrap();
    });
}

#[test]
fn a_ring_after_a_set_is_never_lost() {
    model(Some(4), || {
        let stage = Arc::new(Stage::default());
        let setter = Arc::clone(&stage);
        let setter = thread::spawn(move || {
            setter.events[1].set();
            setter.bell.ring();
        });
        assert_eq!(wait_any_with(&stage.bell, &stage.sources(), None), Ok(1));
        setter.join().unwrap();
    });
}

#[test]
fn two_ringers_and_a_sleeper_that_waits_for_both() {
    model(Some(2), || {
        let stage = Arc::new(Stage::default());
        let setters = [0, 1].map(|index: usize| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                stage.events[index].set();
                stage.bell.ring();
            })
        });
        let mut left = stage.sources().to_vec();
        while !left.is_empty() {
            let ready = wait_any_with(&stage.bell, &left, None).unwrap();
            left.remove(ready);
        }
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

/// An eventfd: readable while its count is not zero.
#[derive(Default)]
struct Descriptor {
    count: Mutex<u32>,
    readable: Condvar,
}

impl Descriptor {
    fn write(&self) -> Result<(), ()> {
        *self.count.lock().unwrap() += 1;
        self.readable.notify_all();
        Ok(())
    }

    fn drain(&self) {
        *self.count.lock().unwrap() = 0;
    }

    fn poll(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.readable.wait(count).unwrap();
        }
    }
}

/// The poller drains, arms, looks and polls while two rings are under way: a ring must not take
/// away an announcement that is newer than what it has written.
#[test]
fn two_ringers_and_a_poller_that_waits_for_both() {
    model(Some(3), || {
        let stage = Arc::new((Stage::default(), Descriptor::default()));
        let setters = [0, 1].map(|index: usize| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                let (stage, descriptor) = &*stage;
                stage.events[index].set();
                stage.bell.ring_and(|| descriptor.write()).unwrap();
            })
        });
        {
            let (stage, descriptor) = &*stage;
            let all = || stage.events.iter().all(Event::is_set);
            while !all() {
                descriptor.drain();
                stage.bell.arm_poller();
                if !all() {
                    descriptor.poll();
                }
            }
        }
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

#[test]
fn a_look_announces_nobody() {
    model(None, || {
        let stage = Stage::default();
        wait_any(&stage.sources(), Timeout::TRY).unwrap_err();
        assert!(
            format!("{:?}", stage.events)
                .matches("waiters: false")
                .count()
                == 2
        );
    });
}
