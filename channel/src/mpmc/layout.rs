//! The state in shared memory, and where its parts lie.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::NonNull;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    Shadow,
};
use multiprocess_core::copy::RacyCell;
use multiprocess_core::{AttachError, CachePadded, CreateError, LayoutHash, Place, Region};

use super::bell::Bell;
use super::words::{MAX_SEATS, Owner, State, Ticket, WORD, Word};
use super::{Config, Orphans, Ring};
use crate::control::{Bound, Header, MAX_CAPACITY, VERSION};
use crate::spsc::Message;

const KIND: u32 = 3;
const DROP_ORPHANS: u32 = 1;
const JOINABLE: u32 = 2;
const KEPT: u32 = 4;
const LENDING: u32 = 8;

/// Fields beside the common header that never change after init.
#[repr(C)]
struct Fixed {
    header: Header,
    seats: AtomicU32,
    flags: AtomicU32,
    /// Most messages that nobody has taken; 0: no limit but the capacity.
    limit: AtomicU64,
    bound: Bound,
}

/// The first 0x300 bytes; see the README for who writes what.
#[repr(C)]
pub(super) struct Control {
    fixed: CachePadded<Fixed>,
    /// A hint: the tail has come at least so far, modulo 2^48. Senders, by plain stores.
    pub(super) tail: CachePadded<AtomicU64>,
    /// A hint: the head has come at least so far. Receivers, by plain stores.
    pub(super) head: CachePadded<AtomicU64>,
    /// Where receivers sleep. Rung by senders.
    pub(super) receivers: CachePadded<Bell>,
    /// Where senders sleep. Rung by receivers.
    pub(super) senders: CachePadded<Bell>,
    pub(super) rare: CachePadded<Rare>,
}

/// What is hardly ever written.
#[repr(C)]
pub(super) struct Rare {
    /// How often there have been new orphans. By who makes them, after that.
    pub(super) orphaned: AtomicU64,
    /// Where those sleep who wait until all is done. Rung by receivers of a joinable ring.
    pub(super) joiners: Bell,
    /// Where those sleep who wait for a block of the arena beside it. Rung by who frees one.
    pub(super) memory: Bell,
}

/// One handle's place at the ring. The word by CAS, see its table; the counters by the owner alone,
/// and they go on from one owner to the next.
#[repr(C, align(128))]
pub(super) struct Seat {
    pub(super) word: AtomicU64,
    /// Messages sent or received.
    pub(super) messages: AtomicU64,
    /// Stalled peers' slots that were stepped over.
    pub(super) quarantines: AtomicU64,
    /// As a sender: most messages that were seen in the ring.
    pub(super) high_water: AtomicU64,
}

/// A slot: its word, and the message beside it.
#[repr(C)]
pub(crate) struct Slot<T> {
    pub(super) word: AtomicU64,
    pub(super) message: RacyCell<T>,
    /// Where a model sees who has the message in hand.
    pub(super) hands: Shadow,
}

/// Bytes from one slot to the next. Small messages share a line; one of up to 56 bytes has its own;
/// larger ones lie without gaps, since 128 bytes were measured slower than 72.
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
    use super::{Control, Fixed, Seat, Slot, stride};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Control>(), 0x300);
    const_assert_eq!(offset_of!(Fixed, seats), 0x20);
    const_assert_eq!(offset_of!(Fixed, flags), 0x24);
    const_assert_eq!(offset_of!(Control, tail), 0x080);
    const_assert_eq!(offset_of!(Control, head), 0x100);
    const_assert_eq!(offset_of!(Control, receivers), 0x180);
    const_assert_eq!(offset_of!(Control, senders), 0x200);
    const_assert_eq!(offset_of!(Fixed, limit), 0x28);
    const_assert_eq!(offset_of!(Fixed, bound), 0x30);
    const_assert_eq!(offset_of!(Control, rare), 0x280);
    const_assert_eq!(offset_of!(super::Rare, joiners), 8);
    const_assert_eq!(size_of::<Seat>(), 128);
    const_assert_eq!(offset_of!(Slot<u64>, message), 8);
    const_assert_eq!(stride::<u64>(), 16);
    const_assert_eq!(stride::<[u64; 7]>(), 64);
    const_assert_eq!(stride::<[u64; 8]>(), 72);
}

/// Where the parts of a ring lie that was found good.
pub(crate) struct Parts<T> {
    control: NonNull<Control>,
    seats: NonNull<Seat>,
    slots: NonNull<u8>,
    /// Slots; a power of two.
    pub(super) capacity: u64,
    pub(super) seat_count: u32,
    pub(super) orphans: Orphans,
    /// As [`Config::limit`].
    pub(super) limit: u64,
    pub(super) is_joinable: bool,
    pub(super) is_kept: bool,
    pub(super) is_lending: bool,
    message: PhantomData<T>,
}

impl<T: Message> Parts<T> {
    /// The parts of the ring in `region`, which was checked for `config`.
    pub(super) fn of(region: Region<'_>, config: &Config) -> Result<Self, AttachError> {
        let need = layout::<T>(config).map_err(|_| AttachError::Corrupt { field: "capacity" })?;
        if (region.len() as u64) < need.size() as u64 {
            return Err(AttachError::Truncated {
                need: need.size() as u64,
                have: region.len() as u64,
            });
        }
        if !region.base().addr().get().is_multiple_of(need.align()) {
            return Err(AttachError::Misaligned {
                need: need.align() as u64,
            });
        }
        let base = region.base();
        // SAFETY: the region has the bytes of the whole layout, of which these are inside.
        let (seats, slots) = unsafe {
            (
                base.add(size_of::<Control>()),
                base.add(slots_offset(config.endpoints)),
            )
        };
        Ok(Self {
            control: base.cast(),
            seats: seats.cast(),
            slots,
            capacity: config.capacity,
            seat_count: config.endpoints,
            orphans: config.orphans,
            limit: config.limit,
            is_joinable: config.is_joinable,
            is_kept: config.is_kept,
            is_lending: config.is_lending,
            message: PhantomData,
        })
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
    pub(super) fn seat(&self, number: Owner) -> Option<&Seat> {
        if u32::from(number) >= self.seat_count {
            return None;
        }
        // SAFETY: below the count, for which the region was checked; otherwise as `control`.
        Some(unsafe { self.seats.add(usize::from(number)).as_ref() })
    }

    /// Messages that are there to be received, at the moment of asking. Walks the ring. No more than the
    /// limit: those that come back from the dead are on top of it, and a walk beside others is no snapshot.
    pub(super) fn len(&self) -> u64 {
        let there = (0..self.capacity)
            .filter(|&index| {
                // Acquire: what is told is not older than the caller's last message.
                let bits = self.slot(Ticket::new(index)).word.load(Acquire);
                matches!(Word::from_bits(bits).state, State::Ready | State::Orphan)
            })
            .count() as u64;
        match self.limit {
            0 => there,
            limit => there.min(limit),
        }
    }

    #[inline(always)]
    pub(super) fn slot(&self, ticket: Ticket) -> &Slot<T> {
        let index = (ticket.bits() & (self.capacity - 1)) as usize;
        // SAFETY: below the capacity, for which the region was checked, and a multiple of the slot's
        // alignment from an aligned start; otherwise as `control`. The message is a RacyCell, which
        // any bytes are valid for.
        unsafe { self.slots.add(index * stride::<T>()).cast().as_ref() }
    }
}

impl<T> Parts<T> {
    /// A slot's word and its message, if that is a word at most: sixteen bytes, aligned to sixteen.
    #[inline(always)]
    pub(super) fn pair(&self, ticket: Ticket) -> Option<NonNull<[u64; 2]>> {
        if stride::<T>() != 2 * WORD {
            return None;
        }
        let index = (ticket.bits() & (self.capacity - 1)) as usize;
        // SAFETY: as in `slot`: sixteen bytes from a start that is aligned to 128.
        Some(unsafe { self.slots.add(index * 2 * WORD).cast() })
    }
}

fn slots_offset(seats: u32) -> usize {
    (size_of::<Control>() + seats as usize * size_of::<Seat>()).next_multiple_of(128)
}

/// Bytes of a ring whose `config` is rounded already.
pub(super) fn layout<T: Message>(config: &Config) -> Result<Layout, CreateError> {
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
    let size = slots_offset(config.endpoints).checked_add(body);
    Layout::from_size_align(size.ok_or(absurd)?, 128).map_err(|_| absurd)
}

// SAFETY: `attach` validates header, capacity and seats, each read once, against the region's own
// length.
unsafe impl<T: Message> Place for Ring<T> {
    type Config = Config;

    const LAYOUT: LayoutHash = LayoutHash::of("mpmc")
        .mix(VERSION as u64)
        .mix(size_of::<T>() as u64)
        .mix(align_of::<T>() as u64)
        .mix(T::LAYOUT.bits());

    fn layout(config: &Config) -> Result<Layout, CreateError> {
        layout::<T>(&config.rounded()?)
    }

    unsafe fn init(region: Region<'_>, config: &Config) -> Result<(), CreateError> {
        let config = config.rounded()?;
        region.check(layout::<T>(&config)?)?;
        let drops = match config.orphans {
            Orphans::Redeliver => 0,
            Orphans::Drop => DROP_ORPHANS,
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = drops
            | flag(config.is_joinable, JOINABLE)
            | flag(config.is_kept, KEPT)
            | flag(config.is_lending, LENDING);
        let first = Ticket::new(config.first);
        let control = Control {
            fixed: CachePadded::new(Fixed {
                header: Header::new(KIND, config.capacity, Self::LAYOUT),
                seats: AtomicU32::new(config.endpoints),
                flags: AtomicU32::new(flags),
                limit: AtomicU64::new(config.limit),
                bound: Bound::new(),
            }),
            tail: CachePadded::new(AtomicU64::new(first.bits())),
            head: CachePadded::new(AtomicU64::new(first.bits())),
            receivers: CachePadded::new(Bell::new()),
            senders: CachePadded::new(Bell::new()),
            rare: CachePadded::new(Rare {
                orphaned: AtomicU64::new(0),
                joiners: Bell::new(),
                memory: Bell::new(),
            }),
        };
        let place = region.base().cast::<Control>();
        // SAFETY: size and alignment were checked above; nobody else uses the bytes, by the caller's
        // word.
        let control = unsafe {
            place.write(control);
            place.as_ref()
        };
        let Ok(parts) = Parts::<T>::of(region, &config) else {
            return Err(CreateError::RegionTooSmall {
                need: layout::<T>(&config)?.size() as u64,
                have: region.len() as u64,
            });
        };
        let zero = || AtomicU64::new(0);
        for number in 0..config.endpoints as usize {
            let seat = Seat {
                word: zero(),
                messages: zero(),
                quarantines: zero(),
                high_water: zero(),
            };
            // SAFETY: in bounds, as `of` has checked; nobody else uses the bytes.
            unsafe { parts.seats.add(number).write(seat) };
        }
        for offset in 0..config.capacity {
            let ticket = first.plus(offset);
            let word = Word::of_nobody(State::Empty, ticket).bits();
            let slot = core::ptr::from_ref(parts.slot(ticket)).cast_mut();
            // SAFETY: in bounds and aligned; nobody else uses the bytes. In a build the message's
            // bytes stay as they are: any are valid.
            unsafe {
                (&raw mut (*slot).word).write(AtomicU64::new(word));
                #[cfg(loom)]
                {
                    (&raw mut (*slot).message).write(RacyCell::new(bytemuck::Zeroable::zeroed()));
                    (&raw mut (*slot).hands).write(Shadow::new());
                }
            }
        }
        // The words were written plainly; who attaches reads them behind the magic number.
        multiprocess_core::atomic::fence(Release);
        control.fixed.header.publish();
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<Config, AttachError> {
        let have = region.len() as u64;
        if region.len() < size_of::<Control>() {
            let need = size_of::<Control>() as u64;
            return Err(AttachError::Truncated { need, have });
        }
        let control = region.base().cast::<Control>();
        if !control.is_aligned() {
            return Err(AttachError::Misaligned {
                need: align_of::<Control>() as u64,
            });
        }
        // SAFETY: aligned and in bounds, as checked; every field is an atomic.
        let control = unsafe { control.as_ref() };
        let fixed = &control.fixed;
        let capacity = fixed.header.check(KIND, Self::LAYOUT)?;
        let seats = fixed.seats.load(Relaxed);
        if seats == 0 || seats > MAX_SEATS || u64::from(seats) >= capacity {
            return Err(AttachError::Corrupt { field: "endpoints" });
        }
        let flags = fixed.flags.load(Relaxed);
        let orphans = match flags & DROP_ORPHANS {
            0 => Orphans::Redeliver,
            _ => Orphans::Drop,
        };
        let limit = fixed.limit.load(Relaxed);
        if limit >= capacity {
            return Err(AttachError::Corrupt { field: "limit" });
        }
        let config = Config {
            capacity,
            endpoints: seats,
            orphans,
            limit,
            is_joinable: flags & JOINABLE != 0,
            is_kept: flags & KEPT != 0,
            is_lending: flags & LENDING != 0,
            first: 0,
        };
        Parts::<T>::of(region, &config)?;
        Ok(config)
    }
}
