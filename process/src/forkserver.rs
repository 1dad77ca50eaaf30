//! The forkserver: a small, single-threaded process, started early, that forks on request. Its
//! children start fast, whatever the size and the threads of the process that asks.
//!
//! # Protocol
//!
//! One `SOCK_SEQPACKET` pair. A request is one byte (1 for a daemon, 0 otherwise) with two
//! descriptors: the child's control socket and a status socket. The answer comes over the status socket: the child's pid (i32)
//! with its pidfd, or minus the errno of a fork that failed; and, when the child has ended and
//! was reaped, its exit code (i32). Any number of threads may send requests: a datagram is
//! whole or not at all.
//!
//! # Crash safety
//!
//! | killed | what happens |
//! |---|---|
//! | a requester, before its request | nothing |
//! | a requester, after it | the child finds its control socket closed and exits with 70; so it does if its requester gave up on a dying server |
//! | the client | the server sees its end by a pidfd, kills the daemons among its children, which may be stopped, reaps its children as they end, and exits |
//! | the server | status sockets close: exit codes come from the kernel (`PIDFD_GET_INFO`) or are 255; the next spawn through a default context starts a new server |
//! | a child | the server reaps it and reports |

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SocketType};
use rustix::process::Signal;

use crate::child::{MARKER, ROLE_FORKSERVER};
use crate::registry::{self, ParentSocket};
use crate::sys::{exec, fork, pidfd, socket};

/// Exit code of a server that cannot serve.
const SETUP_FAILED: i32 = 70;

/// The byte of a request for a daemon.
const DAEMON: u8 = 1;

/// A running forkserver, as its client sees it. Ends with its last client.
#[derive(Debug)]
pub(crate) struct Server {
    /// A forked child must not keep it: the server would not see the end of its client.
    requests: ParentSocket,
    pidfd: Arc<OwnedFd>,
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Request {
    status: OwnedFd,
}

/// What a request yields.
pub(crate) struct Forked {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) status: OwnedFd,
}

impl Server {
    /// Starts one by running `program` again.
    pub(crate) fn start(program: &CString) -> io::Result<Self> {
        let (ours, theirs) = socket::pair(SocketType::SEQPACKET)?;
        let requests = ParentSocket::new(ours);
        let pid = exec::run(program, theirs.as_fd(), MARKER, ROLE_FORKSERVER)?;
        drop(theirs); // makes room for the pidfd, too
        Ok(Self {
            requests,
            pidfd: Arc::new(pidfd::open_child(pid)?),
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        !pidfd::has_ended(self.pidfd.as_fd())
    }

    /// Asks for a child that talks over `control`, and ends with this process if it is a daemon.
    pub(crate) fn request(&self, control: BorrowedFd<'_>, daemon: bool) -> io::Result<Request> {
        let (status, theirs) = socket::pair(SocketType::SEQPACKET)?;
        let fds = [control, theirs.as_fd()];
        socket::send(
            self.requests.as_fd(),
            &[if daemon { DAEMON } else { 0 }],
            &fds,
        )?;
        Ok(Request { status })
    }
}

impl Request {
    /// Waits for the answer. `BrokenPipe`: the server has ended.
    pub(crate) fn answer(self) -> io::Result<Forked> {
        let Self { status } = self;
        let mut answer = [0; 4];
        let mut fds = Vec::new();
        let len = socket::receive(status.as_fd(), &mut answer, &mut fds, RecvFlags::empty())?;
        match (len, i32::from_le_bytes(answer), fds.pop()) {
            (4, pid, Some(pidfd)) => Ok(Forked { pid, pidfd, status }),
            (4, errno, None) if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
            _ => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the forkserver has ended",
            )),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        registry::detach(Arc::clone(&self.pidfd));
    }
}

struct Child {
    pidfd: OwnedFd,
    status: OwnedFd,
    daemon: bool,
}

/// The server's whole life. Runs in its process before anything else, and never returns.
pub(crate) fn serve(requests: OwnedFd) -> ! {
    if fork::thread_count().is_ok_and(|threads| threads > 1) {
        eprintln!("multiprocess: the forkserver has more than one thread and cannot fork safely");
        fork::exit_now(SETUP_FAILED);
    }
    // An interrupt from the terminal goes to the whole group; ours is to stay until the end of
    // the requests.
    // SAFETY: sets a disposition, installs no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    // Not the end of the requests: that comes with the client's last context, too. A client that
    // has died before this line has sent no call, so there is no daemon that works.
    let mut client = pidfd::open(std::os::unix::process::parent_id() as i32).ok();
    let mut requests = Some(requests);
    let mut children: Vec<Child> = Vec::new();
    while requests.is_some() || !children.is_empty() {
        let ready = match wait(requests.as_ref(), client.as_ref(), &children) {
            Ok(ready) => ready,
            Err(_) => fork::exit_now(SETUP_FAILED),
        };
        if ready.client {
            client = None;
            for daemon in children.iter().filter(|child| child.daemon) {
                // It watches the client, too, and by a thread: one that is stopped does not run.
                let _ = pidfd::signal(daemon.pidfd.as_fd(), Signal::KILL);
            }
        }
        let mut ended = ready.children.iter();
        children.retain(|child| !ended.next().copied().unwrap_or(false) || !report(child));
        if ready.request
            && let Some(socket) = requests.take()
        {
            requests = answer(socket, &mut children);
        }
    }
    fork::exit_now(0)
}

struct Ready {
    request: bool,
    /// It has ended.
    client: bool,
    children: Vec<bool>,
}

fn wait(
    requests: Option<&OwnedFd>,
    client: Option<&OwnedFd>,
    children: &[Child],
) -> io::Result<Ready> {
    let fds = children
        .iter()
        .map(|child| child.pidfd.as_fd())
        .chain(client.map(AsFd::as_fd))
        .chain(requests.map(AsFd::as_fd));
    let mut polled: Vec<PollFd<'_>> = fds
        .map(|fd: BorrowedFd<'_>| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut polled, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
    let request = requests.is_some() && ready.pop().unwrap_or(false);
    let client = client.is_some() && ready.pop().unwrap_or(false);
    Ok(Ready {
        request,
        client,
        children: ready,
    })
}

/// Reaps a child and tells its requester. `false`: it has not ended after all.
fn report(child: &Child) -> bool {
    match pidfd::reap(child.pidfd.as_fd()) {
        Ok(None) => false,
        Ok(Some(code)) => {
            // The requester may be gone.
            let _ = socket::send(child.status.as_fd(), &code.to_le_bytes(), &[]);
            true
        }
        Err(_) => true,
    }
}

/// Tells a requester why it gets no child.
fn refuse(status: &OwnedFd, error: &io::Error) {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let _ = socket::send(status.as_fd(), &(-errno).to_le_bytes(), &[]);
}

/// Handles one request. Returns the socket, or `None` at its end. In the child: never.
fn answer(requests: OwnedFd, children: &mut Vec<Child>) -> Option<OwnedFd> {
    let mut fds = Vec::new();
    let mut request = [0; 8];
    match socket::receive(requests.as_fd(), &mut request, &mut fds, RecvFlags::empty()) {
        Ok(0) => return None,
        // Too many open files: the requester sees its status socket closed.
        Err(_) => return Some(requests),
        Ok(_) => {}
    }
    let (Some(status), Some(control)) = (fds.pop(), fds.pop()) else {
        return Some(requests);
    };
    let streams = fork::Streams::hold(); // flushes
    // SAFETY: this process has one thread (checked at the start; nothing here starts another),
    // so no lock can be held by a thread that the child lacks.
    let forked = unsafe { fork::fork() };
    drop(streams);
    match forked {
        Ok(0) => {
            // SAFETY: sets a disposition, installs no handler.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
            children.clear();
            drop((requests, status));
            crate::child::run(control)
        }
        Ok(pid) => match pidfd::open_child(pid) {
            Ok(pidfd) => {
                // Should the requester be gone, the child finds its control socket closed, and
                // exits; it is to be reaped all the same.
                let _ = socket::send(status.as_fd(), &pid.to_le_bytes(), &[pidfd.as_fd()]);
                children.push(Child {
                    pidfd,
                    status,
                    daemon: request[0] == DAEMON,
                });
            }
            Err(error) => refuse(&status, &error),
        },
        // Out of processes or memory.
        Err(error) => refuse(&status, &error),
    }
    Some(requests)
}
