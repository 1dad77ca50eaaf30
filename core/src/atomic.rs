//! The only door to atomics: the hardware's, or loom's or shuttle's when a model is checked.
//!
//! Every primitive names its atomics through this module, so that the same source file runs in
//! shared memory and under [loom](https://docs.rs/loom). Loom's types are larger than the words
//! they model and cannot be made in a `const`; layout assertions are therefore
//! `#[cfg(not(loom))]`, and constructors go through
//! [`const_unless_loom!`](crate::const_unless_loom).
//!
//! `--cfg loom --cfg shuttle` is a model too, checked by [shuttle](https://docs.rs/shuttle): all
//! that is `cfg(loom)` stays, and the atomics are shuttle's. It takes more threads, at random, and
//! every ordering for `SeqCst`.

#[cfg(not(loom))]
mod real {
    pub use super::cell::UnsafeCell;
    pub use core::hint::spin_loop;
    pub use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

    /// An array of words that are zero.
    pub const fn zeroes<const N: usize>() -> [AtomicU64; N] {
        [const { AtomicU64::new(0) }; N]
    }
}

#[cfg(any(not(loom), shuttle))]
mod cell {
    /// [`core::cell::UnsafeCell`] with loom's closure interface.
    ///
    /// The closures receive raw pointers: bytes that a peer process may write are never seen
    /// through `&T` or `&mut T` unless the caller argues that nobody else touches them.
    #[derive(Debug)]
    #[repr(transparent)]
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// Wraps `value`.
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a pointer for reading; a model checks that nobody writes meanwhile.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing; a model checks that nobody else looks meanwhile.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(all(loom, not(shuttle)))]
pub(crate) use loom as checker;
#[cfg(shuttle)]
pub(crate) use shuttle as checker;

#[cfg(loom)]
mod real {
    #[cfg(shuttle)]
    pub use super::cell::UnsafeCell;
    use super::checker;
    pub use checker::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
    #[cfg(not(shuttle))]
    pub use loom::cell::UnsafeCell;

    /// An array of words that are zero.
    pub fn zeroes<const N: usize>() -> [AtomicU64; N] {
        core::array::from_fn(|_| AtomicU64::new(0))
    }

    /// A spinning thread gives way, or a model would never end.
    pub fn spin_loop() {
        checker::thread::yield_now();
    }
}

pub use real::*;

/// Whether this is a model: for bounds that it could not reach.
pub const IS_MODEL: bool = cfg!(loom);

/// Marks bytes as read or written without holding them: nothing in a build, an access that the
/// race detector sees in a model.
///
/// For memory whose unit of access is not a Rust value: the bytes of a record in a byte ring.
#[derive(Debug)]
pub struct Shadow {
    #[cfg(all(loom, not(shuttle)))]
    cell: loom::cell::UnsafeCell<()>,
}

impl Shadow {
    crate::const_unless_loom! {
        /// A mark for one unit of memory.
        pub fn new() -> Self {
            Self {
                #[cfg(all(loom, not(shuttle)))]
                cell: loom::cell::UnsafeCell::new(()),
            }
        }
    }

    /// The unit is read at this point.
    #[inline(always)]
    pub fn read(&self) {
        #[cfg(all(loom, not(shuttle)))]
        self.cell.with(|_| ());
    }

    /// The unit is written at this point.
    #[inline(always)]
    pub fn write(&self) {
        #[cfg(all(loom, not(shuttle)))]
        self.cell.with_mut(|_| ());
    }
}

impl Default for Shadow {
    fn default() -> Self {
        Self::new()
    }
}

/// A full fence in a model, nothing in a build: for a handshake whose accesses are all `SeqCst`
/// (a read-modify-write of one's own word, then a load of the other's), which loom takes for
/// `AcqRel`.
#[inline(always)]
pub fn fence_in_model() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Declares a constructor that is `const`, except in a loom model whose atomics cannot be.
#[macro_export]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body

        #[cfg(loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}

/// An array of as many fresh values: in a `const`, except in a loom model whose atomics cannot be.
#[cfg(not(loom))]
#[macro_export]
macro_rules! array_of {
    ($value:expr; $len:expr) => {
        [const { $value }; $len]
    };
}

/// An array of as many fresh values: in a `const`, except in a loom model whose atomics cannot be.
#[cfg(loom)]
#[macro_export]
macro_rules! array_of {
    ($value:expr; $len:expr) => {
        ::core::array::from_fn::<_, { $len }, _>(|_| $value)
    };
}
