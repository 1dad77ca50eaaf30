//! `spsc/8B/throughput`: one-way messages of 8 bytes, ours between two processes, rtrb between
//! two threads.
//!
//! Both sides poll (`try_push`, `try_pop`, a pause after each failure) a ring of 1024, and
//! run the same two loops below. The consumer stamps every 8192 messages, eight rings, so that
//! draining a backlog bends a chunk by an eighth at most.
//!
//! `spsc/8B/batch32`: the same messages in batches of 32 (`try_push_slice`, `try_pop_slice`), against
//! our own one by one. A batch is as large as what there is room for, or what is there: neither side
//! waits for a whole one, but pauses once after one that was short, as after a failure.

use std::hint::spin_loop;
use std::sync::Arc;
use std::thread;

use multiprocess_channel::NoPeers;
use multiprocess_channel::spsc::{Consumer, Producer, Ring};
use multiprocess_core::Place;
use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use rtrb::RingBuffer;

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Measured, Pair, Unit};
use crate::cpu::{self, Cpus};
use crate::stage::Stage;

pub(crate) const LINE: Comparison = Comparison {
    name: "spsc/8B/throughput",
    unit: Unit::MillionsPerSecond,
    bar: 1.0,
    ours: Contender::Pair(Pair {
        bytes: 1 << 16,
        near,
        far,
    }),
    peer: Contender::Alone(rtrb),
};

pub(crate) const BATCHES: Comparison = Comparison {
    name: "spsc/8B/batch32",
    unit: Unit::MillionsPerSecond,
    bar: 1.8,
    ours: Contender::Pair(Pair {
        bytes: 1 << 16,
        near: near_in_batches,
        far: far_in_batches,
    }),
    peer: LINE.ours,
};

const CAPACITY: u64 = 1024;
const BATCH: usize = 32;
const CHUNK: usize = 8192;

/// Sends 0, 1, 2, ... until `stopped`.
#[inline(always)]
fn feed(mut push: impl FnMut(u64) -> bool, stopped: impl Fn() -> bool) {
    let mut value = 0;
    loop {
        if push(value) {
            value += 1;
        } else if stopped() {
            return;
        } else {
            spin_loop();
        }
    }
}

/// Receives 0, 1, 2, ... and checks them; millions per second.
#[inline(always)]
fn drain(mut pop: impl FnMut() -> Option<u64>) -> Measured {
    let mut expected = 0;
    let mut wrong = 0;
    let nanos = nanos_per_operation(SPAN, CHUNK, || {
        // In registers: what is measured is the ring.
        let (mut next, mut differs) = (expected, 0);
        for _ in 0..CHUNK {
            let value = loop {
                match pop() {
                    Some(value) => break value,
                    None => spin_loop(),
                }
            };
            differs |= value ^ next;
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

fn near(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<u64>::layout(&CAPACITY)?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::<u64>::init(region, &CAPACITY)? };
    let mut consumer = Consumer::<u64, _, _>::attach(region, NoPeers)?;
    stage.meet();
    let measured = drain(|| consumer.try_pop().ok());
    stage.stop();
    measured
}

fn far(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<u64>::layout(&CAPACITY)?);
    stage.meet();
    let mut producer = Producer::<u64, _, _>::attach(region, NoPeers)?;
    feed(
        |value| producer.try_push(value).is_ok(),
        || stage.is_stopped(),
    );
    Ok(())
}

fn near_in_batches(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<u64>::layout(&CAPACITY)?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::<u64>::init(region, &CAPACITY)? };
    let mut consumer = Consumer::<u64, _, _>::attach(region, NoPeers)?;
    stage.meet();
    let measured = drain_batches(|batch| consumer.try_pop_slice(batch).unwrap_or(0));
    stage.stop();
    measured
}

/// As [`drain`], from batches.
#[inline(always)]
fn drain_batches(mut pop: impl FnMut(&mut [u64]) -> usize) -> Measured {
    let mut batch = [0; BATCH];
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
            for value in &batch[..came] {
                differs |= value ^ next;
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

fn far_in_batches(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<u64>::layout(&CAPACITY)?);
    stage.meet();
    let mut producer = Producer::<u64, _, _>::attach(region, NoPeers)?;
    let mut next = 0;
    loop {
        let batch: [u64; BATCH] = std::array::from_fn(|i| next + i as u64);
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

fn rtrb(cpus: Cpus) -> Measured {
    let (mut producer, mut consumer) = RingBuffer::<u64>::new(CAPACITY as usize);
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
