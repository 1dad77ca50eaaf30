//! The server's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Signal;

use super::{CHILD, DAEMON, LONGEST, PRELOAD};
use crate::entry::{Refusal, Target};
use crate::sys::{fork, pidfd, socket};
use crate::{at_fork, child};

/// Exit code of a server that cannot serve.
const SETUP_FAILED: i32 = 70;

struct Child {
    pidfd: OwnedFd,
    status: OwnedFd,
    /// Of a daemon: the process it ends with, while that lives.
    client: Option<OwnedFd>,
}

/// The server's whole life. Runs in its process before anything else, and never returns.
pub(crate) fn serve(requests: OwnedFd) -> ! {
    if let Err(why) = refuse_threads() {
        eprintln!("multiprocess: {why}");
        fork::exit_now(SETUP_FAILED);
    }
    // An interrupt from the terminal goes to the whole group; ours is to stay until the end of
    // the requests.
    // SAFETY: sets a disposition, installs no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let mut requests = Some(requests);
    let mut children: Vec<Child> = Vec::new();
    while requests.is_some() || !children.is_empty() {
        let ready = match wait(requests.as_ref(), &children) {
            Ok(ready) => ready,
            Err(_) => fork::exit_now(SETUP_FAILED),
        };
        let mut ended = ready.children.iter();
        children.retain_mut(|child| match ended.next().copied().unwrap_or_default() {
            Ended { child: true, .. } => !report(child),
            Ended { client: true, .. } => {
                // It watches its client, too, and by a thread: one that is stopped does not run.
                child.client = None;
                let _ = pidfd::signal(child.pidfd.as_fd(), Signal::KILL);
                true
            }
            _ => true,
        });
        if ready.request
            && let Some(socket) = requests.take()
        {
            requests = answer(socket, &mut children);
        }
    }
    fork::exit_now(0)
}

fn refuse_threads() -> Result<(), Refusal> {
    match fork::thread_count() {
        Ok(threads) if threads > 1 => Err(format!(
            "the forkserver has {threads} threads and cannot fork safely"
        )),
        _ => Ok(()),
    }
}

struct Ready {
    request: bool,
    children: Vec<Ended>,
}

#[derive(Clone, Copy, Default)]
struct Ended {
    child: bool,
    client: bool,
}

fn wait(requests: Option<&OwnedFd>, children: &[Child]) -> io::Result<Ready> {
    let clients = children.iter().filter_map(|child| child.client.as_ref());
    let fds = (children.iter().map(|child| &child.pidfd))
        .chain(clients)
        .chain(requests);
    let mut polled: Vec<PollFd<'_>> = fds
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    while let Err(errno) = poll(&mut polled, None) {
        if errno != Errno::INTR {
            return Err(errno.into());
        }
    }
    let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
    let (own, mut others) = (&ready[..children.len()], ready[children.len()..].iter());
    let mut next = |polled: bool| polled && others.next().copied().unwrap_or(false);
    Ok(Ready {
        children: (children.iter().zip(own))
            .map(|(child, &ended)| Ended {
                child: ended,
                client: next(child.client.is_some()),
            })
            .collect(),
        request: next(requests.is_some()),
    })
}

/// Reaps a child and tells its requester. `false`: it has not ended after all.
fn report(child: &Child) -> bool {
    match pidfd::reap(child.pidfd.as_fd()) {
        Ok(None) => false,
        Ok(Some(code)) => {
            tell(&child.status, &code.to_le_bytes(), &[]);
            true
        }
        Err(_) => true,
    }
}

/// Tells a requester, which may be gone, or have sent a socket that takes nothing: the others do not
/// wait for it.
fn tell(status: &OwnedFd, answer: &[u8], fds: &[BorrowedFd<'_>]) {
    let _ = socket::send_now(status.as_fd(), answer, fds);
}

/// Tells a requester why it gets no child.
fn refuse(status: &OwnedFd, error: &io::Error) {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    tell(status, &(-errno).to_le_bytes(), &[]);
}

/// Handles one request. Returns the socket, or `None` at its end. In the child: never.
fn answer(requests: OwnedFd, children: &mut Vec<Child>) -> Option<OwnedFd> {
    let mut fds = Vec::new();
    let mut request = [0; LONGEST];
    let len = match socket::receive(requests.as_fd(), &mut request, &mut fds, RecvFlags::empty()) {
        Ok(0) if has_hung_up(requests.as_fd()) => return None,
        Ok(len) => len,
        // Too many open files: the requester sees its status socket closed.
        Err(_) => return Some(requests),
    };
    let (&kind, rest) = request[..len].split_first().unwrap_or((&u8::MAX, &[]));
    let mut fds = fds.into_iter();
    match (kind, fds.next(), fds.next(), fds.next(), fds.next()) {
        (CHILD, Some(control), Some(status), None, None) if rest.is_empty() => {
            Some(fork_child(requests, children, control, status, None))
        }
        (DAEMON, Some(control), Some(status), client @ Some(_), None) if rest.is_empty() => {
            Some(fork_child(requests, children, control, status, client))
        }
        (PRELOAD, Some(status), None, None, None) => {
            let mut answer = vec![0];
            if let Err(why) = preload(rest) {
                answer.extend(why.bytes().take(LONGEST - 1));
            }
            tell(&status, &answer, &[]);
            Some(requests)
        }
        // Nobody asks like this.
        _ => Some(requests),
    }
}

/// An empty datagram looks like the end of all clients. That their end was shut down is an end, too.
fn has_hung_up(requests: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(requests, PollFlags::RDHUP)];
    let now = rustix::event::Timespec::default();
    let ends = PollFlags::HUP | PollFlags::RDHUP;
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(ends)
}

fn preload(target: &[u8]) -> Result<(), Refusal> {
    let target: Target = postcard::from_bytes(target).map_err(|error| error.to_string())?;
    let entry = target.entry()?;
    // Of the preload's message nothing but its result is kept: () in, () out.
    match catch_unwind(|| (entry.run)(&[], Vec::new())) {
        Ok(outcome) => drop(outcome?),
        Err(payload) => return Err(format!("it panicked: {}", child::message(payload))),
    }
    refuse_threads()
}

fn fork_child(
    requests: OwnedFd,
    children: &mut Vec<Child>,
    control: OwnedFd,
    status: OwnedFd,
    client: Option<OwnedFd>,
) -> OwnedFd {
    // A hook that panics is not to end the server, and with it what others wait for.
    let hooks = match catch_unwind(at_fork::before_fork) {
        Ok(hooks) => hooks,
        Err(payload) => {
            std::mem::forget(payload);
            refuse(&status, &Errno::CANCELED.into());
            return requests;
        }
    };
    let streams = fork::Streams::hold(); // flushes
    // SAFETY: this process has one thread (checked at the start and after the preload; nothing
    // here starts another), so no lock can be held by a thread that the child lacks.
    let forked = unsafe { fork::fork() };
    drop(streams);
    match forked {
        Ok(0) => {
            // SAFETY: sets a disposition, installs no handler.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
            children.clear();
            drop((requests, status, client));
            child::run(control, hooks)
        }
        Ok(pid) => match pidfd::open_child(pid) {
            Ok(pidfd) => {
                // Should the requester be gone, the child finds its control socket closed, and
                // exits; it is to be reaped all the same.
                tell(&status, &pid.to_le_bytes(), &[pidfd.as_fd()]);
                children.push(Child {
                    pidfd,
                    status,
                    client,
                });
            }
            Err(error) => refuse(&status, &error),
        },
        // Out of processes or memory.
        Err(error) => refuse(&status, &error),
    }
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| hooks.in_parent())) {
        std::mem::forget(payload);
    }
    requests
}
