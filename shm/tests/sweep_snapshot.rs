//! Writers and readers of a `Snapshot`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a write into the copy that readers look at, a dead writer's turn
//! that nobody inherits.
#![cfg(all(not(loom), target_os = "linux"))]

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::peers;
use multiprocess_shm::{Snapshot, SnapshotError};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Operation, Outcome, Subject, sweep};

type Value = [u64; 4];
const OLD: Value = [1; 4];
const NEW: Value = [2; 4];

/// Note 0: what a role found that must not be.
const BROKEN: u64 = 1;

/// Until a checker calls a turn lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

fn snapshot<'a>(env: &Env<'a>) -> &'a Snapshot<Value> {
    // SAFETY: aligned, inside the segment, all atomics.
    unsafe { &*env.segment.cast() }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Write,
    Read,
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn size(&self) -> usize {
        128
    }

    fn setup(&self, env: &Env<'_>) {
        let place = env.segment.cast::<Snapshot<Value>>();
        // SAFETY: inside the segment and aligned; nobody else knows of it yet.
        unsafe { place.write(Snapshot::new(OLD)) };
        // The clock's lookup and the CPU count are lazy.
        let late = Duration::from_nanos(1);
        snapshot(env).write(&peers(env), OLD, late).unwrap();
        let number = snapshot(env).reader().number();
        let _ = snapshot(env).reader().wait_changed(number, late);
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let (snapshot, peers) = (snapshot(&env), peers(&env));
        match self {
            Op::Write => Box::new(move || u64::from(snapshot.write(&peers, NEW, None).is_ok())),
            Op::Read => Box::new(|| u64::from(matches!(snapshot.read(), Ok(OLD | [3, 3, 3, 3])))),
        }
    }

    fn rivals(&self) -> &[&'static str] {
        &["read", "write"]
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        if which == 0 {
            // Whoever stands in the middle of writing is in nobody's way.
            match snapshot(env).read() {
                Ok(OLD | NEW) => return 1,
                _ => env.control.notes[0].store(BROKEN, Relaxed),
            }
            return 0;
        }
        let timeout = Duration::from_millis(1);
        match snapshot(env).write(&peers(env), [3; 4], timeout) {
            Ok(()) => 1,
            Err(SnapshotError::Timeout) => 2,
            Err(error) => panic!("{error}"),
        }
    }

    /// A stopped writer is not dead: another one is refused.
    fn rival_may_stall(&self, which: usize) -> bool {
        *self == Op::Write && which == 1
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(Relaxed) == BROKEN {
            return Err("a reader saw two halves, or was blocked".to_owned());
        }
        if outcome.completed && outcome.result != 1 {
            return Err(format!("the operation returned {}", outcome.result));
        }
        let value = snapshot(env).read().map_err(|error| error.to_string())?;
        let fate = match value {
            OLD => "the old value",
            NEW => "the new value",
            [3, 3, 3, 3] if matches!(outcome.rival, Some((1, 1))) => "the rival's value",
            _ => return Err(format!("torn: {value:?}")),
        };
        if *self == Op::Write && outcome.completed && fate == "the old value" {
            return Err("completed, and not there".to_owned());
        }
        // The dead one's turn is inherited.
        let written =
            snapshot(env).update(&peers(env), |value| value.map(|word| word + 10), PATIENCE);
        written.map_err(|error| format!("the next writer: {error}"))?;
        match snapshot(env).read() {
            Ok(after) if after == value.map(|word| word + 10) => Ok(fate),
            other => Err(format!("the next value: {other:?}")),
        }
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    sweep(&op, &Config::default()).assert_ok();
}

#[test]
fn a_write_survives_a_kill_at_every_instruction() {
    swept(Op::Write);
}

#[test]
fn a_read_survives_a_kill_at_every_instruction() {
    swept(Op::Read);
}
