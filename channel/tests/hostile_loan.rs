//! `loan` among peers that write what they like.
#![cfg(all(not(loom), feature = "std"))]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::Heap;
use multiprocess_channel::loan::{Config, Orphans, Receiver, Ring, Sender};
use multiprocess_channel::{RecvError, TryRecvError};
use multiprocess_core::{Memory, ParticipantId, Peers};
use multiprocess_testkit::watchdog::Watchdog;

/// Odd ones are dead.
#[derive(Clone, Copy)]
struct Process(u16);

// SAFETY: nobody who is called odd does anything any more, or is trusted.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() % 2 == 1
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

fn word(ring: &Heap, offset: usize) -> &AtomicU64 {
    assert!(offset + 8 <= ring.region().len());
    let base = ring.region().base();
    // SAFETY: inside, aligned, and accessed by atomics.
    unsafe { base.add(offset).cast::<AtomicU64>().as_ref() }
}

/// Where the messages lie (channel/README.md), for 4 endpoints.
const MESSAGES: usize = 0x80 + 0x300 + 4 * 0x80 + 8;

#[test]
fn a_reference_that_names_no_block_is_corrupt_and_gone() {
    let ring = Heap::holding::<Ring>(Config::new(8, 1 << 16).endpoints(4));
    let sender = Sender::attach(ring.clone(), Process(2)).unwrap();
    let receiver = Receiver::attach(ring.clone(), Process(4)).unwrap();
    let mut ticket = 0;
    let mut spoilt = |spoil: &dyn Fn(u64) -> u64| {
        sender.loan(100).unwrap().try_send().unwrap();
        let message = word(&ring, MESSAGES + ticket % 8 * 16);
        message.store(spoil(message.load(Relaxed)), Relaxed);
        ticket += 1;
        let refused = receiver.try_take();
        assert!(matches!(refused, Err(TryRecvError::Corrupt)), "{refused:?}");
        assert!(receiver.is_empty());
    };
    // Longer than its block; outside the arena; in the middle of a block; where no block is.
    spoilt(&|message| message | 0xffff_ffff);
    spoilt(&|_| u64::MAX);
    spoilt(&|message| message + (1 << 32));
    spoilt(&|message| message + (1 << 38));
    sender.loan_value(7_u64).unwrap().send().unwrap();
    assert_eq!(receiver.take().unwrap().value(), Some(&7_u64));
}

#[test]
fn a_peer_that_scribbles_over_everything_makes_nobody_panic_or_hang() {
    let _watchdog = Watchdog::seconds(120);
    let moment = Duration::from_micros(200);
    for orphans in [Orphans::Redeliver, Orphans::Drop] {
        let config = Config::new(8, 1 << 14).endpoints(6).orphans(orphans);
        let ring = Heap::holding::<Ring>(config);
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
                    let old = word(&ring, at).load(Relaxed);
                    let value = match next() % 4 {
                        0 => next(),
                        1 => next() % 64,
                        2 => old ^ (7 << 61),
                        _ => old.wrapping_add(next() % 5).wrapping_sub(2),
                    };
                    word(&ring, at).store(value, Relaxed);
                    // Headers are looked at when somebody attaches: mostly they are good.
                    if at < 0x100 {
                        word(&ring, at).store(old, Relaxed);
                    }
                }
            });
            let users = [2_u16, 4, 6].map(|number| {
                let (ring, stop) = (ring.clone(), &stop);
                scope.spawn(move || {
                    let end = Instant::now() + Duration::from_secs(2);
                    while Instant::now() < end && !stop.load(Relaxed) {
                        use_it(&ring, Process(number), moment);
                    }
                })
            });
            for user in users {
                user.join().unwrap();
            }
            stop.store(true, Relaxed);
        });
    }
}

/// By atomic copies only: the bytes change under our hands.
fn use_it(ring: &Heap, me: Process, moment: Duration) {
    if let Ok(sender) = Sender::attach(ring.clone(), me) {
        for len in [1, 100, 5000, 16_384] {
            if let Ok(loan) = sender.loan_timeout(len, moment) {
                let _ = loan.send_timeout(moment);
            }
        }
        let _ = (sender.recover(), sender.len(), sender.memory_statistics());
    }
    if let Ok(receiver) = Receiver::attach(ring.clone(), me) {
        for turn in 0..4 {
            let mut copy = [0; 64];
            match receiver.take_timeout(moment) {
                Ok(sample) if turn == 0 => sample.give_up(),
                Ok(sample) if turn == 1 => drop(sample.keep()),
                Ok(sample) => assert!(sample.copy_to(&mut copy) <= 64),
                Err(RecvError::Disconnected) => return,
                Err(_) => {}
            }
        }
        let _ = (receiver.is_disconnected(), receiver.statistics());
    }
}
