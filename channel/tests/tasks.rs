//! Ends of rings in async code: with tokio, and as descriptors.
#![cfg(all(not(loom), feature = "async"))]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use multiprocess_channel::broadcast::{self, LosslessReceiver, Receiver, Start};
use multiprocess_channel::tasks::{Async, Reactor, ReadyFd};
use multiprocess_channel::{RecvError, SendError, TryRecvError, bytes, mpmc, spsc};
use multiprocess_testkit::watchdog::Watchdog;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A reactor that runs, until it is dropped.
struct Running(Reactor, Option<thread::JoinHandle<()>>);

impl Running {
    fn new() -> Self {
        let reactor = Reactor::new();
        let runner = reactor.clone();
        Self(reactor, Some(thread::spawn(move || runner.run())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
        self.1.take().unwrap().join().unwrap();
    }
}

fn block_on<R>(future: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn messages() -> u64 {
    let asked = std::env::var("PARK_CYCLES").ok();
    asked.map_or(10_000, |cycles| cycles.parse().unwrap())
}

/// How often a task was polled is how often it was woken.
#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn tasks_of_one_thread_talk_to_blocked_threads_over_every_ring() {
    let watchdog = Watchdog::seconds(120 + messages() / 1000);
    let running = Running::new();
    let reactor = &running.0;
    let (to_task, from_thread) = spsc::channel::<u64>(2).unwrap();
    let (mut to_bytes, from_bytes) = bytes::channel(64).unwrap();
    let (to_mpmc, mut from_task) = mpmc::channel::<u64>(2).unwrap();
    let (all, home) = broadcast::channel::<u64>(2).unwrap();
    let mut lossless = LosslessReceiver::<u64>::attach(home.clone(), home.clone()).unwrap();
    thread::scope(|scope| {
        let mut to_task = to_task;
        scope.spawn(move || (0..messages()).for_each(|number| to_task.push(number).unwrap()));
        scope.spawn(move || {
            for number in 0..messages() {
                to_bytes.push(&number.to_ne_bytes()).unwrap();
            }
        });
        scope.spawn(move || {
            (0..messages()).for_each(|number| assert_eq!(from_task.recv(), Ok(number)));
        });
        scope.spawn(move || {
            (0..messages()).for_each(|number| assert_eq!(lossless.recv(), Ok(number)));
        });
        block_on(async {
            let mut from_thread = Async::new(from_thread, reactor).unwrap();
            let mut from_bytes = Async::new(from_bytes, reactor).unwrap();
            let mut to_mpmc = Async::new(to_mpmc, reactor).unwrap();
            let mut all = Async::new(all, reactor).unwrap();
            let first = tokio::task::LocalSet::new();
            first.spawn_local(async move {
                for number in 0..messages() {
                    assert_eq!(from_thread.pop().await, Ok(number));
                }
                assert_eq!(from_thread.pop().await, Err(RecvError::Disconnected));
            });
            first.spawn_local(async move {
                for number in 0..messages() {
                    let record = from_bytes.peek().await.unwrap();
                    assert_eq!(*record, number.to_ne_bytes());
                    record.release();
                }
                assert!(from_bytes.peek().await.is_err());
            });
            first.spawn_local(async move {
                for number in 0..messages() {
                    to_mpmc.send(number).await.unwrap();
                }
                to_mpmc.ready().await;
            });
            first.spawn_local(async move {
                for number in 0..messages() {
                    all.send(number).await.unwrap();
                }
            });
            first.await;
        });
    });
    drop(watchdog);
}

#[test]
fn two_tasks_answer_each_other() {
    let _watchdog = Watchdog::seconds(120 + messages() / 1000);
    let running = Running::new();
    let (mut ask, asked) = mpmc::channel::<u64>(2).unwrap();
    let (answer, mut answered) = mpmc::channel::<u64>(2).unwrap();
    let mut asked = Async::new(asked, &running.0).unwrap();
    let mut answer = Async::new(answer, &running.0).unwrap();
    let task = thread::spawn(move || {
        block_on(async {
            while let Ok(number) = asked.recv().await {
                answer.send(number).await.unwrap();
            }
        });
    });
    for number in 0..messages() {
        ask.send(number).unwrap();
        assert_eq!(answered.recv(), Ok(number));
    }
    drop(ask);
    task.join().unwrap();
}

#[test]
fn a_future_that_is_dropped_takes_no_message_and_no_wake() {
    let _watchdog = Watchdog::seconds(60);
    let running = Running::new();
    let (mut sender, receiver) = mpmc::channel::<u64>(4).unwrap();
    let mut other = receiver.try_clone().unwrap();
    other.set_spin_cap(0);
    let mut receiver = Async::new(receiver, &running.0).unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let rounds = messages() / 10;
    thread::scope(|scope| {
        let (done, was_received) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for number in 0..rounds {
                assert_eq!(other.recv(), Ok(number));
                done.send(()).unwrap();
            }
        });
        for number in 0..rounds {
            {
                let mut future = pin!(receiver.recv());
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                assert_eq!(polled, Poll::Pending);
                sender.send(number).unwrap();
                // Perhaps woken in place of the other: it is told.
            }
            was_received.recv().unwrap();
        }
    });
    assert_eq!(receiver.get_mut().try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn a_timeout_of_the_runtime_loses_nothing() {
    let _watchdog = Watchdog::seconds(60);
    let running = Running::new();
    let (mut producer, consumer) = spsc::channel::<u64>(1).unwrap();
    let mut consumer = Async::new(consumer, &running.0).unwrap();
    block_on(async {
        let moment = Duration::from_millis(2);
        for number in 0..20 {
            assert!(tokio::time::timeout(moment, consumer.pop()).await.is_err());
            producer.push(number).unwrap();
            assert_eq!(consumer.pop().await, Ok(number));
        }
        let mut producer = Async::new(producer, &running.0).unwrap();
        producer.push(1).await.unwrap();
        assert!(
            tokio::time::timeout(moment, producer.push(2))
                .await
                .is_err()
        );
        drop(consumer);
        assert_eq!(producer.push(3).await, Err(SendError::Disconnected(3)));
    });
}

#[test]
fn a_lossy_receiver_waits_for_messages_and_for_the_end() {
    let _watchdog = Watchdog::seconds(60);
    let running = Running::new();
    let (mut sender, home) = broadcast::channel::<u64>(4).unwrap();
    let mut receiver = Async::new(
        Receiver::<u64>::attach(home, Start::Next).unwrap(),
        &running.0,
    )
    .unwrap();
    let thread = thread::spawn(move || {
        for number in 0..100 {
            sender.send(number).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    let last = block_on(async {
        let mut last = None;
        loop {
            match receiver.recv().await {
                Ok(number) => last = Some(number),
                Err(broadcast::ReadError::Lagged(_)) => {}
                Err(error) => break (last, error),
            }
        }
    });
    assert_eq!(last, (Some(99), broadcast::ReadError::Disconnected));
    thread.join().unwrap();
}

#[test]
fn an_idle_task_is_woken_by_its_inner_bound_alone() {
    let _watchdog = Watchdog::seconds(60);
    let running = Running::new();
    let (sender, receiver) = mpmc::channel::<u64>(4).unwrap();
    let (_other_sender, other) = mpmc::channel::<u64>(4).unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let mut receiver = Async::new(receiver, &running.0).unwrap();
    let mut other = Async::new(other, &running.0).unwrap();
    // The kicks of one are no wakes of the other.
    for _ in 0..100 {
        assert_eq!(receiver.poll_ready(&mut context), Poll::Pending);
        assert_eq!(other.poll_ready(&mut context), Poll::Pending);
        thread::yield_now();
    }
    assert!(wakes.0.load(Relaxed) < 50, "{}", wakes.0.load(Relaxed));
    drop(sender);
    while receiver.poll_ready(&mut context) == Poll::Pending {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_end_is_a_descriptor() {
    let _watchdog = Watchdog::seconds(60);
    let running = Running::new();
    let (mut producer, consumer) = spsc::channel::<u64>(4).unwrap();
    let mut consumer = Async::new(consumer, &running.0).unwrap();
    let fd = ReadyFd::new().unwrap();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    for number in 0..messages() / 10 {
        assert!(!fd.is_ready(&mut consumer).unwrap());
        producer.push(number).unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
        assert!(fd.is_ready(&mut consumer).unwrap());
        assert_eq!(consumer.get_mut().try_pop(), Ok(number));
    }
    assert!(!fd.is_ready(&mut consumer).unwrap());
    let readable = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).unwrap();
    assert_eq!(readable, 0);
}

#[test]
fn without_a_running_reactor_futures_look_over_and_over() {
    let _watchdog = Watchdog::seconds(60);
    let reactor = Reactor::new();
    reactor.stop();
    reactor.run();
    let (mut producer, consumer) = spsc::channel::<u64>(4).unwrap();
    let mut consumer = Async::new(consumer, &reactor).unwrap();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        producer.push(7).unwrap();
    });
    assert_eq!(block_on(consumer.pop()), Ok(7));
    thread.join().unwrap();
}
