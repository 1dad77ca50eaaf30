//! Who this process is among those that `multiprocess` started.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use multiprocess_core::{Deadline, Timeout};
use serde::{Deserialize, Serialize};

use crate::sys::pidfd;

/// What a child is told about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Its place among its siblings, after its parent's.
    pub(crate) lineage: Vec<u64>,
    pub(crate) daemon: bool,
    parent_name: String,
    parent_pid: u32,
}

impl Identity {
    /// Of the next child of this process; `None` makes up a name: `Process-2` for the second
    /// child, `Process-2:1` for that one's first.
    pub(crate) fn of_next_child(name: Option<&str>, daemon: bool) -> Self {
        let own = own();
        let place = own.children.fetch_add(1, Ordering::Relaxed) + 1;
        let lineage: Vec<u64> = own.lineage.iter().copied().chain([place]).collect();
        Self {
            name: name.map_or_else(|| made_up(&lineage), str::to_owned),
            lineage,
            daemon,
            parent_name: own.name.clone().into_owned(),
            parent_pid: std::process::id(),
        }
    }
}

fn made_up(lineage: &[u64]) -> String {
    let mut name = String::from("Process");
    for (level, place) in lineage.iter().enumerate() {
        let separator = if level == 0 { '-' } else { ':' };
        // Writing to a String cannot fail.
        let _ = write!(name, "{separator}{place}");
    }
    name
}

/// Who this process is.
#[derive(Debug)]
struct Own {
    name: Cow<'static, str>,
    lineage: Vec<u64>,
    daemon: bool,
    parent: Option<ParentProcess>,
    /// Children that were begun.
    children: AtomicU64,
}

/// A process that nobody here started.
static FIRST: Own = Own {
    name: Cow::Borrowed("MainProcess"),
    lineage: Vec::new(),
    daemon: false,
    parent: None,
    children: AtomicU64::new(0),
};

/// Null: [`FIRST`]. Set in a child before its call, when it has one thread; never freed.
static OWN: AtomicPtr<Own> = AtomicPtr::new(ptr::null_mut());

fn own() -> &'static Own {
    // Pairs with the Release in `assume`.
    let own = OWN.load(Ordering::Acquire);
    // SAFETY: null, or a box that `assume` leaked and nobody frees or changes.
    unsafe { own.as_ref() }.unwrap_or(&FIRST)
}

/// In a child: this is who we are.
pub(crate) fn assume(identity: Identity, parent: OwnedFd) {
    let own = Box::new(Own {
        name: Cow::Owned(identity.name),
        lineage: identity.lineage,
        daemon: identity.daemon,
        parent: Some(ParentProcess {
            pid: identity.parent_pid,
            name: identity.parent_name,
            pidfd: parent,
        }),
        children: AtomicU64::new(0),
    });
    // Pairs with the Acquire in `own`. A forked child drops nothing of its parent's: that one's
    // identity may still be borrowed for 'static.
    OWN.store(Box::into_raw(own), Ordering::Release);
}

/// This process, as its parent named it.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, current_process};
///
/// assert_eq!(current_process().name(), "MainProcess");
/// let child = Context::default().named("worker").spawn(|()| current_process().name().to_owned(), ())?;
/// assert_eq!(child.join()?, "worker");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Fork
///
/// A child that the program forks by itself keeps its parent's name.
pub fn current_process() -> CurrentProcess {
    CurrentProcess(own())
}

/// See [`current_process`].
#[derive(Debug, Clone, Copy)]
pub struct CurrentProcess(&'static Own);

impl CurrentProcess {
    /// The name that [`Context::named`](crate::Context::named) gave it, or a made-up one;
    /// `MainProcess` if it is no child.
    pub fn name(&self) -> &'static str {
        &self.0.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it ends with its parent.
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }
}

/// The process that started this one; `None` if this one is no child.
///
/// That is who asked for it: a forkserver's child has another parent to the kernel.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, parent_process};
///
/// assert!(parent_process().is_none());
/// let child = Context::default().spawn(|()| parent_process().unwrap().pid(), ())?;
/// assert_eq!(child.join()?, std::process::id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn parent_process() -> Option<&'static ParentProcess> {
    own().parent.as_ref()
}

/// See [`parent_process`]. Its descriptor polls readable when that process has ended.
#[derive(Debug)]
pub struct ParentProcess {
    pid: u32,
    name: String,
    pidfd: OwnedFd,
}

impl ParentProcess {
    /// Its process id, which may be another one's once it has ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        !pidfd::has_ended(self.as_fd())
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
}

impl AsFd for ParentProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How many processes can run at a time: those that this process may use, by its affinity and its
/// cgroup's quota; 1 if that cannot be told.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, cpu_count};
///
/// let context = Context::default().affinity([0]);
/// # let allowed = std::fs::read_to_string("/proc/self/status")?.contains("Cpus_allowed_list:\t0");
/// # if allowed {
/// assert_eq!(context.spawn(|()| cpu_count(), ())?.join()?, 1);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_tell_the_lineage() {
        assert_eq!(made_up(&[2]), "Process-2");
        assert_eq!(made_up(&[2, 1, 3]), "Process-2:1:3");
    }
}
