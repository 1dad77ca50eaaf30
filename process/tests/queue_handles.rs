//! Handles and descriptors inside the values of queues between processes, under all start methods.

mod common;

use std::io::{Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use multiprocess::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess::broadcast::{self, LosslessReceiver, Receiver, Sender, Start};
use multiprocess::owned::{Event, Lock, Semaphore};
use multiprocess::transfer::Fd;
use multiprocess::{
    Array, Context, JoinableQueue, Queue, QueueConfig, Shared, StartMethod, Value, mpmc,
};
use serde::{Deserialize, Serialize};

use common::start;

fn fd(of: impl Into<OwnedFd>) -> Fd {
    Fd::from(of.into())
}

fn carrying<T>() -> Queue<T> {
    Queue::with(&QueueConfig::new(16).descriptors(4)).unwrap()
}

/// What a worker works with comes with each job, after it was started.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    number: u64,
    lock: Lock,
    counter: Shared<AtomicU64>,
    total: Value<u64>,
    row: Array<u32>,
    answers: Queue<u64>,
    out: Fd,
}

under_all_methods!(jobs_bring_the_handles_they_need, |method| {
    let work = |jobs: JoinableQueue<Job>| {
        while let Ok(job) = jobs.get() {
            {
                let _held = job.lock.lock();
                let seen = job.counter.load(Relaxed);
                job.counter.store(seen + 1, Relaxed);
            }
            *job.total.lock().unwrap() += job.number;
            job.row.lock().unwrap()[job.number as usize] += 1;
            rustix_write(&job.out, job.number as u8);
            job.answers.put(job.number).unwrap();
            job.done();
        }
    };
    let config = QueueConfig::new(16).descriptors(4);
    let jobs = JoinableQueue::with(&config).unwrap();
    let workers = [0; 2].map(|_| start(method, work, jobs.clone()));
    let (lock, counter) = (
        Lock::new().unwrap(),
        Shared::new(AtomicU64::new(0)).unwrap(),
    );
    let (total, row) = (Value::new(0).unwrap(), Array::zeroed(20).unwrap());
    let answers = Queue::bounded(20).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    for number in 0..20 {
        let job = Job {
            number,
            lock: lock.clone(),
            counter: counter.clone(),
            total: total.clone(),
            row: row.clone(),
            answers: answers.clone(),
            out: fd(writer.try_clone().unwrap()),
        };
        jobs.put(job).unwrap();
    }
    drop(writer);
    jobs.join(None).unwrap();
    jobs.close();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!((counter.load(Relaxed), total.get().unwrap()), (20, 190));
    assert_eq!(*row.lock().unwrap(), [1; 20]);
    assert_eq!(answers.len(), 20);
    // The writing ends went with the jobs: it ends.
    let mut numbers = Vec::new();
    reader.read_to_end(&mut numbers).unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<u8>>());
});

fn rustix_write(fd: &Fd, byte: u8) {
    assert_eq!(rustix::io::write(fd, &[byte]), Ok(1));
}

under_all_methods!(a_queue_in_a_queue_carries_the_answer_back, |method| {
    // A server: each request brings a queue for its answer, and the answer is a connection.
    let serve = |requests: Queue<(String, Queue<Fd>)>| {
        while let Ok((name, answer)) = requests.get() {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            answer.put(fd(theirs)).unwrap();
            write!(ours, "hello, {name}").unwrap();
        }
    };
    let requests = carrying();
    let server = start(method, serve, requests.clone());
    for name in ["one", "another one"] {
        let answer = carrying();
        requests.put((name.to_owned(), answer.clone())).unwrap();
        let mut text = String::new();
        let mut stream = UnixStream::from(answer.get().unwrap().into_inner());
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("hello, {name}"));
    }
    requests.close();
    server.join().unwrap();
});

under_all_methods!(ends_of_rings_and_locks_come_back_in_values, |method| {
    let work = |(queue, done): (Queue<(mpmc::Sender<u64>, Semaphore)>, Event)| {
        let (mut sender, semaphore) = queue.get().unwrap();
        sender.send(7).unwrap();
        semaphore.release().unwrap();
        done.set();
    };
    let queue = carrying();
    let done = Event::new().unwrap();
    let worker = start(method, work, (queue.clone(), done.clone()));
    let (sender, mut receiver) = mpmc::channel(4).unwrap();
    let semaphore = Semaphore::new(0).unwrap();
    queue.put((sender, semaphore.clone())).unwrap();
    done.wait().unwrap();
    semaphore.acquire().unwrap();
    assert_eq!(receiver.recv(), Ok(7));
    worker.join().unwrap();
});

under_all_methods!(
    ends_of_a_broadcast_are_arguments_results_and_values,
    |method| {
        let relay = |(mut source, sink, values): (
            Receiver<u64>,
            Sender<u64>,
            Queue<LosslessReceiver<u64>>,
        )| {
            let mut sink = sink;
            let mut lossless = values.get().unwrap();
            values.close();
            for _ in 0..3 {
                sink.send(2 * source.recv().unwrap()).unwrap();
            }
            sink.send(lossless.recv().unwrap()).unwrap();
            sink
        };
        let (mut sender, home) = broadcast::channel::<u64>(16).unwrap();
        let (sink, sink_home) = broadcast::channel::<u64>(16).unwrap();
        let mut answers = Receiver::<u64>::attach(sink_home, Start::Next).unwrap();
        let source = Receiver::<u64>::attach(home.clone(), Start::Next).unwrap();
        for number in 1..=3 {
            sender.send(number).unwrap();
        }
        let values = carrying();
        let worker = start(method, relay, (source, sink, values.clone()));
        let lossless = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
        values.put(lossless).unwrap();
        while !values.is_closed() {
            std::thread::yield_now();
        }
        sender.send(40).unwrap();
        let came: Vec<u64> = (0..4).map(|_| answers.recv().unwrap()).collect();
        assert_eq!(came, [2, 4, 6, 40]);
        // It comes back with the result, and sends on.
        let mut sink = worker.join().unwrap();
        sink.send(5).unwrap();
        assert_eq!(answers.recv(), Ok(5));
    }
);
