//! One shared value with a lock.

use std::fmt;
use std::ops::{Deref, DerefMut};

use multiprocess_core::copy::RacyCell;
use multiprocess_core::{CreateError, LayoutHash, Timeout};
use multiprocess_shm::Shared;
use multiprocess_sync::{LockError, RLock, TryLockError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guarded::{Borrow, Guarded};
use crate::raw::Plain;

const KIND: LayoutHash = LayoutHash::of("Value");

/// One `T` in shared memory, and the lock that guards it.
///
/// Python's `Value`. The lock is robust: if a process dies with it, the next one is told
/// ([`LockError::OwnerDied`]) and gets the guard, may repair the value, and says so by
/// [`mark_consistent`](ValueGuard::mark_consistent). The lock lies beside the value, or is
/// [given](Self::with_lock), and then may guard other values and arrays, too.
///
/// Not for a mere counter: `Shared<AtomicU64>` needs no lock. [`RawValue`](crate::RawValue) has
/// none. Fields of a larger shared struct are guarded by a [`Mutex`](crate::sync::Mutex) in it.
///
/// # Examples
///
/// ```
/// use multiprocess::Value;
///
/// let total = Value::new(0u64)?;      // sent to other processes in a message
/// *total.lock().unwrap() += 5;        // one step: nobody gets in between
/// assert_eq!(total.get().unwrap(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Of everything that locks, [`LockError`]; [`Deadlock`](LockError::Deadlock) if the thread has a
/// guard of this very value already. The lock itself is recursive: a thread that has taken it by
/// [`get_lock`](Self::get_lock), or for another value that shares it, gets the guard. It stays locked
/// while a guard lives: to release it by hand is [`NotOwner`](crate::NotOwner) then, and to wait with it
/// at a [`Condition`](crate::sync::Condition) is [`Deadlock`](LockError::Deadlock).
///
/// # Memory ordering
///
/// What a guard wrote is visible to the next guard.
///
/// # Crash safety
///
/// A process killed with a guard leaves the value as far as it was written, and the next one is told. With
/// a lock of several values one is told for all of them. Trust: *trusting*: `&mut T` assumes that peers
/// write under the lock only; T accepts any bytes.
///
/// # Fork
///
/// Shared with the child, which does not own its parent's lock: a guard that was copied into it
/// must not be used there, and releases nothing.
pub struct Value<T>(Guarded<T>);

impl<T: Plain> Value<T> {
    /// Copies `value` into shared memory, with a lock of its own.
    ///
    /// # Errors
    ///
    /// As [`Segment::create`](crate::Segment::create).
    pub fn new(value: T) -> Result<Self, CreateError> {
        Guarded::copied(KIND, &[value], None).map(Self)
    }

    /// Copies `value` into shared memory; `lock` guards it, and whatever else it is given to.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess::{Array, Shared, Value, sync};
    ///
    /// let lock = Shared::new(sync::RLock::new())?;
    /// let count = Value::with_lock(0u32, lock.clone())?;
    /// let items = Array::with_lock(&[0u64; 8], lock)?;
    /// let mut count = count.lock().unwrap();
    /// items.lock().unwrap()[*count as usize] = 7;    // the same thread: the lock is recursive
    /// *count += 1;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_lock(value: T, lock: impl Into<Shared<RLock>>) -> Result<Self, CreateError> {
        Guarded::copied(KIND, &[value], Some(lock.into())).map(Self)
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// The type's; [`OwnerDied`](LockError::OwnerDied) carries the guard.
    #[inline]
    pub fn lock(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.lock_timeout(Timeout::Never)
    }

    /// Locks unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), and [`LockError::Timeout`].
    #[inline]
    pub fn lock_timeout(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        match self.0.lock(timeout) {
            Ok(borrow) => Ok(ValueGuard(borrow)),
            Err(error) => Err(error.map(ValueGuard)),
        }
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; [`OwnerDied`](TryLockError::OwnerDied) carries the guard.
    #[inline]
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>, TryLockError<ValueGuard<'_, T>>> {
        self.lock_timeout(Timeout::TRY)
            .map_err(TryLockError::from_timed)
    }

    /// A copy of the value, taken under the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    #[inline]
    pub fn get(&self) -> Result<T, LockError<ValueGuard<'_, T>>> {
        self.lock().map(|guard| *guard)
    }

    /// Replaces the value under the lock. Between a `get` and a `set` others can come: to add to a value,
    /// keep the guard of [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    #[inline]
    pub fn set(&self, value: T) -> Result<(), LockError<ValueGuard<'_, T>>> {
        self.lock().map(|mut guard| *guard = value)
    }

    /// The lock: to hold it over several steps, or to wait with it at a
    /// [`Condition`](crate::sync::Condition).
    #[inline]
    pub fn get_lock(&self) -> &RLock {
        self.0.rlock()
    }

    /// The value without its lock, to be copied in and out.
    ///
    /// # Safety
    ///
    /// It must not be accessed while a guard of this value lives in this process.
    pub unsafe fn get_obj(&self) -> &RacyCell<T> {
        self.0.raw().first()
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Without the value, which would have to be locked for it.
impl<T: Plain> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("lock", self.get_lock())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Guarded::deserialize(KIND, deserializer).map(Self)
    }
}

/// The value of a locked [`Value`]; releases the lock when dropped.
///
/// Not `Send`: the lock belongs to the thread that took it. A borrow of a guard that was leaked must not
/// outlive that thread, as of a [`MutexGuard`](crate::MutexGuard).
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ValueGuard<'a, T>(Borrow<'a, T>);

impl<T: Plain> ValueGuard<'_, T> {
    /// Declares the value whole again, after [`LockError::OwnerDied`].
    pub fn mark_consistent(&mut self) {
        self.0.mark_consistent();
    }
}

impl<T: Plain> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.elements()[0]
    }
}

impl<T: Plain> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.elements_mut()[0]
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueGuard").field(&**self).finish()
    }
}
