//! `Snapshot<T>`: a value that readers copy out without ever being in a writer's way.
//!
//! Algorithm: a sequence lock with two copies, as the kernel's `seqcount_latch_t`
//! (<https://docs.kernel.org/locking/seqlock.html>). For the fences: Boehm, *Can Seqlocks Get Along
//! With Programming Language Memory Models?* (MSPC 2012).
//!
//! # Protocol
//!
//! Value number n lies in copy `n & 1`. *write*: (1) take the writers' turn; (2) n = sequence;
//! (3) write copy `(n + 1) & 1`; (4) sequence = n + 1; (5) give the turn back. *read*: (6) n =
//! sequence; (7) copy `n & 1` out; (8) if the sequence still is n, that was value n: a writer turns
//! to this copy only after it has published n + 1 in the other one. Else again.
//!
//! # Ordering
//!
//! The store of 4 is Release and pairs with the Acquire load of 6: who sees n sees copy `n & 1`.
//! The Release fence before 3 pairs with the Acquire fence before 8: who has read a byte of value
//! n + 2 sees that the sequence is no longer n.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1, 2, 3 | the turn; a torn copy that nobody looks at | readers go on with value n; the next writer inherits the turn, and writes that copy anew |
//! | 4 | the turn | as above, with value n + 1 |
//! | 5, 6, 7, 8 | nothing | |

use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;

use bytemuck::{AnyBitPattern, NoUninit};
use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence, spin_loop,
};
use multiprocess_core::copy::RacyCell;
use multiprocess_core::park::{self, Parked};
use multiprocess_core::{AttachError, Deadline, Errno, LayoutHash, Peers, ShmSafe, Timeout, View};

use crate::turn::{Turn, TurnError};

/// Attempts of a reader before it gives up: a writer that overtakes it so often is no writer of ours.
const ATTEMPTS: u32 = 1 << 16;

/// A value in shared memory that one writes and many read: state of a game, a table of rates, a
/// position. Each read is a copy of one whole value, never of two halves.
///
/// Readers write nothing: they may map the memory read-only ([`SnapshotReader`]), they never block
/// the writer, and a writer that is stopped or killed does not block them. Several writers take
/// turns. Not for values that are read once each (a ring is), nor for large ones that change all the
/// time: a reader that is overtaken twice starts again.
///
/// All zero bytes are the snapshot of a value of zeroes.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::{Participants, Shared, Snapshot};
///
/// let table = Participants::new(8)?;
/// let me = table.join()?;
/// let position = Shared::new(Snapshot::new([0.0f64; 3]))?;      // travels to other processes
/// position.write(&me, [1.0, 2.0, 3.0], None)?;
/// assert_eq!(position.read()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What a writer wrote before a value is visible to whoever has read that value.
///
/// # Crash safety
///
/// A writer killed at any point leaves the old value or the new one; the next writer goes on within
/// its inner bound. Trust: *guarded* as to memory; a peer can write garbage, or keep readers from
/// getting a value ([`SnapshotError::Unsettled`]), or writers from their turn, by what is none
/// ([`SnapshotError::Corrupt`]) or looks like a living one's.
///
/// # Fork
///
/// As the [`Peers`] that are passed in.
// `sequence` and the copies: whoever has the turn.
#[repr(C)]
pub struct Snapshot<T> {
    sequence: AtomicU64,
    turn: Turn,
    copies: [RacyCell<T>; 2],
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Snapshot<[u64; 4]>>(), 80);

/// Why a snapshot could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Values came faster than one could be copied, many times over.
    Unsettled,
    /// Another writer has had its turn for as long as we cared to wait; or no new value came.
    Timeout,
    /// The caller is not among the participants, so that its death could not be told.
    NotAParticipant,
    /// The word of the writers' turn holds garbage: nobody can write any more.
    Corrupt,
    /// The kernel refused.
    System(Errno),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsettled => f.write_str("it changes faster than it can be read"),
            Self::Timeout => f.write_str("timed out"),
            Self::NotAParticipant => f.write_str("the writer is not a participant"),
            Self::Corrupt => f.write_str("the writers' turn is corrupt"),
            Self::System(errno) => write!(f, "waiting in shared memory: {errno}"),
        }
    }
}

impl core::error::Error for SnapshotError {}

impl From<TurnError> for SnapshotError {
    fn from(error: TurnError) -> Self {
        match error {
            TurnError::Timeout => Self::Timeout,
            TurnError::NotAParticipant => Self::NotAParticipant,
            TurnError::Corrupt => Self::Corrupt,
            TurnError::System(errno) => Self::System(errno),
        }
    }
}

impl<T: AnyBitPattern + NoUninit> Snapshot<T> {
    multiprocess_core::const_unless_loom! {
        /// Of `value`, which is value number 0.
        pub fn new(value: T) -> Self {
            Self {
                sequence: AtomicU64::new(0),
                turn: Turn::new(),
                copies: [RacyCell::new(value), RacyCell::new(value)],
            }
        }
    }

    /// Publishes `value`. Waits for other writers no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Timeout`], [`SnapshotError::NotAParticipant`], [`SnapshotError::Corrupt`],
    /// [`SnapshotError::System`]: nothing was published.
    #[inline]
    pub fn write(
        &self,
        peers: &(impl Peers + ?Sized),
        value: T,
        timeout: impl Into<Timeout>,
    ) -> Result<(), SnapshotError> {
        self.update(peers, |_| value, timeout)
    }

    /// Publishes what `change` makes of the present value; no other writer comes in between. If
    /// `change` panics, nothing is published.
    ///
    /// `change` must not write or update the same snapshot: it has the turn that it would wait for.
    /// Without a timeout that is for ever; with one, [`SnapshotError::Timeout`]. It may read it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[inline]
    pub fn update(
        &self,
        peers: &(impl Peers + ?Sized),
        change: impl FnOnce(T) -> T,
        timeout: impl Into<Timeout>,
    ) -> Result<(), SnapshotError> {
        let _turn = self.turn.take(peers, Deadline::after(timeout))?;
        // Relaxed: ours as long as we have the turn.
        let now = self.sequence.load(Relaxed);
        let next = now.wrapping_add(1);
        let value = change(self.copy_of(now).load());
        // Pairs with the Acquire fence in `try_read`.
        fence(Release);
        self.copy_of(next).store(value);
        // Release pairs with the Acquire load in `try_read`.
        self.sequence.store(next, Release);
        Ok(())
    }

    /// Wakes those who [wait](SnapshotReader::wait_changed): a call for after a
    /// [`write`](Self::write) that somebody should learn of at once. Readers leave no trace, so a
    /// writer cannot know whether anybody waits; this asks the kernel.
    pub fn wake(&self) {
        park::wake(&self.sequence, u32::MAX);
    }

    /// A copy of the present value.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Unsettled`].
    #[inline]
    pub fn read(&self) -> Result<T, SnapshotError> {
        self.reader().read()
    }

    /// As those see it who may only read.
    #[inline]
    pub fn reader(&self) -> SnapshotReader<'_, T> {
        SnapshotReader { snapshot: self }
    }

    /// Steps 6 to 8. `value` is whole if the number is given.
    #[inline]
    fn try_read(&self, value: &mut MaybeUninit<T>) -> Option<u64> {
        // Acquire pairs with the Release store in `update`.
        let number = self.sequence.load(Acquire);
        self.copy_of(number).load_into(value);
        // Pairs with the Release fence in `update`.
        fence(Acquire);
        (self.sequence.load(Relaxed) == number).then_some(number)
    }

    #[inline]
    fn copy_of(&self, number: u64) -> &RacyCell<T> {
        &self.copies[(number & 1) as usize]
    }
}

impl<T: AnyBitPattern + NoUninit + fmt::Debug> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshot").field(&self.read()).finish()
    }
}

// SAFETY: `repr(C)` around words and cells of plain data; every value of the sequence selects one of
// two copies.
unsafe impl<T: ShmSafe + AnyBitPattern + NoUninit> ShmSafe for Snapshot<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("Snapshot").mix(1).mix(T::LAYOUT.bits());
}

/// A [`Snapshot`] that can only be read: in memory that is mapped read-only, too.
///
/// # Examples
///
/// ```
/// use core::alloc::Layout;
/// use multiprocess_core::ShmSafe;
/// use multiprocess_shm::{Options, ReadOnlySegment, Segment, Snapshot, SnapshotReader};
/// use std::os::fd::AsFd;
///
/// type Rates = Snapshot<[u32; 8]>;
/// let options = Options::new().one_writer(true);        // nobody else can ever map it writable
/// let made = Segment::create_with(&options, Rates::LAYOUT, Layout::new::<Rates>(), |bytes| {
///     bytes.check(Layout::new::<Rates>())?;
///     // SAFETY: large enough and aligned; nobody else knows of it.
///     unsafe { bytes.base().cast::<Rates>().write(Snapshot::new([7; 8])) };
///     Ok(())
/// })?;
///
/// let reader = ReadOnlySegment::attach(made.as_fd().try_clone_to_owned()?, Rates::LAYOUT)?;
/// let rates = SnapshotReader::<[u32; 8]>::attach(reader.payload())?;
/// assert_eq!(rates.read()?, [7; 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A reader leaves no trace.
#[derive(Clone, Copy)]
pub struct SnapshotReader<'a, T> {
    snapshot: &'a Snapshot<T>,
}

impl<'a, T: ShmSafe + AnyBitPattern + NoUninit> SnapshotReader<'a, T> {
    /// Attaches to the snapshot at the beginning of `view`. Every value of its bytes is a valid one:
    /// which type it is, is for the segment's layout hash to tell.
    ///
    /// # Errors
    ///
    /// [`AttachError::Truncated`], [`AttachError::Misaligned`].
    pub fn attach(view: View<'a>) -> Result<Self, AttachError> {
        view.check(Layout::new::<Snapshot<T>>())?;
        // SAFETY: large enough and aligned, as just checked; mapped for `'a`; a reader makes
        // loads only, and any bytes are valid.
        let snapshot = unsafe { view.base().cast::<Snapshot<T>>().as_ref() };
        Ok(Self { snapshot })
    }
}

impl<T: AnyBitPattern + NoUninit> SnapshotReader<'_, T> {
    /// A copy of the present value.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Unsettled`].
    #[inline]
    pub fn read(&self) -> Result<T, SnapshotError> {
        let mut value = MaybeUninit::uninit();
        self.settle(&mut value)?;
        // SAFETY: a number was given, so all bytes are written; T accepts any.
        Ok(unsafe { value.assume_init() })
    }

    /// A copy of the present value, and its number: how many came before it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Unsettled`].
    #[inline]
    pub fn read_numbered(&self) -> Result<(u64, T), SnapshotError> {
        let mut value = MaybeUninit::uninit();
        let number = self.settle(&mut value)?;
        // SAFETY: as in `read`.
        Ok((number, unsafe { value.assume_init() }))
    }

    #[inline]
    fn settle(&self, value: &mut MaybeUninit<T>) -> Result<u64, SnapshotError> {
        for _ in 0..ATTEMPTS {
            if let Some(number) = self.snapshot.try_read(value) {
                return Ok(number);
            }
            spin_loop();
        }
        Err(SnapshotError::Unsettled)
    }

    /// How many values came before the present one.
    #[inline]
    pub fn number(&self) -> u64 {
        // Acquire: who has seen the number sees that value, or a later one.
        self.snapshot.sequence.load(Acquire)
    }

    /// Waits for another value than number `seen`, and returns a copy. Woken by
    /// [`wake`](Snapshot::wake); of values that come without, it learns after 1 s at most.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Timeout`], [`SnapshotError::Unsettled`], [`SnapshotError::System`].
    pub fn wait_changed(
        &self,
        seen: u64,
        timeout: impl Into<Timeout>,
    ) -> Result<(u64, T), SnapshotError> {
        let deadline = Deadline::after(timeout);
        let mut patience = park::Patience::new();
        let mut expired = false;
        loop {
            if self.number() != seen {
                return self.read_numbered();
            }
            if expired || deadline.has_passed() {
                return Err(SnapshotError::Timeout);
            }
            // The low half differs between any two numbers less than 2^32 apart.
            match patience.park(&self.snapshot.sequence, seen as u32, deadline) {
                Ok(Parked::TimedOut) => expired = true,
                Ok(_) => {}
                Err(errno) => return Err(SnapshotError::System(errno)),
            }
        }
    }
}

impl<T: AnyBitPattern + NoUninit + fmt::Debug> fmt::Debug for SnapshotReader<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SnapshotReader").field(&self.read()).finish()
    }
}
