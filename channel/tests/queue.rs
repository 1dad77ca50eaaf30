//! Queues of values: within a process, between processes, and with some of them killed.
#![cfg(all(not(loom), feature = "serde"))]

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_channel::mpmc::WaitDoneError;
use multiprocess_channel::queue::{
    GetError, JoinableQueue, PutFailure, Queue, QueueConfig, SimpleQueue,
};
use multiprocess_core::AttachError;
use multiprocess_shm::{Segment, transfer};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Value {
    Nothing,
    Text(String),
    Numbers { many: Vec<u64>, last: Option<i8> },
}

#[test]
fn values_of_all_sizes_come_out_as_they_went_in() {
    let queue = Queue::bounded(10).unwrap();
    for len in [0, 1, 100, 118, 119, 120, 121, 122, 1000, 100_000] {
        let values = [
            Value::Nothing,
            Value::Text("x".repeat(len)),
            Value::Numbers {
                many: vec![u64::MAX; len / 8],
                last: Some(-1),
            },
        ];
        for value in &values {
            queue.put(value.clone()).unwrap();
        }
        for value in values {
            assert_eq!(queue.get().unwrap(), value, "{len}");
        }
    }
}

#[test]
fn the_limit_is_exact_and_what_was_not_put_comes_back() {
    let queue = Queue::bounded(2).unwrap();
    assert_eq!((queue.maxsize(), queue.is_empty()), (2, true));
    queue.put("one".to_owned()).unwrap();
    queue.put("two".to_owned()).unwrap();
    assert!(queue.is_full());
    let refused = queue.try_put("three".to_owned()).unwrap_err();
    assert_eq!(refused.value, "three");
    assert!(matches!(refused.reason, PutFailure::Full));
    let refused = queue.put_timeout("three".to_owned(), Duration::from_millis(5));
    assert!(matches!(refused.unwrap_err().reason, PutFailure::Full));
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.get().unwrap(), "one");
    queue.put("three".to_owned()).unwrap();
    assert_eq!(queue.iter().take(2).collect::<Vec<_>>(), ["two", "three"]);
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    let late = queue.get_timeout(Duration::from_millis(5));
    assert!(matches!(late, Err(GetError::Empty)));
}

#[test]
fn a_closed_queue_is_emptied() {
    let queue = Queue::bounded(4).unwrap();
    let other = queue.clone();
    queue.put(1).unwrap();
    other.close();
    assert!(queue.is_closed());
    let refused = queue.put(2).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::Closed));
    assert_eq!(queue.get().unwrap(), 1);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
}

#[test]
fn closing_wakes_who_gets() {
    let _watchdog = Watchdog::seconds(60);
    let queue = Queue::<u32>::bounded(4).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(matches!(queue.get(), Err(GetError::Closed))));
        }
        std::thread::sleep(Duration::from_millis(20));
        queue.close();
    });
}

#[test]
fn what_cannot_be_serialised_is_the_putter_s_error() {
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let queue = Queue::bounded(4).unwrap();
    let refused = queue.put(Stubborn).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::NotSerialisable(_)));
    assert!(queue.is_empty());
    // Handles do not travel in the values of any queue, and it says so.
    let queue = Queue::bounded(4).unwrap();
    let inner = Queue::<u8>::bounded(4).unwrap();
    match queue.put(inner).unwrap_err().reason {
        PutFailure::NotSerialisable(why) => assert!(why.contains("inside a send"), "{why}"),
        other => panic!("{other}"),
    }
}

#[test]
fn large_values_wait_for_memory_and_too_large_ones_are_refused() {
    let _watchdog = Watchdog::seconds(60);
    let config = QueueConfig::new(100).large(1 << 16);
    let queue = Queue::<Vec<u8>>::with(&config).unwrap();
    let refused = queue.put(vec![1; 1 << 17]).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::TooLarge { .. }));
    assert_eq!(refused.value.len(), 1 << 17);
    let mut put = 0_u64;
    while queue.try_put(vec![put as u8; 10_000]).is_ok() {
        put += 1;
    }
    assert!((4..7).contains(&put), "{put}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.put(vec![99; 10_000]));
        std::thread::sleep(Duration::from_millis(10));
        for number in 0..put {
            assert_eq!(queue.get().unwrap(), vec![number as u8; 10_000]);
        }
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(queue.get().unwrap(), vec![99; 10_000]);
    // Nothing is leaked.
    for round in 0..200 {
        queue.put(vec![round; 50_000]).unwrap();
        assert_eq!(queue.get().unwrap(), vec![round; 50_000]);
    }
}

#[test]
fn another_program_s_value_is_an_error_and_gone() {
    let queue = Queue::<u8>::bounded(4).unwrap();
    queue.put(7).unwrap();
    queue.put(1).unwrap();
    let other: Queue<bool> = Queue::attach(queue.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert!(matches!(other.get(), Err(GetError::Undecodable(_))));
    assert!(other.get().unwrap());
}

#[test]
fn foreign_memory_is_refused() {
    let other = Segment::create_place::<multiprocess_channel::bytes::Ring>(&4096).unwrap();
    let file = other.as_fd().try_clone_to_owned().unwrap();
    let refused = Queue::<u8>::attach(file);
    assert!(refused.is_err_and(|error| matches!(
        error,
        multiprocess_channel::queue::QueueError::Attach(AttachError::Layout { .. })
    )));
    assert!(Queue::<u8>::bounded(0).is_err());
    assert!(Queue::<u8>::with(&QueueConfig::new(4).endpoints(0)).is_err());
    assert!(Queue::<u8>::with(&QueueConfig::new(4).large(0)).is_err());
}

#[test]
fn simple_queues_are_simple() {
    let queue = SimpleQueue::new().unwrap();
    queue.put((1, "two".to_owned())).unwrap();
    assert!(!queue.is_empty());
    assert_eq!(queue.get().unwrap(), (1, "two".to_owned()));
    queue.close();
    assert!(queue.get().is_err());
}

#[test]
fn many_threads_share_one_handle() {
    let _watchdog = Watchdog::seconds(60);
    let queue = Queue::<(u64, u64)>::bounded(16).unwrap();
    const EACH: u64 = 5000;
    std::thread::scope(|scope| {
        let getters: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| queue.iter().map(|(_, value)| value).sum::<u64>()))
            .collect();
        let putters: Vec<_> = (0..3)
            .map(|number| {
                let queue = &queue;
                scope.spawn(move || {
                    for value in 0..EACH {
                        queue.put((number, value)).unwrap();
                    }
                })
            })
            .collect();
        for putter in putters {
            putter.join().unwrap();
        }
        queue.close();
        let sum: u64 = getters
            .into_iter()
            .map(|getter| getter.join().unwrap())
            .sum();
        assert_eq!(sum, 3 * EACH * (EACH - 1) / 2);
    });
}

#[test]
fn a_job_is_done_once_it_says_so() {
    let jobs = JoinableQueue::bounded(8).unwrap();
    let wait = Duration::from_millis(5);
    assert_eq!(jobs.join(None), Ok(()));
    jobs.put(1).unwrap();
    jobs.put(2).unwrap();
    let first = jobs.get().unwrap();
    let second = jobs.get().unwrap();
    assert_eq!((*first, *second, jobs.len()), (1, 2, 0));
    assert_eq!(jobs.join(wait), Err(WaitDoneError::Timeout));
    first.done();
    assert_eq!(jobs.join(wait), Err(WaitDoneError::Timeout));
    second.give_up();
    let again = jobs.get().unwrap();
    assert_eq!(*again, 2);
    again.done();
    assert_eq!(jobs.join(None), Ok(()));
}

#[test]
fn a_job_that_comes_back_to_a_full_queue_is_one_more_than_it_tells() {
    let jobs = JoinableQueue::bounded(2).unwrap();
    jobs.put(0).unwrap();
    let back = jobs.get().unwrap();
    assert!(!jobs.is_full());
    jobs.put(1).unwrap();
    jobs.put(2).unwrap();
    back.give_up();
    assert_eq!((jobs.len(), jobs.is_full()), (2, true));
    let mut done: Vec<u32> = (0..3).map(|_| *jobs.get().unwrap()).collect();
    done.sort_unstable();
    assert_eq!(done, [0, 1, 2]);
    assert!(jobs.is_empty() && !jobs.is_full());
}

#[test]
fn a_job_of_a_thread_that_panics_goes_to_another() {
    let jobs = JoinableQueue::bounded(8).unwrap();
    jobs.put("large ".repeat(100)).unwrap();
    let worker = jobs.clone();
    let panicked = std::thread::spawn(move || {
        let _job = worker.get().unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    let job = jobs.get_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(*job, "large ".repeat(100));
    job.done();
    assert_eq!(jobs.join(None), Ok(()));
}

#[test]
fn queues_travel() {
    let queue = Queue::<u32>::bounded(4).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&queue).unwrap());
    let there: Queue<u32> = transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    there.put(7).unwrap();
    assert_eq!(queue.get().unwrap(), 7);
    assert_eq!(there.maxsize(), 4);
}

const JOBS: u64 = 2000;

/// Workers are killed with jobs in their hands, large ones among them: every job is done, none is lost,
/// and none by two that lived.
#[test]
fn jobs_of_killed_workers_are_done_by_others() {
    let test = "jobs_of_killed_workers_are_done_by_others";
    let file = |index| child::fd(index).try_clone_to_owned().unwrap();
    if child::role().is_some() {
        let jobs = JoinableQueue::<(u64, Vec<u8>)>::attach(file(0)).unwrap();
        let results = Queue::<u64>::attach(file(1)).unwrap();
        while let Ok(job) = jobs.get() {
            let (number, bytes) = &*job;
            assert!(bytes.iter().all(|byte| *byte == *number as u8), "torn");
            std::thread::sleep(Duration::from_micros(300));
            results.put(*number).unwrap();
            job.done();
        }
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    let jobs = JoinableQueue::<(u64, Vec<u8>)>::bounded(JOBS).unwrap();
    let results = Queue::<u64>::bounded(4 * JOBS).unwrap();
    let run = || Child::run(test, "worker", &[jobs.as_fd(), results.as_fd()]);
    let mut workers = [run(), run(), run()];
    for number in 0..JOBS {
        let len = if number % 3 == 0 { 1500 } else { 10 };
        jobs.put((number, vec![number as u8; len])).unwrap();
    }
    let mut victim = 0;
    while jobs.join(Duration::from_millis(7)).is_err() {
        workers[victim].kill();
        workers[victim] = run();
        victim = (victim + 1) % workers.len();
    }
    jobs.close();
    for mut worker in workers {
        assert!(worker.wait().success());
    }
    results.close();
    let mut seen = vec![0_u32; JOBS as usize];
    for number in results.iter() {
        seen[number as usize] += 1;
    }
    assert!(seen.iter().all(|times| *times >= 1), "a job was lost");
    // The memory for large values has come back.
    jobs.recover();
    let whole = Queue::<u8>::attach(jobs.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(whole.len(), 0);
}

#[test]
fn join_learns_that_the_last_worker_has_died() {
    let test = "join_learns_that_the_last_worker_has_died";
    if child::role().is_some() {
        let file = child::fd(0).try_clone_to_owned().unwrap();
        let jobs = JoinableQueue::<u64>::attach(file).unwrap();
        let _job = jobs.get().unwrap();
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let jobs = JoinableQueue::<u64>::bounded(4).unwrap();
    jobs.put(1).unwrap();
    let mut worker = Child::run(test, "worker", &[jobs.as_fd()]);
    while !jobs.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    worker.kill();
    assert_eq!(jobs.join(None), Err(WaitDoneError::Abandoned));
    // It is there again, for whoever comes.
    assert_eq!(*jobs.get().unwrap(), 1);
}
