//! The receiving end.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use multiprocess_core::spin::prefetch;
use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::{Message, Ring, Slot};
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
    slots: NonNull<Slot<T>>,
    capacity: u64,
    /// Our index: the next message to be read.
    pub(super) head: u64,
    /// The first index that is not known to be published.
    pub(super) limit: Cell<u64>,
    /// `limit` once we publish with light fences; `head` before: then there is no fast path.
    light_limit: Cell<u64>,
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
        let (endpoint, capacity, head) = Endpoint::attach(memory, peers, &Ring::<T>::KIND, claim)?;
        Ok(Self {
            slots: endpoint.body().cast(),
            endpoint,
            capacity,
            head,
            limit: Cell::new(head),
            light_limit: Cell::new(head),
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
        if self.head != self.light_limit.get() {
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
        if self.head != self.light_limit.get() {
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

    /// Steps 6 to 8 for as many messages as `target` has room for and we know of.
    #[inline]
    fn read_slice(&mut self, target: &mut [T]) -> usize {
        let there = self.limit.get().wrapping_sub(self.head);
        let count = there.min(target.len() as u64);
        if count == 0 {
            return 0;
        }
        let start = self.head & (self.capacity - 1);
        let to_end = (self.capacity - start).min(count);
        let (target, _) = target.split_at_mut(count as usize);
        let (first, wrapped) = target.split_at_mut(to_end as usize);
        self.read_run(start as usize, first);
        self.read_run(0, wrapped);
        self.head = self.head.wrapping_add(count);
        self.give_back();
        target.len()
    }

    /// Step 6 for slots `from` and on. Only called for published ones that do not reach past the
    /// ring's end.
    #[inline(always)]
    fn read_run(&self, from: usize, target: &mut [T]) {
        for (offset, place) in target.iter_mut().enumerate() {
            // SAFETY: the caller vouches that `from + offset < capacity`, for which the region was
            // checked at attach.
            let slot = unsafe { self.slots.add(from + offset).as_ref() };
            // SAFETY: as in `read`.
            *place = slot.with(|slot| unsafe { slot.read().assume_init() });
        }
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

    #[inline(always)]
    fn slot(&self, position: u64) -> &Slot<T> {
        let index = (position & (self.capacity - 1)) as usize;
        // SAFETY: `index < capacity`, for which the region was checked at attach.
        unsafe { self.slots.add(index).as_ref() }
    }

    /// Step 6. Only called while `head` is below `limit`.
    #[inline(always)]
    fn read(&self) -> T {
        self.slot(self.head).with(|slot| {
            // SAFETY: in bounds and aligned. `head < limit <= tail`: the producer published
            // this slot and does not write it before head passes it. Every byte pattern is a
            // valid T, so a producer that cheats sends garbage and nothing worse.
            unsafe { slot.read().assume_init() }
        })
    }

    /// Steps 7 and 8.
    #[inline]
    fn advance(&mut self) {
        self.head = self.head.wrapping_add(1);
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

    /// Steps 7 and 8 while `head` is below a `limit` that was there before: we are light, too.
    #[inline(always)]
    fn advance_light(&mut self) {
        self.head = self.head.wrapping_add(1);
        let _ = self.endpoint.publish_light(self.head);
    }

    /// Step 5: reloads the producer's index.
    #[cold]
    fn look(&mut self) -> Result<(), TryRecvError> {
        if !self.endpoint.is_open() {
            return Err(TryRecvError::Disconnected);
        }
        self.endpoint.lighten();
        // The message's line is asked for together with the index's, not after it.
        prefetch(self.slot(self.head));
        let mut tail = self.endpoint.peer_index();
        if tail == self.head {
            if self.endpoint.peer_is_gone() {
                // What was published before the close is seen.
                tail = self.endpoint.peer_index();
                if tail == self.head {
                    return Err(TryRecvError::Disconnected);
                }
            } else {
                return Err(TryRecvError::Empty);
            }
        }
        let there = tail.wrapping_sub(self.head);
        if there > self.capacity {
            return Err(TryRecvError::Corrupt);
        }
        self.endpoint.own().note_level(there);
        self.limit.set(tail);
        if self.endpoint.is_light() {
            self.light_limit.set(tail);
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
            // Empty means that tail was head.
            self.endpoint.wait_for_peer(self.head, deadline)?;
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
        self.endpoint.len(self.capacity).unwrap_or(0)
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
        self.limit.set(self.head);
        self.light_limit.set(self.head);
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
        Statistics::of(self.endpoint.control(), Some(size_of::<T>() as u64))
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
