//! What the machine gives at this moment: the round trip of one bare cache line.

use std::hint::spin_loop;
use std::time::Duration;

use multiprocess_core::CachePadded;
use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Contender, Failure, Measured, Pair};
use crate::stage::Stage;

/// What the far process is told to play.
pub(crate) const NAME: &str = "floor";

/// The bracket around a repetition: short.
pub(crate) const LINE: Contender = ping_pong(|stage| near(stage, Duration::from_millis(5)));

/// The same as a contender: as long as the other side.
pub(crate) const PING_PONG: Contender = ping_pong(|stage| near(stage, SPAN));

const fn ping_pong(near: fn(&Stage) -> Measured) -> Contender {
    Contender::Pair(Pair {
        bytes: 128,
        near,
        far,
    })
}

const ROUNDS: usize = 256;
const STOP: u32 = u32::MAX;

/// Odd: the far process's turn. Even: the near one's.
type Line = CachePadded<AtomicU32>;

fn near(stage: &Stage, span: Duration) -> Measured {
    let line = stage.share::<Line>();
    stage.meet();
    let mut turn = 0;
    let nanos = nanos_per_operation(span, ROUNDS, || {
        for _ in 0..ROUNDS {
            line.store(turn + 1, Release);
            turn = (turn + 2) & (STOP >> 1);
            while line.load(Acquire) != turn {
                spin_loop();
            }
        }
    });
    line.store(STOP, Release);
    Ok(nanos)
}

fn far(stage: &Stage) -> Result<(), Failure> {
    let line = stage.share::<Line>();
    stage.meet();
    loop {
        let turn = line.load(Acquire);
        if turn == STOP {
            return Ok(());
        }
        if turn % 2 == 1 {
            line.store((turn + 1) & (STOP >> 1), Release);
        } else {
            spin_loop();
        }
    }
}
