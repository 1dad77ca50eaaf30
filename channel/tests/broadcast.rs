//! `broadcast`: what it promises, between threads.
#![cfg(all(not(loom), feature = "std"))]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use common::Heap;
use multiprocess_channel::broadcast::{
    self, AttachRingError, Config, Home, JoinError, LosslessReceiver, ReadError, Receiver, Ring,
    Sender, Start, TryReadError,
};
use multiprocess_channel::{RecvError, SendError, TryRecvError, TrySendError};
use multiprocess_core::{
    AttachError, CreateError, Memory, ParticipantId, Peers, Place, Timeout, View,
};
use multiprocess_testkit::watchdog::Watchdog;
use setup::{Process, Shared, lossless, lossy, sender};

type Words = [u64; 7];

/// A message that shows whether it is torn.
fn words(number: u64) -> Words {
    std::array::from_fn(|i| {
        number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(i as u32)
    })
}

fn number(words: &Words) -> u64 {
    let number = words[0].wrapping_mul(0xf1de_83e1_9937_733d);
    assert_eq!(*words, self::words(number), "torn");
    number
}

fn heap<T: multiprocess_channel::spsc::Message>(config: Config) -> Heap {
    Heap::holding::<Ring<T>>(config)
}

/// Where the numbers of messages begin: also across the wrap of the sequences, and of the indices.
const STARTS: [u64; 3] = [0, (1 << 63) - 5, u64::MAX - 5];

#[test]
fn everybody_gets_every_message() {
    for first in STARTS {
        let ring = heap::<u64>(Config::new(4).readers(2).starting_at(first));
        let mut sender = sender(&ring);
        let mut receivers = [lossy(&ring, Start::Next), lossy(&ring, Start::Oldest)];
        let mut lossless = lossless(&ring, 2);
        assert_eq!(receivers[0].try_recv(), Err(TryReadError::Empty));
        for message in 0..20 {
            sender.try_send(message).unwrap();
            for receiver in &mut receivers {
                assert_eq!(receiver.try_recv(), Ok(message));
                assert_eq!(receiver.try_recv(), Err(TryReadError::Empty));
                assert_eq!(receiver.position(), message + 1);
            }
            assert_eq!(lossless.try_recv(), Ok(message));
            assert_eq!(lossless.try_recv(), Err(TryRecvError::Empty));
        }
        assert_eq!(sender.position(), 20);
        let statistics = sender.statistics();
        assert_eq!(
            (statistics.sent, statistics.readers, statistics.lag),
            (20, 1, 0)
        );
        assert_eq!(receivers[0].lost(), 0);
    }
}

#[test]
fn who_was_overtaken_is_told_exactly_how_many_it_missed() {
    for first in STARTS {
        for capacity in [2, 4, 8, 64] {
            for extra in 1..capacity * 2 {
                let ring = heap::<u64>(Config::new(capacity).readers(0).starting_at(first));
                let mut sender = sender(&ring);
                let mut receiver = lossy(&ring, Start::Next);
                let sent = capacity + extra;
                for message in 0..sent {
                    sender.try_send(message).unwrap();
                }
                assert_eq!(receiver.lag(), sent);
                let Err(TryReadError::Lagged(missed)) = receiver.try_recv() else {
                    panic!("not overtaken");
                };
                let got: Vec<u64> = receiver.drain().collect();
                assert_eq!(got, (missed..sent).collect::<Vec<_>>());
                assert_eq!(receiver.lost(), missed);
                assert_eq!(missed, extra + (capacity / 4).max(1), "{capacity} {extra}");
            }
        }
    }
}

#[test]
fn a_receiver_starts_where_it_is_told() {
    for first in STARTS {
        let ring = heap::<u64>(Config::new(4).starting_at(first));
        let mut sender = sender(&ring);
        let mut none = lossy(&ring, Start::Newest);
        assert_eq!(none.try_recv(), Err(TryReadError::Empty));
        for sent in 1..20 {
            sender.try_send(sent).unwrap();
            let next = lossy(&ring, Start::Next).drain().count();
            let newest: Vec<u64> = lossy(&ring, Start::Newest).drain().collect();
            let oldest: Vec<u64> = lossy(&ring, Start::Oldest).drain().collect();
            assert_eq!((next, newest), (0, vec![sent]));
            let from = if sent < 3 { 1 } else { sent - 2 };
            assert_eq!(oldest, (from..=sent).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_sender_waits_for_the_slowest_lossless_receiver() {
    for first in STARTS {
        let ring = heap::<u64>(Config::new(4).readers(2).starting_at(first));
        let mut sender = sender(&ring);
        let mut fast = lossless(&ring, 2);
        sender.try_send(0).unwrap();
        let mut slow = lossless(&ring, 3);
        assert_eq!(fast.try_recv(), Ok(0), "it joined before");
        for message in 1..=4 {
            sender.try_send(message).unwrap();
        }
        assert_eq!(fast.drain().count(), 4);
        assert_eq!(sender.try_send(5), Err(TrySendError::Full(5)));
        assert_eq!(sender.lag(), 4);
        let short = Duration::from_millis(1);
        assert_eq!(sender.send_timeout(5, short), Err(SendError::Timeout(5)));
        assert_eq!(slow.try_recv(), Ok(1), "it joined after 0");
        assert_eq!(sender.send_timeout(5, Timeout::TRY), Ok(()));
        assert_eq!(sender.try_send(6), Err(TrySendError::Full(6)));
        drop(slow);
        assert_eq!(sender.try_send_slice(&[6, 7, 8]), Ok(3));
        assert_eq!(sender.try_send_slice(&[9, 10]), Err(TrySendError::Full(())));
        assert_eq!(fast.drain().collect::<Vec<_>>(), [5, 6, 7, 8]);
    }
}

#[test]
fn a_dead_receiver_is_dropped_when_the_sender_would_wait() {
    let _watchdog = Watchdog::seconds(60);
    let ring = heap::<u64>(Config::new(2).readers(1));
    let mut sender = sender(&ring);
    std::mem::forget(lossless(&ring, 90));
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    assert_eq!(sender.send(3), Ok(()));
    assert_eq!(sender.statistics().dropped, 1);
    // And by a receiver that finds no seat.
    std::mem::forget(lossless(&ring, 91));
    let living = lossless(&ring, 2);
    let full = LosslessReceiver::<u64, _, _>::attach(ring.clone(), Process(3));
    assert_eq!(full.err(), Some(AttachRingError::Join(JoinError::Full)));
    assert_eq!(sender.statistics().dropped, 2);
    drop(living);
}

#[test]
fn a_living_receiver_is_waited_for_however_long_it_takes() {
    let _watchdog = Watchdog::seconds(60);
    let ring = heap::<u64>(Config::new(2));
    let mut sender = sender(&ring);
    let mut receiver = lossless(&ring, 2);
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        receiver.iter().collect::<Vec<_>>()
    });
    for message in 0..5 {
        sender.send(message).unwrap();
    }
    drop(sender);
    assert_eq!(thread.join().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn closing_disconnects_behind_the_last_message() {
    let ring = heap::<u64>(Config::new(4));
    let mut sender = sender(&ring);
    let (mut lossy, mut lossless) = (lossy(&ring, Start::Next), lossless(&ring, 2));
    sender.try_send(1).unwrap();
    sender.close();
    assert!(lossy.is_disconnected() && lossless.is_disconnected());
    assert_eq!(sender.try_send(2), Err(TrySendError::Disconnected(2)));
    assert_eq!(lossy.recv(), Ok(1));
    assert_eq!(lossy.recv(), Err(ReadError::Disconnected));
    assert_eq!(lossless.recv(), Ok(1));
    assert_eq!(lossless.recv(), Err(RecvError::Disconnected));
    let again = Sender::<u64, _, _>::attach(ring.clone(), Process(3));
    assert_eq!(again.err(), Some(AttachError::RoleTaken));
    // SAFETY: it has closed.
    let mut next = unsafe { Sender::<u64, _, _>::take_over(ring, Process(3)) }.unwrap();
    next.try_send(3).unwrap();
    assert_eq!((lossy.recv(), lossless.recv()), (Ok(3), Ok(3)));
    lossless.close();
    assert_eq!(lossless.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn a_dead_sender_is_succeeded_and_noticed() {
    let _watchdog = Watchdog::seconds(60);
    let ring = heap::<u64>(Config::new(4));
    let mut dead = Sender::<u64, _, _>::attach(ring.clone(), Process(90)).unwrap();
    let mut lossless = lossless(&ring, 2);
    let mut lossy = lossy(&ring, Start::Next);
    dead.try_send(1).unwrap();
    std::mem::forget(dead);
    assert_eq!(lossless.recv(), Ok(1));
    let noticed = lossless.recv_timeout(Duration::from_secs(10));
    assert_eq!(noticed, Err(RecvError::Disconnected));
    assert_eq!(lossy.sender(), ParticipantId::new(90, 1));
    let mut next = sender(&ring);
    assert_eq!(next.position(), 1);
    next.try_send(2).unwrap();
    assert_eq!(
        (lossless.recv(), lossy.recv(), lossy.recv()),
        (Ok(2), Ok(1), Ok(2))
    );
    let second = Sender::<u64, _, _>::attach(ring, Process(3));
    assert_eq!(second.err(), Some(AttachError::RoleTaken), "it lives");
}

#[test]
fn sleeping_receivers_of_each_kind_are_woken() {
    let _watchdog = Watchdog::seconds(120);
    let ring = heap::<u64>(Config::new(4));
    let mut sender = sender(&ring);
    let timed_out = lossy(&ring, Start::Next).recv_timeout(Duration::from_millis(3));
    assert_eq!(timed_out, Err(ReadError::Timeout));
    let mut blind = lossy(&ring, Start::Next);
    let mut announced =
        Receiver::<u64, _>::attach(Shared(ring.clone(), true), Start::Next).unwrap();
    let mut lossless = lossless(&ring, 2);
    announced.set_spin_cap(0);
    let threads = [
        thread::spawn(move || blind.iter().collect::<Vec<_>>()),
        thread::spawn(move || announced.iter().collect::<Vec<_>>()),
        thread::spawn(move || lossless.iter().collect::<Vec<_>>()),
    ];
    for message in 0..20 {
        thread::sleep(Duration::from_millis(5));
        sender.send(message).unwrap();
        if message % 4 == 0 {
            sender.wake_read_only();
        }
    }
    drop(sender);
    for (kind, thread) in threads.into_iter().enumerate() {
        let got = thread.join().unwrap();
        // On a busy machine the first two may be overtaken.
        assert!(
            got.is_sorted() && (kind < 2 || got.len() == 20),
            "{kind}: {got:?}"
        );
    }
}

#[test]
fn nothing_is_torn_and_every_miss_is_counted() {
    let _watchdog = Watchdog::seconds(300);
    const MESSAGES: u64 = 50_000;
    let ring = heap::<Words>(Config::new(8).readers(2));
    let mut sender = Sender::<Words, _, _>::attach(ring.clone(), Process(1)).unwrap();
    let lossless: Vec<_> = (2..4)
        .map(|who| LosslessReceiver::<Words, _, _>::attach(ring.clone(), Process(who)).unwrap())
        .collect();
    let lossy: Vec<_> = [true, false]
        .map(|announces| {
            Receiver::<Words, _>::attach(Shared(ring.clone(), announces), Start::Next).unwrap()
        })
        .into();
    let sum = AtomicU64::new(0);
    thread::scope(|scope| {
        for mut receiver in lossless {
            let sum = &sum;
            scope.spawn(move || {
                for expected in 0..MESSAGES {
                    assert_eq!(number(&receiver.recv().unwrap()), expected);
                }
                sum.fetch_add(1, Relaxed);
                assert_eq!(receiver.recv().err(), Some(RecvError::Disconnected));
            });
        }
        for mut receiver in lossy {
            scope.spawn(move || {
                let (mut expected, mut missed) = (0, 0);
                loop {
                    match receiver.recv() {
                        Ok(words) => {
                            assert_eq!(number(&words), expected);
                            expected += 1;
                        }
                        Err(ReadError::Lagged(n)) => {
                            expected += n;
                            missed += n;
                        }
                        Err(ReadError::Disconnected) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
                assert_eq!((expected, receiver.lost()), (MESSAGES, missed));
            });
        }
        for message in 0..MESSAGES {
            sender.send(words(message)).unwrap();
        }
        drop(sender);
    });
    assert_eq!(sum.into_inner(), 2);
}

#[test]
fn an_unhindered_sender_tears_nothing_either() {
    let _watchdog = Watchdog::seconds(300);
    let ring = heap::<Words>(Config::new(4).readers(0));
    let mut sender = Sender::<Words, _, _>::attach(ring.clone(), Process(1)).unwrap();
    let mut receiver = Receiver::<Words, _>::attach(Shared(ring, false), Start::Next).unwrap();
    let thread = thread::spawn(move || {
        let (mut expected, mut got) = (0, 0_u64);
        loop {
            match receiver.try_recv() {
                Ok(words) => {
                    assert_eq!(number(&words), expected);
                    expected += 1;
                    got += 1;
                }
                Err(TryReadError::Lagged(n)) => expected += n,
                Err(TryReadError::Empty) => {}
                Err(TryReadError::Disconnected) => break,
                Err(other) => panic!("{other}"),
            }
        }
        (expected, got)
    });
    const MESSAGES: u64 = 3_000_000;
    for message in 0..MESSAGES {
        sender.try_send(words(message)).unwrap();
    }
    drop(sender);
    let (expected, got) = thread.join().unwrap();
    assert!(expected == MESSAGES && got > 0, "{expected} {got}");
}

#[test]
fn receivers_that_join_while_messages_flow_miss_none_from_there_on() {
    let _watchdog = Watchdog::seconds(300);
    let ring = heap::<Words>(Config::new(2).readers(2));
    let mut sender = Sender::<Words, _, _>::attach(ring.clone(), Process(1)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut message = 0;
            while !stop.load(Relaxed) {
                sender.send(words(message)).unwrap();
                message += 1;
            }
        });
        let joiners: Vec<_> = (2..4)
            .map(|who| {
                let ring = ring.clone();
                scope.spawn(move || {
                    for round in 0..3000 {
                        let mut receiver =
                            LosslessReceiver::<Words, _, _>::attach(ring.clone(), Process(who))
                                .unwrap();
                        let mut expected = None;
                        for _ in 0..round % 7 {
                            let got = number(&receiver.recv().unwrap());
                            assert_eq!(expected.unwrap_or(got), got);
                            expected = Some(got + 1);
                        }
                    }
                })
            })
            .collect();
        for joiner in joiners {
            joiner.join().unwrap();
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_ring_of_its_own_is_read_through_a_read_only_descriptor() {
    let (mut sender, home) = broadcast::channel::<u64>(5).unwrap();
    let file = home.read_only().unwrap();
    let mut reader = broadcast::receiver::<u64>(file.try_clone().unwrap(), Start::Next).unwrap();
    assert_eq!(reader.capacity(), 8);
    // Sleeps on memory that it may not write.
    reader.set_spin_cap(0);
    let short = Duration::from_millis(3);
    assert_eq!(reader.recv_timeout(short), Err(ReadError::Timeout));
    assert!(
        Home::attach::<Ring<u64>>(file).is_err(),
        "it cannot be written through"
    );
    let other = Home::attach::<Ring<u64>>(home.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_ne!(other.participant().me(), home.participant().me());
    let mut lossless = LosslessReceiver::<u64>::attach(other.clone(), other).unwrap();
    let mut second = lossless.try_clone().unwrap();
    sender.send(7).unwrap();
    assert_eq!(reader.recv_timeout(Duration::from_millis(1)), Ok(7));
    assert_eq!((lossless.recv(), second.recv()), (Ok(7), Ok(7)));
    assert_eq!(sender.statistics().readers, 2);
    let wrong = broadcast::receiver::<u32>(home.read_only().unwrap(), Start::Next);
    assert!(matches!(wrong, Err(AttachError::Layout { .. })));
    drop(sender);
    assert_eq!(reader.recv(), Err(ReadError::Disconnected));
    assert!(format!("{reader:?} {lossless:?}").contains("cursor"));
}

#[test]
fn absurd_rings_are_refused() {
    for config in [
        Config::new(0),
        Config::new((1 << 40) + 1),
        Config::new(1).readers(4097),
        Config::new(1).readers(u32::MAX),
    ] {
        let layout = Ring::<u64>::layout(&config);
        assert!(matches!(layout, Err(CreateError::Capacity { .. })));
        assert!(broadcast::channel_with::<u64>(&config).is_err());
    }
    let ring = heap::<u64>(Config::new(1));
    assert_eq!(sender(&ring).capacity(), 2);
    let other = Receiver::<[u64; 2], _>::attach(Shared(ring.clone(), false), Start::Next);
    assert!(matches!(other, Err(AttachError::Layout { .. })));
    let short = ring.region().sub(0, 0x210).unwrap();
    let truncated = Receiver::<u64, _>::attach(View::from(short), Start::Next);
    assert!(matches!(truncated, Err(AttachError::Truncated { .. })));
}
