//! The receiving end that the sender waits for.

use core::cell::Cell;
use core::fmt;

use multiprocess_core::atomic::Ordering::{Relaxed, Release};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::thread::generation;
use multiprocess_core::{Deadline, Memory, Peers, Timeout, asymmetric};

use super::layout::Parts;
use super::receiver::NotHere;
use super::wait::{Listener, wait};
use super::{AttachRingError, Home, JoinError, ReadError, Statistics, TryReadError, role};
use crate::spsc::Message;
use crate::{RecvError, TryRecvError};

/// Receives every message of a ring from the moment it joins: the sender waits for it.
///
/// It holds a seat, of which there are as many as the ring was made for
/// ([`Config::readers`](super::Config::readers)). Dropping it gives the seat back.
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
/// Killed at any instruction: the sender drops it when it would wait for it, 50 ms later at the latest.
/// Stopped: the sender waits. A message that it was killed with is gone for it, not for others. A sender
/// that was killed is noticed by the waiting forms, at the inner bound or when they give up for want of time.
/// Trust: *guarded*; a
/// hostile sender can send any bytes.
///
/// # Fork
///
/// A child's copy takes a seat of its own when it is first used, and starts with the next message; if
/// no seat is free it is disconnected.
///
/// # Travelling
///
/// Whoever gets a message with it (serde) takes a seat of its own, and gets what is sent from then on. Until it
/// says that it has come, the sender does not wait for it.
pub struct LosslessReceiver<T: Message, M: Memory = Home, P: Peers = Home> {
    memory: M,
    pub(super) parts: Parts<T>,
    peers: P,
    /// Our seat, and its word as we wrote it.
    number: u32,
    taken: u64,
    /// The message that is read next.
    pub(super) cursor: u64,
    light: bool,
    pub(super) is_open: bool,
    generation: u64,
    /// The sender's role when it was found dead, or 0.
    pub(super) dead: Cell<u64>,
    spin: AdaptiveSpin,
}

// SAFETY: the parts point into `memory`, which moves along; what they point to is atomics.
unsafe impl<T: Message, M: Memory + Send, P: Peers + Send> Send for LosslessReceiver<T, M, P> {}

impl<T: Message, M: Memory, P: Peers> LosslessReceiver<T, M, P> {
    /// Takes a seat at the ring in `memory`, for a process that is `peers` to the others. The first
    /// message it gets is the next that is sent.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`]: there may be no such ring, or no free seat.
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachRingError> {
        let parts = Parts::<T>::attach(memory.region().into())?;
        parts.bound().bind(&peers)?;
        let mut receiver = Self {
            memory,
            parts,
            peers,
            number: 0,
            taken: 0,
            cursor: 0,
            light: false,
            is_open: false,
            generation: 0,
            dead: Cell::new(0),
            spin: AdaptiveSpin::new(),
        };
        receiver.join()?;
        Ok(receiver)
    }

    fn join(&mut self) -> Result<(), JoinError> {
        let me = self.peers.me();
        self.light = asymmetric::register();
        let seat = match self.parts.join(me, self.light) {
            // The dead may be in the way.
            Err(JoinError::Full) if self.parts.drop_dead(&self.peers) > 0 => {
                self.parts.join(me, self.light)
            }
            other => other,
        };
        (self.number, self.taken, self.cursor) = seat?;
        self.generation = generation();
        self.is_open = true;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn is_ours(&self) -> bool {
        self.generation == generation()
    }

    #[cold]
    fn join_in_child(&mut self) -> bool {
        // The seat is the parent's.
        self.is_open = false;
        self.join().is_ok()
    }

    /// Receives a message if one is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.look().map_err(|error| match error {
            TryReadError::Empty => TryRecvError::Empty,
            TryReadError::Disconnected => TryRecvError::Disconnected,
            TryReadError::Lagged(_) | TryReadError::Corrupt => TryRecvError::Corrupt,
        })
    }

    /// Receives a message, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        self.recv_timeout(Timeout::Never)
    }

    /// Receives a message, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`RecvError`]. `Disconnected` also if the sender is attested dead: a successor's messages can be
    /// received afterwards.
    #[inline]
    pub fn recv_timeout(&mut self, timeout: impl Into<Timeout>) -> Result<T, RecvError> {
        let result = match self.look() {
            Err(TryReadError::Empty) => wait(self, Deadline::after(timeout)),
            other => other.map_err(ReadError::from),
        };
        result.map_err(|error| match error {
            ReadError::Timeout => RecvError::Timeout,
            ReadError::Disconnected => RecvError::Disconnected,
            ReadError::Lagged(_) | ReadError::Corrupt => RecvError::Corrupt,
            ReadError::System(errno) => RecvError::System(errno),
        })
    }

    /// The messages that are there, until none is.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }

    /// Messages as they come, until the sender is gone. An error of another kind ends it, too.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Another one with a seat of its own, which starts with the next message.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`]; no seat may be free.
    pub fn try_clone(&self) -> Result<Self, AttachRingError>
    where
        M: Clone,
        P: Clone,
    {
        Self::attach(self.memory.clone(), self.peers.clone())
    }

    /// Whether `role` has an owner that is attested dead: asks the kernel.
    pub(super) fn is_sender_dead(&self, role: u64) -> bool {
        let id = role::identity(role);
        !id.is_anonymous() && id != self.peers.me() && self.peers.is_dead(id)
    }

    /// Whether the sender was found dead by who waits for several things, and has no successor.
    pub(super) fn sender_was_found_dead(&self) -> bool {
        let dead = self.dead.get();
        dead != 0 && self.parts.control().door.role.load(Relaxed) == dead
    }

    /// Steps 10 and 11.
    #[inline(always)]
    fn advance(&mut self) {
        self.cursor = self.cursor.wrapping_add(1);
        if let Some(seat) = self.parts.seat(self.number) {
            // Release pairs with the Acquire load in `Parts::slowest`: our copy comes before the slot
            // is written again.
            seat.cursor.store(self.cursor, Release);
        }
        let bell = &self.parts.control().room.bell;
        if bell.has_sleepers(self.light) {
            bell.wake();
        }
    }

    /// Gives the seat back. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        if core::mem::take(&mut self.is_open) && self.is_ours() {
            self.parts.leave(self.number, self.taken);
        }
    }

    /// Messages that were sent and that we have not received yet.
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

    /// Whether the sender has closed, or this receiver; messages may still be there.
    pub fn is_disconnected(&self) -> bool {
        !self.is_open || self.parts.is_closed()
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
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Who we are.
    pub fn peers(&self) -> &P {
        &self.peers
    }
}

impl<T: Message, M: Memory, P: Peers> Listener<T> for LosslessReceiver<T, M, P> {
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
        true
    }
    #[inline(always)]
    fn look(&mut self) -> Result<T, TryReadError> {
        if !self.is_open || !(self.is_ours() || self.join_in_child()) {
            return Err(TryReadError::Disconnected);
        }
        match self.parts.look_or_closed(self.cursor) {
            Ok(message) => {
                self.advance();
                Ok(message)
            }
            Err(NotHere::NotYet) if self.sender_was_found_dead() => Err(TryReadError::Disconnected),
            Err(NotHere::NotYet) => Err(TryReadError::Empty),
            Err(NotHere::Never) => Err(TryReadError::Disconnected),
            // The sender waits for us, if it keeps to the protocol.
            Err(NotHere::Overtaken(_)) => Err(TryReadError::Corrupt),
        }
    }
    fn is_abandoned(&self) -> bool {
        self.is_sender_dead(self.parts.control().door.role.load(Relaxed))
    }
}

impl<T: Message, M: Memory, P: Peers> Drop for LosslessReceiver<T, M, P> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T: Message, M: Memory, P: Peers> fmt::Debug for LosslessReceiver<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("broadcast::LosslessReceiver")
            .field("capacity", &self.parts.capacity)
            .field("seat", &self.number)
            .field("cursor", &self.cursor)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}
