//! The sending end.

use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};

use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::{HEADER, PADDING, Ring, record_size, shadow, write_header};
use crate::endpoint::{Claim, Endpoint, ProducerSide, Start};
use crate::{Home, ReserveError, Statistics, TryReserveError};

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
/// that died with the producer costs the consumer at most 1 s, and one that waits is told at its inner
/// bound. A successor [attaches](Self::attach), or [takes over](Self::take_over). Trust: *guarded*; a
/// [`Grant`] is *trusting*: the slice assumes that the consumer does not write into it.
///
/// # Fork
///
/// A child that uses its parent's producer makes two producers of one: do not.
pub struct Producer<M: Memory = Home, P: Peers = Home> {
    pub(super) endpoint: Endpoint<ProducerSide, M, P>,
    pub(super) capacity: u64,
    /// Our index: where the next record starts.
    pub(super) tail: u64,
    /// The consumer's index as we last saw it; `tail - capacity` once we must not write.
    head: Cell<u64>,
    /// Records ever sent.
    records: u64,
    /// Length of the record for which there was no room, when we last had to look.
    pub(super) refused: usize,
}

// SAFETY: everything lies in the endpoint, which is Send if its memory and peers are; `Cell` is Send.
unsafe impl<M: Memory + Send, P: Peers + Send> Send for Producer<M, P> {}

impl<M: Memory, P: Peers> Producer<M, P> {
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
    /// it must have closed: stopped is not dead, and two producers tear each other's records.
    pub unsafe fn take_over(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, peers: P, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, start) =
            Endpoint::attach(memory, peers, &Ring::KIND, claim, |_, _, tail| tail)?;
        let Start { capacity, tail, .. } = start;
        Ok(Self {
            records: endpoint.records(),
            endpoint,
            capacity,
            tail,
            head: Cell::new(tail.wrapping_sub(capacity)),
            refused: 0,
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
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_, M, P>, TryReserveError> {
        let skip = self.find_room(len)?;
        Ok(self.grant(len, skip))
    }

    /// Reserves room for a record of at most `len` bytes, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    pub fn reserve(&mut self, len: usize) -> Result<Grant<'_, M, P>, ReserveError> {
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
    ) -> Result<Grant<'_, M, P>, ReserveError> {
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

    /// Sends copies of the first of `records`, as many as there is room for; how many. One store and
    /// one look at the consumer's doorbell for all of them.
    ///
    /// # Errors
    ///
    /// [`TryReserveError`] of the first, if none was sent.
    ///
    /// # Crash safety
    ///
    /// Killed at any moment, it has sent all that it would have returned, or none.
    pub fn try_push_all(&mut self, records: &[&[u8]]) -> Result<usize, TryReserveError> {
        let mut sent = 0;
        for record in records {
            match self.try_reserve(record.len()) {
                Ok(mut grant) => {
                    grant.copy_from_slice(record);
                    grant.seal(record.len());
                }
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
            sent += 1;
        }
        if sent > 0 {
            self.publish(sent as u64);
        }
        Ok(sent)
    }

    /// Steps 4 and 5, for `records` sealed records.
    #[inline]
    fn publish(&mut self, records: u64) {
        if self.endpoint.publish(self.tail) {
            self.forget_room(); // the consumer has closed: find out in `reload_head`
        }
        self.records = self.records.wrapping_add(records);
        self.endpoint.count_records(self.records);
    }

    /// Bytes to skip (padding to the end of the ring, or 0) before a record of `len` bytes.
    fn find_room(&mut self, len: usize) -> Result<u64, TryReserveError> {
        if len > self.max_len() {
            return Err(TryReserveError::TooLarge {
                max: self.max_len(),
            });
        }
        let (skip, need) = self.need(len);
        if need > self.room() {
            self.refused = len;
            self.reload_head(need)?;
            self.refused = 0;
        }
        Ok(skip)
    }

    /// What a record of `len` bytes, at most `max_len`, needs: bytes to skip, and bytes in all.
    #[inline]
    pub(super) fn need(&self, len: usize) -> (u64, u64) {
        let size = record_size(len as u64);
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        let skip = if size > to_end { to_end } else { 0 };
        // No overflow: both are at most the capacity.
        (skip, skip + size)
    }

    pub(super) fn room(&self) -> u64 {
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
        self.endpoint.own().note_level(self.tail.wrapping_sub(head));
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
            self.endpoint.wait_for_index(self.head.get(), deadline)?;
        }
    }

    /// Step 2.
    #[inline]
    fn grant(&mut self, len: usize, skip: u64) -> Grant<'_, M, P> {
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

    /// Whether the consumer is gone: by closing, or by the word of our peers, which is a system call.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open() || self.endpoint.peer_is_dead()
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

    /// What has gone through the ring.
    pub fn statistics(&self) -> Statistics {
        Statistics::of_records(self.endpoint.control())
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

impl<M: Memory, P: Peers> fmt::Debug for Producer<M, P> {
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
pub struct Grant<'a, M: Memory = Home, P: Peers = Home> {
    producer: &'a mut Producer<M, P>,
    start: u64,
    len: usize,
}

impl<M: Memory, P: Peers> Grant<'_, M, P> {
    /// Steps 3 to 5: sends the first `len` bytes; less than was reserved is fine.
    ///
    /// # Panics
    ///
    /// If `len` is more than was reserved.
    #[inline]
    pub fn commit(mut self, len: usize) {
        self.seal(len);
        self.producer.publish(1);
    }

    /// Step 3: the record is whole, and not published.
    #[inline]
    fn seal(&mut self, len: usize) {
        assert!(len <= self.len, "commit of more bytes than were reserved");
        let Producer {
            endpoint,
            capacity,
            tail,
            ..
        } = &mut *self.producer;
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

impl<M: Memory, P: Peers> Deref for Grant<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes at the payload are inside the ring and free: the consumer has
        // given them back and does not look before they are published (trusting). Mapped
        // memory is initialised.
        unsafe { core::slice::from_raw_parts(self.payload(), self.len) }
    }
}

impl<M: Memory, P: Peers> DerefMut for Grant<'_, M, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the grant is the only handle on this room.
        unsafe { core::slice::from_raw_parts_mut(self.payload(), self.len) }
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Grant<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Grant")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
