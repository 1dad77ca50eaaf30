//! The receiving end.

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use multiprocess_core::atomic::Shadow;
use multiprocess_core::{AttachError, Deadline, Memory, Peers, Timeout};

use super::records::Records;
use super::{HEADER, PADDING, Ring, read_header, record_size, shadow};
use crate::endpoint::{Claim, ConsumerSide, Endpoint};
use crate::{Home, PopIntoError, RecvError, Statistics, TryRecvError};

/// Reads records from a byte ring. There is one per ring; dropping it disconnects.
///
/// [`peek`](Self::peek) shows the next record in place, and [`Record::release`] gives its room
/// back; a consumer killed in between leaves the record to its successor (at least once).
///
/// # Examples
///
/// ```
/// use multiprocess_channel::{TryRecvError, bytes};
///
/// let (mut producer, mut consumer) = bytes::channel(4096)?;
/// producer.push(b"one")?;
/// let mut buffer = [0; 16];
/// assert_eq!(consumer.try_pop_into(&mut buffer), Ok(3));
/// assert_eq!(&buffer[..3], b"one");
/// drop(producer);
/// assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Disconnected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What happened before a commit happened before the peek that returns its record.
///
/// # Crash safety
///
/// Killed before it gives a record back: the record is still there. A wake that died with the
/// consumer costs the producer at most 1 s, and one that waits is told at its inner bound. A successor
/// [attaches](Self::attach), or [takes over](Self::take_over). Trust:
/// *guarded*: every index and length is checked; a [`Record`] seen as a slice is *trusting*:
/// it assumes that the producer does not write into it. [`try_pop_into`](Self::try_pop_into)
/// copies and is *guarded* to the end.
///
/// # Fork
///
/// A child that uses its parent's consumer makes two consumers of one: do not.
pub struct Consumer<M: Memory = Home, P: Peers = Home> {
    pub(super) endpoint: Endpoint<ConsumerSide, M, P>,
    capacity: u64,
    /// Our index: where the next record starts.
    pub(super) head: u64,
    /// The producer's index as we last saw it; `head` itself once we must not read.
    pub(super) tail: Cell<u64>,
    /// Records ever given back.
    records: u64,
}

// SAFETY: everything lies in the endpoint, which is Send if its memory and peers are; `Cell` is Send.
unsafe impl<M: Memory + Send, P: Peers + Send> Send for Consumer<M, P> {}

impl<M: Memory, P: Peers> Consumer<M, P> {
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

    /// Becomes the consumer in place of one that died, or closed, at the first record it had not given
    /// back.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former consumer's death (a readable pidfd, a reaped child), or
    /// it must have closed: stopped is not dead, and two consumers get each other's records.
    pub unsafe fn take_over(memory: M, peers: P) -> Result<Self, AttachError> {
        Self::claim(memory, peers, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, peers: P, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, start) =
            Endpoint::attach(memory, peers, &Ring::KIND, claim, |_, _, tail| tail)?;
        let head = start.head;
        Ok(Self {
            records: endpoint.records(),
            endpoint,
            capacity: start.capacity,
            head,
            tail: Cell::new(head),
        })
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`].
    #[inline]
    pub fn try_peek(&mut self) -> Result<Record<'_, M, P>, TryRecvError> {
        let (start, len) = self.find_record()?;
        Ok(Record {
            consumer: self,
            start,
            len,
        })
    }

    /// The next record, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn peek(&mut self) -> Result<Record<'_, M, P>, RecvError> {
        self.peek_timeout(Timeout::Never)
    }

    /// The next record, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn peek_timeout(
        &mut self,
        timeout: impl Into<Timeout>,
    ) -> Result<Record<'_, M, P>, RecvError> {
        let (start, len) = match self.find_record() {
            Ok(found) => found,
            Err(TryRecvError::Empty) => self.wait_for(timeout.into(), Self::find_record)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Record {
            consumer: self,
            start,
            len,
        })
    }

    /// All records that are there, to be read one by one and given back together.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`] if there is none.
    pub fn try_peek_all(&mut self) -> Result<Records<'_, M, P>, TryRecvError> {
        let (end, count) = self.find_all()?;
        Ok(Records::new(self, end, count))
    }

    /// As [`try_peek_all`](Self::try_peek_all), waiting for a record as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn peek_all(&mut self) -> Result<Records<'_, M, P>, RecvError> {
        self.peek_all_timeout(Timeout::Never)
    }

    /// As [`try_peek_all`](Self::try_peek_all), waiting for a record for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn peek_all_timeout(
        &mut self,
        timeout: impl Into<Timeout>,
    ) -> Result<Records<'_, M, P>, RecvError> {
        let (end, count) = self.wait_for(timeout.into(), Self::find_all)?;
        Ok(Records::new(self, end, count))
    }

    /// Steps 6 and 7 for all that is there: where it ends, and how many records it is.
    fn find_all(&mut self) -> Result<(u64, usize), TryRecvError> {
        self.reload_tail(self.head)?;
        let (end, mut at) = (self.tail.get(), self.head);
        let (mut count, mut was_padding) = (0, false);
        // Each header moves on by 8 bytes at least, and not past the end.
        while at != end {
            let (len, is_padding) = self.read_record(at, end)?;
            if is_padding && was_padding {
                return Err(TryRecvError::Corrupt);
            }
            at = at.wrapping_add(record_size(len as u64));
            count += usize::from(!is_padding);
            was_padding = is_padding;
        }
        if was_padding {
            return Err(TryRecvError::Corrupt); // padding is published with the record behind it
        }
        Ok((end, count))
    }

    /// Copies the next record into `buffer` and gives it back; its length.
    ///
    /// # Errors
    ///
    /// [`PopIntoError`]; a record that does not fit stays in the ring.
    pub fn try_pop_into(&mut self, buffer: &mut [u8]) -> Result<usize, PopIntoError> {
        let record = self.try_peek()?;
        let need = record.len();
        let Some(target) = buffer.get_mut(..need) else {
            return Err(PopIntoError::BufferTooShort { need });
        };
        record.copy_to(target);
        record.release();
        Ok(need)
    }

    /// Steps 6 and 7: where the next record starts, and its length.
    #[inline]
    fn find_record(&mut self) -> Result<(u64, usize), TryRecvError> {
        // Twice at most: padding, then a record. A peer that sends padding upon padding is
        // corrupt.
        let mut start = self.head;
        for _ in 0..2 {
            if start == self.tail.get() {
                self.reload_tail(start)?;
            }
            let (len, is_padding) = self.read_record(start, self.tail.get())?;
            if !is_padding {
                return Ok((start, len));
            }
            start = start.wrapping_add(record_size(len as u64));
        }
        Err(TryRecvError::Corrupt)
    }

    /// Step 7: the header at `start`, which is before `tail`: bytes of payload, and whether it is
    /// padding.
    #[inline]
    pub(super) fn read_record(&self, start: u64, tail: u64) -> Result<(usize, bool), TryRecvError> {
        // Not zero, a multiple of 8 and at most the capacity: `reload_tail` saw to it.
        let there = tail.wrapping_sub(start);
        let to_end = self.capacity - (start & (self.capacity - 1));
        // SAFETY: attached with this capacity; `start` is a multiple of 8.
        let (len, flags) = unsafe { read_header(&self.endpoint, self.capacity, start) };
        let size = record_size(len);
        let is_padding = flags & PADDING != 0;
        let fits = size <= there && size <= to_end && flags & !PADDING == 0;
        if !fits || (is_padding && size != to_end) {
            return Err(TryRecvError::Corrupt);
        }
        Ok((len as usize, is_padding))
    }

    /// Step 6: reloads the producer's index and checks it.
    #[cold]
    fn reload_tail(&mut self, start: u64) -> Result<(), TryRecvError> {
        if !self.endpoint.is_open() {
            return Err(TryRecvError::Disconnected);
        }
        self.endpoint.lighten();
        // Asked before the index is loaded: what was published before the close is seen.
        let gone = self.endpoint.peer_is_gone();
        let tail = self.endpoint.peer_index();
        let there = tail.wrapping_sub(start);
        if there > self.capacity || !tail.is_multiple_of(HEADER) {
            return Err(TryRecvError::Corrupt);
        }
        if there == 0 {
            return Err(if gone {
                TryRecvError::Disconnected
            } else {
                TryRecvError::Empty
            });
        }
        self.endpoint.own().note_level(tail.wrapping_sub(self.head));
        self.tail.set(tail);
        Ok(())
    }

    /// The payload of the record at `start`.
    ///
    /// # Safety
    ///
    /// There must be one, of which [`read_record`](Self::read_record) said that it fits.
    #[inline]
    pub(super) unsafe fn payload(&self, start: u64) -> *const u8 {
        let offset = (start & (self.capacity - 1)) + HEADER;
        // SAFETY: header and payload lie inside the ring, by the caller's word.
        unsafe { self.endpoint.body().add(offset as usize).as_ptr() }
    }

    /// Steps 8 and 9: gives back what lies before `end`, read from `start` on: so many records.
    #[inline]
    pub(super) fn give_back(&mut self, start: u64, end: u64, records: u64) {
        let mut read = start;
        while size_of::<Shadow>() > 0 && read != end {
            let offset = read & (self.capacity - 1);
            // SAFETY: attached with this capacity, below which the offset is; nothing but a mark in
            // a model.
            unsafe { shadow(&self.endpoint, self.capacity, offset) }.read();
            read = read.wrapping_add(HEADER);
        }
        self.head = end;
        // A producer that has gone needs no further look: what it sent is still read.
        let _ = self.endpoint.publish(self.head);
        self.records = self.records.wrapping_add(records);
        self.endpoint.count_records(self.records);
    }

    #[cold]
    fn wait_for<R>(
        &mut self,
        timeout: Timeout,
        look: impl Fn(&mut Self) -> Result<R, TryRecvError>,
    ) -> Result<R, RecvError> {
        let deadline = Deadline::after(timeout);
        loop {
            match look(self) {
                Ok(found) => return Ok(found),
                Err(TryRecvError::Empty) => {}
                Err(error) => return Err(error.into()),
            }
            self.endpoint.wait_for_index(self.tail.get(), deadline)?;
        }
    }

    /// How many bytes were given back through this ring so far, headers and padding included, by
    /// this consumer and those before it, modulo 2^64. A successor that keeps its own count beside
    /// it learns whether the last record counts.
    pub fn position(&self) -> u64 {
        self.head
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

    /// Whether the producer is gone; records may still be there. By closing, or by the word
    /// of our peers, which is a system call.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open() || self.endpoint.peer_is_dead()
    }

    /// Takes nothing more: the producer is disconnected. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        self.endpoint.close();
        self.tail.set(self.head);
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
        self.tail.set(self.head); // the next look finds out in `reload_tail`
        self.endpoint.give_away()
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Consumer<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Consumer")
            .field("capacity", &self.capacity)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// A record in the ring. Read it, then [`release`](Self::release); dropping it leaves the
/// record where it is, to be peeked again.
#[must_use = "the record stays in the ring without release"]
pub struct Record<'a, M: Memory = Home, P: Peers = Home> {
    consumer: &'a mut Consumer<M, P>,
    start: u64,
    len: usize,
}

impl<M: Memory, P: Peers> Record<'_, M, P> {
    /// Copies the record, of a length checked once, out of the peer's reach.
    ///
    /// # Panics
    ///
    /// If `target` is not exactly as long as the record.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len, "target as long as the record");
        // SAFETY: source inside the ring by `find_record`, target a local slice of the same
        // length. A producer that cheats can only change which bytes we get: they are used
        // after the copy, and after the Release store in `release` the source is not read.
        unsafe {
            core::ptr::copy_nonoverlapping(self.payload(), target.as_mut_ptr(), self.len);
        }
    }

    /// Steps 8 and 9: gives the room back to the producer.
    #[inline]
    pub fn release(self) {
        let end = self.start.wrapping_add(record_size(self.len as u64));
        self.consumer.give_back(self.start, end, 1);
    }

    #[inline]
    fn payload(&self) -> *const u8 {
        // SAFETY: `find_record` checked that header and payload lie inside the ring.
        unsafe { self.consumer.payload(self.start) }
    }
}

impl<M: Memory, P: Peers> Deref for Record<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: in bounds by `find_record`; mapped memory is initialised; the producer does
        // not write a published record before it is given back (trusting).
        unsafe { core::slice::from_raw_parts(self.payload(), self.len) }
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Record<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Record")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
