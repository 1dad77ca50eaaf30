//! Semantics of `bytes`.
#![cfg(not(loom))]

mod common;

use std::time::Duration;

use common::Heap;
use multiprocess_channel::bytes::{Consumer, Producer, Ring, channel};
use multiprocess_channel::{
    ChannelError, NoPeers, PopIntoError, RecvError, ReserveError, TryRecvError, TryReserveError,
};
use multiprocess_core::{AttachError, CreateError, Memory};

#[test]
fn every_length_at_every_position_arrives_whole() {
    let (mut producer, mut consumer) = channel(256).unwrap();
    for round in 0..600usize {
        let len = (round * 7) % (producer.max_len() + 1);
        let bytes: Vec<u8> = (0..len).map(|i| (i ^ round) as u8).collect();
        producer.try_push(&bytes).unwrap();
        let record = consumer.try_peek().unwrap();
        assert_eq!(&*record, bytes);
        record.release();
    }
}

#[test]
fn the_longest_record_fits_wherever_the_ring_stands() {
    for offset in (0..64).step_by(8) {
        let (mut producer, mut consumer) = channel(64).unwrap();
        for _ in 0..offset / 8 {
            producer.try_push(&[]).unwrap();
            consumer.try_peek().unwrap().release();
        }
        let longest = vec![7; producer.max_len()];
        producer.try_push(&longest).unwrap();
        assert_eq!(&*consumer.try_peek().unwrap(), longest);
    }
}

#[test]
fn a_record_that_never_fits_is_told_from_a_full_ring() {
    let (mut producer, _consumer) = channel(64).unwrap();
    assert_eq!(producer.max_len(), 24);
    for len in [25, 64, usize::MAX, usize::MAX - 7] {
        let error = producer.try_reserve(len).unwrap_err();
        assert_eq!(error, TryReserveError::TooLarge { max: 24 });
        let error = producer.reserve(len).unwrap_err();
        assert_eq!(error, ReserveError::TooLarge { max: 24 });
    }
    producer.try_push(&[0; 24]).unwrap();
    producer.try_push(&[0; 24]).unwrap();
    assert_eq!(producer.try_push(&[0; 1]), Err(TryReserveError::Full));
    let timed_out = producer.push_timeout(&[0; 1], Duration::from_millis(5));
    assert_eq!(timed_out, Err(ReserveError::Timeout));
}

#[test]
fn a_grant_dropped_or_cut_short_sends_what_was_committed() {
    let (mut producer, mut consumer) = channel(128).unwrap();
    drop(producer.try_reserve(40).unwrap());
    assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Empty));
    let mut grant = producer.try_reserve(40).unwrap();
    assert_eq!(grant.len(), 40);
    grant[..2].copy_from_slice(b"ab");
    grant.commit(2);
    assert_eq!(&*consumer.try_peek().unwrap(), b"ab");
}

#[test]
#[should_panic(expected = "more bytes than were reserved")]
fn committing_more_than_was_reserved_panics() {
    let (mut producer, _consumer) = channel(128).unwrap();
    producer.try_reserve(4).unwrap().commit(5);
}

#[test]
fn a_record_stays_until_release() {
    let (mut producer, mut consumer) = channel(128).unwrap();
    producer.push(b"one").unwrap();
    drop(consumer.peek().unwrap());
    let error = consumer.try_pop_into(&mut [0; 2]).unwrap_err();
    assert_eq!(error, PopIntoError::BufferTooShort { need: 3 });
    let mut buffer = [0; 8];
    assert_eq!(consumer.try_pop_into(&mut buffer), Ok(3));
    assert_eq!(&buffer[..3], b"one");
    let error = consumer.try_pop_into(&mut buffer).unwrap_err();
    assert_eq!(error, PopIntoError::Recv(TryRecvError::Empty));
}

#[test]
fn what_was_sent_before_the_producer_left_is_read() {
    let (mut producer, mut consumer) = channel(128).unwrap();
    producer.push(b"last words").unwrap();
    drop(producer);
    assert_eq!(&*consumer.peek().unwrap(), b"last words");
    consumer.peek().unwrap().release();
    assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
}

#[test]
fn a_producer_without_consumer_is_told() {
    let (mut producer, consumer) = channel(128).unwrap();
    drop(consumer);
    let told = (0..3).any(|_| producer.push(b"x") == Err(ReserveError::Disconnected));
    assert!(told && producer.is_disconnected());
}

#[test]
fn a_closed_end_is_closed_to_its_owner_too() {
    let (mut producer, mut consumer) = channel(128).unwrap();
    producer.push(b"x").unwrap();
    producer.close();
    assert_eq!(producer.try_push(b"y"), Err(TryReserveError::Disconnected));
    consumer.close();
    assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Disconnected));
}

#[test]
fn absurd_capacities_are_errors() {
    for capacity in [0, (1 << 40) + 1, u64::MAX] {
        let error = channel(capacity).unwrap_err();
        assert!(
            matches!(error, ChannelError::Create(CreateError::Capacity { .. })),
            "{error:?}"
        );
    }
    assert_eq!(channel(1).unwrap().0.capacity(), 64);
}

/// Writes `value` at `offset` of the ring, as a hostile peer could.
fn scribble(heap: &Heap, offset: usize, value: u64) {
    // SAFETY: inside the ring, aligned; this thread alone uses it.
    unsafe { heap.region().base().add(offset).cast::<u64>().write(value) };
}

const TAIL: usize = 0x0c0;
const HEAD: usize = 0x140;
const DATA: usize = 0x280;
const PADDING: u64 = 1 << 32;

#[test]
fn a_hostile_producer_is_corrupt_and_nothing_worse() {
    // (tail, first header)
    let lies = [
        (u64::MAX, 8),             // more than the ring holds
        (72, 8),                   // one unit more than the ring holds
        (13, 8),                   // not a multiple of 8
        (16, 16),                  // record longer than what is there
        (16, u64::from(u32::MAX)), // far longer
        (64, 64),                  // record longer than the ring
        (16, 8 | 2 << 32),         // unknown flag
        (16, 8 | PADDING),         // padding that does not reach the end
        (64, 60 | PADDING),        // padding beyond the end
    ];
    for (tail, header) in lies {
        let heap = Heap::holding::<Ring>(64);
        let mut consumer = Consumer::attach(heap.clone(), NoPeers).unwrap();
        scribble(&heap, DATA, header);
        scribble(&heap, TAIL, tail);
        let error = consumer.try_peek().err();
        assert_eq!(error, Some(TryRecvError::Corrupt), "{tail} {header:#x}");
        assert_eq!(consumer.peek().err(), Some(RecvError::Corrupt));
    }
}

#[test]
fn padding_upon_padding_is_corrupt() {
    let heap = Heap::holding::<Ring>(64);
    let mut consumer = Consumer::attach(heap.clone(), NoPeers).unwrap();
    scribble(&heap, DATA, 56 | PADDING);
    scribble(&heap, TAIL, 64);
    // Padding alone: a record must follow. Let the ring move on under the consumer's feet.
    assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Empty));
}

#[test]
fn a_record_that_would_wrap_is_corrupt() {
    let heap = Heap::holding::<Ring>(64);
    let mut producer = Producer::attach(heap.clone(), NoPeers).unwrap();
    let mut consumer = Consumer::attach(heap.clone(), NoPeers).unwrap();
    for _ in 0..6 {
        producer.try_push(&[]).unwrap();
        consumer.try_peek().unwrap().release();
    }
    // At offset 48: 16 bytes to the end.
    producer.try_push(&[1; 8]).unwrap();
    scribble(&heap, DATA + 48, 24);
    scribble(&heap, TAIL, 48 + 64);
    assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Corrupt));
}

#[test]
fn a_hostile_consumer_is_corrupt_and_nothing_worse() {
    for head in [8, 13, u64::MAX, 1 << 63] {
        let heap = Heap::holding::<Ring>(64);
        let mut producer = Producer::attach(heap.clone(), NoPeers).unwrap();
        scribble(&heap, HEAD, head);
        assert_eq!(
            producer.try_push(b"x"),
            Err(TryReserveError::Corrupt),
            "{head}"
        );
        assert_eq!(producer.push(b"x"), Err(ReserveError::Corrupt));
    }
}

#[test]
fn odd_indices_are_refused_at_attach() {
    let heap = Heap::holding::<Ring>(64);
    scribble(&heap, TAIL, 4);
    let error = Producer::attach(heap, NoPeers).unwrap_err();
    assert_eq!(error, AttachError::Corrupt { field: "index" });
}

#[test]
fn many_records_between_threads_that_sleep_and_spin() {
    for spins in [0, 2000] {
        let (mut producer, mut consumer) = channel(4096).unwrap();
        producer.set_spin_cap(spins);
        consumer.set_spin_cap(spins);
        let thread = std::thread::spawn(move || {
            for i in 0..100_000u32 {
                let len = (i.wrapping_mul(2_654_435_761) % 700) as usize;
                let mut grant = producer.reserve(len).unwrap();
                grant.fill(i as u8);
                grant.commit(len);
            }
        });
        for i in 0..100_000u32 {
            let len = (i.wrapping_mul(2_654_435_761) % 700) as usize;
            let record = consumer.peek().unwrap();
            assert_eq!(record.len(), len);
            assert!(record.iter().all(|byte| *byte == i as u8));
            record.release();
        }
        assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
        thread.join().unwrap();
    }
}
