//! The receiving end.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use multiprocess_core::{AttachError, Deadline, Memory, Timeout};
use multiprocess_shm::Segment;

use super::{Message, Ring, Slot};
use crate::endpoint::{Claim, ConsumerSide, Endpoint};
use crate::waiter::GaveUp;
use crate::{RecvError, TryRecvError};

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
/// blocked, except that a full ring stays full; a wake that died with the consumer costs the
/// producer at most 1 s. A successor [takes over](Self::take_over). Trust: *guarded*; a
/// hostile producer can send any bytes.
///
/// # Fork
///
/// A child that uses its parent's consumer makes two consumers of one: do not.
pub struct Consumer<T, M: Memory = Segment> {
    endpoint: Endpoint<ConsumerSide, M>,
    slots: NonNull<Slot<T>>,
    capacity: u64,
    /// Our index: the next message to be read.
    head: u64,
    /// The first index that is not known to be published.
    limit: Cell<u64>,
    /// `limit` once we publish with light fences; `head` before: then there is no fast path.
    light_limit: Cell<u64>,
    /// A message was copied by `peek` and not given back yet.
    peeked: u64,
}

// SAFETY: the slots lie in the endpoint's memory, which moves along; messages are plain data.
unsafe impl<T: Message, M: Memory + Send> Send for Consumer<T, M> {}

impl<T: Message, M: Memory> Consumer<T, M> {
    /// Claims the free receiving end of the ring in `memory`.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has had a consumer; whatever is wrong with the
    /// bytes.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::First)
    }

    /// Becomes the consumer in place of one that died, at the first message it had not given
    /// back.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former consumer's death (a readable pidfd, a reaped
    /// child): stopped is not dead, and two consumers get each other's messages.
    pub unsafe fn take_over(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, capacity, head) = Endpoint::attach(memory, &Ring::<T>::KIND, claim)?;
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

    /// Step 6. Only called while `head` is below `limit`.
    #[inline(always)]
    fn read(&self) -> T {
        let index = (self.head & (self.capacity - 1)) as usize;
        // SAFETY: `index < capacity`, for which the region was checked at attach.
        let slot = unsafe { self.slots.add(index).as_ref() };
        slot.with(|slot| {
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
            match self.endpoint.wait_for_peer(self.head, deadline) {
                Ok(()) => {}
                Err(GaveUp::Timeout) => return Err(RecvError::Timeout),
                Err(GaveUp::System(errno)) => return Err(RecvError::System(errno)),
            }
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

    /// Whether the producer is gone; messages may still be there. Its death by a kill is not
    /// seen here.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open()
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

impl<T, M: Memory> fmt::Debug for Consumer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("spsc::Consumer")
            .field("capacity", &self.capacity)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
