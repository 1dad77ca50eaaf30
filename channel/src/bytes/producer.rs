//! The sending end.

use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};

use multiprocess_core::{AttachError, Deadline, Memory, Timeout};
use multiprocess_shm::Segment;

use super::{HEADER, PADDING, Ring, record_size, shadow, write_header};
use crate::endpoint::{Claim, Endpoint, ProducerSide};
use crate::waiter::GaveUp;
use crate::{ReserveError, TryReserveError};

/// Writes records into a byte ring. There is one per ring; dropping it disconnects.
///
/// # Examples
///
/// ```
/// let (mut producer, mut consumer) = multiprocess_channel::bytes::channel(4096)?;
/// let mut grant = producer.reserve(64)?;          // at most 64 bytes, in place
/// grant[..5].copy_from_slice(b"hello");
/// grant.commit(5);
/// assert_eq!(&*consumer.peek()?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What happened before a commit happened before the peek that returns its record.
///
/// # Crash safety
///
/// Killed before commit has published: nothing was sent. After: the record was sent. A wake
/// that died with the producer costs the consumer at most 1 s. A successor
/// [takes over](Self::take_over). Trust: *guarded*; a [`Grant`] is *trusting*: the slice
/// assumes that the consumer does not write into it.
///
/// # Fork
///
/// A child that uses its parent's producer makes two producers of one: do not.
pub struct Producer<M: Memory = Segment> {
    endpoint: Endpoint<ProducerSide, M>,
    capacity: u64,
    /// Our index: where the next record starts.
    tail: u64,
    /// The consumer's index as we last saw it; `tail - capacity` once we must not write.
    head: Cell<u64>,
}

// SAFETY: everything lies in the endpoint, which is Send if its memory is; `Cell` is Send.
unsafe impl<M: Memory + Send> Send for Producer<M> {}

impl<M: Memory> Producer<M> {
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
    /// child): stopped is not dead, and two producers tear each other's records.
    pub unsafe fn take_over(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, capacity, tail) = Endpoint::attach(memory, &Ring::KIND, claim)?;
        Ok(Self {
            endpoint,
            capacity,
            tail,
            head: Cell::new(tail.wrapping_sub(capacity)),
        })
    }

    /// Longest record, bytes: half the capacity less 8, so that there is always a place for it
    /// in an empty ring.
    pub fn max_len(&self) -> usize {
        (self.capacity / 2 - HEADER) as usize
    }

    /// Reserves room for a record of at most `len` bytes, if there is room now.
    ///
    /// # Errors
    ///
    /// [`TryReserveError`].
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_, M>, TryReserveError> {
        let skip = self.find_room(len)?;
        Ok(self.grant(len, skip))
    }

    /// Reserves room for a record of at most `len` bytes, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    pub fn reserve(&mut self, len: usize) -> Result<Grant<'_, M>, ReserveError> {
        self.reserve_timeout(len, Timeout::Never)
    }

    /// As [`reserve`](Self::reserve), for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    pub fn reserve_timeout(
        &mut self,
        len: usize,
        timeout: impl Into<Timeout>,
    ) -> Result<Grant<'_, M>, ReserveError> {
        let skip = match self.find_room(len) {
            Ok(skip) => skip,
            Err(TryReserveError::Full) => self.wait_for_room(len, timeout.into())?,
            Err(error) => return Err(final_error(error)),
        };
        Ok(self.grant(len, skip))
    }

    /// Sends a copy of `bytes` if there is room now.
    ///
    /// # Errors
    ///
    /// [`TryReserveError`].
    pub fn try_push(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        let mut grant = self.try_reserve(bytes.len())?;
        grant.copy_from_slice(bytes);
        grant.commit(bytes.len());
        Ok(())
    }

    /// Sends a copy of `bytes`, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ReserveError> {
        self.push_timeout(bytes, Timeout::Never)
    }

    /// Sends a copy of `bytes`, waiting for room for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    pub fn push_timeout(
        &mut self,
        bytes: &[u8],
        timeout: impl Into<Timeout>,
    ) -> Result<(), ReserveError> {
        let mut grant = self.reserve_timeout(bytes.len(), timeout)?;
        grant.copy_from_slice(bytes);
        grant.commit(bytes.len());
        Ok(())
    }

    /// Bytes to skip (padding to the end of the ring, or 0) before a record of `len` bytes.
    fn find_room(&mut self, len: usize) -> Result<u64, TryReserveError> {
        if len > self.max_len() {
            return Err(TryReserveError::TooLarge {
                max: self.max_len(),
            });
        }
        let size = record_size(len as u64);
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        let skip = if size > to_end { to_end } else { 0 };
        // No overflow: both are at most the capacity.
        let need = skip + size;
        if need > self.room() {
            self.reload_head(need)?;
        }
        Ok(skip)
    }

    fn room(&self) -> u64 {
        self.capacity - self.tail.wrapping_sub(self.head.get())
    }

    /// Step 1: reloads the consumer's index and checks it.
    #[cold]
    fn reload_head(&mut self, need: u64) -> Result<(), TryReserveError> {
        if !self.endpoint.is_open() {
            return Err(TryReserveError::Disconnected);
        }
        self.endpoint.lighten();
        if self.endpoint.peer_is_gone() {
            return Err(TryReserveError::Disconnected);
        }
        let head = self.endpoint.peer_index();
        if self.tail.wrapping_sub(head) > self.capacity || !head.is_multiple_of(HEADER) {
            return Err(TryReserveError::Corrupt);
        }
        self.head.set(head);
        if need > self.room() {
            return Err(TryReserveError::Full);
        }
        Ok(())
    }

    #[cold]
    fn wait_for_room(&mut self, len: usize, timeout: Timeout) -> Result<u64, ReserveError> {
        let deadline = Deadline::after(timeout);
        loop {
            match self.find_room(len) {
                Ok(skip) => return Ok(skip),
                Err(TryReserveError::Full) => {}
                Err(error) => return Err(final_error(error)),
            }
            match self.endpoint.wait_for_peer(self.head.get(), deadline) {
                Ok(()) => {}
                Err(GaveUp::Timeout) => return Err(ReserveError::Timeout),
                Err(GaveUp::System(errno)) => return Err(ReserveError::System(errno)),
            }
        }
    }

    /// Step 2.
    #[inline]
    fn grant(&mut self, len: usize, skip: u64) -> Grant<'_, M> {
        let start = self.tail.wrapping_add(skip);
        if skip > 0 {
            // SAFETY: `find_room` found `skip` free bytes at `tail`, in the ring this endpoint
            // was attached to with this capacity.
            unsafe {
                write_header(
                    &self.endpoint,
                    self.capacity,
                    self.tail,
                    skip - HEADER,
                    PADDING,
                );
            }
        }
        Grant {
            producer: self,
            start,
            len,
        }
    }

    /// How many bytes were sent through this ring so far, headers and padding included, by
    /// this producer and those before it, modulo 2^64. A successor that keeps its own count beside
    /// it learns whether the last record counts.
    pub fn position(&self) -> u64 {
        self.tail
    }

    /// Bytes the ring holds at most, headers and padding included.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes in the ring, headers and padding included, at the moment of asking.
    pub fn len(&self) -> u64 {
        self.endpoint.len(self.capacity).unwrap_or(0)
    }

    /// Whether the ring holds no record, at the moment of asking.
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
        self.forget_room();
    }

    fn forget_room(&self) {
        self.head.set(self.tail.wrapping_sub(self.capacity));
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
        self.forget_room(); // the next reservation finds out in `reload_head`
        self.endpoint.give_away()
    }
}

fn final_error(error: TryReserveError) -> ReserveError {
    match error {
        TryReserveError::TooLarge { max } => ReserveError::TooLarge { max },
        TryReserveError::Corrupt => ReserveError::Corrupt,
        TryReserveError::Disconnected | TryReserveError::Full => ReserveError::Disconnected,
    }
}

impl<M: Memory> fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Producer")
            .field("capacity", &self.capacity)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

/// Room for one record. Write into it, then [`commit`](Self::commit); dropping it sends
/// nothing.
///
/// The bytes start out as whatever an earlier record left there.
#[must_use = "nothing is sent without commit"]
pub struct Grant<'a, M: Memory = Segment> {
    producer: &'a mut Producer<M>,
    start: u64,
    len: usize,
}

impl<M: Memory> Grant<'_, M> {
    /// Steps 3 to 5: sends the first `len` bytes; less than was reserved is fine.
    ///
    /// # Panics
    ///
    /// If `len` is more than was reserved.
    #[inline]
    pub fn commit(self, len: usize) {
        assert!(len <= self.len, "commit of more bytes than were reserved");
        let Producer {
            endpoint,
            capacity,
            tail,
            head,
        } = self.producer;
        let size = record_size(len as u64);
        // SAFETY: `find_room` found room for the record at `start`, in the ring this endpoint
        // was attached to with this capacity.
        unsafe {
            write_header(endpoint, *capacity, self.start, len as u64, 0);
            let offset = self.start & (*capacity - 1);
            for unit in 1..size / HEADER {
                shadow(endpoint, *capacity, offset + unit * HEADER).write();
            }
        }
        *tail = self.start.wrapping_add(size);
        if endpoint.publish(*tail) {
            // The consumer has closed: find out in `reload_head`.
            head.set(tail.wrapping_sub(*capacity));
        }
    }

    #[inline]
    fn payload(&self) -> *mut u8 {
        let producer = &*self.producer;
        let offset = (self.start & (producer.capacity - 1)) + HEADER;
        // SAFETY: the record does not wrap, so its payload starts inside the ring (or at its
        // end, if it is empty).
        unsafe { producer.endpoint.body().add(offset as usize).as_ptr() }
    }
}

impl<M: Memory> Deref for Grant<'_, M> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes at the payload are inside the ring and free: the consumer has
        // given them back and does not look before they are published (trusting). Mapped
        // memory is initialised.
        unsafe { core::slice::from_raw_parts(self.payload(), self.len) }
    }
}

impl<M: Memory> DerefMut for Grant<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the grant is the only handle on this room.
        unsafe { core::slice::from_raw_parts_mut(self.payload(), self.len) }
    }
}

impl<M: Memory> fmt::Debug for Grant<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Grant")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
