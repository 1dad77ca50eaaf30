//! `Barrier`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): an arrival that is counted before it signs the register, a
//! register that misses nobody from the action, or nobody from the last round, a park without inner
//! bound.
#![cfg(all(not(loom), target_os = "linux"))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{ParticipantId, Peers, Timeout};
use multiprocess_sync::{Barrier, BarrierError};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Control, Env, Operation, Outcome, Role, Subject, sweep};

const BARRIER: usize = 0;
/// How often an action ran to its end.
const ACTIONS: usize = size_of::<Barrier>().next_multiple_of(64);
const SIZE: usize = ACTIONS + 64;

fn barrier<'a>(env: &Env<'a>) -> &'a Barrier {
    // SAFETY: aligned, inside the segment, made of atomics.
    unsafe { &*env.segment.add(BARRIER).cast() }
}

fn actions<'a>(env: &Env<'a>) -> &'a AtomicU64 {
    // SAFETY: as above.
    unsafe { &*env.segment.add(ACTIONS).cast() }
}

fn id(role: Role) -> ParticipantId {
    ParticipantId::new(role as u16, 1)
}

/// The participants of a run: the harness attests the victim's death.
struct InRun<'a> {
    role: Role,
    control: &'a Control,
}

// SAFETY: dead is only who the harness has killed.
unsafe impl Peers for InRun<'_> {
    fn me(&self) -> ParticipantId {
        id(self.role)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant == id(Role::Victim) && self.control.victim_is_dead()
    }
    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

fn peers<'a>(env: &Env<'a>) -> InRun<'a> {
    InRun {
        role: env.role,
        control: env.control,
    }
}

const PASSED: u64 = 1;
const VICTIM_DIED: u64 = 2;
const BROKEN: u64 = 3;
const TIMED_OUT: u64 = 4;
/// A helper that passed found the death later, and did not learn whose.
const UNNAMED: u64 = 8;

fn code(result: Result<u32, BarrierError>) -> u64 {
    match result {
        Ok(_) => PASSED,
        Err(BarrierError::Broken { dead: None }) => BROKEN,
        Err(BarrierError::Broken { dead: Some(dead) }) if dead == id(Role::Victim) => VICTIM_DIED,
        Err(BarrierError::Timeout) => TIMED_OUT,
        Err(_) => 9,
    }
}

/// Until a checker calls something lost: far more than any inner bound, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// One party; others come when it does.
    Alone,
    AloneWithAction,
    /// A helper comes when the victim sleeps.
    ComeFirst,
    /// A helper sleeps in the barrier, here and in what follows.
    ComeLast,
    ComeLastWithAction,
    Abort,
    Reset,
    /// Nobody else comes, but a rival.
    TimeOut,
}

impl Op {
    fn parties(self) -> u32 {
        match self {
            Op::Alone | Op::AloneWithAction => 1,
            _ => 2,
        }
    }

    /// The helper and the victim make a round.
    fn is_a_round(self) -> bool {
        matches!(self, Op::ComeFirst | Op::ComeLast | Op::ComeLastWithAction)
    }

    fn comes(self) -> bool {
        !matches!(self, Op::Abort | Op::Reset)
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
        let place = env.segment.cast::<Barrier>();
        // The clock's lookup and the CPU count are lazy.
        // SAFETY: inside the segment and aligned; nobody else knows of it yet.
        unsafe { place.write(Barrier::new(2).unwrap()) };
        let _ = barrier(env).wait_timeout(Duration::from_millis(1));
        // SAFETY: as above.
        unsafe { place.write(Barrier::new(self.parties()).unwrap()) };
        // A party like the others, whether or not it comes.
        let victim = InRun {
            role: Role::Victim,
            control: env.control,
        };
        let barrier = barrier(env);
        std::thread::scope(|scope| {
            scope.spawn(|| barrier.wait_among(&victim, None).unwrap());
            for _ in 1..self.parties() {
                barrier.wait().unwrap();
            }
        });
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let (barrier, peers, actions) = (barrier(&env), peers(&env), actions(&env));
        let action = move || {
            actions.fetch_add(1, Relaxed);
        };
        match self {
            Op::Alone | Op::ComeFirst | Op::ComeLast => {
                Box::new(move || code(barrier.wait_among(&peers, None)))
            }
            Op::AloneWithAction | Op::ComeLastWithAction => {
                Box::new(move || code(barrier.wait_among_with(&peers, action, None)))
            }
            // Without a look at the clock: every run executes the same instructions.
            Op::TimeOut => Box::new(move || code(barrier.wait_among(&peers, Timeout::TRY))),
            Op::Abort => Box::new(move || {
                barrier.abort();
                1
            }),
            Op::Reset => Box::new(move || {
                barrier.reset();
                1
            }),
        }
    }

    fn has_helper(&self) -> bool {
        !matches!(self, Op::Alone | Op::AloneWithAction | Op::TimeOut)
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        if *self == Op::ComeFirst {
            go();
        }
        let first = code(barrier(env).wait_among(&peers(env), None));
        env.control.helper_has_settled();
        if first == PASSED && self.is_a_round() {
            // The next round misses whoever was killed after it had come.
            match code(barrier(env).wait_among(&peers(env), None)) {
                VICTIM_DIED => barrier(env).reset(),
                _ => return UNNAMED,
            }
        }
        first
    }

    fn rivals(&self) -> &[&'static str] {
        match self {
            Op::Alone | Op::AloneWithAction => &["pass", "stay in the action"],
            Op::TimeOut | Op::Abort => &["come"],
            Op::Reset => &["abort"],
            Op::ComeFirst | Op::ComeLast | Op::ComeLastWithAction => &[],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        if *self == Op::Reset {
            barrier(env).abort();
            return 1;
        }
        let stay = || env.control.rival_stands_inside();
        let peers = peers(env);
        code(match which {
            1 => barrier(env).wait_among_with(&peers, stay, None),
            _ => barrier(env).wait_among(&peers, None),
        })
    }

    /// It waits for a victim that stands still, in the action or on its way.
    fn rival_may_stall(&self, _: usize) -> bool {
        true
    }

    fn has_recovery(&self) -> bool {
        *self == Op::Reset
    }

    fn recover(&self, env: &Env<'_>, _: Role) {
        barrier(env).reset();
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let barrier = barrier(env);
        let helper = outcome.helper;
        let rival = outcome.rival.map(|(_, code)| code);
        let victim = (outcome.completed && self.comes()).then_some(outcome.result);
        // All who were in the round agree.
        let mut fates = [victim, helper, rival.filter(|_| *self != Op::Reset)];
        if matches!(self, Op::Alone | Op::AloneWithAction) {
            // Rounds of their own; a rival finds the victim dead in its action, or passes.
            if outcome.completed && fates != [Some(PASSED), None, rival.and(Some(PASSED))] {
                return Err(format!("alone, and {fates:?}"));
            }
            fates[2] = None;
        }
        let passed = fates.iter().flatten().filter(|code| **code == PASSED);
        let (passed, all) = (passed.count(), fates.iter().flatten().count());
        if passed != 0 && passed != all {
            return Err(format!("some passed and some did not: {fates:?}"));
        }
        if fates.iter().flatten().any(|code| *code > TIMED_OUT) {
            return Err(format!("absurd results: {fates:?}"));
        }
        let quiet = rival.is_none();
        if quiet && !self.comes() && helper == Some(PASSED) {
            return Err("the only waiter passed".to_owned());
        }
        if self.is_a_round() && helper == Some(BROKEN) {
            return Err("the death was found, and not named".to_owned());
        }
        if outcome.completed && quiet {
            let expected = if *self == Op::TimeOut { TIMED_OUT } else { 1 };
            if outcome.result != expected {
                return Err(format!("the operation returned {}", outcome.result));
            }
        }
        let ran = actions(env).load(Relaxed);
        if *self == Op::ComeLastWithAction && helper == Some(PASSED) && ran != 1 {
            return Err(format!("passed, and the action ran {ran} times"));
        }
        let fate = match (passed, barrier.is_broken()) {
            (0, true) => "broken",
            (0, false) => "nobody came through",
            (_, true) => "passed, then broken",
            (_, false) => "passed",
        };
        // It can be used again.
        barrier.reset();
        if barrier.is_broken() || barrier.waiting() != 0 {
            return Err(format!("after a reset: {barrier:?}"));
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.parties())
                .map(|_| scope.spawn(|| barrier.wait_timeout(PATIENCE)))
                .collect();
            barrier.wait_timeout(PATIENCE)?;
            for other in others {
                other.join().unwrap()?;
            }
            Ok::<(), BarrierError>(())
        })
        .map_err(|error| format!("after a reset: {error}"))?;
        if barrier.wait_timeout(Timeout::TRY).is_ok() != (self.parties() == 1) {
            return Err("a party that nobody knows of".to_owned());
        }
        Ok(fate)
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    sweep(&op, &Config::default()).assert_ok();
}

/// For what takes long: a death that a waiter must find takes it an inner bound, and the look for
/// the dead is a loop. The shared state is the same between two edges.
fn swept_at_edges(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        edges_only: true,
        ..Config::default()
    };
    sweep(&op, &config).assert_ok();
}

#[test]
fn a_party_alone_survives_a_kill_at_every_instruction() {
    swept(Op::Alone);
}

#[test]
fn an_action_alone_survives_a_kill_at_every_instruction() {
    swept_at_edges(Op::AloneWithAction);
}

#[test]
fn the_first_party_survives_a_kill_at_every_instruction() {
    swept_at_edges(Op::ComeFirst);
}

#[test]
fn the_last_party_survives_a_kill_at_every_instruction() {
    swept_at_edges(Op::ComeLast);
}

#[test]
fn the_last_party_with_an_action_survives_a_kill_at_every_instruction() {
    swept_at_edges(Op::ComeLastWithAction);
}

#[test]
fn a_timeout_survives_a_kill_at_every_instruction() {
    swept_at_edges(Op::TimeOut);
}

#[test]
fn abort_survives_a_kill_at_every_instruction() {
    swept(Op::Abort);
}

#[test]
fn reset_survives_a_kill_at_every_instruction() {
    swept(Op::Reset);
}
