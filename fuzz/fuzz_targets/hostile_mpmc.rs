//! A peer that writes anything anywhere in a live ring of many senders and receivers: errors or wrong
//! messages, never a panic, an access outside the ring, or a loop without end.
//!
//! `cargo fuzz run hostile_mpmc`
#![no_main]

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::mpmc::{Config, Orphans, Receiver, Ring, Sender};
use multiprocess_core::{Memory, Place};
use multiprocess_fuzz::{AT_ONCE, Aim, Process, Step, play};
use multiprocess_shm::Segment;

type Message = [u64; 2];

/// The word of a slot: state, owner, ticket.
const SLOTS: Aim = Aim {
    first: (0x300 + 6 * 0x80) / 8,
    every: 4,
    count: 8,
    bits: 0xe007_0000_0000_003f,
};

fuzz_target!(|input: (bool, bool, Vec<Step>)| {
    let (drops, one_step, steps) = input;
    let orphans = if drops {
        Orphans::Drop
    } else {
        Orphans::Redeliver
    };
    let config = Config::new(8).endpoints(6).orphans(orphans);
    let segment = Segment::create_place::<Ring<Message>>(&config).unwrap();
    let region = segment.region();
    let attach = |number| Receiver::<Message, _, _>::attach(region, Process(number));
    let mut sender = Sender::<Message, _, _>::attach(region, Process(2)).unwrap();
    let (mut first, mut dead) = (attach(4).unwrap(), attach(7).unwrap());
    first.set_one_step(one_step);
    play(region, &steps, &[SLOTS], 8, |operation, _, value| {
        match operation {
            0 => drop(sender.try_send([value; 2])),
            1 => drop(sender.send_timeout([value; 2], AT_ONCE)),
            2 => drop(first.try_recv()),
            3 => drop(first.recv_timeout(AT_ONCE)),
            4 => {
                if let Ok(taken) = dead.try_take() {
                    std::mem::forget(taken);
                }
            }
            5 => {
                if let Ok(taken) = first.try_take() {
                    taken.give_up();
                }
            }
            6 => drop(sender.recover()),
            _ => drop(attach(4).map(|mut other| other.try_recv())),
        }
        std::hint::black_box((sender.len(), first.is_disconnected(), sender.statistics()));
    });
    let _ = <Ring<Message> as Place>::attach(region);
    std::mem::forget(dead);
});
