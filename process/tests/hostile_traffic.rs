//! Malformed traffic on the internal sockets ends that conversation, with an error, and nothing
//! else. The tests play the parent of a child, and the client of a forkserver, by hand.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use multiprocess::{Context, JoinError, Process};
use multiprocess_testkit::watchdog::Watchdog;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// This test's program in that role, with `control` as its descriptor 3.
fn start(role: &str, control: impl AsFd) -> Child {
    let control = control.as_fd().as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .env("MULTIPROCESS_CHILD", role)
        .stderr(Stdio::null());
    // SAFETY: dup2 is async-signal-safe. The source is close-on-exec, and its number above 3.
    unsafe {
        command.pre_exec(move || match libc::dup2(control, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command.spawn().unwrap()
}

/// Sends `bytes` to a child, and the end; its exit code, and what it says.
fn child_after(bytes: &[u8]) -> (Option<i32>, String) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child = start("child", &theirs);
    drop(theirs);
    // It may have ended before it has read all.
    let _ = ours.write_all(bytes);
    let _ = ours.shutdown(std::net::Shutdown::Write);
    let mut said = Vec::new();
    let _ = ours.read_to_end(&mut said);
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), None, "{bytes:?}");
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn header(body: u64, fds: u32) -> Vec<u8> {
    let mut header = body.to_le_bytes().to_vec();
    header.extend(fds.to_le_bytes());
    header.extend([0; 4]);
    header
}

#[test]
fn a_child_refuses_what_is_no_call() {
    let _watchdog = Watchdog::seconds(120);
    let with = |body: u64, fds: u32, rest: &[u8]| [&header(body, fds)[..], rest].concat();
    let cases: [(&str, Vec<u8>); 10] = [
        ("nothing", vec![]),
        ("a header cut short", header(8, 0)[..7].to_vec()),
        ("a body cut short", with(100, 0, &[1; 50])),
        ("no body", header(100, 0)),
        ("an empty body", header(0, 0)),
        ("garbage", with(64, 0, &[0xa5; 64])),
        ("a body larger than memory", with(u64::MAX, 0, &[0; 4096])),
        ("absurdly many descriptors", with(8, u32::MAX, &[0; 4096])),
        ("descriptors that did not come", with(8, 3, &[0; 9])),
        (
            "noise",
            (0..5000u32)
                .map(|n| (n.wrapping_mul(2654435761) >> 13) as u8)
                .collect(),
        ),
    ];
    for (what, bytes) in cases {
        let (code, said) = child_after(&bytes);
        assert_eq!(code, Some(70), "{what}: {said}");
    }
    let (_, said) = child_after(&[&header(64, 0)[..], &[0xa5; 64]].concat());
    assert!(said.contains("cannot be decoded"), "{said}");
    let (_, said) = child_after(&header(8, u32::MAX));
    assert!(said.contains("absurdly many"), "{said}");
}

#[test]
fn a_child_without_a_socket_says_so() {
    let _watchdog = Watchdog::seconds(120);
    let null = File::open("/dev/null").unwrap();
    assert_eq!(start("child", &null).wait().unwrap().code(), Some(70));
    assert_eq!(start("forkserver", &null).wait().unwrap().code(), Some(70));
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let parts = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// What one datagram says, and how many descriptors came along.
fn receive(socket: &OwnedFd) -> (Vec<u8>, usize) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 2048];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::empty()).unwrap();
    let mut fds = 0;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds += received.count();
        }
    }
    (bytes[..message.bytes].to_vec(), fds)
}

#[test]
fn a_forkserver_drops_what_is_no_request_and_goes_on() {
    let _watchdog = Watchdog::seconds(120);
    let (requests, theirs) = pair(SocketType::SEQPACKET);
    let mut server = start("forkserver", &theirs);
    drop(theirs);
    let null = File::open("/dev/null").unwrap();
    let many = [null.as_fd(); 16];
    let open_there = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.id()));
        open.map_or(0, Iterator::count)
    };
    let ask = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
        // One that is answered is closed: a closed status socket says nothing.
        let (status, theirs) = pair(SocketType::SEQPACKET);
        let all: Vec<_> = fds.iter().copied().chain([theirs.as_fd()]).collect();
        send(&requests, bytes, &all);
        drop(theirs);
        receive(&status)
    };
    assert_eq!(ask(&[9], &[]), (vec![], 0), "up, and no request");
    let open = open_there();
    send(&requests, &[], &[]);
    send(&requests, &[0], &[]);
    send(&requests, &[0xa5; 2000], &[]);
    send(&requests, &[0xa5; 2000], &many);
    for (bytes, fds) in [
        (&[][..], 0), // an empty datagram is not the end
        (&[0], 0),
        (&[0], 5),
        (&[1], 1), // a daemon without its client
        (&[0, 0], 1),
        (&[200; 64], 2),
    ] {
        assert_eq!(
            ask(bytes, &many[..fds]),
            (vec![], 0),
            "{bytes:?} with {fds}"
        );
    }
    for target in [&[][..], &[0xa5; 40], &[1, 3, b'a', b'b', b'c']] {
        let (said, _) = ask(&[&[2], target].concat(), &[]);
        assert!(said.len() > 1, "a preload that is none is refused in words");
    }
    // Nothing is kept of them, once it has closed the last.
    while open_there() != open {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // A child whose control socket is none: it ends by itself, and is told.
    let (status, theirs) = pair(SocketType::SEQPACKET);
    send(&requests, &[0], &[null.as_fd(), theirs.as_fd()]);
    drop(theirs);
    assert_eq!(receive(&status).1, 1, "its pidfd");
    assert_eq!(receive(&status).0, 70i32.to_le_bytes());
    // The end of its last client is its own.
    drop(requests);
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_status_socket_that_takes_nothing_holds_up_nobody() {
    let _watchdog = Watchdog::seconds(120);
    let (requests, theirs) = pair(SocketType::SEQPACKET);
    let mut server = start("forkserver", &theirs);
    drop(theirs);
    let null = File::open("/dev/null").unwrap();
    let (_unread, full) = pair(SocketType::SEQPACKET);
    let filler = [IoSlice::new(&[0; 1024])];
    let mut nothing = SendAncillaryBuffer::default();
    while rustix::net::sendmsg(&full, &filler, &mut nothing, SendFlags::DONTWAIT).is_ok() {}
    // A child, a daemon, a preload: each answer would wait for room.
    send(&requests, &[0], &[null.as_fd(), full.as_fd()]);
    send(&requests, &[1], &[null.as_fd(), full.as_fd(), null.as_fd()]);
    send(&requests, &[2, 0xa5], &[full.as_fd()]);
    let (status, theirs) = pair(SocketType::SEQPACKET);
    send(&requests, &[0], &[null.as_fd(), theirs.as_fd()]);
    drop(theirs);
    assert_eq!(receive(&status).1, 1, "others are served");
    drop(requests);
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_client_that_shuts_its_end_down_ends_the_server_and_does_not_drive_it() {
    let _watchdog = Watchdog::seconds(120);
    let (requests, theirs) = pair(SocketType::SEQPACKET);
    let mut server = start("forkserver", &theirs);
    drop(theirs);
    rustix::net::shutdown(&requests, rustix::net::Shutdown::Write).unwrap();
    assert!(server.wait().unwrap().success());
}

/// Writes garbage over the control socket, which is the only socket that a fresh child has.
fn answer_with_garbage(bytes: Vec<u8>) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let control = fds
        .filter_map(|fd| {
            let fd = fd.ok()?;
            let link = std::fs::read_link(fd.path()).ok()?;
            let is_socket = link.to_string_lossy().starts_with("socket:");
            is_socket.then(|| fd.file_name().to_string_lossy().parse::<i32>().unwrap())
        })
        .filter(|&fd| fd > 2)
        .min()
        .unwrap();
    // SAFETY: open; what is written to it harms only who reads it.
    unsafe { libc::write(control, bytes.as_ptr().cast(), bytes.len()) };
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) };
}

#[test]
fn a_parent_survives_what_is_no_result() {
    let _watchdog = Watchdog::seconds(120);
    let cases: [Vec<u8>; 6] = [
        vec![1, 2, 3],
        header(100, 0),
        [&header(8, 0)[..], &[0xa5; 8]].concat(),
        [&header(u64::MAX, 0)[..], &[0; 4096]].concat(),
        header(8, u32::MAX),
        [&header(8, 2)[..], &[0; 9]].concat(),
    ];
    for context in [Context::default(), Context::spawn_exec()] {
        for bytes in cases.clone() {
            let process: Process<()> = context.spawn(answer_with_garbage, bytes).unwrap();
            let error = process.join().unwrap_err();
            let expected = matches!(
                error,
                JoinError::Exited(0) | JoinError::Result(_) | JoinError::System(_)
            );
            assert!(expected, "{error:?}");
        }
        assert_eq!(context.spawn(|()| 7, ()).unwrap().join().unwrap(), 7);
    }
}
