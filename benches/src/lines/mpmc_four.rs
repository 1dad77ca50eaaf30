//! `mpmc/.../two-and-two`: two producers and two consumers on two CPUs. Ours are four processes,
//! crossbeam's `ArrayQueue` has four threads: the consumers on the near CPU, the producers on the far
//! one.
//!
//! Two that share a CPU take turns, so the rate is not one's own median: it is what both consumers
//! have counted in a span of many turns.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use multiprocess_channel::mpmc::{Receiver, Ring, Sender};
use multiprocess_channel::{RecvError, SendError};
use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use multiprocess_core::{CachePadded, Place};

use super::mpmc::{CONFIG, LOOK, Member, Words};
use crate::comparison::{Comparison, Contender, Failure, Four, Measured, Unit};
use crate::cpu::{self, Cpus};
use crate::stage::Stage;

pub(crate) const ALL: [Comparison; 2] = [
    line::<1>("mpmc/8B/two-and-two"),
    line::<8>("mpmc/64B/two-and-two"),
];

const fn line<const N: usize>(name: &'static str) -> Comparison {
    Comparison {
        name,
        unit: Unit::MillionsPerSecond,
        bar: 1.0,
        ours: Contender::Four(Four {
            bytes: 1 << 18,
            near: near::<N>,
            beside: beside::<N>,
            far: far::<N>,
        }),
        peer: Contender::Alone(array_queue::<N>),
    }
}

const WARM_UP: Duration = Duration::from_millis(20);
const SPAN: Duration = Duration::from_millis(120);
/// Messages between two looks at the clock.
const CHUNK: u64 = 256;
/// Above the number of a message: its producer, 0 or 1.
const PRODUCER: u32 = 48;

/// What each consumer has received.
type Counts = [CachePadded<AtomicU64>; 2];

fn sum(counts: &Counts) -> u64 {
    counts.iter().map(|count| count.load(Relaxed)).sum()
}

/// One consumer's part.
struct Consumer<'a> {
    count: &'a AtomicU64,
    received: u64,
    /// The least number that is to come from each producer.
    least: [u64; 2],
    wrong: bool,
}

impl<'a> Consumer<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        Self {
            count,
            received: 0,
            least: [0; 2],
            wrong: false,
        }
    }

    /// A chunk, or less if `pop` has nothing for long.
    #[inline(always)]
    fn chunk<const N: usize>(
        &mut self,
        mut pop: impl FnMut() -> Result<Option<Words<N>>, Failure>,
    ) -> Result<(), Failure> {
        for _ in 0..CHUNK {
            let Some(message) = pop()? else { break };
            let number = message[0] & ((1 << PRODUCER) - 1);
            let least = &mut self.least[(message[0] >> PRODUCER) as usize & 1];
            // In a producer's order, whatever the other consumer has taken of it.
            self.wrong |= number < *least || message[N - 1] != message[0];
            *least = number + 1;
            self.received += 1;
        }
        self.count.store(self.received, Relaxed);
        if self.wrong {
            return Err("messages came out of order".into());
        }
        Ok(())
    }

    /// Receives and measures what both do; millions per second.
    fn measure<const N: usize>(
        mut self,
        counts: &Counts,
        mut pop: impl FnMut() -> Result<Option<Words<N>>, Failure>,
    ) -> Measured {
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            self.chunk(&mut pop)?;
        }
        let (start, before) = (Instant::now(), sum(counts));
        // On a busy machine it may take longer until something comes at all.
        while start.elapsed() < SPAN || sum(counts) == before {
            self.chunk(&mut pop)?;
        }
        let nanos = start.elapsed().as_nanos() as f64;
        Ok((sum(counts) - before) as f64 * 1000.0 / nanos)
    }
}

fn receive<const N: usize>(
    receiver: &mut Receiver<Words<N>, multiprocess_core::Region<'_>, Member>,
) -> Result<Option<Words<N>>, Failure> {
    match receiver.recv_timeout(LOOK) {
        Ok(message) => Ok(Some(message)),
        Err(RecvError::Timeout) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn near<const N: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::<Words<N>>::layout(&CONFIG)?);
    let counts = stage.share::<Counts>();
    // SAFETY: the others do not touch the piece before we have met.
    unsafe { Ring::<Words<N>>::init(region, &CONFIG)? };
    let mut receiver = Receiver::<Words<N>, _, _>::attach(region, Member(1))?;
    stage.meet();
    let measured = Consumer::new(&counts[0]).measure(counts, || receive(&mut receiver));
    stage.stop();
    measured
}

fn beside<const N: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<Words<N>>::layout(&CONFIG)?);
    let counts = stage.share::<Counts>();
    stage.meet();
    let mut receiver = Receiver::<Words<N>, _, _>::attach(region, Member(2))?;
    let mut consumer = Consumer::new(&counts[1]);
    while !stage.is_stopped() {
        consumer.chunk(|| receive(&mut receiver))?;
    }
    Ok(())
}

fn far<const N: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::<Words<N>>::layout(&CONFIG)?);
    stage.meet();
    let me = stage.seat() + 1;
    let mut sender = Sender::<Words<N>, _, _>::attach(region, Member(me))?;
    let mut value = u64::from(me & 1) << PRODUCER;
    loop {
        match sender.send_timeout([value; N], LOOK) {
            Ok(()) => value += 1,
            Err(SendError::Timeout(_)) if !stage.is_stopped() => {}
            Err(_) => return Ok(()),
        }
    }
}

fn array_queue<const N: usize>(cpus: Cpus) -> Measured {
    let queue = &ArrayQueue::<Words<N>>::new(1024);
    let stopped = &AtomicU32::new(0);
    let counts = &Counts::default();
    let pop = || {
        let mut idle = 0;
        loop {
            match queue.pop() {
                Some(message) => return Ok(Some(message)),
                None if idle == 10_000 => return Ok(None),
                None => idle += 1,
            }
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        let mut others = Vec::new();
        for producer in 0..2 {
            others.push(scope.spawn(move || -> Result<(), Arc<str>> {
                cpu::pin_far(cpus).map_err(|error| error.to_string())?;
                let mut value = producer << PRODUCER;
                while stopped.load(Relaxed) == 0 {
                    match queue.push([value; N]) {
                        Ok(()) => value += 1,
                        Err(_) => std::hint::spin_loop(),
                    }
                }
                Ok(())
            }));
        }
        others.push(scope.spawn(move || {
            let mut consumer = Consumer::new(&counts[1]);
            while stopped.load(Relaxed) == 0 {
                consumer.chunk(pop).map_err(|error| error.to_string())?;
            }
            Ok(())
        }));
        let measured = Consumer::new(&counts[0]).measure(counts, pop);
        stopped.store(1, Relaxed);
        for other in others {
            other
                .join()
                .expect("no thread panics")
                .map_err(|why| why.to_string())?;
        }
        measured
    })
}
