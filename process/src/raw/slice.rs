//! Consecutive elements of shared memory without a lock: what a `RawArray` dereferences to.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use multiprocess_core::copy::{self, RacyCell};

use super::Plain;
use crate::view2d::{ShapeError, View2d};

/// Elements of a [`RawArray`](crate::RawArray), one behind the other: all of them, or a slice.
///
/// Elements are copied in and out by relaxed atomics, also while others write them; see
/// [`RawArray`](crate::RawArray) for what that means, and for what a kill leaves behind.
///
/// # Examples
///
/// ```
/// use multiprocess::RawArray;
///
/// let array = RawArray::from_slice(&[1u32, 2, 3, 4])?;
/// let middle = array.slice(1..3)?;
/// middle.fill(9);
/// assert_eq!(middle.to_vec(), [9, 9]);
/// assert_eq!(array.to_vec(), [1, 9, 9, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct RawSlice<T>([RacyCell<T>]);

/// An index at or behind the end of what has `len` elements, or more elements than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First index that was asked for and does not exist.
    pub index: usize,
    /// Elements that there are.
    pub len: usize,
}

impl OutOfBounds {
    /// The end of `count` elements from `start`, of `len`.
    pub(crate) fn check(start: usize, count: usize, len: usize) -> Result<usize, Self> {
        match start.checked_add(count) {
            Some(end) if end <= len => Ok(end),
            _ => Err(Self {
                index: start.max(len),
                len,
            }),
        }
    }
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} in an array of {}", self.index, self.len)
    }
}

impl std::error::Error for OutOfBounds {}

impl<T: Plain> RawSlice<T> {
    pub(crate) fn of(cells: &[RacyCell<T>]) -> &Self {
        let cells: *const [RacyCell<T>] = cells;
        // SAFETY: transparent around what was borrowed, for as long.
        unsafe { &*(cells as *const Self) }
    }

    /// The address of element `index`, which must be at most `len`.
    fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len());
        // The address of all of them, so that it is good for a whole slice.
        let first = self.0.as_ptr().cast::<T>().cast_mut();
        // SAFETY: inside, or one behind the end, by the callers' checks.
        unsafe { first.add(index) }
    }

    /// The first element, which there must be.
    pub(crate) fn first(&self) -> &RacyCell<T> {
        &self.0[0]
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none; an array has at least one, a slice of it may have none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy of element `index`; `None` behind the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        self.0.get(index).map(RacyCell::load)
    }

    /// Replaces element `index`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`].
    #[inline]
    pub fn set(&self, index: usize, value: T) -> Result<(), OutOfBounds> {
        OutOfBounds::check(index, 1, self.len())?;
        self.0[index].store(value);
        Ok(())
    }

    /// Copies the elements from `start` on into `target`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_to_slice(&self, start: usize, target: &mut [T]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(start, target.len(), self.len())?;
        // SAFETY: in bounds, and valid while it is borrowed; every access of this process goes
        // through `copy`, unless an unsafe borrow promised otherwise.
        unsafe { copy::load_slice(self.at(start), target) };
        Ok(())
    }

    /// Copies `source` over the elements from `start` on.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_from_slice(&self, start: usize, source: &[T]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(start, source.len(), self.len())?;
        // SAFETY: as in `copy_to_slice`.
        unsafe { copy::store_slice(self.at(start), source) };
        Ok(())
    }

    /// Replaces every element.
    pub fn fill(&self, value: T) {
        for cell in &self.0 {
            cell.store(value);
        }
    }

    /// A copy of all elements.
    pub fn to_vec(&self) -> Vec<T> {
        let mut copy = vec![T::zeroed(); self.len()];
        // SAFETY: as in `copy_to_slice`; as long as the slice itself.
        unsafe { copy::load_slice(self.at(0), &mut copy) };
        copy
    }

    /// Copies of the elements, one by one; a racing writer may change those not yet seen.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + DoubleEndedIterator + '_ {
        self.0.iter().map(RacyCell::load)
    }

    /// Some of the elements, in place.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] for a range that ends behind the end, or before it begins.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<&Self, OutOfBounds> {
        let len = self.len();
        let after = |index: usize| index.saturating_add(1);
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => after(before),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => after(last),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => len,
        };
        self.0.get(start..end).map(Self::of).ok_or(OutOfBounds {
            index: start.max(end),
            len,
        })
    }

    /// The elements as `rows` rows of `cols` elements each, one row behind the other.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if that is not exactly all of them.
    pub fn view2d(&self, rows: usize, cols: usize) -> Result<View2d<'_, Self>, ShapeError> {
        View2d::of(self, self.len(), rows, cols)
    }

    /// All elements, in place.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody in any process may write the elements.
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: so many elements at an aligned address, mapped while `self` is borrowed; not
        // written meanwhile, by the caller's word.
        unsafe { std::slice::from_raw_parts(self.at(0), self.len()) }
    }
}

/// Strings: bytes up to the first NUL, or all of them. Python's `.value` of an `Array('c')`; its
/// `.raw` is [`to_vec`](RawSlice::to_vec).
impl RawSlice<u8> {
    /// The bytes before the first NUL.
    pub fn value(&self) -> Vec<u8> {
        let mut bytes = self.to_vec();
        bytes.truncate(value(&bytes).len());
        bytes
    }

    /// Replaces the string: `bytes`, and a NUL behind them if there is room. What comes after that
    /// stays as it was.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if `bytes` are more than there is room for; nothing was copied.
    pub fn set_value(&self, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.copy_from_slice(0, bytes)?;
        if bytes.len() < self.len() {
            self.set(bytes.len(), 0)?;
        }
        Ok(())
    }
}

/// The bytes before the first NUL.
pub(crate) fn value(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

impl<T: Plain + fmt::Debug> fmt::Debug for RawSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
