//! Errors of the data path: making shared bytes, and attaching to bytes a peer made.

use core::fmt;

pub use rustix::io::Errno;

/// Why shared bytes could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateError {
    /// Zero, above the type's limit, or too large to be laid out.
    Capacity {
        /// What was asked for.
        requested: u64,
        /// The largest that would do.
        max: u64,
    },
    /// More bytes than memory and swap of this machine, or than `RLIMIT_FSIZE` allows.
    TooLarge {
        /// Bytes asked for.
        requested: u64,
        /// Bytes that can be had at most.
        limit: u64,
    },
    /// The file system or the memory limit is exhausted; nothing was left behind.
    NoSpace,
    /// The region given is smaller than the layout needs.
    RegionTooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes given.
        have: u64,
    },
    /// The region given is not aligned as the layout needs.
    Misaligned {
        /// Alignment needed, bytes.
        need: u64,
    },
    /// The kernel has no `memfd_create`, or a sandbox forbids it: there is no nameless shared memory
    /// here. Named segments may still do.
    NoMemfd,
    /// The pool of huge pages has not enough of them (`/proc/sys/vm/nr_hugepages`).
    NoHugePages,
    /// More bytes than this process may lock into memory (`RLIMIT_MEMLOCK`).
    LockLimit,
    /// The kernel refused.
    System(Errno),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { requested, max } => {
                write!(f, "capacity {requested} is not between 1 and {max}")
            }
            Self::TooLarge { requested, limit } => {
                write!(f, "{requested} bytes are more than the limit of {limit}")
            }
            Self::NoSpace => f.write_str("no space left for shared memory"),
            Self::RegionTooSmall { need, have } => {
                write!(f, "region has {have} bytes, {need} are needed")
            }
            Self::Misaligned { need } => write!(f, "region is not aligned to {need} bytes"),
            Self::NoMemfd => f.write_str("no anonymous shared memory: memfd_create is forbidden"),
            Self::NoHugePages => f.write_str("not enough huge pages in the pool"),
            Self::LockLimit => f.write_str("more memory than this process may lock"),
            Self::System(errno) => write!(f, "shared memory: {errno}"),
        }
    }
}

impl core::error::Error for CreateError {}

impl From<Errno> for CreateError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            other => Self::System(other),
        }
    }
}

/// Why bytes that a peer made were refused. Nothing in them has been trusted or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// A file without a byte.
    Empty,
    /// Fewer bytes than the header, or than the header says.
    Truncated {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// More bytes than the header says.
    SizeMismatch {
        /// Bytes the header speaks of.
        header: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// Not ours: another magic number (zero: never initialised, or punched out by a peer).
    BadMagic {
        /// The number found.
        found: u64,
    },
    /// Ours, written by a machine of the other byte order.
    ForeignByteOrder,
    /// A layout version this build does not speak.
    Version {
        /// The version found.
        found: u32,
        /// The version this build speaks.
        expected: u32,
    },
    /// Another type, or the same type laid out differently.
    Layout {
        /// The hash found.
        found: u64,
        /// The hash of what was to be attached.
        expected: u64,
    },
    /// The creator is alive and has not finished yet: try again.
    Initialising {
        /// The creator's process id, as it saw itself.
        pid: u32,
    },
    /// The creator died before it had finished; this object will never be ready.
    CreatorDied {
        /// The process id it had.
        pid: u32,
    },
    /// A field contradicts another one, or the bytes that hold it.
    Corrupt {
        /// Which field.
        field: &'static str,
    },
    /// The bytes do not lie on the boundary that their atomics need.
    Misaligned {
        /// Alignment needed, bytes.
        need: u64,
    },
    /// The file could still shrink under us (no `F_SEAL_SHRINK`): a peer could raise SIGBUS.
    Unsealed,
    /// This end of the channel already has its one owner.
    RoleTaken,
    /// Only its creator may write it; it can be attached to for reading.
    ReadOnly,
    /// More bytes than this process has addresses for: made by a 64-bit process, say.
    TooLarge {
        /// Bytes of the file.
        size: u64,
    },
    /// Left over from before the machine was booted: whoever used it is gone, and its locks mean
    /// nothing.
    OtherBoot,
    /// It belongs to the participants of another table: their ids mean others.
    OtherParticipants,
    /// The kernel refused.
    System(Errno),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::Truncated { need, have } => {
                write!(f, "truncated: {have} bytes, {need} are needed")
            }
            Self::SizeMismatch { header, actual } => {
                write!(f, "header says {header} bytes, there are {actual}")
            }
            Self::BadMagic { found } => write!(f, "wrong magic number {found:#018x}"),
            Self::ForeignByteOrder => f.write_str("written in the other byte order"),
            Self::Version { found, expected } => {
                write!(f, "layout version {found}, this build speaks {expected}")
            }
            Self::Layout { found, expected } => {
                write!(f, "layout {found:#018x} where {expected:#018x} is expected")
            }
            Self::Initialising { pid } => {
                write!(f, "process {pid} is still initialising it")
            }
            Self::CreatorDied { pid } => {
                write!(f, "its creator, process {pid}, died while initialising it")
            }
            Self::Corrupt { field } => write!(f, "corrupt: {field}"),
            Self::Misaligned { need } => write!(f, "not aligned to {need} bytes"),
            Self::Unsealed => f.write_str("not sealed against shrinking"),
            Self::RoleTaken => f.write_str("this end of the channel is taken"),
            Self::ReadOnly => f.write_str("only its creator may write it"),
            Self::TooLarge { size } => write!(f, "{size} bytes do not fit this address space"),
            Self::OtherBoot => f.write_str("left over from before this boot"),
            Self::OtherParticipants => {
                f.write_str("it belongs to the participants of another table")
            }
            Self::System(errno) => write!(f, "shared memory: {errno}"),
        }
    }
}

impl core::error::Error for AttachError {}

impl From<Errno> for AttachError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}
