//! `posix_spawn`: a new process without copying this one's page tables.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::environ::{Environ, c_string, pointers};

/// The descriptor under which a child finds its control socket.
pub(crate) const CONTROL_FD: i32 = 3;

/// Runs `program` with `control` as descriptor 3 and this environment; its pid.
///
/// Every other descriptor of ours is close-on-exec, or the program's own business.
pub(crate) fn run(
    program: &CStr,
    control: BorrowedFd<'_>,
    environment: &Environ,
) -> io::Result<i32> {
    let own_name = std::env::args_os().next().unwrap_or_default();
    let arguments = [c_string(&own_name)?];
    let argv = pointers(&arguments);

    let mut actions = FileActions::new()?;
    actions.dup2(control.as_raw_fd(), CONTROL_FD)?;
    let attributes = Attributes::fresh_signals()?;
    let mut pid = 0;
    // SAFETY: all strings are NUL-terminated and both arrays end with a null pointer; they,
    // `actions` and `attributes` live until the call returns; `pid` is a valid place for the
    // result.
    let error = unsafe {
        libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            &actions.0,
            &attributes.0,
            argv.as_ptr(),
            environment.as_ptr(),
        )
    };
    check(error)?;
    Ok(pid)
}

fn check(error: i32) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        // SAFETY: all zeroes are a valid value of this C struct until init fills it in.
        let mut actions = Self(unsafe { std::mem::zeroed() });
        // SAFETY: a valid place to initialise.
        check(unsafe { libc::posix_spawn_file_actions_init(&mut actions.0) })?;
        Ok(actions)
    }

    /// `from` under the number `to` in the child, without close-on-exec, also if they are the
    /// same number (glibc 2.29, musl, POSIX 2024).
    fn dup2(&mut self, from: i32, to: i32) -> io::Result<()> {
        // SAFETY: initialised in `new`.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// No signal blocked, and SIGCHLD not ignored. A forkserver would hand both on to all its
    /// children: those of whichever thread happened to start it, for ever.
    fn fresh_signals() -> io::Result<Self> {
        // SAFETY: all zeroes are a valid value of this C struct until init fills it in.
        let mut attributes = Self(unsafe { std::mem::zeroed() });
        // SAFETY: a valid place to initialise.
        check(unsafe { libc::posix_spawnattr_init(&mut attributes.0) })?;
        // SAFETY: all zeroes are a valid value of this C struct; emptied for good just below.
        let (mut none, mut chld): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: two valid sets, which the setters copy, and attributes initialised above.
        unsafe {
            libc::sigemptyset(&mut none);
            libc::sigemptyset(&mut chld);
            libc::sigaddset(&mut chld, libc::SIGCHLD);
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, &none))?;
            check(libc::posix_spawnattr_setsigdefault(
                &mut attributes.0,
                &chld,
            ))?;
            check(libc::posix_spawnattr_setflags(
                &mut attributes.0,
                flags as _,
            ))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `fresh_signals`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}
