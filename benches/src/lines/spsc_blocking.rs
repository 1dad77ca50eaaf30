//! Blocking.

use std::hint::spin_loop;

use multiprocess_core::CachePadded;
use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use rustix::io::Errno;
use rustix::thread::futex;

use super::spsc_rtt::{STOP, far_ends, near_ends, ping};
use crate::comparison::{Comparison, Contender, Failure, Measured, Pair, Unit};
use crate::stage::Stage;

macro_rules! line {
    ($name:expr, $pauses:expr) => {
        Comparison {
            name: $name,
            unit: Unit::Nanoseconds,
            bar: 0.85,
            ours: Contender::Pair(Pair {
                bytes: 1 << 16,
                near: near::<{ $pauses }>,
                far: far::<{ $pauses }>,
            }),
            peer: Contender::Pair(Pair {
                bytes: 128,
                near: floor::near::<{ $pauses }>,
                far: floor::far::<{ $pauses }>,
            }),
        }
    };
}
pub(crate) const A: Comparison = line!("spsc/blocking-rtt/0", 0);
pub(crate) const B: Comparison = line!("spsc/blocking-rtt/100", 100);
pub(crate) const C: Comparison = line!("spsc/blocking-rtt/2000", 2000);

fn near<const PAUSES: u32>(stage: &Stage) -> Measured {
    let (mut sender, mut receiver) = near_ends(stage)?;
    receiver.set_spin_cap(PAUSES);
    ping(|value| {
        sender.push(value).expect("the far process is there");
        receiver.pop().expect("the far process is there")
    })
}

fn far<const PAUSES: u32>(stage: &Stage) -> Result<(), Failure> {
    let (mut sender, mut receiver) = far_ends(stage)?;
    receiver.set_spin_cap(PAUSES);
    loop {
        let value = receiver.pop()?;
        sender.push(value).map_err(|error| error.to_string())?;
        if value == STOP {
            return Ok(());
        }
    }
}

/// The bare futex.
mod floor {
    use super::*;

    const FAR: u32 = 1;
    const SLEEPS: u32 = 2;
    const END: u32 = 4;

    type Word = CachePadded<AtomicU32>;

    /// Waits until the turn bit is `turn`.
    fn await_turn<const PAUSES: u32>(word: &Word, turn: u32) -> u32 {
        let mut pauses = PAUSES;
        loop {
            let seen = word.load(Acquire);
            if seen & FAR == turn {
                return seen;
            }
            if pauses > 0 {
                pauses -= 1;
                spin_loop();
                continue;
            }
            let armed = seen | SLEEPS;
            if seen == armed || word.compare_exchange(seen, armed, Relaxed, Relaxed).is_ok() {
                match futex::wait(word, futex::Flags::empty(), armed, None) {
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => panic!("futex: {error}"),
                }
            }
        }
    }

    fn hand_over(word: &Word, state: u32) {
        if word.swap(state, AcqRel) & SLEEPS != 0 {
            let _ = futex::wake(word, futex::Flags::empty(), 1);
        }
    }

    pub(super) fn near<const PAUSES: u32>(stage: &Stage) -> Measured {
        let word = stage.share::<Word>();
        stage.meet();
        ping(|value| {
            let end = if value == STOP { END } else { 0 };
            hand_over(word, FAR | end);
            await_turn::<PAUSES>(word, 0);
            value
        })
    }

    pub(super) fn far<const PAUSES: u32>(stage: &Stage) -> Result<(), Failure> {
        let word = stage.share::<Word>();
        stage.meet();
        loop {
            let seen = await_turn::<PAUSES>(word, FAR);
            hand_over(word, 0);
            if seen & END != 0 {
                return Ok(());
            }
        }
    }
}
