//! What a robust lock must know of the thread that takes it: its id, its list of held locks
//! that the kernel walks when it dies, and whether all that is still true after a fork.
//!
//! # The kernel's list
//!
//! A thread registers the head of a list of the locks it holds
//! (<https://man7.org/linux/man-pages/man2/get_robust_list.2.html>). When it ends, however it
//! ends, the kernel marks the words that still hold its id and wakes one sleeper of each. libc
//! has registered a head for its own robust mutexes; a second one would silently disable
//! those, so our nodes join libc's list, whose shape ([`Node`]) they share.
//!
//! # Order of stores, against the thread's own death
//!
//! *lock*: pending = node; take the word; link; pending restored. *unlock*: pending = node;
//! unlink; give the word up; wake; pending restored. The kernel looks only when the thread has
//! stopped, so compiler fences are enough. Pending is restored and not cleared: a signal handler
//! may lock in the middle of this, if it unlocks before it returns.
//!
//! # Fork
//!
//! Thread id and head belong to one process. Every use compares a generation with a word that
//! the kernel wipes in a child ([`generation`]).

use core::cell::Cell;
use core::fmt;

use crate::atomic::{AtomicU64, Ordering};
use crate::sys::thread as sys;
use crate::{ParticipantId, Peers};

/// Locks that one thread may hold before the kernel's walk (2048 entries) would miss one.
pub const MAX_HELD: u32 = 2000;

/// The list node of a robust lock, 24 bytes behind its futex word. In shared memory, but the
/// addresses are of the process that holds the lock, and only that one follows them.
///
/// | offset | field | who writes |
/// |---|---|---|
/// | 0x00 | previous node, or the head | the holder |
/// | 0x08 | next node, or the head; 0: held without a list | the holder |
#[derive(Debug)]
#[repr(C)]
pub struct Node {
    pub(crate) previous: AtomicU64,
    pub(crate) next: AtomicU64,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Node>(), 16);

impl Node {
    crate::const_unless_loom! {
        /// In no list.
        pub fn new() -> Self {
            Self { previous: AtomicU64::new(0), next: AtomicU64::new(0) }
        }
    }

    /// Whether its holder has it in a list. Meaningful to the holder.
    #[inline]
    pub fn is_linked(&self) -> bool {
        self.next.load(Ordering::Relaxed) != 0
    }

    /// Held, and in no list.
    #[inline]
    pub fn set_unlinked(&self) {
        self.next.store(0, Ordering::Relaxed);
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread, as robust locks see it.
///
/// With the `std` feature [`Thread::current`] is all there is to know. Without, a thread makes
/// one for itself and keeps it where it is until the thread ends.
///
/// # Fork
///
/// Renews itself at the first use in a child.
pub struct Thread {
    generation: Cell<u64>,
    id: Cell<u32>,
    /// Locks in the list beside a first one; too few if libc's are among them, until it is empty.
    nested: Cell<u32>,
    list: sys::List,
}

/// Of a thread that has not been looked at: no process has this one.
const NO_GENERATION: u64 = u64::MAX;

impl Thread {
    /// A thread that has not been looked at yet.
    ///
    /// # Safety
    ///
    /// It must be used by one thread only (the type is neither `Send` nor `Sync`), and from its
    /// first use it must neither move nor go away before that thread has ended: the kernel
    /// may look at it then.
    pub const unsafe fn new() -> Self {
        Self {
            generation: Cell::new(NO_GENERATION),
            id: Cell::new(0),
            nested: Cell::new(0),
            list: sys::List::new(),
        }
    }

    /// Thread number `id` of a model. It has no list: the model plays the kernel.
    #[cfg(loom)]
    pub fn model(id: u32) -> Self {
        Self {
            generation: Cell::new(sys::generation()),
            id: Cell::new(id),
            nested: Cell::new(0),
            list: sys::List::new(),
        }
    }

    /// The calling thread.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn current() -> &'static Self {
        std::thread_local! {
            // SAFETY: thread-local storage of a type without Drop stays until the thread has
            // ended, and no other thread gets at it.
            static CURRENT: Thread = const { unsafe { Thread::new() } };
        }
        // SAFETY: as above. The reference cannot leave the thread, because `Thread` is !Sync.
        CURRENT.with(|thread| unsafe { &*core::ptr::from_ref(thread) })
    }

    /// Its id in its PID namespace; at most 30 bits.
    #[inline]
    pub fn id(&self) -> u32 {
        self.renew();
        self.id.get()
    }

    /// Robust locks that are in its list, libc's among them; counted by walking it.
    pub fn held(&self) -> u32 {
        self.renew();
        self.list.len(2 * MAX_HELD)
    }

    /// Whether its list holds [`MAX_HELD`] locks or more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.nested.get() >= MAX_HELD
    }

    /// Whether the kernel marks its locks when it dies.
    pub fn has_kernel_list(&self) -> bool {
        self.renew();
        self.list.is_there()
    }

    /// Looks whether this is still the process it was.
    #[inline]
    fn renew(&self) {
        if self.generation.get() != sys::generation() {
            self.begin();
        }
    }

    #[cold]
    fn begin(&self) {
        let generation = generation();
        if self.generation.get() == generation {
            return; // the kernel has no page that tells: it was asked
        }
        self.id.set(sys::thread_id());
        self.nested.set(0);
        // SAFETY: `new`'s contract: we stay here until the thread has ended.
        unsafe { self.list.attach() };
        self.generation.set(generation);
    }

    /// The node is about to be locked or unlocked: if we die, the kernel looks at it, too.
    /// Returns what was pending before, for [`settle`](Self::settle).
    ///
    /// # Safety
    ///
    /// The node is part of a robust lock, and stays mapped where it is until `settle`.
    #[inline]
    pub unsafe fn pend(&self, node: &Node) -> Pending {
        self.list.pend(node)
    }

    /// What [`pend`](Self::pend) announced is over.
    ///
    /// # Safety
    ///
    /// `before` came from the last `pend` of this thread that was not settled yet.
    #[inline]
    pub unsafe fn settle(&self, before: Pending) {
        self.list.settle(before);
    }

    /// Puts a node that we just locked into the list, if there is one.
    ///
    /// # Safety
    ///
    /// The node is pending and ours, and stays mapped where it is until it is unlinked.
    #[inline]
    pub unsafe fn link(&self, node: &Node) {
        // SAFETY: the caller's word.
        if unsafe { self.list.link(node) } {
            self.nested.set(self.nested.get().saturating_add(1));
        }
    }

    /// Takes it out again.
    ///
    /// # Safety
    ///
    /// This thread linked it, in this process, and it is pending.
    #[inline]
    pub unsafe fn unlink(&self, node: &Node) {
        // SAFETY: the caller's word.
        let others = unsafe { self.list.unlink(node) };
        if self.nested.get() != 0 {
            let fewer = if others { self.nested.get() - 1 } else { 0 };
            self.nested.set(fewer);
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread")
            .field("id", &self.id())
            .field("held", &self.held())
            .field("kernel_list", &self.has_kernel_list())
            .finish()
    }
}

pub use sys::Pending;

/// Whether a thread of this process has this id. A system call.
pub fn is_own_thread(id: u32) -> bool {
    sys::is_own_thread(id)
}

/// Whether there is a thread with this id in this PID namespace; `true` if the kernel will not
/// say. A system call.
pub fn thread_exists(id: u32) -> bool {
    sys::thread_exists(id)
}

/// A number that is another one in every process that fork has made; odd.
///
/// One load. What a process caches about itself is true while this stays the same.
#[inline]
pub fn generation() -> u64 {
    match sys::generation() {
        0 => sys::begin_generation(),
        known => known,
    }
}

/// Who calls: a thread, and the participants it belongs to, if any.
///
/// What the owned locks are taken with. Cheap to make: two references.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    thread: &'a Thread,
    peers: Option<&'a dyn Peers>,
}

impl<'a> Caller<'a> {
    /// `thread`, known to nobody: its death is seen by the kernel's list alone.
    #[inline]
    pub const fn new(thread: &'a Thread) -> Self {
        Self {
            thread,
            peers: None,
        }
    }

    /// The calling thread.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn current() -> Caller<'static> {
        Caller::new(Thread::current())
    }

    /// As a participant among `peers`.
    #[inline]
    #[must_use]
    pub const fn among(self, peers: &'a dyn Peers) -> Self {
        Self {
            thread: self.thread,
            peers: Some(peers),
        }
    }

    /// The thread.
    #[inline]
    pub const fn thread(&self) -> &'a Thread {
        self.thread
    }

    /// The participants it belongs to.
    #[inline]
    pub fn peers(&self) -> Option<&'a dyn Peers> {
        self.peers
    }

    /// Its process's participant, or [`ParticipantId::ANONYMOUS`].
    #[inline]
    pub fn participant(&self) -> ParticipantId {
        self.peers
            .map_or(ParticipantId::ANONYMOUS, |peers| peers.me())
    }

    /// Whether thread ids mean the same to all who may hold the lock.
    #[inline]
    pub fn trusts_thread_ids(&self) -> bool {
        self.peers.is_none_or(|peers| peers.share_pid_namespace())
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("thread", self.thread)
            .field("participant", &self.participant())
            .finish()
    }
}
