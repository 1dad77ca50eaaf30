//! `broadcast` among peers that write what they like.
#![cfg(all(not(loom), feature = "std"))]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use common::Heap;
use multiprocess_channel::broadcast::{
    Config, LosslessReceiver, ReadError, Receiver, Ring, Sender, Start, TryReadError,
};
use multiprocess_channel::{TryRecvError, TrySendError};
use multiprocess_core::Memory;
use multiprocess_testkit::watchdog::Watchdog;
use setup::{Process, Shared, lossless, lossy, sender};

fn heap(config: Config) -> Heap {
    Heap::holding::<Ring<u64>>(config)
}

/// Offsets of the README: tail, role, bells, and one seat's word and cursor; one slot's sequence.
fn word(ring: &Heap, offset: usize) -> &AtomicU64 {
    assert!(offset + 8 <= ring.region().len());
    // SAFETY: inside, aligned, and accessed by atomics.
    unsafe {
        ring.region()
            .base()
            .add(offset)
            .cast::<AtomicU64>()
            .as_ref()
    }
}

#[test]
fn contradictions_are_corrupt() {
    let ring = heap(Config::new(4).readers(1));
    let mut sender = sender(&ring);
    let mut receiver = lossy(&ring, Start::Next);
    let mut lossless = lossless(&ring, 2);
    let slots = 0x280;
    // A sequence that is no message's of this slot.
    word(&ring, slots).store(2 * 5 + 2, Relaxed);
    assert_eq!(receiver.try_recv(), Err(TryReadError::Corrupt));
    assert_eq!(lossless.try_recv(), Err(TryRecvError::Corrupt));
    word(&ring, slots).store(0, Relaxed);
    // A tail behind us.
    sender.try_send(1).unwrap();
    assert_eq!((receiver.recv(), lossless.recv()), (Ok(1), Ok(1)));
    word(&ring, 0x80).store(u64::MAX - 3, Relaxed);
    assert_eq!(receiver.recv(), Err(ReadError::Corrupt));
    word(&ring, 0x80).store(1, Relaxed);
    // A cursor that has read what was not sent.
    word(&ring, 0x208).store(9, Relaxed);
    let refused = loop {
        if let Err(refused) = sender.try_send(2) {
            break refused;
        }
    };
    assert_eq!(refused, TrySendError::Corrupt(2));
}

#[test]
fn a_peer_that_scribbles_over_the_ring_makes_nobody_panic_or_hang() {
    let _watchdog = Watchdog::seconds(120);
    let moment = Duration::from_micros(200);
    let ring = heap(Config::new(8).readers(3));
    let stop = AtomicBool::new(false);
    let len = ring.region().len() / 8;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 0x1234_5678_9abc_def1_u64;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            while !stop.load(Relaxed) {
                let at = next() as usize % len * 8;
                // The header is checked when somebody attaches: mostly it is good, so that they do.
                if at < 0x30 {
                    let good = word(&ring, at).load(Relaxed);
                    word(&ring, at).store(next(), Relaxed);
                    word(&ring, at).store(good, Relaxed);
                    continue;
                }
                let value = match next() % 4 {
                    0 => next(),
                    1 => next() % 64,
                    2 => u64::MAX - next() % 64,
                    _ => word(&ring, at)
                        .load(Relaxed)
                        .wrapping_add(next() % 5)
                        .wrapping_sub(2),
                };
                word(&ring, at).store(value, Relaxed);
            }
        });
        let users: [Box<dyn Fn() + Send>; 3] = [
            Box::new(|| {
                // SAFETY: words that nobody trusts; the bytes are a ring's in every state.
                let sender = unsafe { Sender::<u64, _, _>::take_over(ring.clone(), Process(1)) };
                if let Ok(mut sender) = sender {
                    for message in 0..50 {
                        let _ = sender.send_timeout(message, moment);
                        let _ = sender.statistics();
                    }
                    sender.drop_dead();
                }
            }),
            Box::new(|| {
                let memory = Shared(ring.clone(), true);
                if let Ok(mut receiver) = Receiver::<u64, _>::attach(memory, Start::Oldest) {
                    for _ in 0..50 {
                        let _ = receiver.recv_timeout(moment);
                        let _ = (receiver.lag(), receiver.lost(), receiver.position());
                    }
                }
            }),
            Box::new(|| {
                let receiver = LosslessReceiver::<u64, _, _>::attach(ring.clone(), Process(2));
                if let Ok(mut receiver) = receiver {
                    for _ in 0..50 {
                        let _ = receiver.recv_timeout(moment);
                    }
                }
            }),
        ];
        let threads: Vec<_> = users
            .into_iter()
            .map(|user| {
                scope.spawn(move || {
                    let end = std::time::Instant::now() + Duration::from_secs(3);
                    while std::time::Instant::now() < end {
                        user();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        stop.store(true, Relaxed);
    });
}
