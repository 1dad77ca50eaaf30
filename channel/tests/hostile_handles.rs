//! A peer that does what it likes with the sockets in which the descriptors of values wait: errors, no
//! descriptor that stays, no hang, and nobody else's value is touched.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::io::{Read, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use multiprocess_channel::queue::{GetError, PutFailure, Queue, QueueConfig};
use multiprocess_core::atomic::{AtomicU64, Ordering::SeqCst};
use multiprocess_shm::socket;
use multiprocess_shm::transfer::Fd;
use multiprocess_testkit::watchdog::Watchdog;
use rustix::net::RecvFlags;

fn queue() -> Queue<Fd> {
    Queue::with(&QueueConfig::new(8).descriptors(4)).unwrap()
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn peek(socket: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let _ = socket::receive(socket, &mut [0], &mut fds, flags);
    fds
}

/// Both ends of each of the four pouches, as channel/README.md says where they are.
fn pouches(queue: &Queue<Fd>) -> Vec<[OwnedFd; 2]> {
    let mut ends = peek(queue.rack().unwrap()).into_iter();
    std::iter::from_fn(|| Some([ends.next()?, ends.next()?])).collect()
}

fn take_all(socket: BorrowedFd<'_>) {
    let mut byte = [0_u8];
    while rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT).is_ok_and(|(_, len)| len > 0) {}
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn is_null(fd: &Fd) -> bool {
    rustix::io::read(fd, &mut [0_u8]) == Ok(0)
}

/// One test: the descriptors of the process are counted.
#[test]
fn whatever_is_done_to_the_sockets_is_an_error_and_leaves_nothing() {
    let _watchdog = Watchdog::seconds(60);
    let before = open_descriptors();
    what_lies_in_a_pouch_is_thrown_away_before_it_is_filled();
    a_pouch_that_was_emptied_or_filled_anew_is_corrupt();
    a_pouch_that_cannot_be_emptied_is_corrupt();
    a_rack_that_was_taken_down_is_corrupt();
    sockets_that_were_shut_are_corrupt();
    descriptors_that_nobody_asked_for_are_closed();
    envelopes_that_lie_are_corrupt();
    assert_eq!(open_descriptors(), before);
}

fn what_lies_in_a_pouch_is_thrown_away_before_it_is_filled() {
    let queue = queue();
    let (mut reader, writer) = pipe().unwrap();
    for [_, into] in &pouches(&queue) {
        for _ in 0..20 {
            socket::send_now(into.as_fd(), b"garbage", &[writer.as_fd()]).unwrap();
            socket::send_now(into.as_fd(), &[], &[]).unwrap();
        }
    }
    for _ in 0..4 {
        queue.put(Fd::from(null())).unwrap();
    }
    for _ in 0..4 {
        assert!(is_null(&queue.get().unwrap()));
    }
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "garbage is kept");
}

fn a_pouch_that_was_emptied_or_filled_anew_is_corrupt() {
    let queue = queue();
    let null = null();
    let contents: [&[BorrowedFd<'_>]; 3] = [&[], &[null.as_fd(); 2], &[null.as_fd(); 253]];
    for content in contents {
        queue.put(Fd::from(null.try_clone().unwrap())).unwrap();
        for [out, into] in &pouches(&queue) {
            take_all(out.as_fd());
            socket::send_now(into.as_fd(), &[0; 100], content).unwrap();
        }
        assert!(matches!(queue.get(), Err(GetError::Corrupt)));
    }
    queue.put(Fd::from(null.try_clone().unwrap())).unwrap();
    for [out, _] in &pouches(&queue) {
        take_all(out.as_fd());
    }
    assert!(matches!(queue.get(), Err(GetError::Corrupt)));
    // It is gone, and the others go on.
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    queue.put(Fd::from(null)).unwrap();
    assert!(is_null(&queue.get().unwrap()));
}

fn a_pouch_that_cannot_be_emptied_is_corrupt() {
    let queue = queue();
    for [_, into] in &pouches(&queue) {
        rustix::net::shutdown(into, rustix::net::Shutdown::Both).unwrap();
    }
    let refused = queue.put(Fd::from(null())).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::Corrupt), "{refused}");
}

fn a_rack_that_was_taken_down_is_corrupt() {
    let queue = queue();
    queue.put(Fd::from(null())).unwrap();
    let mut fds = Vec::new();
    let taken = socket::receive(
        queue.rack().unwrap(),
        &mut [0],
        &mut fds,
        RecvFlags::empty(),
    );
    assert_eq!((taken.unwrap(), fds.len()), (1, 8));
    let refused = queue.put(Fd::from(null())).unwrap_err();
    assert!(matches!(refused.reason, PutFailure::Corrupt), "{refused}");
    assert!(matches!(queue.get(), Err(GetError::Corrupt)));
}

fn sockets_that_were_shut_are_corrupt() {
    let queue = queue();
    queue.put(Fd::from(null())).unwrap();
    rustix::net::shutdown(queue.rack().unwrap(), rustix::net::Shutdown::Both).unwrap();
    // What waits there waits still.
    assert!(is_null(&queue.get().unwrap()));
}

fn descriptors_that_nobody_asked_for_are_closed() {
    let queue = queue();
    let on = 1_i32;
    let switch = |socket: BorrowedFd<'_>, option: i32| {
        // SAFETY: a live socket, and an int with its size.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const on).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        }
    };
    const SO_PASSPIDFD: i32 = 76;
    let ends = pouches(&queue);
    for socket in ends.iter().map(|[out, _]| out.as_fd()) {
        switch(socket, SO_PASSPIDFD);
        switch(socket, libc::SO_PASSCRED);
    }
    switch(queue.rack().unwrap(), SO_PASSPIDFD);
    switch(queue.rack().unwrap(), libc::SO_PASSCRED);
    let open = open_descriptors();
    for _ in 0..3 {
        queue.put(Fd::from(null())).unwrap();
        assert!(is_null(&queue.get().unwrap()));
    }
    assert_eq!(open_descriptors(), open);
}

/// Pouches that are not there, or that have another number of descriptors: each word of the message, each bit.
fn envelopes_that_lie_are_corrupt() {
    // SAFETY: the queue's own file, mapped whole; every word of it is one that others may write.
    let map = |queue: &Queue<Fd>| unsafe {
        let len = rustix::fs::fstat(queue).unwrap().st_size as usize;
        let flags = rustix::mm::MapFlags::SHARED;
        let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        let base = rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, queue, 0).unwrap();
        (base, len)
    };
    for lie in 0..128 {
        let (which, bit) = (lie / 64, lie % 64);
        let queue = queue();
        queue.put(Fd::from(null())).unwrap();
        let (base, len) = map(&queue);
        // SAFETY: as long as the mapping, which is aligned; accessed atomically.
        let words: &[AtomicU64] =
            unsafe { std::slice::from_raw_parts(base.cast_const().cast(), len / 8) };
        // Pouched, and one byte of a value; one descriptor in a pouch.
        let at = words
            .windows(2)
            .position(|two| two[0].load(SeqCst) == 1 << 62 | 1 && two[1].load(SeqCst) >> 32 == 1)
            .expect("the envelope");
        words[at + which].fetch_xor(1 << bit, SeqCst);
        match queue.try_get() {
            Err(GetError::Corrupt | GetError::Undecodable(_)) => {}
            // A longer value, whose first byte is the same.
            Ok(fd) if which == 0 && bit < 7 => assert!(is_null(&fd)),
            other => panic!("word {which}, bit {bit}: {other:?}"),
        }
        // SAFETY: mapped above, used no more.
        unsafe { rustix::mm::munmap(base, len) }.unwrap();
    }
}
