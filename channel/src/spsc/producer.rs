//! The sending end.

use core::cell::Cell;
use core::fmt;
use core::mem::MaybeUninit;

use multiprocess_core::atomic::Ordering::Release;
use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::frames::{Frames, Spot};
use super::{Attached, Message};
use crate::endpoint::{Claim, Endpoint, ProducerSide, Start};
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
    frames: Frames<T>,
    /// Where `tail` is.
    spot: Spot,
    pub(super) capacity: u64,
    /// Our index: the next message to be written.
    pub(super) tail: u64,
    /// The first index that is not known to be free. `tail` itself once we must not push.
    pub(super) limit: Cell<u64>,
    /// The capacity once we are light; 0 before, and once we must not push: then the consumer's index is
    /// only looked at by `make_room`.
    reach: Cell<u64>,
}

// SAFETY: the frames lie in the endpoint's memory, which moves along; messages are plain data.
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
        let Attached {
            endpoint,
            start,
            frames,
        } = super::attach(memory, peers, claim)?;
        let Start { capacity, tail, .. } = start;
        Ok(Self {
            spot: frames.spot(tail),
            frames,
            endpoint,
            capacity,
            tail,
            limit: Cell::new(tail),
            reach: Cell::new(0),
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
        if self.finds_room() {
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
        if self.finds_room() {
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

    /// Steps 2 to 5 for as many of `values` as the room that we know of.
    #[inline]
    fn write_slice(&mut self, values: &[T]) -> usize {
        let free = self.limit.get().wrapping_sub(self.tail);
        let count = free.min(values.len() as u64);
        if count == 0 {
            return 0;
        }
        let (values, _) = values.split_at(count as usize);
        let start = self.spot;
        for value in values {
            self.fill(*value);
        }
        self.announce(start);
        if self.endpoint.publish(self.tail) || !self.endpoint.is_light() {
            self.stop();
        }
        values.len()
    }

    /// Steps 2 to 5, after `make_room`.
    #[inline]
    fn write(&mut self, value: T) {
        let start = self.spot;
        self.fill(value);
        self.announce(start);
        // Without light fences there is no fast path: every push comes by `make_room`.
        if self.endpoint.publish(self.tail) || !self.endpoint.is_light() {
            self.stop();
        }
    }

    /// Steps 2 to 5 while `tail` is below `limit`, which means that we are light, too.
    #[inline(always)]
    fn write_light(&mut self, value: T) {
        let start = self.spot;
        self.fill(value);
        self.announce(start);
        if self.spot.at == 0 {
            self.endpoint.store_index(self.tail);
        }
        if self.endpoint.wake_light(self.tail) {
            self.stop(); // the consumer has closed: find out in `make_room`
        }
    }

    /// Step 2. Only called while `tail` is below `limit`.
    #[inline(always)]
    fn fill(&mut self, value: T) {
        self.frames.slot(self.spot).with_mut(|slot| {
            // SAFETY: in bounds and aligned. `tail < limit <= head + capacity`: the consumer
            // has given this slot back, and will not look at it before a sign passes it.
            unsafe { slot.write(MaybeUninit::new(value)) }
        });
        self.tail = self.tail.wrapping_add(1);
        self.spot = self.frames.after(self.spot);
    }

    /// Step 3 for what lies from `start` to `tail`.
    #[inline(always)]
    fn announce(&self, start: Spot) {
        // Release pairs with the Acquire load in `Consumer::sign`.
        self.frames.sign(start).store(self.tail, Release);
    }

    /// Whether there is room and we are light: by what we know, or else by step 1.
    #[inline(always)]
    fn finds_room(&self) -> bool {
        if self.tail != self.limit.get() {
            return true;
        }
        let head = self.endpoint.peer_index();
        // Neither full nor fuller than that.
        let used = self.tail.wrapping_sub(head);
        let found = used < self.reach.get();
        if found {
            self.endpoint.own().note_level(used);
            self.limit.set(head.wrapping_add(self.capacity));
        }
        found
    }

    /// The next push goes by `make_room`.
    fn stop(&self) {
        self.limit.set(self.tail);
        self.reach.set(0);
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
        if self.endpoint.is_light() {
            self.reach.set(self.capacity);
        }
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
            match self.endpoint.wait_for_index(seen, deadline) {
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
        let len = self.tail.wrapping_sub(self.endpoint.peer_index());
        if len <= self.capacity { len } else { 0 }
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
        self.stop();
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
        self.stop(); // the next push finds out in `make_room`
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
