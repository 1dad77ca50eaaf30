//! Children by re-executing the test binary: no fork in libtest's threads.
//!
//! A test asks [`role`] first. In the test run it is `None`; in a child it is what [`Child::run`]
//! was given, and the test does that part and returns.
//!
//! ```
//! use multiprocess_testkit::child::{self, Child};
//!
//! // #[test]
//! fn a_child_says_hello() {
//!     if let Some(role) = child::role() {
//!         assert_eq!(role, "greeter");
//!         return; // exit code 0
//!     }
//!     let mut child = Child::run("a_child_says_hello", "greeter", &[]);
//!     assert!(child.wait().success());
//! }
//! ```

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

const ROLE: &str = "TESTKIT_ROLE";
const FDS: &str = "TESTKIT_FDS";

/// What this process is to do, if a test of ours started it.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Descriptor number `index` of those that came with the role.
///
/// # Panics
///
/// If there is none: the test's two halves disagree.
pub fn fd(index: usize) -> BorrowedFd<'static> {
    let fds = std::env::var(FDS).expect("a child started with descriptors");
    let number = fds.split(',').nth(index).expect("that many descriptors");
    // SAFETY: inherited under this number, and nobody in a test closes it.
    unsafe { BorrowedFd::borrow_raw(number.parse().expect("a number")) }
}

/// A test, run again in a role of its own. Killed and reaped when dropped, and when the thread
/// that started it ends.
#[derive(Debug)]
pub struct Child(std::process::Child);

impl Child {
    /// Runs the test `test` (its full path, `module::name`) as `role`, with `fds` inherited.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn run(test: &str, role: &str, fds: &[BorrowedFd<'_>]) -> Self {
        let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let list: Vec<String> = numbers.iter().map(i32::to_string).collect();
        let mut command = Command::new("/proc/self/exe");
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FDS, list.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec only async-signal-safe calls are made.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for fd in &numbers {
                    // In the child alone: the parent's stay close-on-exec.
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Self(command.spawn().expect("re-executing the test binary"))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.0.kill();
        self.wait()
    }

    /// Any signal: SIGSTOP, SIGCONT.
    pub fn signal(&self, signal: i32) {
        // SAFETY: not reaped yet, so the pid is its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Waits for its end. Put a watchdog over it.
    ///
    /// # Panics
    ///
    /// If somebody else reaped it.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("a child of ours")
    }

    /// Its exit status if it has ended within `patience`.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, patience: Duration) -> Option<ExitStatus> {
        let end = std::time::Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child of ours") {
                return Some(status);
            }
            if std::time::Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
