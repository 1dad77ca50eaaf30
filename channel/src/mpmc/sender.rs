//! The sending end.

use core::fmt;

use multiprocess_core::atomic::Ordering::{Relaxed, SeqCst};
use multiprocess_core::copy::RacyCell;
use multiprocess_core::pair::PairSwap;
use multiprocess_core::{Deadline, Memory, Peers, Timeout};

use super::claim::{Claim, claim, claim_and_publish};
use super::done::WaitDoneError;
use super::endpoint::{Endpoint, GaveUp, Look, wait};
use super::table::Recovered;
use super::words::{Role, State, WORD, Word};
use super::{AttachRingError, Home};
use crate::spsc::Message;
use crate::{SendError, TrySendError};

/// Times that a sender which was stepped over before it had written a message tries again at once.
const RESENDS: u32 = 64;

/// Sends messages into a ring, beside any number of others.
///
/// A handle has a seat at the ring and is used by one thread at a time; make another one for another
/// thread or process. Dropping it gives the seat back; with the last one the receivers are
/// disconnected.
///
/// # Memory ordering
///
/// What happened before a message was sent happened before it is received.
///
/// # Crash safety
///
/// A message is sent, or not, in one step; of a sender that is killed at most the last one is in
/// doubt. Killed or stopped at any instruction it blocks nobody: what it was about to write is stepped
/// over. Trust: *guarded*.
///
/// # Fork
///
/// A child's copy takes a seat of its own when it is first used; if none is free it is
/// disconnected.
pub struct Sender<T: Message, M: Memory = Home, P: Peers = Home> {
    pub(crate) endpoint: Endpoint<T, M, P>,
}

impl<T: Message, M: Memory, P: Peers> Sender<T, M, P> {
    /// Takes a seat at the ring in `memory`, for a process that is `peers` to the others.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`].
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachRingError> {
        let endpoint = Endpoint::attach(memory, peers, Role::Sender)?;
        Ok(Self { endpoint })
    }

    /// Sends `message` if there is room.
    ///
    /// # Errors
    ///
    /// [`TrySendError`].
    #[inline]
    pub fn try_send(&mut self, message: T) -> Result<(), TrySendError<T>> {
        match self.attempt(message) {
            Look::Done(()) => Ok(()),
            Look::NotYet => Err(TrySendError::Full(message)),
            Look::Failed(error) => Err(error),
        }
    }

    /// Sends `message`, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    #[inline]
    pub fn send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.send_timeout(message, Timeout::Never)
    }

    /// Sends `message`, waiting for room for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    #[inline]
    pub fn send_timeout(
        &mut self,
        message: T,
        timeout: impl Into<Timeout>,
    ) -> Result<(), SendError<T>> {
        match self.attempt(message) {
            Look::Done(()) => Ok(()),
            Look::NotYet => self.wait(message, Deadline::after(timeout)),
            Look::Failed(error) => Err(blocking(error)),
        }
    }

    /// Sends messages of `messages` while there is room; how many. One wake for each.
    ///
    /// # Errors
    ///
    /// [`TrySendError`] of the first message that was not sent, if none was.
    pub fn try_send_slice(&mut self, messages: &[T]) -> Result<usize, TrySendError<()>> {
        for (sent, message) in messages.iter().enumerate() {
            match self.attempt(*message) {
                Look::Done(()) => {}
                _ if sent > 0 => return Ok(sent),
                Look::NotYet => return Err(TrySendError::Full(())),
                Look::Failed(error) => return Err(error.with(())),
            }
        }
        Ok(messages.len())
    }

    #[cold]
    fn wait(&mut self, message: T, deadline: Deadline) -> Result<(), SendError<T>> {
        self.wait_by(message, deadline, |sender| sender.attempt(message))
    }

    fn wait_by<V>(
        &mut self,
        message: V,
        deadline: Deadline,
        look: impl Fn(&mut Self) -> Look<(), TrySendError<V>>,
    ) -> Result<(), SendError<V>> {
        match wait(self, |sender| &mut sender.endpoint, deadline, look) {
            Ok(()) => Ok(()),
            Err(GaveUp::Timeout) => Err(SendError::Timeout(message)),
            Err(GaveUp::System(errno)) => Err(SendError::System(message, errno)),
            Err(GaveUp::Other(error)) => Err(blocking(error)),
        }
    }

    #[inline(always)]
    fn attempt(&mut self, message: T) -> Look<(), TrySendError<T>> {
        if let Some(pair) = self.endpoint.pair
            && is_open(&mut self.endpoint)
            && claim_and_publish(&mut self.endpoint, pair, &message)
        {
            // SeqCst for the bell, as step 3: a locked instruction.
            told(&mut self.endpoint);
            return Look::Done(());
        }
        match attempt(&mut self.endpoint, |cell| cell.store(message)) {
            Look::Done(()) => Look::Done(()),
            Look::NotYet => Look::NotYet,
            Look::Failed(error) => Look::Failed(error.with(message)),
        }
    }

    /// Another sender for the same ring.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`]; no seat may be free.
    pub fn try_clone(&self) -> Result<Self, AttachRingError>
    where
        M: Clone,
        P: Clone,
    {
        Self::attach(
            self.endpoint.memory().clone(),
            self.endpoint.peers().clone(),
        )
    }

    /// Nothing more is sent into this ring, by anybody: receivers take what is there and are then
    /// disconnected. A message that is being sent at the same moment may still be received, or not.
    pub fn close_ring(&mut self) {
        super::close_ring(&self.endpoint.parts);
    }

    /// Without a seat: it sends nothing, but sees, closes and recovers.
    #[cfg(feature = "serde")]
    pub(crate) fn onlooker(memory: M, peers: P) -> Result<Self, AttachRingError> {
        let endpoint = Endpoint::standing(memory, peers, Role::Sender)?;
        Ok(Self { endpoint })
    }

    /// Whether it has a seat, of this process.
    #[cfg(feature = "serde")]
    pub(crate) fn is_seated(&self) -> bool {
        self.endpoint.is_seated()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn is_closed(&self) -> bool {
        self.endpoint.parts.control().receivers.is_closed()
    }

    /// Sends what `write` writes into a slot, perhaps more than once.
    #[cfg(feature = "serde")]
    #[inline]
    pub(crate) fn send_by(
        &mut self,
        deadline: impl FnOnce() -> Deadline,
        write: impl Fn(&RacyCell<T>),
    ) -> Result<(), SendError<()>> {
        match attempt(&mut self.endpoint, &write) {
            Look::Done(()) => Ok(()),
            Look::NotYet => self.wait_by((), deadline(), |sender| {
                attempt(&mut sender.endpoint, &write)
            }),
            Look::Failed(error) => Err(blocking(error)),
        }
    }

    /// Waits until no message is in the ring, nor in the hands of a receiver, for at most `timeout`. The
    /// ring must be [joinable](super::Config::joinable).
    ///
    /// # Errors
    ///
    /// [`WaitDoneError`]; at once if the ring is not joinable.
    pub fn join(&self, timeout: impl Into<Timeout>) -> Result<(), WaitDoneError> {
        self.endpoint.wait_until_done(Deadline::after(timeout))
    }

    /// Gives the seat back. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        self.endpoint.close();
    }

    /// Takes back what dead processes held. Whoever waits does this by itself.
    pub fn recover(&self) -> Recovered {
        self.endpoint.recover()
    }

    /// Whether all receivers are gone, or the ring is closed.
    pub fn is_disconnected(&self) -> bool {
        !self.endpoint.is_open || self.endpoint.parts.is_sent_in_vain()
    }

    /// Messages the ring holds at most.
    pub fn capacity(&self) -> u64 {
        self.endpoint.parts.capacity
    }

    /// Messages in the ring, at the moment of asking. Walks the ring.
    pub fn len(&self) -> u64 {
        self.endpoint.len()
    }

    /// Whether no message is in the ring, at the moment of asking. Walks the ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has gone through the ring.
    pub fn statistics(&self) -> super::Statistics {
        super::statistics(&self.endpoint.parts)
    }

    /// Whether a message of 8 bytes at most is written and sent in one step, by one atomic operation in place
    /// of two; so by default where the processor can (x86-64). A sender that does is never found in the middle.
    pub fn set_one_step(&mut self, in_one_step: bool) {
        self.endpoint.pair = match in_one_step && size_of::<T>() <= WORD {
            true => PairSwap::detect(),
            false => None,
        };
    }

    /// Spins at most `pauses` pauses before it sleeps; 0 sleeps at once. The default adapts.
    pub fn set_spin_cap(&mut self, pauses: u32) {
        self.endpoint.set_spin_cap(pauses);
    }

    /// What the ring lies in.
    pub fn memory(&self) -> &M {
        self.endpoint.memory()
    }

    /// Who we are.
    pub fn peers(&self) -> &P {
        self.endpoint.peers()
    }
}

fn blocking<T>(error: TrySendError<T>) -> SendError<T> {
    match error {
        // Not an error of a single look: kept for the types' sake.
        TrySendError::Full(message) => SendError::Timeout(message),
        TrySendError::Disconnected(message) => SendError::Disconnected(message),
        TrySendError::Corrupt(message) => SendError::Corrupt(message),
    }
}

/// Whether anything may be sent.
#[inline(always)]
fn is_open<T: Message, M: Memory, P: Peers>(endpoint: &mut Endpoint<T, M, P>) -> bool {
    endpoint.is_usable()
        && !(endpoint.parts.control().receivers.is_gone_or_closed()
            && endpoint.parts.is_sent_in_vain())
}

/// A message was sent.
#[inline(always)]
fn told<T: Message, M: Memory, P: Peers>(endpoint: &mut Endpoint<T, M, P>) {
    endpoint.parts.control().receivers.ring();
    endpoint.count_message();
    endpoint.pace.hit();
}

/// Steps 1 to 4, once or as often as we are stepped over, with the message that `write` writes.
#[inline(always)]
fn attempt<T: Message, M: Memory, P: Peers>(
    endpoint: &mut Endpoint<T, M, P>,
    write: impl Fn(&RacyCell<T>),
) -> Look<(), TrySendError<()>> {
    if !is_open(endpoint) {
        return Look::Failed(TrySendError::Disconnected(()));
    }
    for _ in 0..RESENDS {
        let ticket = match claim(endpoint) {
            Claim::Slot(ticket) => ticket,
            Claim::Full => return Look::NotYet,
            Claim::Corrupt => return Look::Failed(TrySendError::Corrupt(())),
        };
        let number = endpoint.number;
        let slot = endpoint.parts.slot(ticket);
        // Step 2. The slot is ours whatever anybody thinks of us, until we hand it back.
        slot.hands.write();
        write(&slot.message);
        // Step 3. Release pairs with the Acquire load in `Receiver::find_here`; SeqCst for the bell.
        let writing = Word::new(State::Writing, number, ticket).bits();
        let ready = Word::new(State::Ready, number, ticket).bits();
        let sent = slot.word.compare_exchange(writing, ready, SeqCst, Relaxed);
        if sent.is_ok() {
            told(endpoint);
            return Look::Done(());
        }
        // Step 4: others have gone on without us. Sent later, it is still behind what we sent before.
        if !endpoint.hand_back(ticket, |held| held.skipped()) {
            return Look::Failed(TrySendError::Corrupt(()));
        }
    }
    Look::NotYet
}

impl<T: Message, M: Memory, P: Peers> fmt::Debug for Sender<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("mpmc::Sender")
            .field("capacity", &self.capacity())
            .field("endpoint", &self.endpoint.number)
            .field("is_open", &self.endpoint.is_open)
            .finish_non_exhaustive()
    }
}
