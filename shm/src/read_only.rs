//! A segment of which this process may only read.

use core::ffi::c_void;
use core::fmt;
use core::ptr::{self, NonNull};

use multiprocess_core::{AttachError, LayoutHash, View};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mm::{self, MapFlags, ProtFlags};

use crate::header::{HEADER_SIZE, Header};
use crate::sys;

/// A [`Segment`](crate::Segment) mapped for reading only, through any descriptor that can be read.
///
/// What it holds is read through types that make do with loads:
/// [`SnapshotReader`](crate::SnapshotReader), say. A futex can be waited on in it, too
/// ([`park::wait`](multiprocess_core::park::wait)).
///
/// # Examples
///
/// ```
/// use core::alloc::Layout;
/// use multiprocess_core::LayoutHash;
/// use multiprocess_shm::{Options, ReadOnlySegment, Segment};
/// use std::os::fd::AsFd;
///
/// const LAYOUT: LayoutHash = LayoutHash::of("a page, version 1");
/// let options = Options::new().one_writer(true);
/// let made = Segment::create_with(&options, LAYOUT, Layout::new::<[u8; 64]>(), |_| Ok(()))?;
///
/// let fd = made.as_fd().try_clone_to_owned()?;
/// assert!(Segment::attach(fd.try_clone()?, LAYOUT).is_err(), "one writer there is");
/// let reader = ReadOnlySegment::attach(fd, LAYOUT)?;
/// assert_eq!(reader.payload().len(), 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// Readers leave no trace. Trust: *guarded*, as [`Segment::attach`](crate::Segment::attach).
///
/// # Fork
///
/// The bytes stay mapped in the child; the descriptor is close-on-exec.
pub struct ReadOnlySegment {
    base: NonNull<u8>,
    len: usize,
    file: OwnedFd,
}

impl ReadOnlySegment {
    /// Maps a segment that a peer made, and validates its header.
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`](crate::Segment::attach).
    pub fn attach(file: OwnedFd, hash: LayoutHash) -> Result<Self, AttachError> {
        let size = sys::sealed_size(&file)?;
        Self::attach_whole(file, size, hash)
    }

    /// The same of a file that cannot be sealed: whoever may write it can also cut it off, and
    /// readers of the missing pages are killed by `SIGBUS`.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), but for the seals.
    pub fn attach_unsealed(file: OwnedFd, hash: LayoutHash) -> Result<Self, AttachError> {
        let size = sys::size(&file)?;
        Self::attach_whole(file, size, hash)
    }

    fn attach_whole(file: OwnedFd, size: u64, hash: LayoutHash) -> Result<Self, AttachError> {
        let segment = Self::map(file, size)?;
        Header::of(segment.whole())?.validate(hash, size)?;
        Ok(segment)
    }

    fn map(file: OwnedFd, size: u64) -> Result<Self, AttachError> {
        let too_large = AttachError::TooLarge { size };
        let len = usize::try_from(size).map_err(|_| too_large)?;
        if isize::try_from(len).is_err() {
            return Err(too_large);
        }
        // SAFETY: a null hint lets the kernel choose free addresses, so no existing mapping is
        // replaced; `file` is open for the duration of the call.
        let base = unsafe {
            let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
            mm::mmap(ptr::null_mut(), len, protection, flags, &file, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or(multiprocess_core::Errno::FAULT)?;
        Ok(Self { base, len, file })
    }

    /// The boot of the machine it was made in; 0: not told.
    #[cfg(feature = "std")]
    pub(crate) fn boot(&self) -> u64 {
        Header::of(self.whole()).map_or(0, Header::boot)
    }

    fn whole(&self) -> View<'_> {
        // SAFETY: mapped readable for as long as `self` is borrowed; nobody here accesses the bytes
        // but by atomics.
        unsafe { View::new(self.base, self.len) }
    }

    /// The bytes behind the header; 128-byte aligned.
    #[inline]
    pub fn payload(&self) -> View<'_> {
        let offset = HEADER_SIZE.min(self.len);
        // SAFETY: `offset` is inside the mapping; and as in `whole`.
        unsafe { View::new(self.base.add(offset), self.len - offset) }
    }
}

impl Drop for ReadOnlySegment {
    fn drop(&mut self) {
        // SAFETY: base and len are what mmap returned and nothing else unmaps them; views borrow.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
    }
}

// SAFETY: an address and a descriptor; both mean the same in every thread of the process.
unsafe impl Send for ReadOnlySegment {}
// SAFETY: `&ReadOnlySegment` gives out addresses and borrowed descriptors only.
unsafe impl Sync for ReadOnlySegment {}

impl AsFd for ReadOnlySegment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for ReadOnlySegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlySegment")
            .field("len", &self.len)
            .field("file", &self.file)
            .finish()
    }
}
