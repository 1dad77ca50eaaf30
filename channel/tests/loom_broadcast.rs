//! Models of `broadcast`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features --test loom_broadcast`.
//!
//! The ring has two slots; the numbers of messages cross the wrap of the sequences. Models in which nobody
//! sleeps run with light fences that order nothing, as on the hardware.
//!
//! Shown to fail (`.ci/mutants`): each fence and each order of the slots left out or weakened, the second
//! look at the sequence left out, a miss miscounted, a cursor given back before the message is read, a
//! join without its fence or without its second look at the tail, a look at the seats without its fence, a
//! limit that is too late, a sleeper without its fence, bells that are not rung.
#![cfg(loom)]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use common::Heap;
use loom::thread;
use multiprocess_channel::broadcast::{
    Config, LosslessReceiver, ReadError, Receiver, Ring, Sender, Start, TryReadError,
};
use multiprocess_channel::{RecvError, TryRecvError};
use multiprocess_core::model::LightIsNothing;
use setup::{Process, Shared};

/// Two words, so that a torn message shows.
type Pair = [u64; 2];

fn pair(number: u64) -> Pair {
    [number, !number]
}

fn number(pair: Pair) -> u64 {
    assert_eq!(pair[1], !pair[0], "torn");
    pair[0]
}

/// Two messages before the sequences wrap.
const FIRST: u64 = (1 << 63) - 2;

type Tx = Sender<Pair, Heap, Process>;
type Rx = LosslessReceiver<Pair, Heap, Process>;

fn ring(readers: u32) -> Heap {
    let config = Config::new(2).readers(readers).starting_at(FIRST);
    Heap::holding::<Ring<Pair>>(config)
}

fn sender(ring: &Heap) -> Tx {
    Sender::attach(ring.clone(), Process(1)).unwrap()
}

fn lossy(ring: &Heap, announces: bool, start: Start) -> Receiver<Pair, Shared> {
    Receiver::attach(Shared(ring.clone(), announces), start).unwrap()
}

fn lossless(ring: &Heap, number: u16) -> Rx {
    LosslessReceiver::attach(ring.clone(), Process(number)).unwrap()
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(f);
}

fn send(sender: &mut Tx, message: u64) {
    while sender.try_send(pair(message)).is_err() {
        thread::yield_now();
    }
}

#[test]
fn messages_are_whole_and_what_is_missed_is_counted() {
    model(3, || {
        let _light = LightIsNothing::new();
        let ring = ring(0);
        let mut sender = sender(&ring);
        let mut receiver = lossy(&ring, false, Start::Next);
        send(&mut sender, 0);
        let thread = thread::spawn(move || {
            for message in 1..4 {
                send(&mut sender, message);
            }
            sender
        });
        let mut expected = 0;
        for _ in 0..3 {
            match receiver.try_recv() {
                Ok(message) => {
                    assert_eq!(number(message), expected);
                    expected += 1;
                }
                Err(TryReadError::Lagged(missed)) => expected += missed,
                Err(TryReadError::Empty) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let sender = thread.join().unwrap();
        while expected < 4 {
            match receiver.try_recv() {
                Ok(message) => {
                    assert_eq!(number(message), expected);
                    expected += 1;
                }
                Err(TryReadError::Lagged(missed)) => expected += missed,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((expected, receiver.position()), (4, 4));
        assert_eq!(receiver.try_recv(), Err(TryReadError::Empty));
        drop(sender);
    });
}

#[test]
fn a_lossless_receiver_gets_all_and_none_is_overwritten() {
    model(3, || {
        let _light = LightIsNothing::new();
        let ring = ring(1);
        let mut sender = sender(&ring);
        let mut receiver = lossless(&ring, 2);
        send(&mut sender, 0);
        let thread = thread::spawn(move || {
            for message in 1..4 {
                send(&mut sender, message);
            }
            sender
        });
        let mut expected = 0;
        while expected < 4 {
            match receiver.try_recv() {
                Ok(message) => {
                    assert_eq!(number(message), expected);
                    expected += 1;
                }
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn who_joins_gets_all_from_there_on() {
    model(3, || {
        let _light = LightIsNothing::new();
        let ring = ring(1);
        let mut sender = sender(&ring);
        let thread = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..5 {
                sent += u64::from(sender.try_send(pair(sent)).is_ok());
            }
            (sent, sender)
        });
        let mut receiver = lossless(&ring, 2);
        let first = receiver.position();
        let (sent, sender) = thread.join().unwrap();
        for expected in first..sent {
            assert_eq!(receiver.try_recv().map(number), Ok(expected));
        }
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(sender);
    });
}

#[test]
fn who_leaves_makes_room_and_another_takes_the_seat() {
    model(3, || {
        let _light = LightIsNothing::new();
        let ring = ring(1);
        let mut sender = sender(&ring);
        let mut receiver = lossless(&ring, 2);
        send(&mut sender, 0);
        send(&mut sender, 1);
        let thread = thread::spawn(move || {
            let mut sent = 2;
            for _ in 0..3 {
                sent += u64::from(sender.try_send(pair(sent)).is_ok());
            }
            (sent, sender)
        });
        assert_eq!(receiver.try_recv().map(number), Ok(0));
        drop(receiver);
        let mut receiver = lossless(&ring, 3);
        let first = receiver.position();
        let (sent, sender) = thread.join().unwrap();
        for expected in first..sent {
            assert_eq!(receiver.try_recv().map(number), Ok(expected));
        }
        drop(sender);
    });
}

#[test]
fn sleeping_receivers_are_handed_the_message() {
    model(2, || {
        let ring = ring(1);
        let mut sender = sender(&ring);
        let mut announced = lossy(&ring, true, Start::Next);
        let mut lossless = lossless(&ring, 2);
        let threads = [
            thread::spawn(move || {
                assert_eq!(announced.recv().map(number), Ok(0));
            }),
            thread::spawn(move || {
                assert_eq!(lossless.recv().map(number), Ok(0));
            }),
        ];
        send(&mut sender, 0);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_that_sleeps_twice_is_woken_twice() {
    model(3, || {
        let ring = ring(0);
        let mut sender = sender(&ring);
        let mut receiver = lossy(&ring, true, Start::Next);
        let thread = thread::spawn(move || {
            for expected in 0..2 {
                assert_eq!(receiver.recv().map(number), Ok(expected));
            }
        });
        send(&mut sender, 0);
        send(&mut sender, 1);
        thread.join().unwrap();
    });
}

#[test]
fn a_sleeping_sender_is_handed_the_room() {
    model(3, || {
        let ring = ring(1);
        let mut sender = sender(&ring);
        let mut receiver = lossless(&ring, 2);
        send(&mut sender, 0);
        send(&mut sender, 1);
        let thread = thread::spawn(move || {
            assert_eq!(sender.send(pair(2)), Ok(()));
            sender
        });
        assert_eq!(receiver.try_recv().map(number), Ok(0));
        let sender = thread.join().unwrap();
        drop((sender, receiver));
    });
}

#[test]
fn a_sleeping_sender_hears_that_the_slowest_leaves() {
    model(3, || {
        let ring = ring(1);
        let mut sender = sender(&ring);
        let receiver = lossless(&ring, 2);
        send(&mut sender, 0);
        send(&mut sender, 1);
        let thread = thread::spawn(move || {
            assert_eq!(sender.send(pair(2)), Ok(()));
            sender
        });
        drop(receiver);
        drop(thread.join().unwrap());
    });
}

#[test]
fn sleeping_receivers_hear_the_close_behind_the_last_message() {
    model(3, || {
        let ring = ring(1);
        let mut sender = sender(&ring);
        let mut lossless = lossless(&ring, 2);
        let thread = thread::spawn(move || {
            assert_eq!(lossless.recv().map(number), Ok(0));
            assert_eq!(lossless.recv(), Err(RecvError::Disconnected));
        });
        send(&mut sender, 0);
        drop(sender);
        thread.join().unwrap();
        let mut late = lossy(&ring, true, Start::Newest);
        assert_eq!(late.recv().map(number), Ok(0));
        assert_eq!(late.recv(), Err(ReadError::Disconnected));
    });
}
