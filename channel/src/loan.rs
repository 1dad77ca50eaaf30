//! Loans: messages of any size that are written and read where they lie, from any number of senders to any
//! number of receivers.
//!
//! A sender borrows a block of shared memory ([`Sender::loan`]), writes into it for as long as it likes, and
//! sends it; a receiver has it as a [`Sample`], reads it in place, and gives it back by dropping it. Nothing
//! is copied: what goes through the ring, an [`mpmc`](crate::mpmc) one, is eight bytes that say where the block
//! is. Who is slow, stopped or dead with a block in hand blocks nobody. Not for messages of a few words: those
//! are faster in the slots of [`mpmc`](crate::mpmc), or, between two, of [`spsc`](crate::spsc) and
//! [`bytes`](crate::bytes).
//!
//! # Protocol
//!
//! That of the ring (`mpmc.rs`) and of the blocks (`store.rs`), which have the crash tables. A message is the
//! block's unit (64 bytes) in the upper half, and the length in bytes in the lower one.
//!
//! # Crash safety
//!
//! | killed | the block | the message |
//! |---|---|---|
//! | before the send | comes back | not sent |
//! | in the send | comes back, or belongs to the message | not sent, or sent |
//! | with a sample in hand | stays the message's | goes to another receiver; or, as [`Orphans`] say, both are gone |
//! | with a block [kept](Sample::keep) | comes back | gone |
//! | in the release | comes back | goes to another receiver, or is gone |
//!
//! A block comes back when somebody recovers: whoever finds no free one, or waits for 50 ms.
//!
//! # Trust
//!
//! References from a peer are checked, lengths too: whatever it writes, nobody looks outside the blocks. What
//! is *in* a loan or a sample is the protocol's word: a hostile peer can write into it while it is looked
//! at, or name a block that is another's ([`Sample::copy_to`] is a copy that only may be wrong).

use core::alloc::Layout;
use core::fmt;

use multiprocess_core::{AttachError, CreateError, Errno, LayoutHash, Place, Region};

pub use crate::Home;
pub use crate::mpmc::{AttachRingError, JoinError, Orphans, Recovered, Statistics};
use crate::store::{Names, Shape, Store};

mod held;
#[cfg(feature = "std")]
mod home;
mod lent;
mod ready;
mod receiver;
mod sample;
mod sender;
#[cfg(feature = "serde")]
mod travel;

#[cfg(feature = "std")]
pub use home::{channel, channel_with};
pub use lent::Loan;
pub use receiver::Receiver;
pub use sample::{Kept, Sample};
pub use sender::Sender;

/// How large a ring of loans is, and what it does.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::loan::{Config, Orphans};
///
/// // 100 messages under way, in 64 MiB.
/// let config = Config::new(100, 64 << 20).endpoints(8).orphans(Orphans::Drop);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config(Shape);

impl Config {
    /// A ring of at least `capacity` messages, for 32 endpoints, that redelivers orphans; with `bytes` for the
    /// blocks of all messages, loans and samples together. A block takes up to a quarter more than was asked
    /// for, and at least 128 bytes; large ones need so many bytes in a row.
    pub const fn new(capacity: u64, bytes: u64) -> Self {
        let ring = crate::mpmc::Config::new(capacity).lending();
        Self(Shape::new(ring, bytes))
    }

    const fn with(self, ring: crate::mpmc::Config) -> Self {
        Self(Shape::new(ring, self.0.arena))
    }

    /// For at most so many senders and receivers at a time, 1 to 8192. Each costs 128 bytes, and each
    /// message in hand one slot: the capacity is more than their number.
    #[must_use]
    pub const fn endpoints(self, endpoints: u32) -> Self {
        self.with(self.0.ring.endpoints(endpoints))
    }

    /// What becomes of messages that the dead had in hand, with their blocks.
    #[must_use]
    pub const fn orphans(self, orphans: Orphans) -> Self {
        self.with(self.0.ring.orphans(orphans))
    }

    /// Whether nobody is disconnected because all others have left: somebody may come again. Closing the
    /// ring still disconnects.
    #[must_use]
    pub const fn kept(self) -> Self {
        self.with(self.0.ring.kept())
    }
}

/// The state in shared memory: a ring, and the arena of its blocks (see the README).
///
/// A [`Place`]: use it to put both into memory of your own, with [`Sender::attach`] and
/// [`Receiver::attach`]; [`channel`] makes one in a segment.
#[derive(Debug)]
pub struct Ring(());

type State = Store<Reference>;

// SAFETY: the store's own.
unsafe impl Place for Ring {
    type Config = Config;

    const LAYOUT: LayoutHash = LayoutHash::of("loans").mix(State::LAYOUT.bits());

    fn layout(config: &Config) -> Result<Layout, CreateError> {
        State::layout(&config.0)
    }

    unsafe fn init(region: Region<'_>, config: &Config) -> Result<(), CreateError> {
        // SAFETY: the caller's word is the same.
        unsafe { State::init(region, &config.0) }
    }

    fn attach(region: Region<'_>) -> Result<Config, AttachError> {
        State::attach(region).map(Config)
    }
}

/// What goes through the ring.
type Reference = u64;

/// Bytes of a unit of the arena.
const UNIT: u64 = 64;

/// The longest loan.
const MAX_LEN: usize = u32::MAX as usize;

impl Names for Reference {
    #[inline]
    fn block(&self) -> Option<u64> {
        Some((self >> 32) * UNIT)
    }
}

/// Why no block was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoanError {
    /// No block of that size is free, and there was no time to wait for one.
    Exhausted,
    /// The blocks of this ring are never that large.
    TooLarge {
        /// The longest loan there may be, bytes.
        max: usize,
    },
    /// There was none, and the receivers, who give them back, are gone; or the ring is closed.
    Disconnected,
    /// This process is not among the participants: their table was full when it was forked.
    NotAParticipant,
    /// The kernel refused to let us sleep.
    System(Errno),
}

impl fmt::Display for LoanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("no block is free"),
            Self::TooLarge { max } => write!(f, "a loan has {max} bytes at most"),
            Self::Disconnected => f.write_str("the other end is gone"),
            Self::NotAParticipant => f.write_str("only a participant can have a loan"),
            Self::System(errno) => write!(f, "waiting for a block: {errno}"),
        }
    }
}

impl core::error::Error for LoanError {}
