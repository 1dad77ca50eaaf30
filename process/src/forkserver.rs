//! The forkserver: a small, single-threaded process, started early, that forks on request. Its
//! children start fast, whatever the size and the threads of the process that asks.
//!
//! # Protocol
//!
//! One `SOCK_SEQPACKET` pair. A request is one datagram, of which the first byte says what it is:
//!
//! | byte | for | descriptors | answers over the status socket |
//! |---|---|---|---|
//! | 0 | a child | its control socket, a status socket | its pid (i32) with its pidfd, or minus the errno of a fork that failed; then, when it has ended and was reaped, its exit code (i32) |
//! | 1 | a daemon | the same, and the pidfd of the process it ends with | the same |
//! | 2, and a function's target | the preload | a status socket | nothing (an empty text) if it was run, else why not |
//!
//! Any number of threads and processes may send requests: a datagram is whole or not at all. A
//! datagram that is none of these is dropped with its descriptors; whoever sent it sees its status
//! socket closed.
//!
//! # Crash safety
//!
//! | killed | what happens |
//! |---|---|
//! | a requester, before its request | nothing |
//! | a requester, after it | the child finds its control socket closed and exits with 70; so it does if its requester gave up on a dying server |
//! | a client | the server sees its end by a pidfd and kills its daemons, which may be stopped |
//! | the last client | the server reaps its children as they end, and exits |
//! | the server | status sockets close: exit codes come from the kernel (`PIDFD_GET_INFO`) or are 255; the next spawn through a default context starts a new server |
//! | a child | the server reaps it and reports |

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{RecvFlags, SocketType};

use crate::SpawnError;
use crate::child::{self, ROLE_FORKSERVER};
use crate::entry::{Entry, Target};
use crate::registry::{self, ParentEnd};
use crate::sys::{exec, pidfd, socket};

mod serve;
pub(crate) use serve::serve;

/// First bytes of requests.
const CHILD: u8 = 0;
const DAEMON: u8 = 1;
const PRELOAD: u8 = 2;

/// Bytes of a request or an answer, at most.
const LONGEST: usize = 1024;

/// A running forkserver, as a client sees it. Ends with its last client.
#[derive(Debug)]
pub(crate) struct Server {
    /// A forked child must not keep it: the server would not see the end of its client.
    requests: ParentEnd,
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
    /// Starts one by running `program` again, and runs `preload` in it.
    pub(crate) fn start(
        program: &CStr,
        preload: Option<&'static Entry>,
    ) -> Result<Self, SpawnError> {
        let preload = match preload {
            Some(entry) => Some(entry.target().ok_or(SpawnError::ForeignImage)?),
            None => None,
        };
        let (ours, theirs) = socket::pair(SocketType::SEQPACKET)?;
        let requests = ParentEnd::new(ours);
        let environment = child::environment(ROLE_FORKSERVER, std::env::vars_os())?;
        let pid = exec::run(program, theirs.as_fd(), &environment)?;
        drop(theirs); // makes room for the pidfd, too
        let server = Self {
            requests,
            pidfd: Arc::new(pidfd::open_child(pid)?),
        };
        if let Some(target) = preload {
            server.preload(&target)?;
        }
        Ok(server)
    }

    fn preload(&self, target: &Target) -> Result<(), SpawnError> {
        let (status, theirs) = socket::pair(SocketType::SEQPACKET)?;
        let mut request = vec![PRELOAD];
        request.extend(postcard::to_stdvec(target).map_err(io::Error::other)?);
        socket::send(self.requests.as_fd(), &request, &[theirs.as_fd()])?;
        drop(theirs);
        let mut answer = [0; LONGEST];
        let mut fds = Vec::new();
        match socket::receive(status.as_fd(), &mut answer, &mut fds, RecvFlags::empty())? {
            0 => Err(SpawnError::Preload("the forkserver has ended".into())),
            1 => Ok(()),
            len => {
                let why = String::from_utf8_lossy(&answer[1..len]).into_owned();
                Err(SpawnError::Preload(why))
            }
        }
    }

    /// One that another process has started, and handed on: its request end and its pidfd.
    pub(crate) fn received(requests: OwnedFd, pidfd: OwnedFd) -> Self {
        Self {
            requests: ParentEnd::new(requests),
            pidfd: Arc::new(pidfd),
        }
    }

    /// The inverse of [`received`](Self::received).
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.requests.as_fd(), self.pidfd.as_fd()]
    }

    pub(crate) fn is_alive(&self) -> bool {
        !pidfd::has_ended(self.pidfd.as_fd())
    }

    /// Asks for a child that talks over `control`, and ends with this process if it is a daemon.
    pub(crate) fn request(&self, control: BorrowedFd<'_>, daemon: bool) -> io::Result<Request> {
        let (status, theirs) = socket::pair(SocketType::SEQPACKET)?;
        let requests = self.requests.as_fd();
        if daemon {
            let us = pidfd::own()?;
            let fds = [control, theirs.as_fd(), us.as_fd()];
            socket::send(requests, &[DAEMON], &fds)?;
        } else {
            socket::send(requests, &[CHILD], &[control, theirs.as_fd()])?;
        }
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
        registry::detach_server(Arc::clone(&self.pidfd));
    }
}
