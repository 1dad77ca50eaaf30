//! A peer that writes anything anywhere in a live ring of many senders and receivers: errors or wrong
//! messages, never a panic, an access outside the ring, or a loop without end.
//!
//! `cargo fuzz run hostile_mpmc`
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::mpmc::{Config, Orphans, Receiver, Ring, Sender};
use multiprocess_core::{Memory, ParticipantId, Peers, Place, Region};
use multiprocess_shm::Segment;

/// Odd slots are dead.
#[derive(Clone, Copy)]
struct Process(u16);

// SAFETY: nobody here is odd but the one that has done nothing since.
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

fn scribble(region: Region<'_>, at: u16, value: u64) {
    let at = usize::from(at) % (region.len() / 8);
    // SAFETY: inside the region, aligned; volatile because the ring reads it behind our back.
    unsafe {
        region.base().cast::<u64>().add(at).write_volatile(value);
    }
}

fuzz_target!(|input: (bool, bool, Vec<[u8; 11]>)| {
    let (drops, one_step, steps) = input;
    let orphans = if drops {
        Orphans::Drop
    } else {
        Orphans::Redeliver
    };
    let config = Config::new(8).endpoints(6).orphans(orphans);
    let segment = Segment::create_place::<Ring<[u64; 2]>>(&config).unwrap();
    let region = segment.region();
    let at_once = Duration::from_nanos(1);
    let attach = |number| Receiver::<[u64; 2], _, _>::attach(region, Process(number));
    let mut sender = Sender::<[u64; 2], _, _>::attach(region, Process(2)).unwrap();
    let (mut first, mut dead) = (attach(4).unwrap(), attach(7).unwrap());
    first.set_one_step(one_step);
    for step in &steps {
        let at = u16::from_le_bytes([step[1], step[2]]);
        let value = u64::from_le_bytes(step[3..11].try_into().unwrap());
        match step[0] % 12 {
            0 | 1 => scribble(region, at, value),
            2 => scribble(region, at, value % 32),
            // The word of a slot: state, owner, ticket.
            3 => scribble(
                region,
                (0x300 + 6 * 0x80) / 8 + at % 8 * 4,
                value & 0xe007_0000_0000_003f,
            ),
            4 => drop(sender.try_send([value; 2])),
            5 => drop(sender.send_timeout([value; 2], at_once)),
            6 => drop(first.try_recv()),
            7 => drop(first.recv_timeout(at_once)),
            8 => {
                if let Ok(taken) = dead.try_take() {
                    std::mem::forget(taken);
                }
            }
            9 => {
                if let Ok(taken) = first.try_take() {
                    taken.give_up();
                }
            }
            10 => drop(sender.recover()),
            _ => drop(attach(4).map(|mut other| other.try_recv())),
        }
        std::hint::black_box((sender.len(), first.is_disconnected(), sender.statistics()));
    }
    let _ = <Ring<[u64; 2]> as Place>::attach(region);
    std::mem::forget(dead);
});
