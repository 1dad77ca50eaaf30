//! Where shared bytes live: mappings, segments with a checked header, shared handles.
//!
//! | type | what it is |
//! |---|---|
//! | [`Mapping`] | bytes of a memfd or file, mapped, reserved up front, sealed against shrinking |
//! | [`Segment`] | a mapping with the versioned header that attach validates |
//! | [`Named`] | a segment that is found by name, and goes with its last user |
//! | [`Shared<T>`](Shared) | one `T` in a segment of its own: an `Arc` between processes |
//! | [`Arena`], [`Heap`] | blocks; counted and named values in them |
//! | [`Snapshot`] | a value that is read whole without being in its writer's way |
//! | [`SharedMemory`], [`ShareableList`] | Python's |
//! | [`Participants`] | who shares memory, and who of them is still alive |
//! | [`transfer`] | how handles travel inside serde messages |
//!
//! `no_std` without the `std` feature (then without names, [`Shared`] and [`Heap`]); no libc. The crate's
//! `README.md` is its design document.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![warn(clippy::unnecessary_safety_comment)]

mod arena;
mod header;
#[cfg(feature = "std")]
mod heap;
#[cfg(feature = "std")]
mod held;
mod mapping;
#[cfg(feature = "std")]
mod named;
mod options;
mod participants;
mod read_only;
mod segment;
#[cfg(feature = "std")]
mod shareable_list;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "std")]
mod shared_memory;
mod snapshot;
#[cfg(feature = "serde")]
#[doc(hidden)]
pub mod socket;
mod sys;
#[cfg(feature = "serde")]
pub mod transfer;
mod turn;

pub use arena::{
    AllocError, Arena, ArenaBox, ArenaConfig, ArenaState, ArenaStatistics, Block, BlockInfo,
    FreeError, Offset, Recovered,
};
#[cfg(feature = "std")]
pub use heap::{Counted, Heap, HeapConfig, HeapError, MAX_KEY, ObjectInfo};
#[cfg(feature = "std")]
#[doc(hidden)]
pub use held::HeldSegment;
pub use mapping::Mapping;
#[cfg(feature = "std")]
pub use named::{
    DIRECTORY, Named, NamedError, NamedInfo, NamedReadOnlySegment, NamedSegment, NamedState,
    clean_up, list,
};
pub use options::{HugePages, Options};
pub use participants::{
    Entry, MAX_PARTICIPANTS, Participant, ParticipantError, Participants, ParticipantsState,
};
pub use read_only::ReadOnlySegment;
pub use segment::Segment;
#[cfg(feature = "std")]
pub use shareable_list::{Item, ListError, ShareableList};
#[cfg(feature = "std")]
pub use shared::Shared;
#[cfg(feature = "std")]
pub use shared_memory::{OutOfBounds, SharedMemory};
pub use snapshot::{Snapshot, SnapshotError, SnapshotReader};
