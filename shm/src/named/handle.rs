//! What has been entered, and how it is left: steps 9 to 11 of [`Named`](super::Named)'s protocol.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use multiprocess_core::Region;

use super::file::{self, Identity};
use super::{NamedError, error};
use crate::{Mapping, ReadOnlySegment, Segment};

/// Mapped memory of a file that was entered; dropped, it is left.
pub(crate) struct Inside<M> {
    /// Dropped in `drop`, before it is asked who is left.
    memory: ManuallyDrop<M>,
    file: Identity,
    path: PathBuf,
    tracked: bool,
}

/// Bytes without a header.
pub(crate) type Plain = Inside<Mapping>;

impl<M> Inside<M> {
    pub(super) fn new(memory: M, file: Identity, path: &Path, tracked: bool) -> Self {
        Self {
            memory: ManuallyDrop::new(memory),
            file,
            path: path.to_owned(),
            tracked,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// Removes the name, if it leads to this file still.
    pub(crate) fn unlink(&self) -> Result<(), NamedError> {
        let of = |errno| error::of(errno, &self.path);
        match file::leads_to(&self.path, self.file).map_err(of)? {
            true => rustix::fs::unlink(&self.path).map_err(of),
            false => Err(NamedError::NotFound),
        }
    }
}

impl<M> Deref for Inside<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.memory
    }
}

impl<M> Drop for Inside<M> {
    /// Steps 9 to 11.
    fn drop(&mut self) {
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
        if self.tracked {
            file::remove_if_unused(&self.path, Some(self.file));
        }
    }
}

/// A segment with a name, entered. Dropped, it is left: the last user of a tracked one removes
/// the name.
///
/// # Crash safety
///
/// Killed, it is left, too, but the name stays for somebody to remove: see [`Named`](crate::Named).
/// Trust: *guarded* as to content; the file can be cut off by processes of the same user.
///
/// # Fork
///
/// A child uses it together with its parent: the name stays until both have left. So it is with
/// descriptors sent to other processes, and with [`Segment::try_clone`].
pub struct NamedSegment {
    inside: Inside<Segment>,
    creator: bool,
}

impl NamedSegment {
    pub(super) fn new(inside: Inside<Segment>, creator: bool) -> Self {
        Self { inside, creator }
    }

    /// Whether this handle's process made it just now, and did not find it made.
    pub fn is_creator(&self) -> bool {
        self.creator
    }

    /// Whether the name goes with its last user.
    pub fn is_tracked(&self) -> bool {
        self.inside.is_tracked()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.inside.path()
    }
}

impl Deref for NamedSegment {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.inside
    }
}

// SAFETY: the segment's own bytes, which stay where they are while this lives.
unsafe impl multiprocess_core::Memory for NamedSegment {
    fn region(&self) -> Region<'_> {
        self.inside.payload()
    }
}

impl AsFd for NamedSegment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

impl fmt::Debug for NamedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedSegment")
            .field("path", &self.path())
            .field("tracked", &self.is_tracked())
            .field("segment", &**self)
            .finish()
    }
}

/// A segment with a name, entered for reading only. Dropped, it is left as a [`NamedSegment`] is: the
/// last user of a tracked one removes the name, if it may write the file and its directory.
///
/// # Crash safety
///
/// As [`NamedSegment`].
///
/// # Fork
///
/// As [`NamedSegment`].
pub struct NamedReadOnlySegment {
    inside: Inside<ReadOnlySegment>,
}

impl NamedReadOnlySegment {
    pub(super) fn new(inside: Inside<ReadOnlySegment>) -> Self {
        Self { inside }
    }

    /// Whether the name goes with its last user.
    pub fn is_tracked(&self) -> bool {
        self.inside.is_tracked()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.inside.path()
    }
}

impl Deref for NamedReadOnlySegment {
    type Target = ReadOnlySegment;

    fn deref(&self) -> &ReadOnlySegment {
        &self.inside
    }
}

impl AsFd for NamedReadOnlySegment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

impl fmt::Debug for NamedReadOnlySegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedReadOnlySegment")
            .field("path", &self.path())
            .field("tracked", &self.is_tracked())
            .field("segment", &**self)
            .finish()
    }
}
