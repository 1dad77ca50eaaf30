//! Torture of the primitives without an owner: what a semaphore counts, and whom a barrier misses,
//! while the processes that use them are killed and stopped at random moments. See `torture.rs`.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiprocess_core::ShmSafe;
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{Barrier, BarrierError, Event, Semaphore};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const WORKERS: usize = 3;
const PERMITS: u32 = 2;

/// What a worker says of itself.
const IDLE: u64 = 0;
const TRYING: u64 = 1;
const HOLDING: u64 = 2;
const RELEASING: u64 = 3;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    permits: Semaphore,
    barrier: Barrier,
    there: Event,
    states: [AtomicU64; WORKERS],
    rounds: AtomicU64,
    longest: AtomicU64,
}

impl Stage {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            permits: Semaphore::new(PERMITS).unwrap(),
            barrier: Barrier::new(WORKERS as u32).unwrap(),
            there: Event::new(),
            states: [const { AtomicU64::new(IDLE) }; WORKERS],
            rounds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }

    fn holding(&self) -> usize {
        let holds = |state: &&AtomicU64| state.load(SeqCst) == HOLDING;
        self.states.iter().filter(holds).count()
    }

    fn waited(&self, since: Instant) {
        self.longest
            .fetch_max(since.elapsed().as_micros() as u64, SeqCst);
        self.rounds.fetch_add(1, SeqCst);
    }

    fn until_rounds_have_passed(&self, count: u64) {
        let before = self.rounds.load(SeqCst);
        while self.rounds.load(SeqCst) < before + count {
            std::thread::yield_now();
        }
    }
}

fn kills() -> u64 {
    let wanted = std::env::var("TORTURE_KILLS").ok();
    wanted.map_or(60, |text| text.parse().expect("TORTURE_KILLS is a number"))
}

fn random() -> impl FnMut(u64) -> u64 {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    }
}

#[test]
fn semaphore_under_torture() {
    let test = "semaphore_under_torture";
    if let Some(role) = child::role() {
        let stage = Stage::of_the_parent();
        let mine = &stage.states[role.parse::<usize>().unwrap()];
        loop {
            let start = Instant::now();
            mine.store(TRYING, SeqCst);
            stage.permits.acquire().unwrap();
            mine.store(HOLDING, SeqCst);
            stage.waited(start);
            assert!(stage.holding() <= PERMITS as usize, "a permit was doubled");
            mine.store(RELEASING, SeqCst);
            stage.permits.release().unwrap();
            mine.store(IDLE, SeqCst);
        }
    }
    let kills = kills();
    let _watchdog = Watchdog::seconds(120 + kills / 10);
    let (stage, mut random) = (Stage::new(), random());
    let run = |index: usize| Child::run(test, &index.to_string(), &[stage.as_fd()]);
    let mut workers: Vec<Child> = (0..WORKERS).map(run).collect();
    // Gives back what a dead worker is known to have held; whether it may have held one more.
    let bury = |index: usize| {
        let state = stage.states[index].swap(IDLE, SeqCst);
        if state == HOLDING {
            stage.permits.release().unwrap();
        }
        u32::from(state == TRYING || state == RELEASING)
    };
    let (mut in_doubt, mut lost) = (0, 0);
    for kill in 0..kills {
        stage.until_rounds_have_passed(20);
        std::thread::sleep(Duration::from_micros(random(300)));
        let index = random(WORKERS as u64) as usize;
        if random(8) == 0 {
            workers[index].signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random(3000)));
            workers[index].signal(libc::SIGCONT);
            continue;
        }
        workers[index].kill();
        in_doubt += bury(index);
        if in_doubt >= PERMITS || kill + 1 == kills {
            // Everybody out: what is there must be exact, but for what was in doubt.
            for (index, worker) in workers.iter_mut().enumerate() {
                worker.kill();
                in_doubt += bury(index);
            }
            let there = stage.permits.value();
            assert!(
                there <= PERMITS,
                "kill {kill}: {there} permits of {PERMITS}"
            );
            assert!(
                there + in_doubt >= PERMITS,
                "kill {kill}: {there} and {in_doubt} in doubt"
            );
            lost += PERMITS - there;
            stage.permits.release_many(PERMITS - there).unwrap();
            in_doubt = 0;
            for (index, worker) in workers.iter_mut().enumerate() {
                *worker = run(index);
            }
        } else {
            workers[index] = run(index);
        }
    }
    println!(
        "Semaphore: {kills} kills and stops, {lost} permits lost in doubt, {} rounds, longest wait {} ms",
        stage.rounds.load(SeqCst),
        stage.longest.load(SeqCst) / 1000
    );
}

#[test]
fn barrier_under_torture() {
    let test = "barrier_under_torture";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let table = Participants::attach(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
        let peers = table.join().unwrap();
        stage.there.set();
        loop {
            let start = Instant::now();
            match stage.barrier.wait_among(&peers, None) {
                Ok(_) => stage.waited(start),
                Err(BarrierError::Broken { .. }) => std::thread::yield_now(), // until it is mended
                Err(error) => panic!("{error}"),
            }
        }
    }
    let kills = kills().div_ceil(3); // each costs an inner bound
    let _watchdog = Watchdog::seconds(120 + kills);
    let (stage, mut random) = (Stage::new(), random());
    let table = Participants::new(16).unwrap();
    let run = || {
        let worker = Child::run(test, "party", &[stage.as_fd(), table.as_fd()]);
        stage.there.wait().unwrap();
        stage.there.clear();
        worker
    };
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| run()).collect();
    for _ in 0..kills {
        stage.until_rounds_have_passed(20);
        std::thread::sleep(Duration::from_micros(random(300)));
        let index = random(WORKERS as u64) as usize;
        if random(8) == 0 {
            workers[index].signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(random(200)));
            assert!(!stage.barrier.is_broken(), "stopped is not dead");
            workers[index].signal(libc::SIGCONT);
            continue;
        }
        workers[index].kill();
        while !stage.barrier.is_broken() {
            std::thread::yield_now(); // the others find out, at their inner bound
        }
        workers[index] = run();
        stage.barrier.reset();
    }
    println!(
        "Barrier: {kills} kills and stops, {} rounds, longest wait {} ms",
        stage.rounds.load(SeqCst),
        stage.longest.load(SeqCst) / 1000
    );
}
