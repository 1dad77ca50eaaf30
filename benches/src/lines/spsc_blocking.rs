//! `spsc/blocking-rtt`: a message there and one back with `push` and `pop`, against a bare futex
//! that hands the turn to and fro, with the same spin budget.
//!
//! The floor is one word that says whose turn it is and whether the other one sleeps: spin the
//! budget, set the bit, `FUTEX_WAIT`; `FUTEX_WAKE` only if the bit was set. It carries nothing.
//!
//! Two budgets, because they are two questions. 0: everybody sleeps every time, which is what
//! blocking costs. [`HANDOFF_SPINS`], the default: nobody sleeps while both processes run,
//! and the comparison is `spsc/8B/rtt` once more: two lines each way against one, so its bar.
//!
//! `spsc/blocking-rtt/boost`: the default budget against Boost's `message_queue` (`send`, `receive`),
//! which does not spin.

use multiprocess_core::spin::HANDOFF_SPINS;

use super::spsc_rtt::{STOP, far_ends, near_ends, ping};
use crate::comparison::{Comparison, Contender, Failure, Language, Measured, Pair, Program, Unit};
use crate::stage::Stage;

pub(crate) const SLEEPING: Comparison = line::<0>("spsc/blocking-rtt", 0.9);
pub(crate) const SPINNING: Comparison = line::<HANDOFF_SPINS>("spsc/blocking-rtt/spin", 0.65);

/// Both wait as they do by default.
pub(crate) const BOOST: Comparison = Comparison {
    name: "spsc/blocking-rtt/boost",
    bar: 100.0,
    peer: Contender::Program(Program {
        language: Language::Boost,
        name: "boost_queue",
        args: &["messages"],
    }),
    ..SPINNING
};

/// With a budget of `PAUSES`.
const fn line<const PAUSES: u32>(name: &'static str, bar: f64) -> Comparison {
    Comparison {
        name,
        unit: Unit::Nanoseconds,
        bar,
        ours: Contender::Pair(Pair {
            bytes: 1 << 16,
            near: near::<PAUSES>,
            far: far::<PAUSES>,
        }),
        peer: Contender::Pair(Pair {
            bytes: 128,
            near: futex_word::near::<PAUSES>,
            far: futex_word::far::<PAUSES>,
        }),
    }
}

fn near<const PAUSES: u32>(stage: &Stage) -> Measured {
    let (mut sender, mut receiver) = near_ends(stage)?;
    receiver.set_spin_cap(PAUSES);
    ping(|value| {
        sender.push(value).map_err(|error| error.to_string())?;
        Ok(receiver.pop()?)
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

/// The floor.
mod futex_word {
    use std::hint::spin_loop;

    use multiprocess_core::CachePadded;
    use multiprocess_core::atomic::{
        AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed},
    };
    use rustix::io::Errno;
    use rustix::thread::futex::{self, Flags};

    use super::{Failure, Measured, STOP, Stage, ping};

    type Word = CachePadded<AtomicU32>;

    /// The far process's turn.
    const FAR: u32 = 1;
    /// Whose turn it is not sleeps, or is about to.
    const SLEEPS: u32 = 2;
    /// There will be no further turn.
    const LAST: u32 = 4;

    /// Waits for `turn`, which is `FAR` or 0; the word as it was then.
    #[inline(always)]
    fn await_turn<const PAUSES: u32>(word: &Word, turn: u32) -> Result<u32, Failure> {
        let mut pauses = PAUSES;
        loop {
            // Acquire pairs with the swap in `hand_over`.
            let seen = word.load(Acquire);
            if seen & FAR == turn {
                return Ok(seen);
            }
            if pauses > 0 {
                pauses -= 1;
                spin_loop();
                continue;
            }
            let armed = seen | SLEEPS;
            if seen == armed || word.compare_exchange(seen, armed, Relaxed, Relaxed).is_ok() {
                match futex::wait(word, Flags::empty(), armed, None) {
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }

    #[inline(always)]
    fn hand_over(word: &Word, state: u32) -> Result<(), Failure> {
        if word.swap(state, AcqRel) & SLEEPS != 0 {
            futex::wake(word, Flags::empty(), 1)?;
        }
        Ok(())
    }

    pub(super) fn near<const PAUSES: u32>(stage: &Stage) -> Measured {
        let word = stage.share::<Word>();
        stage.meet();
        ping(|value| {
            let last = if value == STOP { LAST } else { 0 };
            hand_over(word, FAR | last)?;
            await_turn::<PAUSES>(word, 0)?;
            Ok(value)
        })
    }

    pub(super) fn far<const PAUSES: u32>(stage: &Stage) -> Result<(), Failure> {
        let word = stage.share::<Word>();
        stage.meet();
        loop {
            let seen = await_turn::<PAUSES>(word, FAR)?;
            hand_over(word, 0)?;
            if seen & LAST != 0 {
                return Ok(());
            }
        }
    }
}
