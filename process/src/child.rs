//! The child's side: takes control before the program does, runs one call, and leaves.

use std::any::Any;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use multiprocess_core::Deadline;
use multiprocess_shm::transfer::Parcel;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use crate::at_fork::Hooks;
use crate::current::{self, Identity};
use crate::entry::{Call, Encoded, Refusal, Reply};
use crate::settings::Settings;
use crate::sys::environ::Environ;
use crate::sys::exec::CONTROL_FD;
use crate::sys::{fork, pidfd, socket};
use crate::wire::{self, Frame};
use crate::{finalizer, forkserver, registry, stdio};

/// Environment variable that makes a process a child of ours.
const MARKER: &str = "MULTIPROCESS_CHILD";
pub(crate) const ROLE_CHILD: &str = "child";
pub(crate) const ROLE_FORKSERVER: &str = "forkserver";

/// Exit codes of a child, beside those the program chooses.
const OK: i32 = 0;
const SETUP_FAILED: i32 = 70; // EX_SOFTWARE
const PANICKED: i32 = 101;
const PARENT_DIED: i32 = 143;

/// Must come first in `main`: a process that was started as a child does its work here and
/// never returns.
///
/// In any other process it does nothing, and costs one look at the environment. With the
/// feature `ctor-hook` (default) it has already been called before `main`, also in test
/// harnesses; calling it is then harmless. Without the feature, a child whose `main` does not
/// call it runs `main` again; its attempts to spawn are errors, so that no fork bomb results.
///
/// # Examples
///
/// ```
/// multiprocess::init(); // first line of main
/// // ... the program
/// ```
///
/// # Fork
///
/// Not needed in a forked child.
pub fn init() {
    let Some(role) = std::env::var_os(MARKER) else {
        return;
    };
    // SAFETY: a child of ours has one thread at this point: it has just been exec'ed, and
    // `init` is documented to come first.
    unsafe { std::env::remove_var(MARKER) };
    // Rust's own runtime does this before main; the hook comes earlier.
    // SAFETY: installs no handler, only the disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if stdio::occupy().is_err() {
        fork::exit_now(SETUP_FAILED);
    }
    let Some(control) = control_socket() else {
        let _ = writeln!(
            io::stderr(),
            "multiprocess: {MARKER} is set, but descriptor {CONTROL_FD} is no socket"
        );
        fork::exit_now(SETUP_FAILED);
    };
    if role == ROLE_FORKSERVER {
        forkserver::serve(control)
    }
    run(control, Hooks::none())
}

/// The environment of a child of ours with that role.
pub(crate) fn environment(
    role: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> io::Result<Environ> {
    let others = variables.into_iter().filter(|(key, _)| key != MARKER);
    Environ::new([(MARKER.into(), role.into())].into_iter().chain(others))
}

/// Whether this process was started as a child and nobody has called [`init`] yet.
pub(crate) fn is_unclaimed() -> bool {
    std::env::var_os(MARKER).is_some()
}

fn control_socket() -> Option<OwnedFd> {
    // SAFETY: only asks the kernel about a number; nothing is done with it if it is not open.
    let probe = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    if !socket::is_socket(probe) {
        return None;
    }
    // SAFETY: open, as just seen, and ours: our parent put it there for us.
    let control = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(control)
}

#[cfg(feature = "ctor-hook")]
mod hook {
    //! Runs [`init`](super::init) before `main`, where a test harness or a program that forgot
    //! would not. It looks at one environment variable and returns, except in a child.

    extern "C" fn before_main() {
        super::init();
    }

    #[used]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
    static BEFORE_MAIN: extern "C" fn() = before_main;
}

/// Runs the call that comes over `control`, and never returns.
pub(crate) fn run(control: OwnedFd, hooks: Hooks) -> ! {
    let outcome = catch_unwind(|| -> Result<Encoded, Refusal> {
        let frame = wire::receive(control.as_fd()).map_err(|error| error.to_string())?;
        perform(frame, hooks)
    });
    finish(control, outcome)
}

fn perform(frame: Frame, hooks: Hooks) -> Result<Encoded, Refusal> {
    let call: Call = postcard::from_bytes(&frame.body)
        .map_err(|error| format!("the call cannot be decoded: {error}"))?;
    let entry = call.target.entry()?;
    let mut fds = frame.fds.into_iter();
    let mut next = || fds.next().ok_or("the call lacks a descriptor");
    let parent = next()?;
    let mut streams = [const { None }; 3];
    for (stream, replaced) in streams.iter_mut().zip(call.birth.streams) {
        if replaced {
            *stream = Some(next()?);
        }
    }
    let environ = call.birth.settings.environment.environ();
    let environ = environ.map_err(|error| error.to_string())?;
    let identity = call.birth.settle(parent.as_fd(), &streams, environ)?;
    current::assume(identity, parent);
    drop(streams);
    if let Some(log) = call.log {
        log.inherit()?;
    }
    hooks.in_child(); // one may start a thread
    (entry.run)(&call.arguments, fds.collect())
}

/// How a child differs from its parent. Travels with the call; the parent's pidfd and the new
/// standard streams are the first descriptors beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) identity: Identity,
    /// For a daemon.
    pub(crate) leash: Option<Leash>,
    pub(crate) settings: Settings,
    /// Which streams are replaced.
    pub(crate) streams: [bool; 3],
}

impl Birth {
    /// Makes this process, which has one thread, what it is to be; who it is then.
    fn settle(
        self,
        parent: BorrowedFd<'_>,
        streams: &[Option<impl AsFd>; 3],
        environ: Option<Environ>,
    ) -> Result<Identity, Refusal> {
        self.settings.apply()?;
        for (number, fd) in streams.iter().enumerate() {
            if let Some(fd) = fd {
                stdio::install(number, fd.as_fd())
                    .map_err(|error| format!("standard stream {number}: {error}"))?;
            }
        }
        if let Some(environ) = environ {
            // SAFETY: one thread.
            unsafe { environ.install() };
        }
        if let Some(leash) = self.leash {
            let watch = |parent| die_with(leash, parent);
            let watched = parent.try_clone_to_owned().and_then(watch);
            watched.map_err(|error| format!("watching the parent: {error}"))?;
        }
        Ok(self.identity)
    }
}

/// A fork's part of a birth: what was prepared before it, so that the child needs no lock.
pub(crate) struct Forked {
    pub(crate) birth: Birth,
    pub(crate) parent: OwnedFd,
    pub(crate) environ: Option<Environ>,
}

/// Runs `work` in a forked child, reports over `control`, and never returns.
pub(crate) fn run_forked(
    control: OwnedFd,
    forked: Forked,
    streams: &[Option<impl AsFd>; 3],
    hooks: Hooks,
    work: impl FnOnce() -> Result<Encoded, Refusal>,
) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let Forked {
            birth,
            parent,
            environ,
        } = forked;
        // Before the streams' descriptors go, with all ends that are the parent's.
        let settled = birth.settle(parent.as_fd(), streams, environ);
        registry::forget_parents_children(parent.as_fd());
        // The parent has our pidfd once it says so: whatever reaps its children then, it will
        // know our end.
        let mut go = [0];
        match socket::receive(
            control.as_fd(),
            &mut go,
            &mut Vec::new(),
            RecvFlags::empty(),
        ) {
            Ok(1) => current::assume(settled?, parent),
            // It died, or had no descriptor left.
            _ => fork::exit_now(SETUP_FAILED),
        }
        hooks.in_child();
        work()
    }));
    finish(control, outcome)
}

/// Reports, flushes, and leaves without running the destructors of a process that may be a
/// copy of another one.
fn finish(control: OwnedFd, outcome: Result<Result<Encoded, Refusal>, Box<dyn Any + Send>>) -> ! {
    let (reply, parcel, code) = match outcome {
        Ok(Ok(Encoded { bytes, parcel })) => (Reply::Returned(bytes), parcel, OK),
        Ok(Err(refusal)) => (Reply::Refused(refusal), Parcel::default(), SETUP_FAILED),
        Err(payload) => (
            Reply::Panicked(message(payload)),
            Parcel::default(),
            PANICKED,
        ),
    };
    let fds: Vec<_> = parcel.fds().collect();
    // Fails if the parent is gone or does not want to know.
    let sent = postcard::to_stdvec(&reply)
        .is_ok_and(|body| wire::send(control.as_fd(), &body, &fds).is_ok());
    if sent {
        parcel.into_fds();
    } else {
        // Whoever waits at the other ends of rings is told. Here: destructors do not run.
        drop(parcel);
    }
    finalizer::run_all();
    fork::exit_flushed(code)
}

/// What a panic says. The payload is not dropped, which is the program's code and may panic, too.
pub(crate) fn message(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is no string".to_owned()
    };
    std::mem::forget(payload);
    text
}

/// What ends a daemon with its parent, beside the thread that watches.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Leash {
    /// Our parent, to the kernel, is the main thread of the process that we shall end with.
    pub(crate) by_kernel: bool,
}

/// Ends this process when the process behind `parent` has ended.
///
/// By a thread: `PR_SET_PDEATHSIG` follows the parent's *thread*, and a forkserver's children have
/// the forkserver for a parent. Where neither stands in the way it is set as well: a process that
/// is stopped runs no thread. (A forkserver kills its stopped daemons itself.)
fn die_with(leash: Leash, parent: OwnedFd) -> io::Result<()> {
    if leash.by_kernel {
        // SAFETY: asks the kernel for a signal; no memory involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // The parent may have ended before the kernel knew.
        if pidfd::has_ended(parent.as_fd()) {
            fork::exit_now(PARENT_DIED);
        }
    }
    let watcher = std::thread::Builder::new()
        .name("multiprocess-daemon".into())
        .stack_size(64 << 10);
    fork::without_signals(|| {
        watcher.spawn(move || {
            // An error would mean that we can no longer tell: stay.
            if let Ok([true]) = pidfd::wait_any([parent.as_fd()], Deadline::NEVER) {
                // Nothing is flushed: the main thread may hold stdout, or be stuck writing it.
                fork::exit_now(PARENT_DIED);
            }
        })
    })?;
    Ok(())
}
