//! What sweeps of rings from many to many have in common: numbered messages, noted by who works on them.
#![allow(dead_code)] // each sweep uses some of it

use std::sync::atomic::Ordering::Relaxed;

use multiprocess_channel::mpmc::Recovered;
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Control, Env, Mode, Outcome, Subject, sweep};

/// The message whose fate is in doubt.
pub(crate) const IN_DOUBT: u64 = 50;
/// What a rival sends while the victim stands still: from here on.
pub(crate) const RIVALS: u64 = 40;

/// Notes: the messages that the victim, the rival, or the helper has worked on, a bit for each.
pub(crate) const VICTIM: usize = 0;
pub(crate) const RIVAL: usize = 1;
pub(crate) const HELPER: usize = 2;

pub(crate) fn note(control: &Control, who: usize, message: u64) {
    let seen = control.notes[who].load(Relaxed);
    control.notes[who].store(seen | 1 << message, Relaxed);
}

/// Who has seen what.
pub(crate) struct Seen {
    left: Vec<u64>,
    /// A bit for each.
    pub(crate) in_left: u64,
    pub(crate) victim: u64,
    pub(crate) others: u64,
    is_doubled: bool,
}

impl Seen {
    /// The notes, and what the checker has found.
    pub(crate) fn new(env: &Env<'_>, left: &[u64]) -> Self {
        let [victim, rival, helper] =
            [VICTIM, RIVAL, HELPER].map(|who| env.control.notes[who].load(Relaxed) & !1);
        let in_left = left.iter().fold(0_u64, |all, message| all | 1 << message);
        let others = rival | helper;
        Self {
            left: left.to_vec(),
            in_left,
            victim,
            others,
            is_doubled: in_left.count_ones() as usize != left.len()
                || rival & helper != 0
                || others & in_left != 0,
        }
    }

    /// All that came, wherever.
    pub(crate) fn all(&self) -> u64 {
        self.in_left | self.others | self.victim
    }

    /// Those of 1 to `before` that did not.
    pub(crate) fn missing(&self, before: u64) -> u64 {
        (1..=before).fold(0, |all, message| all | 1 << message) & !self.all()
    }

    /// A violation.
    pub(crate) fn wrong<T>(&self, what: &str, outcome: &Outcome<'_>) -> Result<T, String> {
        let Outcome {
            completed,
            result,
            rival,
            helper,
            ..
        } = outcome;
        Err(format!(
            "{what}: {:?} left, victim {:#x}, others {:#x}; completed {completed}, result {result}, \
             rival {rival:?}, helper {helper:?}",
            self.left, self.victim, self.others
        ))
    }

    /// No message came twice, but what a victim that died had worked on, where that comes again; and none that
    /// nobody sent: `sent`, a bit for each.
    pub(crate) fn judge(
        &self,
        outcome: &Outcome<'_>,
        comes_again: bool,
        sent: u64,
    ) -> Result<(), String> {
        let again = self.victim & (self.in_left | self.others) != 0;
        if self.is_doubled || again && (outcome.completed || !comes_again) {
            return self.wrong("doubled", outcome);
        }
        if self.all() & !sent != 0 {
            return self.wrong("invented", outcome);
        }
        Ok(())
    }

    /// The victim's fate, for the report.
    pub(crate) fn fate(&self, is_gone: bool) -> &'static str {
        match () {
            () if is_gone => "gone with its taker",
            () if self.all() & 1 << IN_DOUBT != 0 => "sent",
            () if self.victim & self.in_left != 0 => "comes again",
            () if self.victim != 0 => "taken",
            () => "nothing done",
        }
    }
}

/// The ring is whole: it holds `capacity` messages, in order, but in the first lap, which may find slots to be
/// given back.
pub(crate) fn whole(
    capacity: u64,
    mut send: impl FnMut(u64) -> bool,
    mut receive: impl FnMut() -> Option<u64>,
) -> Result<(), String> {
    for lap in 0..3 {
        let sent: Vec<u64> = (0..=capacity).take_while(|number| send(*number)).collect();
        let came: Vec<u64> = std::iter::from_fn(&mut receive).collect();
        if came != sent || lap > 0 && sent.len() as u64 != capacity {
            return Err(format!("lap {lap}: {sent:?} were sent, {came:?} came"));
        }
    }
    Ok(())
}

/// Once recovered, nothing is left to do.
pub(crate) fn done(again: Recovered) -> Result<(), String> {
    match again.endpoints + again.unsent + again.orphans {
        0 => Ok(()),
        _ => Err(format!("recovered twice: {again:?}")),
    }
}

/// Wherever the state changes in all `modes`; killed at every instruction, too.
pub(crate) fn swept(op: &dyn Subject, modes: Vec<Mode>, at_every_instruction: bool) {
    let _watchdog = Watchdog::seconds(300);
    let edges = Config {
        edges_only: true,
        modes,
        ..Config::default()
    };
    sweep(op, &edges).assert_ok();
    if at_every_instruction {
        let kills = Config {
            modes: vec![Mode::Kill],
            ..Config::default()
        };
        sweep(op, &kills).assert_ok();
    }
}

/// Tests: `name: operation, whether at every instruction;`.
macro_rules! sweeps {
    ($($name:ident: $op:expr, $all:expr;)*) => {
        $(#[test] fn $name() { swept(&$op, $op.modes(), $all); })*
    };
}
pub(crate) use sweeps;
