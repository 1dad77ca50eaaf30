//! `fork`, with what makes it bearable in a Rust program: the standard streams' locks are held
//! across it, so that the child can print.

use std::io::{self, Write};

/// Forks. Returns the child's pid in the parent, 0 in the child.
///
/// `stdout` is flushed before, so that nothing is printed twice, and `stdout` and `stderr` are
/// locked across the call: a child of a process whose other threads print would otherwise hang
/// at its first line (131 of 150 did when the research note tried).
///
/// # Safety
///
/// In the child only the calling thread exists. What the child runs must not need a lock that
/// another thread may have held at this moment, other than malloc's and those named above.
pub(crate) unsafe fn fork() -> io::Result<i32> {
    let mut stdout = io::stdout().lock();
    let _stderr = io::stderr().lock();
    // A full disk is not a reason not to fork.
    let _ = stdout.flush();
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

/// Leaves at once: no destructors, no atexit handlers of the parent's.
pub(crate) fn exit_now(code: i32) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: ends the process; nothing is left to be unsound.
    unsafe { libc::_exit(code) }
}
