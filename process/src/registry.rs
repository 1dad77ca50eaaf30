//! What this process knows of its children beyond their handles: those it must still reap, and
//! the ends of sockets and pipes that a forked child must not keep open.
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

use crate::active::{ActiveChild, Kin};
use crate::at_fork::AtFork;
use crate::finalizer::Pending;
use crate::sys::pidfd;

pub(crate) struct Registry {
    /// Children that may live, in the order of their start.
    children: Vec<Tracked>,
    /// Pidfds of forkservers that lost their last client.
    servers: Vec<Arc<OwnedFd>>,
    /// Numbers of the ends that a forked child must not keep.
    ends: Vec<i32>,
    at_fork: Vec<AtFork>,
    /// In the order of their registration.
    pub(crate) finalizers: Vec<Pending>,
}

struct Tracked {
    kin: Arc<Kin>,
    /// Its handle was dropped: nobody else waits for it.
    detached: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    children: Vec::new(),
    servers: Vec::new(),
    ends: Vec::new(),
    at_fork: Vec::new(),
    finalizers: Vec::new(),
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

pub(crate) fn registry() -> MutexGuard<'static, Registry> {
    // No code that can panic runs under the lock.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps other threads out until dropped.
pub(crate) fn hold() -> Held {
    Held(registry())
}

/// Begins to list a child.
pub(crate) fn track(kin: &Arc<Kin>) {
    registry().children.push(Tracked {
        kin: Arc::clone(kin),
        detached: false,
    });
}

/// It has ended, and was reaped.
pub(crate) fn forget(kin: &Arc<Kin>) {
    let mut registry = registry();
    let place = |tracked: &Tracked| Arc::ptr_eq(&tracked.kin, kin);
    if let Some(index) = registry.children.iter().rposition(place) {
        registry.children.remove(index);
    }
}

/// Leaves a child to be reaped by a later spawn.
pub(crate) fn detach(kin: &Arc<Kin>) {
    let mut registry = registry();
    let same = |tracked: &&mut Tracked| Arc::ptr_eq(&tracked.kin, kin);
    if let Some(tracked) = registry.children.iter_mut().rfind(same) {
        tracked.detached = true;
    }
}

/// Leaves a forkserver, a child of ours, to be reaped by a later spawn.
pub(crate) fn detach_server(pidfd: Arc<OwnedFd>) {
    registry().servers.push(pidfd);
}

/// Reaps detached children that have ended, so that no zombies pile up.
pub(crate) fn reap_detached() {
    let mut registry = registry();
    registry.children.retain(|tracked| {
        let runs = |kin: &Kin| match kin.own {
            true => matches!(pidfd::reap(kin.pidfd.as_fd()), Ok(None)),
            false => !kin.has_ended(),
        };
        !tracked.detached || runs(&tracked.kin)
    });
    registry
        .servers
        .retain(|server| matches!(pidfd::reap(server.as_fd()), Ok(None)));
}

/// All that are listed.
pub(crate) fn children() -> Vec<ActiveChild> {
    let registry = registry();
    let kin = |tracked: &Tracked| ActiveChild::new(Arc::clone(&tracked.kin));
    registry.children.iter().map(kin).collect()
}

/// An end of a socket or pipe to one child, which no other child may keep open: the end of a
/// stream would never be seen.
#[derive(Debug)]
pub(crate) struct ParentEnd(ManuallyDrop<OwnedFd>);

impl ParentEnd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        registry().ends.push(fd.as_raw_fd());
        Self(ManuallyDrop::new(fd))
    }
}

impl Drop for ParentEnd {
    fn drop(&mut self) {
        let number = self.0.as_raw_fd();
        let mut registry = registry();
        registry.ends.retain(|other| *other != number);
        // Closed under the lock: a fork between the two would leave a copy in its child.
        // SAFETY: `self` is being dropped, so this is the only time, and nobody uses it later.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// In a forked child: lets go of what belongs to the parent.
///
/// The numbers stay taken, by duplicates of `parent`, a pidfd, which takes no new one: their owners,
/// copies of the parent's values, may still be dropped here and must not close somebody else's
/// descriptor.
pub(crate) fn forget_parents_children(parent: BorrowedFd<'_>) {
    let mut registry = registry();
    for number in registry.ends.drain(..) {
        // SAFETY: dup3 replaces an open descriptor of this process, whose owner (a
        // `ParentEnd` copied by fork) keeps a valid one.
        unsafe { libc::dup3(parent.as_raw_fd(), number, libc::O_CLOEXEC) };
    }
    // The parent's children are not ours to reap. Closing a pidfd does nothing to them.
    registry.children.clear();
    registry.servers.clear();
    // Nor are its finalizers to run here, or what they hold to be dropped.
    std::mem::forget(std::mem::take(&mut registry.finalizers));
}

/// For [`at_fork`](crate::at_fork()).
pub(crate) fn add_hooks(hooks: AtFork) {
    registry().at_fork.push(hooks);
}

/// A copy: one that runs may register another one.
pub(crate) fn hooks() -> Vec<AtFork> {
    registry().at_fork.clone()
}
