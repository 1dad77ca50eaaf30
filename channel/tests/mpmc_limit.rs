//! A ring with a limit below its capacity counts what nobody has taken, whoever dies meanwhile.
#![cfg(all(not(loom), feature = "std"))]

mod common;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::Heap;
use multiprocess_channel::TrySendError;
use multiprocess_channel::mpmc::{Config, Receiver, Ring, Sender};
use multiprocess_core::{Memory, ParticipantId, Peers};

/// Number 9 is dead.
#[derive(Clone, Copy)]
struct Someone(u16);

// SAFETY: number 9 does nothing.
unsafe impl Peers for Someone {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() == 9
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

const ENDPOINTS: u32 = 4;

/// The word of the slot of `ticket` (channel/README.md).
fn word(memory: &Heap, ticket: usize) -> &AtomicU64 {
    let offset = 0x300 + ENDPOINTS as usize * 0x80 + 16 * ticket;
    // SAFETY: inside the ring, aligned, accessed atomically by all.
    unsafe { memory.region().base().add(offset).cast().as_ref() }
}

#[test]
fn a_dead_sender_s_slot_does_not_hide_that_those_before_it_are_untaken() {
    let config = Config::new(16).limit(4).endpoints(ENDPOINTS);
    let memory = Heap::holding::<Ring<u64>>(config);
    let mut sender = Sender::<u64, _, _>::attach(memory.clone(), Someone(1)).unwrap();
    let dead = Sender::<u64, _, _>::attach(memory.clone(), Someone(9)).unwrap();
    let mut receiver = Receiver::<u64, _, _>::attach(memory.clone(), Someone(2)).unwrap();
    sender.try_send(0).unwrap();
    // Seat 1 is the dead one's: it was writing the second message.
    assert_eq!(word(&memory, 1).load(Relaxed), 1, "the layout has changed");
    word(&memory, 1).store(1 << 61 | 1 << 48 | 1, Relaxed);
    std::mem::forget(dead);
    assert_eq!(receiver.recover().unsent, 1);
    for message in [2, 3] {
        sender.try_send(message).unwrap();
    }
    // Ticket 0 lies four back.
    assert_eq!(sender.try_send(4), Err(TrySendError::Full(4)));
    assert_eq!(receiver.try_recv(), Ok(0));
    assert_eq!(sender.try_send(4), Ok(()));
    assert_eq!(receiver.drain().collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn however_it_is_filled_and_emptied_it_never_has_more_than_its_limit() {
    let config = Config::new(256).limit(100).endpoints(ENDPOINTS);
    let memory = Heap::holding::<Ring<u64>>(config);
    let mut sender = Sender::<u64, _, _>::attach(memory.clone(), Someone(1)).unwrap();
    let mut receiver = Receiver::<u64, _, _>::attach(memory, Someone(2)).unwrap();
    let (mut sent, mut taken, mut seed) = (0, 0, 1_u64);
    for _ in 0..2000 {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let count = (seed >> 33) % 130;
        if seed >> 63 == 0 {
            for _ in 0..count {
                let room = sent - taken < 100;
                assert_eq!(
                    sender.try_send(sent).is_ok(),
                    room,
                    "{} there",
                    sent - taken
                );
                sent += u64::from(room);
            }
        } else {
            for message in receiver.drain().take(count as usize) {
                assert_eq!(message, taken);
                taken += 1;
            }
        }
    }
    assert!(sent > 10_000);
}

#[test]
fn what_the_dead_had_comes_on_top_of_the_limit_and_is_not_told() {
    let config = Config::new(16).limit(4).endpoints(ENDPOINTS);
    let memory = Heap::holding::<Ring<u64>>(config);
    let mut sender = Sender::<u64, _, _>::attach(memory.clone(), Someone(1)).unwrap();
    let mut dead = Receiver::<u64, _, _>::attach(memory.clone(), Someone(9)).unwrap();
    let mut receiver = Receiver::<u64, _, _>::attach(memory, Someone(2)).unwrap();
    for message in 0..6 {
        sender.try_send(message).unwrap();
        if message < 2 {
            std::mem::forget(dead.take().unwrap());
        }
    }
    std::mem::forget(dead);
    assert_eq!(
        (sender.len(), sender.try_send(6)),
        (4, Err(TrySendError::Full(6)))
    );
    assert_eq!(receiver.recover().orphans, 2);
    assert_eq!((sender.len(), receiver.len()), (4, 4));
    assert_eq!(receiver.drain().count(), 6);
    assert!(receiver.is_empty());
}

#[test]
fn a_stalled_receiver_that_is_stepped_over_does_not_hide_what_is_untaken() {
    for limit in [1, 2, 3, 8] {
        let config = Config::new(16).limit(limit).endpoints(ENDPOINTS);
        let memory = Heap::holding::<Ring<u64>>(config);
        let mut sender = Sender::<u64, _, _>::attach(memory.clone(), Someone(1)).unwrap();
        let mut stalled = Receiver::<u64, _, _>::attach(memory.clone(), Someone(2)).unwrap();
        let mut receiver = Receiver::<u64, _, _>::attach(memory, Someone(3)).unwrap();
        sender.try_send(0).unwrap();
        let in_hand = stalled.try_take().unwrap();
        let (mut sent, mut taken) = (1, 1);
        // Lap after lap; by so many at a time that the slot is first, in the middle, and last.
        for round in 0..100 {
            while (0..600).any(|_| sender.try_send(sent).is_ok()) {
                sent += 1;
                assert!(
                    sent - taken <= limit,
                    "{limit}: {} are untaken",
                    sent - taken
                );
            }
            assert!(sent > taken, "{limit}: nothing can be sent");
            for _ in 0..=round % (sent - taken) {
                assert_eq!(receiver.try_recv(), Ok(taken));
                taken += 1;
            }
        }
        in_hand.release();
        assert!(receiver.drain().eq(taken..sent));
    }
}
