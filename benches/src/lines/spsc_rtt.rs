//! `spsc/8B/rtt`: a message there and one back through two rings, polled, against the round
//! trip of one bare cache line.
//!
//! The floor moves one line there and back and carries nothing. A ring moves two each way, the
//! slot and the index, which the processor overlaps in part; so half the floor's speed is much.
//!
//! The same against iceoryx2's publish/subscribe (`peers/rust/src/iceoryx.rs`) and Boost's
//! `message_queue` (`peers/cpp/boost_queue.cpp`), polled as well.

use std::hint::spin_loop;

use multiprocess_channel::NoPeers;
use multiprocess_channel::spsc::{Consumer, Producer, Ring};
use multiprocess_core::{Place, Region};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::floor;
use crate::stage::Stage;

pub(crate) const ALL: [Comparison; 3] = [
    line("spsc/8B/rtt", 0.65, floor::PING_PONG),
    line(
        "spsc/8B/rtt/iceoryx2",
        4.0,
        Contender::Program(Program {
            language: Language::Rust,
            name: "multiprocess-peers",
            args: &["iceoryx2/8B/rtt"],
        }),
    ),
    line(
        "spsc/8B/rtt/boost",
        3.0,
        Contender::Program(Program {
            language: Language::Boost,
            name: "boost_queue",
            args: &["messages-polled"],
        }),
    ),
];

const fn line(name: &'static str, bar: f64, peer: Contender) -> Comparison {
    Comparison {
        name,
        unit: Unit::Nanoseconds,
        bar,
        ours: Contender::Pair(Pair {
            bytes: 1 << 16,
            near,
            far,
        }),
        peer,
    }
}

const CAPACITY: u64 = 1024;
const ROUNDS: usize = 256;
/// Ends the far process.
pub(super) const STOP: u64 = u64::MAX;

type Sender<'a> = Producer<u64, Region<'a>, NoPeers>;
type Receiver<'a> = Consumer<u64, Region<'a>, NoPeers>;

/// The near ends of two rings, which are made here.
pub(super) fn near_ends(stage: &Stage) -> Result<(Sender<'_>, Receiver<'_>), Failure> {
    let [there, back] = carve(stage)?;
    for ring in [there, back] {
        // SAFETY: the far process does not touch the rings before we have met.
        unsafe { Ring::<u64>::init(ring, &CAPACITY)? };
    }
    stage.meet();
    let ends = (
        Producer::attach(there, NoPeers)?,
        Consumer::attach(back, NoPeers)?,
    );
    stage.meet();
    Ok(ends)
}

/// The far ends.
pub(super) fn far_ends(stage: &Stage) -> Result<(Sender<'_>, Receiver<'_>), Failure> {
    let [there, back] = carve(stage)?;
    stage.meet();
    let ends = (
        Producer::attach(back, NoPeers)?,
        Consumer::attach(there, NoPeers)?,
    );
    stage.meet();
    Ok(ends)
}

fn carve(stage: &Stage) -> Result<[Region<'_>; 2], Failure> {
    let layout = Ring::<u64>::layout(&CAPACITY)?;
    Ok([stage.carve(layout), stage.carve(layout)])
}

/// Nanoseconds per round trip; then [`STOP`].
#[inline(always)]
pub(super) fn ping(mut exchange: impl FnMut(u64) -> Result<u64, Failure>) -> Measured {
    let mut value = 0;
    let mut result = Ok(());
    let nanos = nanos_per_operation(SPAN, ROUNDS, || {
        for _ in 0..ROUNDS {
            match exchange(value) {
                Ok(back) => value = back + 1,
                Err(failure) => return result = Err(failure),
            }
        }
    });
    result?;
    if exchange(STOP)? == STOP {
        Ok(nanos)
    } else {
        Err("a message came back changed".into())
    }
}

fn near(stage: &Stage) -> Measured {
    let (mut sender, mut receiver) = near_ends(stage)?;
    ping(|value| {
        send(&mut sender, value);
        Ok(receive(&mut receiver))
    })
}

fn far(stage: &Stage) -> Result<(), Failure> {
    let (mut sender, mut receiver) = far_ends(stage)?;
    loop {
        let value = receive(&mut receiver);
        send(&mut sender, value);
        if value == STOP {
            return Ok(());
        }
    }
}

#[inline(always)]
fn send(sender: &mut Sender<'_>, value: u64) {
    while sender.try_push(value).is_err() {
        spin_loop();
    }
}

#[inline(always)]
fn receive(receiver: &mut Receiver<'_>) -> u64 {
    loop {
        if let Ok(value) = receiver.try_pop() {
            return value;
        }
        spin_loop();
    }
}
