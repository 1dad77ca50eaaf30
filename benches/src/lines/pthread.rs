//! The owned locks and the hand-offs of `sync` against what pthreads and POSIX have for the same
//! job, process-shared (`peers/c/pthread_sync.c`). Both sides in shared memory; pairs are two
//! processes.
//!
//! pthreads do not spin; ours does, 100 pauses, as it does by default. That is part of the answer
//! to "which would I rather use", and not a property of the protocol.

use std::alloc::Layout;
use std::hint::black_box;
use std::time::Instant;

use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{CachePadded, ShmSafe};
use multiprocess_shm::Shared as Owned;
use multiprocess_sync::{Barrier, Condition, Event, Mutex, RwLock, Semaphore};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::cpu::Cpus;
use crate::stage::Stage;

const BATCH: usize = 1000;
const ROUNDS: usize = 64;

/// A line whose peer is `pthread_sync WHAT`.
const fn against(
    name: &'static str,
    what: &'static [&'static str],
    unit: Unit,
    bar: f64,
    ours: Contender,
) -> Comparison {
    Comparison {
        name,
        unit,
        bar,
        ours,
        peer: Contender::Program(Program {
            language: Language::C,
            name: "pthread_sync",
            args: what,
        }),
    }
}

/// Two processes.
const fn pair(near: fn(&Stage) -> Measured, far: fn(&Stage) -> Result<(), Failure>) -> Contender {
    Contender::Pair(Pair {
        bytes: size_of::<Shared>() + 4096,
        near,
        far,
    })
}

const NS: Unit = Unit::Nanoseconds;
const RATE: Unit = Unit::MillionsPerSecond;

pub(crate) const MUTEX: Comparison = against(
    "mutex/uncontended",
    &["robust"],
    NS,
    1.3,
    Contender::Alone(mutex),
);

pub(crate) const CONTENDED: Comparison = against(
    "mutex/contended",
    &["contended"],
    RATE,
    1.3,
    pair(contended_near, contended_far),
);

pub(crate) const SEMAPHORE: Comparison = against(
    "semaphore/uncontended",
    &["semaphore"],
    NS,
    1.0,
    Contender::Alone(semaphore),
);

pub(crate) const EVENT: Comparison = against(
    "event/ping-pong",
    &["event"],
    NS,
    1.25,
    pair(event_near, event_far),
);

pub(crate) const CONDITION: Comparison = against(
    "condition/ping-pong",
    &["condition"],
    NS,
    1.25,
    pair(condition_near, condition_far),
);

pub(crate) const BARRIER: Comparison = against(
    "barrier/two-parties",
    &["barrier"],
    NS,
    1.25,
    pair(barrier_near, barrier_far),
);

pub(crate) const READ: Comparison =
    against("rwlock/read", &["read"], NS, 1.0, Contender::Alone(read));

pub(crate) const READERS: Comparison = against(
    "rwlock/read/two-processes",
    &["readers"],
    RATE,
    1.5,
    pair(readers_near, readers_far),
);

/// What pairs share. All zeroes but for the barrier's parties.
#[derive(ShmSafe)]
#[repr(C)]
struct Shared {
    mutex: CachePadded<Mutex<[u64; 4]>>,
    turn: CachePadded<Mutex<u64>>,
    conditions: [CachePadded<Condition>; 2],
    events: [CachePadded<Event>; 2],
    table: RwLock<u64>,
    far_count: CachePadded<AtomicU64>,
}

fn shared(stage: &Stage) -> &Shared {
    let shared: &Shared = stage.share();
    // SAFETY: the stage stays mapped where it is until this process ends.
    unsafe { shared.placed() };
    shared
}

fn mutex(_: Cpus) -> Measured {
    let mutex = Owned::new(Mutex::new(0u64))?;
    let mutex = black_box(&*mutex);
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            drop(mutex.lock().expect("nobody died"));
        }
    }))
}

fn semaphore(_: Cpus) -> Measured {
    let semaphore = Owned::new(Semaphore::new(1).expect("a small value"))?;
    let semaphore = black_box(&*semaphore);
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            semaphore.acquire().expect("one is free");
            semaphore.release().expect("below the limit");
        }
    }))
}

fn read(_: Cpus) -> Measured {
    let table = Owned::new(RwLock::<u64>::new(0))?;
    let table = black_box(&*table);
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            drop(table.read().expect("nobody writes"));
        }
    }))
}

/// Both loop until the near one has seen enough; millions per second of both together.
fn near_together(stage: &Stage, shared: &Shared, mut once: impl FnMut()) -> Measured {
    stage.meet();
    let (start, first, mut count) = (Instant::now(), shared.far_count.load(Relaxed), 0u64);
    let elapsed = loop {
        for _ in 0..100 {
            once();
        }
        count += 100;
        let elapsed = start.elapsed();
        if elapsed >= SPAN {
            break elapsed;
        }
    };
    let all = count + shared.far_count.load(Relaxed) - first;
    stage.stop();
    Ok(all as f64 * 1000.0 / elapsed.as_nanos() as f64)
}

fn far_together(stage: &Stage, shared: &Shared, mut once: impl FnMut()) -> Result<(), Failure> {
    stage.meet();
    let mut count = 0;
    while !stage.is_stopped() {
        once();
        count += 1;
        shared.far_count.store(count, Relaxed);
    }
    Ok(())
}

/// Four increments inside, twenty turns of an empty loop outside.
fn contend(shared: &Shared) {
    let mut words = shared.mutex.lock().expect("nobody died");
    for word in words.iter_mut() {
        *word = black_box(*word + 1);
    }
    drop(words);
    for i in 0..20 {
        black_box(i);
    }
}

fn contended_near(stage: &Stage) -> Measured {
    let shared = shared(stage);
    near_together(stage, shared, || contend(shared))
}

fn contended_far(stage: &Stage) -> Result<(), Failure> {
    let shared = shared(stage);
    far_together(stage, shared, || contend(shared))
}

fn read_once(shared: &Shared) {
    drop(shared.table.read().expect("nobody writes"));
}

fn readers_near(stage: &Stage) -> Measured {
    let shared = shared(stage);
    near_together(stage, shared, || read_once(shared))
}

fn readers_far(stage: &Stage) -> Result<(), Failure> {
    let shared = shared(stage);
    far_together(stage, shared, || read_once(shared))
}

fn event_near(stage: &Stage) -> Measured {
    let shared = shared(stage);
    let [there, back] = &shared.events;
    stage.meet();
    let nanos = nanos_per_operation(SPAN, ROUNDS, || {
        for _ in 0..ROUNDS {
            there.set();
            back.wait().expect("the far process answers");
            back.clear();
        }
    });
    stage.stop();
    there.set();
    Ok(nanos)
}

fn event_far(stage: &Stage) -> Result<(), Failure> {
    let shared = shared(stage);
    let [there, back] = &shared.events;
    stage.meet();
    loop {
        there.wait()?;
        there.clear();
        if stage.is_stopped() {
            return Ok(());
        }
        back.set();
    }
}

/// The far process's turn, or the near one's, or the end.
const FAR: u64 = 1;
const NEAR: u64 = 0;
const END: u64 = 2;

fn give_turn(shared: &Shared, turn: u64) {
    *shared.turn.lock().expect("nobody died") = turn;
    shared.conditions[(turn == FAR) as usize].notify(1);
}

fn await_turn(shared: &Shared, turn: u64) -> u64 {
    let guard = shared.turn.lock().expect("nobody died");
    let condition = &shared.conditions[(turn == FAR) as usize];
    let waited = condition.wait_for(guard, None, |now| **now == turn || **now == END);
    *waited.expect("nobody died").0
}

fn condition_near(stage: &Stage) -> Measured {
    let shared = shared(stage);
    stage.meet();
    let nanos = nanos_per_operation(SPAN, ROUNDS, || {
        for _ in 0..ROUNDS {
            give_turn(shared, FAR);
            await_turn(shared, NEAR);
        }
    });
    *shared.turn.lock().expect("nobody died") = END;
    shared.conditions[1].notify_all();
    Ok(nanos)
}

fn condition_far(stage: &Stage) -> Result<(), Failure> {
    let shared = shared(stage);
    stage.meet();
    while await_turn(shared, FAR) != END {
        give_turn(shared, NEAR);
    }
    Ok(())
}

/// The barrier of both; made by the near process before they meet.
fn barrier(stage: &Stage, is_near: bool) -> Result<&Barrier, Failure> {
    let bytes = stage.carve(Layout::new::<Barrier>());
    let place = bytes.base().cast::<Barrier>();
    if is_near {
        // SAFETY: large enough and aligned; the far process does not look before we have met.
        unsafe { place.write(Barrier::new(2)?) };
    }
    stage.meet();
    // SAFETY: as above, and initialised; it stays mapped as long as the stage.
    Ok(unsafe { place.as_ref() })
}

fn barrier_near(stage: &Stage) -> Measured {
    let barrier = barrier(stage, true)?;
    let nanos = nanos_per_operation(SPAN, ROUNDS, || {
        for _ in 0..ROUNDS {
            barrier.wait().expect("both come");
        }
    });
    barrier.abort();
    Ok(nanos)
}

fn barrier_far(stage: &Stage) -> Result<(), Failure> {
    let barrier = barrier(stage, false)?;
    while barrier.wait().is_ok() {}
    Ok(())
}
