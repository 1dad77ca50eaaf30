//! What the reactor knows of a ring: the word to sleep on, whether to wake the task, and the memory that
//! keeps the word mapped.

use std::fmt;

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering::Acquire};
use multiprocess_core::{AttachError, Memory};

use crate::control::{CLOSED, Control};
use crate::endpoint::Side;

/// Of one end, without its handle, which is the task's.
pub trait Keep: Send + Sync {
    /// What its owner sleeps on.
    fn word(&self) -> &AtomicU32;

    /// Something to be compared when the task announces itself and when it may have been woken.
    fn mark(&self) -> u64 {
        0
    }

    /// Whether the task is to look: it was woken, or has what it waits for.
    fn is_to_look(&self, expected: u32, mark: u64) -> bool;

    /// Wakes another sleeper of the word, if its wakers do not wake all.
    fn pass_on(&self) {}
}

impl fmt::Debug for dyn Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

/// Of an end of a single-writer ring.
pub(super) struct SideKeep<S, M> {
    control: core::ptr::NonNull<Control>,
    _memory: M,
    side: core::marker::PhantomData<fn() -> S>,
}

// SAFETY: the pointer points into the memory, which moves along; what it points to is atomics.
unsafe impl<S, M: Send> Send for SideKeep<S, M> {}
// SAFETY: as above; the memory is not used.
unsafe impl<S, M: Sync> Sync for SideKeep<S, M> {}

impl<S: Side, M: Memory> SideKeep<S, M> {
    pub(super) fn new(memory: M) -> Result<Self, AttachError> {
        let control = Control::of(memory.region().into())?.into();
        Ok(Self {
            control,
            _memory: memory,
            side: core::marker::PhantomData,
        })
    }

    fn control(&self) -> &Control {
        // SAFETY: found good in `new`, in memory that `self` owns; all fields are atomics.
        unsafe { self.control.as_ref() }
    }

    fn peer_index(&self) -> &AtomicU64 {
        &S::peer(self.control()).progress.index
    }
}

impl<S: Side, M: Memory + Send + Sync> Keep for SideKeep<S, M> {
    fn word(&self) -> &AtomicU32 {
        S::own_doorbell(self.control())
    }

    fn mark(&self) -> u64 {
        self.peer_index().load(Acquire)
    }

    fn is_to_look(&self, expected: u32, mark: u64) -> bool {
        // A peer that woke us has published before, and takes the token away after.
        self.word().load(Acquire) != expected
            || self.peer_index().load(Acquire) != mark
            || S::peer(self.control()).role.load(Acquire) & CLOSED != 0
    }
}
