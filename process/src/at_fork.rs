//! `at_fork`: what runs around every fork of this crate.

use crate::registry;

/// What to run around a fork; see [`at_fork`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AtFork {
    /// Before the fork, in the process that forks; the last registered first.
    pub before: Option<fn()>,
    /// After it, in that process.
    pub in_parent: Option<fn()>,
    /// After it, in the child, before its function.
    pub in_child: Option<fn()>,
}

/// Runs `hooks` around every fork of this crate from now on: those of fork contexts in this process
/// and its forked children, and, registered by a [preload](crate::set_forkserver_preload), those of
/// a forkserver. For locks that a child must not find locked, and for what is not to be shared.
///
/// There is no way to take them back; forks that others make do not run them.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use multiprocess::{AtFork, at_fork};
///
/// static GENERATION: AtomicU32 = AtomicU32::new(0);
/// at_fork(AtFork { in_child: Some(|| { GENERATION.fetch_add(1, Relaxed); }), ..AtFork::default() });
/// // SAFETY: the child needs no lock of another thread's.
/// let child = unsafe { multiprocess::Context::fork() }.spawn(|()| GENERATION.load(Relaxed), ())?;
/// assert_eq!((child.join()?, GENERATION.load(Relaxed)), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
///
/// This does not. A hook that panics before the fork or in the parent panics out of the start (and
/// after the fork, the child goes on); one that panics in the child is the child's panic. In a
/// forkserver, where nobody could catch it, a panic before the fork makes the start fail with `ECANCELED`,
/// and one after it in the server changes nothing.
pub fn at_fork(hooks: AtFork) {
    registry::add_hooks(hooks);
}

/// The hooks of one fork, of which those before it have run.
pub(crate) struct Hooks(Vec<AtFork>);

pub(crate) fn before_fork() -> Hooks {
    let hooks = registry::hooks();
    for before in hooks.iter().rev().filter_map(|hooks| hooks.before) {
        before();
    }
    Hooks(hooks)
}

impl Hooks {
    /// Where there was no fork.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn in_parent(self) {
        self.0
            .iter()
            .filter_map(|hooks| hooks.in_parent)
            .for_each(|hook| hook());
    }

    pub(crate) fn in_child(self) {
        self.0
            .iter()
            .filter_map(|hooks| hooks.in_child)
            .for_each(|hook| hook());
    }
}
