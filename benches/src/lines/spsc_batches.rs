//! `spsc/.../batch32`: the messages of `spsc/.../throughput` in batches of 32 (`try_push_slice`,
//! `try_pop_slice`), against our own one by one, and against bursts of 32 through DPDK's `rte_ring`
//! (`peers/cpp/rte_ring.cpp`).
//!
//! A batch is as large as what there is room for, or what is there: neither side waits for a whole
//! one, but pauses once after one that was short, as after a failure.

use std::hint::spin_loop;

use multiprocess_channel::NoPeers;
use multiprocess_channel::spsc::{Consumer, Producer, Ring};
use multiprocess_core::Place;

use super::spsc_throughput::{self, CAPACITY, CHUNK, Words};
use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::stage::Stage;

pub(crate) const ALL: [Comparison; 4] = [
    line::<1>("spsc/8B/batch32", 1.8, spsc_throughput::ALL[0].ours),
    line::<8>("spsc/64B/batch32", 1.8, spsc_throughput::ALL[1].ours),
    line::<1>("spsc/8B/batch32/dpdk", 1.0, dpdk(&["spsc/8B/32"])),
    line::<8>("spsc/64B/batch32/dpdk", 1.0, dpdk(&["spsc/64B/32"])),
];

const fn line<const N: usize>(name: &'static str, bar: f64, peer: Contender) -> Comparison {
    Comparison {
        name,
        unit: Unit::MillionsPerSecond,
        bar,
        ours: Contender::Pair(Pair {
            bytes: 1 << 17,
            near: near::<N>,
            far: far::<N>,
        }),
        peer,
    }
}

const fn dpdk(args: &'static [&'static str]) -> Contender {
    Contender::Program(Program {
        language: Language::Dpdk,
        name: "rte_ring",
        args,
    })
}

const BATCH: usize = 32;

fn near<const N: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<Words<N>>::layout(&CAPACITY)?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::<Words<N>>::init(region, &CAPACITY)? };
    let mut consumer = Consumer::<Words<N>, _, _>::attach(region, NoPeers)?;
    stage.meet();
    let measured = drain(|batch| consumer.try_pop_slice(batch).unwrap_or(0));
    stage.stop();
    measured
}

/// Receives 0, 1, 2, ... and checks their first and last word; millions per second.
#[inline(always)]
fn drain<const N: usize>(mut pop: impl FnMut(&mut [Words<N>]) -> usize) -> Measured {
    let mut batch = [[0; N]; BATCH];
    let (mut expected, mut wrong) = (0, 0);
    let nanos = nanos_per_operation(SPAN, CHUNK, || {
        let (mut next, mut differs) = (expected, 0);
        let mut left = CHUNK;
        while left > 0 {
            let room = left.min(BATCH);
            let came = pop(&mut batch[..room]);
            if came < room {
                spin_loop();
            }
            for message in &batch[..came] {
                differs |= (message[0] ^ next) | (message[N - 1] ^ next);
                next += 1;
            }
            left -= came;
        }
        expected = next;
        wrong |= differs;
    });
    if wrong != 0 {
        return Err("messages came out of order".into());
    }
    Ok(1000.0 / nanos)
}

fn far<const N: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<Words<N>>::layout(&CAPACITY)?);
    stage.meet();
    let mut producer = Producer::<Words<N>, _, _>::attach(region, NoPeers)?;
    let mut next = 0;
    loop {
        let batch: [Words<N>; BATCH] = std::array::from_fn(|i| [next + i as u64; N]);
        match producer.try_push_slice(&batch) {
            Ok(sent) => {
                next += sent as u64;
                if sent < BATCH {
                    spin_loop();
                }
            }
            Err(_) if stage.is_stopped() => return Ok(()),
            Err(_) => spin_loop(),
        }
    }
}
