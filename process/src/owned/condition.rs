//! A condition and the lock that it belongs to.

use std::fmt;
use std::ops::Deref;

use multiprocess_core::{CreateError, ShmSafe};
use multiprocess_shm::Shared;
use multiprocess_sync::{self as sync, LockError, LockGuard, MutexGuard, RLockGuard};
use serde::{Deserialize, Serialize};

use super::Owned;

/// Python's `Condition`: a [`sync::Condition`] with its lock.
///
/// `L` is what it waits with: an [`RLock`](super::RLock) as in Python, a [`Lock`](super::Lock), or a
/// [`Mutex`](super::Mutex) with the state in it. Waiting and notifying are the primitive's
/// methods, which take and return the lock's guard; it must be that of this lock.
///
/// # Examples
///
/// ```
/// use multiprocess::owned::Condition;
/// use multiprocess::Value;
///
/// let changed = Condition::new()?;
/// let stock = Value::with_lock(0u32, changed.get_lock().clone())?;
///
/// let (there, store) = (changed.clone(), stock.clone());      // or in another process
/// let supplier = std::thread::spawn(move || {
///     let _held = there.lock().unwrap();
///     *store.lock().unwrap() += 1;
///     there.notify(1);
/// });
/// let held = changed.lock().unwrap();
/// let (_held, enough) = changed.wait_for(held, None, |_| stock.get().unwrap() > 0).unwrap();
/// assert!(enough);
/// # supplier.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety, Fork
///
/// The primitive's.
#[derive(Serialize, Deserialize)]
#[serde(bound = "L: ShmSafe + Send + Sync")]
pub struct Condition<L = sync::RLock> {
    lock: Owned<L>,
    condition: Shared<sync::Condition>,
}

impl Condition {
    /// A condition with an `RLock` of its own.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Self::with_lock(Owned::<sync::RLock>::new()?)
    }
}

impl<L> Condition<L> {
    /// A condition of `lock`, which other conditions and values may have, too.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn with_lock(lock: impl Into<Owned<L>>) -> Result<Self, CreateError> {
        Ok(Self {
            lock: lock.into(),
            condition: Shared::new(sync::Condition::new())?,
        })
    }

    /// The lock.
    pub fn get_lock(&self) -> &Owned<L> {
        &self.lock
    }
}

impl Condition<sync::RLock> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// As [`sync::RLock::lock`].
    pub fn lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.lock.lock()
    }
}

impl Condition<sync::Lock> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// As [`sync::Lock::lock`].
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.lock.lock()
    }
}

impl<T: ShmSafe> Condition<sync::Mutex<T>> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// As [`sync::Mutex::lock`].
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        self.lock.lock()
    }
}

impl<L> Deref for Condition<L> {
    type Target = sync::Condition;

    fn deref(&self) -> &sync::Condition {
        &self.condition
    }
}

impl<L> Clone for Condition<L> {
    fn clone(&self) -> Self {
        Self {
            lock: self.lock.clone(),
            condition: self.condition.clone(),
        }
    }
}

impl<L: ShmSafe + fmt::Debug> fmt::Debug for Condition<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("lock", &self.lock)
            .field("condition", &*self.condition)
            .finish()
    }
}
