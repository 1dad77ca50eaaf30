//! Ring of messages of one type, from any number of senders to any number of receivers, which a
//! process that is dead or stopped does not block. Algorithm: slots with a ticket each, as in
//! Vyukov's bounded queue
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>), with the claim
//! moved from the index to the slot and stamped with its owner, and with *quarantine*: a slot whose
//! holder stalls is neither waited for nor taken away, but stepped over, lap after lap, until its
//! holder hands it back, or whoever finds out that the holder is dead.
//!
//! # Protocol
//!
//! Slot j of n has the messages with tickets j, j + n, j + 2n, ... in turn. Its word
//! (`mpmc/words.rs` has the state table) is changed by CAS on the exact value; `t` is the ticket.
//!
//! *send*: (1) at the tail: EMPTY(t) → WRITING(me, t); (2) write the message; (3) → READY(t): sent;
//! (4) if that fails we were taken to be stalled: HELD_WRITING(me, T) → SKIP(T), and again from 1,
//! with a later ticket. *receive*: (5) at the head: READY(t) → READING(me, t): taken; (6) read;
//! (7) → EMPTY(t + n), or, if we were taken to be stalled, HELD_READING(me, T) → SKIP(T).
//! *A receiver at a stalled writer*, if a message lies behind it: (8) WRITING(o, t) →
//! HELD_WRITING(o, t + n). *At a slot without a message for t*: (9) SKIP(t) → EMPTY(t + n);
//! HELD(o, t) → HELD(o, t + n). *A sender at a stalled reader*, if there is room behind it: (10)
//! READING(o, t - n) → HELD_READING(o, t); likewise ORPHAN. *Give up*: (11) READING(me, t) →
//! ORPHAN(t). *Recover* a dead owner, who is its recoverer's alone by a CAS on its seat's word: (12)
//! WRITING and HELD_WRITING → SKIP, READING and HELD_READING → ORPHAN (or dropped); then announce the
//! orphans; then free the seat.
//!
//! *In one step*: where the processor swaps two words at once (`core/src/pair.rs`), a message of one word goes
//! from EMPTY(t) to READY(me, t) together with its slot's word: steps 1 to 3 with nobody in between.
//! Likewise a receiver that copies the message out: READY(t) → EMPTY(t + n), steps 5 to 7.
//!
//! Tail and head are hints; each handle has a cursor of its own, and moves it on when a slot's word
//! proves that the ticket is used.
//!
//! # Why nothing is lost, doubled or reordered
//!
//! A ticket is *used* once its slot's word has a later ticket, or this one and is not EMPTY; that
//! never ends. A sender passes a ticket only if it is used, so tickets are claimed without gaps; a
//! receiver passes it only if it was taken or skipped, so a READY slot is never passed. Only `o` makes
//! WRITING(o, t) and READING(o, t), each `t` once, and third parties leave `o` in the word until
//! `o` lets go, so a late CAS cannot hit another life of the slot; a seat's number is given away
//! again only after recovery. A message's bytes are touched only by the owner in the word (a receiver
//! that takes in one step copies them by atomics and throws the copy away if its CAS fails).
//! A slot is handed back as SKIP and not as EMPTY, since an EMPTY behind the tail would end the
//! receivers' walk there. A message that is sent again after step 4 has a later ticket, so each sender's
//! messages stay in order. An orphan stays in its slot: one CAS makes it available, so it is there once,
//! whoever dies when; senders step over it as over a stalled reader.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | until recovery | recovery |
//! |---|---|---|---|
//! | 1, 2 | WRITING | stepped over after a while (8) | SKIP: not sent |
//! | 3 | READY | received | |
//! | 4, 7 | SKIP or EMPTY | | |
//! | 5, 6 | READING | stepped over (10) | ORPHAN, or dropped |
//! | 8, 9, 10 | the slot of another one, changed or not | | |
//! | 11 | an orphan, not announced | received when the head comes to it | announced |
//! | 12 | the seat RECOVERING | | the next one does it again |
//! | hints | stale | found out by looking on | |
//!
//! Waiting: see `mpmc/bell.rs`. Whoever waits for longer than 50 ms, or in vain for
//! less, recovers the dead.

use core::fmt;

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::{AttachError, CreateError};

use crate::control::MAX_CAPACITY;
use crate::spsc::Message;

mod bell;
mod claim;
mod done;
mod endpoint;
mod find;
#[cfg(feature = "std")]
mod home;
#[cfg(feature = "async")]
mod keep;
mod layout;
mod lend;
mod pace;
mod ready;
mod receiver;
mod sender;
mod table;
mod taken;
#[cfg(feature = "serde")]
pub(crate) mod travel;
mod words;

pub use crate::Home;
#[cfg(feature = "std")]
pub use crate::home::ChannelError;
pub use done::WaitDoneError;
#[cfg(feature = "std")]
pub use home::{channel, channel_with};
#[cfg(feature = "async")]
pub(crate) use keep::keep;
pub use receiver::Receiver;
pub use sender::Sender;
pub use table::{JoinError, Recovered};
pub use taken::Taken;

pub(crate) use endpoint::Endpoint;
use layout::Parts;
pub(crate) use lend::Onlooker;
use words::{MAX_SEATS, Owner};

/// What becomes of a message that a receiver had taken and not released when it died. The ring cannot
/// know whether it had been worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orphans {
    /// Another receiver gets it: at least once.
    #[default]
    Redeliver,
    /// It is gone: at most once.
    Drop,
}

/// How large a ring is, and what it does.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::mpmc::{Config, Orphans};
///
/// let config = Config::new(1000).endpoints(16).orphans(Orphans::Drop);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    capacity: u64,
    endpoints: u32,
    orphans: Orphans,
    limit: u64,
    is_joinable: bool,
    is_kept: bool,
    is_lending: bool,
    first: u64,
}

impl Config {
    /// A ring of at least `capacity` messages, for 32 endpoints, that redelivers orphans.
    pub const fn new(capacity: u64) -> Self {
        Self {
            capacity,
            endpoints: 32,
            orphans: Orphans::Redeliver,
            limit: 0,
            is_joinable: false,
            is_kept: false,
            is_lending: false,
            first: 0,
        }
    }

    /// For at most so many senders and receivers at a time, 1 to 8192. Each costs 128 bytes, and one
    /// slot while it is stalled: the capacity is more than their number.
    #[must_use]
    pub const fn endpoints(mut self, endpoints: u32) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// What becomes of messages that the dead had in hand.
    #[must_use]
    pub const fn orphans(mut self, orphans: Orphans) -> Self {
        self.orphans = orphans;
        self
    }

    /// At most `limit` messages that nobody has taken, though there are more slots; 0: as many as there
    /// are slots. Slots of stalled senders, and those handed back since the oldest message was sent, count.
    #[must_use]
    pub const fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Receivers tell those who wait until nothing is in the ring, or in anybody's hands:
    /// [`Sender::join`].
    #[must_use]
    pub const fn joinable(mut self) -> Self {
        self.is_joinable = true;
        self
    }

    /// Whether nobody is disconnected because all others have left: somebody may come again. Closing the
    /// ring still disconnects.
    #[must_use]
    pub const fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// Messages name blocks of an arena: an orphan that is to be dropped stays until somebody takes it, and
    /// gives its block back.
    #[must_use]
    pub(crate) const fn lending(mut self) -> Self {
        self.is_lending = true;
        self
    }

    /// The first ticket: for tests of the wrap.
    #[doc(hidden)]
    #[must_use]
    pub const fn starting_at(mut self, ticket: u64) -> Self {
        self.first = ticket;
        self
    }

    /// Endpoints.
    #[cfg(feature = "std")]
    pub(crate) const fn seats(&self) -> u32 {
        self.endpoints
    }

    /// Most messages that nobody has taken.
    #[cfg(feature = "serde")]
    pub(crate) const fn most(&self) -> u64 {
        match self.limit {
            0 => self.capacity,
            limit => limit,
        }
    }

    /// With the capacity that the ring will have: a power of two above the number of endpoints.
    fn rounded(&self) -> Result<Self, CreateError> {
        if self.capacity == 0 || self.capacity > MAX_CAPACITY {
            return Err(CreateError::Capacity {
                requested: self.capacity,
                max: MAX_CAPACITY,
            });
        }
        if self.endpoints == 0 || self.endpoints > MAX_SEATS {
            return Err(CreateError::Capacity {
                requested: u64::from(self.endpoints),
                max: u64::from(MAX_SEATS),
            });
        }
        let least = self.capacity.max(u64::from(self.endpoints) + 1);
        let capacity = least.next_power_of_two();
        Ok(Self {
            capacity,
            limit: if self.limit < capacity { self.limit } else { 0 },
            ..*self
        })
    }
}

/// The shared state of a ring of `T`: control block, seats and slots (see the README).
///
/// A [`Place`](multiprocess_core::Place): use it to put a ring into memory of your own, with
/// [`Sender::attach`] and [`Receiver::attach`]; [`channel`] makes one in a segment.
#[derive(Debug)]
pub struct Ring<T> {
    message: core::marker::PhantomData<T>,
}

/// Why a handle was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachRingError {
    /// There is no such ring in the bytes.
    Attach(AttachError),
    /// There is no seat.
    Join(JoinError),
}

impl fmt::Display for AttachRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AttachRingError {}

/// What has gone through a ring, summed over all who have had a seat; read without a lock, so the
/// numbers may be of slightly different moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Endpoints in use, the dead that nobody has recovered included.
    pub endpoints: u32,
    /// Messages sent and received: each counts twice once it is received.
    pub messages: u64,
    /// Slots of stalled peers that were stepped over.
    pub quarantines: u64,
    /// Most messages that a sender has seen in the ring. Senders look when they find no room, and once
    /// in 128 messages, or in an eighth of the ring if that is less (but not less than 8).
    pub high_water: u64,
}

fn statistics<T: Message>(parts: &Parts<T>) -> Statistics {
    let mut all = Statistics::default();
    for number in 0..parts.seat_count as Owner {
        let Some(seat) = parts.seat(number) else {
            break;
        };
        let in_use = words::seated(seat.word.load(Relaxed)) != words::Seated::Free;
        all.endpoints += u32::from(in_use);
        all.messages = all.messages.wrapping_add(seat.messages.load(Relaxed));
        all.quarantines = all.quarantines.wrapping_add(seat.quarantines.load(Relaxed));
        all.high_water = all.high_water.max(seat.high_water.load(Relaxed));
    }
    all
}

fn close_ring<T: Message>(parts: &Parts<T>) {
    let control = parts.control();
    control.receivers.close();
    control.receivers.ring_all();
    control.senders.ring_all();
    control.rare.memory.ring_all();
}
