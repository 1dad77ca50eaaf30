//! A process that adds to an `Array` under its guard, killed at every instruction: locking,
//! writing, unlocking. Nothing is torn without the next owner being told, and nobody is refused.
//!
//! The kernel tells of the death: there is no recovery to call.
//!
//! Shown to fail (`.ci/mutants`): a borrower that outlives its death, a lock that is not placed.
#![cfg(target_os = "linux")]

use std::time::Duration;

use multiprocess::{Array, LockError, Value, owned};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Subject, sweep};

/// Until something is called lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

/// Two words that only a death may leave unequal. The test process's: the others inherit it.
struct Add {
    name: &'static str,
    pair: Array<u64>,
    /// Shares the lock, if that was given.
    other: Option<Value<u64>>,
}

impl Add {
    /// Takes the guard, repairs what a dead owner left. Whether one did.
    fn settle(&self) -> Result<bool, String> {
        let (mut guard, inherited) = match self.pair.lock_timeout(PATIENCE) {
            Ok(guard) => (guard, false),
            Err(LockError::OwnerDied(guard)) => (guard, true),
            Err(error) => return Err(format!("locking after a death: {error}")),
        };
        if !inherited && guard[0] != guard[1] {
            return Err(format!("torn, and nobody was told: {guard:?}"));
        }
        guard.fill(0);
        guard.mark_consistent();
        Ok(inherited)
    }
}

impl Subject for Add {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn size(&self) -> usize {
        64
    }

    fn setup(&self, _: &Env<'_>) {}

    fn arm<'a>(&'a self, _: Env<'a>) -> Operation<'a> {
        // Every run begins with the same lock: nobody is announced as waiting any more. And this
        // process knows its thread.
        self.settle().unwrap();
        Box::new(|| {
            if let Some(other) = &self.other {
                other.set(1).unwrap();
            }
            let mut guard = self.pair.lock().unwrap();
            guard[0] += 1;
            guard[1] += 1;
            1
        })
    }

    fn check(&self, _: &Env<'_>, _: &Outcome<'_>) -> Result<&'static str, String> {
        let inherited = self.settle()?;
        // Told once, repaired, and everybody's again.
        if self.settle()? {
            return Err("told of a death that was repaired".to_owned());
        }
        if let Some(other) = &self.other {
            other
                .set(0)
                .map_err(|error| format!("its neighbour: {error}"))?;
        }
        Ok(if inherited { "inherited" } else { "free" })
    }
}

fn assert_survives(subject: &Add) {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        modes: vec![Mode::Kill],
        ..Config::default()
    };
    sweep(subject, &config).assert_ok();
}

#[test]
fn an_array_with_its_own_lock_survives_a_kill_at_every_instruction() {
    assert_survives(&Add {
        name: "add",
        pair: Array::zeroed(2).unwrap(),
        other: None,
    });
}

#[test]
fn neighbours_under_one_lock_survive_a_kill_at_every_instruction() {
    let lock = owned::RLock::new().unwrap();
    assert_survives(&Add {
        name: "add beside another",
        pair: Array::zeroed_with_lock(2, lock.clone()).unwrap(),
        other: Some(Value::with_lock(0, lock).unwrap()),
    });
}
