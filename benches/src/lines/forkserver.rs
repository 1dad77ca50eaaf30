//! `process/forkserver-start`: start a process that runs an empty function, take its result,
//! reap it; against `std::process::Command` running `true`.
//!
//! Start, result and end to end in one number, because a user waits for all three. The
//! forkserver itself starts once, before the clock does. Both children inherit the near CPU.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use multiprocess::Context;

use crate::clock::nanos_per_operation;
use crate::comparison::{Comparison, Contender, Failure, Measured, Unit};
use crate::cpu::Cpus;
use crate::program::Absent;

pub(crate) const LINE: Comparison = Comparison {
    name: "process/forkserver-start",
    unit: Unit::Nanoseconds,
    bar: 1.0,
    ours: Contender::Alone(forkserver),
    peer: Contender::Alone(command),
};

/// Longer than elsewhere: a start takes the better part of a millisecond.
const SPAN: Duration = Duration::from_millis(60);

fn answer((): ()) -> u64 {
    42
}

fn forkserver(_: Cpus) -> Measured {
    let context = Context::forkserver()?;
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
