//! `active_children`: those that this process started and that still run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{Deadline, Timeout};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::registry;
use crate::sys::pidfd;

/// The children of this process that have not ended, in the order of their start; also those
/// whose [`Process`](crate::Process) was dropped. Reaps those that have ended and were dropped.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, active_children};
///
/// let sleep = |()| std::thread::sleep(std::time::Duration::from_secs(600));
/// drop(Context::default().named("sleeper").spawn(sleep, ())?);
/// for child in active_children() {
///     assert_eq!(child.name(), "sleeper");
///     child.terminate()?;
///     child.wait(std::time::Duration::from_secs(600))?;
/// }
/// assert!(active_children().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Fork
///
/// A forked child begins with none.
pub fn active_children() -> Vec<ActiveChild> {
    registry::reap_detached();
    let mut children = registry::children();
    children.retain(ActiveChild::is_alive);
    children
}

/// A child, without its result; see [`active_children`]. Its descriptor is a pidfd, which polls
/// readable when the child has ended.
#[derive(Debug, Clone)]
pub struct ActiveChild(Arc<Kin>);

/// What this process knows of a child for as long as it lives.
#[derive(Debug)]
pub(crate) struct Kin {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) daemon: bool,
    pub(crate) pidfd: OwnedFd,
    /// Ours to reap; a forkserver's child is its server's.
    pub(crate) own: bool,
}

impl Kin {
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd::signal(self.pidfd.as_fd(), signal)
    }

    pub(crate) fn signal_by_number(&self, signal: i32) -> io::Result<()> {
        self.signal(Signal::from_named_raw(signal).ok_or(Errno::INVAL)?)
    }

    pub(crate) fn has_ended(&self) -> bool {
        pidfd::has_ended(self.pidfd.as_fd())
    }
}

impl ActiveChild {
    pub(crate) fn new(kin: Arc<Kin>) -> Self {
        Self(kin)
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it ends with this process.
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        !self.0.has_ended()
    }

    /// Waits for its end, for at most `timeout`; whether it has ended.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn wait(&self, timeout: impl Into<Timeout>) -> io::Result<bool> {
        let [ended] = pidfd::wait_any([self.as_fd()], Deadline::after(timeout))?;
        Ok(ended)
    }

    /// Sends SIGTERM. A process that has ended is not an error.
    ///
    /// # Errors
    ///
    /// `EPERM`: it has changed its user.
    pub fn terminate(&self) -> io::Result<()> {
        self.0.signal(Signal::TERM)
    }

    /// Sends SIGKILL. A process that has ended is not an error.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> io::Result<()> {
        self.0.signal(Signal::KILL)
    }

    /// Sends any named signal by its number.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number without a name; as [`terminate`](Self::terminate).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.0.signal_by_number(signal)
    }
}

impl AsFd for ActiveChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}
