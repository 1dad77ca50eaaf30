//! The table in shared memory.

use core::alloc::Layout;

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering};
use multiprocess_core::{AttachError, CreateError, Deadline, LayoutHash, Place, Region};

use crate::sys;

/// "MPRCPART" in the byte order of its writer.
const MAGIC: u64 = u64::from_le_bytes(*b"MPRCPART");
const VERSION: u32 = 1;
pub(super) const MIXED_NAMESPACES: u32 = 1;

/// In a slot's epoch: the participant has left, while its process went on.
pub(super) const LEFT: u32 = 1 << 16;

/// Most participants a table can have: an id has 16 bits for the slot.
pub const MAX_PARTICIPANTS: u32 = 1 << 16;

#[repr(C, align(128))]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU32,
    pub(super) slots: AtomicU32,
    pub(super) pid_namespace: AtomicU64,
    pub(super) flags: AtomicU32,
    pub(super) number: AtomicU32,
}

/// All by the owner, who has the byte lock; read by anybody.
#[repr(C)]
pub(super) struct Slot {
    /// Lives of this slot, in the low 16 bits; 0: never used. And [`LEFT`].
    pub(super) epoch: AtomicU32,
    pub(super) pid: AtomicU32,
    pub(super) start_time: AtomicU64,
    pub(super) pid_namespace: AtomicU64,
    pub(super) reserved: AtomicU64,
}

#[cfg(not(loom))]
mod layout {
    use super::{Header, Slot};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Header>(), 0x80);
    const_assert_eq!(offset_of!(Header, version), 0x08);
    const_assert_eq!(offset_of!(Header, slots), 0x0c);
    const_assert_eq!(offset_of!(Header, pid_namespace), 0x10);
    const_assert_eq!(offset_of!(Header, flags), 0x18);
    const_assert_eq!(offset_of!(Header, number), 0x1c);
    const_assert_eq!(size_of::<Slot>(), 32);
    const_assert_eq!(offset_of!(Slot, pid), 0x04);
    const_assert_eq!(offset_of!(Slot, start_time), 0x08);
    const_assert_eq!(offset_of!(Slot, pid_namespace), 0x10);
}

/// The state in shared memory: a [`Place`], to put a table into a segment among other things.
///
/// The configuration is the number of slots, 1 to [`MAX_PARTICIPANTS`]. [`Participants::within`](crate::Participants::within)
/// attaches to it.
#[derive(Debug)]
pub struct ParticipantsState;

// SAFETY: `attach` checks magic, version and that as many slots as it returns fit the region.
unsafe impl Place for ParticipantsState {
    type Config = u32;

    const LAYOUT: LayoutHash = LayoutHash::of("Participants").mix(VERSION as u64);

    fn layout(slots: &u32) -> Result<Layout, CreateError> {
        let absurd = CreateError::Capacity {
            requested: u64::from(*slots),
            max: u64::from(MAX_PARTICIPANTS),
        };
        if *slots == 0 || *slots > MAX_PARTICIPANTS {
            return Err(absurd);
        }
        let size = size_of::<Header>() + *slots as usize * size_of::<Slot>();
        Layout::from_size_align(size, align_of::<Header>()).map_err(|_| absurd)
    }

    unsafe fn init(region: Region<'_>, slots: &u32) -> Result<(), CreateError> {
        region.check(Self::layout(slots)?)?;
        // SAFETY: large enough and aligned, as just checked; nobody else uses the bytes.
        unsafe { region.base().as_ptr().write_bytes(0, region.len()) };
        // SAFETY: as above; all fields are atomics, of which zero is a valid value.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.version.store(VERSION, Ordering::Relaxed);
        header.slots.store(*slots, Ordering::Relaxed);
        header
            .pid_namespace
            .store(sys::pid_namespace(), Ordering::Relaxed);
        // Time tells the tables of one machine apart, and costs no entropy.
        let now = Deadline::now().nanos().unwrap_or(0);
        let number = (now ^ now >> 32) as u32 | 1;
        header.number.store(number, Ordering::Relaxed);
        // Release pairs with the Acquire load in `attach`.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<u32, AttachError> {
        let have = region.len() as u64;
        let truncated = |need: usize| AttachError::Truncated {
            need: need as u64,
            have,
        };
        region
            .check(Layout::new::<Header>())
            .map_err(|_| truncated(size_of::<Header>()))?;
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        // Acquire pairs with the Release store in `init`.
        let magic = header.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::BadMagic { found: magic });
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(AttachError::Version {
                found: version,
                expected: VERSION,
            });
        }
        let slots = header.slots.load(Ordering::Relaxed);
        let layout = Self::layout(&slots).map_err(|_| AttachError::Corrupt { field: "slots" })?;
        if region.len() < layout.size() {
            return Err(truncated(layout.size()));
        }
        Ok(slots)
    }
}
