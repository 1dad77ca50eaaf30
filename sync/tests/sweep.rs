//! `Lock` and `Event`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a lock taken by load and store, a park without inner bound
//! (the wake that dies with its waker), an event that wakes before it sets, a recovery that
//! frees a lock it did not judge.
#![cfg(all(not(loom), target_os = "linux"))]

use std::mem::forget;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{ParticipantId, Timeout};
use multiprocess_sync::{Event, Lock};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Operation, Outcome, Role, Subject, sweep};

const LOCK: usize = 0;
const EVENT: usize = 64;
const INSIDE: usize = 128;
const FIRST: usize = 136;
const SECOND: usize = 144;
const SIZE: usize = 256;

/// A piece of the segment: all-zero bytes are a valid value of everything in it.
fn at<'a, T>(env: &Env<'a>, offset: usize) -> &'a T {
    // SAFETY: aligned, inside the segment, made of atomics.
    unsafe { &*env.segment.add(offset).cast::<T>() }
}

fn lock<'a>(env: &Env<'a>) -> &'a Lock {
    at(env, LOCK)
}

fn event<'a>(env: &Env<'a>) -> &'a Event {
    at(env, EVENT)
}

fn word<'a>(env: &Env<'a>, offset: usize) -> &'a AtomicU64 {
    at(env, offset)
}

fn id(role: Role) -> ParticipantId {
    ParticipantId::new(role as u16, 1)
}

/// Note 0: what a critical section found that must not be.
const BROKEN: u64 = 1;

/// A critical section: mutual exclusion, and two words that only a death may leave unequal.
fn critical_section(env: &Env<'_>, stay: bool) -> u64 {
    let guard = lock(env).lock_as(id(env.role), Timeout::Never).unwrap();
    if word(env, INSIDE).swap(env.participant().into(), Relaxed) != 0 {
        env.control.notes[0].store(BROKEN, Relaxed);
    }
    if stay {
        env.control.rival_stands_inside();
    }
    word(env, FIRST).fetch_add(1, Relaxed);
    word(env, SECOND).fetch_add(1, Relaxed);
    if word(env, INSIDE).swap(0, Relaxed) != env.participant().into() {
        env.control.notes[0].store(BROKEN, Relaxed);
    }
    drop(guard);
    1
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Lock,
    TryLock,
    Release,
    CriticalSection,
    /// A helper holds it until the victim sleeps.
    LockContended,
    /// A helper holds it for ever.
    LockTimesOut,
    /// A helper sleeps behind the victim.
    ReleaseToSleeper,
    /// The recovery itself.
    ReleaseDead,
    Set,
    SetWithSleeper,
    Clear,
    /// A helper sets it when the victim sleeps.
    Wait,
    WaitTimesOut,
}

/// Until a checker calls something lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

const DEAD_LONG_AGO: ParticipantId = ParticipantId::new(99, 3);

impl Op {
    fn is_about_lock(self) -> bool {
        (self as u8) <= Op::ReleaseDead as u8
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn size(&self) -> usize {
        SIZE
    }

    fn setup(&self, env: &Env<'_>) {
        // The clock's lookup and the CPU count are lazy.
        let warm = lock(env).lock_timeout(Duration::from_millis(1));
        let _ = lock(env).lock_timeout(Duration::from_nanos(1));
        drop(warm);
        let _ = event(env).wait_timeout(Duration::from_nanos(1));
        // What the warming left behind.
        event(env).set();
        event(env).clear();
        if *self == Op::ReleaseDead {
            forget(lock(env).lock_as(DEAD_LONG_AGO, Timeout::TRY));
        }
        if *self == Op::Clear {
            event(env).set();
        }
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let take = move |timeout: Timeout| -> u64 {
            match lock(&env).lock_as(id(Role::Victim), timeout) {
                Ok(guard) => {
                    forget(guard);
                    1
                }
                Err(_) => 0,
            }
        };
        match self {
            Op::Lock | Op::LockContended => Box::new(move || take(Timeout::Never)),
            Op::LockTimesOut => Box::new(move || take(Duration::from_millis(1).into())),
            Op::TryLock => Box::new(move || match lock(&env).try_lock_as(id(Role::Victim)) {
                Ok(guard) => {
                    forget(guard);
                    1
                }
                Err(_) => 0,
            }),
            Op::Release | Op::ReleaseToSleeper => {
                take(Timeout::Never);
                Box::new(move || u64::from(lock(&env).release().is_ok()))
            }
            Op::CriticalSection => Box::new(move || critical_section(&env, false)),
            Op::ReleaseDead => Box::new(move || u64::from(lock(&env).release_dead(DEAD_LONG_AGO))),
            Op::Set | Op::SetWithSleeper => Box::new(move || {
                event(&env).set();
                1
            }),
            Op::Clear => Box::new(move || {
                event(&env).clear();
                1
            }),
            Op::Wait => Box::new(move || u64::from(event(&env).wait().is_ok())),
            Op::WaitTimesOut => Box::new(move || {
                u64::from(event(&env).wait_timeout(Duration::from_millis(1)).is_ok())
            }),
        }
    }

    fn has_helper(&self) -> bool {
        matches!(
            self,
            Op::LockContended
                | Op::LockTimesOut
                | Op::ReleaseToSleeper
                | Op::SetWithSleeper
                | Op::Wait
        )
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        match self {
            Op::LockContended => {
                forget(lock(env).lock_as(id(Role::Helper), Timeout::Never).unwrap());
                go();
                lock(env).release().unwrap();
                env.control.helper_has_settled();
                1
            }
            Op::LockTimesOut => {
                let guard = lock(env).lock_as(id(Role::Helper), Timeout::Never).unwrap();
                go();
                while !env.control.victim_is_dead() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                drop(guard);
                1
            }
            Op::ReleaseToSleeper => critical_section(env, false),
            Op::SetWithSleeper => u64::from(event(env).wait().is_ok()),
            _ => {
                go();
                event(env).set();
                env.control.helper_has_settled();
                1
            }
        }
    }

    fn rivals(&self) -> &[&'static str] {
        match self {
            Op::LockContended | Op::LockTimesOut | Op::Wait | Op::SetWithSleeper => &[],
            Op::ReleaseToSleeper => &[],
            Op::Set | Op::Clear | Op::WaitTimesOut => &["set", "clear"],
            _ => &["critical section", "lock and stay"],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        match (self.is_about_lock(), which) {
            (true, which) => critical_section(env, which == 1),
            (false, 0) => {
                event(env).set();
                1
            }
            (false, _) => {
                event(env).clear();
                1
            }
        }
    }

    fn rival_may_stall(&self, _: usize) -> bool {
        self.is_about_lock() // a stopped holder holds
    }

    fn has_recovery(&self) -> bool {
        self.is_about_lock()
    }

    fn recover(&self, env: &Env<'_>, dead: Role) {
        let victims = word(env, INSIDE).load(Relaxed) == dead as u64;
        if lock(env).holder() == Some(id(dead)) && victims {
            // The critical section of the dead may be half-done: made whole under its lock.
            // The mark goes last, or a recoverer killed in between would hide the damage.
            let first = word(env, FIRST).load(Relaxed);
            word(env, SECOND).store(first, Relaxed);
            word(env, INSIDE).store(0, Relaxed);
        }
        lock(env).release_dead(id(dead));
        if *self == Op::ReleaseDead {
            lock(env).release_dead(DEAD_LONG_AGO);
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if self.is_about_lock() {
            self.check_lock(env, outcome)
        } else {
            self.check_event(env, outcome)
        }
    }
}

impl Op {
    fn check_lock(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(Relaxed) == BROKEN {
            return Err("two were inside".to_owned());
        }
        let expected = u64::from(*self != Op::LockTimesOut);
        let may_fail = *self == Op::TryLock || *self == Op::ReleaseDead;
        if outcome.completed && outcome.result != expected && !(may_fail && outcome.rival.is_some())
        {
            return Err(format!("the operation returned {}", outcome.result));
        }
        // Held by nobody alive: obtainable at once, also with sleepers' wakes lost.
        let guard = lock(env)
            .lock_as(id(Role::Checker), PATIENCE)
            .map_err(|error| format!("blocked: {error}, {:?}", lock(env)))?;
        drop(guard);
        let (first, second) = (
            word(env, FIRST).load(Relaxed),
            word(env, SECOND).load(Relaxed),
        );
        if first != second {
            return Err(format!("a critical section is half-done: {first} {second}"));
        }
        let held = outcome.before[LOCK] & 1 != 0
            && u32::from_ne_bytes(outcome.before[4..8].try_into().unwrap())
                == id(Role::Victim).bits();
        Ok(if held {
            "held at its death"
        } else {
            "not held"
        })
    }

    fn check_event(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let event = event(env);
        let set_by_victim = matches!(self, Op::Set | Op::SetWithSleeper);
        let quiet = outcome.rival.is_none();
        if quiet && outcome.completed && set_by_victim && !event.is_set() {
            return Err("set, and not set".to_owned());
        }
        if quiet && outcome.completed && *self == Op::Clear && event.is_set() {
            return Err("cleared, and set".to_owned());
        }
        if *self == Op::Wait && outcome.completed && outcome.result != 1 {
            return Err("waited in vain".to_owned());
        }
        if *self == Op::WaitTimesOut && quiet && outcome.completed && outcome.result != 0 {
            return Err("a wait that nobody ended has ended".to_owned());
        }
        let fate = if event.is_set() { "set" } else { "not set" };
        // It still works.
        event.clear();
        if event.wait_timeout(Timeout::TRY).is_ok() {
            return Err("cleared, and a wait passes".to_owned());
        }
        event.set();
        event
            .wait_timeout(PATIENCE)
            .map_err(|error| error.to_string())?;
        Ok(fate)
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        // A wait spins long before it sleeps: killed where the state changes, and asleep.
        edges_only: matches!(op, Op::Wait | Op::WaitTimesOut),
        ..Config::default()
    };
    // A helper that must notice by itself that its wake was lost takes its inner bound.
    sweep(&op, &config).assert_ok();
}

/// The helper sleeps until the victim acts; a victim that dies before it does would leave it
/// asleep rightly. The checker's part is played by a second setter.
struct SetByAnother(Op);

impl Subject for SetByAnother {
    fn name(&self) -> String {
        self.0.name()
    }
    fn size(&self) -> usize {
        SIZE
    }
    fn setup(&self, env: &Env<'_>) {
        self.0.setup(env);
    }
    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        self.0.arm(env)
    }
    fn has_helper(&self) -> bool {
        true
    }
    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        self.0.help(env, go)
    }
    fn has_recovery(&self) -> bool {
        true
    }
    /// If the victim had not set it: somebody else does, and must wake the sleeper. If it had,
    /// and died before its wake, the sleeper wakes by itself.
    fn recover(&self, env: &Env<'_>, _: Role) {
        event(env).set();
    }
    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if outcome.helper != Some(1) {
            return Err("the sleeper was not released".to_owned());
        }
        self.0.check(env, outcome)
    }
}

#[test]
fn lock_survives_a_kill_at_every_instruction() {
    swept(Op::Lock);
}

#[test]
fn try_lock_survives_a_kill_at_every_instruction() {
    swept(Op::TryLock);
}

#[test]
fn release_survives_a_kill_at_every_instruction() {
    swept(Op::Release);
}

#[test]
fn a_critical_section_survives_a_kill_at_every_instruction() {
    swept(Op::CriticalSection);
}

#[test]
fn a_contended_lock_survives_a_kill_at_every_instruction() {
    swept(Op::LockContended);
}

#[test]
fn a_lock_that_times_out_survives_a_kill_at_every_instruction() {
    swept(Op::LockTimesOut);
}

#[test]
fn a_release_with_sleepers_survives_a_kill_at_every_instruction() {
    swept(Op::ReleaseToSleeper);
}

#[test]
fn recovery_survives_a_kill_at_every_instruction() {
    swept(Op::ReleaseDead);
}

#[test]
fn set_survives_a_kill_at_every_instruction() {
    swept(Op::Set);
}

#[test]
fn set_with_sleepers_survives_a_kill_at_every_instruction() {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        // The recovery is one `set`, swept by itself.
        modes: vec![multiprocess_testkit::Mode::Kill],
        ..Config::default()
    };
    sweep(&SetByAnother(Op::SetWithSleeper), &config).assert_ok();
}

#[test]
fn clear_survives_a_kill_at_every_instruction() {
    swept(Op::Clear);
}

#[test]
fn wait_survives_a_kill_at_every_instruction() {
    swept(Op::Wait);
}

#[test]
fn a_wait_that_times_out_survives_a_kill_at_every_instruction() {
    swept(Op::WaitTimesOut);
}
