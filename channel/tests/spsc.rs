//! Semantics of `spsc`.
#![cfg(not(loom))]

mod common;

use std::time::{Duration, Instant};

use common::Heap;
use multiprocess_channel::spsc::{Consumer, Message, Producer, Ring, channel};
use multiprocess_channel::{
    ChannelError, NoPeers, RecvError, SendError, TryRecvError, TrySendError,
};
use multiprocess_core::{AttachError, CreateError, Memory, Timeout};

#[test]
fn capacity_is_rounded_up_to_a_power_of_two() {
    for (asked, made) in [(1, 1), (2, 2), (3, 4), (1000, 1024)] {
        let (producer, consumer) = channel::<u8>(asked).unwrap();
        assert_eq!((producer.capacity(), consumer.capacity()), (made, made));
    }
}

#[test]
fn absurd_capacities_are_errors() {
    for capacity in [0, (1 << 40) + 1, u64::MAX] {
        let error = channel::<u64>(capacity).unwrap_err();
        assert!(
            matches!(error, ChannelError::Create(CreateError::Capacity { .. })),
            "{error:?}"
        );
    }
    // Can be laid out, but not be had.
    let error = channel::<u64>(1 << 40).unwrap_err();
    assert!(
        matches!(error, ChannelError::Create(CreateError::TooLarge { .. })),
        "{error:?}"
    );
}

#[test]
fn order_is_kept_over_many_laps() {
    let (mut producer, mut consumer) = channel::<u64>(8).unwrap();
    let mut next = 0;
    for i in 0..1000u64 {
        producer.try_push(i).unwrap();
        if i % 3 != 0 || producer.len() == 8 {
            while let Ok(got) = consumer.try_pop() {
                assert_eq!(got, next);
                next += 1;
            }
        }
    }
}

#[test]
fn full_gives_the_message_back() {
    let (mut producer, mut consumer) = channel::<u64>(2).unwrap();
    producer.try_push(1).unwrap();
    producer.try_push(2).unwrap();
    assert_eq!(producer.try_push(3), Err(TrySendError::Full(3)));
    let timed_out = producer.push_timeout(3, Duration::from_millis(5));
    assert_eq!(timed_out, Err(SendError::Timeout(3)));
    assert_eq!(timed_out.unwrap_err().into_inner(), 3);
    assert_eq!((producer.len(), consumer.len()), (2, 2));
    assert_eq!(consumer.try_pop(), Ok(1));
    producer.try_push(3).unwrap();
}

#[test]
fn empty_times_out_and_not_early() {
    let (_producer, mut consumer) = channel::<u64>(2).unwrap();
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    assert_eq!(consumer.pop_timeout(Timeout::TRY), Err(RecvError::Timeout));
    let start = Instant::now();
    let timeout = Duration::from_millis(120);
    assert_eq!(consumer.pop_timeout(timeout), Err(RecvError::Timeout));
    assert!(start.elapsed() >= timeout);
}

#[test]
fn peek_leaves_the_message_until_release() {
    let (mut producer, mut consumer) = channel::<u64>(2).unwrap();
    assert!(!consumer.release(), "nothing was peeked");
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    assert!(!consumer.release(), "nothing was peeked");
    assert_eq!(consumer.peek(), Ok(1));
    assert_eq!(consumer.peek(), Ok(1));
    assert_eq!(producer.try_push(3), Err(TrySendError::Full(3)));
    assert!(consumer.release());
    assert!(!consumer.release(), "released already");
    assert_eq!(consumer.peek_timeout(Timeout::Never), Ok(2));
    assert_eq!(consumer.pop(), Ok(2));
    assert!(!consumer.release(), "popped already");
}

#[test]
fn what_was_sent_before_the_producer_left_is_read() {
    let (mut producer, mut consumer) = channel::<u64>(4).unwrap();
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    drop(producer);
    assert!(consumer.is_disconnected());
    assert_eq!(consumer.pop(), Ok(1));
    assert_eq!(consumer.pop(), Ok(2));
    assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
}

#[test]
fn a_producer_without_consumer_is_told() {
    let (mut producer, consumer) = channel::<u64>(4).unwrap();
    producer.push(1).unwrap();
    drop(consumer);
    assert!(producer.is_disconnected());
    // One message may still be accepted: the consumer could have left a moment later.
    let told = (2..4).any(|i| producer.try_push(i) == Err(TrySendError::Disconnected(i)));
    assert!(told);
    assert_eq!(producer.push(9), Err(SendError::Disconnected(9)));
}

#[test]
fn a_closed_end_is_closed_to_its_owner_too() {
    let (mut producer, mut consumer) = channel::<u64>(4).unwrap();
    producer.push(1).unwrap();
    producer.close();
    producer.close();
    assert_eq!(producer.try_push(2), Err(TrySendError::Disconnected(2)));
    consumer.close();
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
}

#[test]
fn leaving_wakes_a_sleeping_peer() {
    let (producer, mut consumer) = channel::<u64>(1).unwrap();
    let sleeper = std::thread::spawn(move || consumer.pop());
    std::thread::sleep(Duration::from_millis(20));
    drop(producer);
    assert_eq!(sleeper.join().unwrap(), Err(RecvError::Disconnected));

    let (mut producer, consumer) = channel::<u64>(1).unwrap();
    producer.push(1).unwrap();
    let sleeper = std::thread::spawn(move || producer.push(2));
    std::thread::sleep(Duration::from_millis(20));
    drop(consumer);
    assert_eq!(sleeper.join().unwrap(), Err(SendError::Disconnected(2)));
}

#[test]
fn each_end_is_claimed_once() {
    let heap = Heap::holding::<Ring<u64>>(4);
    let first = Producer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
    let second = Producer::<u64, _, _>::attach(heap.clone(), NoPeers);
    assert_eq!(second.err(), Some(AttachError::RoleTaken));
    drop(first);
    let third = Producer::<u64, _, _>::attach(heap.clone(), NoPeers);
    assert_eq!(third.err(), Some(AttachError::RoleTaken), "gone for good");
    drop(Consumer::<u64, _, _>::attach(heap, NoPeers).unwrap());
}

#[test]
fn a_successor_goes_on_where_the_dead_stopped() {
    let heap = Heap::holding::<Ring<u64>>(4);
    let mut producer = Producer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
    let mut consumer = Consumer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    assert_eq!(consumer.peek(), Ok(1));
    std::mem::forget((producer, consumer)); // as a kill would
    // SAFETY: the former ends are forgotten.
    let (mut producer, mut consumer) = unsafe {
        (
            Producer::<u64, _, _>::take_over(heap.clone(), NoPeers).unwrap(),
            Consumer::<u64, _, _>::take_over(heap, NoPeers).unwrap(),
        )
    };
    producer.push(3).unwrap();
    for i in 1..=3 {
        assert_eq!(consumer.pop(), Ok(i), "a peeked message comes again");
    }
}

#[test]
fn another_message_type_is_refused() {
    let heap = Heap::holding::<Ring<u64>>(4);
    let error = Producer::<i64, _, _>::attach(heap.clone(), NoPeers).unwrap_err();
    assert!(matches!(error, AttachError::Layout { .. }), "{error:?}");
    let error = multiprocess_channel::bytes::Producer::attach(heap, NoPeers).unwrap_err();
    assert!(matches!(error, AttachError::Layout { .. }), "{error:?}");
}

/// Writes `value` at `offset` of the ring, as a hostile peer could.
fn scribble(heap: &Heap, offset: usize, value: u64) {
    // SAFETY: inside the control block, aligned; this thread alone uses the ring.
    unsafe { heap.region().base().add(offset).cast::<u64>().write(value) };
}

#[test]
fn a_ring_that_lies_about_itself_is_refused() {
    let refused = |offset: usize, value: u64| {
        let heap = Heap::holding::<Ring<u64>>(4);
        scribble(&heap, offset, value);
        Consumer::<u64, _, _>::attach(heap, NoPeers).unwrap_err()
    };
    assert_eq!(refused(0, 0), AttachError::BadMagic { found: 0 });
    assert!(matches!(
        refused(8, 4),
        AttachError::Version { found: 4, .. }
    ));
    for capacity in [0, 3, 5, u64::MAX, 1 << 41] {
        let error = refused(0x10, capacity);
        assert_eq!(error, AttachError::Corrupt { field: "capacity" });
    }
    for capacity in [8, 1 << 40] {
        let error = refused(0x10, capacity);
        assert!(matches!(error, AttachError::Truncated { .. }), "{error:?}");
    }
    for index in [5, u64::MAX] {
        let error = refused(0xc0, index);
        assert_eq!(error, AttachError::Corrupt { field: "index" });
    }
}

/// Where the first frame begins, with its sign; the only one of a small ring of u64.
const SIGN: usize = 0x280;

#[test]
fn indices_of_a_hostile_peer_are_corrupt_and_nothing_worse() {
    for index in [5, 1 << 20, 1 << 62, 1 << 63] {
        let heap = Heap::holding::<Ring<u64>>(4);
        let mut consumer = Consumer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
        scribble(&heap, SIGN, index);
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Corrupt));
        assert_eq!(consumer.pop(), Err(RecvError::Corrupt));
        drop(consumer);
        let error = Producer::<u64, _, _>::attach(heap, NoPeers).unwrap_err();
        assert_eq!(error, AttachError::Corrupt { field: "index" });

        let heap = Heap::holding::<Ring<u64>>(4);
        let mut producer = Producer::<u64, _, _>::attach(heap.clone(), NoPeers).unwrap();
        scribble(&heap, 0x140, index);
        assert_eq!(producer.try_push(1), Err(TrySendError::Corrupt(1)));
        assert_eq!(producer.push(1), Err(SendError::Corrupt(1)));
    }
}

#[test]
fn an_index_that_would_wrap_is_refused() {
    let heap = Heap::holding::<Ring<u64>>(4);
    for word in [0xc0, 0x140] {
        scribble(&heap, word, u64::MAX / 2 + 1);
    }
    let error = Consumer::<u64, _, _>::attach(heap, NoPeers).unwrap_err();
    assert_eq!(error, AttachError::Corrupt { field: "index" });
}

/// Sends numbers in batches of all lengths through a ring of messages of `N` bytes, and receives them in
/// batches of other lengths.
fn batches_of<const N: usize>()
where
    [u8; N]: Message,
{
    let (mut producer, mut consumer) = channel::<[u8; N]>(64).unwrap();
    let message = |number: u32| std::array::from_fn(|i| number.to_le_bytes()[i % 4] ^ i as u8);
    let (mut sent, mut received) = (0, 0);
    for round in 0..300 {
        let batch: Vec<[u8; N]> = (sent..sent + round % 65).map(message).collect();
        sent += producer.try_push_slice(&batch).unwrap_or(0) as u32;
        let mut target = vec![[0; N]; (round * 7 % 66) as usize];
        let count = consumer.try_pop_slice(&mut target).unwrap_or(0);
        for got in &target[..count] {
            assert_eq!(*got, message(received), "{N} bytes, number {received}");
            received += 1;
        }
        assert_eq!(consumer.len(), u64::from(sent - received));
    }
    assert!(received > 1000);
}

#[test]
fn batches_of_messages_of_any_size_come_whole_and_in_order() {
    batches_of::<1>();
    batches_of::<7>();
    batches_of::<8>();
    batches_of::<28>();
    batches_of::<29>();
    batches_of::<64>();
    batches_of::<256>();
    batches_of::<512>();
}

/// Two of them are a frame.
type Pair = [u64; 3];

const NUMBERS: [Pair; 5] = [[0; 3], [1; 3], [2; 3], [3; 3], [4; 3]];

#[test]
fn a_successor_finds_the_rest_of_a_batch() {
    for taken in 0..5 {
        let heap = Heap::holding::<Ring<Pair>>(8);
        let mut producer = Producer::<Pair, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let mut dead = Consumer::<Pair, _, _>::attach(heap.clone(), NoPeers).unwrap();
        producer.push_slice(&NUMBERS).unwrap();
        for number in &NUMBERS[..taken] {
            assert_eq!(dead.pop(), Ok(*number));
        }
        std::mem::forget(dead); // as a kill would
        // SAFETY: the former consumer is forgotten.
        let mut consumer = unsafe { Consumer::<Pair, _, _>::take_over(heap, NoPeers).unwrap() };
        for number in &NUMBERS[taken..] {
            assert_eq!(consumer.try_pop(), Ok(*number));
        }
        producer.push([5; 3]).unwrap();
        assert_eq!(consumer.try_pop(), Ok([5; 3]));
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_successor_finds_what_was_published_and_not_told() {
    for taken in 0..5 {
        let heap = Heap::holding::<Ring<Pair>>(8);
        let mut dead = Producer::<Pair, _, _>::attach(heap.clone(), NoPeers).unwrap();
        let mut other = Consumer::<Pair, _, _>::attach(heap.clone(), NoPeers).unwrap();
        dead.push_slice(&NUMBERS).unwrap();
        for number in &NUMBERS[..taken] {
            assert_eq!(other.pop(), Ok(*number));
        }
        std::mem::forget((dead, other));
        scribble(&heap, 0xc0, 0); // killed between steps 3 and 4
        // SAFETY: the former ends are forgotten.
        let (mut consumer, mut producer) = unsafe {
            (
                Consumer::<Pair, _, _>::take_over(heap.clone(), NoPeers).unwrap(),
                Producer::<Pair, _, _>::take_over(heap, NoPeers).unwrap(),
            )
        };
        assert_eq!(producer.position(), 5);
        producer.push([5; 3]).unwrap();
        for number in NUMBERS[taken..].iter().chain(&[[5; 3]]) {
            assert_eq!(consumer.try_pop(), Ok(*number));
        }
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_million_messages_between_threads_that_sleep_and_spin() {
    for spins in [0, 50, 2000] {
        let (mut producer, mut consumer) = channel::<[u64; 3]>(16).unwrap();
        producer.set_spin_cap(spins);
        consumer.set_spin_cap(spins);
        let count = if spins == 0 { 100_000 } else { 1_000_000 };
        let thread = std::thread::spawn(move || {
            for i in 0..count {
                producer.push([i, !i, i * 3]).unwrap();
            }
        });
        for i in 0..count {
            assert_eq!(consumer.pop(), Ok([i, !i, i * 3]));
        }
        assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
        thread.join().unwrap();
    }
}
