//! What this process knows of its children beyond their handles: those it must still reap, and
//! the sockets that a forked child must not keep open.
//!
//! Process-global state, which `process` alone of all crates may have. Taken before a fork and
//! let go after it on both sides, so that a child never finds it locked.
//!
//! # Order of locks
//!
//! Standard streams, [`STARTING`], the shared forkserver, [`REGISTRY`]. A thread that holds one
//! takes none to its left.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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

/// Shared while a start has sockets open that are not in the registry, or belong to the child;
/// exclusive across a fork, whose child would keep copies of them.
static STARTING: RwLock<()> = RwLock::new(());

/// Forks wait until it is dropped.
pub(crate) struct Starting(#[expect(dead_code)] RwLockReadGuard<'static, ()>);

/// Begins a start.
pub(crate) fn starting() -> Starting {
    Starting(STARTING.read().unwrap_or_else(PoisonError::into_inner))
}

/// No start of another thread is under way until it is dropped.
pub(crate) struct Quiet(#[expect(dead_code)] RwLockWriteGuard<'static, ()>);

/// Waits for the starts that are under way.
pub(crate) fn quiet() -> Quiet {
    Quiet(STARTING.write().unwrap_or_else(PoisonError::into_inner))
}

/// Held across a fork.
pub(crate) struct Held(#[expect(dead_code)] MutexGuard<'static, Registry>);

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
pub(crate) struct ParentSocket(ManuallyDrop<OwnedFd>);

impl ParentSocket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        registry().sockets.push(fd.as_raw_fd());
        Self(ManuallyDrop::new(fd))
    }
}

impl Drop for ParentSocket {
    fn drop(&mut self) {
        let number = self.0.as_raw_fd();
        let mut registry = registry();
        registry.sockets.retain(|other| *other != number);
        // Closed under the lock: a fork between the two would leave a copy in its child.
        // SAFETY: `self` is being dropped, so this is the only time, and nobody uses it later.
        unsafe { ManuallyDrop::drop(&mut self.0) };
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
