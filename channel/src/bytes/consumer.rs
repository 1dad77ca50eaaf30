//! The receiving end.

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use multiprocess_core::{AttachError, Deadline, Memory, Timeout};
use multiprocess_shm::Segment;

use super::{HEADER, PADDING, Ring, read_header, record_size, shadow};
use crate::endpoint::{Claim, ConsumerSide, Endpoint};
use crate::waiter::GaveUp;
use crate::{PopIntoError, RecvError, TryRecvError};

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
/// consumer costs the producer at most 1 s. A successor [takes over](Self::take_over). Trust:
/// *guarded*: every index and length is checked; a [`Record`] seen as a slice is *trusting*:
/// it assumes that the producer does not write into it. [`try_pop_into`](Self::try_pop_into)
/// copies and is *guarded* to the end.
///
/// # Fork
///
/// A child that uses its parent's consumer makes two consumers of one: do not.
pub struct Consumer<M: Memory = Segment> {
    endpoint: Endpoint<ConsumerSide, M>,
    capacity: u64,
    /// Our index: where the next record starts.
    head: u64,
    /// The producer's index as we last saw it; `head` itself once we must not read.
    tail: Cell<u64>,
}

// SAFETY: everything lies in the endpoint, which is Send if its memory is; `Cell` is Send.
unsafe impl<M: Memory + Send> Send for Consumer<M> {}

impl<M: Memory> Consumer<M> {
    /// Claims the free receiving end of the ring in `memory`.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has had a consumer; whatever is wrong with the
    /// bytes.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::First)
    }

    /// Becomes the consumer in place of one that died, at the first record it had not given
    /// back.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former consumer's death (a readable pidfd, a reaped
    /// child): stopped is not dead, and two consumers get each other's records.
    pub unsafe fn take_over(memory: M) -> Result<Self, AttachError> {
        Self::claim(memory, &Claim::Inherited)
    }

    pub(crate) fn claim(memory: M, claim: &Claim) -> Result<Self, AttachError> {
        let (endpoint, capacity, head) = Endpoint::attach(memory, &Ring::KIND, claim)?;
        Ok(Self {
            endpoint,
            capacity,
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
    pub fn try_peek(&mut self) -> Result<Record<'_, M>, TryRecvError> {
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
    pub fn peek(&mut self) -> Result<Record<'_, M>, RecvError> {
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
    ) -> Result<Record<'_, M>, RecvError> {
        let (start, len) = match self.find_record() {
            Ok(found) => found,
            Err(TryRecvError::Empty) => self.wait_for_record(timeout.into())?,
            Err(TryRecvError::Disconnected) => return Err(RecvError::Disconnected),
            Err(TryRecvError::Corrupt) => return Err(RecvError::Corrupt),
        };
        Ok(Record {
            consumer: self,
            start,
            len,
        })
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
            // Not zero, a multiple of 8 and at most the capacity: `reload_tail` saw to it.
            let there = self.tail.get().wrapping_sub(start);
            let to_end = self.capacity - (start & (self.capacity - 1));
            // SAFETY: attached with this capacity; `start` is a multiple of 8.
            let (len, flags) = unsafe { read_header(&self.endpoint, self.capacity, start) };
            let size = record_size(len);
            if size > there || size > to_end || flags & !PADDING != 0 {
                return Err(TryRecvError::Corrupt);
            }
            if flags & PADDING == 0 {
                return Ok((start, len as usize));
            }
            if size != to_end {
                return Err(TryRecvError::Corrupt);
            }
            start = start.wrapping_add(size);
        }
        Err(TryRecvError::Corrupt)
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
        self.tail.set(tail);
        Ok(())
    }

    #[cold]
    fn wait_for_record(&mut self, timeout: Timeout) -> Result<(u64, usize), RecvError> {
        let deadline = Deadline::after(timeout);
        loop {
            match self.find_record() {
                Ok(found) => return Ok(found),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(RecvError::Disconnected),
                Err(TryRecvError::Corrupt) => return Err(RecvError::Corrupt),
            }
            match self.endpoint.wait_for_peer(self.tail.get(), deadline) {
                Ok(()) => {}
                Err(GaveUp::Timeout) => return Err(RecvError::Timeout),
                Err(GaveUp::System(errno)) => return Err(RecvError::System(errno)),
            }
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

    /// Whether the producer is gone; records may still be there. Its death by a kill is not
    /// seen here.
    pub fn is_disconnected(&self) -> bool {
        self.endpoint.peer_is_gone() || !self.endpoint.is_open()
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

impl<M: Memory> fmt::Debug for Consumer<M> {
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
pub struct Record<'a, M: Memory = Segment> {
    consumer: &'a mut Consumer<M>,
    start: u64,
    len: usize,
}

impl<M: Memory> Record<'_, M> {
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
        let Consumer {
            endpoint,
            capacity,
            head,
            ..
        } = self.consumer;
        let size = record_size(self.len as u64);
        // SAFETY: as in `find_record`; nothing but a mark in a model.
        unsafe {
            let offset = self.start & (*capacity - 1);
            for unit in 1..size / HEADER {
                shadow(endpoint, *capacity, offset + unit * HEADER).read();
            }
        }
        *head = self.start.wrapping_add(size);
        // A producer that has gone needs no further look: what it sent is still read.
        let _ = endpoint.publish(*head);
    }

    #[inline]
    fn payload(&self) -> *const u8 {
        let consumer = &*self.consumer;
        let offset = (self.start & (consumer.capacity - 1)) + HEADER;
        // SAFETY: `find_record` checked that header and payload lie inside the ring.
        unsafe { consumer.endpoint.body().add(offset as usize).as_ptr() }
    }
}

impl<M: Memory> Deref for Record<'_, M> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: in bounds by `find_record`; mapped memory is initialised; the producer does
        // not write a published record before it is given back (trusting).
        unsafe { core::slice::from_raw_parts(self.payload(), self.len) }
    }
}

impl<M: Memory> fmt::Debug for Record<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Record")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
