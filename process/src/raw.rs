//! Typed shared memory without a lock: `RawValue` and `RawArray`.
//!
//! The element lies behind the segment's header, at `0x80`; an array's length is what the
//! segment's size leaves for it. Elements are copied in and out, never borrowed, by relaxed
//! atomic accesses, one for an element of 1, 2, 4 or 8 bytes: a racing writer yields old and new
//! bytes of larger ones mixed, and nothing worse.

mod array;
mod value;

pub use array::{OutOfBounds, RawArray};
pub use value::RawValue;

use bytemuck::{AnyBitPattern, NoUninit};
use multiprocess_core::ShmSafe;

/// What can be the element of a [`RawValue`] or [`RawArray`]: plain data that means the same
/// in every process.
///
/// Implemented for every type that is [`ShmSafe`] and, by bytemuck, `AnyBitPattern` and
/// `NoUninit`.
pub trait Plain: ShmSafe + AnyBitPattern + NoUninit {}

impl<T: ShmSafe + AnyBitPattern + NoUninit> Plain for T {}
