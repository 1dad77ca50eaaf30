//! Errors of starting and joining processes.

use std::fmt;
use std::io;

use crate::Process;

/// Why a process was not started. None is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// This process was itself started as a child and `init` has not run: spawning from here
    /// would never end. Call [`init`](crate::init) first in `main`.
    NotInitialised,
    /// The function lies in another image (a plugin) than this crate: a child would not find
    /// it.
    ForeignImage,
    /// The arguments could not be serialised. The message is the reason of the handle that
    /// refused to be sent, if one did; what else went wrong postcard does not say.
    Arguments(String),
    /// Forking needs a process with one thread; this one has more.
    Threads(usize),
    /// The forkserver's preload was not run, panicked, or left threads behind.
    Preload(String),
    /// The kernel refused: out of processes, descriptors, memory; or no pidfds (Linux 5.3).
    System(io::Error),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialised => f.write_str(
                "this is a child in which multiprocess::init() has not run: call it first in main",
            ),
            Self::ForeignImage => {
                f.write_str("the function lies in another shared object than multiprocess")
            }
            Self::Arguments(message) => write!(f, "the arguments cannot be sent: {message}"),
            Self::Threads(count) => {
                write!(f, "a process with {count} threads cannot be forked safely")
            }
            Self::Preload(message) => write!(f, "the forkserver's preload: {message}"),
            Self::System(error) => write!(f, "starting a process: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            _ => None,
        }
    }
}

impl multiprocess_shm::transfer::Reason for SpawnError {
    fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::System(error) => rustix::io::Errno::from_io_error(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SpawnError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Why a process has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The function panicked; the exit code is 101.
    Panicked(String),
    /// The process ended without a result: its exit code, or minus the signal that killed it.
    Exited(i32),
    /// The function was never called, or its result could not be serialised; the exit code
    /// is 70. The message says as much as that of [`SpawnError::Arguments`].
    Refused(String),
    /// The result came, and could not be deserialised here.
    Result(String),
    /// The result was taken by an earlier join.
    AlreadyJoined,
    /// The kernel refused.
    System(io::Error),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "the process panicked: {message}"),
            Self::Exited(code) if *code < 0 => match signal_name(-code) {
                Some(name) => write!(f, "the process was killed by {name}"),
                None => write!(f, "the process was killed by signal {}", -code),
            },
            Self::Exited(code) => write!(f, "the process exited with code {code}"),
            Self::Refused(message) => write!(f, "the process could not do its work: {message}"),
            Self::Result(message) => write!(f, "the result cannot be decoded: {message}"),
            Self::AlreadyJoined => f.write_str("the process was joined already"),
            Self::System(error) => write!(f, "joining a process: {error}"),
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            _ => None,
        }
    }
}

/// A process that cannot be [closed](Process::close): it still runs. Here it is.
pub struct StillRunning<R>(pub Box<Process<R>>);

impl<R> fmt::Debug for StillRunning<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StillRunning").field(&self.0).finish()
    }
}

impl<R> fmt::Display for StillRunning<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} still runs", self.0.name())
    }
}

impl<R> std::error::Error for StillRunning<R> {}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
