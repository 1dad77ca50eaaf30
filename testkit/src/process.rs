//! Processes of one run: forked, watched, never waited for without a deadline.

use std::time::{Duration, Instant};

/// Forks; the child runs `work` and exits: 0, or 101 if it panicked. Its pid.
///
/// The child dies with the thread that made it.
pub(crate) fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: the child runs test code that takes no lock another thread could hold, except
    // malloc's, which glibc makes usable; it leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: asks the kernel for a signal; no memory involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends the process.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) };
    }
    pid
}

/// A process that is killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pid: i32,
    reaped: bool,
}

impl Forked {
    pub(crate) fn run(work: impl FnOnce()) -> Self {
        Self {
            pid: fork(work),
            reaped: false,
        }
    }

    /// Takes over a child of ours.
    pub(crate) fn adopt(pid: i32) -> Self {
        Self { pid, reaped: false }
    }

    /// Somebody has seen its end.
    pub(crate) fn mark_reaped(&mut self) {
        self.reaped = true;
    }

    /// Waits for the end; the wait status, or `None` after `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<i32> {
        let end = Instant::now() + patience;
        loop {
            let mut status = 0;
            if wait_now(self.pid, &mut status) && !libc::WIFSTOPPED(status) {
                self.reaped = true;
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            pause();
        }
    }

    pub(crate) fn kill(&mut self) {
        if !self.reaped {
            kill_and_reap(self.pid);
            self.reaped = true;
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether `pid` has changed state; its status.
pub(crate) fn wait_now(pid: i32, status: &mut i32) -> bool {
    // SAFETY: `status` is a valid place; the pid is a child of ours.
    unsafe { libc::waitpid(pid, status, libc::WNOHANG | libc::__WALL | libc::WUNTRACED) == pid }
}

/// Kills and reaps, whatever state it is in.
pub(crate) fn kill_and_reap(pid: i32) {
    let mut status = 0;
    // SAFETY: a child of ours that was not reaped, so the pid is its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    loop {
        // SAFETY: as above.
        let waited = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        if waited < 0 || libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return;
        }
    }
}

/// The state letter of `/proc/PID/stat`: `S` asleep in the kernel, `R` running, `t` traced.
pub(crate) fn state(pid: i32) -> u8 {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        return b'?';
    };
    let after = stat.iter().rposition(|byte| *byte == b')');
    after
        .and_then(|at| stat.get(at + 2))
        .copied()
        .unwrap_or(b'?')
}

/// Lets others run for a moment.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_micros(20));
}

/// Lets another process on this CPU run.
pub(crate) fn give_way() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

/// Keeps this thread, and what it forks, on one CPU until dropped: a step is then a context
/// switch and not a wake-up of another CPU.
#[derive(Debug)]
pub(crate) struct Pinned(libc::cpu_set_t);

impl Pinned {
    pub(crate) fn here() -> Self {
        // SAFETY: a cpu_set_t is plain bits; both calls get its true size.
        unsafe {
            let mut before: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut before);
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
            Self(before)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: as in `here`.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
    }
}
