//! A shared array with a lock.

use std::fmt;
use std::ops::{Deref, DerefMut};

use multiprocess_core::{CreateError, LayoutHash, Timeout};
use multiprocess_shm::Shared;
use multiprocess_sync::{LockError, RLock, TryLockError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guarded::{Borrow, Guarded};
use crate::raw::slice::value;
use crate::raw::{OutOfBounds, Plain, RawSlice};
use crate::view2d::{ShapeError, View2d, View2dMut};

const KIND: LayoutHash = LayoutHash::of("Array");

/// A fixed number of `T`s in shared memory, and the lock that guards them all.
///
/// Python's `Array`. Who has locked it has a slice: indices, ranges, iterators and sorting are
/// those of slices. The lock is robust, as that of [`Value`](crate::Value), whose documentation on
/// locks, errors, crashes and forks holds here, too.
///
/// Not for elements that are changed one by one and need no lock: `Shared<[AtomicU64]>`.
/// [`RawArray`](crate::RawArray) has no lock.
///
/// # Examples
///
/// ```
/// use multiprocess::Array;
///
/// let totals = Array::<u64>::zeroed(4)?;      // sent to other processes in a message
/// totals.lock().unwrap()[2] += 7;
///
/// let mut guard = totals.lock().unwrap();     // several steps that belong together
/// guard[..2].copy_from_slice(&[3, 1]);
/// guard.sort();
/// assert_eq!(*guard, [0, 1, 3, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`Value`](crate::Value).
///
/// # Memory ordering
///
/// What a guard wrote is visible to the next guard.
///
/// # Crash safety
///
/// As [`Value`](crate::Value): a process killed with a guard leaves what it had written until then.
///
/// # Fork
///
/// As [`Value`](crate::Value).
pub struct Array<T>(Guarded<T>);

impl<T: Plain> Array<T> {
    /// `len` elements whose bytes are all zero, with a lock of their own.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for 0 or absurdly many elements; as
    /// [`Segment::create`](crate::Segment::create).
    pub fn zeroed(len: usize) -> Result<Self, CreateError> {
        Guarded::zeroed(KIND, len, None).map(Self)
    }

    /// As [`zeroed`](Self::zeroed); `lock` guards them, and whatever else it is given to.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn zeroed_with_lock(
        len: usize,
        lock: impl Into<Shared<RLock>>,
    ) -> Result<Self, CreateError> {
        Guarded::zeroed(KIND, len, Some(lock.into())).map(Self)
    }

    /// A copy of `elements`, with a lock of its own.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(elements: &[T]) -> Result<Self, CreateError> {
        Guarded::copied(KIND, elements, None).map(Self)
    }

    /// A copy of `elements`; `lock` guards it, and whatever else it is given to. See
    /// [`Value::with_lock`](crate::Value::with_lock).
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn with_lock(elements: &[T], lock: impl Into<Shared<RLock>>) -> Result<Self, CreateError> {
        Guarded::copied(KIND, elements, Some(lock.into())).map(Self)
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// The type's; [`OwnerDied`](LockError::OwnerDied) carries the guard.
    #[inline]
    pub fn lock(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
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
    ) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        match self.0.lock(timeout) {
            Ok(borrow) => Ok(ArrayGuard(borrow)),
            Err(error) => Err(error.map(ArrayGuard)),
        }
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; [`OwnerDied`](TryLockError::OwnerDied) carries the guard.
    #[inline]
    pub fn try_lock(&self) -> Result<ArrayGuard<'_, T>, TryLockError<ArrayGuard<'_, T>>> {
        self.lock_timeout(Timeout::TRY)
            .map_err(TryLockError::from_timed)
    }

    /// The lock: to hold it over several steps, or to wait with it at a
    /// [`Condition`](crate::sync::Condition).
    #[inline]
    pub fn get_lock(&self) -> &RLock {
        self.0.rlock()
    }

    /// The elements without their lock, to be copied in and out.
    ///
    /// # Safety
    ///
    /// They must not be accessed while a guard of this array lives in this process.
    pub unsafe fn get_obj(&self) -> &RawSlice<T> {
        self.0.raw()
    }
}

impl<T> Array<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an array has at least one element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Without the elements, which would have to be locked for it.
impl<T: Plain> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("len", &self.len())
            .field("lock", self.get_lock())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Guarded::deserialize(KIND, deserializer).map(Self)
    }
}

/// The elements of a locked [`Array`]; releases the lock when dropped.
///
/// Not `Send`: the lock belongs to the thread that took it.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ArrayGuard<'a, T>(Borrow<'a, T>);

impl<T: Plain> ArrayGuard<'_, T> {
    /// Declares the elements whole again, after [`LockError::OwnerDied`].
    pub fn mark_consistent(&mut self) {
        self.0.mark_consistent();
    }

    /// The elements as `rows` rows of `cols` elements each, one row behind the other.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if that is not exactly all of them.
    pub fn view2d(&self, rows: usize, cols: usize) -> Result<View2d<'_, [T]>, ShapeError> {
        View2d::new(self, rows, cols)
    }

    /// As [`view2d`](Self::view2d), with the right to write.
    ///
    /// # Errors
    ///
    /// As [`view2d`](Self::view2d).
    pub fn view2d_mut(&mut self, rows: usize, cols: usize) -> Result<View2dMut<'_, T>, ShapeError> {
        View2dMut::new(self, rows, cols)
    }
}

/// Strings: bytes up to the first NUL, or all of them. Python's `.value` of an `Array('c')`; its
/// `.raw` is the guard as a slice.
///
/// # Examples
///
/// ```
/// use multiprocess::Array;
///
/// let name = Array::from_slice(b"forty-two")?;
/// let mut name = name.lock().unwrap();
/// name.set_value(b"six")?;
/// assert_eq!(name.value(), b"six");
/// assert_eq!(*name, *b"six\0y-two");
/// assert!(name.set_value(b"seventy-seven").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl ArrayGuard<'_, u8> {
    /// The bytes before the first NUL.
    pub fn value(&self) -> &[u8] {
        value(self)
    }

    /// Replaces the string: `bytes`, and a NUL behind them if there is room. What comes after that
    /// stays as it was.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if `bytes` are more than there is room for; nothing was copied.
    pub fn set_value(&mut self, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let end = OutOfBounds::check(0, bytes.len(), self.len())?;
        self[..end].copy_from_slice(bytes);
        if let Some(behind) = self.get_mut(end) {
            *behind = 0;
        }
        Ok(())
    }
}

impl<T: Plain> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.0.elements()
    }
}

impl<T: Plain> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.elements_mut()
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ArrayGuard").field(&&**self).finish()
    }
}
