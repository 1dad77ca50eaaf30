//! Locks and events between processes that were started apart, and that are killed anywhere.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{ParticipantId, ShmSafe, Timeout};
use multiprocess_shm::Shared;
use multiprocess_sync::{Event, Lock, LockError};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    lock: Lock,
    event: Event,
    back: Event,
    /// Changed together under `lock`.
    left: AtomicU64,
    right: AtomicU64,
    inside: AtomicU64,
    rounds: AtomicU64,
}

impl Stage {
    fn new() -> Shared<Self> {
        // All zeroes: unlocked, not set, nothing counted.
        Shared::new(Self {
            lock: Lock::new(),
            event: Event::new(),
            back: Event::new(),
            left: AtomicU64::new(0),
            right: AtomicU64::new(0),
            inside: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }

    /// One critical section; `false` if somebody else was inside, too.
    fn enter(&self, who: u64) -> bool {
        let alone = self.inside.swap(who, Relaxed) == 0;
        // Not atomic on purpose: only the lock makes these two sums.
        self.left.store(self.left.load(Relaxed) + 1, Relaxed);
        self.right.store(self.right.load(Relaxed) + 1, Relaxed);
        self.inside.swap(0, Relaxed) == who && alone
    }
}

const ROUNDS: u64 = 20_000;

#[test]
fn processes_exclude_each_other() {
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        stage.event.wait().unwrap();
        for _ in 0..ROUNDS {
            let _guard = stage.lock.lock().unwrap();
            assert!(stage.enter(role.parse().unwrap()), "two were inside");
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new();
    let run = |number: u64| {
        let role = number.to_string();
        Child::run("processes_exclude_each_other", &role, &[stage.as_fd()])
    };
    let mut children: Vec<_> = (1..=4).map(run).collect();
    stage.event.set();
    for child in &mut children {
        assert!(child.wait().success());
    }
    assert_eq!(stage.left.load(Relaxed), 4 * ROUNDS);
    assert_eq!(stage.right.load(Relaxed), 4 * ROUNDS);
    assert!(!stage.lock.is_locked());
}

#[test]
fn a_holder_that_is_killed_is_found_out_and_the_lock_goes_on() {
    let victim = ParticipantId::new(7, 1);
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let _guard = stage.lock.lock_as(victim, Timeout::Never).unwrap();
        stage.event.set();
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let test = "a_holder_that_is_killed_is_found_out_and_the_lock_goes_on";
    let mut holder = Child::run(test, "holder", &[stage.as_fd()]);
    stage.event.wait().unwrap();
    let refused = stage.lock.lock_timeout(Duration::from_millis(20));
    assert!(matches!(refused, Err(LockError::Timeout)), "{refused:?}");
    holder.kill();
    assert_eq!(stage.lock.holder(), Some(victim));
    // A waiter that sleeps behind the dead one is woken by the recovery.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| stage.lock.lock().map(drop).map_err(|error| error.map(drop)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(
            !stage.lock.release_dead(ParticipantId::new(7, 2)),
            "another generation"
        );
        assert!(stage.lock.release_dead(victim));
        assert!(!stage.lock.release_dead(victim), "only once");
        waiter.join().unwrap().unwrap();
    });
}

/// A storm: three contenders, one of which is killed at any moment, fifty times.
#[test]
fn contenders_that_are_killed_anywhere_harm_nobody() {
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        let number: u16 = role.parse().unwrap();
        let me = ParticipantId::new(number, 1);
        loop {
            let guard = stage.lock.lock_as(me, Timeout::Never).unwrap();
            stage.inside.store(u64::from(number), Relaxed);
            stage.left.store(stage.left.load(Relaxed) + 1, Relaxed);
            stage.right.store(stage.right.load(Relaxed) + 1, Relaxed);
            drop(guard);
            stage.rounds.fetch_add(1, Relaxed);
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new();
    let test = "contenders_that_are_killed_anywhere_harm_nobody";
    let run = |number: u16| Child::run(test, &number.to_string(), &[stage.as_fd()]);
    let _steady = [run(1), run(2)];
    for round in 0..50_u64 {
        let mut victim = run(3);
        let start = stage.rounds.load(Relaxed);
        // Until all have moved, and then a moment that differs.
        while stage.rounds.load(Relaxed) < start + 100 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(round * 37 % 500));
        victim.kill();
        let dead = ParticipantId::new(3, 1);
        if stage.lock.holder() == Some(dead) {
            // Ours by right of recovery: what it guards is made whole before it is let go.
            stage.right.store(stage.left.load(Relaxed), Relaxed);
            assert!(stage.lock.release_dead(dead));
        }
        let _guard = stage.lock.lock_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(stage.left.load(Relaxed), stage.right.load(Relaxed));
    }
}

#[test]
fn an_event_crosses_processes_and_a_stopped_waiter_misses_no_pulse() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        stage.back.set();
        stage.event.wait().unwrap();
        stage.rounds.fetch_add(1, Relaxed);
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let test = "an_event_crosses_processes_and_a_stopped_waiter_misses_no_pulse";
    let mut waiter = Child::run(test, "waiter", &[stage.as_fd()]);
    stage.back.wait().unwrap();
    // It sleeps, or soon will; either way it has begun or begins to wait before the pulse.
    std::thread::sleep(Duration::from_millis(100));
    waiter.signal(19); // SIGSTOP
    stage.event.set();
    stage.event.clear();
    waiter.signal(18); // SIGCONT
    assert!(waiter.wait().success());
    assert_eq!(stage.rounds.load(Relaxed), 1);
}
