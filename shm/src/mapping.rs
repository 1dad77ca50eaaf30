//! `Mapping`: bytes of a file, reserved, mapped and sealed.

use core::ffi::CStr;
use core::fmt;
use core::ptr::{self, NonNull};

use multiprocess_core::{AttachError, CreateError, Memory, Region};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, FallocateFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{self, MapFlags, ProtFlags};

use crate::sys;
use crate::{HugePages, Options};

/// Shared bytes: a file mapped readable and writable, kept open, unmapped when dropped.
///
/// Anonymous mappings are memfds: nameless, counted by the kernel, gone with the last process
/// that has them. Not for files whose writers you do not control: only a sealed file cannot be
/// cut off under a reader.
///
/// # Examples
///
/// ```
/// use multiprocess_core::Memory;
/// use multiprocess_shm::Mapping;
///
/// let mapping = Mapping::anonymous(c"example", 4096)?;
/// assert_eq!(mapping.region().len(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// The kernel holds the reference count. Killed between any two steps of creation, nothing is
/// left behind.
///
/// # Fork
///
/// The bytes stay shared with the child; the descriptor is close-on-exec.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    file: OwnedFd,
}

impl Mapping {
    /// Reserves `size` bytes of zeroes without a name. `label` shows in `/proc/PID/maps`.
    ///
    /// The bytes are allocated here: a full machine is an error now and never a `SIGBUS`
    /// later. The file is then sealed: no peer can shrink it, grow it, or take the seals away.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for zero bytes, [`CreateError::TooLarge`],
    /// [`CreateError::NoSpace`], [`CreateError::System`] (`EMFILE`, `ENOMEM`, `ENOSYS`, ...).
    pub fn anonymous(label: &CStr, size: u64) -> Result<Self, CreateError> {
        Self::anonymous_with(label, size, &Options::new())
    }

    /// As [`anonymous`](Self::anonymous), with the bytes lying as `options` say. With
    /// [`HugePages::Pool`] there may be more of them than asked for: whole pages.
    ///
    /// # Errors
    ///
    /// As [`anonymous`](Self::anonymous); [`CreateError::NoHugePages`],
    /// [`CreateError::LockLimit`].
    pub fn anonymous_with(label: &CStr, size: u64, options: &Options) -> Result<Self, CreateError> {
        check_size(size)?;
        let pool = options.huge_pages == HugePages::Pool;
        let size = if pool {
            sys::whole_huge_pages(size)
        } else {
            size
        };
        let file = sys::anonymous_file(label, pool)?;
        let mapping = Self::reserve(file, size).map_err(|error| match error {
            CreateError::NoSpace | CreateError::System(Errno::NOMEM) if pool => {
                CreateError::NoHugePages
            }
            other => other,
        })?;
        let mut seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        if options.one_writer {
            seals |= SealFlags::FUTURE_WRITE;
        }
        fs::fcntl_add_seals(&mapping.file, seals)?;
        mapping.arrange(options)?;
        Ok(mapping)
    }

    /// Reserves `size` bytes in `file`, which must be empty: a file on a tmpfs, say.
    ///
    /// Files outside memfd cannot be sealed: a process that may write the file can truncate
    /// it, and who touches the missing pages is killed by `SIGBUS`. Use it where only trusted
    /// users can open the file.
    ///
    /// # Errors
    ///
    /// As [`anonymous`](Self::anonymous); `EEXIST` if the file is not empty.
    pub fn in_file(file: OwnedFd, size: u64) -> Result<Self, CreateError> {
        check_size(size)?;
        if fs::fstat(&file)?.st_size != 0 {
            return Err(CreateError::System(Errno::EXIST));
        }
        Self::reserve(file, size)
    }

    /// The same of a file that the caller has found empty, and gets back if it is not to be.
    #[cfg(feature = "std")]
    pub(crate) fn in_empty_file(file: OwnedFd, size: u64) -> Result<Self, (OwnedFd, CreateError)> {
        let base = check_size(size).and_then(|()| Self::reserve_and_map(&file, size));
        match base {
            Ok((base, len)) => Ok(Self { base, len, file }),
            Err(error) => Err((file, error)),
        }
    }

    fn reserve(file: OwnedFd, size: u64) -> Result<Self, CreateError> {
        let (base, len) = Self::reserve_and_map(&file, size)?;
        Ok(Self { base, len, file })
    }

    fn reserve_and_map(file: &OwnedFd, size: u64) -> Result<(NonNull<u8>, usize), CreateError> {
        // fallocate and not ftruncate: only it reports a full file system now.
        retry_on_intr(|| fs::fallocate(file, FallocateFlags::empty(), 0, size))?;
        Ok(map(file, size)?)
    }

    /// Maps all of a file that a peer made, whatever its size is.
    ///
    /// # Errors
    ///
    /// [`AttachError::Empty`]; [`AttachError::Unsealed`] if the file could shrink;
    /// [`AttachError::ReadOnly`] if only its creator may write it; [`AttachError::TooLarge`];
    /// [`AttachError::System`] (`EACCES` for a read-only descriptor).
    pub fn attach(file: OwnedFd) -> Result<Self, AttachError> {
        let size = sys::sealed_size(&file)?;
        Self::attach_whole(file, size)
    }

    /// Maps all of a file that cannot be sealed: see [`in_file`](Self::in_file).
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), but for the seals.
    pub fn attach_unsealed(file: OwnedFd) -> Result<Self, AttachError> {
        let size = sys::size(&file)?;
        Self::attach_whole(file, size)
    }

    /// Maps `size` bytes of a file, which has as many: all.
    pub(crate) fn attach_whole(file: OwnedFd, size: u64) -> Result<Self, AttachError> {
        Self::map(file, size).map_err(|errno| match errno {
            Errno::OVERFLOW => AttachError::TooLarge { size },
            Errno::PERM => AttachError::ReadOnly,
            other => AttachError::System(other),
        })
    }

    /// Makes the bytes lie as `options` say. Also for those who attach.
    ///
    /// # Errors
    ///
    /// [`CreateError::LockLimit`]; [`CreateError::NoSpace`] if the pages cannot be had.
    pub fn arrange(&self, options: &Options) -> Result<(), CreateError> {
        sys::arrange(self.base.as_ptr().cast(), self.len, options)
    }

    fn map(file: OwnedFd, size: u64) -> Result<Self, Errno> {
        let (base, len) = map(&file, size)?;
        Ok(Self { base, len, file })
    }

    /// Maps the same bytes once more, through a descriptor of its own.
    ///
    /// # Errors
    ///
    /// [`AttachError::System`]: out of descriptors or address space.
    pub fn try_clone(&self) -> Result<Self, AttachError> {
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0)?;
        Ok(Self::map(file, self.len as u64)?)
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty file cannot be mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Address and length of so many bytes of `file`. The caller keeps both, and the file.
fn map(file: &OwnedFd, size: u64) -> Result<(NonNull<u8>, usize), Errno> {
    let len = usize::try_from(size).map_err(|_| Errno::OVERFLOW)?;
    if isize::try_from(len).is_err() {
        return Err(Errno::OVERFLOW);
    }
    // SAFETY: a null hint lets the kernel choose free addresses, so no existing mapping is
    // replaced; `file` is open for the duration of the call.
    let base = unsafe {
        mm::mmap(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            0,
        )
    }?;
    let base = NonNull::new(base.cast()).ok_or(Errno::FAULT)?;
    Ok((base, len))
}

fn check_size(size: u64) -> Result<(), CreateError> {
    let limit = sys::size_limit(size);
    if size == 0 {
        return Err(CreateError::Capacity {
            requested: 0,
            max: limit,
        });
    }
    if size > limit {
        return Err(CreateError::TooLarge {
            requested: size,
            limit,
        });
    }
    Ok(())
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are what mmap returned and nothing else unmaps them. Whatever
        // was attached to the bytes borrowed `self` or owned it, and is gone.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the bytes stay mapped read-write at one address until drop; moving `self` moves
// only the pointer; no method accesses them.
unsafe impl Memory for Mapping {
    #[inline]
    fn region(&self) -> Region<'_> {
        // SAFETY: mapped for as long as `self` is borrowed, and see above.
        unsafe { Region::new(self.base, self.len) }
    }
}

// SAFETY: an address and a descriptor; both mean the same in every thread of the process.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out addresses and borrowed descriptors only.
unsafe impl Sync for Mapping {}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("base", &self.base)
            .field("len", &self.len)
            .field("file", &self.file)
            .finish()
    }
}
