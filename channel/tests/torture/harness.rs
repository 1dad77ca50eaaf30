//! Who kills, who is killed, and what they note.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::Memory;
use multiprocess_shm::Mapping;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// Worker, number, and six words that follow from them.
pub(crate) type Message = [u64; 8];

/// Longer than detection takes, shorter than a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn message(worker: u64, number: u64) -> Message {
    let seed = (worker << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|i| match i {
        0 => worker,
        1 => number,
        _ => seed.rotate_left(i as u32),
    })
}

/// What everybody notes, in shared memory.
pub(crate) struct Ledger(Mapping);

/// The first word that is a case's own.
const OWN: u64 = 16;

impl Ledger {
    fn new(words: u64) -> Self {
        Self(Mapping::anonymous(c"ledger", (OWN + words) * 8).unwrap())
    }

    fn at(&self, index: u64) -> &AtomicU64 {
        let region = self.0.region();
        assert!((index as usize + 1) * 8 <= region.len());
        // SAFETY: inside the mapping, as checked, aligned, and accessed atomically by all.
        unsafe {
            region
                .base()
                .add(index as usize * 8)
                .cast::<AtomicU64>()
                .as_ref()
        }
    }

    /// A word of the case's own.
    pub(crate) fn word(&self, index: u64) -> &AtomicU64 {
        self.at(OWN + index)
    }

    /// Messages received, by all.
    pub(crate) fn received(&self) -> &AtomicU64 {
        self.at(0)
    }

    /// Not 0: who sends is to leave.
    pub(crate) fn is_over(&self) -> bool {
        self.at(1).load(Relaxed) != 0
    }
}

/// A process at work.
#[derive(Clone, Copy)]
pub(crate) struct Worker {
    /// Those that send come first.
    pub(crate) place: u64,
    /// No two have the same.
    pub(crate) number: u64,
}

/// A ring under torture.
pub(crate) trait Case: Sized {
    const SENDERS: u64;
    const RECEIVERS: u64;
    const PLACES: u64 = Self::SENDERS + Self::RECEIVERS;

    fn new() -> Self;
    /// Of its own in the ledger, for so many workers, one after the other.
    fn words(workers: u64) -> u64;
    /// What workers attach to.
    fn file(&self) -> BorrowedFd<'_>;
    /// A worker's life, until it is killed or all is over.
    fn work(file: OwnedFd, ledger: &Ledger, worker: Worker);
    /// Whether messages get through without these, dead or stopped.
    fn gets_on_without(victims: &[u64], are_dead: bool) -> bool;
    /// Who had this place is dead.
    fn bury(&mut self, _: &Ledger, _place: u64) {}
    /// Those that send have left. Judges the messages, and the ring; says what is to be reported.
    fn judge(&mut self, run: &mut Run<Self>) -> String;
}

/// The parent's books.
pub(crate) struct Run<C> {
    test: &'static str,
    pub(crate) ledger: Ledger,
    pub(crate) workers: Vec<Child>,
    /// How many there have been.
    pub(crate) started: u64,
    pub(crate) killed: u64,
    longest: Duration,
    case: std::marker::PhantomData<C>,
}

impl<C: Case> Run<C> {
    fn start(&mut self, case: &C, place: u64) -> Child {
        let role = format!("{place}.{}", self.started);
        self.started += 1;
        Child::run(self.test, &role, &[case.file(), self.ledger.0.as_fd()])
    }

    /// Until the living have received so many more messages.
    fn until_others_get_on(&mut self, more: u64) {
        let start = Instant::now();
        let before = self.ledger.received().load(Relaxed);
        while self.ledger.received().load(Relaxed) < before + more {
            assert!(start.elapsed() < PATIENCE, "nobody gets on");
            std::thread::yield_now();
        }
        self.longest = self.longest.max(start.elapsed());
    }

    pub(crate) fn kill(&mut self, case: &mut C, place: u64) {
        self.workers[place as usize].kill();
        case.bury(&self.ledger, place);
        self.killed += 1;
    }

    /// The workers at these places have found out that all is over.
    pub(crate) fn leave(&mut self, places: std::ops::Range<u64>) {
        for place in places {
            let ended = self.workers[place as usize].wait_timeout(PATIENCE);
            let ended = ended.unwrap_or_else(|| panic!("the worker at {place} does not leave"));
            assert!(ended.success(), "the worker at {place} objects");
        }
    }

    fn nobody_objects(&mut self) {
        for worker in &mut self.workers {
            let ended = worker.wait_timeout(Duration::ZERO);
            assert!(ended.is_none(), "a survivor objects: {ended:?}");
        }
    }
}

fn kills() -> u64 {
    let wanted = std::env::var("TORTURE_KILLS").ok();
    wanted.map_or(60, |text| text.parse().expect("TORTURE_KILLS is a number"))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// One worker, now and then several; of a side that has several, one stays.
    fn victims<C: Case>(&mut self) -> Vec<u64> {
        let first = self.below(C::PLACES);
        let count = [1, 1, 1, 2, 4][self.below(5) as usize].min(C::PLACES);
        let mut victims: Vec<u64> = (0..count)
            .map(|offset| (first + offset) % C::PLACES)
            .collect();
        for side in [0..C::SENDERS, C::SENDERS..C::PLACES] {
            let has_one = side.end - side.start == 1;
            if !has_one && side.clone().all(|place| victims.contains(&place)) {
                victims.retain(|place| *place != side.start);
            }
        }
        victims
    }
}

/// The test `test`, which is to call nothing else.
pub(crate) fn torture<C: Case>(test: &'static str) {
    let file = |index| child::fd(index).try_clone_to_owned().unwrap();
    if let Some(role) = child::role() {
        let (place, number) = role.split_once('.').unwrap();
        let worker = Worker {
            place: place.parse().unwrap(),
            number: number.parse().unwrap(),
        };
        let ledger = Ledger(Mapping::attach(file(1)).unwrap());
        return C::work(file(0), &ledger, worker);
    }
    let kills = kills();
    let _watchdog = Watchdog::seconds(120 + kills / 5);
    let mut case = C::new();
    // The last turn may have several victims.
    let workers = C::PLACES + kills + C::PLACES;
    let mut run = Run {
        test,
        ledger: Ledger::new(C::words(workers)),
        workers: Vec::new(),
        started: 0,
        killed: 0,
        longest: Duration::ZERO,
        case: std::marker::PhantomData,
    };
    for place in 0..C::PLACES {
        let worker = run.start(&case, place);
        run.workers.push(worker);
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut stopped = 0;
    while run.killed + stopped < kills {
        run.until_others_get_on(20);
        std::thread::sleep(Duration::from_micros(random.below(400)));
        let victims = random.victims::<C>();
        if random.below(4) == 0 {
            // Stopped is not dead.
            for &victim in &victims {
                run.workers[victim as usize].signal(libc::SIGSTOP);
            }
            match C::gets_on_without(&victims, false) {
                true => run.until_others_get_on(200),
                false => std::thread::sleep(Duration::from_micros(random.below(2000))),
            }
            for &victim in &victims {
                run.workers[victim as usize].signal(libc::SIGCONT);
            }
            stopped += victims.len() as u64;
        } else {
            for &victim in &victims {
                run.kill(&mut case, victim);
            }
            if C::gets_on_without(&victims, true) {
                run.until_others_get_on(200);
            }
            for &victim in &victims {
                run.workers[victim as usize] = run.start(&case, victim);
            }
        }
        run.nobody_objects();
    }
    let killed = run.killed;
    run.until_others_get_on(20);
    run.ledger.at(1).store(1, Relaxed);
    run.leave(0..C::SENDERS);
    let report = case.judge(&mut run);
    println!(
        "{test}: {killed} kills, {stopped} stops, {} messages, {report}, longest without progress {} ms",
        run.ledger.received().load(Relaxed),
        run.longest.as_millis(),
    );
}
