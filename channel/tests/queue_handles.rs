//! Handles and descriptors in the values of queues: what travels, what is left when it does not, and what
//! becomes of it when descriptors run out.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use multiprocess_channel::mpmc;
use multiprocess_channel::queue::{
    GetError, JoinableQueue, PutFailure, Queue, QueueConfig, QueueError, SimpleQueue,
};
use multiprocess_channel::spsc;
use multiprocess_core::Errno;
use multiprocess_core::atomic::{AtomicU64, Ordering::SeqCst};
use multiprocess_shm::Shared;
use multiprocess_shm::transfer::{Fd, Sent};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use serde::{Deserialize, Serialize, Serializer};

fn carrying<T>(maxsize: u64, descriptors: u32) -> Queue<T> {
    Queue::with(&QueueConfig::new(maxsize).descriptors(descriptors)).unwrap()
}

fn fd(of: impl Into<OwnedFd>) -> Fd {
    Fd::from(of.into())
}

/// Which file it is.
fn inode(of: impl AsFd) -> u64 {
    let file = std::fs::File::from(of.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().ino()
}

/// Descriptors of this process. The other tests of the file are not run beside those that ask.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Whether nobody has the other end any more, here, elsewhere, or under way.
fn is_over(reader: &mut PipeReader) -> bool {
    reader.read(&mut [0]).unwrap() == 0
}

#[test]
fn descriptors_of_all_kinds_come_as_they_went() {
    let queue = carrying(8, 4);
    let (mut reader, writer) = pipe().unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let ino = inode(&null);
    for text in ["short".to_owned(), "long ".repeat(1000)] {
        let three = (
            fd(writer.try_clone().unwrap()),
            fd(there.try_clone().unwrap()),
            fd(null.try_clone().unwrap()),
        );
        queue.put((text.clone(), three)).unwrap();
        let (came, three): (String, (Fd, Fd, Fd)) = queue.get().unwrap();
        assert_eq!(came, text);
        for fd in [&three.0, &three.1, &three.2] {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert_eq!(inode(&three.2), ino);
        std::io::PipeWriter::from(three.0.into_inner())
            .write_all(b"p")
            .unwrap();
        UnixStream::from(three.1.into_inner())
            .write_all(b"s")
            .unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"p");
        here.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"s");
    }
    // Values without any go through the same queue, and take no place for them.
    let plain = carrying(20, 4);
    for number in 0..20_u64 {
        plain.put(number).unwrap();
    }
    assert_eq!(plain.iter().take(20).sum::<u64>(), 190);
}

#[test]
fn handles_come_as_handles_on_the_same_object() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Value {
        counter: Shared<AtomicU64>,
        again: Shared<AtomicU64>,
        plain: Queue<u32>,
        carrying: Queue<Fd>,
        sender: mpmc::Sender<u64>,
        producer: spsc::Producer<u64>,
    }
    let queue = carrying(8, 4);
    let counter = Shared::new(AtomicU64::new(7)).unwrap();
    let (plain, inner) = (Queue::bounded(4).unwrap(), carrying(4, 4));
    let (sender, mut receiver) = mpmc::channel(8).unwrap();
    let (producer, mut consumer) = spsc::channel(8).unwrap();
    let value = Value {
        counter: counter.clone(),
        again: counter.clone(),
        plain: plain.clone(),
        carrying: inner.clone(),
        sender,
        producer,
    };
    queue.put(value).unwrap();
    let mut there = queue.get().unwrap();
    counter.store(8, SeqCst);
    assert_eq!(
        (there.counter.load(SeqCst), there.again.load(SeqCst)),
        (8, 8)
    );
    there.plain.put(1).unwrap();
    assert_eq!(plain.get().unwrap(), 1);
    let (mut reader, writer) = pipe().unwrap();
    there.carrying.put(fd(writer)).unwrap();
    drop(inner.get().unwrap());
    assert!(is_over(&mut reader));
    there.sender.send(2).unwrap();
    assert_eq!(receiver.recv(), Ok(2));
    there.producer.push(3).unwrap();
    assert_eq!(consumer.pop(), Ok(3));
}

#[test]
fn queues_of_all_kinds_carry_descriptors() {
    let (mut reader, writer) = pipe().unwrap();
    let simple = SimpleQueue::with_descriptors(1).unwrap();
    simple.put(fd(writer)).unwrap();
    let config = QueueConfig::new(4).descriptors(1);
    let jobs = JoinableQueue::with(&config).unwrap();
    jobs.put(simple.get().unwrap()).unwrap();
    // It is the job's until it is done, and another one's if it is given up.
    for _ in 0..3 {
        jobs.get().unwrap().give_up();
    }
    let job = jobs.get().unwrap();
    assert_eq!(inode(&*job), inode(&reader));
    job.done();
    jobs.join(None).unwrap();
    assert!(is_over(&mut reader));
}

#[test]
fn a_queue_that_was_not_made_for_it_refuses_and_says_what_would_do() {
    let queue = Queue::bounded(4).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let refused = queue.put(fd(writer)).unwrap_err();
    match refused.reason {
        PutFailure::NotSerialisable(why) => {
            assert!(why.contains("QueueConfig::descriptors"), "{why}");
        }
        other => panic!("{other}"),
    }
    drop(refused.value);
    assert!(is_over(&mut reader));
}

/// Serialises one descriptor many times.
#[derive(Debug)]
struct Many<'a>(BorrowedFd<'a>, usize);

impl Serialize for Many<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.1).map(|_| Sent(self.0)))
    }
}

#[test]
fn more_descriptors_than_a_message_takes_come_in_one_value() {
    let (mut reader, writer) = pipe().unwrap();
    let queue = Queue::<Many<'_>>::with(&QueueConfig::new(4).descriptors(2)).unwrap();
    let (file, rack) = both(queue.as_fd(), queue.rack());
    let getter = Queue::<Vec<Fd>>::attach_with_rack(file, rack).unwrap();
    for count in [1, 252, 253, 254, 320] {
        queue.put(Many(writer.as_fd(), count)).unwrap();
        let came = getter.get().unwrap();
        assert_eq!(came.len(), count);
        let ino = inode(&reader);
        assert!(came.iter().all(|fd| inode(fd) == ino));
    }
    drop(writer);
    assert!(is_over(&mut reader));
}

fn both(file: BorrowedFd<'_>, rack: Option<BorrowedFd<'_>>) -> (OwnedFd, OwnedFd) {
    let owned = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    (owned(file), owned(rack.unwrap()))
}

#[test]
fn as_many_values_carry_descriptors_as_the_queue_was_made_for() {
    let _watchdog = Watchdog::seconds(60);
    let queue = carrying(100, 3);
    let (mut reader, writer) = pipe().unwrap();
    let one = || fd(writer.try_clone().unwrap());
    for _ in 0..4 {
        queue.put(one()).unwrap();
    }
    let refused = queue.try_put(one()).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::Full), "{refused}");
    let refused = queue.put_timeout(refused.value, Duration::from_millis(5));
    assert!(matches!(refused.unwrap_err().reason, PutFailure::Full));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.put(one()));
        std::thread::sleep(Duration::from_millis(20));
        queue.get().unwrap();
        waiting.join().unwrap().unwrap();
    });
    // One that is closed takes nothing, and nothing is left.
    queue.close();
    let refused = queue.put(one()).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::Closed), "{refused}");
    drop(refused);
    for _ in 0..4 {
        queue.get().unwrap();
    }
    drop(writer);
    assert!(is_over(&mut reader));
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(matches!(
        Queue::<Fd>::with(&QueueConfig::new(4).descriptors(2000)),
        Err(QueueError::Create(_))
    ));
}

#[test]
fn nothing_stays_open_of_a_value_that_nobody_gets() {
    let _watchdog = Watchdog::seconds(60);
    // Of another type.
    let (mut reader, writer) = pipe().unwrap();
    let queue = carrying::<(u8, Fd)>(4, 4);
    queue.put((7, fd(writer))).unwrap();
    let (file, rack) = both(queue.as_fd(), queue.rack());
    let other = Queue::<(bool, Fd)>::attach_with_rack(file, rack).unwrap();
    assert!(matches!(other.get(), Err(GetError::Undecodable(_))));
    assert!(is_over(&mut reader));
    drop(other);
    // A descriptor that belongs to nothing in the value.
    let (mut reader, writer) = pipe().unwrap();
    queue.put((7, fd(writer))).unwrap();
    let (file, rack) = both(queue.as_fd(), queue.rack());
    let other = Queue::<u8>::attach_with_rack(file, rack).unwrap();
    assert!(matches!(other.get(), Err(GetError::Undecodable(_))));
    assert!(is_over(&mut reader));
    drop(other);
    // Of a queue that has gone.
    let (mut reader, writer) = pipe().unwrap();
    queue.put((7, fd(writer))).unwrap();
    drop(queue);
    assert!(is_over(&mut reader));
}

/// The kernel finds out that nobody can reach the sockets but those in the sockets.
#[test]
fn a_queue_that_waits_in_itself_goes_with_its_last_user() {
    let _watchdog = Watchdog::seconds(60);
    #[derive(Debug, Serialize, Deserialize)]
    struct Itself(Queue<Itself>, Fd);
    let queue = carrying(4, 4);
    let (mut reader, writer) = pipe().unwrap();
    queue.put(Itself(queue.clone(), fd(writer))).unwrap();
    drop(queue);
    assert!(is_over(&mut reader));
}

#[test]
fn a_queue_and_the_sockets_of_another_one_do_not_go_together() {
    let (one, other) = (carrying::<Fd>(4, 4), carrying::<Fd>(4, 4));
    let plain = Queue::<Fd>::bounded(4).unwrap();
    let is_refused = |attached: Result<Queue<Fd>, QueueError>| {
        assert!(matches!(attached, Err(QueueError::OtherSockets)));
    };
    let file = |of: &Queue<Fd>| of.as_fd().try_clone_to_owned().unwrap();
    let (_, rack) = both(other.as_fd(), other.rack());
    is_refused(Queue::attach_with_rack(
        file(&one),
        rack.try_clone().unwrap(),
    ));
    is_refused(Queue::attach_with_rack(file(&one), file(&one)));
    is_refused(Queue::attach_with_rack(file(&plain), rack));
    is_refused(Queue::attach(file(&one)));
    assert!(plain.rack().is_none());
}

fn set_limit(descriptors: u64) {
    let limit = libc::rlimit {
        rlim_cur: descriptors,
        rlim_max: 1024,
    };
    // SAFETY: a live struct of the kernel's type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// The value of the test below: its handles need descriptors beside those that were sent.
type Rich = (Vec<Fd>, Queue<u32>, Shared<AtomicU64>, Queue<Fd>);

#[test]
fn nothing_is_lost_when_descriptors_run_out() {
    let test = "nothing_is_lost_when_descriptors_run_out";
    let file = |index| child::fd(index).try_clone_to_owned().unwrap();
    let scarce = |errno: Errno| assert_eq!(errno, Errno::MFILE);
    match child::role().as_deref() {
        Some("getter") => {
            let queue = Queue::<Rich>::attach_with_rack(file(0), file(1)).unwrap();
            let (open, first) = (open_descriptors(), file(0).as_raw_fd() as u64);
            let (mut refused, mut got) = (0, None);
            for limit in first.. {
                set_limit(limit);
                match queue.try_get() {
                    Ok(value) => {
                        got = Some(value);
                        break;
                    }
                    Err(GetError::Descriptors(errno)) => scarce(errno),
                    Err(other) => panic!("limit {limit}: {other}"),
                }
                refused += 1;
            }
            set_limit(1024);
            assert!(refused > 5, "{refused}");
            let (files, plain, counter, carrying) = got.unwrap();
            assert_eq!((files.len(), plain.get().unwrap()), (3, 5));
            assert_eq!(counter.load(SeqCst), 7);
            assert!(carrying.is_empty());
            drop((files, plain, counter, carrying));
            assert_eq!(open_descriptors(), open, "descriptors are left");
            assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        }
        Some("putter") => {
            let queue = Queue::<Rich>::attach_with_rack(file(0), file(1)).unwrap();
            let mut value = rich();
            let (open, first) = (open_descriptors(), file(0).as_raw_fd() as u64);
            let mut refused = 0;
            for limit in first.. {
                set_limit(limit);
                match queue.try_put(value) {
                    Ok(()) => break,
                    Err(error) => match error.reason {
                        PutFailure::Descriptors(errno) => {
                            scarce(errno);
                            value = error.value;
                        }
                        other => panic!("limit {limit}: {other}"),
                    },
                }
                refused += 1;
            }
            set_limit(1024);
            assert!(refused > 5, "{refused}");
            assert!(open_descriptors() < open);
        }
        _ => {
            let _watchdog = Watchdog::seconds(60);
            let queue = carrying::<Rich>(4, 1);
            let fds = [queue.as_fd(), queue.rack().unwrap()];
            for _ in 0..2 {
                assert!(Child::run(test, "putter", &fds).wait().success());
                assert_eq!(queue.len(), 1);
                assert!(Child::run(test, "getter", &fds).wait().success());
                assert!(queue.is_empty());
            }
            // All places are free again.
            for _ in 0..4 {
                queue.try_put(rich()).unwrap();
            }
        }
    }
}

fn rich() -> Rich {
    let null = || fd(std::fs::File::open("/dev/null").unwrap());
    let plain = Queue::bounded(4).unwrap();
    plain.put(5).unwrap();
    let counter = Shared::new(AtomicU64::new(7)).unwrap();
    (vec![null(), null(), null()], plain, counter, carrying(4, 1))
}

/// Of ends of which there is one only, too: they are under way when the process that put them is killed.
#[test]
fn descriptors_of_killed_putters_and_getters_go_on() {
    let test = "descriptors_of_killed_putters_and_getters_go_on";
    let file = |index| child::fd(index).try_clone_to_owned().unwrap();
    if let Some(role) = child::role() {
        let jobs = JoinableQueue::<Fd>::attach_with_rack(file(0), file(1)).unwrap();
        let told = Queue::<u32>::attach(file(2)).unwrap();
        match role.as_str() {
            "putter" => {
                jobs.put(Fd::from(file(3))).unwrap();
                told.put(1).unwrap();
            }
            _ => {
                let _job = jobs.get().unwrap();
                told.put(1).unwrap();
                std::thread::sleep(Duration::from_secs(600));
            }
        }
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let config = QueueConfig::new(4).descriptors(1);
    let jobs = JoinableQueue::<Fd>::with(&config).unwrap();
    let told = Queue::<u32>::bounded(4).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let fds = [
        jobs.as_fd(),
        jobs.rack().unwrap(),
        told.as_fd(),
        writer.as_fd(),
    ];
    let mut putter = Child::run(test, "putter", &fds);
    told.get().unwrap();
    putter.kill();
    for _ in 0..3 {
        let mut getter = Child::run(test, "getter", &fds[..3]);
        told.get().unwrap();
        getter.kill();
    }
    drop(writer);
    let job = jobs.get().unwrap();
    rustix::io::write(&*job, b"x").unwrap();
    job.done();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"x");
}
