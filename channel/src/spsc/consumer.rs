//! The receiving end.

use core::cell::Cell;
use core::fmt;

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::frames::{Frames, Spot};
use super::{Attached, Message};
use crate::endpoint::{Claim, ConsumerSide, Endpoint};
use crate::{Home, RecvError, Statistics, TryRecvError};

/// Receives messages from a ring. There is one per ring; dropping it disconnects.
///
/// Two ways to take a message. [`peek`](Self::peek), work on it, [`release`](Self::release):
/// if the consumer is killed meanwhile, its successor gets the message again (at least once).
/// [`pop`](Self::pop): the message is given back before it is worked on, and lost if the
/// consumer is killed (at most once).
///
/// # Examples
///
/// ```
/// use multiprocess_channel::{TryRecvError, spsc};
///
/// let (mut producer, mut consumer) = spsc::channel::<u64>(2)?;
/// producer.push(1)?;
/// assert_eq!(consumer.peek(), Ok(1));
/// assert_eq!(consumer.peek(), Ok(1));
/// consumer.release();
/// assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
/// drop(producer);
/// assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What happened before the push of a message happened before the pop or peek that returns it.
///
/// # Crash safety
///
/// Killed before it gives a slot back: the message is still there. The producer is never
/// told of the death when it waits, at its inner bound; a wake that died with the consumer costs it
/// at most 1 s. A successor [attaches](Self::attach), or [takes over](Self::take_over). Trust:
/// *guarded*; a hostile producer can send any bytes.
///
/// # Fork
///
/// A child that uses its parent's consumer makes two consumers of one: do not.
pub struct Consumer<T, M: Memory = Home, P: Peers = Home> {
    pub(super) endpoint: Endpoint<ConsumerSide, M, P>,
    frames: Frames<T>,
    /// Where `head` is.
    spot: Spot,
    capacity: u64,
    /// Our index: the next message to be read.
    pub(super) head: u64,
    /// The first index that is not known to be published: the end of a publication.
    pub(super) limit: Cell<u64>,
    /// `limit` once we publish with light fences; `head` before: then there is no fast path.
    light_limit: Cell<u64>,
    /// The capacity once we are light; 0 before, and when this end is no longer ours: then a sign is
    /// only looked at by `look`.
    reach: Cell<u64>,
    /// A message was copied by `peek` and not given back yet.
    peeked: u64,
}

// SAFETY: the slots lie in the endpoint's memory, which moves along; messages are plain data.
unsafe impl<T: Message, M: Memory + Send, P: Peers + Send> Send for Consumer<T, M, P> {}

impl<T: Message, M: Memory, P: Peers> Consumer<T, M, P> {
    /// Claims the receiving end of the ring in `memory`, for a process that is `peers` to the other end:
    /// if it is free, or its owner is attested dead, in which case it goes on where that one stopped. With
    /// [`NoPeers`](crate::NoPeers) nobody is attested dead.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has a consumer, or had one that closed or went away in a
    /// message; whatever is wrong with the bytes.
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Free)
    }

    /// Becomes the consumer in place of one that died, or closed, at the first message it had not given
    /// back.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former consumer's death (a readable pidfd, a reaped child), or
    /// it must have closed: stopped is not dead, and two consumers get each other's messages.
    pub unsafe fn take_over(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, peers: P, claim: &Claim) -> Result<Self, AttachError> {
        let Attached {
            endpoint,
            start,
            frames,
        } = super::attach(memory, peers, claim)?;
        let head = start.head;
        Ok(Self {
            spot: frames.spot(head),
            frames,
            endpoint,
            capacity: start.capacity,
            head,
            limit: Cell::new(start.tail),
            light_limit: Cell::new(head),
            reach: Cell::new(0),
            peeked: head.wrapping_sub(1),
        })
    }

    /// Takes a message if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn try_pop(&mut self) -> Result<T, TryRecvError> {
        if self.finds_light() {
            let value = self.read();
            self.advance_light();
            return Ok(value);
        }
        if self.head == self.limit.get() {
            self.look()?;
        }
        let value = self.read();
        self.advance();
        Ok(value)
    }

    /// Takes a message, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn pop(&mut self) -> Result<T, RecvError> {
        self.pop_timeout(Timeout::Never)
    }

    /// Takes a message, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn pop_timeout(&mut self, timeout: impl Into<Timeout>) -> Result<T, RecvError> {
        if self.finds_light() {
            let value = self.read();
            self.advance_light();
            return Ok(value);
        }
        if self.head == self.limit.get() {
            self.wait_for_message(timeout.into())?;
        }
        let value = self.read();
        self.advance();
        Ok(value)
    }

    /// Takes messages into the start of `target`, as many as we know to be there; how many. One store
    /// and one look at the producer's doorbell for all of them.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`] if there was none.
    ///
    /// # Crash safety
    ///
    /// At most once, as [`pop`](Self::pop): killed at any moment, it has taken all that it would have
    /// returned, or none.
    pub fn try_pop_slice(&mut self, target: &mut [T]) -> Result<usize, TryRecvError> {
        if self.head == self.limit.get() && !target.is_empty() {
            self.look()?;
        }
        Ok(self.read_slice(target))
    }

    /// As [`try_pop_slice`](Self::try_pop_slice), waiting for the first message as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn pop_slice(&mut self, target: &mut [T]) -> Result<usize, RecvError> {
        self.pop_slice_timeout(target, Timeout::Never)
    }

    /// As [`try_pop_slice`](Self::try_pop_slice), waiting for the first message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn pop_slice_timeout(
        &mut self,
        target: &mut [T],
        timeout: impl Into<Timeout>,
    ) -> Result<usize, RecvError> {
        if self.head == self.limit.get() && !target.is_empty() {
            self.wait_for_message(timeout.into())?;
        }
        Ok(self.read_slice(target))
    }

    /// Steps 7 to 9 for as many messages as `target` has room for and we know of.
    #[inline]
    fn read_slice(&mut self, target: &mut [T]) -> usize {
        let there = self.limit.get().wrapping_sub(self.head);
        let count = there.min(target.len() as u64);
        if count == 0 {
            return 0;
        }
        let (target, _) = target.split_at_mut(count as usize);
        for place in target.iter_mut() {
            *place = self.read();
            self.step();
        }
        self.give_back();
        target.len()
    }

    /// The messages that are there, until none is.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.try_pop().ok())
    }

    /// Messages as they come, until the producer is gone. An error of another kind ends it, too.
    pub fn iter(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.pop().ok())
    }

    /// Copies the next message and leaves it in the ring.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn peek(&mut self) -> Result<T, TryRecvError> {
        if self.head == self.limit.get() {
            self.look()?;
        }
        self.peeked = self.head;
        Ok(self.read())
    }

    /// As [`peek`](Self::peek), waiting for a message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    #[inline]
    pub fn peek_timeout(&mut self, timeout: impl Into<Timeout>) -> Result<T, RecvError> {
        if self.head == self.limit.get() {
            self.wait_for_message(timeout.into())?;
        }
        self.peeked = self.head;
        Ok(self.read())
    }

    /// Gives back the message that was last peeked. `false`, and nothing happens, if none was
    /// peeked since the last release.
    #[inline]
    pub fn release(&mut self) -> bool {
        // The second condition fails if this end was closed or sent meanwhile.
        let given_back = self.peeked == self.head && self.head != self.limit.get();
        if given_back {
            self.advance();
        }
        given_back
    }

    /// Step 7. Only called while `head` is below `limit`.
    #[inline(always)]
    fn read(&self) -> T {
        self.frames.slot(self.spot).with(|slot| {
            // SAFETY: in bounds and aligned. `head < limit <= tail`: the producer published
            // this slot and does not write it before head passes it. Every byte pattern is a
            // valid T, so a producer that cheats sends garbage and nothing worse.
            unsafe { slot.read().assume_init() }
        })
    }

    #[inline(always)]
    fn step(&mut self) {
        self.head = self.head.wrapping_add(1);
        self.spot = self.frames.after(self.spot);
    }

    /// Steps 8 and 9.
    #[inline]
    fn advance(&mut self) {
        self.step();
        self.give_back();
    }

    #[inline]
    fn give_back(&mut self) {
        // A producer that has gone needs no further look: what it sent is still read.
        let _ = self.endpoint.publish(self.head);
        if !self.endpoint.is_light() {
            self.light_limit.set(self.head); // every pop takes the slow path
        }
    }

    /// Steps 8 and 9 while `head` is below a `limit` that was there before: we are light, too.
    #[inline(always)]
    fn advance_light(&mut self) {
        self.step();
        let _ = self.endpoint.publish_light(self.head);
    }

    /// Whether a message is there and we are light: by what we know, or else by step 6.
    #[inline(always)]
    fn finds_light(&self) -> bool {
        if self.head != self.light_limit.get() {
            return true;
        }
        let there = self.sign().wrapping_sub(self.head);
        // Neither nothing nor more than the ring holds.
        let found = there.wrapping_sub(1) < self.reach.get();
        if found {
            let is_whole = self.spot.at + there >= Frames::<T>::COUNT;
            let there = if is_whole { self.look_on(there) } else { there };
            self.know(self.head.wrapping_add(there));
        }
        found
    }

    /// How many messages are there, if it is more than `there`, the rest of a frame: then it is worth
    /// while to know of many at once.
    #[inline(always)]
    fn look_on(&self, there: u64) -> u64 {
        // Acquire: as in `sign`.
        let sign = self.frames.distant_sign(self.spot).load(Acquire);
        let further = sign.wrapping_sub(self.head);
        // Of another lap, it is at most head.
        let there = if further <= self.reach.get() {
            there.max(further)
        } else {
            there
        };
        self.endpoint.own().note_level(there);
        there
    }

    /// Messages are known up to `tail`, and we are light.
    #[inline(always)]
    fn know(&self, tail: u64) {
        self.limit.set(tail);
        self.light_limit.set(tail);
    }

    /// What the sign at head says. Unchecked: a peer may write anything.
    #[inline(always)]
    pub(super) fn sign(&self) -> u64 {
        // Acquire pairs with the Release store in `Producer::announce`.
        self.frames.sign(self.spot).load(Acquire)
    }

    /// Step 6: reloads the tail.
    #[cold]
    fn look(&mut self) -> Result<(), TryRecvError> {
        if !self.endpoint.is_open() {
            return Err(TryRecvError::Disconnected);
        }
        self.endpoint.lighten();
        let mut tail = self.sign();
        if tail <= self.head {
            if !self.endpoint.peer_is_gone() {
                return Err(TryRecvError::Empty);
            }
            // What was published before the close is seen.
            tail = self.sign();
            if tail <= self.head {
                return Err(TryRecvError::Disconnected);
            }
        }
        let there = tail.wrapping_sub(self.head);
        if there > self.capacity {
            return Err(TryRecvError::Corrupt);
        }
        self.endpoint.own().note_level(there);
        self.limit.set(tail);
        if self.endpoint.is_light() {
            self.know(tail);
            self.reach.set(self.capacity);
        }
        Ok(())
    }

    #[cold]
    fn wait_for_message(&mut self, timeout: Timeout) -> Result<(), RecvError> {
        let deadline = Deadline::after(timeout);
        loop {
            match self.look() {
                Ok(()) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(RecvError::Disconnected),
                Err(TryRecvError::Corrupt) => return Err(RecvError::Corrupt),
                Err(TryRecvError::Empty) => {}
            }
            let (frames, spot, head) = (self.frames, self.spot, self.head);
            // Acquire: as in `sign`.
            let moved = || frames.sign(spot).load(Acquire) > head;
            self.endpoint.wait_until(moved, deadline)?;
        }
    }

    /// How many messages were given back through this ring so far, by this consumer and those before it,
    /// modulo 2^64: where a successor goes on.
    pub fn position(&self) -> u64 {
        self.head
    }

    /// Messages the ring holds at most.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Messages in the ring, at the moment of asking.
    pub fn len(&self) -> u64 {
        let tail = self.frames.published(self.endpoint.peer_index());
        let len = tail.wrapping_sub(self.head);
        if len <= self.capacity { len } else { 0 }
    }

    /// Whether the ring holds no message, at the moment of asking.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the producer is gone; messages may still be there. By closing, or by the word
    /// of our peers, which is a system call.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open() || self.endpoint.peer_is_dead()
    }

    /// Takes nothing more: the producer is disconnected. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        self.endpoint.close();
        self.forget_messages();
    }

    fn forget_messages(&self) {
        self.know(self.head);
        self.reach.set(0);
    }

    /// Spins at most `pauses` pauses before it sleeps; 0 sleeps at once.
    ///
    /// The default adapts to how long the producer takes, up to
    /// [`HANDOFF_SPINS`](multiprocess_core::spin::HANDOFF_SPINS).
    pub fn set_spin_cap(&mut self, pauses: u32) {
        self.endpoint.set_spin_cap(pauses);
    }

    /// What has gone through the ring.
    pub fn statistics(&self) -> Statistics {
        super::statistics(self.endpoint.control(), &self.frames)
    }

    /// What the ring lies in.
    pub fn memory(&self) -> &M {
        self.endpoint.memory()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn is_open(&self) -> bool {
        self.endpoint.is_open()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn give_away(&self) -> bool {
        self.forget_messages(); // the next look finds out
        self.endpoint.give_away()
    }
}

impl<T, M: Memory, P: Peers> fmt::Debug for Consumer<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("spsc::Consumer")
            .field("capacity", &self.capacity)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
