//! `queue/...`: values of 64 bytes through our `Queue`, CPython's `SimpleQueue`
//! (`peers/py/simple_queue.py`) and ipc-channel (`peers/rust/src/ipc.rs`), each between two processes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use multiprocess::Queue;
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use serde_bytes::ByteBuf;

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::stage::Stage;

pub(crate) const ALL: [Comparison; 3] = [
    Comparison {
        name: "queue/64B/throughput/python",
        unit: Unit::MillionsPerSecond,
        bar: 20.0,
        ours: THROUGHPUT,
        peer: python(&["throughput"]),
    },
    Comparison {
        name: "queue/64B/rtt/python",
        unit: Unit::Nanoseconds,
        bar: 10.0,
        ours: Contender::Pair(Pair {
            bytes: 4096,
            near: near_rtt,
            far: far_rtt,
        }),
        peer: python(&["rtt"]),
    },
    Comparison {
        name: "queue/64B/throughput/ipc-channel",
        unit: Unit::MillionsPerSecond,
        bar: 5.0,
        ours: THROUGHPUT,
        peer: Contender::Program(Program {
            language: Language::Rust,
            name: "multiprocess-peers",
            args: &["ipc-channel/64B/throughput"],
        }),
    },
];

const THROUGHPUT: Contender = Contender::Pair(Pair {
    bytes: 4096,
    near: near_throughput,
    far: far_throughput,
});

const fn python(args: &'static [&'static str]) -> Contender {
    Contender::Program(Program {
        language: Language::Python,
        name: "simple_queue",
        args,
    })
}

/// As many as a `SimpleQueue` has.
const MAXSIZE: u64 = 1024;
const CHUNK: usize = 1000;

/// As the peer's `bytes`: an allocation of its own for each value. A `Vec<u8>` would be serialised
/// byte by byte.
type Value = ByteBuf;

fn value() -> Value {
    ByteBuf::from(vec![b'x'; 64])
}

/// Makes `N` queues; the far process opens them by the descriptors of this one.
fn make<const N: usize>(stage: &Stage) -> Result<[Queue<Value>; N], Failure> {
    let mut made = Vec::new();
    let where_they_are = stage.share::<[AtomicU64; 4]>();
    where_they_are[0].store(u64::from(std::process::id()), Relaxed);
    for place in &where_they_are[1..=N] {
        let queue = Queue::bounded(MAXSIZE)?;
        place.store(queue.as_fd().as_raw_fd() as u64, Relaxed);
        made.push(queue);
    }
    stage.meet();
    stage.meet();
    made.try_into().map_err(|_| "as many as asked for".into())
}

fn find<const N: usize>(stage: &Stage) -> Result<[Queue<Value>; N], Failure> {
    let where_they_are = stage.share::<[AtomicU64; 4]>();
    stage.meet();
    let process = where_they_are[0].load(Relaxed);
    let mut found = Vec::new();
    for place in &where_they_are[1..=N] {
        let path = format!("/proc/{process}/fd/{}", place.load(Relaxed));
        let file = File::options().read(true).write(true).open(path)?;
        found.push(Queue::attach(OwnedFd::from(file))?);
    }
    stage.meet();
    found.try_into().map_err(|_| "as many as asked for".into())
}

fn near_throughput(stage: &Stage) -> Measured {
    let [queue] = make::<1>(stage)?;
    let mut failed = None;
    let nanos = nanos_per_operation(SPAN, CHUNK, || {
        for _ in 0..CHUNK {
            match queue.get() {
                Ok(got) if got.len() == 64 => {}
                Ok(_) => failed = Some("a value came back changed".into()),
                Err(error) => failed = Some(error.to_string()),
            }
        }
    });
    queue.close();
    failed.map_or(Ok(1000.0 / nanos), |failed| Err(failed.into()))
}

fn far_throughput(stage: &Stage) -> Result<(), Failure> {
    let [queue] = find::<1>(stage)?;
    while queue.put(value()).is_ok() {}
    Ok(())
}

fn near_rtt(stage: &Stage) -> Measured {
    let [there, back] = make::<2>(stage)?;
    let mut failed = None;
    let nanos = nanos_per_operation(SPAN, 100, || {
        for _ in 0..100 {
            if there.put(value()).is_err() || back.get().is_err() {
                failed = Some("the other side has gone");
            }
        }
    });
    there.close();
    failed.map_or(Ok(nanos), |failed| Err(failed.into()))
}

fn far_rtt(stage: &Stage) -> Result<(), Failure> {
    let [there, back] = find::<2>(stage)?;
    for value in there.iter() {
        back.put(value)?;
    }
    Ok(())
}
