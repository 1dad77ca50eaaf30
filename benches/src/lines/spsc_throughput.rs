//! `spsc/8B/throughput`, `spsc/64B/throughput`: one-way messages, ours between two processes, rtrb
//! between two threads, iceoryx2 (`peers/rust/src/iceoryx.rs`) between two processes.
//!
//! Ours and rtrb poll (`try_push`, `try_pop`, a pause after each failure) a ring of 1024, and
//! run the same two loops below. The consumer stamps every 8192 messages, eight rings, so that
//! draining a backlog bends a chunk by an eighth at most.

use std::hint::spin_loop;
use std::sync::Arc;
use std::thread;

use multiprocess_channel::NoPeers;
use multiprocess_channel::spsc::{Consumer, Producer, Ring};
use multiprocess_core::Place;
use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use rtrb::RingBuffer;

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::cpu::{self, Cpus};
use crate::stage::Stage;

pub(crate) const ALL: [Comparison; 4] = [
    line::<1>("spsc/8B/throughput", 1.3, Contender::Alone(rtrb::<1>)),
    line::<8>("spsc/64B/throughput", 1.3, Contender::Alone(rtrb::<8>)),
    line::<1>(
        "spsc/8B/throughput/iceoryx2",
        10.0,
        peer(&["iceoryx2/8B/throughput"]),
    ),
    line::<8>(
        "spsc/64B/throughput/iceoryx2",
        10.0,
        peer(&["iceoryx2/64B/throughput"]),
    ),
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

const fn peer(args: &'static [&'static str]) -> Contender {
    Contender::Program(Program {
        language: Language::Rust,
        name: "multiprocess-peers",
        args,
    })
}

pub(super) type Words<const N: usize> = [u64; N];

pub(super) const CAPACITY: u64 = 1024;
pub(super) const CHUNK: usize = 8192;

/// Sends 0, 1, 2, ... until `stopped`.
#[inline(always)]
fn feed<const N: usize>(mut push: impl FnMut(Words<N>) -> bool, stopped: impl Fn() -> bool) {
    let mut value = 0;
    loop {
        if push([value; N]) {
            value += 1;
        } else if stopped() {
            return;
        } else {
            spin_loop();
        }
    }
}

/// Receives 0, 1, 2, ... and checks their first and last word; millions per second.
#[inline(always)]
fn drain<const N: usize>(mut pop: impl FnMut() -> Option<Words<N>>) -> Measured {
    let mut expected = 0;
    let mut wrong = 0;
    let nanos = nanos_per_operation(SPAN, CHUNK, || {
        // In registers: what is measured is the ring.
        let (mut next, mut differs) = (expected, 0);
        for _ in 0..CHUNK {
            let message = loop {
                match pop() {
                    Some(message) => break message,
                    None => spin_loop(),
                }
            };
            differs |= (message[0] ^ next) | (message[N - 1] ^ next);
            next += 1;
        }
        expected = next;
        wrong |= differs;
    });
    if wrong != 0 {
        return Err("messages came out of order".into());
    }
    Ok(1000.0 / nanos)
}

fn near<const N: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<Words<N>>::layout(&CAPACITY)?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::<Words<N>>::init(region, &CAPACITY)? };
    let mut consumer = Consumer::<Words<N>, _, _>::attach(region, NoPeers)?;
    stage.meet();
    let measured = drain(|| consumer.try_pop().ok());
    stage.stop();
    measured
}

fn far<const N: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<Words<N>>::layout(&CAPACITY)?);
    stage.meet();
    let mut producer = Producer::<Words<N>, _, _>::attach(region, NoPeers)?;
    feed(
        |value| producer.try_push(value).is_ok(),
        || stage.is_stopped(),
    );
    Ok(())
}

fn rtrb<const N: usize>(cpus: Cpus) -> Measured {
    let (mut producer, mut consumer) = RingBuffer::<Words<N>>::new(CAPACITY as usize);
    let stopped = Arc::new(AtomicU32::new(0));
    let stop = Arc::clone(&stopped);
    let far = thread::spawn(move || {
        let pinned = cpu::pin_far(cpus);
        feed(
            |value| producer.push(value).is_ok(),
            || stopped.load(Relaxed) != 0,
        );
        pinned
    });
    let measured = drain(|| consumer.pop().ok());
    stop.store(1, Relaxed);
    far.join().expect("the producer does not panic")?;
    measured
}
