//! Unix socket pairs, and messages with descriptors (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Descriptors in one message: the kernel's `SCM_MAX_FD`.
pub const MAX_FDS: usize = 253;

/// Bytes for what a peer can make the kernel put beside the descriptors, by options of the socket that it
/// shares with us: credentials, a pidfd.
const OTHERS: usize = 128;

const SPACE: usize = cmsg_space!(ScmRights(MAX_FDS)) + OTHERS;

/// Control messages as they are received. Zero where the kernel has written none.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; SPACE]);

/// A connected pair of close-on-exec sockets.
///
/// # Errors
///
/// The kernel's.
pub fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends some of `bytes`, and at most [`MAX_FDS`] descriptors with the first of them.
///
/// Never raises SIGPIPE: a peer that is gone is `EPIPE`.
///
/// # Errors
///
/// The kernel's.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// As [`send`], without waiting for room.
///
/// # Errors
///
/// The kernel's; `EAGAIN` if there is none.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_with(
        socket,
        bytes,
        fds,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
}

fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOMANYREFS.into());
        }
        let parts = [IoSlice::new(bytes)];
        match rustix::net::sendmsg(socket, &parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives some bytes, and pushes the descriptors that came with them. 0 at the end.
///
/// # Errors
///
/// `EMFILE` if the kernel had to drop descriptors; `EAGAIN` with `RecvFlags::DONTWAIT`.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> io::Result<usize> {
    let mut space = Control([MaybeUninit::new(0); SPACE]);
    let message = loop {
        let mut control = RecvAncillaryBuffer::new(&mut space.0);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = match rustix::net::recvmsg(socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                fds.extend(received);
            }
        }
        break message;
    };
    close_pidfds(&space);
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(message.bytes)
}

/// A socket whose other users have set `SO_PASSPIDFD` gives a descriptor that nobody asked for, and that
/// rustix does not know of.
fn close_pidfds(control: &Control) {
    const SOL_SOCKET: i32 = 1;
    const SCM_PIDFD: i32 = 4;
    /// A length, a level and a type.
    const HEADER: usize = size_of::<usize>() + 8;
    // SAFETY: initialised: to 0, and by the kernel.
    let bytes = control.0.map(|byte| unsafe { byte.assume_init() });
    let number = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(i32::from_ne_bytes(*bytes))
    };
    let mut at = 0;
    while let Some(len) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let len = usize::from_ne_bytes(*len);
        if !(HEADER..=bytes.len()).contains(&len) {
            return;
        }
        let is_pidfd = number(at + size_of::<usize>()) == Some(SOL_SOCKET)
            && number(at + size_of::<usize>() + 4) == Some(SCM_PIDFD);
        if let Some(fd @ 0..) = number(at + HEADER).filter(|_| is_pidfd && len >= HEADER + 4) {
            // SAFETY: the kernel has just made it for us, and nobody else has seen its number.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        at += len.next_multiple_of(align_of::<usize>());
    }
}

/// Whether `fd` is a Unix socket, as fd 3 of a child must be.
pub fn is_socket(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_received_descriptor_is_close_on_exec() {
        let (ours, theirs) = pair(SocketType::STREAM).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(ours.as_fd(), &[0], &[null.as_fd()]).unwrap();
        let mut fds = Vec::new();
        receive(theirs.as_fd(), &mut [0], &mut fds, RecvFlags::empty()).unwrap();
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_pidfd_that_a_peer_had_put_beside_the_message_is_closed() {
        use std::os::fd::AsRawFd;
        const SO_PASSPIDFD: i32 = 76;
        let (ours, theirs) = pair(SocketType::SEQPACKET).unwrap();
        let on = 1_i32;
        // SAFETY: a live socket, and an int with its size.
        let set = unsafe {
            libc::setsockopt(
                theirs.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PASSPIDFD,
                (&raw const on).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return; // Before Linux 6.5 there is nothing to close.
        }
        send(ours.as_fd(), &[0], &[]).unwrap();
        // Whichever number was the next one is so again.
        let next = || ours.try_clone().unwrap().as_raw_fd();
        let before = next();
        let mut fds = Vec::new();
        assert_eq!(
            receive(theirs.as_fd(), &mut [0], &mut fds, RecvFlags::PEEK).unwrap(),
            1
        );
        assert!(fds.is_empty());
        // SAFETY: asks about a number.
        let open = unsafe { libc::fcntl(before, libc::F_GETFD) };
        assert!(open < 0, "the pidfd is open");
    }
}
