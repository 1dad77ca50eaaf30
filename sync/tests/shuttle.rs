//! Models of three threads and more, in schedules that are drawn at random: by [shuttle]. Run:
//! `.ci/shuttle`.
//!
//! loom's models go through all schedules of two or three threads with few preemptions, and know
//! the orderings; these take what is too large for that, and know sequential consistency alone. A
//! wake that is lost is a deadlock here, too: time stands still, unless a model lets a sleeper's
//! inner bound pass.
//!
//! Shown to fail (`.ci/mutants`): each primitive without its wake, or with one that is too small.
//!
//! [shuttle]: https://docs.rs/shuttle
#![cfg(shuttle)]

use std::mem::forget;

use multiprocess_core::model::expire_one;
use multiprocess_core::thread::{Caller, Thread};
use multiprocess_core::{ParticipantId, Peers};
use multiprocess_sync::{
    Barrier, BarrierError, Condition, LockError, Mutex, RawMutex, RwLock, Semaphore,
};
use multiprocess_testkit::watchdog::Watchdog;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use shuttle::thread::{self, JoinHandle, yield_now};
use shuttle::{Config, Runner};

/// Random schedules of each model, and as many by PCT.
const SCHEDULES: usize = 20_000;

/// The same ones each time; `SHUTTLE_SEED` draws others.
const SEED: u64 = 0x5eed;

/// Steps whose order a fault may need, for PCT to be likely to meet it.
const DEPTH: usize = 4;

fn check(model: fn()) {
    check_times(1, model);
}

/// For a fault that shows in few schedules: `times` as many.
fn check_times(times: usize, model: fn()) {
    fn run(scheduler: impl Scheduler + 'static, model: fn()) {
        let mut config = Config::new();
        config.stack_size = 0x1_0000;
        config.silence_warnings = true; // every ordering is SeqCst: known
        Runner::new(scheduler, config).run(model);
    }
    let _watchdog = Watchdog::seconds(300);
    let seed = std::env::var("SHUTTLE_SEED").ok();
    let seed = seed.map_or(SEED, |seed| seed.parse().expect("a number"));
    let schedules = times * SCHEDULES;
    run(RandomScheduler::new_from_seed(seed, schedules), model);
    run(PctScheduler::new_from_seed(seed, DEPTH, schedules), model);
}

/// Each model's own threads have numbers of their own.
fn as_thread<R>(id: u32, f: impl FnOnce(Caller<'_>) -> R) -> R {
    let thread = Thread::model(id);
    f(Caller::new(&thread))
}

/// Starts `f` on a shared state.
fn start<S, R>(shared: &Arc<S>, f: impl FnOnce(&S) -> R + Send + 'static) -> JoinHandle<R>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
{
    let shared = Arc::clone(shared);
    thread::spawn(move || f(&shared))
}

fn all_joined<const N: usize>(threads: [JoinHandle<()>; N]) {
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// Lets the inner bound of one sleeper pass after another, until `is_over`.
fn let_bounds_pass(is_over: impl Fn() -> bool) {
    while !is_over() {
        expire_one();
        yield_now();
    }
}

// RawMutex

struct Contended {
    mutex: RawMutex,
    inside: AtomicBool,
    /// The thread that has died, for the kernel to see.
    died: AtomicU32,
    deaths: AtomicU32,
}

impl Contended {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mutex: RawMutex::new(),
            inside: AtomicBool::new(false),
            died: AtomicU32::new(0),
            deaths: AtomicU32::new(0),
        })
    }

    fn acquire(&self, me: &Caller<'_>) {
        match self.mutex.acquire(me, None) {
            Ok(()) => {}
            Err(LockError::OwnerDied(())) => {
                self.deaths.fetch_add(1, SeqCst);
                self.mutex.mark_consistent(me).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        assert!(!self.inside.swap(true, SeqCst), "two are inside");
    }

    fn pass(&self, id: u32) {
        as_thread(id, |me| {
            self.acquire(&me);
            self.inside.store(false, SeqCst);
            self.mutex.release(&me).unwrap();
        });
    }

    /// Takes it and is not heard of again.
    fn die(&self, id: u32) {
        as_thread(id, |me| self.acquire(&me));
        self.inside.store(false, SeqCst);
        self.died.store(id, SeqCst);
    }

    /// Marks the words of the thread that has died, whenever that is.
    fn be_the_kernel(&self) {
        while self.died.load(SeqCst) == 0 {
            yield_now();
        }
        self.mutex.kernel_ends(self.died.load(SeqCst));
    }
}

#[test]
fn three_contend_for_a_mutex() {
    check(|| {
        let shared = Contended::new();
        let threads = [2, 3].map(|id| {
            start(&shared, move |shared| {
                shared.pass(id);
                shared.pass(id);
            })
        });
        shared.pass(1);
        all_joined(threads);
        shared.pass(1);
        assert_eq!(shared.deaths.load(SeqCst), 0);
    });
}

#[test]
fn three_contend_and_one_dies_with_it() {
    check(|| {
        let shared = Contended::new();
        let threads = [
            start(&shared, Contended::be_the_kernel),
            start(&shared, |shared| shared.die(2)),
            start(&shared, |shared| shared.pass(3)),
            start(&shared, |shared| shared.pass(4)),
        ];
        all_joined(threads);
        shared.pass(1);
        assert_eq!(shared.deaths.load(SeqCst), 1, "told to one, and once");
    });
}

// RwLock

/// Written in two steps, which only a death leaves unequal.
#[derive(Default)]
struct Halves([AtomicU32; 2]);

struct Table {
    lock: RwLock<Halves, 2>,
    readers_done: AtomicU32,
}

impl Table {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: RwLock::new(Halves::default()),
            readers_done: AtomicU32::new(0),
        })
    }

    /// What was read, unless a writer has died.
    fn read(&self, id: u32) -> Option<u32> {
        let read = as_thread(id, |me| match self.lock.read_as(me, None) {
            Ok(halves) => {
                let [first, second] = [0, 1].map(|i| halves.0[i].load(SeqCst));
                assert_eq!(first, second, "it reads while somebody writes");
                Some(first)
            }
            Err(LockError::WriterDied) => None,
            Err(error) => panic!("{error}"),
        });
        self.readers_done.fetch_add(1, SeqCst);
        read
    }

    /// Whether a writer had died; repairs what that one left.
    fn write(&self, id: u32) -> bool {
        as_thread(id, |me| {
            let (halves, died) = match self.lock.write_as(me, None) {
                Ok(halves) => (halves, false),
                Err(LockError::OwnerDied(mut halves)) => {
                    halves.mark_consistent();
                    (halves, true)
                }
                Err(error) => panic!("{error}"),
            };
            let next = halves.0[0].load(SeqCst) + 1;
            halves.0.iter().for_each(|half| half.store(next, SeqCst));
            died
        })
    }
}

#[test]
fn two_read_and_two_write() {
    check(|| {
        let table = Table::new();
        let readers = [2, 3].map(|id| start(&table, move |table| table.read(id)));
        let writer = start(&table, |table| table.write(4));
        assert!(!table.write(1));
        assert!(!writer.join().unwrap());
        for reader in readers {
            assert!(reader.join().unwrap() <= Some(2));
        }
        assert_eq!(table.read(1), Some(2));
    });
}

#[test]
fn a_writer_gets_past_a_reader_that_dies() {
    check(|| {
        let table = Table::new();
        let dying = start(&table, |table| {
            as_thread(2, |me| forget(table.lock.read_as(me, None)));
            table.lock.kernel_ends(2);
        });
        let reader = start(&table, |table| table.read(3));
        let writer = start(&table, |table| table.write(4));
        assert!(!writer.join().unwrap(), "a reader's death is none to tell");
        reader.join().unwrap().expect("and not to readers");
        dying.join().unwrap();
        assert_eq!(table.read(1), Some(1));
    });
}

#[test]
fn readers_are_told_that_the_writer_died() {
    check(|| {
        let table = Table::new();
        let readers = [2, 3].map(|id| start(&table, move |table| table.read(id)));
        let dying = start(&table, |table| {
            as_thread(4, |me| {
                let halves = table.lock.write_as(me, None).unwrap();
                halves.0[0].store(7, SeqCst);
                forget(halves);
            });
            table.lock.kernel_ends(4);
        });
        // The kernel wakes who waits for the lock, and knows nothing of the gate.
        let_bounds_pass(|| table.readers_done.load(SeqCst) == 2);
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(0)));
        }
        dying.join().unwrap();
        assert_eq!(table.read(1), None);
        assert!(table.write(1), "the next writer is told");
        assert_eq!(table.read(1), Some(8));
    });
}

// Condition

struct Tokens {
    count: Mutex<u32>,
    more: Condition,
}

impl Tokens {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            count: Mutex::new(0),
            more: Condition::new(),
        })
    }

    fn take(&self, id: u32) {
        as_thread(id, |me| {
            let guard = self.count.lock_as(me, None).unwrap();
            let (mut guard, there) = self
                .more
                .wait_for(guard, None, |count| **count > 0)
                .unwrap();
            assert!(there);
            *guard -= 1;
        });
    }

    fn put(&self, id: u32, count: u32) {
        as_thread(id, |me| *self.count.lock_as(me, None).unwrap() += count);
    }
}

#[test]
fn three_wait_for_one_notification_and_for_one_to_all() {
    check(|| {
        let tokens = Tokens::new();
        let waiters = [2, 3, 4].map(|id| start(&tokens, move |tokens| tokens.take(id)));
        let one = start(&tokens, |tokens| {
            tokens.put(5, 1);
            tokens.more.notify(1);
        });
        tokens.put(1, 2);
        tokens.more.notify_all();
        one.join().unwrap();
        all_joined(waiters);
        as_thread(1, |me| {
            assert_eq!(*tokens.count.lock_as(me, None).unwrap(), 0)
        });
    });
}

// Barrier

/// One of three participants; number 3 may be dead.
struct Party<'a> {
    number: u16,
    is_dead: &'a AtomicBool,
}

const THIRD: ParticipantId = ParticipantId::new(3, 1);

// SAFETY: nothing is given to others on this word, and it is true of the model.
unsafe impl Peers for Party<'_> {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.number, 1)
    }

    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant == THIRD && self.is_dead.load(SeqCst)
    }

    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

struct Meeting {
    barrier: Barrier,
    third_is_dead: AtomicBool,
    /// Rounds that the first and the second have behind them, together.
    rounds: AtomicU32,
}

type Passed = Result<u32, BarrierError>;

impl Meeting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            barrier: Barrier::new(3).unwrap(),
            third_is_dead: AtomicBool::new(false),
            rounds: AtomicU32::new(0),
        })
    }

    fn wait(&self, number: u16) -> Passed {
        let party = Party {
            number,
            is_dead: &self.third_is_dead,
        };
        self.barrier.wait_among(&party, None)
    }

    fn twice(&self, number: u16) -> [Passed; 2] {
        [(); 2].map(|()| {
            let passed = self.wait(number);
            self.rounds.fetch_add(1, SeqCst);
            passed
        })
    }

    /// Comes to one round, and to no other.
    fn once(&self) -> Passed {
        let passed = self.wait(3);
        self.third_is_dead.store(true, SeqCst);
        passed
    }
}

/// All pass, one after the other, or none does.
fn agree<const N: usize>(mut all: [Passed; N]) -> bool {
    let passed = all.iter().filter(|one| one.is_ok()).count();
    assert!(passed == 0 || passed == N, "{all:?}");
    all.sort_by_key(|one| one.unwrap_or(0));
    let order = all.iter().enumerate();
    assert!(
        passed == 0 || order.into_iter().all(|(i, one)| *one == Ok(i as u32)),
        "{all:?}"
    );
    passed == N
}

#[test]
fn three_meet_twice() {
    check(|| {
        let meeting = Meeting::new();
        let others = [2, 3].map(|number| start(&meeting, move |meeting| meeting.twice(number)));
        let mine = meeting.twice(1);
        let [second, third] = others.map(|other| other.join().unwrap());
        assert!(agree([mine[0], second[0], third[0]]));
        assert!(agree([mine[1], second[1], third[1]]));
    });
}

#[test]
fn three_meet_and_one_aborts() {
    check(|| {
        let meeting = Meeting::new();
        let others = [2, 3].map(|number| start(&meeting, move |meeting| meeting.twice(number)));
        let aborting = start(&meeting, |meeting| meeting.barrier.abort());
        let mine = meeting.twice(1);
        let [second, third] = others.map(|other| other.join().unwrap());
        aborting.join().unwrap();
        let first_round = agree([mine[0], second[0], third[0]]);
        let second_round = agree([mine[1], second[1], third[1]]);
        assert!(first_round || !second_round, "what is broken stays broken");
        assert_eq!(meeting.wait(1), Err(BarrierError::Broken { dead: None }));
    });
}

#[test]
fn two_learn_that_the_third_is_dead() {
    check(|| {
        let meeting = Meeting::new();
        let third = start(&meeting, Meeting::once);
        let others = [1, 2].map(|number| start(&meeting, move |meeting| meeting.twice(number)));
        // In the second round the inner bound of one of them: the other one has to be woken.
        while meeting.rounds.load(SeqCst) < 2 || !meeting.third_is_dead.load(SeqCst) {
            yield_now();
        }
        while expire_one() == 0 {
            yield_now();
        }
        let [first, second] = others.map(|other| other.join().unwrap());
        assert!(agree([first[0], second[0], third.join().unwrap()]));
        let dead = Err(BarrierError::Broken { dead: Some(THIRD) });
        assert_eq!([first[1], second[1]], [dead; 2]);
    });
}

#[test]
fn a_death_and_an_abort_break_it_for_all() {
    check(|| {
        let meeting = Meeting::new();
        let third = start(&meeting, Meeting::once);
        let others = [1, 2].map(|number| start(&meeting, move |meeting| meeting.twice(number)));
        let aborting = start(&meeting, |meeting| meeting.barrier.abort());
        let_bounds_pass(|| meeting.rounds.load(SeqCst) == 4);
        let [first, second] = others.map(|other| other.join().unwrap());
        aborting.join().unwrap();
        agree([first[0], second[0], third.join().unwrap()]);
        assert!(!agree([first[1], second[1]]));
    });
}

// Semaphore

#[test]
fn four_take_what_four_give() {
    check_times(10, || {
        let permits = Arc::new(Semaphore::new(0).unwrap());
        let takers = [(); 4].map(|()| start(&permits, |permits| permits.acquire().unwrap()));
        let givers = [(); 3].map(|()| start(&permits, |permits| permits.release().unwrap()));
        permits.release().unwrap();
        all_joined(givers);
        all_joined(takers);
        assert_eq!(permits.value(), 0);
    });
}
