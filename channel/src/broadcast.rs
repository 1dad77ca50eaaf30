//! Ring of messages of one type, from one sender to any number of receivers, each of which gets every
//! message. Algorithm: a sequence lock in each slot, as in Agrona's broadcast buffer
//! (<https://github.com/aeron-io/agrona>); for the fences: Boehm, *Can Seqlocks Get Along With
//! Programming Language Memory Models?* (MSPC 2012).
//!
//! Two kinds of receivers, side by side on one ring:
//!
//! | | [`Receiver`] | [`LosslessReceiver`] |
//! |---|---|---|
//! | maps the ring | read-only, or as it likes | writable |
//! | too slow | told how many messages it missed | the sender waits for it |
//! | hostile | can hurt nobody, if it maps read-only | can hold the sender up |
//! | killed | leaves no trace | the sender finds out when it would wait, and drops it |
//!
//! # Protocol
//!
//! Message t lies in slot `t mod capacity`, whose sequence is 2t + 1 while it is written and 2t + 2
//! when it is there. *send*: (1) if our limit says full, look at the seats; (2) sequence = 2t + 1; (3)
//! write the message; (4) sequence = 2t + 2: sent; (5) tail = t + 1; (6) wake receivers that sleep.
//! *receive* message t: (7) the sequence is 2t + 2; (8) copy the message; (9) it still is 2t + 2. Less
//! than that means not yet, more means overtaken: go on at a later message, and tell how many were
//! missed. *A lossless receiver*, besides: (10) cursor = t + 1; (11) wake the sender if it sleeps.
//! *join*: (12) seat FREE → JOINING; (13) cursor = tail; (14) → TAKEN; (15) full fence; (16) cursor =
//! tail, which is where we start. *look at the seats*: (17) full fence; (18) limit = least cursor of the
//! TAKEN + capacity, and at most tail + capacity. *take over*: (19) tail = t; if the sequence of slot t
//! is 2t + 2, message t was sent: tail = t + 1.
//!
//! # Why nothing is torn, and nothing overwritten that a lossless receiver has not read
//!
//! Who has copied a byte of message t + capacity sees at (9) that the sequence has changed. No sequence
//! number stands for two messages: step 19 keeps a successor from writing message t again after
//! somebody may have read it.
//!
//! A receiver starts at p, read at (16). A look at the seats that has not seen it TAKEN was made at a
//! tail of at most p: either the fence of 17 comes before that of 15, and 16 reads that tail or a later
//! one; or it comes after, and 18 sees TAKEN (Dekker). So its limit is at most p + capacity, and
//! message p, whose slot goes to message p + capacity, is not overwritten. A look that has seen it
//! TAKEN sees the cursor of 13 or a later one, each at most what the receiver reads next. Seats that
//! are only JOINING are passed over: who stops there holds nobody up.
//!
//! # Ordering
//!
//! The Release store of 4 pairs with the Acquire load of 7. The Release fence between 2 and 3 pairs with
//! the Acquire fence between 8 and 9. The Release store of 10 pairs with the Acquire load of 18: the slot
//! is not written while it is read. The Release store of 5 pairs with the Acquire load of 13 and 16.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others | a successor |
//! |---|---|---|---|
//! | 1, 17, 18 | nothing | | |
//! | 2, 3 | message t half-written, at an odd sequence | not yet there; message t - capacity is gone | writes it anew |
//! | 4 | message t sent, the tail behind | receive it | finds it sent (19) |
//! | 5 | sleepers not woken | look at their inner bound | |
//! | 7, 8, 9 | nothing; of a lossless one, a seat | the sender drops it when it would wait | |
//! | 10 | the sender not woken | it looks at its inner bound | |
//! | 12 | a seat JOINING | given to another when they run out, or when the sender would wait | |
//! | 13 to 16 | a seat TAKEN | the sender drops it when it would wait | |
//! | 19 | the tail moved on, or not | | the next one does it again |
//!
//! Indices are 64 bits and never wrap in practice; the arithmetic is modulo 2^64 (sequences: messages
//! modulo 2^63) anyway. Waiting: see `broadcast/bell.rs`.

use multiprocess_core::CreateError;

use crate::control::MAX_CAPACITY;

mod bell;
#[cfg(feature = "std")]
mod home;
#[cfg(feature = "async")]
mod keep;
mod layout;
mod lossless;
mod memory;
mod ready;
mod receiver;
mod role;
mod sender;
mod table;
#[cfg(feature = "serde")]
mod travel;
mod wait;

pub use crate::Home;
pub use crate::error::{ReadError, TryReadError};
#[cfg(feature = "std")]
pub use crate::home::ChannelError;
pub use crate::mpmc::{AttachRingError, JoinError};
#[cfg(feature = "std")]
pub use home::{channel, channel_with, receiver};
#[cfg(feature = "async")]
pub(crate) use keep::keep;
pub use lossless::LosslessReceiver;
pub use memory::ReadMemory;
pub use receiver::Receiver;
pub use sender::Sender;

/// How many lossless receivers a ring can be made for.
const MAX_READERS: u32 = 4096;

/// How large a ring is.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::broadcast::Config;
///
/// let config = Config::new(1000).readers(2);     // 1024 messages
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    capacity: u64,
    readers: u32,
    first: u64,
}

impl Config {
    /// A ring of at least `capacity` messages, rounded up to a power of two and to 2; for 8 lossless
    /// receivers.
    pub const fn new(capacity: u64) -> Self {
        Self {
            capacity,
            readers: 8,
            first: 0,
        }
    }

    /// For at most so many lossless receivers at a time, 0 to 4096. Each costs 128 bytes. There is no
    /// limit to the others.
    #[must_use]
    pub const fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// The number of the first message: for tests of the wrap.
    #[doc(hidden)]
    #[must_use]
    pub const fn starting_at(mut self, first: u64) -> Self {
        self.first = first;
        self
    }

    /// With the capacity that the ring will have.
    fn rounded(&self) -> Result<Self, CreateError> {
        if self.capacity == 0 || self.capacity > MAX_CAPACITY {
            return Err(CreateError::Capacity {
                requested: self.capacity,
                max: MAX_CAPACITY,
            });
        }
        if self.readers > MAX_READERS {
            return Err(CreateError::Capacity {
                requested: u64::from(self.readers),
                max: u64::from(MAX_READERS),
            });
        }
        Ok(Self {
            capacity: self.capacity.max(2).next_power_of_two(),
            ..*self
        })
    }
}

/// The shared state of a ring of `T`: control block, seats and slots (see the README).
///
/// A [`Place`](multiprocess_core::Place): use it to put a ring into memory of your own, with
/// [`Sender::attach`], [`Receiver::attach`] and [`LosslessReceiver::attach`]; [`channel`] makes one
/// in a segment.
///
/// # Examples
///
/// ```
/// use core::mem::MaybeUninit;
/// use multiprocess_channel::broadcast::{Config, Receiver, Ring, Start};
/// use multiprocess_core::{Place, Region, View};
///
/// #[repr(align(128))]
/// struct Memory([MaybeUninit<u8>; 4096]);
///
/// let mut memory = Memory([MaybeUninit::uninit(); 4096]);
/// let region = Region::from_uninit(&mut memory.0);
/// // SAFETY: the array is ours, nobody else uses it.
/// unsafe { Ring::<u64>::init(region, &Config::new(16).readers(0))? };
/// let receiver = Receiver::<u64, _>::attach(View::from(region), Start::Next)?;
/// assert_eq!(receiver.capacity(), 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ring<T> {
    message: core::marker::PhantomData<T>,
}

/// At which message a [`Receiver`] starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The first that is sent from now on.
    #[default]
    Next,
    /// The last that was sent, if it is still there.
    Newest,
    /// The oldest that is still there.
    Oldest,
}

/// What has gone through a ring; read without a lock, so the numbers may be of slightly different
/// moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Messages sent, by this sender and those before it.
    pub sent: u64,
    /// Lossless receivers, the dead that nobody has dropped included.
    pub readers: u32,
    /// Messages that the slowest of them has not received yet.
    pub lag: u64,
    /// How many lossless receivers were dropped because they were dead.
    pub dropped: u64,
}
