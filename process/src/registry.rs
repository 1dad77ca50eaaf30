//! What this process knows of its children beyond their handles: those it must still reap, and
//! the sockets that a forked child must not keep open.
//!
//! Process-global state, which `process` alone of all crates may have. Taken before a fork and
//! let go after it on both sides, so that a child never finds it locked.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::pidfd;

struct Registry {
    /// Pidfds of children whose handles were dropped.
    detached: Vec<Arc<OwnedFd>>,
    /// Parent-side sockets of live handles, by number.
    sockets: Vec<i32>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    detached: Vec::new(),
    sockets: Vec::new(),
});

/// Held across a fork.
pub(crate) struct Held(#[allow(dead_code)] MutexGuard<'static, Registry>);

fn registry() -> MutexGuard<'static, Registry> {
    // No code that can panic runs under the lock.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps other threads out until dropped.
pub(crate) fn hold() -> Held {
    Held(registry())
}

/// Leaves a child to be reaped by a later spawn.
pub(crate) fn detach(pidfd: Arc<OwnedFd>) {
    registry().detached.push(pidfd);
}

/// Reaps detached children that have ended, so that no zombies pile up.
pub(crate) fn reap_detached() {
    registry()
        .detached
        .retain(|child| matches!(pidfd::reap(child.as_fd()), Ok(None)));
}

/// A socket whose other end belongs to one child, and that no other child may keep open:
/// the end of a stream would never be seen.
#[derive(Debug)]
pub(crate) struct ParentSocket(OwnedFd);

impl ParentSocket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        registry().sockets.push(fd.as_raw_fd());
        Self(fd)
    }
}

impl Drop for ParentSocket {
    fn drop(&mut self) {
        let number = self.0.as_raw_fd();
        registry().sockets.retain(|other| *other != number);
    }
}

impl AsFd for ParentSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// In a forked child: lets go of what belongs to the parent.
///
/// The numbers stay taken, by /dev/null: their owners, copies of the parent's values, may
/// still be dropped here and must not close somebody else's descriptor.
pub(crate) fn forget_parents_children() {
    let mut registry = registry();
    if let Ok(null) = std::fs::File::open("/dev/null") {
        for number in registry.sockets.drain(..) {
            // SAFETY: dup3 replaces an open descriptor of this process, whose owner (a
            // `ParentSocket` copied by fork) keeps a valid one.
            unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) };
        }
    }
    // The parent's children are not ours to reap. Closing a pidfd does nothing to them.
    registry.detached.clear();
}
