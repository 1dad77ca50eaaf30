//! Rings between processes that were started apart, and that are killed anywhere.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_channel::{NoPeers, RecvError, SendError, bytes, spsc};
use multiprocess_core::{AttachError, Place};
use multiprocess_shm::Segment;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// Checked words: a message that mixes two shows.
type Message = [u64; 7];

fn message(number: u64) -> Message {
    std::array::from_fn(|i| {
        number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(i as u32)
    })
}

fn number_of(message: &Message) -> u64 {
    let number = message[0].wrapping_mul(0xf1de_83e1_9937_733d);
    assert_eq!(*message, self::message(number), "torn");
    number
}

fn of_the_parent<P: Place>() -> Segment {
    let file = child::fd(0).try_clone_to_owned().unwrap();
    Segment::attach_place::<P>(file).unwrap().0
}

const COUNT: u64 = 200_000;

#[test]
fn a_stream_arrives_whole_and_in_order() {
    if child::role().is_some() {
        let segment = of_the_parent::<spsc::Ring<Message>>();
        let mut producer = spsc::Producer::<Message, _, _>::attach(segment, NoPeers).unwrap();
        for number in 0..COUNT {
            producer.push(message(number)).unwrap();
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    for capacity in [1, 2, 64, 1024] {
        let segment = Segment::create_place::<spsc::Ring<Message>>(&capacity).unwrap();
        let fd = segment.as_fd().try_clone_to_owned().unwrap();
        let test = "a_stream_arrives_whole_and_in_order";
        let mut child = Child::run(test, "producer", &[fd.as_fd()]);
        let mut consumer = spsc::Consumer::<Message, _, _>::attach(segment, NoPeers).unwrap();
        for number in 0..COUNT {
            assert_eq!(number_of(&consumer.pop().unwrap()), number);
        }
        assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
        assert!(child.wait().success());
    }
}

/// Record number `n` has a length and bytes that follow from `n`.
fn record(number: u64, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend(number.to_le_bytes());
    let len = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
    buffer.resize(8 + len, number as u8);
}

#[test]
fn records_of_all_sizes_arrive_whole_and_in_order() {
    if child::role().is_some() {
        let mut producer =
            bytes::Producer::attach(of_the_parent::<bytes::Ring>(), NoPeers).unwrap();
        let mut buffer = Vec::new();
        for number in 0..COUNT {
            record(number, &mut buffer);
            producer.push(&buffer).unwrap();
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    for capacity in [1024, 65536] {
        let segment = Segment::create_place::<bytes::Ring>(&capacity).unwrap();
        let fd = segment.as_fd().try_clone_to_owned().unwrap();
        let test = "records_of_all_sizes_arrive_whole_and_in_order";
        let mut child = Child::run(test, "producer", &[fd.as_fd()]);
        let mut consumer = bytes::Consumer::attach(segment, NoPeers).unwrap();
        let mut expected = Vec::new();
        for number in 0..COUNT {
            record(number, &mut expected);
            let record = consumer.peek().unwrap();
            assert_eq!(&*record, &*expected);
            record.release();
        }
        assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
        assert!(child.wait().success());
    }
}

/// A producer killed at any moment, fifty times over: its successor continues from the index
/// it finds, and the consumer sees every number once, in order.
#[test]
fn producers_that_are_killed_anywhere_lose_and_double_nothing() {
    if child::role().is_some() {
        let segment = of_the_parent::<spsc::Ring<Message>>();
        // SAFETY: the parent has reaped the former producer.
        let mut producer =
            unsafe { spsc::Producer::<Message, _, _>::take_over(segment, NoPeers) }.unwrap();
        // The ring began at 0 and one number goes with each index.
        loop {
            let next = producer.position();
            producer.push(message(next)).unwrap();
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let segment = Segment::create_place::<spsc::Ring<Message>>(&16).unwrap();
    let fd = segment.as_fd().try_clone_to_owned().unwrap();
    let mut consumer = spsc::Consumer::<Message, _, _>::attach(segment, NoPeers).unwrap();
    let first = Segment::attach_place::<spsc::Ring<Message>>(fd.try_clone().unwrap()).unwrap();
    std::mem::forget(spsc::Producer::<Message, _, _>::attach(first.0, NoPeers).unwrap());
    let mut expected = 0;
    for round in 0..50 {
        let test = "producers_that_are_killed_anywhere_lose_and_double_nothing";
        let mut child = Child::run(test, "producer", &[fd.as_fd()]);
        for _ in 0..1000 + round * 13 {
            assert_eq!(number_of(&consumer.pop().unwrap()), expected);
            expected += 1;
        }
        child.kill();
        // What it had sent before its death is still there; then there is silence.
        loop {
            match consumer.pop_timeout(Duration::ZERO) {
                Ok(message) => assert_eq!(number_of(&message), expected),
                Err(RecvError::Timeout) => break,
                Err(error) => panic!("{error}"),
            }
            expected += 1;
        }
    }
}

#[test]
fn a_role_is_taken_once_between_processes() {
    if child::role().is_some() {
        let refused = bytes::Consumer::attach(of_the_parent::<bytes::Ring>(), NoPeers);
        assert!(
            matches!(refused, Err(AttachError::RoleTaken)),
            "{refused:?}"
        );
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let segment = Segment::create_place::<bytes::Ring>(&1024).unwrap();
    let fd = segment.as_fd().try_clone_to_owned().unwrap();
    let _consumer = bytes::Consumer::attach(segment, NoPeers).unwrap();
    let test = "a_role_is_taken_once_between_processes";
    assert!(Child::run(test, "second", &[fd.as_fd()]).wait().success());
}

/// A stopped peer costs nothing but time.
#[test]
fn a_stopped_consumer_is_waited_for() {
    if child::role().is_some() {
        let segment = of_the_parent::<spsc::Ring<Message>>();
        let mut consumer = spsc::Consumer::<Message, _, _>::attach(segment, NoPeers).unwrap();
        let mut expected = 0;
        while let Ok(message) = consumer.pop() {
            assert_eq!(number_of(&message), expected);
            expected += 1;
        }
        assert_eq!(expected, 10_000);
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let segment = Segment::create_place::<spsc::Ring<Message>>(&4).unwrap();
    let fd = segment.as_fd().try_clone_to_owned().unwrap();
    let mut producer = spsc::Producer::<Message, _, _>::attach(segment, NoPeers).unwrap();
    let mut child = Child::run(
        "a_stopped_consumer_is_waited_for",
        "consumer",
        &[fd.as_fd()],
    );
    for number in 0..10_000 {
        if number % 1000 == 500 {
            child.signal(19); // SIGSTOP
            std::thread::sleep(Duration::from_millis(2));
            if producer.len() == producer.capacity() {
                let sent = producer.push_timeout(message(number), Duration::from_millis(5));
                assert!(matches!(sent, Err(SendError::Timeout(_))), "{sent:?}");
            }
            child.signal(18); // SIGCONT
        }
        producer.push(message(number)).unwrap();
    }
    drop(producer);
    assert!(child.wait().success());
}
