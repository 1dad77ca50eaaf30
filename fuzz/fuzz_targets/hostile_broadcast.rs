//! A peer that writes anything anywhere in a live ring of one sender and many receivers: errors, wrong messages
//! or wrong counts, never a panic, an access outside the ring, or a loop without end.
//!
//! `cargo fuzz run hostile_broadcast`
#![no_main]

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::broadcast::{Config, LosslessReceiver, Receiver, Ring, Sender, Start};
use multiprocess_core::{Memory, View};
use multiprocess_fuzz::{AT_ONCE, Aim, Process, Step, play};
use multiprocess_shm::Segment;
use multiprocess_sync::Source;

type Message = [u64; 2];

const AIMS: [Aim; 4] = [
    // Tail, role and bells.
    Aim {
        first: 0x10,
        every: 0x10,
        count: 4,
        bits: 63,
    },
    // A seat's word, and its cursor.
    Aim {
        first: 0x40,
        every: 0x10,
        count: 3,
        bits: u64::MAX,
    },
    Aim {
        first: 0x41,
        every: 0x10,
        count: 3,
        bits: u64::MAX,
    },
    // The sequence of a slot.
    Aim {
        first: 0x70,
        every: 4,
        count: 8,
        bits: 63,
    },
];

fuzz_target!(|steps: Vec<Step>| {
    let config = Config::new(8).readers(3);
    let segment = Segment::create_place::<Ring<Message>>(&config).unwrap();
    let region = segment.region();
    let mut sender = Sender::<Message, _, _>::attach(region, Process(2)).unwrap();
    let seated = |number| LosslessReceiver::<Message, _, _>::attach(region, Process(number));
    let (mut first, dead) = (seated(4).unwrap(), seated(7).unwrap());
    let lossy = |start| Receiver::<Message, _>::attach(View::from(region), start);
    let mut reader = lossy(Start::Next).unwrap();
    play(region, &steps, &AIMS, 8, |operation, _, value| {
        match operation {
            0 => drop(sender.try_send([value; 2])),
            1 => drop(sender.send_timeout([value; 2], AT_ONCE)),
            2 => drop(first.try_recv()),
            3 => drop(first.recv_timeout(AT_ONCE)),
            4 => drop(reader.try_recv()),
            5 => drop(reader.recv_timeout(AT_ONCE)),
            6 => drop(sender.drop_dead()),
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
    });
    std::mem::forget(dead);
});
