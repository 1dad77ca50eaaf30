//! Handles inside messages.
#![cfg(feature = "serde")]

use std::os::fd::{AsRawFd, OwnedFd};

use multiprocess_core::atomic::{AtomicU64, Ordering};
use multiprocess_shm::{Shared, transfer};
use transfer::Fd;

fn open() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn is_open(fd: i32) -> bool {
    std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok()
}

#[test]
fn values_with_handles_anywhere_inside_survive_the_trip() {
    let a = Shared::new(AtomicU64::new(1)).unwrap();
    let b = Shared::new(AtomicU64::new(2)).unwrap();
    let message = (7u8, vec![a.clone(), b.clone(), a.clone()], Some(b.clone()));
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&message).unwrap());
    assert_eq!(fds.len(), 4);
    type Message = (u8, Vec<Shared<AtomicU64>>, Option<Shared<AtomicU64>>);
    let got: Message = transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    got.1[0].store(10, Ordering::Relaxed);
    got.2.unwrap().store(20, Ordering::Relaxed);
    assert_eq!(a.load(Ordering::Relaxed), 10);
    assert_eq!(b.load(Ordering::Relaxed), 20);
    assert_eq!(got.1[2].load(Ordering::Relaxed), 10);
}

#[test]
fn outside_of_a_message_it_is_an_error() {
    let fd = Fd::from(open());
    assert!(postcard::to_stdvec(&fd).is_err());
    assert!(postcard::from_bytes::<Fd>(&[0]).is_err());
}

#[test]
fn an_index_out_of_range_or_used_twice_is_an_error() {
    let twice = |bytes: &[u8]| {
        transfer::supply(vec![open()], || {
            postcard::from_bytes::<(Fd, Fd)>(bytes).is_err()
        })
    };
    assert!(twice(&[0, 0]), "used twice");
    assert!(twice(&[0, 1]), "out of range");
}

#[test]
fn unclaimed_descriptors_are_closed() {
    // Numbers are reused by the tests beside this one: a high one is not.
    let fd = rustix::io::fcntl_dupfd_cloexec(open(), 900).unwrap();
    let number = fd.as_raw_fd();
    assert!(is_open(number));
    transfer::supply(vec![fd], || ());
    assert!(!is_open(number));
}

#[test]
fn scopes_nest() {
    let outer = Fd::from(open());
    let inner = Fd::from(open());
    let ((), fds) = transfer::collect(|| {
        postcard::to_stdvec(&outer).unwrap();
        let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&inner).unwrap());
        assert_eq!((bytes.as_slice(), fds.len()), ([0].as_slice(), 1));
        assert_eq!(postcard::to_stdvec(&outer).unwrap(), [1]);
    });
    assert_eq!(fds.len(), 2);
}

#[test]
fn a_panic_inside_leaves_no_scope_open() {
    let caught = std::panic::catch_unwind(|| transfer::collect(|| panic!("on purpose")));
    assert!(caught.is_err());
    assert!(postcard::to_stdvec(&Fd::from(open())).is_err());
}
