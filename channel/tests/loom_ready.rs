//! Models of ends that are waited for by `wait_any`. Time stands still in a model and no inner bound helps: a
//! lost wake is a deadlock. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features --test loom_ready`.
//!
//! Shown to fail (`.ci/mutants`, `ready/`): each kind of end armed without an announcement, or without
//! another look after it; a token of the last sleep left in the doorbell.
#![cfg(loom)]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use common::Heap;
use loom::thread;
use multiprocess_channel::{NoPeers, TryRecvError, TrySendError, broadcast, bytes, mpmc, spsc};
use multiprocess_sync::{Event, Source, wait_any};
use setup::Process;

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 50_000;
    builder.check(f);
}

fn wait_for(source: &dyn Source) {
    let never = Event::new();
    assert_eq!(wait_any(&[&never, source], None), Ok(1));
}

#[test]
fn a_consumer_of_spsc_sleeps_past_no_message_and_no_close() {
    model(3, || {
        let heap = Heap::holding::<spsc::Ring<u32>>(1);
        let mut producer = spsc::Producer::<u32, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let mut consumer = spsc::Consumer::<u32, _, _>::attach(heap, NoPeers).unwrap();
        let thread = thread::spawn(move || producer.try_push(1).unwrap());
        wait_for(&consumer);
        if consumer.try_pop() != Err(TryRecvError::Disconnected) {
            wait_for(&consumer);
            assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_producer_of_spsc_sleeps_past_no_room() {
    model(2, || {
        let heap = Heap::holding::<spsc::Ring<u32>>(1);
        let mut producer = spsc::Producer::<u32, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let mut consumer = spsc::Consumer::<u32, _, _>::attach(heap, NoPeers).unwrap();
        producer.try_push(1).unwrap();
        let thread = thread::spawn(move || {
            assert_eq!(consumer.try_pop(), Ok(1));
            consumer
        });
        while producer.try_push(2) == Err(TrySendError::Full(2)) {
            wait_for(&producer);
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn ends_of_bytes_sleep_past_nothing() {
    model(2, || {
        let heap = Heap::holding::<bytes::Ring>(16);
        let mut producer = bytes::Producer::attach(heap.clone(), NoPeers).unwrap();
        let mut consumer = bytes::Consumer::attach(heap, NoPeers).unwrap();
        producer.try_push(&[]).unwrap();
        producer.try_push(&[]).unwrap();
        let thread = thread::spawn(move || {
            while producer.try_push(&[]).is_err() {
                wait_for(&producer);
            }
        });
        for _ in 0..3 {
            while consumer.try_pop_into(&mut []).is_err() {
                wait_for(&consumer);
            }
        }
        thread.join().unwrap();
    });
}

#[test]
fn ends_of_mpmc_sleep_past_nothing() {
    model(2, || {
        let heap = Heap::holding::<mpmc::Ring<u32>>(mpmc::Config::new(2).endpoints(2));
        let mut sender = mpmc::Sender::<u32, _, _>::attach(heap.clone(), Process(1)).unwrap();
        let mut receiver = mpmc::Receiver::<u32, _, _>::attach(heap, Process(2)).unwrap();
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        let thread = thread::spawn(move || {
            assert_eq!(receiver.try_recv(), Ok(1));
            receiver
        });
        wait_for(&sender);
        assert_eq!(sender.try_send(3), Ok(()));
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_receiver_of_mpmc_sleeps_past_no_message() {
    model(2, || {
        let heap = Heap::holding::<mpmc::Ring<u32>>(mpmc::Config::new(2).endpoints(2));
        let mut sender = mpmc::Sender::<u32, _, _>::attach(heap.clone(), Process(1)).unwrap();
        let mut receiver = mpmc::Receiver::<u32, _, _>::attach(heap, Process(2)).unwrap();
        let thread = thread::spawn(move || {
            sender.try_send(1).unwrap();
            sender
        });
        wait_for(&receiver);
        assert_eq!(receiver.try_recv(), Ok(1));
        drop(thread.join().unwrap());
    });
}

#[test]
fn ends_of_broadcast_sleep_past_nothing() {
    model(2, || {
        let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(1));
        let (mut sender, mut receiver) = (setup::sender(&heap), setup::lossless(&heap, 2));
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        let thread = thread::spawn(move || {
            assert_eq!(receiver.try_recv(), Ok(1));
            receiver
        });
        wait_for(&sender);
        assert_eq!(sender.try_send(3), Ok(()));
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_receiver_of_broadcast_sleeps_past_no_message() {
    model(2, || {
        let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(1));
        let (mut sender, mut receiver) = (setup::sender(&heap), setup::lossless(&heap, 2));
        let thread = thread::spawn(move || {
            sender.try_send(1).unwrap();
            sender
        });
        wait_for(&receiver);
        assert_eq!(receiver.try_recv(), Ok(1));
        drop(thread.join().unwrap());
    });
}
