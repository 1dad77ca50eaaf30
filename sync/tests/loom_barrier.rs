//! Models of `Barrier`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-sync`.
//!
//! Shown to fail (`.ci/mutants`): the CAS of an arrival made Relaxed, the load of a waiter made
//! Relaxed, an arrival by load and store, the wake left out, one wake for all, a sleeper that does
//! not announce itself, an action after the others were let go, a time-out that takes a completed
//! round for broken, a death that is noted after the break.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use multiprocess_core::{ParticipantId, Peers};
use multiprocess_sync::{Barrier, BarrierError};

const SHORT: core::time::Duration = core::time::Duration::from_millis(1);
const BROKEN: Result<u32, BarrierError> = Err(BarrierError::Broken { dead: None });

struct Stage {
    barrier: Barrier,
    /// Each written by one party between two rounds, and read by all between the next two.
    values: [UnsafeCell<u32>; 2],
}

// SAFETY: what separates writers and readers is the barrier; loom checks exactly that.
unsafe impl Sync for Stage {}
// SAFETY: as above.
unsafe impl Send for Stage {}

impl Stage {
    fn new(parties: u32) -> Arc<Self> {
        Arc::new(Self {
            barrier: Barrier::new(parties).unwrap(),
            values: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn write(&self, who: usize, value: u32) {
        // SAFETY: nobody reads before the next round is over.
        self.values[who].with_mut(|place| unsafe { *place = value });
    }

    fn read(&self, who: usize) -> u32 {
        // SAFETY: nobody writes before the next round is over.
        self.values[who].with(|place| unsafe { *place })
    }
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(f);
}

#[test]
fn two_parties_pass_two_rounds_and_see_what_both_wrote() {
    model(Some(4), || {
        let stage = Stage::new(2);
        let party = |stage: &Stage, who: usize| {
            stage.write(who, 7);
            let first = stage.barrier.wait().unwrap();
            assert_eq!(stage.read(1 - who), 7);
            stage.barrier.wait().unwrap();
            stage.write(1 - who, 8); // the other has read its own
            first
        };
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || party(&other, 1));
        let index = party(&stage, 0);
        assert_eq!(index + thread.join().unwrap(), 1);
    });
}

#[test]
fn three_parties_pass() {
    model(Some(3), || {
        let stage = Stage::new(3);
        let threads = [(); 2].map(|()| {
            let party = Arc::clone(&stage);
            thread::spawn(move || party.barrier.wait().unwrap())
        });
        let mut sum = stage.barrier.wait().unwrap();
        for thread in threads {
            sum += thread.join().unwrap();
        }
        assert_eq!(sum, 3);
    });
}

#[test]
fn the_action_comes_after_all_and_before_anyone_passes() {
    model(Some(3), || {
        let stage = Stage::new(2);
        let party = |stage: &Stage, who: usize| {
            stage.write(who, 7);
            let action = || {
                assert_eq!((stage.read(0), stage.read(1)), (7, 7));
                stage.write(0, 8);
            };
            stage.barrier.wait_with(action, None).unwrap();
            assert_eq!(stage.read(0), 8);
        };
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || party(&other, 1));
        party(&stage, 0);
        thread.join().unwrap();
    });
}

#[test]
fn a_timeout_and_the_last_arrival_agree() {
    model(Some(3), || {
        let stage = Stage::new(2);
        let timed = Arc::clone(&stage);
        let timed = thread::spawn(move || timed.barrier.wait_timeout(SHORT));
        let last = Arc::clone(&stage);
        let last = thread::spawn(move || last.barrier.wait_timeout(SHORT));
        multiprocess_core::model::expire_one();
        match (timed.join().unwrap(), last.join().unwrap()) {
            (Ok(a), Ok(b)) => assert_eq!(a + b, 1),
            (a, b) => {
                let timeout = Err(BarrierError::Timeout);
                assert!(
                    (a, b) == (timeout, BROKEN) || (a, b) == (BROKEN, timeout),
                    "{a:?} {b:?}"
                );
                assert!(stage.barrier.is_broken());
            }
        }
    });
}

#[test]
fn an_abort_breaks_it_for_all_or_for_none() {
    model(Some(3), || {
        let stage = Stage::new(2);
        let other = Arc::clone(&stage);
        let other = thread::spawn(move || other.barrier.wait());
        let aborter = Arc::clone(&stage);
        let aborter = thread::spawn(move || aborter.barrier.abort());
        let mine = stage.barrier.wait();
        let theirs = other.join().unwrap();
        aborter.join().unwrap();
        assert_eq!(mine.is_ok(), theirs.is_ok());
        assert_eq!(stage.barrier.wait(), BROKEN);
    });
}

#[test]
fn a_reset_sends_a_waiter_away() {
    model(None, || {
        let stage = Stage::new(2);
        let waiter = Arc::clone(&stage);
        let waiter = thread::spawn(move || waiter.barrier.wait());
        while stage.barrier.waiting() == 0 {
            thread::yield_now();
        }
        stage.barrier.reset();
        assert_eq!(waiter.join().unwrap(), BROKEN);
        assert!(!stage.barrier.is_broken());
    });
}

/// Number 1, to whom number 7 is dead.
struct Fake;

// SAFETY: nothing is given to others on this word.
unsafe impl Peers for Fake {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(1, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() == 7
    }
    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// As number 7.
struct Seven;

// SAFETY: as above.
unsafe impl Peers for Seven {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(7, 1)
    }
    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }
    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

#[test]
fn all_learn_who_died() {
    model(Some(3), || {
        let dead = Err(BarrierError::Broken {
            dead: Some(ParticipantId::new(7, 1)),
        });
        let stage = Stage::new(3);
        stage.barrier.enlist(&Seven);
        let plain = Arc::clone(&stage);
        let plain = thread::spawn(move || plain.barrier.wait());
        // Its time is up as soon as it has come: it looks for the dead, and breaks.
        let timeout = core::time::Duration::ZERO;
        assert_eq!(stage.barrier.wait_among(&Fake, timeout), dead);
        assert_eq!(plain.join().unwrap(), dead);
    });
}

#[test]
fn a_newcomer_waits_until_the_action_is_over() {
    model(Some(2), || {
        let stage = Stage::new(1);
        let (ran, over) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let runner = Arc::clone(&stage);
        let (runs, is_over) = (Arc::clone(&ran), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let action = || {
                runs.fetch_add(1, Ordering::Relaxed);
                is_over.store(true, Ordering::Relaxed);
            };
            runner.barrier.wait_with(action, None).unwrap();
        });
        while ran.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        stage.barrier.wait().unwrap();
        assert!(over.load(Ordering::Relaxed));
        thread.join().unwrap();
    });
}
