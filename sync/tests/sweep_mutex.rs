//! `RawMutex` and `RLock`, killed, stopped and preempted at every instruction. The kernel tells of
//! the death: there is no recovery to call.
//!
//! Shown to fail (`.ci/mutants`): pending announced too late, cleared before the wake, linked
//! before it is whole, a word taken by load and store, a death that is not told.
#![cfg(all(not(loom), target_os = "linux"))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::thread::Caller;
use multiprocess_core::{ShmSafe, Timeout};
use multiprocess_sync::{LockError, RLock, RawMutex};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Operation, Outcome, Subject, sweep};

const MUTEX: usize = 0;
const OTHER: usize = 128;
const RLOCK: usize = 256;
const INSIDE: usize = 384;
const FIRST: usize = 392;
const SECOND: usize = 400;
const SIZE: usize = 512;

/// A piece of the segment: all-zero bytes are a valid value of everything in it.
fn at<'a, T>(env: &Env<'a>, offset: usize) -> &'a T {
    // SAFETY: aligned, inside the segment, made of atomics.
    unsafe { &*env.segment.add(offset).cast::<T>() }
}

fn mutex<'a>(env: &Env<'a>) -> &'a RawMutex {
    at(env, MUTEX)
}

fn rlock<'a>(env: &Env<'a>) -> &'a RLock {
    at(env, RLOCK)
}

fn word<'a>(env: &Env<'a>, offset: usize) -> &'a AtomicU64 {
    at(env, offset)
}

/// Notes of a run.
const BROKEN: usize = 0;
const VICTIM: usize = 1;

/// Acquires, and repairs what a dead owner left. Whether one did.
fn take(env: &Env<'_>, timeout: impl Into<Timeout>) -> Result<bool, LockError<()>> {
    let me = Caller::current();
    match mutex(env).acquire(&me, timeout) {
        Ok(()) => Ok(false),
        Err(LockError::OwnerDied(())) => {
            let first = word(env, FIRST).load(Relaxed);
            word(env, SECOND).store(first, Relaxed);
            word(env, INSIDE).store(0, Relaxed);
            mutex(env).mark_consistent(&me).unwrap();
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// A critical section: mutual exclusion, and two words that only a death may leave unequal.
fn critical_section(env: &Env<'_>, stay: bool) -> u64 {
    take(env, None).unwrap();
    if word(env, INSIDE).swap(env.participant().into(), Relaxed) != 0 {
        env.control.notes[BROKEN].store(1, Relaxed);
    }
    if stay {
        env.control.rival_stands_inside();
    }
    word(env, FIRST).fetch_add(1, Relaxed);
    word(env, SECOND).fetch_add(1, Relaxed);
    if word(env, INSIDE).swap(0, Relaxed) != env.participant().into() {
        env.control.notes[BROKEN].store(1, Relaxed);
    }
    mutex(env).release(&Caller::current()).unwrap();
    1
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Acquire,
    TryAcquire,
    /// The list has somebody else in it.
    AcquireHoldingAnother,
    /// A helper holds it until the victim sleeps.
    AcquireContended,
    /// A helper holds it for ever.
    AcquireTimesOut,
    /// Somebody died with it before.
    AcquireFromTheDead,
    Release,
    /// While another one is held: the list has a middle.
    ReleaseHoldingAnother,
    /// A helper sleeps behind the victim.
    ReleaseToSleeper,
    /// After a death that nobody repaired.
    ReleaseUnrepaired,
    CriticalSection,
    LockAgain,
    ReleaseOnceOfTwice,
}

/// Until a checker calls something lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

impl Op {
    fn starts_with_a_death(self) -> bool {
        matches!(self, Op::AcquireFromTheDead | Op::ReleaseUnrepaired)
    }

    fn is_about_rlock(self) -> bool {
        matches!(self, Op::LockAgain | Op::ReleaseOnceOfTwice)
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
        // SAFETY: the segment stays mapped at one address in each process.
        unsafe {
            mutex(env).placed();
            at::<RawMutex>(env, OTHER).placed();
            rlock(env).placed();
        }
        // The clock's lookup, the CPU count and the generation's page are lazy.
        let me = Caller::current();
        mutex(env).acquire(&me, None).unwrap();
        let shared = env_of(env);
        let timeout = Duration::from_millis(1);
        std::thread::scope(|scope| {
            scope.spawn(move || drop(mutex(shared).acquire(&Caller::current(), timeout)));
        });
        mutex(env).release(&me).unwrap();
        if self.starts_with_a_death() {
            std::thread::scope(|scope| {
                scope.spawn(move || mutex(shared).acquire(&Caller::current(), None).unwrap());
            });
            // The scope ends when the closure has; the thread dies a moment later.
            while mutex(env).is_locked() {
                std::thread::yield_now();
            }
        }
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let me = Caller::current();
        env.control.notes[VICTIM].store(me.thread().id().into(), Relaxed);
        let acquire = move |timeout: Timeout| match mutex(&env).acquire(&me, timeout) {
            Ok(()) => 1,
            Err(LockError::OwnerDied(())) => 2,
            Err(_) => 0,
        };
        match self {
            Op::Acquire | Op::AcquireContended | Op::AcquireFromTheDead => {
                Box::new(move || acquire(Timeout::Never))
            }
            Op::AcquireHoldingAnother => {
                at::<RawMutex>(&env, OTHER).acquire(&me, None).unwrap();
                Box::new(move || acquire(Timeout::Never))
            }
            Op::AcquireTimesOut => Box::new(move || acquire(Duration::from_millis(1).into())),
            Op::TryAcquire => Box::new(move || acquire(Timeout::TRY)),
            Op::Release | Op::ReleaseToSleeper => {
                mutex(&env).acquire(&me, None).unwrap();
                Box::new(move || u64::from(mutex(&env).release(&me).is_ok()))
            }
            Op::ReleaseHoldingAnother => {
                mutex(&env).acquire(&me, None).unwrap();
                at::<RawMutex>(&env, OTHER).acquire(&me, None).unwrap();
                Box::new(move || u64::from(mutex(&env).release(&me).is_ok()))
            }
            Op::ReleaseUnrepaired => {
                assert_eq!(
                    mutex(&env).acquire(&me, None),
                    Err(LockError::OwnerDied(()))
                );
                Box::new(move || u64::from(mutex(&env).release(&me).is_ok()))
            }
            Op::CriticalSection => Box::new(move || critical_section(&env, false)),
            Op::LockAgain => {
                rlock(&env).acquire(&me, None).unwrap();
                Box::new(move || u64::from(rlock(&env).acquire(&me, None).is_ok()))
            }
            Op::ReleaseOnceOfTwice => {
                rlock(&env).acquire(&me, None).unwrap();
                rlock(&env).acquire(&me, None).unwrap();
                Box::new(move || u64::from(rlock(&env).release_as(&me).is_ok()))
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
        let me = Caller::current();
        match self {
            Op::AcquireContended => {
                mutex(env).acquire(&me, None).unwrap();
                go();
                mutex(env).release(&me).unwrap();
                env.control.helper_has_settled();
            }
            Op::AcquireTimesOut => {
                mutex(env).acquire(&me, None).unwrap();
                go();
                while !env.control.victim_is_dead() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                mutex(env).release(&me).unwrap();
            }
            _ => {
                critical_section(env, false);
            }
        }
        1
    }

    fn rivals(&self) -> &[&'static str] {
        match self {
            Op::AcquireContended | Op::AcquireTimesOut | Op::ReleaseToSleeper => &[],
            Op::AcquireFromTheDead | Op::ReleaseUnrepaired => &[],
            Op::LockAgain | Op::ReleaseOnceOfTwice => &[],
            _ => &["critical section", "lock and stay"],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        critical_section(env, which == 1)
    }

    fn rival_may_stall(&self, _: usize) -> bool {
        true // a stopped holder holds
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[BROKEN].load(Relaxed) != 0 {
            return Err("two were inside".to_owned());
        }
        if self.is_about_rlock() {
            return check_rlock(env);
        }
        let expected = match self {
            Op::AcquireTimesOut => 0,
            Op::AcquireFromTheDead => 2,
            _ => 1,
        };
        let may_fail = *self == Op::TryAcquire && outcome.rival.is_some();
        if outcome.completed && outcome.result != expected && !may_fail {
            return Err(format!("the operation returned {}", outcome.result));
        }
        let low = u64::from(u32::from_ne_bytes(outcome.before[..4].try_into().unwrap()));
        let held = low & 0x3fff_ffff == env.control.notes[VICTIM].load(Relaxed);
        // A helper or rival may have inherited it since.
        let alone = outcome.rival.is_none() && outcome.helper.is_none();
        match take(env, PATIENCE) {
            Ok(died) if alone && died != (held || low & 0x4000_0000 != 0) => {
                return Err(format!("held {held}, and a death was told: {died}"));
            }
            Ok(_) => mutex(env).release(&Caller::current()).unwrap(),
            // Released unrepaired: that is what this operation does when it is through.
            Err(LockError::NotRecoverable) if *self == Op::ReleaseUnrepaired => {}
            Err(error) => return Err(format!("blocked: {error}, {:?}", mutex(env))),
        }
        if matches!(self, Op::ReleaseHoldingAnother | Op::AcquireHoldingAnother) {
            let me = Caller::current();
            let other: &RawMutex = at(env, OTHER);
            if other.acquire(&me, PATIENCE) != Err(LockError::OwnerDied(())) {
                return Err("the other lock's owner died, and nobody was told".to_owned());
            }
        }
        let (first, second) = (
            word(env, FIRST).load(Relaxed),
            word(env, SECOND).load(Relaxed),
        );
        if first != second {
            return Err(format!("a critical section is half-done: {first} {second}"));
        }
        Ok(if held {
            "held at its death"
        } else {
            "not held"
        })
    }
}

fn check_rlock(env: &Env<'_>) -> Result<&'static str, String> {
    let me = Caller::current();
    match rlock(env).acquire(&me, PATIENCE) {
        Err(LockError::OwnerDied(())) if rlock(env).depth() == 1 => Ok("held at its death"),
        other => Err(format!("{other:?} at depth {}", rlock(env).depth())),
    }
}

/// For a thread of setup: the pointer in it is not `Send`, and is only read.
fn env_of<'a>(env: &Env<'a>) -> &'a SendEnv<'a> {
    Box::leak(Box::new(SendEnv(*env)))
}

struct SendEnv<'a>(Env<'a>);

// SAFETY: the segment is made of atomics.
unsafe impl Sync for SendEnv<'_> {}

impl<'a> std::ops::Deref for SendEnv<'a> {
    type Target = Env<'a>;

    fn deref(&self) -> &Env<'a> {
        &self.0
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        // Operations that spin are killed where the state changes, and asleep.
        edges_only: matches!(op, Op::AcquireContended | Op::AcquireTimesOut),
        ..Config::default()
    };
    sweep(&op, &config).assert_ok();
}

macro_rules! sweeps {
    ($($name:ident: $op:ident;)*) => {$(
        #[test]
        fn $name() {
            swept(Op::$op);
        }
    )*};
}

sweeps! {
    acquire_survives_a_kill_at_every_instruction: Acquire;
    try_acquire_survives_a_kill_at_every_instruction: TryAcquire;
    an_acquire_with_another_held_survives_a_kill_at_every_instruction: AcquireHoldingAnother;
    a_contended_acquire_survives_a_kill_at_every_instruction: AcquireContended;
    an_acquire_that_times_out_survives_a_kill_at_every_instruction: AcquireTimesOut;
    inheriting_survives_a_kill_at_every_instruction: AcquireFromTheDead;
    release_survives_a_kill_at_every_instruction: Release;
    a_release_in_the_middle_of_the_list_survives_a_kill_at_every_instruction: ReleaseHoldingAnother;
    a_release_with_sleepers_survives_a_kill_at_every_instruction: ReleaseToSleeper;
    a_release_unrepaired_survives_a_kill_at_every_instruction: ReleaseUnrepaired;
    a_critical_section_survives_a_kill_at_every_instruction: CriticalSection;
    locking_again_survives_a_kill_at_every_instruction: LockAgain;
    releasing_one_level_survives_a_kill_at_every_instruction: ReleaseOnceOfTwice;
}
