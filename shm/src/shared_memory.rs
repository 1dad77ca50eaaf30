//! `SharedMemory`: plain bytes with a name, as Python has them.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use multiprocess_core::{CreateError, Memory, Region, copy};

use crate::named::Plain;
use crate::{Named, NamedError};

/// Plain bytes in shared memory under a name: Python's
/// `multiprocessing.shared_memory.SharedMemory`, which opens ours, as we open Python's.
///
/// Not for Rust programs among themselves: a [`Named`] segment knows what it holds, and who has it.
///
/// # Differences from Python
///
/// * The bytes are reserved when they are made: a full `/dev/shm` is [`CreateError::NoSpace`] then,
///   and no `SIGBUS` later.
/// * Tracked is what its maker tracks: a name that somebody opens is not taken for theirs
///   (Python before 3.13 removes it when *any* process that opened it ends; such a process spoils
///   the name for us, too, and should call `resource_tracker.unregister`).
/// * A tracked name goes with its last user, by drop or by death, and not with its maker. Users are
///   processes that go through this type; Python's processes do not count, but keep their memory.
/// * Names that nobody chose start with `psm_` too, and have 16 digits more.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::SharedMemory;
///
/// let memory = SharedMemory::create(4096)?;
/// memory.write(0, b"hello")?;
///
/// let same = SharedMemory::open(memory.name())?;       // in another process, or in Python
/// let mut word = [0; 5];
/// same.read(0, &mut word)?;
/// assert_eq!(&word, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// Users killed leave their bytes as they are. If all were killed, the name is removed by whoever
/// asks for it next or by [`clean_up`](crate::clean_up), if it is tracked. A process of the same user
/// can cut the file off, and then who touches the missing pages is killed by `SIGBUS`. Trust:
/// *guarded*: bytes are copied in and out.
///
/// # Fork
///
/// As [`NamedSegment`](crate::NamedSegment).
pub struct SharedMemory {
    plain: Plain,
}

/// Bytes outside of the memory were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First byte asked for.
    pub offset: usize,
    /// Bytes asked for.
    pub len: usize,
    /// Bytes there are.
    pub size: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, len, size } = self;
        write!(f, "{len} bytes at {offset} do not lie in {size} bytes")
    }
}

impl std::error::Error for OutOfBounds {}

impl SharedMemory {
    /// Makes `size` bytes of zeroes under a name of its own, tracked.
    ///
    /// # Errors
    ///
    /// [`NamedError::Create`] ([`CreateError::Capacity`] for no bytes, [`CreateError::NoSpace`],
    /// [`CreateError::TooLarge`]), [`NamedError::NoDirectory`], [`NamedError::System`].
    pub fn create(size: usize) -> Result<Self, NamedError> {
        Self::create_filled(None, size, &[])
    }

    /// Under `name`, or one of its own, starting with `bytes`: nobody sees it without them.
    pub(crate) fn create_filled(
        name: Option<&Named>,
        size: usize,
        bytes: &[u8],
    ) -> Result<Self, NamedError> {
        if let Some(name) = name {
            return Self::make(name, size, bytes);
        }
        loop {
            let number = RandomState::new().build_hasher().finish();
            match Self::make(&Named::new(&format!("psm_{number:016x}"))?, size, bytes) {
                Err(NamedError::AlreadyExists) => {}
                other => return other,
            }
        }
    }

    /// Makes `size` bytes of zeroes under `name`, tracked or not as it says.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`NamedError::AlreadyExists`] unless it is a leftover of the
    /// dead, which is removed; [`NamedError::Attach`] for an empty file that is not ours: one that Python
    /// is just making, perhaps.
    pub fn create_as(name: &Named, size: usize) -> Result<Self, NamedError> {
        Self::create_filled(Some(name), size, &[])
    }

    fn make(name: &Named, size: usize, bytes: &[u8]) -> Result<Self, NamedError> {
        if size == 0 {
            let (requested, max) = (0, i64::MAX as u64);
            return Err(CreateError::Capacity { requested, max }.into());
        }
        let plain = name.clone().plain().create_plain(size as u64, |mapping| {
            let bytes = &bytes[..bytes.len().min(size)];
            // SAFETY: inside the mapping, which has `size` bytes; nobody else uses it yet.
            unsafe { copy::store_slice(mapping.region().base().as_ptr(), bytes) };
        })?;
        Ok(Self { plain })
    }

    /// Opens what somebody has made.
    ///
    /// # Errors
    ///
    /// [`NamedError::NotFound`], also for leftovers of the dead, which are removed;
    /// [`NamedError::Attach`] for an empty file; [`NamedError::InvalidName`], [`NamedError::ForeignOwner`], [`NamedError::System`].
    pub fn open(name: &str) -> Result<Self, NamedError> {
        Self::open_as(&Named::new(name)?)
    }

    /// As [`open`](Self::open), with the choices of a [`Named`]: a file of another user, say.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_as(name: &Named) -> Result<Self, NamedError> {
        let plain = name.clone().plain().open_plain()?;
        Ok(Self { plain })
    }

    /// The name by which it is opened, without a slash.
    pub fn name(&self) -> &str {
        let name = self.path().file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.plain.path()
    }

    /// Bytes, exactly as many as its maker asked for.
    pub fn size(&self) -> usize {
        self.plain.len()
    }

    /// Whether the name goes with its last user.
    pub fn is_tracked(&self) -> bool {
        self.plain.is_tracked()
    }

    /// Copies bytes out, from `offset` on. Each byte is whole; several may mix two writes.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`], with nothing copied.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, bytes.len())?;
        // SAFETY: inside the mapping, as just checked; this process accesses these bytes by
        // atomics of one byte only.
        unsafe { copy::load_slice(at, bytes) };
        Ok(())
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`], with nothing copied.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, bytes.len())?;
        // SAFETY: as in `read`.
        unsafe { copy::store_slice(at, bytes) };
        Ok(())
    }

    fn at(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        let size = self.size();
        match offset.checked_add(len) {
            // SAFETY: `offset <= size`, so the address is inside the mapping or at its end.
            Some(end) if end <= size => Ok(unsafe { self.base().add(offset) }),
            _ => Err(OutOfBounds { offset, len, size }),
        }
    }

    fn base(&self) -> *mut u8 {
        self.plain.region().base().as_ptr()
    }

    /// The bytes themselves: Python's `buf`.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, no other process and no other thread may write the bytes.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped as long as `self` is borrowed; the rest is the caller's word.
        unsafe { std::slice::from_raw_parts(self.base(), self.size()) }
    }

    /// The bytes themselves, to be written.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, no other process and no other thread may access the bytes.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.size()) }
    }

    /// Removes the name now: nobody can open it any more, and those who have it keep their memory.
    /// Another memory that has got the name since keeps it.
    ///
    /// # Errors
    ///
    /// [`NamedError::NotFound`] the second time; [`NamedError::System`].
    pub fn unlink(&self) -> Result<(), NamedError> {
        self.plain.unlink()
    }

    /// Leaves it: the same as dropping it.
    pub fn close(self) {}
}

// SAFETY: the mapping's own bytes, which stay where they are while this lives.
unsafe impl Memory for SharedMemory {
    fn region(&self) -> Region<'_> {
        self.plain.region()
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.plain.as_fd()
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.name())
            .field("size", &self.size())
            .finish()
    }
}
