//! Processes by descriptor: no reused pid is ever signalled or waited for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use multiprocess_core::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// Exit code of a process nobody can tell about any more; Python's choice.
pub(crate) const UNKNOWN: i32 = 255;

/// A descriptor of the process `pid`, which must be a child that has not been reaped, or
/// ourselves.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A descriptor of a child that was started just now. If there is none to be had (`EMFILE`), the
/// child is killed and reaped: nobody could tell about it.
pub(crate) fn open_child(pid: i32) -> io::Result<OwnedFd> {
    open(pid).inspect_err(|error| {
        if error.raw_os_error() == Some(libc::ESRCH) {
            return; // ended, and reaped by somebody else: the pid is no longer its own
        }
        // SAFETY: our own child, alive or a zombie as ESRCH was ruled out: the pid is its own.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    })
}

/// Sends a signal; a process that has ended is not an error.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Polls until one of `fds` is readable or hung up, or the deadline passes; which ones.
pub(crate) fn wait_any<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Deadline,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let timeout = deadline.remaining().map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether the process has ended (a zombie has).
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    wait_any([pidfd], Deadline::after(std::time::Duration::ZERO)).is_ok_and(|[ended]| ended)
}

/// Reaps our own child if it has ended: its exit code, or minus the signal that killed it.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    loop {
        return match waitid(WaitId::PidFd(pidfd), options) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => Ok(Some(match status.terminating_signal() {
                Some(signal) => -signal,
                None => status.exit_status().unwrap_or(UNKNOWN),
            })),
            Err(Errno::INTR) => continue,
            // Somebody else reaped it: SIGCHLD ignored, or a waitpid(-1) of the program's.
            Err(Errno::CHILD) => Ok(Some(exit_info(pidfd).ok().flatten().unwrap_or(UNKNOWN))),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// `PIDFD_GET_INFO` (Linux 6.15): the exit status, for any holder of the pidfd. `None` until the
/// process has been reaped, by whomever.
///
/// # Errors
///
/// `ENOTTY`, `EINVAL`: an older kernel, which will not know later either.
pub(crate) fn exit_info(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    /// `struct pidfd_info`, 64 bytes (include/uapi/linux/pidfd.h).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        pid: u32,
        tgid: u32,
        ppid: u32,
        ids: [u32; 8],
        exit_code: i32,
    }
    const _: () = assert!(size_of::<Info>() == 64);
    const EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`.
    const GET_INFO: u64 = 3 << 30 | 64 << 16 | 0xff << 8 | 11;

    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // SAFETY: the request's size field says 64 bytes, which is what `info` has; the kernel
    // writes no more than that. On a descriptor that does not know it, it fails with ENOTTY.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if info.mask & EXIT == 0 {
        return Ok(None);
    }
    Ok(Some(if libc::WIFSIGNALED(info.exit_code) {
        -libc::WTERMSIG(info.exit_code)
    } else {
        libc::WEXITSTATUS(info.exit_code)
    }))
}

/// A descriptor of this process, for children to watch.
pub(crate) fn own() -> io::Result<OwnedFd> {
    open(std::process::id() as i32)
}
