//! Ring of records of any size, written and read in place, from one producer to one consumer.
//! Algorithm: Lamport's ring over bytes, with a padding record at the end of the ring as in
//! BipBuffer and Aeron's `OneToOneRingBuffer`
//! (<https://github.com/aeron-io/agrona>, class documentation).
//!
//! # Layout
//!
//! Behind the control block (see the README) lie `capacity` bytes. A record starts at a
//! multiple of 8: `len: u32 | flags: u32`, then `len` bytes, then padding to a multiple of 8.
//! Flag bit 0 marks padding that reaches to the end of the ring. A record never wraps.
//!
//! # Protocol
//!
//! *reserve*: (1) if our cached head leaves too little room, reload it; (2) if the record
//! would wrap, write a padding header. Nothing is published. *commit*: (3) write the record's
//! header; (4) store tail past padding and record; (5) wake. *peek*: (6) if our cached tail
//! says empty, reload it; (7) read the header once and check it; skip padding. *release*: (8)
//! store head past the record; (9) wake. In batches: several records in steps 1 to 3, and in step 7, each
//! other step once.
//!
//! # Ordering
//!
//! Step 4 (Release) pairs with step 6 (Acquire): header and bytes are seen whole. Step 8
//! (Release) pairs with step 1 (Acquire): bytes are not overwritten while they are read.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | what a successor sees |
//! |---|---|---|
//! | 1 to 3 | bytes half-written, not published | free room |
//! | 4 | published, consumer perhaps asleep | record sent; see `waiter` for the wake |
//! | 5 to 7 | nothing | a peeked record is still there: at least once |
//! | 8 | given back, producer perhaps asleep | record gone |

mod consumer;
mod producer;
mod ready;
mod records;

use core::alloc::Layout;

use multiprocess_core::atomic::Shadow;
use multiprocess_core::{
    AttachError, CreateError, LayoutHash, Memory, Peers, Place, Region, View, copy,
};

use crate::control::{Control, Kind, VERSION};
use crate::endpoint::{Endpoint, Side};
#[cfg(feature = "std")]
use crate::{ChannelError, Home, Housed};

pub use crate::Statistics;
pub use consumer::{Consumer, Record};
pub use producer::{Grant, Producer};
pub use records::Records;

/// Bytes of a record's header, and the alignment of records.
const HEADER: u64 = 8;
const PADDING: u32 = 1;

/// The shared state of a byte ring: control block (see the README) and bytes.
///
/// A [`Place`]: use it to put a ring into memory of your own; [`channel`] makes one in a
/// segment. The configuration is the capacity in bytes, rounded up to a power of two, at
/// least 64. A record takes 8 bytes more than its length, rounded up to a multiple of 8.
#[derive(Debug)]
pub struct Ring {
    _private: (),
}

impl Ring {
    pub(crate) const KIND: Kind = Kind {
        number: 2,
        layout: LayoutHash::of("bytes").mix(VERSION as u64),
        unit: Layout::new::<u8>(),
        per_unit: 1,
        max_index: u64::MAX,
        step: HEADER,
        min_capacity: 64,
        shadow: size_of::<Shadow>(),
    };
}

// SAFETY: `attach` validates the control block against the region's own length, and reads the
// capacity it returns once.
unsafe impl Place for Ring {
    type Config = u64;

    const LAYOUT: LayoutHash = Self::KIND.layout;

    fn layout(capacity: &u64) -> Result<Layout, CreateError> {
        Self::KIND.layout(Self::KIND.capacity(*capacity)?)
    }

    unsafe fn init(region: Region<'_>, capacity: &u64) -> Result<(), CreateError> {
        // SAFETY: the caller vouches that nobody else uses the bytes.
        unsafe { Self::KIND.init(region, *capacity)? };
        let capacity = Self::KIND.capacity(*capacity)?;
        if size_of::<Shadow>() > 0 {
            // SAFETY: `init` checked the region for the bytes and one mark per eight of them.
            unsafe {
                let marks = region.base().add(size_of::<Control>() + capacity as usize);
                for unit in 0..(capacity / HEADER) as usize {
                    marks.cast::<Shadow>().add(unit).write(Shadow::new());
                }
            }
        }
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<u64, AttachError> {
        Self::KIND.validate(region.into())
    }
}

impl Ring {
    /// What has gone through the ring in `view`, which may be mapped for reading only.
    ///
    /// # Errors
    ///
    /// [`AttachError`], for whatever is wrong with the bytes.
    pub fn statistics<'a>(view: impl Into<View<'a>>) -> Result<Statistics, AttachError> {
        let view = view.into();
        Self::KIND.validate(view)?;
        Ok(Statistics::of_records(Control::of(view)?))
    }
}

#[cfg(feature = "std")]
impl Housed for Ring {
    /// Two ends, and processes that have one for a while as it travels.
    fn participants(_: &u64) -> u32 {
        crate::home::OF_TWO_ENDS
    }
}

/// Makes a byte ring of at least `capacity` bytes in a nameless segment of its own.
///
/// Records may be up to half the capacity long, less 8 bytes. Both ends can be moved to
/// another thread, or sent to another process inside a message (feature `serde`); an end that
/// was sent is closed to its sender. Each learns of the other's death.
///
/// # Examples
///
/// ```
/// let (mut producer, mut consumer) = multiprocess_channel::bytes::channel(4096)?;
/// producer.push(b"hello")?;
/// let record = consumer.peek()?;
/// assert_eq!(&*record, b"hello");
/// record.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 bytes.
#[cfg(feature = "std")]
pub fn channel(capacity: u64) -> Result<(Producer, Consumer), ChannelError> {
    let home = Home::create::<Ring>(&capacity)?;
    Ok((
        Producer::attach(home.clone(), home.clone())?,
        Consumer::attach(home.clone(), home)?,
    ))
}

/// Bytes of a record with `len` bytes of payload, header and padding included.
fn record_size(len: u64) -> u64 {
    HEADER + len.next_multiple_of(HEADER)
}

/// The header of the record at `index`.
///
/// # Safety
///
/// `capacity` must be the one the endpoint's memory was checked for.
#[inline]
unsafe fn read_header<S: Side, M: Memory, P: Peers>(
    endpoint: &Endpoint<S, M, P>,
    capacity: u64,
    index: u64,
) -> (u64, u32) {
    let offset = index & (capacity - 1);
    // SAFETY: indices are multiples of 8 and so is the capacity, so the 8 bytes at `offset`
    // are inside the ring and aligned; relaxed atomics, whatever a peer does meanwhile.
    let word = unsafe {
        shadow(endpoint, capacity, offset).read();
        copy::load::<u64>(endpoint.body().add(offset as usize).cast().as_ptr())
    };
    (word & 0xffff_ffff, (word >> 32) as u32)
}

/// Writes the header of the record at `index`.
///
/// # Safety
///
/// As [`read_header`], and the 8 bytes must belong to the producer.
#[inline]
unsafe fn write_header<S: Side, M: Memory, P: Peers>(
    endpoint: &Endpoint<S, M, P>,
    capacity: u64,
    index: u64,
    len: u64,
    flags: u32,
) {
    let offset = index & (capacity - 1);
    // SAFETY: as in `read_header`.
    unsafe {
        shadow(endpoint, capacity, offset).write();
        let place = endpoint.body().add(offset as usize).cast::<u64>();
        copy::store(place.as_ptr(), len | u64::from(flags) << 32);
    }
}

/// The model's mark for the eight bytes at `offset`.
///
/// # Safety
///
/// As [`read_header`]; `offset < capacity`.
unsafe fn shadow<S: Side, M: Memory, P: Peers>(
    endpoint: &Endpoint<S, M, P>,
    capacity: u64,
    offset: u64,
) -> &Shadow {
    // SAFETY: the ring was initialised with one mark for each eight bytes behind its bytes;
    // in a real build a mark has no size, and any aligned address inside the ring will do.
    unsafe {
        let marks = endpoint.body().add(capacity as usize).cast::<Shadow>();
        marks.add((offset / HEADER) as usize).as_ref()
    }
}
