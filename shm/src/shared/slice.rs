//! `Shared<[T]>`: as many as are asked for at run time.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use multiprocess_core::{AttachError, CreateError, LayoutHash, ShmSafe};

use super::Shared;
use crate::Segment;
use crate::held::HeldSegment;

impl<T: ShmSafe + Send + Sync> Shared<[T]> {
    const SLICE_LAYOUT: LayoutHash = LayoutHash::of("Shared slice").mix(T::LAYOUT.bits());
    const SLICE_FITS: () = assert!(
        align_of::<T>() <= 128 && size_of::<T>() > 0,
        "shared elements have a size, and are aligned to 128 bytes at most"
    );

    /// Makes `len` values in shared memory, each by `make` from its index; none is fine.
    ///
    /// # Errors
    ///
    /// As [`Segment::create`]; [`CreateError::Capacity`] for more bytes than there are addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess_core::atomic::{AtomicU64, Ordering};
    /// use multiprocess_shm::Shared;
    ///
    /// let totals: Shared<[AtomicU64]> = Shared::from_fn(4, |_| AtomicU64::new(0))?;
    /// let same = totals.clone();                         // or in another process
    /// same[3].fetch_add(5, Ordering::Relaxed);
    /// assert_eq!(totals[3].load(Ordering::Relaxed), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_fn(len: usize, mut make: impl FnMut(usize) -> T) -> Result<Self, CreateError> {
        const { Self::SLICE_FITS };
        let layout = Layout::array::<T>(len).map_err(|_| CreateError::Capacity {
            requested: len as u64,
            max: (isize::MAX as usize / size_of::<T>()) as u64,
        })?;
        let segment = Segment::create(Self::SLICE_LAYOUT, layout, |bytes| {
            bytes.check(layout)?;
            for index in 0..len {
                // SAFETY: `len` of them fit, as just checked, and are aligned; nobody else knows the
                // segment yet.
                unsafe { bytes.base().cast::<T>().add(index).write(make(index)) };
            }
            Ok(())
        })?;
        let shared = Self {
            segment: held::<T>(segment),
            value: PhantomData,
        };
        for value in shared.iter() {
            // SAFETY: it lies in the segment for good; `HeldSegment` asks before it unmaps.
            unsafe { value.placed() };
        }
        Ok(shared)
    }

    /// Attaches to the values behind a descriptor that came from
    /// [`as_fd`](std::os::fd::AsFd::as_fd); as many as there are.
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`]; a descriptor of another type is [`AttachError::Layout`].
    pub fn attach_slice(file: OwnedFd) -> Result<Self, AttachError> {
        const { Self::SLICE_FITS };
        let segment = Segment::attach(file, Self::SLICE_LAYOUT)?;
        if !segment.payload().len().is_multiple_of(size_of::<T>()) {
            return Err(AttachError::Corrupt { field: "size" });
        }
        Ok(Self {
            segment: held::<T>(segment),
            value: PhantomData,
        })
    }
}

fn held<T: ShmSafe>(segment: Segment) -> Arc<HeldSegment> {
    HeldSegment::new(segment, |segment| {
        // SAFETY: the segment is that of a `Shared<[T]>`, whose payload begins 128-byte aligned.
        unsafe { values::<T>(segment) }.iter().all(T::may_unmap)
    })
}

/// # Safety
///
/// The segment's payload must hold `T`s, aligned for them.
#[inline]
unsafe fn values<T: ShmSafe>(segment: &Segment) -> &[T] {
    let bytes = segment.payload();
    // SAFETY: as many as fit, aligned by the caller's word; T is `ShmSafe`, so any bytes are valid;
    // mapped while the segment is borrowed. Peers write the values through T's own atomics only
    // (trusting).
    unsafe {
        std::slice::from_raw_parts(bytes.base().cast().as_ptr(), bytes.len() / size_of::<T>())
    }
}

impl<T: ShmSafe> Deref for Shared<[T]> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `from_fn` and `attach_slice`, the only ways to a `Shared<[T]>`, checked the layout.
        unsafe { values(&self.segment) }
    }
}

impl<T: ShmSafe + fmt::Debug> fmt::Debug for Shared<[T]> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&&**self).finish()
    }
}
