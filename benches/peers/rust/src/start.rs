//! procspawn: a start, its result, and the end.

use crate::clock::nanos_per_operation;
use crate::{Arguments, Measured};

pub(crate) fn starts(arguments: &Arguments) -> Measured {
    let mut failed = None;
    let nanos = nanos_per_operation(arguments.span, 1, || {
        match procspawn::spawn((), |()| 42_u64).join() {
            Ok(42) => {}
            Ok(other) => failed = Some(format!("the child answered {other}")),
            Err(error) => failed = Some(error.to_string()),
        }
    });
    failed.map_or(Ok(nanos), |failed| Err(failed.into()))
}
