//! What carries: rings between processes, in shared memory, without locks.
//!
//! | module | for |
//! |---|---|
//! | [`spsc`] | messages of one type, one producer, one consumer: the fastest |
//! | [`bytes`] | records of any size, written and read in place |
//! | [`mpmc`] | messages of one type, any number of senders and receivers |
//! | [`loan`] | messages of any size, written and read in place, any number of senders and receivers |
//! | [`broadcast`] | messages of one type, from one to many, each of whom gets all of them |
//! | `tasks`, feature `async` | the ends of all of them in async code |
//!
//! In the first two every word has one writer, so a process that is killed leaves nothing to repair; in
//! `mpmc` and `loan` whoever is in the way of what it left steps over it, and takes it back. Indices
//! and lengths that a peer wrote are checked against local bounds before they are used.
//! `no_std` without the `std` feature; nothing allocates; an operation makes no system call
//! unless a peer sleeps. The crate's `README.md` is its design document.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![warn(clippy::unnecessary_safety_comment)]

pub mod broadcast;
pub mod bytes;
mod control;
mod endpoint;
mod error;
#[cfg(feature = "std")]
mod home;
#[cfg(not(feature = "std"))]
mod homeless;
pub mod loan;
pub mod mpmc;
#[cfg(feature = "serde")]
pub mod queue;
pub mod spsc;
mod statistics;
mod store;
#[cfg(feature = "async")]
pub mod tasks;
#[cfg(feature = "serde")]
mod travel;
mod waiter;

#[cfg(feature = "std")]
pub use home::{ChannelError, Home, Housed};
#[cfg(not(feature = "std"))]
pub use homeless::Home;

pub use endpoint::NoPeers;
pub use statistics::Statistics;

pub use error::{
    PopIntoError, RecvError, ReserveError, SendError, TryRecvError, TryReserveError, TrySendError,
};
