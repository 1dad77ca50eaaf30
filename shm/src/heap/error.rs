//! What can go wrong with a heap.

use std::fmt;

use multiprocess_core::{AttachError, CreateError, Errno};

use crate::{AllocError, NamedError, ParticipantError};

/// What can go wrong with a [`Heap`](super::Heap).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeapError {
    /// There is nothing of that name, or at that place.
    NotFound,
    /// There is something of that name.
    Exists,
    /// What is there is of another layout.
    OtherType {
        /// The layout found ([`LayoutHash::bits`](multiprocess_core::LayoutHash::bits)).
        found: u64,
        /// The layout asked for.
        expected: u64,
    },
    /// No room for one more name.
    Full,
    /// A name is 1 to 64 bytes long.
    InvalidKey,
    /// Another process has had the directory's turn for too long.
    Timeout,
    /// This process is not a participant: a forked child for which there was no place left.
    NotAParticipant,
    /// No memory for it.
    Alloc(AllocError),
    /// The heap could not be made.
    Create(CreateError),
    /// What is there is no heap, or a broken one.
    Attach(AttachError),
    /// The name of the heap.
    Named(NamedError),
    /// This process could not join.
    Participant(ParticipantError),
    /// The kernel refused.
    System(Errno),
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such object in the heap"),
            Self::Exists => f.write_str("an object of that name exists already"),
            Self::OtherType { found, expected } => {
                write!(f, "an object of layout {found:#018x}, not {expected:#018x}")
            }
            Self::Full => f.write_str("no room for one more named object"),
            Self::InvalidKey => f.write_str("a name has 1 to 64 bytes"),
            Self::Timeout => f.write_str("timed out waiting for the directory"),
            Self::NotAParticipant => f.write_str("not a participant of the heap"),
            Self::Alloc(error) => error.fmt(f),
            Self::Create(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Named(error) => error.fmt(f),
            Self::Participant(error) => error.fmt(f),
            Self::System(errno) => write!(f, "heap: {errno}"),
        }
    }
}

impl std::error::Error for HeapError {}

macro_rules! from {
    ($($error:ty => $variant:ident),*) => {$(
        impl From<$error> for HeapError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}
from!(
    AllocError => Alloc,
    CreateError => Create,
    AttachError => Attach,
    NamedError => Named,
    ParticipantError => Participant
);
