//! `Semaphore`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a permit taken by load and store, a release of many that counts
//! up one by one.
#![cfg(all(not(loom), target_os = "linux"))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::Timeout;
use multiprocess_sync::{BoundedSemaphore, ReleaseError};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Operation, Outcome, Role, Subject, sweep};

const SEMAPHORE: usize = 0;
/// Permits that roles other than the victim hold at this moment.
const HELD: usize = 64;
const SIZE: usize = 128;

/// Permits at the start; room for one more, or for a batch.
const PERMITS: u32 = 2;
const ROOM: u32 = 3;
const BATCH: u32 = 3;

fn semaphore<'a>(env: &Env<'a>) -> &'a BoundedSemaphore {
    // SAFETY: aligned, inside the segment, one atomic word.
    unsafe { &*env.segment.add(SEMAPHORE).cast() }
}

fn held<'a>(env: &Env<'a>) -> &'a AtomicU64 {
    // SAFETY: as above.
    unsafe { &*env.segment.add(HELD).cast() }
}

/// Note 0: what a role found that must not be.
const BROKEN: u64 = 1;

/// Until a checker calls something lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Acquire,
    TryAcquire,
    AcquireAndRelease,
    /// The only permit is with a helper until the victim sleeps.
    AcquireContended,
    /// The only permit is with a helper for ever.
    AcquireTimesOut,
    Release,
    ReleaseMany,
    /// A release for which there is no room.
    ReleaseTooMany,
    /// A helper sleeps behind the victim, which has the only permit.
    ReleaseToSleeper,
}

impl Op {
    fn start(self) -> u32 {
        match self {
            Op::AcquireContended | Op::AcquireTimesOut | Op::ReleaseToSleeper => 1,
            Op::ReleaseTooMany => ROOM,
            _ => PERMITS,
        }
    }

    fn max(self) -> u32 {
        match self {
            Op::ReleaseMany => PERMITS + BATCH,
            _ => ROOM,
        }
    }

    /// What the completed operation does to the value; its result is 1.
    fn effect(self) -> i64 {
        match self {
            Op::Acquire | Op::TryAcquire | Op::AcquireContended => -1,
            Op::Release | Op::ReleaseToSleeper => 1,
            Op::ReleaseMany => BATCH.into(),
            Op::AcquireAndRelease | Op::AcquireTimesOut | Op::ReleaseTooMany => 0,
        }
    }
}

/// Takes a permit, and gives it back.
fn round(env: &Env<'_>, stay: bool) -> u64 {
    semaphore(env).acquire().unwrap();
    if held(env).fetch_add(1, Relaxed) >= semaphore(env).max().into() {
        env.control.notes[0].store(BROKEN, Relaxed);
    }
    if stay {
        env.control.rival_stands_inside();
    }
    held(env).fetch_sub(1, Relaxed);
    // The victim's release may have taken the place meanwhile.
    match semaphore(env).release() {
        Ok(()) => 1,
        Err(_) => 2,
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
        let place = env.segment.cast::<BoundedSemaphore>();
        let make = |value| BoundedSemaphore::with_max(value, self.max()).unwrap();
        // The clock's lookup and the CPU count are lazy.
        // SAFETY: inside the segment and aligned; nobody else knows of it yet.
        unsafe { place.write(make(0)) };
        let _ = semaphore(env).acquire_timeout(Duration::from_nanos(1));
        // SAFETY: as above.
        unsafe { place.write(make(self.start())) };
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let semaphore = semaphore(&env);
        match self {
            Op::Acquire | Op::AcquireContended => {
                Box::new(|| u64::from(semaphore.acquire().is_ok()))
            }
            Op::TryAcquire => Box::new(|| u64::from(semaphore.try_acquire().is_ok())),
            Op::AcquireTimesOut => Box::new(|| {
                let timeout = Duration::from_millis(1);
                u64::from(semaphore.acquire_timeout(timeout).is_err())
            }),
            Op::AcquireAndRelease => Box::new(|| match semaphore.permit(Timeout::Never) {
                Ok(permit) => {
                    drop(permit);
                    1
                }
                Err(_) => 0,
            }),
            Op::Release => Box::new(|| u64::from(semaphore.release().is_ok())),
            Op::ReleaseToSleeper => {
                semaphore.acquire().unwrap();
                Box::new(|| u64::from(semaphore.release().is_ok()))
            }
            Op::ReleaseMany => Box::new(|| u64::from(semaphore.release_many(BATCH).is_ok())),
            Op::ReleaseTooMany => {
                Box::new(|| u64::from(semaphore.release() == Err(ReleaseError::TooMany)))
            }
        }
    }

    fn has_helper(&self) -> bool {
        matches!(
            self,
            Op::AcquireContended | Op::AcquireTimesOut | Op::ReleaseToSleeper
        )
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        match self {
            Op::ReleaseToSleeper => round(env, false),
            _ => {
                semaphore(env).acquire().unwrap();
                go();
                while *self == Op::AcquireTimesOut && !env.control.victim_is_dead() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                semaphore(env).release().unwrap();
                env.control.helper_has_settled();
                1
            }
        }
    }

    fn rivals(&self) -> &[&'static str] {
        match self {
            Op::AcquireContended | Op::AcquireTimesOut | Op::ReleaseToSleeper => &[],
            _ => &["acquire and release", "acquire and stay"],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        round(env, which == 1)
    }

    /// A semaphore has no owner, so nobody recovers anything; but who knows that a permit has died
    /// with its holder may release it.
    fn has_recovery(&self) -> bool {
        *self == Op::ReleaseToSleeper
    }

    fn recover(&self, env: &Env<'_>, _: Role) {
        for _ in 0..20 {
            if semaphore(env).value() > 0 || env.control.helper_has_returned() {
                return; // released; the helper has had it, or will notice at its inner bound
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        semaphore(env).release().unwrap();
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(Relaxed) == BROKEN {
            return Err("more were inside than there are permits".to_owned());
        }
        let semaphore = semaphore(env);
        let over = matches!(outcome.rival, Some((_, 2)));
        // A rival with a permit makes room where there was none.
        let raced = *self == Op::ReleaseTooMany && outcome.rival.is_some();
        if outcome.completed && outcome.result != 1 && !raced {
            return Err(format!("the operation returned {}", outcome.result));
        }
        let value = i64::from(semaphore.value());
        let start = i64::from(self.start());
        let taken_first = i64::from(*self == Op::ReleaseToSleeper);
        let done = start - taken_first + self.effect();
        let fate = match value {
            // The rival was refused what the victim's release has filled, or the other way round.
            _ if raced || over => "no room for both",
            value if value == done => "done",
            // Killed between its two halves.
            value if *self == Op::AcquireAndRelease && value == start - 1 => "a permit is lost",
            value if value == start => "not done",
            _ => return Err(format!("{value} permits of {start}, {self:?}")),
        };
        if outcome.completed && fate != "done" && !raced && !over {
            return Err(format!("completed, and {fate}: {value} permits"));
        }
        if value > i64::from(semaphore.max()) {
            return Err(format!("{value} permits"));
        }
        // All that are there can be had, and no more; and it still wakes.
        for _ in 0..value {
            let had = semaphore.acquire_timeout(PATIENCE);
            had.map_err(|error| format!("blocked: {error}"))?;
        }
        if semaphore.try_acquire().is_ok() {
            return Err("a permit out of nothing".to_owned());
        }
        semaphore.release().map_err(|error| error.to_string())?;
        semaphore.acquire().map_err(|error| error.to_string())?;
        Ok(fate)
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    sweep(&op, &Config::default()).assert_ok();
}

#[test]
fn acquire_survives_a_kill_at_every_instruction() {
    swept(Op::Acquire);
}

#[test]
fn try_acquire_survives_a_kill_at_every_instruction() {
    swept(Op::TryAcquire);
}

#[test]
fn a_permit_survives_a_kill_at_every_instruction() {
    swept(Op::AcquireAndRelease);
}

#[test]
fn a_contended_acquire_survives_a_kill_at_every_instruction() {
    swept(Op::AcquireContended);
}

#[test]
fn an_acquire_that_times_out_survives_a_kill_at_every_instruction() {
    swept(Op::AcquireTimesOut);
}

#[test]
fn release_survives_a_kill_at_every_instruction() {
    swept(Op::Release);
}

#[test]
fn a_release_of_many_survives_a_kill_at_every_instruction() {
    swept(Op::ReleaseMany);
}

#[test]
fn a_refused_release_survives_a_kill_at_every_instruction() {
    swept(Op::ReleaseTooMany);
}

#[test]
fn a_release_with_sleepers_survives_a_kill_at_every_instruction() {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        // What a supervisor does about a lost permit is its own affair.
        modes: vec![multiprocess_testkit::Mode::Kill],
        ..Config::default()
    };
    sweep(&Op::ReleaseToSleeper, &config).assert_ok();
}
