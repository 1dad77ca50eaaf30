//! A shared array without a lock.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::copy::RacyCell;
use multiprocess_core::{AttachError, CreateError, LayoutHash};
use multiprocess_shm::Segment;
use multiprocess_shm::transfer::{Fd, refuse_receiving};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Plain, RawSlice};

/// A fixed number of `T`s in shared memory, without a lock.
///
/// Python's `RawArray`. Elements are copied in and out: by the methods of [`RawSlice`], which it
/// dereferences to. Not for read-modify-write by several processes, unless a lock of theirs keeps
/// them apart ([`Array`](crate::Array) has one), or the elements are atomics
/// (`Shared<[AtomicU64]>`).
///
/// # Examples
///
/// ```
/// use multiprocess::RawArray;
///
/// let totals = RawArray::<u64>::zeroed(4)?;
/// totals.set(2, 7)?;
/// assert_eq!(totals.to_vec(), [0, 0, 7, 0]);
/// assert_eq!(totals.get(4), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// Relaxed: an element says nothing about other memory. Publish through a lock, event or ring.
///
/// # Crash safety
///
/// Elements of 1, 2, 4 and 8 bytes are never torn, in slices neither. A writer killed half-way
/// through another one, or through several, leaves old and new bytes mixed. Trust: *guarded*.
///
/// # Fork
///
/// Shared with the child.
pub struct RawArray<T> {
    segment: Arc<Segment>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> RawArray<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("RawArray").mix(T::LAYOUT.bits());
    const FITS: () = assert!(
        align_of::<T>() <= 128 && size_of::<T>() > 0,
        "an element has a size, and is aligned to 128 bytes at most"
    );

    /// `len` elements whose bytes are all zero.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for 0 or absurdly many elements; as [`Segment::create`].
    pub fn zeroed(len: usize) -> Result<Self, CreateError> {
        const { Self::FITS };
        let absurd = CreateError::Capacity {
            requested: len as u64,
            max: isize::MAX as u64 / size_of::<T>() as u64,
        };
        if len == 0 {
            return Err(absurd);
        }
        let layout = Layout::array::<T>(len).map_err(|_| absurd)?;
        // A fresh segment is zeroed.
        let segment = Segment::create(Self::LAYOUT, layout, |_| Ok(()))?;
        Ok(Self::of(segment, len))
    }

    /// A copy of `elements`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(elements: &[T]) -> Result<Self, CreateError> {
        let array = Self::zeroed(elements.len())?;
        // As long as the slice, by construction.
        let _ = array.copy_from_slice(0, elements);
        Ok(array)
    }

    /// Attaches to the array behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`]; a descriptor of another type is [`AttachError::Layout`].
    pub fn attach(file: OwnedFd) -> Result<Self, AttachError> {
        const { Self::FITS };
        let segment = Segment::attach(file, Self::LAYOUT)?;
        let bytes = segment.payload().len();
        if bytes == 0 || !bytes.is_multiple_of(size_of::<T>()) {
            return Err(AttachError::Corrupt { field: "size" });
        }
        Ok(Self::of(segment, bytes / size_of::<T>()))
    }

    fn of(segment: Segment, len: usize) -> Self {
        Self {
            segment: Arc::new(segment),
            len,
            element: PhantomData,
        }
    }

    /// All elements, in place and writable.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody else in any process, and no other handle in this
    /// one, may read or write the elements.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [T] {
        let first = self.segment.payload().base().cast::<T>().as_ptr();
        // SAFETY: as in `deref`, and exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(first, self.len) }
    }
}

impl<T: Plain> Deref for RawArray<T> {
    type Target = RawSlice<T>;

    #[inline]
    fn deref(&self) -> &RawSlice<T> {
        let first = self.segment.payload().base().cast::<RacyCell<T>>();
        // SAFETY: the payload holds `len` elements, by `zeroed` and `attach`, at an address that is
        // a multiple of 128; mapped while `self` is borrowed. A cell is transparent around its T,
        // and takes whatever peers write meanwhile.
        RawSlice::of(unsafe { std::slice::from_raw_parts(first.as_ptr(), self.len) })
    }
}

impl<T> Clone for RawArray<T> {
    fn clone(&self) -> Self {
        Self {
            segment: Arc::clone(&self.segment),
            len: self.len,
            element: PhantomData,
        }
    }
}

impl<T> AsFd for RawArray<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = Fd::deserialize(deserializer)?.into_inner();
        Self::attach(fd).map_err(refuse_receiving)
    }
}
