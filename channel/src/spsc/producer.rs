//! The sending end.

use core::cell::Cell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::{Message, Ring, Slot};
use crate::endpoint::{Claim, Endpoint, ProducerSide};
use crate::waiter::GaveUp;
use crate::{Home, SendError, Statistics, TrySendError};

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
/// told at the inner bound of its wait; a wake that died with the producer costs it at most 1 s. A
/// successor [attaches](Self::attach), or [takes over](Self::take_over). Trust: *guarded*.
///
/// # Fork
///
/// A child that uses its parent's producer makes two producers of one: do not.
pub struct Producer<T, M: Memory = Home, P: Peers = Home> {
    pub(super) endpoint: Endpoint<ProducerSide, M, P>,
    slots: NonNull<Slot<T>>,
    pub(super) capacity: u64,
    /// Our index: the next message to be written.
    pub(super) tail: u64,
    /// The first index that is not known to be free. `tail` itself once we must not push.
    pub(super) limit: Cell<u64>,
}

// SAFETY: the slots lie in the endpoint's memory, which moves along; messages are plain data.
unsafe impl<T: Message, M: Memory + Send, P: Peers + Send> Send for Producer<T, M, P> {}

impl<T: Message, M: Memory, P: Peers> Producer<T, M, P> {
    /// Claims the sending end of the ring in `memory`, for a process that is `peers` to the other end:
    /// if it is free, or its owner is attested dead, in which case it goes on where that one stopped. With
    /// [`NoPeers`](crate::NoPeers) nobody is attested dead.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has a producer, or had one that closed or went away in a
    /// message; whatever is wrong with the bytes.
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Free)
    }

    /// Becomes the producer in place of one that died, or closed.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former producer's death (a readable pidfd, a reaped child), or
    /// it must have closed: stopped is not dead, and two producers tear each other's messages.
    pub unsafe fn take_over(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, peers: P, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, capacity, tail) = Endpoint::attach(memory, peers, &Ring::<T>::KIND, claim)?;
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
        if let Err(stop) = self.wait_for_room(Deadline::after(timeout)) {
            return Err(stop.with(value));
        }
        self.write(value);
        Ok(())
    }

    /// Sends the first of `values`, as many as there is room for; how many. One store and one look at
    /// the consumer's doorbell for all of them.
    ///
    /// # Errors
    ///
    /// [`TrySendError`] if none was sent.
    ///
    /// # Crash safety
    ///
    /// Killed at any moment, it has sent all that it would have returned, or none.
    pub fn try_push_slice(&mut self, values: &[T]) -> Result<usize, TrySendError<()>> {
        let known = self.limit.get().wrapping_sub(self.tail);
        if known < values.len() as u64 {
            self.make_room().map_err(|error| match error {
                NoRoom::Full => TrySendError::Full(()),
                NoRoom::Disconnected => TrySendError::Disconnected(()),
                NoRoom::Corrupt => TrySendError::Corrupt(()),
            })?;
        }
        Ok(self.write_slice(values))
    }

    /// Sends `values`, waiting for free slots as long as it takes; in batches as large as the room that
    /// there is.
    ///
    /// # Errors
    ///
    /// [`SendError`], with those that were not sent.
    ///
    /// # Examples
    ///
    /// ```
    /// let (mut producer, mut consumer) = multiprocess_channel::spsc::channel::<u64>(4)?;
    /// producer.push_slice(&[1, 2, 3])?;
    /// let mut batch = [0; 32];
    /// assert_eq!(consumer.pop_slice(&mut batch)?, 3);
    /// assert_eq!(batch[..3], [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push_slice<'a>(&mut self, values: &'a [T]) -> Result<(), SendError<&'a [T]>> {
        self.push_slice_timeout(values, Timeout::Never)
    }

    /// As [`push_slice`](Self::push_slice), waiting for at most `timeout` in all; zero sends what there
    /// is room for.
    ///
    /// # Errors
    ///
    /// [`SendError`], with those that were not sent.
    pub fn push_slice_timeout<'a>(
        &mut self,
        values: &'a [T],
        timeout: impl Into<Timeout>,
    ) -> Result<(), SendError<&'a [T]>> {
        let timeout = timeout.into();
        let mut deadline = None;
        let mut rest = values;
        loop {
            match self.try_push_slice(rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(TrySendError::Full(())) => {
                    let deadline = *deadline.get_or_insert_with(|| Deadline::after(timeout));
                    if let Err(stop) = self.wait_for_room(deadline) {
                        return Err(stop.with(rest));
                    }
                }
                Err(TrySendError::Disconnected(())) => return Err(Stop::Disconnected.with(rest)),
                Err(TrySendError::Corrupt(())) => return Err(Stop::Corrupt.with(rest)),
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Steps 2 to 4 for as many of `values` as the room that we know of.
    #[inline]
    fn write_slice(&mut self, values: &[T]) -> usize {
        let free = self.limit.get().wrapping_sub(self.tail);
        let count = free.min(values.len() as u64);
        if count == 0 {
            return 0;
        }
        let start = self.tail & (self.capacity - 1);
        let to_end = (self.capacity - start).min(count);
        let (values, _) = values.split_at(count as usize);
        let (first, wrapped) = values.split_at(to_end as usize);
        self.fill_run(start as usize, first);
        self.fill_run(0, wrapped);
        self.tail = self.tail.wrapping_add(count);
        if self.endpoint.publish(self.tail) || !self.endpoint.is_light() {
            self.limit.set(self.tail);
        }
        values.len()
    }

    /// Step 2 for slots `from` and on. Only called for free ones that do not reach past the ring's end.
    #[inline(always)]
    fn fill_run(&mut self, from: usize, values: &[T]) {
        for (offset, value) in values.iter().enumerate() {
            // SAFETY: the caller vouches that `from + offset < capacity`, for which the region was
            // checked at attach.
            let slot = unsafe { self.slots.add(from + offset).as_ref() };
            slot.with_mut(|slot| {
                // SAFETY: as in `fill`.
                unsafe { slot.write(MaybeUninit::new(*value)) }
            });
        }
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
        self.endpoint.own().note_level(used);
        if used == self.capacity {
            return Err(NoRoom::Full);
        }
        self.limit.set(head.wrapping_add(self.capacity));
        Ok(())
    }

    #[cold]
    fn wait_for_room(&mut self, deadline: Deadline) -> Result<(), Stop> {
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
                Err(GaveUp::Abandoned) => return Err(Stop::Disconnected),
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

    /// Whether the consumer is gone: by closing, or by the word of our peers, which is a system call.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open() || self.endpoint.peer_is_dead()
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

impl Stop {
    /// With what was not sent.
    fn with<V>(self, value: V) -> SendError<V> {
        match self {
            Self::Timeout => SendError::Timeout(value),
            Self::Disconnected => SendError::Disconnected(value),
            Self::Corrupt => SendError::Corrupt(value),
            Self::System(errno) => SendError::System(value, errno),
        }
    }
}

impl<T, M: Memory, P: Peers> fmt::Debug for Producer<T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("spsc::Producer")
            .field("capacity", &self.capacity)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}
