//! `Process<R>`: the parent's handle on a child.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use multiprocess_core::thread::generation;
use multiprocess_core::{Deadline, Timeout};
use rustix::net::{RecvFlags, Shutdown};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use crate::active::Kin;
use crate::entry::{Reply, decode};
use crate::registry::{self, ParentEnd};
use crate::stdio::{OutputPipe, Pipes, StdinPipe};
use crate::sys::{pidfd, socket};
use crate::wire::{Frame, Reader};
use crate::{JoinError, StillRunning};

/// A child process that computes an `R`.
///
/// Made by [`Context::spawn`](crate::Context::spawn). Its descriptor
/// ([`as_fd`](AsFd::as_fd)) is a pidfd: it polls readable when the process has ended, and
/// works with `poll`, `epoll` and async runtimes.
///
/// Dropping the handle lets the process go on: nobody joins it, when this process ends either. It is
/// still among the [`active_children`](crate::active_children), and a later start reaps it. What
/// is to be waited for belongs into a [`scope`](crate::scope); what is to end with this process is a
/// [daemon](crate::Context::daemon).
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, JoinError};
///
/// fn divide((a, b): (u32, u32)) -> u32 { a / b }
///
/// let good = Context::default().spawn(divide, (42, 6))?;
/// let bad = Context::default().spawn(divide, (1, 0))?;
/// assert_eq!(good.join().unwrap(), 7);
/// assert!(matches!(bad.join(), Err(JoinError::Panicked(why)) if why.contains("zero")));
/// # Ok::<(), multiprocess::SpawnError>(())
/// ```
///
/// # Crash safety
///
/// A child killed at any point is [`JoinError::Exited`] with minus the signal. A parent killed
/// at any point leaves the child running, unless it is a
/// [daemon](crate::Context::daemon); one that had not received its call yet exits with 70.
///
/// # Fork
///
/// A forked child must not use its parent's handles: they are not its children.
pub struct Process<R> {
    kin: Arc<Kin>,
    control: ParentEnd,
    pipes: Pipes,
    /// Where the forkserver tells the exit code; `None` for our own children.
    status: Option<OwnedFd>,
    reader: Reader,
    reply: Option<Result<Frame, JoinError>>,
    exit_code: Option<i32>,
    /// Its forkserver died: until when the kernel is asked for its exit code.
    orphaned: Option<Deadline>,
    /// Whose handle it is: a forked child's copy reads nothing.
    generation: u64,
    /// For a result that came and that nobody takes.
    discard: fn(Frame),
    result: PhantomData<fn() -> R>,
}

/// Between the end of a child and its forkserver's report of it lies a moment, in which the
/// child is dead and its exit code unknown: a caller that tries once is spared it.
const REPORT_PATIENCE: Duration = Duration::from_millis(100);

/// How long, after a forkserver's death, its child's new parent may take to reap it. An init
/// reaps at once; small ones in containers look every second.
const REAP_PATIENCE: Duration = Duration::from_secs(3);
const REAP_INTERVAL: Duration = Duration::from_millis(1);

/// What a start method hands over.
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: ParentEnd,
    pub(crate) status: Option<OwnedFd>,
}

impl<R: DeserializeOwned> Process<R> {
    pub(crate) fn new(name: String, daemon: bool, pipes: Pipes, started: Started) -> Self {
        let kin = Arc::new(Kin {
            pid: started.pid,
            name,
            daemon,
            pidfd: started.pidfd,
            own: started.status.is_none(),
        });
        registry::track(&kin);
        Self {
            kin,
            control: started.control,
            pipes,
            status: started.status,
            reader: Reader::default(),
            reply: None,
            exit_code: None,
            orphaned: None,
            generation: generation(),
            discard: discard::<R>,
            result: PhantomData,
        }
    }
}

impl<R> Process<R> {
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// The process id. After the process has ended it may belong to another one: use it for
    /// messages, and [`signal`](Self::signal) for signals.
    pub fn pid(&self) -> i32 {
        self.kin.pid
    }

    /// The name given by [`Context::named`](crate::Context::named), else `Process-N` for this
    /// process's N-th child, and `Process-N:M` for that one's M-th.
    pub fn name(&self) -> &str {
        &self.kin.name
    }

    /// Whether it ends with this process.
    pub fn is_daemon(&self) -> bool {
        self.kin.daemon
    }

    /// Our end of its standard input, if that is [piped](crate::Stdio::piped); once.
    /// [`join`](Self::join) closes it if it is still here.
    pub fn take_stdin(&mut self) -> Option<StdinPipe> {
        self.pipes.stdin.take()
    }

    /// Our end of its standard output, if that is [piped](crate::Stdio::piped); once. A child that
    /// writes more than a pipe holds waits for its reader: read before you join.
    pub fn take_stdout(&mut self) -> Option<OutputPipe> {
        self.pipes.stdout.take()
    }

    /// Our end of its standard error; as [`take_stdout`](Self::take_stdout).
    pub fn take_stderr(&mut self) -> Option<OutputPipe> {
        self.pipes.stderr.take()
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        self.exit_code.is_none() && !pidfd::has_ended(self.as_fd())
    }

    /// The exit code if it has ended: what it passed to `exit`, 0 after a result, 101 after a
    /// panic, 70 if it could not do its work, minus the signal that killed it, and 255 if the
    /// kernel could not tell any more.
    ///
    /// A forkserver has 100 ms to report an end; while one is stopped, the end of its child
    /// shows in [`is_alive`](Self::is_alive) and not here.
    ///
    /// # Errors
    ///
    /// The kernel's, which retrying will not help.
    pub fn exit_code(&mut self) -> std::io::Result<Option<i32>> {
        self.collect_exit(Deadline::after(Timeout::TRY))
    }

    /// Sends SIGKILL. A process that has ended is not an error.
    ///
    /// # Errors
    ///
    /// `EPERM`: it has changed its user.
    pub fn kill(&self) -> std::io::Result<()> {
        self.kin.signal(Signal::KILL)
    }

    /// Sends SIGTERM. A process that has ended is not an error.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn terminate(&self) -> std::io::Result<()> {
        self.kin.signal(Signal::TERM)
    }

    /// Sends SIGINT, as Ctrl-C does. A process that has ended is not an error.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn interrupt(&self) -> std::io::Result<()> {
        self.kin.signal(Signal::INT)
    }

    /// Sends any named signal by its number (`libc::SIGUSR1`). There is no race with a reused
    /// pid.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number without a name; as [`kill`](Self::kill).
    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        self.kin.signal_by_number(signal)
    }

    /// Lets go of a process that has ended, result and all, and tells its exit code.
    ///
    /// # Errors
    ///
    /// [`StillRunning`] gives the process back.
    pub fn close(mut self) -> Result<i32, StillRunning<R>> {
        match self.exit_code() {
            Ok(Some(code)) => Ok(code),
            // The kernel's errors are those of a broken descriptor, and no end.
            Ok(None) | Err(_) => Err(StillRunning(Box::new(self))),
        }
    }

    /// Waits for the process to end, for at most `timeout`; its exit code, or `None` if it
    /// still runs. The result stays to be joined.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn wait_timeout(&mut self, timeout: impl Into<Timeout>) -> std::io::Result<Option<i32>> {
        let deadline = Deadline::after(timeout);
        self.collect_reply(deadline)?;
        self.collect_exit(deadline)
    }

    /// Reads the result as it comes. Ends with the whole of it, the process's end, or the
    /// deadline.
    fn collect_reply(&mut self, deadline: Deadline) -> std::io::Result<()> {
        while self.reply.is_none() {
            // Both: the end of the stream alone hangs if a grandchild inherited the socket; the
            // end of the process alone hangs if it blocks writing a large result.
            let fds = [self.control.as_fd(), self.kin.pidfd.as_fd()];
            let [readable, ended] = pidfd::wait_any(fds, deadline)?;
            // What is still to come of one that has ended is there.
            let patience = if ended { Deadline::NEVER } else { deadline };
            match self.reader.try_advance(self.control.as_fd(), patience) {
                Ok(Some(frame)) => self.reply = Some(Ok(frame)),
                Ok(None) if ended => self.reply = Some(Err(JoinError::Exited(0))),
                Ok(None) if readable && !deadline.has_passed() => {}
                Ok(None) => return Ok(()), // the deadline
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.reply = Some(Err(JoinError::Exited(0)));
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.reply = Some(Err(JoinError::Exited(0)));
                }
                Err(error) => {
                    // The rest cannot be read; the child must not wait for us to do so.
                    let _ = rustix::net::shutdown(&self.control, Shutdown::Both);
                    self.reply = Some(Err(JoinError::System(error)));
                }
            }
        }
        Ok(())
    }

    /// Learns the exit code and reaps.
    fn collect_exit(&mut self, deadline: Deadline) -> std::io::Result<Option<i32>> {
        if self.exit_code.is_some() {
            return Ok(self.exit_code);
        }
        let [ended] = pidfd::wait_any([self.as_fd()], deadline)?;
        if !ended {
            return Ok(None);
        }
        let code = match &self.status {
            None => pidfd::reap(self.as_fd())?,
            Some(_) => self.ask_forkserver(deadline)?,
        };
        if code.is_some() {
            self.exit_code = code;
            registry::forget(&self.kin);
        }
        Ok(code)
    }

    /// The forkserver reports once it has reaped; if it is dead, the kernel may still know.
    /// `None`: it is alive and has not reported yet.
    fn ask_forkserver(&mut self, deadline: Deadline) -> std::io::Result<Option<i32>> {
        let Some(status) = &self.status else {
            return Ok(None);
        };
        let moment = Deadline::after(REPORT_PATIENCE);
        let [reported] = pidfd::wait_any([status.as_fd()], later(deadline, moment))?;
        if !reported {
            return Ok(None);
        }
        let mut code = [0; 4];
        let mut fds = Vec::new();
        match socket::receive(status.as_fd(), &mut code, &mut fds, RecvFlags::DONTWAIT)? {
            4 => Ok(Some(i32::from_le_bytes(code))),
            _ => self.ask_kernel(deadline),
        }
    }

    /// The exit code of an orphan, once its new parent (init) has reaped it.
    fn ask_kernel(&mut self, deadline: Deadline) -> std::io::Result<Option<i32>> {
        let lost = *self
            .orphaned
            .get_or_insert_with(|| Deadline::after(REAP_PATIENCE));
        loop {
            match pidfd::exit_info(self.as_fd()) {
                Ok(Some(code)) => return Ok(Some(code)),
                Err(_) => return Ok(Some(pidfd::UNKNOWN)),
                Ok(None) if lost.has_passed() => return Ok(Some(pidfd::UNKNOWN)),
                Ok(None) if deadline.has_passed() => return Ok(None),
                Ok(None) => std::thread::sleep(REAP_INTERVAL),
            }
        }
    }
}

fn later(a: Deadline, b: Deadline) -> Deadline {
    match (a.nanos(), b.nanos()) {
        (Some(first), Some(second)) => {
            if first < second {
                b
            } else {
                a
            }
        }
        _ => Deadline::NEVER,
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits for the result, and for the process to end. Closes its standard input first, if that
    /// is a pipe that was not taken.
    ///
    /// # Errors
    ///
    /// [`JoinError`]: why there is none.
    pub fn join(mut self) -> Result<R, JoinError> {
        self.pipes.stdin = None;
        loop {
            if let Some(result) = self.join_timeout(Timeout::Never) {
                return result;
            }
        }
    }

    /// As [`join`](Self::join), for at most `timeout`. `None`: it still runs; ask again. The
    /// result is handed out once.
    ///
    /// # Errors
    ///
    /// [`JoinError`]: why there is none.
    pub fn join_timeout(&mut self, timeout: impl Into<Timeout>) -> Option<Result<R, JoinError>> {
        let code = match self.wait_timeout(timeout) {
            Ok(code) => code?,
            Err(error) => return Some(Err(JoinError::System(error))),
        };
        let reply = self.reply.replace(Err(JoinError::AlreadyJoined));
        Some(match reply {
            Some(Ok(frame)) => interpret(frame),
            Some(Err(JoinError::Exited(_))) | None => {
                // Stays what it is, however often it is asked.
                self.reply = Some(Err(JoinError::Exited(code)));
                Err(JoinError::Exited(code))
            }
            Some(Err(error)) => Err(error),
        })
    }
}

/// Drops a result, and with it the ends of rings in it, whose peers are told. What it runs is the
/// program's: a panic of it is no reason to panic here.
fn discard<R: DeserializeOwned>(frame: Frame) {
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(interpret::<R>(frame))));
    if let Err(payload) = dropped {
        std::mem::forget(payload);
    }
}

fn interpret<R: DeserializeOwned>(frame: Frame) -> Result<R, JoinError> {
    let reply = postcard::from_bytes(&frame.body)
        .map_err(|error| JoinError::Result(format!("malformed reply: {error}")))?;
    match reply {
        Reply::Returned(bytes) => decode(&bytes, frame.fds).map_err(JoinError::Result),
        Reply::Panicked(message) => Err(JoinError::Panicked(message)),
        Reply::Refused(message) => Err(JoinError::Refused(message)),
    }
}

impl<R> AsFd for Process<R> {
    /// The sentinel: readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kin.pidfd.as_fd()
    }
}

impl<R> Drop for Process<R> {
    fn drop(&mut self) {
        if self.exit_code.is_none() {
            registry::detach(&self.kin);
        }
        if self.generation != generation() {
            return;
        }
        let frame = match self.reply.take() {
            Some(reply) => reply.ok(),
            None => {
                // From here on its child learns that nobody reads; what it has sent before is there.
                let _ = rustix::net::shutdown(&self.control, Shutdown::Read);
                let rest = self
                    .reader
                    .try_advance(self.control.as_fd(), Deadline::NEVER);
                rest.ok().flatten()
            }
        };
        if let Some(frame) = frame
            && !frame.fds.is_empty()
        {
            (self.discard)(frame);
        }
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("alive", &self.is_alive())
            .field("exit_code", &self.exit_code)
            .finish_non_exhaustive()
    }
}
