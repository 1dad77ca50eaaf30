//! The guards of a [`RwLock`].

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use multiprocess_core::thread::Caller;

use super::RwLock;
use crate::RawMutex;
use crate::raw_mutex::Owner;

/// Reads the data of a [`RwLock`]; lets go when dropped. Not `Send`.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct RwLockReadGuard<'a, T, const SLOTS: usize = 32> {
    lock: &'a RwLock<T, SLOTS>,
    slot: &'a RawMutex,
    caller: Caller<'a>,
    owner: Owner,
    not_send: PhantomData<*const ()>,
}

impl<'a, T, const SLOTS: usize> RwLockReadGuard<'a, T, SLOTS> {
    pub(super) fn of(
        lock: &'a RwLock<T, SLOTS>,
        slot: &'a RawMutex,
        caller: Caller<'a>,
        owner: Owner,
    ) -> Self {
        Self {
            lock,
            slot,
            caller,
            owner,
            not_send: PhantomData,
        }
    }
}

// SAFETY: `&RwLockReadGuard` gives out `&T` and nothing else.
unsafe impl<T: Sync, const SLOTS: usize> Sync for RwLockReadGuard<'_, T, SLOTS> {}

impl<T, const SLOTS: usize> Deref for RwLockReadGuard<'_, T, SLOTS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the slot is held by this guard, so no writer is inside.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T, const SLOTS: usize> Drop for RwLockReadGuard<'_, T, SLOTS> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: made by an acquisition of this caller, which only this guard releases. An
        // error: a guard that fork has copied into a child.
        let _ = unsafe { self.slot.release_guarded(&self.caller, self.owner) };
    }
}

impl<T: fmt::Debug, const SLOTS: usize> fmt::Debug for RwLockReadGuard<'_, T, SLOTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RwLockReadGuard").field(&**self).finish()
    }
}

/// Writes the data of a [`RwLock`]; lets go when dropped. Not `Send`.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct RwLockWriteGuard<'a, T, const SLOTS: usize = 32> {
    lock: &'a RwLock<T, SLOTS>,
    caller: Caller<'a>,
    owner: Owner,
    not_send: PhantomData<*const ()>,
}

// SAFETY: `&RwLockWriteGuard` gives out `&T` and nothing else.
unsafe impl<T: Sync, const SLOTS: usize> Sync for RwLockWriteGuard<'_, T, SLOTS> {}

impl<'a, T, const SLOTS: usize> RwLockWriteGuard<'a, T, SLOTS> {
    pub(super) fn of(lock: &'a RwLock<T, SLOTS>, caller: Caller<'a>, owner: Owner) -> Self {
        Self {
            lock,
            caller,
            owner,
            not_send: PhantomData,
        }
    }

    /// Declares the data whole again, after
    /// [`LockError::OwnerDied`](crate::LockError::OwnerDied).
    pub fn mark_consistent(&mut self) {
        // Not the owner in one case only: a guard that fork has copied into a child.
        let _ = self.lock.writer.mutex.mark_consistent(&self.caller);
    }
}

impl<T, const SLOTS: usize> Deref for RwLockWriteGuard<'_, T, SLOTS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the writer's mutex is held by this guard, and all slots were free since.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T, const SLOTS: usize> DerefMut for RwLockWriteGuard<'_, T, SLOTS> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed mutably.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T, const SLOTS: usize> Drop for RwLockWriteGuard<'_, T, SLOTS> {
    #[inline]
    fn drop(&mut self) {
        let mutex = &self.lock.writer.mutex;
        // SAFETY: made by an acquisition of this caller, which only this guard releases. An
        // error: a guard that fork has copied into a child.
        if unsafe { mutex.release_guarded(&self.caller, self.owner) }.is_ok() {
            self.lock.open_gate();
        }
    }
}

impl<T: fmt::Debug, const SLOTS: usize> fmt::Debug for RwLockWriteGuard<'_, T, SLOTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RwLockWriteGuard").field(&**self).finish()
    }
}
