//! `Shared<T>`: an `Arc` between processes.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{AttachError, CreateError, LayoutHash, ShmSafe};

use crate::Segment;
use crate::held::HeldSegment;

mod slice;

/// One `T` in shared memory, owned together by every process that has a handle.
///
/// `Deref`s to `T`, is cheap to clone, and travels to another process inside any message
/// (serde, feature `serde`). The value lives until the last handle of the last process is
/// gone. As many of a type as are known at run time are a `Shared<[T]>`
/// ([`from_fn`](Shared::from_fn)). Not for many small objects: each `Shared` is a memfd of its own, a
/// page at least; a [`Heap`](crate::Heap) has room for them.
///
/// # Examples
///
/// ```
/// use multiprocess_core::{ShmSafe, atomic::{AtomicU64, Ordering}};
/// use multiprocess_shm::Shared;
///
/// #[derive(ShmSafe)]
/// #[repr(C)]
/// struct Counters { hits: AtomicU64, misses: AtomicU64 }
///
/// let counters = Shared::new(Counters { hits: AtomicU64::new(0), misses: AtomicU64::new(0) })?;
/// let same = counters.clone();
/// same.hits.fetch_add(1, Ordering::Relaxed);
/// assert_eq!(counters.hits.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// The kernel counts the references: a killed process lets go of its own. What its death does
/// to the value is the business of `T`. Trust: *trusting*: `&T` assumes that peers follow
/// `T`'s protocol; attaching is *guarded*.
///
/// # Fork
///
/// A child shares the value. Its copies of the handles are its own.
pub struct Shared<T: ?Sized> {
    segment: Arc<HeldSegment>,
    value: PhantomData<Arc<T>>,
}

impl<T: ShmSafe + Send + Sync> Shared<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("Shared").mix(T::LAYOUT.bits());
    const FITS: () = assert!(
        align_of::<T>() <= 128,
        "a shared value is aligned to 128 bytes at most"
    );

    /// Moves `value` into shared memory.
    ///
    /// # Errors
    ///
    /// As [`Segment::create`].
    pub fn new(value: T) -> Result<Self, CreateError> {
        const { Self::FITS };
        let segment = Segment::create(Self::LAYOUT, Layout::new::<T>(), |bytes| {
            bytes.check(Layout::new::<T>())?;
            // SAFETY: large enough and aligned, as just checked; nobody else knows the
            // segment yet, so this plain write races with nothing.
            unsafe { bytes.base().cast::<T>().write(value) };
            Ok(())
        })?;
        let shared = Self {
            segment: held::<T>(segment),
            value: PhantomData,
        };
        // SAFETY: it lies in the segment for good; `HeldSegment` asks before it unmaps.
        unsafe { shared.placed() };
        Ok(shared)
    }

    /// Attaches to the value behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`]; a descriptor of another type is [`AttachError::Layout`].
    pub fn attach(file: OwnedFd) -> Result<Self, AttachError> {
        const { Self::FITS };
        let segment = Segment::attach(file, Self::LAYOUT)?;
        let bytes = segment.payload();
        bytes
            .check(Layout::new::<T>())
            .map_err(|_| AttachError::Truncated {
                need: size_of::<T>() as u64,
                have: bytes.len() as u64,
            })?;
        Ok(Self {
            segment: held::<T>(segment),
            value: PhantomData,
        })
    }
}

fn held<T: ShmSafe>(segment: Segment) -> Arc<HeldSegment> {
    HeldSegment::new(segment, |segment| {
        // SAFETY: the segment is that of a `Shared<T>`, which checked size and alignment.
        unsafe { value::<T>(segment) }.may_unmap()
    })
}

/// # Safety
///
/// The segment's payload must be large enough for a T, and aligned for it.
#[inline]
unsafe fn value<T: ShmSafe>(segment: &Segment) -> &T {
    // SAFETY: the caller's word for size and alignment; T is `ShmSafe`, so any bytes are a valid
    // T; the segment stays mapped while it is borrowed. Peers write the value through T's own
    // atomics only (trusting).
    unsafe { segment.payload().base().cast::<T>().as_ref() }
}

impl<T: ?Sized> Shared<T> {
    /// Whether both are handles on the same value through the same mapping.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.segment, &b.segment)
    }
}

impl<T: ShmSafe> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `new` and `attach`, the only ways to a `Shared`, checked size and alignment.
        unsafe { value(&self.segment) }
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            segment: Arc::clone(&self.segment),
            value: PhantomData,
        }
    }
}

impl<T: ?Sized> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl<T: ShmSafe + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&**self).finish()
    }
}
