//! Waiting for any of several things between processes, of which some are killed anywhere.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::ShmSafe;
use multiprocess_shm::Shared;
use multiprocess_sync::{Doorbell, DoorbellFd, Event, Lock, Source, wait_any, wait_any_with};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::sandbox;
use multiprocess_testkit::watchdog::Watchdog;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const COUNT: usize = 100;
const LONG: Duration = Duration::from_secs(30);

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    lock: Lock,
    started: Event,
    bell: Doorbell,
    events: [Event; COUNT],
    rounds: AtomicU64,
}

impl Stage {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            lock: Lock::new(),
            started: Event::new(),
            bell: Doorbell::new(),
            events: [const { Event::new() }; COUNT],
            rounds: AtomicU64::new(0),
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }

    fn sources(&self) -> Vec<&dyn Source> {
        self.events.iter().map(|event| event as _).collect()
    }

    fn take(&self, index: usize) {
        self.events[index].clear();
        self.rounds.fetch_add(1, Relaxed);
    }
}

/// Sets one event after the other, and rings if that is what the waiter goes by.
fn set_for_ever(stage: &Stage, ring: impl Fn()) -> ! {
    for turn in 0.. {
        stage.events[turn * 37 % COUNT].set();
        ring();
        if turn % 64 == 0 {
            std::thread::yield_now();
        }
    }
    unreachable!()
}

/// Kills a setter at any moment, again and again, while `wait` sleeps and takes what is set. What
/// a victim has set, `wait` must find, though it may have been killed before it woke anybody.
fn storm(
    test: &str,
    wait: impl Fn(&Stage, &AtomicBool) + Sync,
    stage: &Shared<Stage>,
    fd: &impl AsFd,
) {
    let _watchdog = Watchdog::seconds(150);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(stage, &stop));
        for round in 0..40_u64 {
            let mut victim = Child::run(test, "setter", &[stage.as_fd(), fd.as_fd()]);
            let start = stage.rounds.load(Relaxed);
            while stage.rounds.load(Relaxed) < start + 50 {
                assert!(!waiter.is_finished(), "the waiter gave up");
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_micros(round * 37 % 500));
            victim.kill();
            let end = Instant::now() + LONG;
            while stage.events.iter().any(Event::is_set) {
                assert!(Instant::now() < end, "set, and nobody noticed");
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        stop.store(true, Relaxed);
        stage.events[0].set();
        stage.bell.ring();
    });
}

#[test]
fn what_a_killed_setter_has_set_is_noticed() {
    if child::role().is_some() {
        set_for_ever(&Stage::of_the_parent(), || ());
    }
    let stage = Stage::new();
    let wait = |stage: &Stage, stop: &AtomicBool| {
        while !stop.load(Relaxed) {
            stage.take(wait_any(&stage.sources(), LONG).expect("an event"));
        }
    };
    storm(
        "what_a_killed_setter_has_set_is_noticed",
        wait,
        &stage,
        &stage,
    );
}

#[test]
fn what_a_setter_that_was_killed_before_it_rang_has_set_is_noticed() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        set_for_ever(&stage, || stage.bell.ring());
    }
    let stage = Stage::new();
    let wait = |stage: &Stage, stop: &AtomicBool| {
        while !stop.load(Relaxed) {
            stage.take(wait_any_with(&stage.bell, &stage.sources(), LONG).expect("an event"));
        }
    };
    let test = "what_a_setter_that_was_killed_before_it_rang_has_set_is_noticed";
    storm(test, wait, &stage, &stage);
}

/// The poller brings its own bound: 100 ms.
#[test]
fn a_poller_with_a_timeout_notices_what_a_killed_setter_has_set() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let fd = child::fd(1).try_clone_to_owned().unwrap();
        let bell = DoorbellFd::from_parts(&stage.bell, fd);
        set_for_ever(&stage, || bell.ring().unwrap());
    }
    let stage = Stage::new();
    let bell = DoorbellFd::new(&stage.bell).unwrap();
    let bound = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let wait = |stage: &Stage, stop: &AtomicBool| {
        while !stop.load(Relaxed) {
            match bell.poll_any(&stage.sources()).unwrap() {
                Some(index) => stage.take(index),
                None => drop(poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&bound))),
            }
        }
    };
    let test = "a_poller_with_a_timeout_notices_what_a_killed_setter_has_set";
    storm(test, wait, &stage, &bell);
}

/// Waiters that sleep on a lock and an event are killed; whoever else wants the lock goes on.
#[test]
fn killed_waiters_block_nobody() {
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        stage.started.set();
        loop {
            let ready = wait_any(&[&stage.events[0], &stage.lock], None);
            assert_eq!(ready, Ok(1));
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new();
    let run = || Child::run("killed_waiters_block_nobody", "waiter", &[stage.as_fd()]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let guard = stage.lock.lock_timeout(LONG).expect("the lock");
                    stage.rounds.fetch_add(1, Relaxed);
                    drop(guard);
                }
            });
        }
        for round in 0..40_u64 {
            let mut victim = run();
            stage.started.wait_timeout(LONG).unwrap();
            stage.started.clear();
            std::thread::sleep(Duration::from_micros(round * 53 % 700));
            victim.kill();
            let start = stage.rounds.load(Relaxed);
            while stage.rounds.load(Relaxed) < start + 100 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Relaxed);
    });
}

/// As before Linux 5.16 (ENOSYS), and in some sandboxes (EPERM).
#[test]
fn without_futex_waitv_the_sources_are_slept_on_in_turn() {
    const FUTEX_WAITV: i64 = 449;
    if let Some(errno) = child::role() {
        sandbox::deny(FUTEX_WAITV, errno.parse().unwrap());
        let pair = [Event::new(), Event::new()];
        let timeout = Duration::from_millis(35);
        let start = Instant::now();
        wait_any(&[&pair[0], &pair[1]], timeout).unwrap_err();
        assert!(start.elapsed() >= timeout);
        for count in [1, 2, 10, 200] {
            let events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
            let sources: Vec<&dyn Source> = events.iter().map(|event| event as _).collect();
            for index in [0, count / 2, count - 1] {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(3));
                        events[index].set();
                    });
                    assert_eq!(wait_any(&sources, LONG), Ok(index));
                });
                events[index].clear();
            }
        }
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    for errno in [38, 1] {
        let test = "without_futex_waitv_the_sources_are_slept_on_in_turn";
        assert!(Child::run(test, &errno.to_string(), &[]).wait().success());
    }
}
