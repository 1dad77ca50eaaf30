//! Models of `spsc`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features`.
//!
//! Shown to fail (`.ci/mutants`): the index stored Relaxed, the index loaded Relaxed, the
//! index stored before the slot is written, the fence of sleeper or waker left out, the close
//! not waking, the close looked for after the index; a batch published before it is written, or given
//! back before it is read; a role taken over by a store; with light fences that are nothing: the close
//! and the index stored Relaxed.
#![cfg(loom)]

mod common;

use common::Heap;
use loom::thread;
use multiprocess_channel::spsc::{Consumer, Producer, Ring};
use multiprocess_channel::{NoPeers, RecvError, SendError, TryRecvError, TrySendError};
use multiprocess_core::model::LightIsNothing;
use multiprocess_core::{ParticipantId, Peers};

type Ends = (Producer<u32, Heap, NoPeers>, Consumer<u32, Heap, NoPeers>);

fn ring(capacity: u64) -> Ends {
    let heap = Heap::holding::<Ring<u32>>(capacity);
    (
        Producer::attach(heap.clone(), NoPeers).unwrap(),
        Consumer::attach(heap, NoPeers).unwrap(),
    )
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 50_000;
    builder.check(f);
}

#[test]
fn messages_arrive_whole_and_in_order_across_the_wrap() {
    model(Some(3), || {
        let (mut producer, mut consumer) = ring(2);
        let thread = thread::spawn(move || {
            for i in 1..=3 {
                while producer.try_push(i).is_err() {
                    thread::yield_now();
                }
            }
            producer
        });
        for i in 1..=3 {
            let got = loop {
                match consumer.try_pop() {
                    Ok(got) => break got,
                    Err(TryRecvError::Empty) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            };
            assert_eq!(got, i);
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn full_and_empty_are_told_truly() {
    model(None, || {
        let (mut producer, mut consumer) = ring(1);
        let thread = thread::spawn(move || {
            let first = producer.try_push(1);
            assert_eq!(first, Ok(()));
            // Accepted only if the first message was taken.
            match producer.try_push(2) {
                Ok(()) => true,
                Err(TrySendError::Full(2)) => false,
                other => panic!("{other:?}"),
            }
        });
        let first = consumer.try_pop();
        assert!(
            matches!(first, Ok(1) | Err(TryRecvError::Empty)),
            "{first:?}"
        );
        let second_sent = thread.join().unwrap();
        assert!(first.is_ok() || !second_sent);
        if first.is_err() {
            assert_eq!(consumer.try_pop(), Ok(1));
        }
        if second_sent {
            assert_eq!(consumer.try_pop(), Ok(2));
        }
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
    });
}

#[test]
fn a_sleeping_consumer_is_handed_the_message() {
    model(Some(3), || {
        let (mut producer, mut consumer) = ring(1);
        let thread = thread::spawn(move || {
            producer.push(7).unwrap();
            producer
        });
        assert_eq!(consumer.pop(), Ok(7));
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_sleeping_producer_is_handed_the_room() {
    model(Some(2), || {
        let (mut producer, mut consumer) = ring(1);
        producer.push(1).unwrap();
        let thread = thread::spawn(move || {
            producer.push(2).unwrap();
            producer
        });
        assert_eq!(consumer.pop(), Ok(1));
        assert_eq!(consumer.pop(), Ok(2));
        drop(thread.join().unwrap());
    });
}

#[test]
fn close_is_seen_after_the_last_message_and_wakes_the_consumer() {
    model(Some(3), || {
        let (mut producer, mut consumer) = ring(2);
        let thread = thread::spawn(move || producer.push(7).unwrap());
        assert_eq!(consumer.pop(), Ok(7));
        assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
        thread.join().unwrap();
    });
}

#[test]
fn close_of_the_consumer_wakes_the_producer() {
    model(Some(3), || {
        let (mut producer, consumer) = ring(1);
        producer.push(1).unwrap();
        let thread = thread::spawn(move || drop(consumer));
        assert_eq!(producer.push(2), Err(SendError::Disconnected(2)));
        thread.join().unwrap();
    });
}

#[test]
fn a_light_publisher_orders_message_and_close() {
    model(None, || {
        let _light = LightIsNothing::new();
        let (mut producer, mut consumer) = ring(2);
        let thread = thread::spawn(move || {
            assert_eq!(producer.try_push(7), Ok(()));
            assert_eq!(producer.try_push(8), Ok(())); // light by now
        });
        let mut got = Vec::new();
        loop {
            match consumer.try_pop() {
                Ok(message) => got.push(message),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(TryRecvError::Disconnected) => break,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(got, [7, 8]);
        thread.join().unwrap();
    });
}

#[test]
fn batches_arrive_whole_and_in_order_across_the_wrap() {
    model(Some(3), || {
        let (mut producer, mut consumer) = ring(2);
        let thread = thread::spawn(move || {
            let mut rest = [1, 2, 3].as_slice();
            while !rest.is_empty() {
                match producer.try_push_slice(rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(TrySendError::Full(())) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
            producer
        });
        let mut got: Vec<u32> = Vec::new();
        let mut batch = [0_u32; 2];
        while got.len() < 3 {
            match consumer.try_pop_slice(&mut batch) {
                Ok(count) => got.extend(&batch[..count]),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(got, [1, 2, 3]);
        drop(thread.join().unwrap());
    });
}

/// A participant by number; those from 90 on are dead.
#[derive(Clone, Copy)]
struct Process(u16);

// SAFETY: those from 90 on run no more when others ask.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() >= 90
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

#[test]
fn of_two_successors_one_gets_the_end() {
    model(None, || {
        let heap = Heap::holding::<Ring<u32>>(4);
        let mut dead = Producer::attach(heap.clone(), Process(90)).unwrap();
        dead.try_push(1_u32).unwrap();
        std::mem::forget(dead);
        let succeed = |heap: Heap, number: u16| {
            let mut producer = Producer::<u32, _, _>::attach(heap, Process(number)).ok()?;
            producer.try_push(u32::from(number)).unwrap();
            std::mem::forget(producer);
            Some(())
        };
        let other = heap.clone();
        let thread = thread::spawn(move || succeed(other, 2));
        let first = succeed(heap.clone(), 3);
        let second = thread.join().unwrap();
        assert!(first.is_some() != second.is_some());
        let mut consumer = Consumer::<u32, _, _>::attach(heap, Process(4)).unwrap();
        assert_eq!(consumer.try_pop(), Ok(1));
        assert_eq!(consumer.try_pop(), Ok(if first.is_some() { 3 } else { 2 }));
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    });
}
