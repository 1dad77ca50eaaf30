//! The control block of a single-writer ring: the first 0x280 bytes of `spsc` and `bytes`.
//!
//! | offset | field | type | who writes it |
//! |---|---|---|---|
//! | 0x000 | magic `MPRCRING` | u64 | creator, last |
//! | 0x008 | layout version | u32 | creator |
//! | 0x00c | kind: 1 spsc, 2 bytes | u32 | creator |
//! | 0x010 | capacity: slots or bytes, a power of two | u64 | creator |
//! | 0x018 | layout hash of ring and message | u64 | creator |
//! | 0x020 | participants' table | u32 | the first participant of it |
//! | 0x080 | producer's role, and who it is | u64 | producer; who becomes it |
//! | 0x088 | producer's waits, high-water mark | 2 × u64 | producer |
//! | 0x0c0 | tail: messages or bytes ever published | u64 | producer |
//! | 0x0c8 | producer's records | u64 | producer |
//! | 0x100 | consumer's role, and who it is | u64 | consumer; who becomes it |
//! | 0x108 | consumer's waits, high-water mark | 2 × u64 | consumer |
//! | 0x140 | head: messages or bytes ever given back | u64 | consumer |
//! | 0x148 | consumer's records | u64 | consumer |
//! | 0x180 | consumer's doorbell | u32 | both, by the rules of `waiter` |
//! | 0x200 | producer's doorbell | u32 | both, by the rules of `waiter` |
//! | 0x280 | frames or bytes | | producer |
//!
//! The creator's fields never change after init. Indices are free running: `head <= tail <=
//! head + capacity`, modulo 2^64. In `spsc` what is published is said by the frames' signs; its tail may
//! be one publication behind them.

use core::alloc::Layout;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{
    AttachError, CachePadded, CreateError, LayoutHash, ParticipantId, Peers, Region, View,
};

/// "MPRCRING" in the byte order of its writer.
const MAGIC: u64 = u64::from_le_bytes(*b"MPRCRING");
pub(crate) const VERSION: u32 = 3;

/// Largest capacity, in slots or bytes: an index then cannot wrap within one lap.
pub(crate) const MAX_CAPACITY: u64 = 1 << 40;

/// What every ring begins with. By the creator.
#[repr(C)]
pub(crate) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    kind: AtomicU32,
    capacity: AtomicU64,
    layout: AtomicU64,
}

impl Header {
    /// Complete but for the magic number.
    pub(crate) fn new(kind: u32, capacity: u64, layout: LayoutHash) -> Self {
        Self {
            magic: AtomicU64::new(0),
            version: AtomicU32::new(VERSION),
            kind: AtomicU32::new(kind),
            capacity: AtomicU64::new(capacity),
            layout: AtomicU64::new(layout.bits()),
        }
    }

    /// The ring is whole: the magic number comes last.
    pub(crate) fn publish(&self) {
        // Release pairs with the Acquire load in `check`.
        self.magic.store(MAGIC, Release);
    }

    /// Whether this is a ring of that kind and layout; its capacity, read once and a power of two.
    pub(crate) fn check(&self, kind: u32, expected: LayoutHash) -> Result<u64, AttachError> {
        // Acquire pairs with the Release store in `publish`.
        let magic = self.magic.load(Acquire);
        if magic != MAGIC {
            return Err(if magic.swap_bytes() == MAGIC {
                AttachError::ForeignByteOrder
            } else {
                AttachError::BadMagic { found: magic }
            });
        }
        let version = self.version.load(Relaxed);
        if version != VERSION {
            return Err(AttachError::Version {
                found: version,
                expected: VERSION,
            });
        }
        let layout = self.layout.load(Relaxed);
        if self.kind.load(Relaxed) != kind || layout != expected.bits() {
            return Err(AttachError::Layout {
                found: layout,
                expected: expected.bits(),
            });
        }
        let capacity = self.capacity.load(Relaxed);
        if !capacity.is_power_of_two() || capacity > MAX_CAPACITY {
            return Err(AttachError::Corrupt { field: "capacity" });
        }
        Ok(capacity)
    }
}

/// The number of the participants' table whose ids stand in a ring's words; 0: no participant has come
/// yet. By the first one, by CAS; it stays.
#[repr(transparent)]
pub(crate) struct Bound(AtomicU32);

impl Bound {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The ring belongs to the participants of the table of `peers`, from now on if to nobody yet. In
    /// another table the same ids are others': a living owner would be dead there. Who is anonymous is
    /// in no table.
    pub(crate) fn bind(&self, peers: &impl Peers) -> Result<(), AttachError> {
        if peers.me().is_anonymous() {
            return Ok(());
        }
        let table = peers.table();
        // Relaxed: it announces nothing.
        match self.0.compare_exchange(0, table, Relaxed, Relaxed) {
            Err(other) if other != table => Err(AttachError::OtherParticipants),
            _ => Ok(()),
        }
    }
}

/// What a single-writer ring begins with.
#[repr(C)]
pub(crate) struct Fixed {
    header: Header,
    bound: Bound,
}

/// One end of a ring: its role and its counters, on a cache line that only its owner writes, and who
/// becomes it; and behind that, on one that only its owner writes, what changes with each message: who
/// looks at the role does not take that away.
//
// | bits of `role` | meaning | who enters | who leaves |
// |---|---|---|---|
// | CLAIMED clear | no owner yet | creator | attacher, by CAS |
// | CLAIMED | has an owner | attacher, by CAS | nobody; takeover keeps it |
// | SENT | the end is in a message: its owner is who receives it | owner, by CAS | receiver, by CAS; takeover |
// | CLOSED | the owner is gone for good | owner | takeover |
// | HEAVY | as a sleeper, the owner can run a heavy fence | owner | takeover, next owner |
// | LIGHT | as a publisher, the owner runs light fences only | owner | takeover, next owner |
// | 32-63 | the owner, a `ParticipantId`; anonymous: nobody attests its death | attacher | successor, receiver |
#[repr(C)]
pub(crate) struct End {
    pub(crate) role: AtomicU64,
    /// How often the owner went to sleep.
    pub(crate) waits: AtomicU64,
    /// The most that the owner has seen in the ring, messages or bytes.
    pub(crate) high_water: AtomicU64,
    pub(crate) progress: Progress,
}

/// How far an end has come.
#[repr(C, align(64))]
pub(crate) struct Progress {
    pub(crate) index: AtomicU64,
    /// `bytes`: records ever published or given back. `spsc`: 0, the index counts them.
    pub(crate) records: AtomicU64,
}

impl End {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            role: zero(),
            waits: zero(),
            high_water: zero(),
            progress: Progress {
                index: zero(),
                records: zero(),
            },
        }
    }

    /// The owner goes to sleep.
    pub(crate) fn count_wait(&self) {
        // Plain steps: only the owner writes it.
        self.waits
            .store(self.waits.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The owner has seen so much in the ring.
    #[inline]
    pub(crate) fn note_level(&self, level: u64) {
        if level > self.high_water.load(Relaxed) {
            self.high_water.store(level, Relaxed);
        }
    }
}

pub(crate) const CLAIMED: u64 = 1;
pub(crate) const CLOSED: u64 = 2;
pub(crate) const HEAVY: u64 = 4;
pub(crate) const LIGHT: u64 = 8;
pub(crate) const SENT: u64 = 16;

/// Who owns, or owned, an end, by its role.
pub(crate) fn owner(role: u64) -> ParticipantId {
    ParticipantId::from_bits((role >> 32) as u32)
}

/// The part of a role that names its owner.
pub(crate) fn owned_by(owner: ParticipantId) -> u64 {
    u64::from(owner.bits()) << 32
}

#[repr(C)]
pub(crate) struct Control {
    fixed: CachePadded<Fixed>,
    pub(crate) producer: CachePadded<End>,
    pub(crate) consumer: CachePadded<End>,
    pub(crate) consumer_doorbell: CachePadded<AtomicU32>,
    pub(crate) producer_doorbell: CachePadded<AtomicU32>,
}

#[cfg(not(loom))]
mod layout {
    use super::{Control, End, Fixed, Header, Progress};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Control>(), 0x280);
    const_assert_eq!(align_of::<Control>(), 128);
    const_assert_eq!(offset_of!(Header, version), 0x08);
    const_assert_eq!(offset_of!(Header, kind), 0x0c);
    const_assert_eq!(offset_of!(Header, capacity), 0x10);
    const_assert_eq!(offset_of!(Header, layout), 0x18);
    const_assert_eq!(offset_of!(Fixed, bound), 0x20);
    const_assert_eq!(offset_of!(End, role), 0x00);
    const_assert_eq!(offset_of!(End, waits), 0x08);
    const_assert_eq!(offset_of!(End, high_water), 0x10);
    const_assert_eq!(offset_of!(End, progress), 0x40);
    const_assert_eq!(offset_of!(Progress, index), 0x00);
    const_assert_eq!(offset_of!(Progress, records), 0x08);
    const_assert_eq!(offset_of!(Control, producer), 0x080);
    const_assert_eq!(offset_of!(Control, consumer), 0x100);
    const_assert_eq!(offset_of!(Control, consumer_doorbell), 0x180);
    const_assert_eq!(offset_of!(Control, producer_doorbell), 0x200);
}

/// What a kind of ring is made of: the constants that `init` writes and `attach` compares.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) number: u32,
    pub(crate) layout: LayoutHash,
    /// What lies behind the control block, again and again: a frame, or one byte.
    pub(crate) unit: Layout,
    /// How much of the capacity a unit is. There is a power of two of them.
    pub(crate) per_unit: u64,
    /// An index beyond it is corrupt.
    pub(crate) max_index: u64,
    /// Indices are multiples of this.
    pub(crate) step: u64,
    /// Smallest capacity.
    pub(crate) min_capacity: u64,
    /// Bytes that a model keeps per eight units, 0 in a real build.
    pub(crate) shadow: usize,
}

impl Kind {
    /// The capacity that `requested` is rounded up to.
    pub(crate) fn capacity(&self, requested: u64) -> Result<u64, CreateError> {
        if requested == 0 || requested > MAX_CAPACITY {
            return Err(CreateError::Capacity {
                requested,
                max: MAX_CAPACITY,
            });
        }
        Ok(requested.max(self.min_capacity).next_power_of_two())
    }

    /// Bytes of a ring of `capacity` units (already a power of two).
    pub(crate) fn layout(&self, capacity: u64) -> Result<Layout, CreateError> {
        let absurd = CreateError::Capacity {
            requested: capacity,
            max: MAX_CAPACITY,
        };
        let units = capacity.div_ceil(self.per_unit).next_power_of_two();
        let units = usize::try_from(units).map_err(|_| absurd)?;
        let body = self.unit.size().checked_mul(units).ok_or(absurd)?;
        let shadows = self.shadow.checked_mul(units.div_ceil(8)).ok_or(absurd)?;
        let size = size_of::<Control>()
            .checked_add(body)
            .and_then(|size| size.checked_add(shadows))
            .ok_or(absurd)?;
        Layout::from_size_align(size, align_of::<Control>()).map_err(|_| absurd)
    }

    /// Writes a fresh control block.
    ///
    /// # Safety
    ///
    /// Nobody else may be using the bytes.
    pub(crate) unsafe fn init(
        &self,
        region: Region<'_>,
        requested: u64,
    ) -> Result<(), CreateError> {
        let capacity = self.capacity(requested)?;
        region.check(self.layout(capacity)?)?;
        let end = || CachePadded::new(End::new());
        let control = Control {
            fixed: CachePadded::new(Fixed {
                header: Header::new(self.number, capacity, self.layout),
                bound: Bound::new(),
            }),
            producer: end(),
            consumer: end(),
            consumer_doorbell: CachePadded::new(AtomicU32::new(0)),
            producer_doorbell: CachePadded::new(AtomicU32::new(0)),
        };
        let place = region.base().cast::<Control>();
        // SAFETY: size and alignment were checked above; nobody else uses the bytes.
        let control = unsafe {
            place.write(control);
            place.as_ref()
        };
        control.fixed.header.publish();
        Ok(())
    }

    /// Checks a control block that a peer wrote; its capacity, read once.
    pub(crate) fn validate(&self, view: View<'_>) -> Result<u64, AttachError> {
        let have = view.len() as u64;
        let control = Control::of(view)?;
        let capacity = control.fixed.header.check(self.number, self.layout)?;
        if capacity < self.min_capacity {
            return Err(AttachError::Corrupt { field: "capacity" });
        }
        let layout = self
            .layout(capacity)
            .map_err(|_| AttachError::Corrupt { field: "capacity" })?;
        let need = layout.size() as u64;
        if have < need {
            return Err(AttachError::Truncated { need, have });
        }
        Ok(capacity)
    }
}

impl Control {
    /// Whose ids stand in the roles.
    pub(crate) fn bound(&self) -> &Bound {
        &self.fixed.bound
    }

    /// The control block at the start of `view`, which must be large enough for one.
    pub(crate) fn of(view: View<'_>) -> Result<&Control, AttachError> {
        view.check(Layout::new::<Control>())?;
        // SAFETY: aligned and in bounds, as checked; mapped for the view's lifetime; every
        // field is an atomic, for which all bit patterns are valid. Who has no more than a view
        // makes loads only.
        Ok(unsafe { view.base().cast::<Control>().as_ref() })
    }
}
