//! Semaphores between processes that were started apart, and that are killed anywhere.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::ShmSafe;
use multiprocess_shm::Shared;
use multiprocess_sync::{BoundedSemaphore, Event, Semaphore};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const SLOTS: u32 = 3;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    slots: BoundedSemaphore,
    jobs: Semaphore,
    start: Event,
    inside: AtomicU64,
    rounds: AtomicU64,
    waiting: AtomicU64,
}

impl Stage {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            slots: BoundedSemaphore::new(SLOTS).unwrap(),
            jobs: Semaphore::new(0).unwrap(),
            start: Event::new(),
            inside: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }
}

#[test]
fn no_more_processes_are_inside_than_there_are_permits() {
    const ROUNDS: u64 = 20_000;
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        stage.start.wait().unwrap();
        for _ in 0..ROUNDS {
            let _permit = stage.slots.permit(None).unwrap();
            assert!(stage.inside.fetch_add(1, Relaxed) < SLOTS.into());
            stage.rounds.fetch_add(1, Relaxed);
            stage.inside.fetch_sub(1, Relaxed);
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new();
    let test = "no_more_processes_are_inside_than_there_are_permits";
    let mut children: Vec<_> = (0..5)
        .map(|_| Child::run(test, "worker", &[stage.as_fd()]))
        .collect();
    stage.start.set();
    for child in &mut children {
        assert!(child.wait().success());
    }
    assert_eq!(stage.rounds.load(Relaxed), 5 * ROUNDS);
    assert_eq!(stage.slots.value(), SLOTS);
}

#[test]
fn a_permit_dies_with_its_holder_and_anyone_may_replace_it() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let _permit = stage.slots.permit(None).unwrap();
        stage.start.set();
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let test = "a_permit_dies_with_its_holder_and_anyone_may_replace_it";
    let mut holder = Child::run(test, "holder", &[stage.as_fd()]);
    stage.start.wait().unwrap();
    holder.kill();
    assert_eq!(stage.slots.value(), SLOTS - 1, "a semaphore has no owner");
    for _ in 1..SLOTS {
        stage.slots.acquire().unwrap();
    }
    // A waiter that sleeps for the lost permit is woken by whoever replaces it.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| stage.slots.acquire());
        std::thread::sleep(Duration::from_millis(20));
        stage.slots.release().unwrap();
        waiter.join().unwrap().unwrap();
    });
}

/// Four sleepers, of which two are killed just as permits come and wake them.
#[test]
fn waiters_that_are_killed_leave_their_permits_to_the_others() {
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        stage.waiting.fetch_add(1, Relaxed);
        stage.jobs.acquire().unwrap();
        if role == "survivor" {
            stage.rounds.fetch_add(1, Relaxed);
            return;
        }
        std::thread::sleep(Duration::from_secs(600)); // a victim has its permit
    }
    let _watchdog = Watchdog::seconds(120);
    let test = "waiters_that_are_killed_leave_their_permits_to_the_others";
    for round in 0..10_u64 {
        let stage = Stage::new();
        let run = |role: &str, sleepers: u64| {
            let two = [(); 2].map(|()| Child::run(test, role, &[stage.as_fd()]));
            while stage.waiting.load(Relaxed) < sleepers {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(5));
            two
        };
        // The kernel wakes who has slept the longest.
        let mut victims = run("victim", 2);
        let _survivors = run("survivor", 4);
        stage.jobs.release_many(2).unwrap();
        std::thread::sleep(Duration::from_micros(round * 10));
        for victim in &mut victims {
            victim.kill();
        }
        let survived = || stage.rounds.load(Relaxed);
        // What the victims were woken for and did not take, the survivors notice by themselves.
        while stage.jobs.value() > 0 && survived() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What they took is lost, and replaced.
        stage.jobs.release_many(2).unwrap();
        while survived() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(stage.jobs.value() <= 2);
    }
}
