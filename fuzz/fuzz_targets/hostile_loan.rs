//! A peer that writes anything anywhere in a live ring of loans, its slots and the words of its blocks: errors,
//! or other bytes, never a panic, an access outside the memory, or a loop without end. What lies in the blocks
//! is read by copies only.
//!
//! `cargo fuzz run hostile_loan`
#![no_main]

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::loan::{Config, Orphans, Receiver, Ring, Sender};
use multiprocess_core::{Memory, Place};
use multiprocess_fuzz::{AT_ONCE, Aim, Process, Step, play};
use multiprocess_shm::Segment;
use multiprocess_sync::Source;

/// Where the slots lie (channel/README.md), for 6 endpoints: 16 bytes each.
const SLOTS: usize = (0x80 + 0x300 + 6 * 0x80) / 8;
/// Behind them the arena: its header, the words of its chunks, and those of its units.
const ARENA: usize = SLOTS + 8 * 2;

const AIMS: [Aim; 4] = [
    // The word of a slot: state, owner, ticket.
    Aim {
        first: SLOTS,
        every: 2,
        count: 8,
        bits: 0xe007_0000_0000_003f,
    },
    // A message: unit and length.
    Aim {
        first: SLOTS + 1,
        every: 2,
        count: 8,
        bits: 0x0000_03ff_0000_1fff,
    },
    // Chunks: what they are used for, by whom; and units: whose they are.
    Aim {
        first: ARENA,
        every: 1,
        count: 64,
        bits: 0xf000_0003_0001_000f,
    },
    Aim {
        first: ARENA,
        every: 1,
        count: 256,
        bits: 0x0001_0007_0001_0007,
    },
];

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (drops, steps) = input;
    let orphans = if drops {
        Orphans::Drop
    } else {
        Orphans::Redeliver
    };
    let config = Config::new(8, 16 << 10).endpoints(6).orphans(orphans);
    let segment = Segment::create_place::<Ring>(&config).unwrap();
    let region = segment.region();
    let sender = Sender::attach(region, Process(2)).unwrap();
    let lost = Sender::attach(region, Process(5)).unwrap();
    let attach = |number| Receiver::attach(region, Process(number));
    let (first, dead) = (attach(4).unwrap(), attach(7).unwrap());
    let (mut loans, mut kept) = (Vec::new(), Vec::new());
    play(region, &steps, &AIMS, 12, |operation, at, value| {
        let len = [1, 64, 100, 1000, 4096, 6000, 16 << 10, 1 << 20][usize::from(at % 8)];
        match operation {
            0 => loans.extend(sender.try_loan(len)),
            1 => {
                if let Ok(mut loan) = sender.loan_timeout(len, AT_ONCE) {
                    loan.truncate(value as usize % 8192);
                    drop(loan.try_send());
                }
            }
            2 => drop(loans.pop().map(|loan| loan.send_timeout(AT_ONCE))),
            3 => drop(loans.pop()),
            4 => drop(first.try_take().map(|sample| sample.copy_to(&mut [0; 64]))),
            5 => drop(first.take_timeout(AT_ONCE).map(|sample| sample.give_up())),
            6 => kept.extend(first.try_take().map(|sample| sample.keep())),
            7 => drop(kept.pop()),
            // One dies with a loan, with a message sent, and with a sample in hand.
            8 => std::mem::forget(lost.try_loan(len)),
            9 => drop(lost.try_loan(len).map(|loan| loan.try_send())),
            10 => std::mem::forget(dead.try_take()),
            _ => {
                sender.recover();
                let _ = attach(4).map(|other| drop(other.try_take()));
            }
        }
        // A block that is freed twice is another's: none may be held for ever.
        loans.truncate(4);
        kept.truncate(4);
        std::hint::black_box((
            (sender.len(), sender.is_ready(), sender.statistics()),
            (sender.memory_statistics(), first.is_ready()),
        ));
    });
    let _ = <Ring as Place>::attach(region);
    drop((loans, kept));
    std::mem::forget((lost, dead));
});
