//! Typed shared memory without a lock: `RawValue` and `RawArray`.
//!
//! The element lies behind the segment's header, at `0x80`; an array's length is what the
//! segment's size leaves for it. Elements are copied in and out, never borrowed, by relaxed
//! atomic accesses, one for an element of 1, 2, 4 or 8 bytes: a racing writer yields old and new
//! bytes of larger ones mixed, and nothing worse.

mod array;
pub(crate) mod slice;
mod value;

pub use array::RawArray;
pub use slice::{OutOfBounds, RawSlice};
pub use value::RawValue;

use bytemuck::{AnyBitPattern, NoUninit};
use multiprocess_core::ShmSafe;

/// What can be the element of a [`RawValue`] or [`RawArray`]: plain data that means the same
/// in every process.
///
/// Implemented for every type that is [`ShmSafe`] and, by [`bytemuck`](crate::bytemuck),
/// `AnyBitPattern` and `NoUninit`: the numbers, arrays of them, and structs that derive all three.
///
/// # Examples
///
/// ```
/// use multiprocess::bytemuck::{AnyBitPattern, NoUninit};
/// use multiprocess::{Array, ShmSafe};
///
/// #[derive(Debug, Clone, Copy, PartialEq, ShmSafe, AnyBitPattern, NoUninit)]
/// #[bytemuck(crate = "multiprocess::bytemuck")]
/// #[repr(C)]
/// struct Point { x: f64, y: f64 }
///
/// let points = Array::from_slice(&[Point { x: 1.0, y: 2.0 }; 3])?;
/// points.lock().unwrap()[1].x += 0.5;
/// assert_eq!(points.lock().unwrap()[1], Point { x: 1.5, y: 2.0 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Plain: ShmSafe + AnyBitPattern + NoUninit + Send + Sync {}

impl<T: ShmSafe + AnyBitPattern + NoUninit + Send + Sync> Plain for T {}
