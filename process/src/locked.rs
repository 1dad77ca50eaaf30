//! Typed shared memory with a lock: `Value` and `Array`.

mod array;
mod guarded;
mod value;

pub use array::{Array, ArrayGuard};
pub use value::{Value, ValueGuard};
