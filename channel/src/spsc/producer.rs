//! The sending end.

use core::cell::Cell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use multiprocess_core::{AttachError, Deadline, Memory, Timeout};
use multiprocess_shm::Segment;

use super::{Message, Ring, Slot};
use crate::endpoint::{Claim, Endpoint, ProducerSide};
use crate::waiter::GaveUp;
use crate::{SendError, TrySendError};

/// Sends messages into a ring. There is one per ring; dropping it disconnects.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::{TrySendError, spsc};
///
/// let (mut producer, mut consumer) = spsc::channel::<u64>(2)?;
/// producer.push(1)?;
/// producer.push(2)?;
/// assert_eq!(producer.try_push(3), Err(TrySendError::Full(3)));
/// assert_eq!(consumer.pop(), Ok(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What happened before a push happened before the pop that returns its message.
///
/// # Crash safety
///
/// Killed before its message is published: nothing was sent. After: it was. The consumer is
/// never blocked, except that nothing more comes; a wake that died with the producer costs the
/// consumer at most 1 s. A successor [takes over](Self::take_over). Trust: *guarded*.
///
/// # Fork
///
/// A child that uses its parent's producer makes two producers of one: do not.
pub struct Producer<T, M: Memory = Segment> {
    endpoint: Endpoint<ProducerSide, M>,
    slots: NonNull<Slot<T>>,
    capacity: u64,
    /// Our index: the next message to be written.
    tail: u64,
    /// The first index that is not known to be free. `tail` itself once we must not push.
    limit: Cell<u64>,
}

// SAFETY: the slots lie in the endpoint's memory, which moves along; messages are plain data.
unsafe impl<T: Message, M: Memory + Send> Send for Producer<T, M> {}

impl<T: Message, M: Memory> Producer<T, M> {
    /// Claims the free sending end of the ring in `memory`.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has had a producer; whatever is wrong with the
    /// bytes.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::First)
    }

    /// Becomes the producer in place of one that died.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former producer's death (a readable pidfd, a reaped
    /// child): stopped is not dead, and two producers tear each other's messages.
    pub unsafe fn take_over(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, capacity, tail) = Endpoint::attach(memory, &Ring::<T>::KIND, claim)?;
        Ok(Self {
            slots: endpoint.body().cast(),
            endpoint,
            capacity,
            tail,
            limit: Cell::new(tail),
        })
    }

    /// Sends `value` if a slot is free.
    ///
    /// A message that is accepted while the consumer goes away may never be read.
    ///
    /// # Errors
    ///
    /// [`TrySendError`], with the value.
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), TrySendError<T>> {
        if self.tail != self.limit.get() {
            self.write_light(value);
            return Ok(());
        }
        match self.make_room() {
            Ok(()) => {
                self.write(value);
                Ok(())
            }
            Err(NoRoom::Full) => Err(TrySendError::Full(value)),
            Err(NoRoom::Disconnected) => Err(TrySendError::Disconnected(value)),
            Err(NoRoom::Corrupt) => Err(TrySendError::Corrupt(value)),
        }
    }

    /// Sends `value`, waiting for a free slot as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the value.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), SendError<T>> {
        self.push_timeout(value, Timeout::Never)
    }

    /// Sends `value`, waiting for a free slot for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the value.
    #[inline]
    pub fn push_timeout(
        &mut self,
        value: T,
        timeout: impl Into<Timeout>,
    ) -> Result<(), SendError<T>> {
        if self.tail != self.limit.get() {
            self.write_light(value);
            return Ok(());
        }
        if let Err(error) = self.wait_for_room(timeout.into()) {
            return Err(match error {
                Stop::Timeout => SendError::Timeout(value),
                Stop::Disconnected => SendError::Disconnected(value),
                Stop::Corrupt => SendError::Corrupt(value),
                Stop::System(errno) => SendError::System(value, errno),
            });
        }
        self.write(value);
        Ok(())
    }

    /// Steps 2 to 4, after `make_room`.
    #[inline]
    fn write(&mut self, value: T) {
        self.fill(value);
        // Without light fences there is no fast path: every push comes by `make_room`.
        if self.endpoint.publish(self.tail) || !self.endpoint.is_light() {
            self.limit.set(self.tail);
        }
    }

    /// Steps 2 to 4 while `tail` is below `limit`, which means that we are light, too.
    #[inline(always)]
    fn write_light(&mut self, value: T) {
        self.fill(value);
        if self.endpoint.publish_light(self.tail) {
            self.limit.set(self.tail); // the consumer has closed: find out in `make_room`
        }
    }

    /// Step 2. Only called while `tail` is below `limit`.
    #[inline(always)]
    fn fill(&mut self, value: T) {
        let index = (self.tail & (self.capacity - 1)) as usize;
        // SAFETY: `index < capacity`, for which the region was checked at attach.
        let slot = unsafe { self.slots.add(index).as_ref() };
        slot.with_mut(|slot| {
            // SAFETY: in bounds and aligned. `tail < limit <= head + capacity`: the consumer
            // has given this slot back, and will not look at it before tail passes it.
            unsafe { slot.write(MaybeUninit::new(value)) }
        });
        self.tail = self.tail.wrapping_add(1);
    }

    /// Step 1: reloads the consumer's index.
    #[cold]
    fn make_room(&mut self) -> Result<(), NoRoom> {
        if !self.endpoint.is_open() {
            return Err(NoRoom::Disconnected);
        }
        self.endpoint.lighten();
        if self.endpoint.peer_is_gone() {
            return Err(NoRoom::Disconnected);
        }
        let head = self.endpoint.peer_index();
        let used = self.tail.wrapping_sub(head);
        if used > self.capacity {
            return Err(NoRoom::Corrupt);
        }
        if used == self.capacity {
            return Err(NoRoom::Full);
        }
        self.limit.set(head.wrapping_add(self.capacity));
        Ok(())
    }

    #[cold]
    fn wait_for_room(&mut self, timeout: Timeout) -> Result<(), Stop> {
        let deadline = Deadline::after(timeout);
        loop {
            match self.make_room() {
                Ok(()) => return Ok(()),
                Err(NoRoom::Disconnected) => return Err(Stop::Disconnected),
                Err(NoRoom::Corrupt) => return Err(Stop::Corrupt),
                Err(NoRoom::Full) => {}
            }
            // Full means that head was tail - capacity.
            let seen = self.tail.wrapping_sub(self.capacity);
            match self.endpoint.wait_for_peer(seen, deadline) {
                Ok(()) => {}
                Err(GaveUp::Timeout) => return Err(Stop::Timeout),
                Err(GaveUp::System(errno)) => return Err(Stop::System(errno)),
            }
        }
    }

    /// How many messages were sent through this ring so far, by this producer and those before it,
    /// modulo 2^64: where a successor goes on.
    pub fn position(&self) -> u64 {
        self.tail
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

    /// Whether the consumer is gone. Its death by a kill is not seen here.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open()
    }

    /// Ends the stream: the consumer reads what is there, then is disconnected. Idempotent;
    /// dropping does the same.
    pub fn close(&mut self) {
        self.endpoint.close();
        self.limit.set(self.tail);
    }

    /// Spins at most `pauses` pauses before it sleeps; 0 sleeps at once.
    ///
    /// The default adapts to how long the consumer takes, up to
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
        self.limit.set(self.tail); // the next push finds out in `make_room`
        self.endpoint.give_away()
    }
}

enum NoRoom {
    Full,
    Disconnected,
    Corrupt,
}

enum Stop {
    Timeout,
    Disconnected,
    Corrupt,
    System(multiprocess_core::Errno),
}

impl<T, M: Memory> fmt::Debug for Producer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("spsc::Producer")
            .field("capacity", &self.capacity)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}
