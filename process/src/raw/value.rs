//! One shared value without a lock.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{AttachError, CreateError, LayoutHash, copy};
use multiprocess_shm::Segment;
use multiprocess_shm::transfer::{Fd, refuse_receiving};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Plain;

/// One `T` in shared memory, read and written whole, without a lock.
///
/// Python's `RawValue`. Not for read-modify-write by several processes: an addition by two of
/// them can lose one. Use `Shared<AtomicU64>` for counters.
///
/// # Examples
///
/// ```
/// use multiprocess::RawValue;
///
/// let limit = RawValue::new(10u64)?;
/// let same = limit.clone();                // another handle, or another process's
/// same.set(20);
/// assert_eq!(limit.get(), 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// Relaxed: a value says nothing about other memory. Publish through a lock, event or ring.
///
/// # Crash safety
///
/// Values of 1, 2, 4 and 8 bytes are never torn. A writer killed half-way through another one
/// leaves old and new bytes mixed. Trust: *guarded*.
///
/// # Fork
///
/// Shared with the child.
pub struct RawValue<T> {
    segment: Arc<Segment>,
    value: PhantomData<T>,
}

impl<T: Plain> RawValue<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("RawValue").mix(T::LAYOUT.bits());
    const FITS: () = assert!(
        align_of::<T>() <= 128,
        "a shared value is aligned to 128 bytes at most"
    );

    /// Copies `value` into shared memory.
    ///
    /// # Errors
    ///
    /// As [`Segment::create`].
    pub fn new(value: T) -> Result<Self, CreateError> {
        const { Self::FITS };
        let segment = Segment::create(Self::LAYOUT, Layout::new::<T>(), |_| Ok(()))?;
        let raw = Self::of(segment);
        raw.set(value);
        Ok(raw)
    }

    /// Attaches to the value behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`]; a descriptor of another type is [`AttachError::Layout`].
    pub fn attach(file: OwnedFd) -> Result<Self, AttachError> {
        const { Self::FITS };
        let segment = Segment::attach(file, Self::LAYOUT)?;
        if segment.payload().len() != size_of::<T>() {
            return Err(AttachError::Corrupt { field: "size" });
        }
        Ok(Self::of(segment))
    }

    fn of(segment: Segment) -> Self {
        Self {
            segment: Arc::new(segment),
            value: PhantomData,
        }
    }

    /// A copy of the value.
    #[inline]
    pub fn get(&self) -> T {
        // SAFETY: `new` and `attach` made sure of size and alignment; mapped while `self`
        // lives; every access of this process goes through `copy`.
        unsafe { copy::load(self.segment.payload().base().cast().as_ptr()) }
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { copy::store(self.segment.payload().base().cast().as_ptr(), value) };
    }
}

impl<T> Clone for RawValue<T> {
    fn clone(&self) -> Self {
        Self {
            segment: Arc::clone(&self.segment),
            value: PhantomData,
        }
    }
}

impl<T> AsFd for RawValue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&self.get()).finish()
    }
}

impl<T> Serialize for RawValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RawValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = Fd::deserialize(deserializer)?.into_inner();
        Self::attach(fd).map_err(refuse_receiving)
    }
}
