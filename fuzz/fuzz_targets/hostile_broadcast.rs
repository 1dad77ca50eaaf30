//! A peer that writes anything anywhere in a live ring of one sender and many receivers: errors, wrong messages
//! or wrong counts, never a panic, an access outside the ring, or a loop without end.
//!
//! `cargo fuzz run hostile_broadcast`
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::broadcast::{Config, LosslessReceiver, Receiver, Ring, Sender, Start};
use multiprocess_core::{Memory, ParticipantId, Peers, Region, View};
use multiprocess_shm::Segment;
use multiprocess_sync::Source;

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

fuzz_target!(|steps: Vec<[u8; 11]>| {
    let config = Config::new(8).readers(3);
    let segment = Segment::create_place::<Ring<[u64; 2]>>(&config).unwrap();
    let region = segment.region();
    let at_once = Duration::from_nanos(1);
    let mut sender = Sender::<[u64; 2], _, _>::attach(region, Process(2)).unwrap();
    let seated = |number| LosslessReceiver::<[u64; 2], _, _>::attach(region, Process(number));
    let (mut first, dead) = (seated(4).unwrap(), seated(7).unwrap());
    let lossy = |start| Receiver::<[u64; 2], _>::attach(View::from(region), start);
    let mut reader = lossy(Start::Next).unwrap();
    for step in &steps {
        let at = u16::from_le_bytes([step[1], step[2]]);
        let value = u64::from_le_bytes(step[3..11].try_into().unwrap());
        match step[0] % 14 {
            0 | 1 => scribble(region, at, value),
            2 => scribble(region, at, value % 64),
            // Tail, role and bells.
            3 => scribble(region, 0x10 + at % 4 * 0x10, value % 64),
            // A seat's word and cursor.
            4 => scribble(region, 0x40 + at % 6 / 2 * 0x10 + at % 2, value),
            // The sequence of a slot.
            5 => scribble(region, 0x70 + at % 8 * 4, value % 64),
            6 => drop(sender.try_send([value; 2])),
            7 => drop(sender.send_timeout([value; 2], at_once)),
            8 => drop(first.try_recv()),
            9 => drop(first.recv_timeout(at_once)),
            10 => drop(reader.try_recv()),
            11 => drop(reader.recv_timeout(at_once)),
            12 => drop(sender.drop_dead()),
            _ => {
                let _ = seated(6).map(|mut other| other.try_recv());
                for start in [Start::Next, Start::Newest, Start::Oldest] {
                    let _ = lossy(start).map(|mut other| other.drain().take(16).count());
                }
            }
        }
        sender.recheck();
        first.recheck();
        std::hint::black_box((
            sender.statistics(),
            sender.is_ready(),
            (first.lag(), first.is_ready()),
            (reader.lag(), reader.lost(), reader.is_ready()),
        ));
    }
    std::mem::forget(dead);
});
