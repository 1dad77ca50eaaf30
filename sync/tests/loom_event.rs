//! Models of `Event`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): the CAS in `set` made Relaxed, the wake left out, the
//! generation left out.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use multiprocess_sync::Event;

struct Message {
    event: Event,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is written before `event` is set and read after it was waited for.
unsafe impl Sync for Message {}
// SAFETY: as above.
unsafe impl Send for Message {}

impl Message {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            event: Event::new(),
            value: UnsafeCell::new(0),
        })
    }

    fn receive(&self) -> u32 {
        self.event.wait().unwrap();
        // SAFETY: the event was set after the value was written.
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
fn a_waiter_sees_what_the_setter_wrote() {
    model(None, || {
        let message = Message::new();
        let waiter = Arc::clone(&message);
        let waiter = thread::spawn(move || assert_eq!(waiter.receive(), 7));
        // SAFETY: nobody reads before the event is set.
        message.value.with_mut(|value| unsafe { *value = 7 });
        message.event.set();
        waiter.join().unwrap();
    });
}

#[test]
fn set_releases_every_waiter() {
    model(Some(3), || {
        let message = Message::new();
        let waiters = [(); 2].map(|()| {
            let waiter = Arc::clone(&message);
            thread::spawn(move || waiter.event.wait().unwrap())
        });
        message.event.set();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn a_waiter_that_was_asleep_passes_though_clear_follows_set() {
    model(None, || {
        let message = Message::new();
        let waiter = Arc::clone(&message);
        let waiter = thread::spawn(move || waiter.event.wait().unwrap());
        while !format!("{:?}", message.event).contains("waiters: true") {
            thread::yield_now();
        }
        message.event.set();
        message.event.clear();
        waiter.join().unwrap();
    });
}
