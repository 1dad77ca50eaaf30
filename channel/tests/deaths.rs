//! Ends in a home learn of each other's deaths, and are given to successors after them; by the word of
//! the kernel alone.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_channel::{Home, Housed, RecvError, ReserveError, SendError, bytes, spsc};
use multiprocess_core::AttachError;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

type Ring = spsc::Ring<u64>;
type Producer = spsc::Producer<u64>;
type Consumer = spsc::Consumer<u64>;

/// Several looks at the peer long.
const LONG: Duration = Duration::from_millis(400);

fn of_the_parent<R: Housed>() -> Home {
    Home::attach::<R>(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_consumer_gets_what_a_killed_producer_sent_and_is_then_disconnected() {
    if child::role().is_some() {
        let home = of_the_parent::<Ring>();
        let mut producer = Producer::attach(home.clone(), home).unwrap();
        producer.push_slice(&[1, 2, 3]).unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<Ring>(&4).unwrap();
    let test = "a_consumer_gets_what_a_killed_producer_sent_and_is_then_disconnected";
    let mut child = Child::run(test, "producer", &[home.as_fd()]);
    let mut consumer = Consumer::attach(home.clone(), home).unwrap();
    assert_eq!(consumer.peek_timeout(None), Ok(1));
    assert!(!consumer.is_disconnected());
    let pid = child.pid();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        // SAFETY: our child, which is reaped after this.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    });
    assert!(consumer.iter().eq([1, 2, 3]));
    killer.join().unwrap();
    assert!(consumer.is_disconnected());
    // A wait that is too short for an inner bound asks before it gives up.
    let short = consumer.pop_timeout(Duration::from_millis(1));
    assert_eq!(short, Err(RecvError::Disconnected));
    child.wait();
}

#[test]
fn a_producer_that_waits_for_a_killed_consumer_is_disconnected() {
    if child::role().is_some() {
        let home = of_the_parent::<Ring>();
        let mut consumer = Consumer::attach(home.clone(), home).unwrap();
        consumer.pop().unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<Ring>(&2).unwrap();
    let test = "a_producer_that_waits_for_a_killed_consumer_is_disconnected";
    let mut child = Child::run(test, "consumer", &[home.as_fd()]);
    let mut producer = Producer::attach(home.clone(), home.clone()).unwrap();
    producer.push_slice(&[1, 2, 3]).unwrap();
    child.kill();
    assert_eq!(producer.push(4), Err(SendError::Disconnected(4)));
    let rest = producer.push_slice(&[4, 5]);
    assert_eq!(rest, Err(SendError::Disconnected([4, 5].as_slice())));
    // A successor finds what was not given back, and the producer goes on.
    let mut consumer = Consumer::attach(home.clone(), home).unwrap();
    assert_eq!((consumer.position(), consumer.pop()), (1, Ok(2)));
    producer.push(4).unwrap();
    drop(producer);
    assert!(consumer.iter().eq([3, 4]));
}

#[test]
fn stopped_is_not_dead() {
    if child::role().is_some() {
        let home = of_the_parent::<Ring>();
        let mut producer = Producer::attach(home.clone(), home).unwrap();
        producer.push(1).unwrap();
        loop {
            producer.push(2).unwrap();
        }
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<Ring>(&1).unwrap();
    let mut child = Child::run("stopped_is_not_dead", "producer", &[home.as_fd()]);
    let mut consumer = Consumer::attach(home.clone(), home.clone()).unwrap();
    assert_eq!(consumer.pop(), Ok(1));
    child.signal(libc::SIGSTOP);
    // What it sent before it stopped; then nothing, and nobody is said to be dead.
    let last = loop {
        match consumer.pop_timeout(LONG) {
            Ok(message) => assert_eq!(message, 2),
            Err(error) => break error,
        }
    };
    assert_eq!(last, RecvError::Timeout);
    let taken = Producer::attach(home.clone(), home);
    assert!(matches!(taken, Err(AttachError::RoleTaken)), "{taken:?}");
    child.signal(libc::SIGCONT);
    assert_eq!(consumer.pop(), Ok(2));
    child.kill();
}

/// Killed at any moment, thirty times over: each successor attaches without anybody's vouching for the
/// death, goes on where it finds the ring, and nothing is lost or doubled.
#[test]
fn producers_that_are_killed_anywhere_have_successors() {
    if child::role().is_some() {
        let home = of_the_parent::<Ring>();
        let mut producer = Producer::attach(home.clone(), home).unwrap();
        loop {
            let next = producer.position();
            producer.push_slice(&[next, next + 1, next + 2]).unwrap();
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let home = Home::create::<Ring>(&16).unwrap();
    let mut consumer = Consumer::attach(home.clone(), home.clone()).unwrap();
    let mut expected = 0;
    for round in 0..30 {
        let test = "producers_that_are_killed_anywhere_have_successors";
        let mut child = Child::run(test, "producer", &[home.as_fd()]);
        for _ in 0..500 + round * 13 {
            assert_eq!(consumer.pop(), Ok(expected));
            expected += 1;
        }
        child.kill();
        for message in consumer.iter() {
            assert_eq!(message, expected);
            expected += 1;
        }
        assert!(consumer.is_disconnected());
    }
    assert_eq!(consumer.statistics().received, expected);
}

#[test]
fn an_end_that_was_closed_is_not_given_away_again() {
    let home = Home::create::<Ring>(&4).unwrap();
    let producer = Producer::attach(home.clone(), home.clone()).unwrap();
    let taken = Producer::attach(home.clone(), home.clone());
    assert!(matches!(taken, Err(AttachError::RoleTaken)), "{taken:?}");
    drop(producer);
    let closed = Producer::attach(home.clone(), home.clone());
    assert!(matches!(closed, Err(AttachError::RoleTaken)), "{closed:?}");
    // SAFETY: it has closed.
    let mut again = unsafe { Producer::take_over(home.clone(), home.clone()).unwrap() };
    let mut consumer = Consumer::attach(home.clone(), home).unwrap();
    again.push(1).unwrap();
    assert_eq!(consumer.pop(), Ok(1));
}

#[test]
fn byte_rings_learn_of_deaths_too() {
    if let Some(role) = child::role() {
        let home = of_the_parent::<bytes::Ring>();
        if role == "producer" {
            let mut producer = bytes::Producer::attach(home.clone(), home).unwrap();
            producer.try_push_all(&[b"one", b"two"]).unwrap();
            sleep_for_ever();
        }
        let mut consumer = bytes::Consumer::attach(home.clone(), home).unwrap();
        consumer.peek().unwrap().release();
        // Not given back.
        let _ = consumer.peek().unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "byte_rings_learn_of_deaths_too";
    let home = Home::create::<bytes::Ring>(&64).unwrap();
    let mut child = Child::run(test, "producer", &[home.as_fd()]);
    let mut consumer = bytes::Consumer::attach(home.clone(), home.clone()).unwrap();
    assert_eq!(consumer.peek_all().unwrap().len(), 2);
    child.kill();
    for expected in [b"one", b"two"] {
        let record = consumer.peek().unwrap();
        assert_eq!(&*record, expected);
        record.release();
    }
    assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
    assert_eq!(consumer.peek_all().err(), Some(RecvError::Disconnected));

    let mut producer = bytes::Producer::attach(home.clone(), home.clone()).unwrap();
    producer.push(b"three").unwrap();
    assert_eq!(&*consumer.peek().unwrap(), b"three");

    let home = Home::create::<bytes::Ring>(&64).unwrap();
    let mut child = Child::run(test, "consumer", &[home.as_fd()]);
    let mut producer = bytes::Producer::attach(home.clone(), home.clone()).unwrap();
    for _ in 0..4 {
        producer.push(&[7; 8]).unwrap();
    }
    producer.push(&[7; 8]).unwrap();
    // Counted behind the index.
    while producer.statistics().received == 0 {
        std::thread::yield_now();
    }
    child.kill();
    assert_eq!(producer.push(b"x"), Err(ReserveError::Disconnected));
    let mut consumer = bytes::Consumer::attach(home.clone(), home).unwrap();
    assert_eq!(consumer.peek_all().unwrap().len(), 4);
}
