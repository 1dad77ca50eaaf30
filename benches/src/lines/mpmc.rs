//! `mpmc/...`: messages through the quarantine ring between two processes, crossbeam's `ArrayQueue`
//! between two threads.
//!
//! Ours is used as it is meant to be: blocking forms, which pace their looks and never sleep here,
//! since the other side is never slow for long. The peers have no blocking form: they poll, with a pause
//! after each failure. DPDK's ring (`peers/cpp/rte_ring.cpp`) and `boost::lockfree::queue`
//! (`peers/cpp/boost_queue.cpp`) are between two processes, in shared memory. Round trips are polled on both sides.

use std::hint::spin_loop;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use multiprocess_channel::mpmc::{Config, Receiver, Ring, Sender};
use multiprocess_channel::{RecvError, SendError};
use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use multiprocess_core::{ParticipantId, Peers, Place, Region};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::cpu::{self, Cpus};
use crate::floor;
use crate::stage::Stage;

use super::spsc_rtt::{STOP, ping};

pub(crate) const ALL: [Comparison; 5] = [
    Comparison {
        name: "mpmc/8B/throughput",
        unit: Unit::MillionsPerSecond,
        bar: 2.5,
        ours: stream::<1>(),
        peer: Contender::Alone(array_queue::<1>),
    },
    Comparison {
        name: "mpmc/64B/throughput",
        unit: Unit::MillionsPerSecond,
        bar: 1.2,
        ours: stream::<8>(),
        peer: Contender::Alone(array_queue::<8>),
    },
    Comparison {
        name: "mpmc/8B/rtt",
        unit: Unit::Nanoseconds,
        bar: 0.55,
        ours: Contender::Pair(Pair {
            bytes: 1 << 17,
            near: near_rtt,
            far: far_rtt,
        }),
        peer: floor::PING_PONG,
    },
    Comparison {
        name: "mpmc/8B/throughput/dpdk",
        unit: Unit::MillionsPerSecond,
        bar: 3.0,
        ours: stream::<1>(),
        peer: Contender::Program(Program {
            language: Language::Dpdk,
            name: "rte_ring",
            args: &["mpmc/8B/1"],
        }),
    },
    Comparison {
        name: "mpmc/8B/throughput/boost",
        unit: Unit::MillionsPerSecond,
        bar: 10.0,
        ours: stream::<1>(),
        peer: Contender::Program(Program {
            language: Language::Boost,
            name: "boost_queue",
            args: &["lockfree"],
        }),
    },
];

pub(super) const CONFIG: Config = Config::new(1024).endpoints(8);
const CHUNK: usize = 8192;
/// How long a producer waits for room before it looks whether it is to stop.
pub(super) const LOOK: Duration = Duration::from_millis(20);

pub(super) type Words<const N: usize> = [u64; N];

const fn stream<const N: usize>() -> Contender {
    Contender::Pair(Pair {
        bytes: 1 << 18,
        near: near::<N>,
        far: far::<N>,
    })
}

/// One of the processes, none of which dies.
#[derive(Clone, Copy)]
pub(super) struct Member(pub(super) u16);

// SAFETY: nobody is ever dead.
unsafe impl Peers for Member {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

pub(super) const NEAR: Member = Member(1);
pub(super) const FAR: Member = Member(2);

/// Receives messages that are numbered in their first word; millions per second.
#[inline(always)]
fn drain<const N: usize>(mut pop: impl FnMut() -> Result<Words<N>, Failure>) -> Measured {
    let mut expected = 0;
    let mut wrong = 0;
    let mut failed = None;
    let nanos = nanos_per_operation(SPAN, CHUNK, || {
        for _ in 0..CHUNK {
            match pop() {
                Ok(message) => {
                    wrong |= message[0] ^ expected;
                    wrong |= message[N - 1] ^ expected;
                    expected += 1;
                }
                Err(failure) => return failed = Some(failure),
            }
        }
    });
    match failed {
        Some(failure) => Err(failure),
        None if wrong != 0 => Err("messages came out of order".into()),
        None => Ok(1000.0 / nanos),
    }
}

fn near<const N: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<Words<N>>::layout(&CONFIG)?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::<Words<N>>::init(region, &CONFIG)? };
    let mut receiver = Receiver::<Words<N>, _, _>::attach(region, NEAR)?;
    stage.meet();
    let measured = drain(|| Ok(receiver.recv()?));
    stage.stop();
    measured
}

fn far<const N: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<Words<N>>::layout(&CONFIG)?);
    stage.meet();
    let mut sender = Sender::<Words<N>, _, _>::attach(region, FAR)?;
    let mut value = 0;
    loop {
        match sender.send_timeout([value; N], LOOK) {
            Ok(()) => value += 1,
            Err(SendError::Timeout(_)) if !stage.is_stopped() => {}
            Err(_) => return Ok(()),
        }
    }
}

fn array_queue<const N: usize>(cpus: Cpus) -> Measured {
    let queue = Arc::new(ArrayQueue::<Words<N>>::new(1024));
    let stopped = Arc::new(AtomicU32::new(0));
    let (source, stop) = (Arc::clone(&queue), Arc::clone(&stopped));
    let far = thread::spawn(move || {
        let pinned = cpu::pin_far(cpus);
        let mut value = 0;
        while stop.load(Relaxed) == 0 {
            match source.push([value; N]) {
                Ok(()) => value += 1,
                Err(_) => spin_loop(),
            }
        }
        pinned
    });
    let measured = drain(|| {
        loop {
            match queue.pop() {
                Some(message) => return Ok(message),
                None => spin_loop(),
            }
        }
    });
    stopped.store(1, Relaxed);
    far.join().expect("the producer does not panic")?;
    measured
}

type Ends<'a> = (
    Sender<u64, Region<'a>, Member>,
    Receiver<u64, Region<'a>, Member>,
);

fn carve(stage: &Stage) -> Result<[Region<'_>; 2], Failure> {
    let layout = Ring::<u64>::layout(&CONFIG)?;
    Ok([stage.carve(layout), stage.carve(layout)])
}

fn near_rtt(stage: &Stage) -> Measured {
    let [there, back] = carve(stage)?;
    for ring in [there, back] {
        // SAFETY: the far process does not touch the rings before we have met.
        unsafe { Ring::<u64>::init(ring, &CONFIG)? };
    }
    stage.meet();
    let mut ends: Ends<'_> = (Sender::attach(there, NEAR)?, Receiver::attach(back, NEAR)?);
    stage.meet();
    ping(|value| {
        send(&mut ends, value)?;
        receive(&mut ends)
    })
}

fn far_rtt(stage: &Stage) -> Result<(), Failure> {
    let [there, back] = carve(stage)?;
    stage.meet();
    let mut ends: Ends<'_> = (Sender::attach(back, FAR)?, Receiver::attach(there, FAR)?);
    stage.meet();
    loop {
        let value = receive(&mut ends)?;
        send(&mut ends, value)?;
        if value == STOP {
            return Ok(());
        }
    }
}

#[inline(always)]
fn send(ends: &mut Ends<'_>, value: u64) -> Result<(), Failure> {
    Ok(ends.0.send(value)?)
}

#[inline(always)]
fn receive(ends: &mut Ends<'_>) -> Result<u64, Failure> {
    loop {
        match ends.1.recv_timeout(LOOK) {
            Err(RecvError::Timeout) => {}
            other => return Ok(other?),
        }
    }
}
