//! `BoundedSemaphore`: a semaphore that cannot be given more permits than it was made for. The
//! same word and protocol as [`Semaphore`], with a max in its high half.

use core::fmt;
use core::ops::Deref;

use multiprocess_core::{LayoutHash, ShmSafe};

use crate::{InvalidPermits, Semaphore};

/// A [`Semaphore`] that refuses more permits than it was made for: a release too many is an
/// error, found in the same step that would have made it.
///
/// Python's `multiprocessing.BoundedSemaphore`, whose own check is not atomic. All of
/// [`Semaphore`]'s methods work on it.
///
/// # Examples
///
/// ```
/// use multiprocess_sync::{BoundedSemaphore, ReleaseError};
///
/// let slots = BoundedSemaphore::new(2)?;         // or in a shared segment
/// slots.acquire()?;
/// slots.release()?;
/// assert_eq!(slots.release(), Err(ReleaseError::TooMany));
/// assert_eq!(slots.value(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering, crash safety, fork
///
/// As [`Semaphore`].
#[repr(C)]
pub struct BoundedSemaphore {
    semaphore: Semaphore,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<BoundedSemaphore>(), 8);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(align_of::<BoundedSemaphore>(), 8);

impl BoundedSemaphore {
    multiprocess_core::const_unless_loom! {
        /// With `value` permits, and room for no more. Eight zero bytes are one without permits
        /// and with room for [`Semaphore::MAX`].
        ///
        /// # Errors
        ///
        /// As [`with_max`](Self::with_max); zero is [`InvalidPermits::NoRoom`].
        pub fn new(value: u32) -> Result<Self, InvalidPermits> {
            Self::with_max(value, value)
        }
    }

    multiprocess_core::const_unless_loom! {
        /// With `value` permits, and room for `max`.
        ///
        /// # Errors
        ///
        /// [`InvalidPermits::NoRoom`] if `max` is zero, [`InvalidPermits::TooMany`] if it is
        /// more than [`Semaphore::MAX`], [`InvalidPermits::MoreThanMax`] if `value` is more
        /// than `max`.
        pub fn with_max(value: u32, max: u32) -> Result<Self, InvalidPermits> {
            if max == 0 {
                return Err(InvalidPermits::NoRoom);
            }
            if max > Semaphore::MAX {
                return Err(InvalidPermits::TooMany);
            }
            if value > max {
                return Err(InvalidPermits::MoreThanMax);
            }
            Ok(Self { semaphore: Semaphore::of(value, max) })
        }
    }
}

impl Deref for BoundedSemaphore {
    type Target = Semaphore;

    #[inline]
    fn deref(&self) -> &Semaphore {
        &self.semaphore
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoundedSemaphore")
            .field(&self.semaphore)
            .finish()
    }
}

// SAFETY: `repr(C)` around one `Semaphore`, of which every value is handled.
unsafe impl ShmSafe for BoundedSemaphore {
    const LAYOUT: LayoutHash = LayoutHash::of("BoundedSemaphore").mix(8).mix(1);
}
