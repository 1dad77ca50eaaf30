//! `fork`, with what makes it bearable in a Rust program: the standard streams' locks are held
//! across it, so that the child can print.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The locks of the standard streams, held across a fork and let go on both sides: a child of a
/// process whose other threads print would otherwise hang at its first line (131 of 150 did
/// when the research note tried).
///
/// Taken before any lock of this crate: a program may start and drop processes while it holds a
/// stream, but nothing here prints while it holds a lock of its own.
#[derive(Debug)]
pub(crate) struct Streams {
    _stdout: io::StdoutLock<'static>,
    _stderr: io::StderrLock<'static>,
}

impl Streams {
    /// Locks both. Flushes stdout, so that nothing is printed twice.
    pub(crate) fn hold() -> Self {
        let mut stdout = io::stdout().lock();
        // A full disk is not a reason not to fork.
        let _ = stdout.flush();
        Self {
            _stdout: stdout,
            _stderr: io::stderr().lock(),
        }
    }
}

/// Forks. Returns the child's pid in the parent, 0 in the child.
///
/// # Safety
///
/// In the child only the calling thread exists. What the child runs must not need a lock that
/// another thread may have held at this moment, other than malloc's; [`Streams`] takes care of
/// those of the standard streams.
pub(crate) unsafe fn fork() -> io::Result<i32> {
    #[allow(clippy::disallowed_methods)] // this is the place that may
    // SAFETY: the caller's contract.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// How long a child that has done its work waits for another thread to let go of stdout.
const STDOUT_PATIENCE: Duration = Duration::from_secs(1);

/// Flushes stdout, and leaves: no destructors, no atexit handlers of the parent's.
pub(crate) fn exit_flushed(code: i32) -> ! {
    if thread_count().is_ok_and(|count| count == 1) {
        let _ = io::stdout().flush();
    } else {
        flush_unless_held();
    }
    exit_now(code)
}

/// A thread that the program left behind may hold stdout for ever, and `Stdout` cannot be asked
/// whether it does. Once it is ours, a slow reader may take its time.
fn flush_unless_held() {
    let (said, heard) = mpsc::channel();
    let flusher = thread::Builder::new().spawn(move || {
        let mut stdout = io::stdout().lock();
        let _ = said.send(());
        let _ = stdout.flush();
    });
    if let Ok(flusher) = flusher
        && heard.recv_timeout(STDOUT_PATIENCE).is_ok()
    {
        let _ = flusher.join();
    }
}

/// Leaves at once, without a lock or an allocation.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing is left to be unsound.
    unsafe { libc::_exit(code) }
}

/// Runs `start` with every signal blocked in this thread. A thread that it starts has them
/// blocked for good: no handler of the program's ever runs on its small stack.
pub(crate) fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    // SAFETY: all zeroes are a valid value of this C struct; both are filled in below.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: valid sets; SIG_BLOCK of a full set cannot fail.
    unsafe {
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
    }
    let result = start();
    // SAFETY: the mask that was in force before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}
