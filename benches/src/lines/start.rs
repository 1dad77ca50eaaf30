//! `process/forkserver-start` and its like: start a process that runs an empty function, take its
//! result, reap it; against `std::process::Command` running `true`, procspawn
//! (`peers/rust/src/start.rs`) and CPython's forkserver (`peers/py/forkserver.py`).
//!
//! Start, result and end together in one number, because a user waits for all three. Forkservers
//! start once, before the clock does. All children inherit the near CPU.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use multiprocess::Context;

use crate::clock::nanos_per_operation;
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Program, Unit};
use crate::cpu::Cpus;
use crate::program::Absent;

pub(crate) const ALL: [Comparison; 7] = [
    line("process/forkserver-start", 1.1, FORKSERVER, COMMAND),
    line("process/spawn-start", 0.6, SPAWN, COMMAND),
    line(
        "process/forkserver/1GiB",
        0.85,
        Contender::Alone(forkserver_when_large),
        FORKSERVER,
    ),
    line("process/forkserver/procspawn", 1.5, FORKSERVER, PROCSPAWN),
    line("process/spawn/procspawn", 1.5, SPAWN, PROCSPAWN),
    line("process/forkserver/python", 10.0, FORKSERVER, PYTHON),
    line("process/spawn/python", 10.0, SPAWN, PYTHON),
];

const FORKSERVER: Contender = Contender::Alone(forkserver);
const SPAWN: Contender = Contender::Alone(spawn);
const COMMAND: Contender = Contender::Alone(command);
const PROCSPAWN: Contender = Contender::Program(Program {
    language: Language::Rust,
    name: "multiprocess-peers",
    args: &["procspawn/start"],
});
const PYTHON: Contender = Contender::Program(Program {
    language: Language::Python,
    name: "forkserver",
    args: &[],
});

const fn line(name: &'static str, bar: f64, ours: Contender, peer: Contender) -> Comparison {
    Comparison {
        name,
        unit: Unit::Nanoseconds,
        bar,
        ours,
        peer,
    }
}

/// Longer than elsewhere: a start takes the better part of a millisecond.
const SPAN: Duration = Duration::from_millis(60);

fn answer((): ()) -> u64 {
    42
}

fn forkserver(_: Cpus) -> Measured {
    starts(&Context::forkserver()?)
}

/// By a parent that has written to a GiB of memory and keeps it.
fn forkserver_when_large(cpus: Cpus) -> Measured {
    let large = vec![1_u8; 1 << 30];
    let measured = forkserver(cpus);
    std::hint::black_box(large);
    measured
}

fn spawn(_: Cpus) -> Measured {
    starts(&Context::spawn_exec())
}

fn starts(context: &Context) -> Measured {
    per_start(|| match context.spawn(answer, ())?.join()? {
        42 => Ok(()),
        other => Err(format!("the child answered {other}").into()),
    })
}

fn command(_: Cpus) -> Measured {
    per_start(|| match Command::new("true").status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("true ended with {status}").into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Absent(format!("no program `true`: {error}")).into())
        }
        Err(error) => Err(error.into()),
    })
}

/// The first failure ends the measurement; the first start is not counted.
fn per_start(mut start: impl FnMut() -> Result<(), Failure>) -> Measured {
    start()?;
    let mut result = Ok(());
    let nanos = nanos_per_operation(SPAN, 1, || {
        if result.is_ok() {
            result = start();
        }
    });
    result.map(|()| nanos)
}
