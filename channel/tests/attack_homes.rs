//! What a home does to those who use it otherwise than it was meant.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use multiprocess_channel::broadcast::{self, AttachRingError, LosslessReceiver};
use multiprocess_channel::{Home, mpmc, spsc};
use multiprocess_core::AttachError;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// The homes of two channels are mixed up, in safe code: two producers of one ring would write the same
/// slots, by plain stores.
#[test]
fn peers_of_another_ring_do_not_make_two_producers() {
    type Ring = spsc::Ring<[u64; 64]>;
    type Producer = spsc::Producer<[u64; 64]>;
    let ring = Home::create::<Ring>(&4).unwrap();
    let other = Home::create::<Ring>(&4).unwrap();
    let file = other.as_fd().try_clone_to_owned().unwrap();
    let second_of_other = Home::attach::<Ring>(file).unwrap();
    let one = Producer::attach(ring.clone(), second_of_other.clone()).unwrap();
    let two = Producer::attach(ring.clone(), ring.clone());
    assert_eq!(two.err(), Some(AttachError::OtherParticipants));
    drop(one);
    // Rings of the other kinds are theirs who came first, too.
    let (_sender, home) = broadcast::channel::<u64>(4).unwrap();
    let reader = LosslessReceiver::<u64>::attach(home, ring.clone());
    assert_eq!(
        reader.err(),
        Some(AttachRingError::Attach(AttachError::OtherParticipants))
    );
    let (sender, _receiver) = mpmc::channel::<u64>(64).unwrap();
    let other = mpmc::Sender::<u64, _, _>::attach(sender.memory().clone(), ring);
    assert_eq!(
        other.err(),
        Some(AttachRingError::Attach(AttachError::OtherParticipants))
    );
}

/// Who has no more than a descriptor to read the ring with can lock bytes of it. Those who are there go on,
/// and the dead are dropped; only nobody else comes.
#[test]
fn a_reader_that_locks_bytes_does_not_keep_the_dead_alive() {
    if child::role().is_some() {
        let file = child::fd(0).try_clone_to_owned().unwrap();
        let home = Home::attach::<broadcast::Ring<u64>>(file).unwrap();
        let mut receiver = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
        receiver.recv().unwrap();
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    }
    let _watchdog = Watchdog::seconds(60);
    let (mut sender, home) = broadcast::channel::<u64>(2).unwrap();
    let test = "a_reader_that_locks_bytes_does_not_keep_the_dead_alive";
    let mut child = Child::run(test, "receiver", &[home.as_fd()]);
    while sender.statistics().readers == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    sender.send(0).unwrap();
    while sender.lag() > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill();
    let reader = home.read_only().unwrap();
    for byte in 0..1 << 16 {
        let mut lock = libc::flock {
            l_type: libc::F_RDLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: a descriptor of ours, and a lock to be read; of bytes that others have it fails.
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    }
    // Two are its capacity.
    for message in 1..5 {
        let patience = Duration::from_secs(5);
        assert_eq!(sender.send_timeout(message, patience), Ok(()));
    }
    assert_eq!(sender.statistics().dropped, 1);
}
