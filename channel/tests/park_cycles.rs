//! No wake-up is lost: two threads that sleep for every message, since they do not spin, at every kind of
//! ring; by the blocking calls, and by `wait_any`.
//!
//! The long form, a million messages each way per ring:
//! `PARK_CYCLES=1000000 cargo test --release -p multiprocess-channel --test park_cycles -- --nocapture
//! --test-threads=1`. A wake-up that is lost all the same is made up for at the inner bound of the sleep: what
//! is printed beside the number of sleeps is how many waits were as long as that, of which there are
//! some on a machine that is busy with other things.
#![cfg(not(loom))]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use common::Heap;
use multiprocess_channel::{NoPeers, TryRecvError, TrySendError, bytes, mpmc, spsc};
use multiprocess_channel::{TryReserveError, broadcast};
use multiprocess_core::park::Patience;
use multiprocess_sync::{Event, Source, wait_any};
use multiprocess_testkit::watchdog::Watchdog;
use setup::Process;

fn cycles() -> u64 {
    let asked = std::env::var("PARK_CYCLES").ok();
    asked.map_or(10_000, |cycles| cycles.parse().unwrap())
}

/// How often this thread gave up the CPU of itself.
fn sleeps() -> u64 {
    // SAFETY: plain data, which the call fills in.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage
    };
    usage.ru_nvcsw.cast_unsigned()
}

#[derive(Default)]
struct Tally {
    sleeps: AtomicU64,
    as_long_as_the_inner_bound: AtomicU64,
}

impl Tally {
    fn timed<R>(&self, wait: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = wait();
        if start.elapsed() >= Patience::FIRST {
            self.as_long_as_the_inner_bound.fetch_add(1, Relaxed);
        }
        result
    }

    fn run(&self, steps: impl FnOnce()) {
        let before = sleeps();
        steps();
        self.sleeps.fetch_add(sleeps() - before, Relaxed);
    }

    fn report(&self, what: &str, messages: u64) {
        println!(
            "{what}: {messages} messages, {} sleeps, {} waits of 50 ms or more",
            self.sleeps.load(Relaxed),
            self.as_long_as_the_inner_bound.load(Relaxed),
        );
    }
}

/// What sends a number, and what receives one.
type Ring = (Box<dyn FnMut(u64) + Send>, Box<dyn FnMut() -> u64 + Send>);

/// Each message answers the one before it, so that both threads sleep for each.
fn ping_pong(what: &str, make: impl Fn() -> Ring) {
    let _watchdog = Watchdog::seconds(120 + cycles() / 1000);
    let ((mut ask, mut asked), (mut answer, mut answered)) = (make(), make());
    let tally = Tally::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            tally.run(|| {
                for number in 0..cycles() {
                    assert_eq!(tally.timed(&mut asked), number);
                    answer(number);
                }
            });
        });
        tally.run(|| {
            for number in 0..cycles() {
                ask(number);
                assert_eq!(tally.timed(&mut answered), number);
            }
        });
    });
    tally.report(&format!("{what}, in turn"), 2 * cycles());
}

/// A ring that is soon full: the sender sleeps for room, the receiver for messages.
fn stream(what: &str, (mut send, mut receive): Ring) {
    let _watchdog = Watchdog::seconds(120 + cycles() / 1000);
    let tally = Tally::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            tally.run(|| {
                for number in 0..cycles() {
                    assert_eq!(tally.timed(&mut receive), number);
                }
            });
        });
        tally.run(|| (0..cycles()).for_each(|number| tally.timed(|| send(number))));
    });
    tally.report(&format!("{what}, in a stream"), cycles());
}

fn both(what: &str, make: impl Fn() -> Ring) {
    ping_pong(what, &make);
    stream(what, make());
}

fn wait_for(source: &dyn Source) {
    let never = Event::new();
    assert_eq!(wait_any(&[&never, source], None), Ok(1));
}

#[test]
fn spsc_loses_no_wake_up() {
    let ends = || {
        let heap = Heap::holding::<spsc::Ring<u64>>(2);
        let mut producer = spsc::Producer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let mut consumer = spsc::Consumer::<u64, _, _>::attach(heap, NoPeers).unwrap();
        producer.set_spin_cap(0);
        consumer.set_spin_cap(0);
        (producer, consumer)
    };
    both("spsc", || {
        let (mut producer, mut consumer) = ends();
        (
            Box::new(move |number| producer.push(number).unwrap()),
            Box::new(move || consumer.pop().unwrap()),
        )
    });
    both("spsc by wait_any", || {
        let (mut producer, mut consumer) = ends();
        (
            Box::new(move |number| {
                while producer.try_push(number) == Err(TrySendError::Full(number)) {
                    wait_for(&producer);
                }
            }),
            Box::new(move || {
                loop {
                    match consumer.try_pop() {
                        Err(TryRecvError::Empty) => wait_for(&consumer),
                        other => break other.unwrap(),
                    }
                }
            }),
        )
    });
}

#[test]
fn bytes_loses_no_wake_up() {
    let ends = || {
        let heap = Heap::holding::<bytes::Ring>(64);
        let mut producer = bytes::Producer::attach(heap.clone(), NoPeers).unwrap();
        let mut consumer = bytes::Consumer::attach(heap, NoPeers).unwrap();
        producer.set_spin_cap(0);
        consumer.set_spin_cap(0);
        (producer, consumer)
    };
    both("bytes", || {
        let (mut producer, mut consumer) = ends();
        (
            Box::new(move |number: u64| producer.push(&number.to_ne_bytes()).unwrap()),
            Box::new(move || {
                let record = consumer.peek().unwrap();
                let number = u64::from_ne_bytes((*record).try_into().unwrap());
                record.release();
                number
            }),
        )
    });
    both("bytes by wait_any", || {
        let (mut producer, mut consumer) = ends();
        (
            Box::new(move |number: u64| {
                while producer.try_push(&number.to_ne_bytes()) == Err(TryReserveError::Full) {
                    wait_for(&producer);
                }
            }),
            Box::new(move || {
                let mut number = [0; 8];
                while consumer.try_pop_into(&mut number).is_err() {
                    wait_for(&consumer);
                }
                u64::from_ne_bytes(number)
            }),
        )
    });
}

#[test]
fn mpmc_loses_no_wake_up() {
    let ends = || {
        let heap = Heap::holding::<mpmc::Ring<u64>>(mpmc::Config::new(2));
        let mut sender = mpmc::Sender::<u64, _, _>::attach(heap.clone(), Process(1)).unwrap();
        let mut receiver = mpmc::Receiver::<u64, _, _>::attach(heap, Process(2)).unwrap();
        sender.set_spin_cap(0);
        receiver.set_spin_cap(0);
        (sender, receiver)
    };
    both("mpmc", || {
        let (mut sender, mut receiver) = ends();
        (
            Box::new(move |number| sender.send(number).unwrap()),
            Box::new(move || receiver.recv().unwrap()),
        )
    });
    both("mpmc by wait_any", || {
        let (mut sender, mut receiver) = ends();
        (
            Box::new(move |number| {
                while sender.try_send(number) == Err(TrySendError::Full(number)) {
                    wait_for(&sender);
                }
            }),
            Box::new(move || {
                loop {
                    match receiver.try_recv() {
                        Err(TryRecvError::Empty) => wait_for(&receiver),
                        other => break other.unwrap(),
                    }
                }
            }),
        )
    });
}

#[test]
fn broadcast_loses_no_wake_up() {
    let ends = || {
        let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(1));
        let (mut sender, mut receiver) = (setup::sender(&heap), setup::lossless(&heap, 2));
        sender.set_spin_cap(0);
        receiver.set_spin_cap(0);
        (sender, receiver)
    };
    both("broadcast", || {
        let (mut sender, mut receiver) = ends();
        (
            Box::new(move |number| sender.send(number).unwrap()),
            Box::new(move || receiver.recv().unwrap()),
        )
    });
    both("broadcast by wait_any", || {
        let (mut sender, mut receiver) = ends();
        (
            Box::new(move |number| {
                while sender.try_send(number) == Err(TrySendError::Full(number)) {
                    wait_for(&sender);
                }
            }),
            Box::new(move || {
                loop {
                    match receiver.try_recv() {
                        Err(TryRecvError::Empty) => wait_for(&receiver),
                        other => break other.unwrap(),
                    }
                }
            }),
        )
    });
    // The lossy one, which nobody waits for: only in turn.
    ping_pong("broadcast, lossy", || {
        let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(0));
        let mut sender = setup::sender(&heap);
        let memory = setup::Shared(heap, true);
        let mut receiver = broadcast::Receiver::attach(memory, broadcast::Start::Next).unwrap();
        receiver.set_spin_cap(0);
        (
            Box::new(move |number| sender.send(number).unwrap()),
            Box::new(move || receiver.recv().unwrap()),
        )
    });
}
