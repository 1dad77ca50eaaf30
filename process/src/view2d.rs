//! Rows and columns over consecutive elements: a view that copies nothing.

use std::fmt;
use std::ops::{Index, IndexMut};

use crate::raw::{OutOfBounds, Plain, RawSlice};

/// Consecutive elements as rows of one length, in row-major order. Costs nothing.
///
/// Over the elements of a locked [`Array`](crate::Array), or any slice (`S` is `[T]`): indexed by
/// `[(row, column)]`. Over a [`RawArray`](crate::RawArray) (`S` is [`RawSlice<T>`]): `get` and `set`.
/// [`View2dMut`] is the one that writes to slices.
///
/// # Examples
///
/// ```
/// use multiprocess::{Array, RawArray};
///
/// let image = Array::<u16>::zeroed(6)?;
/// let mut guard = image.lock().unwrap();
/// let mut pixels = guard.view2d_mut(2, 3)?;
/// pixels[(1, 2)] = 7;
/// pixels.row_mut(0).unwrap().fill(1);
/// assert_eq!(*guard, [1, 1, 1, 0, 0, 7]);
///
/// let table = RawArray::from_slice(&[1u8, 2, 3, 4])?;
/// let view = table.view2d(2, 2)?;
/// view.set(1, 0, 9)?;
/// assert_eq!(view.get(1, 0), Some(9));
/// assert_eq!(view.row(1).unwrap().to_vec(), [9, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct View2d<'a, S: ?Sized> {
    elements: &'a S,
    shape: Shape,
}

/// [`View2d`] with the right to write.
#[derive(Debug)]
pub struct View2dMut<'a, T> {
    elements: &'a mut [T],
    shape: Shape,
}

/// Rows and columns that do not make up exactly the elements there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeError {
    /// Rows that were asked for.
    pub rows: usize,
    /// Columns that were asked for.
    pub cols: usize,
    /// Elements that there are.
    pub len: usize,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cols, len } = self;
        write!(f, "{rows} rows of {cols} are not {len} elements")
    }
}

impl std::error::Error for ShapeError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    cols: usize,
}

impl Shape {
    fn of(rows: usize, cols: usize, len: usize) -> Result<Self, ShapeError> {
        match rows.checked_mul(cols) {
            Some(all) if all == len => Ok(Self { rows, cols }),
            _ => Err(ShapeError { rows, cols, len }),
        }
    }

    /// Where it lies among the elements; their number if there is no such row or column.
    fn index(self, row: usize, col: usize) -> usize {
        if row < self.rows && col < self.cols {
            row * self.cols + col
        } else {
            self.rows * self.cols
        }
    }

    fn row(self, row: usize) -> Option<std::ops::Range<usize>> {
        let start = (row < self.rows).then(|| row * self.cols)?;
        Some(start..start + self.cols)
    }

    #[track_caller]
    fn expect(self, (row, col): (usize, usize)) -> usize {
        let Self { rows, cols } = self;
        assert!(
            row < rows && col < cols,
            "({row}, {col}) is outside of {rows} rows of {cols}"
        );
        row * cols + col
    }
}

impl<'a, S: ?Sized> View2d<'a, S> {
    pub(crate) fn of(
        elements: &'a S,
        len: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        let shape = Shape::of(rows, cols, len)?;
        Ok(Self { elements, shape })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Columns: elements of a row.
    pub fn cols(&self) -> usize {
        self.shape.cols
    }
}

impl<'a, T> View2d<'a, [T]> {
    /// `elements` as `rows` rows of `cols` elements each.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if that is not exactly all of them.
    pub fn new(elements: &'a [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::of(elements, elements.len(), rows, cols)
    }

    /// An element; `None` outside.
    pub fn get(&self, row: usize, col: usize) -> Option<&'a T> {
        self.elements.get(self.shape.index(row, col))
    }

    /// A row; `None` behind the last.
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        self.shape.row(row).map(|range| &self.elements[range])
    }

    /// All rows, from the first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> + use<'a, T> {
        let Self { elements, shape } = *self;
        (0..shape.rows).map(move |row| &elements[row * shape.cols..][..shape.cols])
    }
}

impl<'a, T: Plain> View2d<'a, RawSlice<T>> {
    /// A copy of an element; `None` outside.
    pub fn get(&self, row: usize, col: usize) -> Option<T> {
        self.elements.get(self.shape.index(row, col))
    }

    /// Replaces an element.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`].
    pub fn set(&self, row: usize, col: usize, value: T) -> Result<(), OutOfBounds> {
        self.elements.set(self.shape.index(row, col), value)
    }

    /// A row; `None` behind the last.
    pub fn row(&self, row: usize) -> Option<&'a RawSlice<T>> {
        let range = self.shape.row(row)?;
        self.elements.slice(range).ok()
    }
}

impl<'a, T> View2dMut<'a, T> {
    /// `elements` as `rows` rows of `cols` elements each.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if that is not exactly all of them.
    pub fn new(elements: &'a mut [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let shape = Shape::of(rows, cols, elements.len())?;
        Ok(Self { elements, shape })
    }

    /// The same for reading.
    pub fn as_view(&self) -> View2d<'_, [T]> {
        View2d {
            elements: self.elements,
            shape: self.shape,
        }
    }

    /// An element; `None` outside.
    pub fn get_mut(&mut self, row: usize, col: usize) -> Option<&mut T> {
        self.elements.get_mut(self.shape.index(row, col))
    }

    /// A row; `None` behind the last.
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        self.shape.row(row).map(|range| &mut self.elements[range])
    }
}

impl<S: ?Sized> Clone for View2d<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for View2d<'_, S> {}

impl<S: ?Sized + fmt::Debug> fmt::Debug for View2d<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View2d")
            .field("rows", &self.shape.rows)
            .field("cols", &self.shape.cols)
            .field("elements", &self.elements)
            .finish()
    }
}

/// # Panics
///
/// Outside, as slices do.
impl<T> Index<(usize, usize)> for View2d<'_, [T]> {
    type Output = T;

    fn index(&self, at: (usize, usize)) -> &T {
        &self.elements[self.shape.expect(at)]
    }
}

/// # Panics
///
/// Outside, as slices do.
impl<T> Index<(usize, usize)> for View2dMut<'_, T> {
    type Output = T;

    fn index(&self, at: (usize, usize)) -> &T {
        &self.elements[self.shape.expect(at)]
    }
}

impl<T> IndexMut<(usize, usize)> for View2dMut<'_, T> {
    fn index_mut(&mut self, at: (usize, usize)) -> &mut T {
        &mut self.elements[self.shape.expect(at)]
    }
}
