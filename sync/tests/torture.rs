//! Torture: processes that hammer a primitive, while one of them after the other is killed or
//! stopped at a random moment. Every kill is judged exactly: the victim is stopped first, so that
//! it is known whether it held the lock.
//!
//! A few hundred kills in an ordinary test run; for the real thing
//!
//! ```text
//! TORTURE_KILLS=20000 cargo test --release -p multiprocess-sync --test torture -- --nocapture --test-threads=1
//! ```
//!
//! prints, for each primitive, kills, how many held, and the longest wait of a survivor.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::{Peers, ShmSafe};
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{Condition, Lock, LockError, Mutex, RLock, RwLock};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const WORKERS: usize = 3;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    mutex: Mutex<[u64; 2]>,
    recursive: RLock,
    table: RwLock<[u64; 2], 4>,
    lock: Lock,
    condition: Condition,
    /// Two words that only a death inside may leave unequal, and who is inside.
    pair: [AtomicU64; 2],
    inside: AtomicU64,
    /// Rounds of all workers, and the longest wait of any, in microseconds.
    rounds: AtomicU64,
    longest: AtomicU64,
}

impl Stage {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            mutex: Mutex::new([0; 2]),
            recursive: RLock::new(),
            table: RwLock::new([0; 2]),
            lock: Lock::new(),
            condition: Condition::new(),
            pair: [const { AtomicU64::new(0) }; 2],
            inside: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        })
        .unwrap()
    }

    /// A critical section of a lock that holds no data; `died`: the last owner did, inside or not.
    fn critical_section(&self, me: u64, died: bool) {
        let [first, second] = &self.pair;
        if died {
            second.store(first.load(Relaxed), Relaxed);
            self.inside.store(0, Relaxed);
        }
        assert_eq!(self.inside.swap(me, Relaxed), 0, "two are inside");
        assert_eq!(
            first.load(Relaxed),
            second.load(Relaxed),
            "a death was missed"
        );
        first.store(first.load(Relaxed) + 1, Relaxed);
        second.store(second.load(Relaxed) + 1, Relaxed);
        assert_eq!(self.inside.swap(0, Relaxed), me, "two are inside");
    }

    fn waited(&self, since: Instant) {
        let micros = since.elapsed().as_micros() as u64;
        self.longest.fetch_max(micros, Relaxed);
        self.rounds.fetch_add(1, Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Mutex,
    RLock,
    RwLock,
    /// Participants tell of deaths.
    Lock,
    Condition,
}

impl What {
    /// What the lock says of itself: the thread that holds it, and how many have died with it. For
    /// those whose owner's death the kernel tells.
    fn facts(self, stage: &Stage) -> Option<(String, u64)> {
        let text = match self {
            What::Mutex | What::Condition => format!("{:?}", stage.mutex),
            What::RLock => format!("{:?}", stage.recursive),
            What::RwLock => format!("{:?}", stage.table),
            What::Lock => return None,
        };
        let field = |name: &str| {
            let rest = text.split(name).nth(1).unwrap();
            rest.split([',', ' ']).next().unwrap().to_owned()
        };
        Some((field("thread: "), field("deaths: ").parse().unwrap()))
    }

    /// One round of a worker, or of the judge; whether it found a death.
    fn round(self, stage: &Stage, peers: &dyn Peers, me: u64, round: u64) -> bool {
        let start = Instant::now();
        match self {
            What::Mutex => {
                let (mut both, died) = owned(stage.mutex.lock());
                stage.waited(start);
                if died {
                    both[1] = both[0];
                    both.mark_consistent();
                }
                assert_eq!(both[0], both[1], "a death was missed");
                both[0] += 1;
                both[1] += 1;
                died
            }
            What::RLock => {
                let (mut outer, died) = owned(stage.recursive.lock());
                stage.waited(start);
                let _inner = stage.recursive.lock().unwrap();
                stage.critical_section(me, died);
                outer.mark_consistent();
                died
            }
            What::RwLock if !round.is_multiple_of(4) => {
                match stage.table.read() {
                    Ok(both) => assert_eq!(both[0], both[1], "a death was missed"),
                    Err(LockError::WriterDied) => {}
                    Err(error) => panic!("{error}"),
                }
                stage.waited(start);
                false
            }
            What::RwLock => {
                let (mut both, died) = owned(stage.table.write());
                stage.waited(start);
                if died {
                    both[1] = both[0];
                    both.mark_consistent();
                }
                assert_eq!(both[0], both[1], "a death was missed");
                both[0] += 1;
                both[1] += 1;
                died
            }
            What::Lock => {
                let (_guard, died) = owned(stage.lock.lock_among(peers, None));
                stage.waited(start);
                stage.critical_section(me, died);
                died
            }
            What::Condition => {
                // Everybody passes a token on to everybody else.
                let (mut guard, died) = owned(stage.mutex.lock());
                if died {
                    guard.mark_consistent();
                }
                guard[0] += 1;
                let seen = guard[0];
                stage.condition.notify(1);
                let timeout = Duration::from_millis(20);
                match stage
                    .condition
                    .wait_for(guard, timeout, |both| both[0] != seen)
                {
                    Ok(_) => {}
                    Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
                    Err(error) => panic!("{error}"),
                }
                stage.waited(start);
                died
            }
        }
    }
}

fn owned<G>(taken: Result<G, LockError<G>>) -> (G, bool) {
    match taken {
        Ok(guard) => (guard, false),
        Err(LockError::OwnerDied(guard)) => (guard, true),
        Err(error) => panic!("{error}"),
    }
}

fn kills() -> u64 {
    let wanted = std::env::var("TORTURE_KILLS").ok();
    wanted.map_or(150, |text| text.parse().expect("TORTURE_KILLS is a number"))
}

fn torture(test: &str, what: What) {
    if let Some(role) = child::role() {
        let stage: Shared<Stage> =
            Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
        let table = Participants::attach(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
        let peers = table.join().unwrap();
        let me = role.parse().unwrap();
        for round in 0.. {
            what.round(&stage, &peers, me, round);
        }
        return;
    }
    let kills = kills();
    let _watchdog = Watchdog::seconds(120 + kills / 10);
    let (stage, table) = (Stage::new(), Participants::new(16).unwrap());
    let judge = table.join().unwrap();
    let mut number = 1;
    let mut run = || {
        number += 1;
        Child::run(test, &number.to_string(), &[stage.as_fd(), table.as_fd()])
    };
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| run()).collect();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut held_at_death = 0;
    for kill in 0..kills {
        // Until somebody has moved, and then a moment that differs.
        let before = stage.rounds.load(Relaxed);
        while stage.rounds.load(Relaxed) < before + 20 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(random(300)));
        let index = random(WORKERS as u64) as usize;
        let victim = &mut workers[index];
        stop(victim);
        if random(8) == 0 {
            // Stopped is not dead: the others wait for it if it is inside, and nobody inherits.
            std::thread::sleep(Duration::from_micros(random(3000)));
            victim.signal(libc::SIGCONT);
            continue;
        }
        let before = what.facts(&stage);
        let pid = victim.pid();
        let held = before.is_some_and(|(thread, _)| is_thread_of(&thread, pid));
        let told = what.facts(&stage).map(|(_, deaths)| deaths);
        victim.kill();
        if let Some(told) = told {
            // Whoever has the lock next was told, or nobody is.
            take_once(&stage, what);
            let deaths = what.facts(&stage).map_or(0, |(_, deaths)| deaths);
            assert_eq!(deaths - told, u64::from(held), "kill {kill}: held {held}");
            held_at_death += u64::from(held);
        } else {
            held_at_death += u64::from(what.round(&stage, &judge, 1, 0));
        }
        workers[index] = run();
        for worker in &mut workers {
            let ended = worker.wait_timeout(Duration::ZERO);
            assert!(
                ended.is_none(),
                "kill {kill}: a survivor objects: {ended:?}"
            );
        }
    }
    println!(
        "{what:?}: {kills} kills and stops, {held_at_death} deaths told, {} rounds, longest wait {} ms",
        stage.rounds.load(Relaxed),
        stage.longest.load(Relaxed) / 1000
    );
}

/// Stops a process, and waits until it stands still.
fn stop(child: &Child) {
    child.signal(libc::SIGSTOP);
    let stat = format!("/proc/{}/stat", child.pid());
    // SAFETY: reads the status of a child of ours into a local; leaves it to be waited for.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        libc::waitid(libc::P_PID, child.pid() as u32, &mut info, flags);
    }
    assert!(std::fs::metadata(stat).is_ok());
}

/// Whether `thread` is one of process `pid`, which stands still.
fn is_thread_of(thread: &str, pid: i32) -> bool {
    thread != "0" && std::path::Path::new(&format!("/proc/{pid}/task/{thread}")).exists()
}

/// Has the lock once, without counting a death that somebody else was told of.
fn take_once(stage: &Stage, what: What) {
    match what {
        What::RLock => {
            let (mut guard, died) = owned(stage.recursive.lock());
            if died {
                let [first, second] = &stage.pair;
                second.store(first.load(Relaxed), Relaxed);
                stage.inside.store(0, Relaxed);
                guard.mark_consistent();
            }
        }
        What::RwLock => {
            let (mut both, died) = owned(stage.table.write());
            if died {
                both[1] = both[0];
                both.mark_consistent();
            }
        }
        _ => {
            let (mut both, died) = owned(stage.mutex.lock());
            if died {
                both[1] = both[0];
                both.mark_consistent();
            }
        }
    }
}

macro_rules! tortures {
    ($($name:ident: $what:ident;)*) => {$(
        #[test]
        fn $name() {
            torture(stringify!($name), What::$what);
        }
    )*};
}

tortures! {
    mutex_under_torture: Mutex;
    rlock_under_torture: RLock;
    rwlock_under_torture: RwLock;
    lock_among_participants_under_torture: Lock;
    condition_under_torture: Condition;
}
