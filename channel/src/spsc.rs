//! Ring of messages of one type, from one producer to one consumer. Algorithm: Lamport,
//! *Proving the Correctness of Multiprocess Programs* (1977), with cached indices as in
//! FastForward (<https://doi.org/10.1145/1345206.1345215>) and in rtrb.
//!
//! # Protocol
//!
//! *push*: (1) if our cached head says full, reload it; (2) write slot `tail mod capacity`;
//! (3) store tail + 1; (4) wake the consumer if it sleeps. *peek*: (5) if our cached tail says
//! empty, reload it; (6) copy slot `head mod capacity`. *release*: (7) store head + 1; (8)
//! wake the producer if it sleeps. In batches: several slots in steps 2 and 6, each other step once.
//!
//! # Ordering
//!
//! The Release store of step 3 pairs with the Acquire load of step 5: the message is seen
//! whole. The Release store of step 7 pairs with the Acquire load of step 1: the slot is not
//! overwritten while it is read.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | what a successor sees |
//! |---|---|---|
//! | 1, 2 | a slot half-written, not published | the slot is free |
//! | 3 | published, consumer perhaps asleep | message sent; see `waiter` for the wake |
//! | 4 to 6 | nothing | a peeked message is still there: at least once |
//! | 7 | given back, producer perhaps asleep | message gone, also if nobody processed it: at most once |
//!
//! No index is written by two processes, so nothing is ever repaired. Indices are 64 bits and
//! never wrap in practice (58 years at 10 ns a message); the arithmetic is modulo 2^64 anyway.

mod consumer;
mod producer;
mod ready;

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use bytemuck::{AnyBitPattern, NoUninit};
use multiprocess_core::atomic::UnsafeCell;
use multiprocess_core::{AttachError, CreateError, LayoutHash, Place, Region, ShmSafe, View};

use crate::control::{Control, Kind, VERSION};
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

/// A slot. Accessed by the producer while it is free and by the consumer while it is full.
type Slot<T> = UnsafeCell<MaybeUninit<T>>;

/// The shared state of a ring of `T`: control block (see the README) and slots.
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
        layout: LayoutHash::of("spsc")
            .mix(VERSION as u64)
            .mix(size_of::<T>() as u64)
            .mix(align_of::<T>() as u64)
            .mix(T::LAYOUT.bits()),
        unit: Layout::new::<Slot<T>>(),
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
        // Slots of a real build need no initialisation; those of a model do.
        if core::mem::needs_drop::<Slot<T>>() || size_of::<Slot<T>>() != size_of::<T>() {
            let slots = slots::<T>(region);
            for i in 0..Self::KIND.capacity(*capacity)? as usize {
                // SAFETY: `init` above checked the region for that many slots.
                unsafe { slots.add(i).write(Slot::<T>::new(MaybeUninit::zeroed())) };
            }
        }
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<u64, AttachError> {
        Self::KIND.validate(region.into())
    }
}

/// The slots of a ring in a region that holds one.
fn slots<T>(region: Region<'_>) -> NonNull<Slot<T>> {
    // SAFETY: callers have checked the region for a control block at least.
    unsafe { region.base().add(size_of::<Control>()) }.cast()
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
        Self::KIND.validate(view)?;
        let size = size_of::<T>() as u64;
        Ok(Statistics::of(Control::of(view)?, Some(size)))
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
