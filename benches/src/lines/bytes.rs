//! `bytes/4KiB`, `bytes/64KiB`: records copied in by one process and out by another, against a
//! memcpy in and a memcpy out.
//!
//! The floor is what any ring that copies twice can reach: two processes on the same two CPUs,
//! the same private buffers, the same number of records in flight, the same memcpy of the same
//! size into and out of shared memory, handed over by two bare counters. A memcpy loop of one
//! process would not do: it neither moves bytes between caches nor overlaps the two copies.

use std::hint::spin_loop;
use std::time::Duration;

use multiprocess_channel::NoPeers;
use multiprocess_channel::bytes::{Consumer, Producer, Ring};
use multiprocess_core::Place;

use crate::clock::nanos_per_operation;
use crate::comparison::{Comparison, Contender, Failure, Measured, Pair, Unit};
use crate::stage::Stage;

pub(crate) const FOUR_KIB: Comparison = line::<4096, { 256 << 10 }>("bytes/4KiB");
pub(crate) const SIXTY_FOUR_KIB: Comparison = line::<65536, { 1 << 20 }>("bytes/64KiB");

/// Records of `LEN` bytes through a ring of `RING` bytes.
const fn line<const LEN: usize, const RING: usize>(name: &'static str) -> Comparison {
    Comparison {
        name,
        unit: Unit::GigabytesPerSecond,
        bar: 0.85,
        ours: Contender::Pair(Pair {
            bytes: 2 * RING,
            near: near::<LEN, RING>,
            far: far::<LEN, RING>,
        }),
        peer: Contender::Pair(Pair {
            bytes: 2 * RING,
            near: memcpy::near::<LEN, RING>,
            far: memcpy::far::<LEN, RING>,
        }),
    }
}

const SPAN: Duration = Duration::from_millis(50);

/// What is copied from, or to.
#[repr(align(4096))]
struct Private<const LEN: usize>([u8; LEN]);

impl<const LEN: usize> Private<LEN> {
    fn filled_with(byte: u8) -> Box<Self> {
        Box::new(Self([byte; LEN]))
    }
}

/// Takes records until [`SPAN`] is over and checks them; gigabytes per second.
#[inline(always)]
fn drain<const LEN: usize, const RING: usize>(
    mut take: impl FnMut(&mut [u8; LEN]) -> bool,
) -> Measured {
    // Eight rings to a chunk.
    let records = 8 * RING / LEN;
    let mut target = Private::<LEN>::filled_with(0);
    let mut good = true;
    let nanos = nanos_per_operation(SPAN, records, || {
        for _ in 0..records {
            while !take(&mut target.0) {
                spin_loop();
            }
            good &= target.0[0] == FILLING && target.0[LEN - 1] == FILLING;
        }
    });
    if good {
        Ok(LEN as f64 / nanos)
    } else {
        Err("a record is not what was sent".into())
    }
}

/// Gives records until the near process has seen enough.
#[inline(always)]
fn feed<const LEN: usize>(stage: &Stage, mut give: impl FnMut(&[u8; LEN]) -> bool) {
    let source = Private::<LEN>::filled_with(FILLING);
    loop {
        if !give(std::hint::black_box(&source.0)) {
            if stage.is_stopped() {
                return;
            }
            spin_loop();
        }
    }
}

const FILLING: u8 = 0xa5;

fn near<const LEN: usize, const RING: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::layout(&(RING as u64))?);
    // SAFETY: the far process does not touch the ring before we have met.
    unsafe { Ring::init(region, &(RING as u64))? };
    let mut consumer = Consumer::attach(region, NoPeers)?;
    stage.meet();
    let measured = drain::<LEN, RING>(|target| match consumer.try_peek() {
        Ok(record) => {
            record.copy_to(target);
            record.release();
            true
        }
        Err(_) => false,
    });
    stage.stop();
    measured
}

fn far<const LEN: usize, const RING: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::layout(&(RING as u64))?);
    stage.meet();
    let mut producer = Producer::attach(region, NoPeers)?;
    feed::<LEN>(stage, |source| match producer.try_reserve(LEN) {
        Ok(mut grant) => {
            grant.copy_from_slice(source);
            grant.commit(LEN);
            true
        }
        Err(_) => false,
    });
    Ok(())
}

/// The floor.
mod memcpy {
    use std::alloc::Layout;
    use std::ptr::NonNull;

    use multiprocess_core::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    };
    use multiprocess_core::{CachePadded, ShmSafe};

    use super::{Failure, Measured, Stage, drain, feed};

    #[derive(ShmSafe)]
    #[repr(C)]
    struct Counters {
        /// Records copied in; far process.
        filled: CachePadded<AtomicU64>,
        /// Records copied out; near process.
        emptied: CachePadded<AtomicU64>,
    }

    struct Slots<'a, const LEN: usize> {
        counters: &'a Counters,
        first: NonNull<u8>,
        count: u64,
    }

    impl<'a, const LEN: usize> Slots<'a, LEN> {
        /// As many as ours has records in flight: with 8 bytes of header each.
        fn carve<const RING: usize>(stage: &'a Stage) -> Result<Self, Failure> {
            let count = RING / (LEN + 8);
            Ok(Self {
                counters: stage.share(),
                first: stage
                    .carve(Layout::from_size_align(count * LEN, 4096)?)
                    .base(),
                count: count as u64,
            })
        }

        /// Slots 0, 1, ... , count - 1, 0, ... without a division.
        fn in_turn(&self) -> impl FnMut() -> *mut u8 {
            let (first, size) = (self.first, self.count as usize * LEN);
            let mut next = 0;
            move || {
                let offset = next;
                next = if offset + LEN == size {
                    0
                } else {
                    offset + LEN
                };
                // SAFETY: a multiple of LEN below `count * LEN`, the size of the piece.
                unsafe { first.add(offset).as_ptr() }
            }
        }
    }

    pub(super) fn near<const LEN: usize, const RING: usize>(stage: &Stage) -> Measured {
        let slots = Slots::<LEN>::carve::<RING>(stage)?;
        stage.meet();
        let mut next_slot = slots.in_turn();
        let (mut emptied, mut seen) = (0, 0);
        let measured = drain::<LEN, RING>(|target| {
            if emptied == seen {
                seen = slots.counters.filled.load(Acquire);
                if emptied == seen {
                    return false;
                }
            }
            // SAFETY: a slot of LEN bytes that the far process has filled and does not touch
            // before `emptied` has passed it; the target is ours.
            unsafe {
                target
                    .as_mut_ptr()
                    .copy_from_nonoverlapping(next_slot(), LEN);
            }
            emptied += 1;
            slots.counters.emptied.store(emptied, Release);
            true
        });
        stage.stop();
        measured
    }

    pub(super) fn far<const LEN: usize, const RING: usize>(stage: &Stage) -> Result<(), Failure> {
        let slots = Slots::<LEN>::carve::<RING>(stage)?;
        stage.meet();
        let mut next_slot = slots.in_turn();
        let (mut filled, mut seen) = (0, 0);
        feed::<LEN>(stage, |source| {
            if filled - seen == slots.count {
                seen = slots.counters.emptied.load(Acquire);
                if filled - seen == slots.count {
                    return false;
                }
            }
            // SAFETY: a slot of LEN bytes that the near process has emptied, or never looked
            // at, and does not look at before `filled` has passed it.
            unsafe {
                next_slot().copy_from_nonoverlapping(source.as_ptr(), LEN);
            }
            filled += 1;
            slots.counters.filled.store(filled, Release);
            true
        });
        Ok(())
    }
}
