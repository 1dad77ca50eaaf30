//! Barriers between processes that were started apart, and that are killed anywhere.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{ParticipantId, Peers, ShmSafe};
use multiprocess_shm::Shared;
use multiprocess_sync::{Barrier, BarrierError, Event};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    barrier: Barrier,
    ready: Event,
    counts: [AtomicU64; 8],
    /// By slot: the last epoch that the parent has seen die.
    died: [AtomicU64; 8],
    /// By slot: the parties that have seen the barrier broken by a death that was named.
    told: [AtomicU64; 8],
}

impl Stage {
    fn new(parties: u32) -> Shared<Self> {
        Shared::new(Self {
            barrier: Barrier::new(parties).unwrap(),
            ready: Event::new(),
            counts: [const { AtomicU64::new(0) }; 8],
            died: [const { AtomicU64::new(0) }; 8],
            told: [const { AtomicU64::new(0) }; 8],
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }

    fn peers(&self, slot: u16, epoch: u16) -> Attested<'_> {
        Attested {
            me: ParticipantId::new(slot, epoch),
            stage: self,
        }
    }
}

/// The parent attests deaths, when it has reaped.
struct Attested<'a> {
    me: ParticipantId,
    stage: &'a Stage,
}

// SAFETY: dead is only whom the parent has reaped.
unsafe impl Peers for Attested<'_> {
    fn me(&self) -> ParticipantId {
        self.me
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        let died = self.stage.died.get(usize::from(participant.slot()));
        died.is_some_and(|epoch| epoch.load(Relaxed) >= participant.epoch().into())
    }
    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

fn dead(slot: u16, epoch: u16) -> Result<u32, BarrierError> {
    let dead = Some(ParticipantId::new(slot, epoch));
    Err(BarrierError::Broken { dead })
}

#[test]
fn processes_go_round_together() {
    const ROUNDS: u64 = 2_000;
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        let me: u16 = role.parse().unwrap();
        for round in 1..=ROUNDS {
            stage.counts[usize::from(me)].store(round, Relaxed);
            stage.barrier.wait_among(&stage.peers(me, 1), None).unwrap();
            for count in &stage.counts[1..=3] {
                // Nobody is more than the next step ahead, nobody behind.
                let count = count.load(Relaxed);
                assert!(count == round || count == round + 1, "{count} in {round}");
            }
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new(3);
    let run = |me: u16| {
        Child::run(
            "processes_go_round_together",
            &me.to_string(),
            &[stage.as_fd()],
        )
    };
    let mut children = [1, 2, 3].map(run);
    for child in &mut children {
        assert!(child.wait().success());
    }
}

/// Takes part in one round, and is killed before the next.
#[test]
fn a_party_that_is_killed_between_two_rounds_is_named() {
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        let me: u16 = role.parse().unwrap();
        let peers = stage.peers(me, 1);
        stage.barrier.wait_among(&peers, None).unwrap();
        if me == 3 {
            stage.ready.set();
            std::thread::sleep(Duration::from_secs(600));
        }
        assert_eq!(stage.barrier.wait_among(&peers, None), dead(3, 1));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new(4);
    let test = "a_party_that_is_killed_between_two_rounds_is_named";
    let run = |me: u16| Child::run(test, &me.to_string(), &[stage.as_fd()]);
    let (mut one, mut two, mut three) = (run(1), run(2), run(3));
    stage.barrier.wait().unwrap();
    stage.ready.wait().unwrap();
    three.kill();
    stage.died[3].store(1, Relaxed);
    // One that cannot tell by itself learns it, too.
    assert_eq!(stage.barrier.wait(), dead(3, 1));
    assert!(one.wait().success() && two.wait().success());
    assert!(stage.barrier.is_broken());
}

#[test]
fn a_party_that_is_stopped_is_waited_for() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let peers = stage.peers(3, 1);
        stage.barrier.enlist(&peers);
        stage.ready.set();
        std::thread::sleep(Duration::from_millis(50));
        stage.barrier.wait_among(&peers, None).unwrap();
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new(2);
    let test = "a_party_that_is_stopped_is_waited_for";
    let mut other = Child::run(test, "3", &[stage.as_fd()]);
    stage.ready.wait().unwrap();
    other.signal(19); // SIGSTOP
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| stage.barrier.wait_among(&stage.peers(1, 1), None));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiter.is_finished());
        other.signal(18); // SIGCONT
        waiter.join().unwrap().unwrap();
    });
    assert!(other.wait().success());
}

#[test]
fn a_party_that_is_killed_in_the_action_is_named() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let action = || {
            stage.ready.set();
            std::thread::sleep(Duration::from_secs(600));
        };
        let _ = stage
            .barrier
            .wait_among_with(&stage.peers(3, 1), action, None);
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new(2);
    let test = "a_party_that_is_killed_in_the_action_is_named";
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| stage.barrier.wait_among(&stage.peers(1, 1), None));
        while stage.barrier.waiting() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut runner = Child::run(test, "3", &[stage.as_fd()]);
        stage.ready.wait().unwrap();
        runner.kill();
        stage.died[3].store(1, Relaxed);
        assert_eq!(waiter.join().unwrap(), dead(3, 1));
    });
}

/// A storm: two steady parties, and a third that is killed at any moment, twenty times, and
/// replaced.
#[test]
fn a_party_that_is_killed_anywhere_is_named_and_replaced() {
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        let (slot, epoch) = role.split_once('.').unwrap();
        let (slot, epoch): (u16, u16) = (slot.parse().unwrap(), epoch.parse().unwrap());
        let peers = stage.peers(slot, epoch);
        stage.barrier.enlist(&peers);
        loop {
            match stage.barrier.wait_among(&peers, None) {
                Ok(_) => {
                    stage.counts[usize::from(slot)].fetch_add(1, Relaxed);
                }
                Err(BarrierError::Broken { dead: Some(dead) }) if dead.slot() == 3 => {
                    let epoch = u64::from(dead.epoch());
                    stage.told[usize::from(slot)].fetch_max(epoch, Relaxed);
                    // Until the parent has reset it.
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(BarrierError::Broken { dead: None }) => {} // the reset overtook it
                other => panic!("{other:?}"),
            }
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new(3);
    let test = "a_party_that_is_killed_anywhere_is_named_and_replaced";
    let run = |role: &str| Child::run(test, role, &[stage.as_fd()]);
    let _steady = [run("1.1"), run("2.1")];
    let until = |what: &dyn Fn() -> bool| {
        while !what() {
            std::thread::yield_now();
        }
    };
    for round in 1..=20_u64 {
        let mut victim = run(&format!("3.{round}"));
        let start = stage.counts[3].load(Relaxed);
        // Until all have moved, and then a moment that differs.
        until(&|| stage.counts[3].load(Relaxed) > start + 50);
        std::thread::sleep(Duration::from_micros(round * 37 % 500));
        victim.kill();
        stage.died[3].store(round, Relaxed);
        // Both steady ones learn who it was.
        until(&|| (1..=2).all(|slot| stage.told[slot].load(Relaxed) == round));
        assert!(stage.barrier.is_broken());
        stage.barrier.reset();
    }
}
