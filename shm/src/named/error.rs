//! Why a name could not be made or entered.

use std::fmt;
use std::path::Path;

use multiprocess_core::{AttachError, CreateError, Errno};

/// Why a name could not be made or entered. Nothing is left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedError {
    /// Empty, too long, `.` or `..`, or with a slash or a NUL in it.
    InvalidName,
    /// There is nothing of that name.
    NotFound,
    /// Somebody has made it before.
    AlreadyExists,
    /// The directory is missing: a machine, or a container, without `/dev/shm`.
    NoDirectory,
    /// It belongs to another user, who could cut it off at any time.
    ForeignOwner {
        /// The user's id.
        uid: u32,
    },
    /// A directory, a device, a symbolic link: no regular file.
    NotAFile,
    /// An option that only nameless memory can have.
    Unsupported {
        /// Which one, as [`Options`](crate::Options) calls it.
        option: &'static str,
    },
    /// Another process has been initialising or removing it for as long as we cared to wait.
    Timeout,
    /// It could not be made.
    Create(CreateError),
    /// What is there was refused.
    Attach(AttachError),
    /// The kernel refused (`EACCES`: no permission).
    System(Errno),
}

impl fmt::Display for NamedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName => f.write_str("not a name for shared memory"),
            Self::NotFound => f.write_str("no shared memory of that name"),
            Self::AlreadyExists => f.write_str("shared memory of that name exists already"),
            Self::NoDirectory => f.write_str("the directory for shared memory does not exist"),
            Self::ForeignOwner { uid } => write!(f, "it belongs to user {uid}"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Unsupported { option } => write!(f, "{option} is for nameless memory only"),
            Self::Timeout => f.write_str("another process is still initialising or removing it"),
            Self::Create(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::System(errno) => write!(f, "named shared memory: {errno}"),
        }
    }
}

impl std::error::Error for NamedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Create(error) => Some(error),
            Self::Attach(error) => Some(error),
            Self::System(errno) => Some(errno),
            _ => None,
        }
    }
}

impl From<CreateError> for NamedError {
    fn from(error: CreateError) -> Self {
        Self::Create(error)
    }
}

impl From<AttachError> for NamedError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<Errno> for NamedError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// What an error of a call on `path` means.
pub(super) fn of(errno: Errno, path: &Path) -> NamedError {
    match errno {
        Errno::NOENT => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            match rustix::fs::stat(parent) {
                Err(Errno::NOENT) => NamedError::NoDirectory,
                _ => NamedError::NotFound,
            }
        }
        Errno::NOTDIR => NamedError::NoDirectory,
        // A symbolic link, a directory, a socket.
        Errno::LOOP | Errno::ISDIR | Errno::NXIO => NamedError::NotAFile,
        Errno::NAMETOOLONG | Errno::INVAL => NamedError::InvalidName,
        Errno::NOSPC | Errno::DQUOT => NamedError::Create(CreateError::NoSpace),
        other => NamedError::System(other),
    }
}
