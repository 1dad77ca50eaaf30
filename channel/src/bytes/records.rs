//! All records that were there at one look.

use core::fmt;

use multiprocess_core::{Memory, Peers};

use super::{Consumer, record_size};
use crate::Home;

/// The records that were in the ring, in order. Read them, then [`release`](Self::release) all;
/// dropping it leaves them where they are, to be peeked again.
///
/// # Examples
///
/// ```
/// let (mut producer, mut consumer) = multiprocess_channel::bytes::channel(4096)?;
/// producer.try_push_all(&[b"one", b"two"])?;
/// let records = consumer.peek_all()?;
/// assert!(records.iter().eq([b"one", b"two"]));
/// records.release();
/// assert!(consumer.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// Killed before the release: a successor gets all of them again. Trust: each header was checked, and
/// is once more when it is come to: at one that a cheating producer has changed meanwhile the iterator
/// ends. The slices are *trusting*: they assume that the producer does not write into them.
#[must_use = "the records stay in the ring without release"]
pub struct Records<'a, M: Memory = Home, P: Peers = Home> {
    consumer: &'a mut Consumer<M, P>,
    start: u64,
    end: u64,
    count: usize,
}

impl<'a, M: Memory, P: Peers> Records<'a, M, P> {
    pub(super) fn new(consumer: &'a mut Consumer<M, P>, end: u64, count: usize) -> Self {
        Self {
            start: consumer.position(),
            consumer,
            end,
            count,
        }
    }

    /// How many there are: one at least.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let mut at = self.start;
        let mut next = move || {
            if at == self.end {
                return None;
            }
            let (len, is_padding) = self.consumer.read_record(at, self.end).ok()?;
            let start = at;
            at = at.wrapping_add(record_size(len as u64));
            if is_padding {
                return Some(None);
            }
            // SAFETY: `read_record` has just said that the record fits, by a header that is not read
            // again; mapped memory is initialised; the producer does not write a published record
            // before it is given back (trusting), which takes `self`.
            let record = unsafe {
                let payload = self.consumer.payload(start);
                core::slice::from_raw_parts(payload, len)
            };
            Some(Some(record))
        };
        // Padding once at most, then a record.
        core::iter::from_fn(move || match next() {
            Some(None) => next().flatten(),
            other => other.flatten(),
        })
    }

    /// Steps 8 and 9, once for all of them.
    pub fn release(self) {
        self.consumer
            .give_back(self.start, self.end, self.count as u64);
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Records<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bytes::Records")
            .field("len", &self.count)
            .finish_non_exhaustive()
    }
}
