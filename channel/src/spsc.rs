//! Ring of messages of one type, from one producer to one consumer. Algorithm: Lamport,
//! *Proving the Correctness of Multiprocess Programs* (1977), with cached indices as in rtrb, and
//! with the sign that a message is there beside the message, as in
//! FastForward (<https://doi.org/10.1145/1345206.1345215>).
//!
//! # Protocol
//!
//! Slots lie in frames, and each frame has a *sign* (`frames`). *push*: (1) if our cached head says full,
//! reload it; (2) write the slot at tail; (3) store tail + 1 in the sign of that slot's frame, which
//! publishes; (4) where a frame ends, or the consumer sleeps, store it as the tail; (5) wake the consumer
//! if it sleeps. *peek*: (6) if our cached tail says empty, load the sign of the frame at head; if that is
//! beyond head, it is the tail, and if it ends the frame, so is a later frame's sign that is beyond it; (7)
//! copy the slot at head. *release*: (8) store head + 1; (9) wake the producer if it sleeps. In batches:
//! several slots in steps 2 and 7, each other step once, and step 4 always; the sign is the one of the first
//! slot's frame.
//!
//! # Why the sign at head says it all
//!
//! A publication from `a` to `b` stores `b` in the sign of `a`'s frame. What the consumer knows as the
//! tail is the value of a sign, hence the end of a publication, and the beginning of the next one: it looks
//! where that one stores. Signs only grow, so what another lap has left in one is at most head.
//!
//! The tail of step 4 is the end of a publication, too, and all that came since began in its frame, or is one
//! batch: the sign of that frame is what is published. Who attaches, and who asks how much there is, looks there.
//!
//! # Ordering
//!
//! The Release store of step 3 pairs with the Acquire load of step 6: the message is seen
//! whole. The Release store of step 8 pairs with the Acquire load of step 1: the slot is not
//! overwritten while it is read.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | what a successor sees |
//! |---|---|---|
//! | 1, 2 | a slot half-written, not published | the slot is free |
//! | 3 | published, the tail behind, consumer perhaps asleep | message sent, the tail is where the sign says; see `waiter` for the wake |
//! | 4 | published, consumer perhaps asleep | message sent; see `waiter` for the wake |
//! | 5 to 7 | nothing | a peeked message is still there: at least once |
//! | 8 | given back, producer perhaps asleep | message gone, also if nobody processed it: at most once |
//!
//! Indices are 63 bits and do not wrap (292 years at 1 ns a message); one beyond is corrupt.

mod consumer;
mod frames;
mod producer;
mod ready;

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::NonNull;

use bytemuck::{AnyBitPattern, NoUninit};
use multiprocess_core::{
    AttachError, CreateError, LayoutHash, Memory, Peers, Place, Region, ShmSafe, View,
};

use self::frames::Frames;
use crate::control::{Control, Kind, VERSION};
use crate::endpoint::{Claim, Endpoint, Side, Start};
#[cfg(feature = "std")]
use crate::{ChannelError, Home, Housed};

pub use crate::Statistics;
pub use consumer::Consumer;
pub use producer::Producer;

/// What can be a message: plain data that means the same in every process.
///
/// Implemented for every type that is [`ShmSafe`] and, by bytemuck, `AnyBitPattern` (whatever
/// a peer writes is a valid value) and `NoUninit` (no byte of our stack leaks out).
pub trait Message: ShmSafe + AnyBitPattern + NoUninit {}

impl<T: ShmSafe + AnyBitPattern + NoUninit> Message for T {}

/// The largest index.
const MAX_INDEX: u64 = u64::MAX >> 1;

/// The shared state of a ring of `T`: control block (see the README) and frames of slots.
///
/// A [`Place`]: use it to put a ring into memory of your own; [`channel`] makes one in a
/// segment. The configuration is the capacity in messages, rounded up to a power of two.
///
/// # Examples
///
/// ```
/// use core::mem::MaybeUninit;
/// use multiprocess_channel::NoPeers;
/// use multiprocess_channel::spsc::{Consumer, Producer, Ring};
/// use multiprocess_core::{Place, Region};
///
/// #[repr(align(128))]
/// struct Memory([MaybeUninit<u8>; 4096]);
///
/// let mut memory = Memory([MaybeUninit::uninit(); 4096]);
/// let region = Region::from_uninit(&mut memory.0);
/// // SAFETY: the array is ours, nobody else uses it.
/// unsafe { Ring::<u64>::init(region, &16)? };
/// let mut producer = Producer::<u64, _, _>::attach(region, NoPeers)?;
/// let mut consumer = Consumer::<u64, _, _>::attach(region, NoPeers)?;
/// producer.try_push(7)?;
/// assert_eq!(consumer.try_pop(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ring<T> {
    message: PhantomData<T>,
}

impl<T: Message> Ring<T> {
    pub(crate) const KIND: Kind = Kind {
        number: 1,
        layout: LayoutHash::of("spsc in frames")
            .mix(VERSION as u64)
            .mix(size_of::<T>() as u64)
            .mix(align_of::<T>() as u64)
            .mix(T::LAYOUT.bits()),
        unit: Frames::<T>::LAYOUT,
        per_unit: Frames::<T>::COUNT,
        max_index: MAX_INDEX,
        step: 1,
        min_capacity: 1,
        shadow: 0,
    };

    const FITS: () = assert!(
        align_of::<T>() <= 128,
        "a message is aligned to 128 bytes at most"
    );
}

// SAFETY: `attach` validates the control block against the region's own length, and reads the
// capacity it returns once.
unsafe impl<T: Message> Place for Ring<T> {
    type Config = u64;

    const LAYOUT: LayoutHash = Self::KIND.layout;

    fn layout(capacity: &u64) -> Result<Layout, CreateError> {
        const { Self::FITS };
        Self::KIND.layout(Self::KIND.capacity(*capacity)?)
    }

    unsafe fn init(region: Region<'_>, capacity: &u64) -> Result<(), CreateError> {
        const { Self::FITS };
        // SAFETY: the caller vouches that nobody else uses the bytes.
        unsafe { Self::KIND.init(region, *capacity)? };
        let capacity = Self::KIND.capacity(*capacity)?;
        // SAFETY: `init` above checked the region for the control block and that many frames; the
        // caller vouches as before.
        unsafe { Frames::<T>::new(body(region.base()), capacity).init() };
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<u64, AttachError> {
        Self::KIND.validate(region.into())
    }
}

/// What lies behind the control block.
///
/// # Safety
///
/// There must be one at `base`.
unsafe fn body(base: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: by the word of the caller.
    unsafe { base.add(size_of::<Control>()) }
}

/// An end that was claimed.
struct Attached<T, S: Side, M: Memory, P: Peers> {
    endpoint: Endpoint<S, M, P>,
    start: Start,
    frames: Frames<T>,
}

/// Claims an end of the ring in `memory`.
fn attach<T: Message, S: Side, M: Memory, P: Peers>(
    memory: M,
    peers: P,
    claim: &Claim,
) -> Result<Attached<T, S, M, P>, AttachError> {
    let kind = &Ring::<T>::KIND;
    let (endpoint, start) =
        Endpoint::attach(memory, peers, kind, claim, |body, capacity, tail| {
            // SAFETY: the region was checked for frames for that capacity, and is there during this call.
            unsafe { Frames::<T>::new(body, capacity) }.published(tail)
        })?;
    // SAFETY: as above; the frames are kept beside the endpoint, and it keeps the memory.
    let frames = unsafe { Frames::new(endpoint.body(), start.capacity) };
    Ok(Attached {
        endpoint,
        start,
        frames,
    })
}

fn statistics<T: Message>(control: &Control, frames: &Frames<T>) -> Statistics {
    Statistics::of_messages(control, size_of::<T>(), |tail| frames.published(tail))
}

impl<T: Message> Ring<T> {
    /// What has gone through the ring in `view`, which may be mapped for reading only.
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess_channel::{Home, spsc};
    ///
    /// let (mut producer, consumer) = spsc::channel::<u64>(64)?;
    /// producer.push(7)?;
    /// let file = consumer.memory().read_only()?;      // goes to a monitor
    /// let there = Home::attach_read_only::<spsc::Ring<u64>>(file)?;
    /// let statistics = spsc::Ring::<u64>::statistics(there.payload())?;
    /// assert_eq!((statistics.sent, statistics.received), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AttachError`], for whatever is wrong with the bytes.
    pub fn statistics<'a>(view: impl Into<View<'a>>) -> Result<Statistics, AttachError> {
        let view = view.into();
        let capacity = Self::KIND.validate(view)?;
        let control = Control::of(view)?;
        // SAFETY: the view was checked for a control block and frames for that capacity; of those only
        // the signs are looked at.
        let frames = unsafe { Frames::<T>::new(body(view.base()), capacity) };
        Ok(statistics(control, &frames))
    }
}

#[cfg(feature = "std")]
impl<T: Message> Housed for Ring<T> {
    /// Two ends, and processes that have one for a while as it travels.
    fn participants(_: &u64) -> u32 {
        crate::home::OF_TWO_ENDS
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own.
///
/// Both ends can be moved to another thread, or sent to another process inside a message
/// (feature `serde`); an end that was sent is closed to its sender. Each learns of the other's death.
///
/// # Examples
///
/// ```
/// let (mut producer, mut consumer) = multiprocess_channel::spsc::channel::<u64>(64)?;
/// std::thread::spawn(move || producer.push(7));
/// assert_eq!(consumer.pop(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 messages.
#[cfg(feature = "std")]
pub fn channel<T: Message>(capacity: u64) -> Result<(Producer<T>, Consumer<T>), ChannelError> {
    let home = Home::create::<Ring<T>>(&capacity)?;
    Ok((
        Producer::attach(home.clone(), home.clone())?,
        Consumer::attach(home.clone(), home)?,
    ))
}
