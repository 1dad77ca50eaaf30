//! Ground floor of `multiprocess`: what every primitive that lives in shared memory stands on.
//!
//! | module | what it gives |
//! |---|---|
//! | [`atomic`] | atomics, fences and `UnsafeCell`: the real ones, or loom's |
//! | [`park`] | sleep on a word of shared memory until a peer changes and wakes it |
//! | [`asymmetric`] | a store-load barrier whose cost falls on the side that is about to sleep |
//! | [`Deadline`], [`Timeout`] | monotonic time |
//! | [`spin`] | how long to spin before parking |
//! | [`ShmSafe`], [`Place`], [`Region`], [`Memory`] | what may lie in shared memory, and how it is laid out, initialised and attached |
//! | [`ParticipantId`], [`Peers`] | who holds a lock or a slot, and who is alive |
//! | [`thread`] | a thread's id, its list of robust locks, and whether a fork made them stale |
//! | [`pair`] | compare-and-swap of two words at once, where the processor has it |
//! | [`copy`] | copies out of memory that a peer may write at the same time |
//!
//! `no_std`, no allocation, no libc on Linux, no threads, no signal handlers. Feature `std` adds
//! [`thread::Thread::current`]. The crate's
//! `README.md` is its design document.
#![no_std]
#![warn(clippy::unnecessary_safety_comment)]

// `#[derive(ShmSafe)]` writes `::multiprocess_core::...`; inside this crate that is us.
extern crate self as multiprocess_core;
#[cfg(feature = "std")]
extern crate std;

pub mod asymmetric;
pub mod atomic;
mod cache_padded;
pub mod copy;
mod deadline;
mod error;
mod layout;
pub mod pair;
pub mod park;
mod participant;
mod peers;
mod place;
pub mod spin;
mod sys;
pub mod thread;

pub use cache_padded::CachePadded;
pub use deadline::{Deadline, Timeout};
pub use error::{AttachError, CreateError, Errno};
pub use layout::{LayoutHash, ShmSafe};
pub use multiprocess_derive::ShmSafe;
pub use participant::ParticipantId;
pub use peers::Peers;
pub use place::{Memory, Place, Region, View};

/// The trait without the derive macro of the same name, and the macro for the facade.
#[doc(hidden)]
pub mod facade {
    pub use crate::layout::ShmSafe;
    pub use multiprocess_derive::FacadeShmSafe;
}

#[cfg(loom)]
pub use sys::model;
