//! Values of queues whose handles or sockets are in a bad way: what is said of them is true, and nothing stays.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::os::fd::{AsFd, AsRawFd};

use multiprocess_channel::queue::{GetError, Queue, QueueConfig};
use multiprocess_channel::{broadcast, bytes, spsc};
use multiprocess_core::Errno;
use multiprocess_shm::socket;
use multiprocess_shm::transfer::Fd;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use rustix::net::RecvFlags;

fn set_limit(descriptors: u64) {
    let limit = libc::rlimit {
        rlim_cur: descriptors,
        rlim_max: 1024,
    };
    // SAFETY: a live struct of the kernel's type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Ends of which there is one only, each of which needs descriptors beside those that were sent.
type Ends = (
    spsc::Producer<u64>,
    spsc::Consumer<u64>,
    bytes::Producer,
    broadcast::Sender<u64>,
);

#[test]
fn ends_wait_in_the_queue_until_there_are_descriptors_for_all_of_them() {
    let test = "ends_wait_in_the_queue_until_there_are_descriptors_for_all_of_them";
    let file = |index| child::fd(index).try_clone_to_owned().unwrap();
    if child::role().is_some() {
        let queue = Queue::<Ends>::attach_with_rack(file(0), file(1)).unwrap();
        let first = file(0).as_raw_fd() as u64;
        let mut refused = 0;
        let ends = (first..).find_map(|limit| {
            set_limit(limit);
            match queue.try_get() {
                Ok(ends) => Some(ends),
                Err(GetError::Descriptors(Errno::MFILE)) => {
                    refused += 1;
                    None
                }
                Err(other) => panic!("limit {limit}: {other}"),
            }
        });
        set_limit(1024);
        assert!(refused > 10, "{refused}");
        let (mut producer, mut consumer, mut records, mut news) = ends.unwrap();
        assert_eq!(consumer.pop_slice(&mut [0; 8]), Ok(3));
        producer.push(4).unwrap();
        records.try_push(b"five").unwrap();
        news.send(6).unwrap();
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let queue = Queue::<Ends>::with(&QueueConfig::new(4).descriptors(1)).unwrap();
    let (to_us, mut numbers) = spsc::channel(8).unwrap();
    let (mut from_us, theirs) = spsc::channel(8).unwrap();
    let (records, mut record) = bytes::channel(1 << 10).unwrap();
    let (news, home) = broadcast::channel(8).unwrap();
    let mut reader = broadcast::Receiver::<u64>::attach(home, broadcast::Start::Next).unwrap();
    from_us.push_slice(&[1, 2, 3]).unwrap();
    queue.put((to_us, theirs, records, news)).unwrap();
    let fds = [queue.as_fd(), queue.rack().unwrap()];
    assert!(Child::run(test, "getter", &fds).wait().success());
    assert_eq!(numbers.pop(), Ok(4));
    assert_eq!(&*record.peek().unwrap(), b"five");
    assert_eq!(reader.try_recv().unwrap(), 6);
    assert!(from_us.is_disconnected() && queue.is_empty());
}

/// The sockets are whoever's has the queue, the memory of its value is not.
#[test]
fn the_memory_of_a_value_whose_descriptors_were_taken_away_is_free_again() {
    let config = QueueConfig::new(4).descriptors(4).large(1 << 20);
    let queue = Queue::<(Vec<u8>, Fd)>::with(&config).unwrap();
    let value = || {
        let null = std::fs::File::open("/dev/null").unwrap();
        (
            vec![7; 600 << 10],
            Fd::from(std::os::fd::OwnedFd::from(null)),
        )
    };
    for _ in 0..3 {
        queue.try_put(value()).unwrap();
        let mut sockets = Vec::new();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        socket::receive(queue.rack().unwrap(), &mut [0], &mut sockets, flags).unwrap();
        for socket in &sockets {
            let _ = rustix::net::recv(socket, &mut [0_u8], RecvFlags::DONTWAIT);
        }
        assert!(matches!(queue.try_get(), Err(GetError::Corrupt)));
    }
    queue.try_put(value()).unwrap();
    assert_eq!(queue.try_get().unwrap().0.len(), 600 << 10);
}
