//! The receiving end that never holds the sender up.

use core::fmt;

use multiprocess_core::atomic::Ordering::{Acquire, Relaxed};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::{AttachError, Deadline, ParticipantId, Timeout};

use super::layout::{Found, Parts};
use super::wait::{Listener, wait};
use super::{Home, ReadError, ReadMemory, Start, Statistics, TryReadError, role};
use crate::spsc::Message;

/// Receives every message of a ring that it is fast enough for, and is told how many it missed.
///
/// Any number of them read one ring, from memory that may be mapped read-only ([`ReadMemory`]): then
/// they cannot hurt anybody. One whose memory is writable announces itself when it sleeps, and is woken
/// with the next message; one whose memory is not looks every millisecond.
///
/// A receiver that was overtaken goes on where a quarter of the ring lies between it and the next
/// message to be overwritten, lest it be overtaken again at once.
///
/// # Examples
///
/// See [`Sender`](super::Sender).
///
/// # Memory ordering
///
/// What happened before a message was sent happened before it is received.
///
/// # Crash safety
///
/// It leaves no trace. A sender that was killed is not noticed: [`sender`](Self::sender) tells whom to
/// watch. Trust: *guarded*; a hostile sender can send any bytes, and claim that any number was missed.
///
/// # Fork
///
/// A child's copy goes on by itself.
///
/// # Travelling
///
/// Whoever gets a message with it (serde) has another one, which goes on where this one stood. One whose
/// memory is mapped for reading sends a descriptor that cannot be written through.
pub struct Receiver<T: Message, V: ReadMemory = Home> {
    pub(super) memory: V,
    pub(super) parts: Parts<T>,
    /// The message that is read next.
    pub(super) cursor: u64,
    lost: u64,
    spin: AdaptiveSpin,
}

// SAFETY: the parts point into `memory`, which moves along; what they point to is atomics.
unsafe impl<T: Message, V: ReadMemory + Send> Send for Receiver<T, V> {}

impl<T: Message, V: ReadMemory> Receiver<T, V> {
    /// Reads the ring in `memory` from `start` on.
    ///
    /// # Errors
    ///
    /// [`AttachError`], for whatever is wrong with the bytes.
    pub fn attach(memory: V, start: Start) -> Result<Self, AttachError> {
        let parts = Parts::<T>::attach(memory.view())?;
        let tail = parts.tail();
        let sent = tail.wrapping_sub(parts.first);
        let back = match start {
            Start::Next => 0,
            Start::Newest => 1,
            // The slot after the last is perhaps being written.
            Start::Oldest => parts.capacity - 1,
        };
        Ok(Self {
            memory,
            parts,
            cursor: tail.wrapping_sub(back.min(sent)),
            lost: 0,
            spin: AdaptiveSpin::new(),
        })
    }

    /// As [`attach`](Self::attach), at a message that another receiver has come to.
    #[cfg(feature = "serde")]
    pub(super) fn attach_at(memory: V, cursor: u64) -> Result<Self, AttachError> {
        let mut receiver = Self::attach(memory, Start::Next)?;
        let parts = &receiver.parts;
        // A message can be received before the tail tells of it.
        let ahead = cursor == receiver.cursor.wrapping_add(1);
        let behind = receiver.cursor.wrapping_sub(cursor);
        if !ahead && behind > receiver.cursor.wrapping_sub(parts.first) {
            return Err(AttachError::Corrupt { field: "cursor" });
        }
        receiver.cursor = cursor;
        Ok(receiver)
    }

    /// Receives a message if one is there.
    ///
    /// # Errors
    ///
    /// [`TryReadError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryReadError> {
        self.look()
    }

    /// Receives a message, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[inline]
    pub fn recv(&mut self) -> Result<T, ReadError> {
        self.recv_timeout(Timeout::Never)
    }

    /// Receives a message, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[inline]
    pub fn recv_timeout(&mut self, timeout: impl Into<Timeout>) -> Result<T, ReadError> {
        match self.look() {
            Err(TryReadError::Empty) => wait(self, Deadline::after(timeout)),
            other => other.map_err(ReadError::from),
        }
    }

    /// The messages that are there, until none is. What was missed is passed over, and counts for
    /// [`lost`](Self::lost); who is overtaken a whole ring of times running stops.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| {
            for _ in 0..self.parts.capacity {
                match self.try_recv() {
                    Err(TryReadError::Lagged(_)) => {}
                    other => return other.ok(),
                }
            }
            None
        })
    }

    /// Messages as they come, until the sender has closed. What was missed is passed over, and counts for
    /// [`lost`](Self::lost). An error of another kind ends it, too.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| {
            loop {
                match self.recv() {
                    Err(ReadError::Lagged(_)) => {}
                    other => return other.ok(),
                }
            }
        })
    }

    /// Message `cursor` is gone; `sequence` is what its slot says. How many are gone with it.
    #[cold]
    fn overtaken(&mut self, sequence: u64) -> TryReadError {
        // The message that the sequence is of, modulo 2^63, and how far it is ahead of ours.
        let number = sequence.wrapping_sub(1) >> 1;
        let by = number.wrapping_sub(self.cursor) & (u64::MAX >> 1);
        if by == 0 || by & (self.parts.capacity - 1) != 0 {
            // No message of this slot.
            return TryReadError::Corrupt;
        }
        // The tail that we see may be older than the sequence, or newer.
        let ahead = self.parts.tail().wrapping_sub(self.cursor).cast_signed();
        let ahead = by.max(ahead.max(0).cast_unsigned());
        let missed = ahead - (self.parts.capacity - self.headroom());
        self.cursor = self.cursor.wrapping_add(missed);
        self.lost = self.lost.wrapping_add(missed);
        TryReadError::Lagged(missed)
    }

    /// Messages between us and the next one to be overwritten, after we were overtaken.
    fn headroom(&self) -> u64 {
        (self.parts.capacity / 4).max(1)
    }

    /// Another one that reads on from the same message.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn try_clone(&self) -> Result<Self, AttachError>
    where
        V: Clone,
    {
        let mut other = Self::attach(self.memory.clone(), Start::Next)?;
        other.cursor = self.cursor;
        Ok(other)
    }

    /// Messages that were missed so far, since [`attach`](Self::attach).
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Messages that were sent and that we have not received yet, those that are gone included.
    pub fn lag(&self) -> u64 {
        let lag = self.parts.tail().wrapping_sub(self.cursor);
        lag.cast_signed().max(0).cast_unsigned()
    }

    /// How many messages were sent through this ring before the one that we read next, modulo 2^64.
    pub fn position(&self) -> u64 {
        self.cursor.wrapping_sub(self.parts.first)
    }

    /// Messages the ring holds.
    pub fn capacity(&self) -> u64 {
        self.parts.capacity
    }

    /// Whether the sender has closed; messages may still be there.
    pub fn is_disconnected(&self) -> bool {
        self.parts.is_closed()
    }

    /// Who the sender is, or was: whose death ends the messages. Anonymous if there was none yet.
    pub fn sender(&self) -> ParticipantId {
        role::identity(self.parts.control().door.role.load(Relaxed))
    }

    /// What has gone through the ring.
    pub fn statistics(&self) -> Statistics {
        self.parts.statistics()
    }

    /// Spins at most `pauses` pauses before it sleeps; 0 sleeps at once. The default adapts.
    pub fn set_spin_cap(&mut self, pauses: u32) {
        self.spin = AdaptiveSpin::with_cap(pauses);
    }

    /// What the ring lies in.
    pub fn memory(&self) -> &V {
        &self.memory
    }
}

impl<T: Message> Parts<T> {
    /// Whether the sender has closed.
    pub(super) fn is_closed(&self) -> bool {
        // Acquire pairs with the close: the last message is seen afterwards.
        role::is_closed(self.control().door.role.load(Acquire))
    }

    /// Looks for message `number`; where it is not there yet, whether it can still come.
    #[inline(always)]
    pub(super) fn look_or_closed(&self, number: u64) -> Result<T, NotHere> {
        match self.look(number) {
            Found::Message(message) => return Ok(message),
            Found::Overtaken(sequence) => return Err(NotHere::Overtaken(sequence)),
            Found::NotYet if !self.is_closed() => return Err(NotHere::NotYet),
            Found::NotYet => {}
        }
        // What was sent before the close is there now.
        match self.look(number) {
            Found::Message(message) => Ok(message),
            Found::Overtaken(sequence) => Err(NotHere::Overtaken(sequence)),
            Found::NotYet => Err(NotHere::Never),
        }
    }
}

/// Why a message is not there.
pub(super) enum NotHere {
    NotYet,
    Never,
    Overtaken(u64),
}

impl<T: Message, V: ReadMemory> Listener<T> for Receiver<T, V> {
    fn parts(&self) -> &Parts<T> {
        &self.parts
    }
    fn spin(&mut self) -> &mut AdaptiveSpin {
        &mut self.spin
    }
    fn cursor(&self) -> u64 {
        self.cursor
    }
    fn announces(&self) -> bool {
        self.memory.region().is_some()
    }
    #[inline(always)]
    fn look(&mut self) -> Result<T, TryReadError> {
        match self.parts.look_or_closed(self.cursor) {
            Ok(message) => {
                self.cursor = self.cursor.wrapping_add(1);
                Ok(message)
            }
            Err(NotHere::NotYet) => Err(TryReadError::Empty),
            Err(NotHere::Never) => Err(TryReadError::Disconnected),
            Err(NotHere::Overtaken(sequence)) => Err(self.overtaken(sequence)),
        }
    }
    fn is_abandoned(&self) -> bool {
        // We are nobody's peer.
        false
    }
}

impl<T: Message, V: ReadMemory> fmt::Debug for Receiver<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("broadcast::Receiver")
            .field("capacity", &self.parts.capacity)
            .field("cursor", &self.cursor)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
