//! Models of `spsc`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features`.
//!
//! Shown to fail (`.ci/mutants`): the index stored Relaxed, the index loaded Relaxed, the
//! index stored before the slot is written, the fence of sleeper or waker left out, the close
//! not waking, the close looked for after the index; a batch published before it is written, or given
//! back before it is read, or announced where it ends; a successor that does not look for the tail; a
//! role taken over by a store; the doorbell given up after the role; with light fences that are nothing:
//! the close, the index and the sign stored Relaxed.
#![cfg(loom)]

mod common;

use common::Heap;
use loom::thread;
use multiprocess_channel::spsc::{Consumer, Message, Producer, Ring};
use multiprocess_channel::{NoPeers, RecvError, SendError, TryRecvError, TrySendError};
use multiprocess_core::model::LightIsNothing;
use multiprocess_core::{ParticipantId, Peers};

/// Has a frame of its own.
type Single = [u32; 96];

type Ends<T> = (Producer<T, Heap, NoPeers>, Consumer<T, Heap, NoPeers>);

fn ring<T: Message>(capacity: u64) -> Ends<T> {
    let heap = Heap::holding::<Ring<T>>(capacity);
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

/// Three messages through two slots.
fn across_the_wrap<const N: usize>()
where
    [u32; N]: Message,
{
    model(Some(3), || {
        let (mut producer, mut consumer) = ring::<[u32; N]>(2);
        let thread = thread::spawn(move || {
            for i in 1..=3 {
                while producer.try_push([i; N]).is_err() {
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
            assert_eq!(got, [i; N]);
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn messages_arrive_whole_and_in_order_across_the_wrap() {
    across_the_wrap::<7>();
    across_the_wrap::<96>();
}

#[test]
fn full_and_empty_are_told_truly() {
    model(None, || {
        let (mut producer, mut consumer) = ring::<u32>(1);
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
        let (mut producer, mut consumer) = ring::<u32>(1);
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
        let (mut producer, mut consumer) = ring::<u32>(1);
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
        let (mut producer, mut consumer) = ring::<u32>(2);
        let thread = thread::spawn(move || producer.push(7).unwrap());
        assert_eq!(consumer.pop(), Ok(7));
        assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
        thread.join().unwrap();
    });
}

#[test]
fn close_of_the_consumer_wakes_the_producer() {
    model(Some(3), || {
        let (mut producer, consumer) = ring::<u32>(1);
        producer.push(1).unwrap();
        let thread = thread::spawn(move || drop(consumer));
        assert_eq!(producer.push(2), Err(SendError::Disconnected(2)));
        thread.join().unwrap();
    });
}

/// As many messages as the ring holds at once, all but the first of them light.
fn light<const N: usize>(count: u32)
where
    [u32; N]: Message,
{
    model(None, move || {
        let _light = LightIsNothing::new();
        let (mut producer, mut consumer) = ring::<[u32; N]>(4);
        let thread = thread::spawn(move || {
            for i in 1..=count {
                assert_eq!(producer.try_push([i; N]), Ok(()));
            }
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
        assert!((1..=count).map(|i| [i; N]).eq(got));
        thread.join().unwrap();
    });
}

#[test]
fn a_light_publisher_orders_message_and_close() {
    light::<1>(2);
}

#[test]
fn a_light_publisher_orders_messages_of_several_frames() {
    light::<96>(3);
}

/// Three messages in batches through two slots.
fn batches_across_the_wrap<const N: usize>()
where
    [u32; N]: Message,
{
    model(Some(3), || {
        let (mut producer, mut consumer) = ring::<[u32; N]>(2);
        let thread = thread::spawn(move || {
            let messages = [[1; N], [2; N], [3; N]];
            let mut rest = messages.as_slice();
            while !rest.is_empty() {
                match producer.try_push_slice(rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(TrySendError::Full(())) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
            producer
        });
        let mut got: Vec<[u32; N]> = Vec::new();
        let mut batch = [[0; N]; 2];
        while got.len() < 3 {
            match consumer.try_pop_slice(&mut batch) {
                Ok(count) => got.extend(&batch[..count]),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(got, [[1; N], [2; N], [3; N]]);
        drop(thread.join().unwrap());
    });
}

#[test]
fn batches_arrive_whole_and_in_order_across_the_wrap() {
    batches_across_the_wrap::<7>();
    batches_across_the_wrap::<96>();
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

#[test]
fn a_successor_finds_the_rest_of_a_batch_while_more_is_sent() {
    model(Some(3), || {
        let heap = Heap::holding::<Ring<Single>>(4);
        let mut producer = Producer::<Single, _, _>::attach(heap.clone(), Process(1)).unwrap();
        let mut dead = Consumer::<Single, _, _>::attach(heap.clone(), Process(90)).unwrap();
        producer.push_slice(&[[1; 96], [2; 96]]).unwrap();
        assert_eq!(dead.try_pop(), Ok([1; 96]));
        std::mem::forget(dead);
        let thread = thread::spawn(move || {
            producer.push_slice(&[[3; 96], [4; 96]]).unwrap();
            producer
        });
        let mut consumer = Consumer::<Single, _, _>::attach(heap, Process(2)).unwrap();
        for i in 2..=4 {
            let got = loop {
                match consumer.try_pop() {
                    Ok(got) => break got,
                    Err(TryRecvError::Empty) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            };
            assert_eq!(got, [i; 96]);
        }
        drop(thread.join().unwrap());
    });
}

/// The end is another's from the close on, its doorbell too: what is asleep there is woken.
#[test]
fn who_takes_over_a_closed_end_is_woken() {
    model(Some(2), || {
        let heap = Heap::holding::<Ring<u32>>(1);
        let mut producer = Producer::<u32, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let consumer = Consumer::<u32, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let closing = thread::spawn(move || drop(consumer));
        while !producer.is_disconnected() {
            thread::yield_now();
        }
        // SAFETY: its owner has closed it.
        let mut successor = unsafe { Consumer::<u32, _, _>::take_over(heap, NoPeers).unwrap() };
        let sending = thread::spawn(move || {
            producer.push(7).unwrap();
            producer
        });
        assert_eq!(successor.pop(), Ok(7));
        drop(sending.join().unwrap());
        closing.join().unwrap();
    });
}
