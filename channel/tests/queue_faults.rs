//! Faults of `mpmc` and of the queues that a review has found; each test is named after what must not come
//! back.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use multiprocess_channel::TryRecvError;
use multiprocess_channel::mpmc::{self, Config, Receiver};
use multiprocess_channel::queue::{GetError, JoinableQueue, PutFailure, Queue, QueueConfig};
use multiprocess_core::Memory;
use multiprocess_core::atomic::AtomicU64;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use serde::{Deserialize, Deserializer};

const MOMENT: Duration = Duration::from_millis(30);

#[test]
fn a_job_that_puts_another_one_before_it_is_done_keeps_join_waiting() {
    let _watchdog = Watchdog::seconds(120);
    const JOBS: u64 = 200_000;
    let config = Config::new(4).endpoints(3).joinable();
    let (mut sender, mut receiver) = mpmc::channel_with::<u64>(&config).unwrap();
    let joiner = sender.try_clone().unwrap();
    let is_last = AtomicBool::new(false);
    sender.send(0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for job in 1..=JOBS {
                let taken = receiver.take().unwrap();
                match job {
                    JOBS => is_last.store(true, SeqCst),
                    _ => sender.send(job).unwrap(),
                }
                taken.release();
            }
        });
        assert_eq!(joiner.join(None), Ok(()));
        assert!(is_last.load(SeqCst), "a job was there all the time");
    });
}

#[test]
fn a_message_forgotten_in_hand_comes_again_when_its_receiver_goes() {
    let config = Config::new(8).endpoints(4);
    let (mut sender, mut first) = mpmc::channel_with::<u64>(&config).unwrap();
    let mut second = first.try_clone().unwrap();
    sender.send(1).unwrap();
    std::mem::forget(first.take().unwrap());
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
    drop(first);
    assert_eq!(second.try_recv(), Ok(1));
}

#[test]
fn a_head_that_a_peer_made_up_is_told() {
    let (mut sender, receiver) = mpmc::channel::<u64>(8).unwrap();
    sender.send(1).unwrap();
    let home = receiver.memory().clone();
    // SAFETY: the hint of the head, by channel/README.md; accessed atomically by all.
    let head = unsafe { home.region().base().add(0x100).cast::<AtomicU64>().as_ref() };
    head.store(1 << 40, SeqCst);
    let mut newcomer = Receiver::<u64>::attach(home.clone(), home).unwrap();
    assert_eq!(newcomer.try_recv(), Err(TryRecvError::Corrupt));
}

#[test]
fn a_queue_is_closed_though_all_its_places_are_taken() {
    let _watchdog = Watchdog::seconds(60);
    let queue = Queue::<u32>::with(&QueueConfig::new(4).endpoints(2)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert!(matches!(queue.get(), Err(GetError::Closed))));
        }
        while queue.statistics().endpoints < 2 {
            std::thread::yield_now();
        }
        queue.close();
        assert!(queue.is_closed());
    });
}

fn large() -> Queue<Vec<u8>> {
    Queue::with(&QueueConfig::new(8).large(1 << 20)).unwrap()
}

#[test]
fn a_putter_that_waits_for_memory_hears_of_the_close() {
    let _watchdog = Watchdog::seconds(60);
    let queue = large();
    queue.put(vec![1; 700_000]).unwrap();
    std::thread::scope(|scope| {
        let putter = scope.spawn(|| queue.put(vec![2; 700_000]));
        std::thread::sleep(MOMENT);
        queue.close();
        let refused = putter.join().unwrap().unwrap_err();
        assert!(matches!(refused.reason, PutFailure::Closed), "{refused}");
    });
}

#[test]
fn a_putter_that_waits_for_memory_gets_that_of_the_dead() {
    let test = "a_putter_that_waits_for_memory_gets_that_of_the_dead";
    if child::role().is_some() {
        let file = child::fd(0).try_clone_to_owned().unwrap();
        // Sleeps for the only slot, with a block.
        let queue = Queue::<Vec<u8>>::attach(file).unwrap();
        let _ = queue.put(vec![2; 700_000]);
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let queue = Queue::<Vec<u8>>::with(&QueueConfig::new(1).large(1 << 20)).unwrap();
    queue.put(vec![1]).unwrap();
    let mut other = Child::run(test, "putter", &[queue.as_fd()]);
    while queue.statistics().endpoints < 2 {
        std::thread::yield_now();
    }
    std::thread::sleep(MOMENT);
    std::thread::scope(|scope| {
        let putter = scope.spawn(|| queue.put(vec![3; 700_000]));
        std::thread::sleep(MOMENT);
        other.kill();
        assert_eq!(queue.get().unwrap(), [1]);
        putter.join().unwrap().unwrap();
    });
    assert_eq!(queue.get().unwrap().len(), 700_000);
}

/// Panics while it is decoded, until it is told not to.
struct Explosive;

static IS_ARMED: AtomicBool = AtomicBool::new(true);

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _ = String::deserialize(deserializer)?;
        assert!(!IS_ARMED.load(SeqCst), "on purpose");
        Ok(Self)
    }
}

#[test]
fn a_job_whose_decoding_panics_goes_to_another() {
    let _watchdog = Watchdog::seconds(60);
    let putter = JoinableQueue::<String>::bounded(4).unwrap();
    putter.put("large ".repeat(100)).unwrap();
    let file = putter.as_fd().try_clone_to_owned().unwrap();
    let jobs = JoinableQueue::<Explosive>::attach(file).unwrap();
    let worker = jobs.clone();
    assert!(
        std::thread::spawn(move || worker.get().is_ok())
            .join()
            .is_err()
    );
    IS_ARMED.store(false, SeqCst);
    jobs.get_timeout(Duration::from_secs(30)).unwrap().done();
    assert_eq!(jobs.join(None), Ok(()));
}

#[test]
fn jobs_in_hand_take_no_room_from_those_that_wait() {
    let config = QueueConfig::new(128).endpoints(100);
    let jobs = JoinableQueue::<u64>::with(&config).unwrap();
    for number in 0..20 {
        jobs.put(number).unwrap();
    }
    let in_hand: Vec<_> = (0..20).map(|_| jobs.get().unwrap()).collect();
    for number in 0..128 {
        jobs.try_put(number).unwrap();
    }
    assert!(jobs.is_full() && jobs.try_put(0).is_err());
    drop(in_hand);
}
