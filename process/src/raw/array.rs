//! A shared array without a lock.

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

/// A fixed number of `T`s in shared memory, without a lock.
///
/// Python's `RawArray`. Elements are copied in and out. Not for read-modify-write by several
/// processes, unless a lock of theirs keeps them apart.
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

/// An index at or behind the end of a [`RawArray`], or more elements than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First index that was asked for and does not exist.
    pub index: usize,
    /// Elements of the array.
    pub len: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} in an array of {}", self.index, self.len)
    }
}

impl std::error::Error for OutOfBounds {}

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

    /// The address of element `index`, which must be at most `len`.
    fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        // SAFETY: the payload holds `len` elements, by `zeroed` and `attach`; callers pass an
        // index inside or one behind the end.
        unsafe {
            self.segment
                .payload()
                .base()
                .cast::<T>()
                .add(index)
                .as_ptr()
        }
    }

    /// The bounds of `count` elements from `start`.
    fn check(&self, start: usize, count: usize) -> Result<(), OutOfBounds> {
        let len = self.len;
        match start.checked_add(count) {
            Some(end) if end <= len => Ok(()),
            _ => Err(OutOfBounds {
                index: start.max(len),
                len,
            }),
        }
    }

    /// A copy of element `index`; `None` behind the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: in bounds; mapped while `self` lives; every access of this process goes
        // through `copy`, unless an unsafe borrow promised otherwise.
        (index < self.len).then(|| unsafe { copy::load(self.at(index)) })
    }

    /// Replaces element `index`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`].
    #[inline]
    pub fn set(&self, index: usize, value: T) -> Result<(), OutOfBounds> {
        self.check(index, 1)?;
        // SAFETY: as in `get`.
        unsafe { copy::store(self.at(index), value) };
        Ok(())
    }

    /// Copies the elements from `start` on into `target`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_to_slice(&self, start: usize, target: &mut [T]) -> Result<(), OutOfBounds> {
        self.check(start, target.len())?;
        // SAFETY: in bounds; otherwise as in `get`.
        unsafe { copy::load_slice(self.at(start), target) };
        Ok(())
    }

    /// Copies `source` over the elements from `start` on.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_from_slice(&self, start: usize, source: &[T]) -> Result<(), OutOfBounds> {
        self.check(start, source.len())?;
        // SAFETY: in bounds; otherwise as in `get`.
        unsafe { copy::store_slice(self.at(start), source) };
        Ok(())
    }

    /// A copy of all elements.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }

    /// Copies of the elements, one by one; a racing writer may change those not yet seen.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + '_ {
        // SAFETY: as in `get`, all indices are in bounds.
        (0..self.len).map(|index| unsafe { copy::load(self.at(index)) })
    }

    /// All elements, in place.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody in any process may write the elements.
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: `len` elements at an aligned address, mapped while `self` is borrowed; not
        // written meanwhile, by the caller's word.
        unsafe { std::slice::from_raw_parts(self.at(0), self.len) }
    }

    /// All elements, in place and writable.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody else in any process, and no other handle in this
    /// one, may read or write the elements.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.at(0), self.len) }
    }
}

impl<T> RawArray<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an array has at least one element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
        f.debug_list().entries(self.iter()).finish()
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
