//! The state in shared memory, and where its parts lie.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::NonNull;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use multiprocess_core::copy::RacyCell;
use multiprocess_core::{AttachError, CachePadded, CreateError, LayoutHash, Place, Region, View};

use super::bell::Bell;
use super::{Config, MAX_READERS, Ring};
use crate::control::{Bound, Header, MAX_CAPACITY, VERSION};
use crate::spsc::Message;

const KIND: u32 = 4;

/// Fields beside the common header that never change after init.
#[repr(C)]
struct Fixed {
    header: Header,
    readers: AtomicU32,
    reserved: AtomicU32,
    first: AtomicU64,
    bound: Bound,
}

/// What the sender writes rarely, and looks at after each message.
#[repr(C)]
pub(super) struct Door {
    /// Who the sender is; see `role.rs`.
    pub(super) role: AtomicU64,
    /// Where receivers sleep. Armed by them, rung by the sender.
    pub(super) receivers: Bell,
}

/// What the sender sleeps at.
#[repr(C)]
pub(super) struct Room {
    /// Armed by the sender, rung by lossless receivers.
    pub(super) bell: Bell,
    reserved: AtomicU32,
    /// Lossless receivers that were dropped. By whoever drops one.
    pub(super) dropped: AtomicU64,
}

/// The first 0x200 bytes; see the README for who writes what.
#[repr(C)]
pub(super) struct Control {
    fixed: CachePadded<Fixed>,
    /// Messages ever sent. By the sender.
    pub(super) tail: CachePadded<AtomicU64>,
    pub(super) door: CachePadded<Door>,
    pub(super) room: CachePadded<Room>,
}

/// A lossless receiver's place at the ring. The word by CAS, see its table; the cursor by the owner.
#[repr(C, align(128))]
pub(super) struct Seat {
    pub(super) word: AtomicU64,
    /// The message that its owner reads next.
    pub(super) cursor: AtomicU64,
}

// | sequence of a slot, for message t | meaning | who enters | who leaves |
// |---|---|---|---|
// | less than 2t + 1 | not written yet | | sender (2) |
// | 2t + 1 | being written | sender (2) | sender (4); a successor does not: it is the same message's |
// | 2t + 2 | there | sender (4) | sender, with message t + capacity (2) |
/// A slot: its sequence, and the message beside it. By the sender.
#[repr(C)]
pub(super) struct Slot<T> {
    pub(super) sequence: AtomicU64,
    pub(super) message: RacyCell<T>,
}

/// Bytes from one slot to the next: as in `mpmc`.
const fn stride<T>() -> usize {
    let (size, align) = (size_of::<Slot<T>>(), align_of::<Slot<T>>());
    let stride = if size <= 64 {
        size.next_power_of_two()
    } else {
        size
    };
    stride.next_multiple_of(align)
}

#[cfg(not(loom))]
mod asserted {
    use super::{Control, Door, Fixed, Room, Seat, Slot, stride};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Control>(), 0x200);
    const_assert_eq!(offset_of!(Fixed, readers), 0x20);
    const_assert_eq!(offset_of!(Fixed, first), 0x28);
    const_assert_eq!(offset_of!(Fixed, bound), 0x30);
    const_assert_eq!(offset_of!(Control, tail), 0x080);
    const_assert_eq!(offset_of!(Control, door), 0x100);
    const_assert_eq!(offset_of!(Door, receivers), 0x08);
    const_assert_eq!(offset_of!(Control, room), 0x180);
    const_assert_eq!(offset_of!(Room, dropped), 0x08);
    const_assert_eq!(size_of::<Seat>(), 128);
    const_assert_eq!(offset_of!(Seat, cursor), 8);
    const_assert_eq!(offset_of!(Slot<u64>, message), 8);
    const_assert_eq!(stride::<u64>(), 16);
    const_assert_eq!(stride::<[u64; 7]>(), 64);
    const_assert_eq!(stride::<[u64; 8]>(), 72);
}

/// The sequence of a slot in which message `number` is there; one less while it is written.
#[inline(always)]
pub(super) fn there(number: u64) -> u64 {
    number.wrapping_mul(2).wrapping_add(2)
}

/// What a look at a slot has found.
pub(super) enum Found<T> {
    Message(T),
    NotYet,
    /// A later message, or one that came while we copied: the sequence.
    Overtaken(u64),
}

/// Where the parts of a ring lie that was found good.
pub(super) struct Parts<T> {
    control: NonNull<Control>,
    seats: NonNull<Seat>,
    slots: NonNull<u8>,
    /// Slots; a power of two, and at least 2.
    pub(super) capacity: u64,
    /// Seats.
    pub(super) readers: u32,
    /// The number of the first message ever.
    pub(super) first: u64,
    message: PhantomData<T>,
}

impl<T: Message> Parts<T> {
    /// The parts of the ring in `view`, which is checked for `config`. Where the view is one of memory
    /// that is mapped read-only, the caller makes loads and nothing else.
    fn of(view: View<'_>, config: &Config) -> Result<Self, AttachError> {
        view.check(layout::<T>(config).map_err(|_| AttachError::Corrupt { field: "capacity" })?)?;
        let base = view.base();
        // SAFETY: the view has the bytes of the whole layout, of which these are inside.
        let (seats, slots) = unsafe {
            (
                base.add(size_of::<Control>()),
                base.add(slots_offset(config.readers)),
            )
        };
        Ok(Self {
            control: base.cast(),
            seats: seats.cast(),
            slots,
            capacity: config.capacity,
            readers: config.readers,
            first: config.first,
            message: PhantomData,
        })
    }

    /// Validates the ring in `view`, by loads.
    pub(super) fn attach(view: View<'_>) -> Result<Self, AttachError> {
        view.check(Layout::new::<Control>())?;
        // SAFETY: aligned and in bounds, as checked; every field is an atomic, of which any bytes are
        // valid, and only loads are made.
        let fixed = unsafe { &view.base().cast::<Control>().as_ref().fixed };
        let capacity = fixed.header.check(KIND, Ring::<T>::LAYOUT)?;
        let readers = fixed.readers.load(Relaxed);
        if capacity < 2 {
            return Err(AttachError::Corrupt { field: "capacity" });
        }
        if readers > MAX_READERS {
            return Err(AttachError::Corrupt { field: "readers" });
        }
        let first = fixed.first.load(Relaxed);
        let config = Config {
            capacity,
            readers,
            first,
        };
        Self::of(view, &config)
    }

    #[inline(always)]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: in bounds and aligned, as checked in `of`; mapped as long as the handle that holds
        // these parts beside its memory; atomics of which any bytes are valid.
        unsafe { self.control.as_ref() }
    }

    /// Whose ids stand in the words.
    pub(super) fn bound(&self) -> &Bound {
        &self.control().fixed.bound
    }

    /// `None` for a number that no seat has.
    #[inline]
    pub(super) fn seat(&self, number: u32) -> Option<&Seat> {
        if number >= self.readers {
            return None;
        }
        // SAFETY: below the count, for which the view was checked; otherwise as `control`.
        Some(unsafe { self.seats.add(number as usize).as_ref() })
    }

    #[inline(always)]
    pub(super) fn slot(&self, number: u64) -> &Slot<T> {
        let index = (number & (self.capacity - 1)) as usize;
        // SAFETY: below the capacity, for which the view was checked, and a multiple of the slot's
        // alignment from an aligned start; otherwise as `control`. The message is a RacyCell, which
        // any bytes are valid for.
        unsafe { self.slots.add(index * stride::<T>()).cast().as_ref() }
    }

    /// Steps 7 to 9 for message `number`.
    #[inline(always)]
    pub(super) fn look(&self, number: u64) -> Found<T> {
        let slot = self.slot(number);
        let wanted = there(number);
        // Acquire pairs with the Release store of step 4.
        let before = slot.sequence.load(Acquire);
        if before != wanted {
            return match before.wrapping_sub(wanted).cast_signed() {
                ..0 => Found::NotYet,
                _ => Found::Overtaken(before),
            };
        }
        let message = slot.message.load();
        // Pairs with the Release fence between steps 2 and 3.
        fence(Acquire);
        let after = slot.sequence.load(Relaxed);
        if after != wanted {
            return Found::Overtaken(after);
        }
        Found::Message(message)
    }

    /// Whether a look for message `number` finds it, or that it is gone.
    pub(super) fn is_there(&self, number: u64) -> bool {
        // Acquire: as in `look`, which follows.
        let sequence = self.slot(number).sequence.load(Acquire);
        sequence.wrapping_sub(there(number)).cast_signed() >= 0
    }

    /// Messages ever sent, that we know of, as the number of the next one.
    #[inline]
    pub(super) fn tail(&self) -> u64 {
        // Acquire pairs with the Release store of step 5.
        self.control().tail.load(Acquire)
    }
}

fn slots_offset(readers: u32) -> usize {
    size_of::<Control>() + readers as usize * size_of::<Seat>()
}

/// Bytes of a ring whose `config` is rounded already.
fn layout<T: Message>(config: &Config) -> Result<Layout, CreateError> {
    const {
        assert!(
            align_of::<Slot<T>>() <= 128,
            "a message is aligned to 128 bytes at most"
        );
    }
    let absurd = CreateError::Capacity {
        requested: config.capacity,
        max: MAX_CAPACITY,
    };
    let slots = usize::try_from(config.capacity).map_err(|_| absurd)?;
    let body = stride::<T>().checked_mul(slots).ok_or(absurd)?;
    let size = slots_offset(config.readers).checked_add(body);
    Layout::from_size_align(size.ok_or(absurd)?, 128).map_err(|_| absurd)
}

// SAFETY: `attach` validates header, capacity and seats, each read once, against the region's own
// length.
unsafe impl<T: Message> Place for Ring<T> {
    type Config = Config;

    const LAYOUT: LayoutHash = LayoutHash::of("broadcast")
        .mix(VERSION as u64)
        .mix(size_of::<T>() as u64)
        .mix(align_of::<T>() as u64)
        .mix(T::LAYOUT.bits());

    fn layout(config: &Config) -> Result<Layout, CreateError> {
        layout::<T>(&config.rounded()?)
    }

    unsafe fn init(region: Region<'_>, config: &Config) -> Result<(), CreateError> {
        let config = config.rounded()?;
        let whole = layout::<T>(&config)?;
        region.check(whole)?;
        let word = || AtomicU32::new(0);
        let control = Control {
            fixed: CachePadded::new(Fixed {
                header: Header::new(KIND, config.capacity, Self::LAYOUT),
                readers: AtomicU32::new(config.readers),
                reserved: word(),
                first: AtomicU64::new(config.first),
                bound: Bound::new(),
            }),
            tail: CachePadded::new(AtomicU64::new(config.first)),
            door: CachePadded::new(Door {
                role: AtomicU64::new(0),
                receivers: Bell::new(),
            }),
            room: CachePadded::new(Room {
                bell: Bell::new(),
                reserved: word(),
                dropped: AtomicU64::new(0),
            }),
        };
        let place = region.base().cast::<Control>();
        // SAFETY: size and alignment were checked above; nobody else uses the bytes, by the caller's
        // word.
        let control = unsafe {
            place.write(control);
            place.as_ref()
        };
        let Ok(parts) = Parts::<T>::of(region.into(), &config) else {
            return Err(CreateError::RegionTooSmall {
                need: whole.size() as u64,
                have: region.len() as u64,
            });
        };
        for number in 0..config.readers as usize {
            let seat = Seat {
                word: AtomicU64::new(0),
                cursor: AtomicU64::new(0),
            };
            // SAFETY: in bounds, as `of` has checked; nobody else uses the bytes.
            unsafe { parts.seats.add(number).write(seat) };
        }
        for offset in 0..config.capacity {
            let number = config.first.wrapping_add(offset);
            let slot = core::ptr::from_ref(parts.slot(number)).cast_mut();
            // As if the message of the lap before were there.
            let sequence = there(number.wrapping_sub(config.capacity));
            // SAFETY: in bounds and aligned; nobody else uses the bytes. In a build the message's
            // bytes stay as they are: any are valid.
            unsafe {
                (&raw mut (*slot).sequence).write(AtomicU64::new(sequence));
                #[cfg(loom)]
                (&raw mut (*slot).message).write(RacyCell::new(bytemuck::Zeroable::zeroed()));
            }
        }
        // The words were written plainly; who attaches reads them behind the magic number.
        fence(Release);
        control.fixed.header.publish();
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<Config, AttachError> {
        let parts = Parts::<T>::attach(region.into())?;
        Ok(Config {
            capacity: parts.capacity,
            readers: parts.readers,
            first: parts.first,
        })
    }
}
