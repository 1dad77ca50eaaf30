//! `Segment`: a mapping with a header, so that strangers can tell what they attach to.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use multiprocess_core::{AttachError, CreateError, Errno, LayoutHash, Memory, Place, Region};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Options;
use crate::header::{HEADER_SIZE, Header};
use crate::mapping::Mapping;
use crate::sys::Identity;

/// A piece of shared memory with a checked header and one object in it.
///
/// The header (`0x00..0x80`, see the README) names magic, layout version, layout hash, size
/// and creator; the payload starts at `0x80`. A segment is nameless: it is passed on as a file
/// descriptor, and the kernel frees it when the last process has let go.
///
/// # Examples
///
/// ```
/// use core::alloc::Layout;
/// use multiprocess_core::LayoutHash;
/// use multiprocess_shm::Segment;
/// use std::os::fd::AsFd;
///
/// const LAYOUT: LayoutHash = LayoutHash::of("sixteen bytes, version 1");
/// let made = Segment::create(LAYOUT, Layout::new::<[u64; 2]>(), |_bytes| Ok(()))?;
///
/// let fd = made.as_fd().try_clone_to_owned()?;       // travels to another process
/// let attached = Segment::attach(fd, LAYOUT)?;
/// assert_eq!(attached.payload().len(), 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A creator killed half-way leaves a header that says so; attach then returns
/// [`AttachError::CreatorDied`]. Nothing is left when all are dead. Trust: *guarded*: attach
/// holds against arbitrary bytes.
///
/// # Fork
///
/// As [`Mapping`].
pub struct Segment {
    mapping: Mapping,
}

impl Segment {
    /// Makes a segment for a payload of `layout` and lets `init` fill it in; the payload is
    /// zeroed before. Nobody can attach before `init` has returned.
    ///
    /// # Errors
    ///
    /// As [`Mapping::anonymous`]; [`CreateError::Misaligned`] for an alignment above 128;
    /// what `init` returns. Nothing is left behind.
    pub fn create(
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<Self, CreateError> {
        Self::create_with(&Options::new(), hash, layout, init)
    }

    /// As [`create`](Self::create), with the bytes lying as `options` say.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create) and [`Mapping::anonymous_with`].
    pub fn create_with(
        options: &Options,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<Self, CreateError> {
        let size = Self::size_for(layout)?;
        let mapping = Mapping::anonymous_with(c"multiprocess", size, options)?;
        Self::create_in(mapping, hash, init)
    }

    /// As [`create`](Self::create), in a zeroed mapping of the caller's choice; the payload is
    /// all that lies behind the header.
    ///
    /// # Errors
    ///
    /// [`CreateError::RegionTooSmall`]; `EEXIST` if the header is not all zero, because the
    /// mapping holds a segment already, finished or not; what `init` returns.
    pub fn create_in(
        mapping: Mapping,
        hash: LayoutHash,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<Self, CreateError> {
        Self::fill(&mapping, 0, hash, init)?;
        Ok(Self { mapping })
    }

    /// Makes a zeroed mapping a segment.
    pub(crate) fn fill(
        mapping: &Mapping,
        boot: u64,
        hash: LayoutHash,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<(), CreateError> {
        let size = mapping.len() as u64;
        // A mapping starts on a page, so only its length can be wrong.
        let header =
            Header::of(mapping.region().into()).map_err(|_| CreateError::RegionTooSmall {
                need: HEADER_SIZE as u64,
                have: size,
            })?;
        if !header.begin(Identity::own(), boot) {
            return Err(CreateError::System(Errno::EXIST));
        }
        init(payload(mapping))?;
        header.finish(hash, size);
        Ok(())
    }

    /// One that was [filled](Self::fill) just now.
    #[cfg(feature = "std")]
    pub(crate) fn of_filled(mapping: Mapping) -> Self {
        Self { mapping }
    }

    /// Makes a segment that holds one [`Place`] of the given configuration.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and [`CreateError::Capacity`] for an absurd configuration.
    pub fn create_place<P: Place>(config: &P::Config) -> Result<Self, CreateError> {
        Self::create(P::LAYOUT, P::layout(config)?, |bytes| {
            // SAFETY: the segment was made a moment ago and nobody else knows it.
            unsafe { P::init(bytes, config) }
        })
    }

    /// Maps a segment that a peer made, and validates its header.
    ///
    /// # Errors
    ///
    /// An [`AttachError`] of its own for each: an empty file, a truncated one, one that could
    /// shrink, wrong magic, foreign byte order, other version, other layout, wrong size, a
    /// creator that is still at work, a creator that died at work.
    pub fn attach(file: OwnedFd, hash: LayoutHash) -> Result<Self, AttachError> {
        Self::attach_mapped(Mapping::attach(file)?, hash)
    }

    /// The same of a mapping of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), but for the seals.
    pub fn attach_mapped(mapping: Mapping, hash: LayoutHash) -> Result<Self, AttachError> {
        Header::of(mapping.region().into())?.validate(hash, mapping.len() as u64)?;
        Ok(Self { mapping })
    }

    /// Maps a segment that holds one [`Place`] and returns its validated configuration.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), and what the place finds wrong with its own bytes.
    pub fn attach_place<P: Place>(file: OwnedFd) -> Result<(Self, P::Config), AttachError> {
        let segment = Self::attach(file, P::LAYOUT)?;
        let config = P::attach(segment.payload())?;
        Ok((segment, config))
    }

    /// Bytes a segment with this payload needs, header included.
    ///
    /// # Errors
    ///
    /// [`CreateError::Misaligned`], [`CreateError::Capacity`].
    pub fn size_for(payload: Layout) -> Result<u64, CreateError> {
        if payload.align() > HEADER_SIZE {
            return Err(CreateError::Misaligned {
                need: payload.align() as u64,
            });
        }
        (payload.size() as u64)
            .checked_add(HEADER_SIZE as u64)
            .ok_or(CreateError::Capacity {
                requested: payload.size() as u64,
                max: i64::MAX as u64,
            })
    }

    /// The bytes behind the header; 128-byte aligned.
    #[inline]
    pub fn payload(&self) -> Region<'_> {
        payload(&self.mapping)
    }

    /// Maps the same segment once more, through a descriptor of its own.
    ///
    /// # Errors
    ///
    /// [`AttachError::System`]: out of descriptors or address space.
    pub fn try_clone(&self) -> Result<Self, AttachError> {
        Ok(Self {
            mapping: self.mapping.try_clone()?,
        })
    }

    fn header(&self) -> Result<&Header, AttachError> {
        Header::of(self.mapping.region().into())
    }

    /// Whether its creator lives in another PID namespace: process ids in it mean nothing here.
    pub fn is_from_other_namespace(&self) -> bool {
        self.header().is_ok_and(Header::is_from_other_namespace)
    }

    /// The creator's process id, in the creator's own PID namespace.
    pub fn creator_pid(&self) -> u32 {
        self.header().map_or(0, Header::creator_pid)
    }

    /// The boot of the machine it was made in; 0: not told.
    #[cfg(feature = "std")]
    pub(crate) fn boot(&self) -> u64 {
        self.header().map_or(0, Header::boot)
    }
}

#[inline]
fn payload(mapping: &Mapping) -> Region<'_> {
    let whole = mapping.region();
    // The length was checked against HEADER_SIZE when the segment was made or attached.
    let len = whole.len().saturating_sub(HEADER_SIZE);
    let offset = whole.len() - len;
    // SAFETY: `offset <= whole.len()`, so both address and length stay inside the mapping,
    // which lives as long as the borrow.
    unsafe {
        let base: NonNull<u8> = whole.base().add(offset);
        Region::new(base, len)
    }
}

// SAFETY: the payload's address is the mapping's plus a constant; the mapping satisfies the
// contract.
unsafe impl Memory for Segment {
    #[inline]
    fn region(&self) -> Region<'_> {
        self.payload()
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("creator_pid", &self.creator_pid())
            .field("mapping", &self.mapping)
            .finish()
    }
}
