//! The receiving end.

use core::fmt;

use multiprocess_core::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use multiprocess_core::{Deadline, Memory, Peers, Timeout};

use super::endpoint::{Endpoint, GaveUp, HINT_MASK, Look, wait};
use super::find::{Find, Found};
use super::table::Recovered;
use super::words::{Role, State, Ticket, WORD, Word};
use super::{AttachRingError, Home, Orphans, Taken};
use crate::spsc::Message;
use crate::{RecvError, TryRecvError};

/// Receives messages from a ring, beside any number of others: each message goes to one of them.
///
/// Two ways to take a message. [`take`](Self::take), work on it, [release](Taken::release) it: if the
/// receiver is killed meanwhile, the message goes to another one (at least once), or is dropped, as
/// the ring's [`Orphans`] say. [`recv`](Self::recv): the message is given back before it is worked
/// on, and lost if the receiver is killed (at most once).
///
/// A handle has a seat at the ring and is used by one thread at a time; make another one for another
/// thread or process. Dropping it gives the seat back; with the last one the senders are disconnected.
///
/// # Memory ordering
///
/// What happened before a message was sent happened before it is received.
///
/// # Crash safety
///
/// Killed or stopped at any instruction it blocks nobody: the slot it reads is stepped over. Trust:
/// *guarded*; a hostile sender can send any bytes.
///
/// # Fork
///
/// A child's copy takes a seat of its own when it is first used; if none is free it is
/// disconnected.
pub struct Receiver<T: Message, M: Memory = Home, P: Peers = Home> {
    pub(crate) endpoint: Endpoint<T, M, P>,
    /// How often there had been orphans when we last found none.
    pub(super) orphaned: u64,
    /// Whether `recv` takes in one step.
    in_one_step: bool,
}

/// What follows from having found nothing.
enum Nothing {
    LookAgain,
    Yet,
    Ever,
}

impl<T: Message, M: Memory, P: Peers> Receiver<T, M, P> {
    /// Takes a seat at the ring in `memory`, for a process that is `peers` to the others.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`].
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachRingError> {
        Ok(Self::with(Endpoint::attach(memory, peers, Role::Receiver)?))
    }

    pub(super) fn with(endpoint: Endpoint<T, M, P>) -> Self {
        Self {
            endpoint,
            orphaned: 0,
            in_one_step: size_of::<T>() <= WORD,
        }
    }

    /// Receives a message if one is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.attempt() {
            Look::Done(message) => Ok(message),
            Look::NotYet => Err(TryRecvError::Empty),
            Look::Failed(error) => Err(error),
        }
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
    /// [`RecvError`].
    #[inline]
    pub fn recv_timeout(&mut self, timeout: impl Into<Timeout>) -> Result<T, RecvError> {
        match self.attempt() {
            Look::Done(message) => Ok(message),
            Look::NotYet => self.wait(Deadline::after(timeout), Self::attempt),
            Look::Failed(error) => Err(blocking(error)),
        }
    }

    /// Receives messages into `messages` while some are there; how many.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`] if there was none.
    pub fn try_recv_slice(&mut self, messages: &mut [T]) -> Result<usize, TryRecvError> {
        for (received, place) in messages.iter_mut().enumerate() {
            match self.attempt() {
                Look::Done(message) => *place = message,
                _ if received > 0 => return Ok(received),
                Look::NotYet => return Err(TryRecvError::Empty),
                Look::Failed(error) => return Err(error),
            }
        }
        Ok(messages.len())
    }

    /// The messages that are there, until none is.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_recv().ok())
    }

    /// Messages as they come, until the senders are gone. An error of another kind ends it, too.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// Takes a message into our hands if one is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn try_take(&mut self) -> Result<Taken<'_, T, M, P>, TryRecvError> {
        match self.attempt_take() {
            Look::Done(found) => Ok(Taken {
                receiver: self,
                ticket: found.ticket,
            }),
            Look::NotYet => Err(TryRecvError::Empty),
            Look::Failed(error) => Err(error),
        }
    }

    /// Takes a message into our hands, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn take(&mut self) -> Result<Taken<'_, T, M, P>, RecvError> {
        self.take_timeout(Timeout::Never)
    }

    /// Takes a message into our hands, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn take_timeout(
        &mut self,
        timeout: impl Into<Timeout>,
    ) -> Result<Taken<'_, T, M, P>, RecvError> {
        let found = match self.attempt_take() {
            Look::Done(found) => found,
            Look::NotYet => self.wait(Deadline::after(timeout), Self::attempt_take)?,
            Look::Failed(error) => return Err(blocking(error)),
        };
        Ok(Taken {
            receiver: self,
            ticket: found.ticket,
        })
    }

    #[cold]
    fn wait<R>(
        &mut self,
        deadline: Deadline,
        look: impl Fn(&mut Self) -> Look<R, TryRecvError>,
    ) -> Result<R, RecvError> {
        match wait(self, |receiver| &mut receiver.endpoint, deadline, look) {
            Ok(result) => Ok(result),
            Err(GaveUp::Timeout) => Err(RecvError::Timeout),
            Err(GaveUp::System(errno)) => Err(RecvError::System(errno)),
            Err(GaveUp::Other(error)) => Err(blocking(error)),
        }
    }

    /// Whether a message received by value is taken and given back in one step, by one atomic
    /// operation in place of two; so by default if it has 8 bytes at most. Received by value it is
    /// lost in any case if the receiver is killed before it has worked on it; in two steps it goes
    /// to another one if that happens in the middle of [`recv`](Self::recv).
    pub fn set_one_step(&mut self, in_one_step: bool) {
        self.in_one_step = in_one_step;
    }

    #[inline(always)]
    fn attempt(&mut self) -> Look<T, TryRecvError> {
        if self.in_one_step {
            return self.attempt_one_step();
        }
        match self.attempt_take() {
            Look::Done(Word { ticket, .. }) => {
                let message = self.read(ticket);
                self.give_back(ticket);
                Look::Done(message)
            }
            Look::NotYet => Look::NotYet,
            Look::Failed(error) => Look::Failed(error),
        }
    }

    /// Step 5. The word as it was found.
    #[inline(always)]
    fn attempt_take(&mut self) -> Look<Word, TryRecvError> {
        self.attempt_at_found(|receiver, Found { word, in_order }| {
            let slot = receiver.endpoint.parts.slot(word.ticket);
            let mine = word.taken(receiver.endpoint.number, in_order);
            // Acquire pairs with the Release half of step 3 in `sender.rs`, and of 11 and 12; SeqCst for
            // the bell.
            slot.word
                .compare_exchange(word.bits(), mine.bits(), SeqCst, Relaxed)
                .ok()?;
            receiver.pass(word.ticket, in_order);
            receiver.endpoint.in_hand += 1;
            if receiver.endpoint.parts.limit != 0 {
                // It counts no longer.
                receiver.endpoint.parts.control().senders.ring();
            }
            Some(word)
        })
    }

    /// Steps 5 to 7 as one. The message is copied before it is known to be ours, by atomics, and counts
    /// only if it was.
    fn attempt_one_step(&mut self) -> Look<T, TryRecvError> {
        self.attempt_at_found(|receiver, Found { word, in_order }| {
            let slot = receiver.endpoint.parts.slot(word.ticket);
            let message = slot.message.load();
            let free = word.consumed(in_order, receiver.endpoint.parts.capacity);
            // Release: the copy comes before the slot is written again. SeqCst for the bell.
            slot.word
                .compare_exchange(word.bits(), free.bits(), SeqCst, Relaxed)
                .ok()?;
            receiver.pass(word.ticket, in_order);
            receiver.endpoint.parts.control().senders.ring();
            receiver.endpoint.tell_joiners();
            Some(message)
        })
    }

    /// Finds messages until `take` gets one, or there is none.
    #[inline(always)]
    fn attempt_at_found<R>(
        &mut self,
        take: impl Fn(&mut Self, Found) -> Option<R>,
    ) -> Look<R, TryRecvError> {
        if !self.endpoint.is_usable() {
            return Look::Failed(TryRecvError::Disconnected);
        }
        if let Some(found) = self.find_here()
            && let Some(result) = take(self, found)
        {
            return Look::Done(result);
        }
        self.attempt_slowly(take)
    }

    #[cold]
    #[inline(never)]
    fn attempt_slowly<R>(
        &mut self,
        take: impl Fn(&mut Self, Found) -> Option<R>,
    ) -> Look<R, TryRecvError> {
        let mut looks = 0;
        // Each failure is another's success.
        for _ in 0..=self.endpoint.parts.capacity {
            match self.find() {
                Find::Message(found) => {
                    if let Some(result) = take(self, found) {
                        return Look::Done(result);
                    }
                }
                Find::Nothing => match self.nothing() {
                    // Also for an orphan that is not announced yet.
                    Nothing::LookAgain if looks < 3 => {
                        looks += 1;
                        self.orphaned = self.orphaned.wrapping_sub(1);
                    }
                    Nothing::LookAgain | Nothing::Yet => return Look::NotYet,
                    Nothing::Ever => return Look::Failed(TryRecvError::Disconnected),
                },
                Find::Corrupt => return Look::Failed(TryRecvError::Corrupt),
            }
        }
        Look::NotYet
    }

    /// We have taken the message of `ticket`.
    #[inline(always)]
    fn pass(&mut self, ticket: Ticket, in_order: bool) {
        if in_order {
            self.endpoint.cursor = ticket.plus(1);
            if ticket.bits() & HINT_MASK == HINT_MASK {
                self.store_hint();
            }
        }
        self.endpoint.count_message();
        self.endpoint.pace.hit();
    }

    pub(super) fn store_hint(&self) {
        let head = self.endpoint.cursor;
        self.endpoint
            .parts
            .control()
            .head
            .store(head.bits(), Relaxed);
    }

    /// Step 6.
    #[inline(always)]
    pub(super) fn read(&self, ticket: Ticket) -> T {
        let slot = self.endpoint.parts.slot(ticket);
        slot.hands.read();
        slot.message.load()
    }

    /// Step 7. `false` if a peer has broken the protocol.
    #[inline(always)]
    pub(super) fn give_back(&mut self, ticket: Ticket) -> bool {
        self.endpoint.in_hand = self.endpoint.in_hand.saturating_sub(1);
        self.endpoint.give_back(ticket)
    }

    /// Step 11.
    #[cold]
    pub(super) fn give_up(&mut self, ticket: Ticket) -> bool {
        self.endpoint.in_hand = self.endpoint.in_hand.saturating_sub(1);
        let number = self.endpoint.number;
        let word = &self.endpoint.parts.slot(ticket).word;
        let reading = Word::new(State::Reading, number, ticket);
        let orphan = reading.orphaned().bits();
        // Release: what we may have noted about it elsewhere is seen by who takes it.
        let given = word.compare_exchange(reading.bits(), orphan, AcqRel, Relaxed);
        let given = given.is_ok() || self.endpoint.hand_back(ticket, |held| held.orphaned());
        if given {
            self.endpoint.parts.announce_orphans();
            self.endpoint.parts.control().receivers.ring_all();
        }
        given
    }

    /// Whether something can still come.
    #[inline]
    fn nothing(&mut self) -> Nothing {
        let parts = &self.endpoint.parts;
        let over = parts.control().receivers.is_closed()
            || !parts.is_kept && parts.is_deserted(Role::Sender);
        match over {
            false => Nothing::Yet,
            // What was sent before that is seen now.
            true if self.endpoint.len() > 0 => Nothing::LookAgain,
            true => Nothing::Ever,
        }
    }

    /// [`take`](Self::take) without a guard, for the functions below: the message's ticket, and whether it
    /// was an orphan. Waits if there is a deadline, for which it asks when it has to.
    #[inline]
    pub(crate) fn take_raw(
        &mut self,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<(u64, bool), RecvError> {
        let found = match self.attempt_take() {
            Look::Done(found) => found,
            Look::NotYet => {
                let deadline = deadline().ok_or(RecvError::Timeout)?;
                self.wait(deadline, Self::attempt_take)?
            }
            Look::Failed(error) => return Err(blocking(error)),
        };
        Ok((found.ticket.bits(), found.state == State::Orphan))
    }

    /// Where the message is that [`take_raw`](Self::take_raw) took.
    #[cfg(feature = "serde")]
    pub(crate) fn cell_raw(&self, ticket: u64) -> &multiprocess_core::copy::RacyCell<T> {
        &self.endpoint.parts.slot(Ticket::new(ticket)).message
    }

    #[inline]
    pub(crate) fn read_raw(&self, ticket: u64) -> T {
        self.read(Ticket::new(ticket))
    }

    /// Not in a forked child: the message is its parent's.
    #[inline]
    pub(crate) fn release_raw(&mut self, ticket: u64) -> bool {
        self.endpoint.is_ours() && self.give_back(Ticket::new(ticket))
    }

    pub(crate) fn give_up_raw(&mut self, ticket: u64) -> bool {
        self.endpoint.is_ours() && self.give_up(Ticket::new(ticket))
    }

    /// Whether it has a seat, of this process.
    #[cfg(feature = "serde")]
    pub(crate) fn is_seated(&self) -> bool {
        self.endpoint.is_seated()
    }

    /// Another receiver for the same ring.
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
    /// disconnected.
    pub fn close_ring(&mut self) {
        super::close_ring(&self.endpoint.parts);
    }

    /// Gives the seat back. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        self.endpoint.close();
    }

    /// Takes back what dead processes held. Whoever waits does this by itself.
    pub fn recover(&self) -> Recovered {
        self.endpoint.recover()
    }

    /// Whether all senders are gone, or the ring is closed; messages may still be there.
    pub fn is_disconnected(&self) -> bool {
        let control = self.endpoint.parts.control();
        !self.endpoint.is_open
            || control.receivers.is_closed()
            || !self.endpoint.parts.is_kept && self.endpoint.parts.is_deserted(Role::Sender)
    }

    /// What becomes of messages that dead receivers had in hand.
    pub fn orphans(&self) -> Orphans {
        self.endpoint.parts.orphans
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

fn blocking(error: TryRecvError) -> RecvError {
    match error {
        TryRecvError::Empty => RecvError::Timeout,
        TryRecvError::Disconnected => RecvError::Disconnected,
        TryRecvError::Corrupt => RecvError::Corrupt,
    }
}

impl<T: Message, M: Memory, P: Peers> fmt::Debug for Receiver<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("mpmc::Receiver")
            .field("capacity", &self.capacity())
            .field("endpoint", &self.endpoint.number)
            .field("is_open", &self.endpoint.is_open)
            .finish_non_exhaustive()
    }
}
