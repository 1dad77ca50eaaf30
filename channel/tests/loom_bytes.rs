//! Models of `bytes`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features`.
//!
//! Shown to fail (`.ci/mutants`): the index stored Relaxed, the index loaded Relaxed, the head
//! stored before the record was read, padding not published with its record; with light fences that
//! are nothing: the close and the index stored Relaxed.
#![cfg(loom)]

mod common;

use common::Heap;
use loom::thread;
use multiprocess_channel::bytes::{Consumer, Producer, Ring};
use multiprocess_channel::{NoPeers, RecvError, TryRecvError, TryReserveError};
use multiprocess_core::model::LightIsNothing;

type Ends = (Producer<Heap, NoPeers>, Consumer<Heap, NoPeers>);

/// 64 bytes, the smallest ring: records of at most 24 bytes.
fn ring() -> Ends {
    let heap = Heap::holding::<Ring>(64);
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

fn take(consumer: &mut Consumer<Heap, NoPeers>) -> Vec<u8> {
    loop {
        match consumer.try_peek() {
            Ok(record) => {
                let bytes = record.to_vec();
                record.release();
                return bytes;
            }
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn records_arrive_whole_across_padding_and_wrap() {
    model(Some(2), || {
        let (mut producer, mut consumer) = ring();
        // 24 bytes of 64 used: two records of 32 need the padding and then the room of the
        // first one.
        producer.try_push(&[1; 16]).unwrap();
        let thread = thread::spawn(move || {
            for i in 2..=3 {
                while producer.try_push(&[i; 24]) == Err(TryReserveError::Full) {
                    thread::yield_now();
                }
            }
            producer
        });
        assert_eq!(take(&mut consumer), [1; 16]);
        assert_eq!(take(&mut consumer), [2; 24]);
        assert_eq!(take(&mut consumer), [3; 24]);
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_sleeping_consumer_is_handed_the_record() {
    model(Some(3), || {
        let (mut producer, mut consumer) = ring();
        let thread = thread::spawn(move || {
            let mut grant = producer.reserve(8).unwrap();
            grant[..3].copy_from_slice(b"abc");
            grant.commit(3);
        });
        let record = consumer.peek().unwrap();
        assert_eq!(&*record, b"abc");
        record.release();
        assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
        thread.join().unwrap();
    });
}

#[test]
fn a_sleeping_producer_is_handed_the_room() {
    model(Some(2), || {
        let (mut producer, mut consumer) = ring();
        producer.try_push(&[1; 24]).unwrap();
        producer.try_push(&[2; 24]).unwrap();
        let thread = thread::spawn(move || {
            producer.push(&[3; 24]).unwrap();
            producer
        });
        for i in 1..=3 {
            let record = consumer.peek().unwrap();
            assert_eq!(&*record, [i; 24]);
            record.release();
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_light_publisher_orders_record_and_close() {
    model(Some(4), || {
        let _light = LightIsNothing::new();
        let (mut producer, mut consumer) = ring();
        let thread = thread::spawn(move || {
            producer.try_push(&[7]).unwrap();
            producer.try_push(&[8]).unwrap(); // light by now
        });
        let mut got = Vec::new();
        loop {
            match consumer.try_peek() {
                Ok(record) => {
                    got.extend_from_slice(&record);
                    record.release();
                }
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
fn batches_arrive_whole_across_padding_and_wrap() {
    model(Some(2), || {
        let (mut producer, mut consumer) = ring();
        producer.try_push(&[1; 16]).unwrap();
        let thread = thread::spawn(move || {
            let both: [&[u8]; 2] = [&[2; 8], &[3; 24]];
            let mut records = both.as_slice();
            while !records.is_empty() {
                match producer.try_push_all(records) {
                    Ok(sent) => records = &records[sent..],
                    Err(TryReserveError::Full) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
            producer
        });
        let mut got = Vec::new();
        while got.len() < 3 {
            match consumer.try_peek_all() {
                Ok(records) => {
                    got.extend(records.iter().map(|record| (record[0], record.len())));
                    records.release();
                }
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(got, [(1, 16), (2, 8), (3, 24)]);
        drop(thread.join().unwrap());
    });
}
