//! Kills, stops or preempts a process at every machine instruction of an operation.

mod run;
mod segment;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::control::{Env, Role};
use crate::process::Pinned;
use crate::report::Report;
use crate::tracee;

/// The operation that a victim executes; its result.
pub type Operation<'a> = Box<dyn FnMut() -> u64 + 'a>;

/// How the victim is treated after its N instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Killed.
    Kill,
    /// A rival runs a whole operation while the victim stands; then the victim finishes.
    Preempt,
    /// The same, but then the victim is killed.
    PreemptThenKill,
    /// Killed, and its recoverer is killed at every instruction too.
    RecovererKilled,
}

/// What a checker judges.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// How the victim was treated.
    pub mode: Mode,
    /// Instructions it executed, before it was let go or killed.
    pub step: u64,
    /// Whether its operation returned.
    pub completed: bool,
    /// What the operation returned, if it did.
    pub result: u64,
    /// The segment just before the victim's death.
    pub before: &'a [u8],
    /// What the helper returned.
    pub helper: Option<u64>,
    /// Which rival ran, and what it returned.
    pub rival: Option<(usize, u64)>,
}

/// One operation on one shared structure, to be killed.
///
/// All methods but [`setup`](Self::setup) run in processes of their own, forked from the test.
pub trait Subject: Sync {
    /// For the report.
    fn name(&self) -> String;

    /// Bytes of the segment.
    fn size(&self) -> usize;

    /// Prepares the zeroed segment, and warms what is initialised lazily (clocks, caches), so
    /// that every run executes the same instructions. Once, in the test process.
    fn setup(&self, env: &Env<'_>);

    /// In the victim, unstepped: attach, take what the operation needs. What it returns is the
    /// operation.
    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a>;

    /// Whether a helper runs beside the victim. It starts after `arm`, before the first step.
    fn has_helper(&self) -> bool {
        false
    }

    /// The helper. It runs until it returns, sleeps, or calls `go`, which returns when the
    /// victim sleeps and must be woken, or is dead.
    fn help(&self, _env: &Env<'_>, _go: &dyn Fn()) -> u64 {
        0
    }

    /// Whole operations to run in another process while the victim stands still.
    fn rivals(&self) -> &[&'static str] {
        &[]
    }

    /// Rival number `which`.
    fn rival(&self, _env: &Env<'_>, _which: usize) -> u64 {
        0
    }

    /// Whether rival `which` may be blocked or refused while the victim stands still.
    fn rival_may_stall(&self, _which: usize) -> bool {
        false
    }

    /// Whether there is anything to recover after the victim's death.
    fn has_recovery(&self) -> bool {
        false
    }

    /// Cleans up after `dead`. Must work when somebody has been at it before and was killed.
    fn recover(&self, _env: &Env<'_>, _dead: Role) {}

    /// After death and recovery, in a process that attaches afresh: can everybody go on, was
    /// anything torn, lost, doubled or leaked? `Ok` names the victim's fate, for the report.
    ///
    /// # Errors
    ///
    /// What is wrong.
    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String>;
}

/// How thorough a sweep is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Kill only where the shared state changes: before and after each instruction that
    /// changes it, after system calls, and asleep. For operations that spin. `false` kills
    /// after every instruction.
    pub edges_only: bool,
    /// Which modes; all by default.
    pub modes: Vec<Mode>,
    /// A process that takes longer than this hangs.
    pub patience: Duration,
    /// Give up a mode after this many violations.
    pub max_violations: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edges_only: false,
            modes: vec![
                Mode::Kill,
                Mode::Preempt,
                Mode::PreemptThenKill,
                Mode::RecovererKilled,
            ],
            // Long enough for a machine that is busy with something else.
            patience: Duration::from_secs(12),
            max_violations: 2,
        }
    }
}

/// One at a time in a process: sweeps tell sleep from slowness.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Sweeps `subject`. Where ptrace is forbidden the report says that it was skipped.
pub fn sweep(subject: &dyn Subject, config: &Config) -> Report {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _pinned = Pinned::here();
    match tracee::permission() {
        Ok(()) => run::Sweep::new(subject, config).run(),
        Err(why) => Report {
            name: subject.name(),
            skipped: Some(why),
            ..Report::default()
        },
    }
}
