//! What has gone through a single-writer ring, as anybody who can read it sees it.

use multiprocess_core::atomic::Ordering::{Acquire, Relaxed};

use crate::control::Control;

/// What has gone through a ring; read without a lock, so the numbers may be of slightly different
/// moments.
///
/// Most of it follows from the ring's two indices, so it costs nothing to keep. Producers and consumers
/// that took over go on with the counts of those before them. Trust: *guarded*; a hostile peer can
/// write any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Messages or records sent. Of `bytes`, each kill of a producer can leave one uncounted.
    pub sent: u64,
    /// Messages or records given back. Of `bytes`, each kill of a consumer can leave one uncounted.
    pub received: u64,
    /// Bytes of them; of `bytes`, with headers and padding.
    pub bytes_sent: u64,
    /// Bytes of them; of `bytes`, with headers and padding.
    pub bytes_received: u64,
    /// Most messages (of `bytes`, bytes) that an end has seen in the ring when it had to look how far
    /// the other one is: a full ring is always seen.
    pub high_water: u64,
    /// How often a producer went to sleep, for want of room.
    pub producer_waits: u64,
    /// How often a consumer went to sleep, for want of messages.
    pub consumer_waits: u64,
}

impl Statistics {
    /// Of a ring whose indices count messages of `size` bytes; `published` makes the tail out of the one
    /// that was told.
    pub(crate) fn of_messages(
        control: &Control,
        size: usize,
        published: impl Fn(u64) -> u64,
    ) -> Self {
        let size = size as u64;
        // The consumer first: it is never ahead of a producer that is read later.
        // Acquire pairs with the Release store in `store_index`.
        let received = control.consumer.progress.index.load(Acquire);
        let sent = published(control.producer.progress.index.load(Acquire));
        Self {
            sent,
            received,
            bytes_sent: sent.wrapping_mul(size),
            bytes_received: received.wrapping_mul(size),
            ..Self::of_ends(control)
        }
    }

    /// Of a ring whose indices count bytes.
    pub(crate) fn of_records(control: &Control) -> Self {
        let (producer, consumer) = (&control.producer, &control.consumer);
        // The consumer first: it is never ahead of a producer that is read later.
        let (given_back, records_out) = (
            consumer.progress.index.load(Relaxed),
            consumer.progress.records.load(Relaxed),
        );
        let (published, records_in) = (
            producer.progress.index.load(Relaxed),
            producer.progress.records.load(Relaxed),
        );
        Self {
            sent: records_in,
            received: records_out,
            bytes_sent: published,
            bytes_received: given_back,
            ..Self::of_ends(control)
        }
    }

    fn of_ends(control: &Control) -> Self {
        let (producer, consumer) = (&control.producer, &control.consumer);
        let high_water = producer.high_water.load(Relaxed);
        Self {
            high_water: high_water.max(consumer.high_water.load(Relaxed)),
            producer_waits: producer.waits.load(Relaxed),
            consumer_waits: consumer.waits.load(Relaxed),
            ..Self::default()
        }
    }
}
