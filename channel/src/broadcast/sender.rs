//! The sending end.

use core::cell::Cell;
use core::fmt;

use multiprocess_core::atomic::{
    Ordering::{Relaxed, Release},
    fence, spin_loop,
};
use multiprocess_core::park::{self, Parked, Patience};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::thread::generation;
use multiprocess_core::{Deadline, Errno, Memory, Peers, Timeout};

use super::layout::{Parts, there};
use super::{Home, Statistics};
use crate::spsc::Message;
use crate::{SendError, TrySendError};

/// Sends messages into a ring, to all who receive. There is one per ring; dropping it disconnects the
/// receivers.
///
/// Without lossless receivers it never waits. It waits for those that live, stopped ones included,
/// and for a dead one until it finds out: a blocking send asks after 50 ms, and before it gives up for want of
/// time, [`try_send`](Self::try_send)
/// never does ([`drop_dead`](Self::drop_dead)).
///
/// # Examples
///
/// ```
/// use multiprocess_channel::TrySendError;
/// use multiprocess_channel::broadcast::{self, LosslessReceiver, Start, TryReadError};
///
/// let (mut sender, home) = broadcast::channel::<u64>(4)?;
/// let mut lossy = broadcast::receiver::<u64>(home.read_only()?, Start::Next)?;
/// for message in 1..=6 {
///     sender.send(message)?;
/// }
/// assert_eq!(lossy.try_recv(), Err(TryReadError::Lagged(3)));
/// assert_eq!(lossy.try_recv(), Ok(4));
///
/// let mut lossless = LosslessReceiver::<u64>::attach(home.clone(), home)?;
/// for message in 7..=10 {
///     sender.send(message)?;
/// }
/// assert_eq!(sender.try_send(11), Err(TrySendError::Full(11)));
/// assert_eq!(lossless.recv()?, 7);
/// assert_eq!(sender.try_send(11), Ok(()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What happened before a message was sent happened before it is received.
///
/// # Crash safety
///
/// Killed at any instruction: the message was sent or it was not, and nobody is blocked. A successor
/// [attaches](Self::attach), once the kernel attests the death, or [takes over](Self::take_over). Trust:
/// *guarded*; a hostile lossless receiver can hold the sender up.
///
/// # Fork
///
/// A child's copy is disconnected: there is one sender.
///
/// # Travelling
///
/// Inside a message (serde) it moves: this one is closed by that, and whoever gets the message sends on. Of a
/// message that is not sent after all it is closed.
pub struct Sender<T: Message, M: Memory = Home, P: Peers = Home> {
    pub(super) memory: M,
    pub(super) parts: Parts<T>,
    pub(super) peers: P,
    /// The message that is written next.
    pub(super) tail: u64,
    /// The first message for which there may be no room. `tail` itself once we must not send.
    pub(super) limit: Cell<u64>,
    pub(super) light: bool,
    pub(super) is_open: Cell<bool>,
    pub(super) generation: u64,
    pub(super) spin: AdaptiveSpin,
}

// SAFETY: the parts point into `memory`, which moves along; what they point to is atomics.
unsafe impl<T: Message, M: Memory + Send, P: Peers + Send> Send for Sender<T, M, P> {}

enum NoRoom {
    Full,
    Disconnected,
    Corrupt,
}

enum GaveUp {
    Timeout,
    Disconnected,
    Corrupt,
    System(Errno),
}

impl<T: Message, M: Memory, P: Peers> Sender<T, M, P> {
    /// Sends `message` if no living lossless receiver is a whole ring behind.
    ///
    /// # Errors
    ///
    /// [`TrySendError`], with the message.
    #[inline]
    pub fn try_send(&mut self, message: T) -> Result<(), TrySendError<T>> {
        if self.tail == self.limit.get() || !self.is_ours() {
            match self.make_room() {
                Ok(()) => {}
                Err(NoRoom::Full) => return Err(TrySendError::Full(message)),
                Err(NoRoom::Disconnected) => return Err(TrySendError::Disconnected(message)),
                Err(NoRoom::Corrupt) => return Err(TrySendError::Corrupt(message)),
            }
        }
        self.publish(message);
        Ok(())
    }

    /// Sends `message`, waiting for the slowest living lossless receiver as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the message.
    #[inline]
    pub fn send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.send_timeout(message, Timeout::Never)
    }

    /// Sends `message`, waiting for the slowest living lossless receiver for at most `timeout`; zero
    /// tries once.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the message.
    #[inline]
    pub fn send_timeout(
        &mut self,
        message: T,
        timeout: impl Into<Timeout>,
    ) -> Result<(), SendError<T>> {
        if self.tail == self.limit.get() || !self.is_ours() {
            match self.wait_for_room(timeout.into()) {
                Ok(()) => {}
                Err(GaveUp::Timeout) => return Err(SendError::Timeout(message)),
                Err(GaveUp::Disconnected) => return Err(SendError::Disconnected(message)),
                Err(GaveUp::Corrupt) => return Err(SendError::Corrupt(message)),
                Err(GaveUp::System(errno)) => return Err(SendError::System(message, errno)),
            }
        }
        self.publish(message);
        Ok(())
    }

    /// Sends messages while there is room; how many.
    ///
    /// # Errors
    ///
    /// [`TrySendError`] if none was sent, without a message.
    pub fn try_send_slice(&mut self, messages: &[T]) -> Result<usize, TrySendError<()>> {
        for (sent, message) in messages.iter().enumerate() {
            match self.try_send(*message) {
                Ok(()) => {}
                Err(_) if sent > 0 => return Ok(sent),
                Err(TrySendError::Full(_)) => return Err(TrySendError::Full(())),
                Err(TrySendError::Disconnected(_)) => return Err(TrySendError::Disconnected(())),
                Err(TrySendError::Corrupt(_)) => return Err(TrySendError::Corrupt(())),
            }
        }
        Ok(messages.len())
    }

    /// Steps 2 to 6. Only called while `tail` is below `limit`.
    #[inline(always)]
    fn publish(&mut self, message: T) {
        let slot = self.parts.slot(self.tail);
        let there = there(self.tail);
        slot.sequence.store(there.wrapping_sub(1), Relaxed);
        // Pairs with the Acquire fence in `Parts::look`: who sees a byte of this message sees that the
        // former one is gone.
        fence(Release);
        slot.message.store(message);
        // Release pairs with the Acquire load in `Parts::look`.
        slot.sequence.store(there, Release);
        self.tail = self.tail.wrapping_add(1);
        let control = self.parts.control();
        // Release pairs with the Acquire load in `Parts::tail`.
        control.tail.store(self.tail, Release);
        if control.door.receivers.has_sleepers(self.light) {
            self.wake_sleepers();
        }
    }

    #[cold]
    pub(super) fn wake_sleepers(&self) {
        self.parts.control().door.receivers.wake();
        self.wake_read_only();
    }

    /// Wakes receivers that map the ring read-only and sleep. They look every millisecond anyway; this
    /// is for after a message that they should learn of at once. They leave no trace, so the
    /// sender cannot know whether there is one: this asks the kernel.
    pub fn wake_read_only(&self) {
        park::wake(&*self.parts.control().tail, u32::MAX);
    }

    /// Steps 1, 17 and 18.
    #[cold]
    fn make_room(&mut self) -> Result<(), NoRoom> {
        if !self.is_open.get() || !self.is_ours() {
            return Err(NoRoom::Disconnected);
        }
        let lag = self.parts.slowest(self.tail).ok_or(NoRoom::Corrupt)?;
        let room = self.parts.capacity.saturating_sub(lag);
        self.limit.set(self.tail.wrapping_add(room));
        match room {
            0 => Err(NoRoom::Full),
            _ => Ok(()),
        }
    }

    #[cold]
    fn wait_for_room(&mut self, timeout: Timeout) -> Result<(), GaveUp> {
        let deadline = Deadline::after(timeout);
        let budget = match deadline.has_passed() {
            true => 0,
            false => self.spin.budget(),
        };
        for used in 0..budget {
            if self.has_room()? {
                self.spin.record(used);
                return Ok(());
            }
            spin_loop();
        }
        self.spin.record(budget);
        let mut patience = Patience::new();
        loop {
            let late = deadline.has_passed();
            let bell = &self.parts.control().room.bell;
            let armed = bell.arm(|| self.parts.may_be_light());
            if self.has_room()? {
                return Ok(());
            }
            if late {
                return Err(GaveUp::Timeout);
            }
            let bell = &self.parts.control().room.bell;
            match bell.park(armed, &mut patience, deadline) {
                // The inner bound, or the end of a wait that is too short for one: the slowest may be dead.
                Ok(Parked::Recheck | Parked::TimedOut) => drop(self.drop_dead()),
                Ok(_) => {}
                Err(errno) => return Err(GaveUp::System(errno)),
            }
        }
    }

    fn has_room(&mut self) -> Result<bool, GaveUp> {
        match self.make_room() {
            Ok(()) => Ok(true),
            Err(NoRoom::Full) => Ok(false),
            Err(NoRoom::Disconnected) => Err(GaveUp::Disconnected),
            Err(NoRoom::Corrupt) => Err(GaveUp::Corrupt),
        }
    }

    /// Drops lossless receivers whose processes are attested dead; how many. A send that waits does
    /// this by itself.
    pub fn drop_dead(&self) -> u32 {
        self.parts.drop_dead(&self.peers)
    }

    /// Whether the process that attached is this one.
    #[inline(always)]
    pub(super) fn is_ours(&self) -> bool {
        self.generation == generation()
    }

    /// How many messages were sent through this ring so far, by this sender and those before it, modulo
    /// 2^64: where a successor goes on.
    pub fn position(&self) -> u64 {
        self.tail.wrapping_sub(self.parts.first)
    }

    /// Messages the ring holds.
    pub fn capacity(&self) -> u64 {
        self.parts.capacity
    }

    /// Messages that the slowest lossless receiver has not received yet.
    pub fn lag(&self) -> u64 {
        self.statistics().lag
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

impl<T: Message, M: Memory, P: Peers> fmt::Debug for Sender<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("broadcast::Sender")
            .field("capacity", &self.parts.capacity)
            .field("tail", &self.tail)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}
