//! Where a queue lies: participants, ring and arena in one segment.
//!
//! | offset in the payload | what |
//! |---|---|
//! | 0x00 | bytes of the arena u64, magic "MPRCQUEU" u64 |
//! | 0x80 | the table of participants |
//! | then, at multiples of 128 | the ring (`mpmc`), the arena |

use std::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{
    AttachError, CreateError, LayoutHash, Memory, ParticipantId, Peers, Place, Region,
};
use multiprocess_shm::{
    Arena, ArenaConfig, ArenaState, Participant, Participants, ParticipantsState, Segment,
};

use super::Envelope;
use super::error::QueueError;
use crate::mpmc::{Config, Ring};

const MAGIC: u64 = u64::from_le_bytes(*b"MPRCQUEU");
const TABLE: usize = 128;

#[repr(C, align(128))]
struct Header {
    /// Bytes of the arena. Creator.
    arena: AtomicU64,
    /// Creator, last.
    magic: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) ring: Config,
    pub(super) arena: u64,
}

/// Where the parts start, and the end.
#[derive(Debug, Clone, Copy)]
struct Plan {
    ring: usize,
    arena: usize,
    end: usize,
}

impl Shape {
    fn plan(&self) -> Result<Plan, CreateError> {
        let absurd = CreateError::Capacity {
            requested: self.arena,
            max: isize::MAX as u64,
        };
        let after = |start: usize, part: Layout| {
            let end = start.checked_add(part.size())?;
            end.checked_next_multiple_of(128)
        };
        let table = ParticipantsState::layout(&self.ring.seats())?;
        let ring = after(TABLE, table).ok_or(absurd)?;
        let arena = after(ring, Ring::<Envelope>::layout(&self.ring)?).ok_or(absurd)?;
        let blocks = ArenaState::layout(&ArenaConfig::new(self.arena)?)?;
        let end = after(arena, blocks).ok_or(absurd)?;
        Ok(Plan { ring, arena, end })
    }
}

struct State;

// SAFETY: `attach` recomputes the plan from numbers that are read once, and lets each part check its own
// bytes.
unsafe impl Place for State {
    type Config = Shape;

    const LAYOUT: LayoutHash = LayoutHash::of("Queue")
        .mix(1)
        .mix(ParticipantsState::LAYOUT.bits())
        .mix(Ring::<Envelope>::LAYOUT.bits())
        .mix(ArenaState::LAYOUT.bits());

    fn layout(shape: &Shape) -> Result<Layout, CreateError> {
        let size = shape.plan()?.end;
        Layout::from_size_align(size, 128).map_err(|_| CreateError::Capacity {
            requested: size as u64,
            max: isize::MAX as u64,
        })
    }

    unsafe fn init(region: Region<'_>, shape: &Shape) -> Result<(), CreateError> {
        region.check(Self::layout(shape)?)?;
        let plan = shape.plan()?;
        let part = |from: usize, to: usize| {
            region
                .sub(from, to - from)
                .ok_or(CreateError::RegionTooSmall {
                    need: to as u64,
                    have: region.len() as u64,
                })
        };
        // SAFETY: nobody else uses the bytes, by the caller's word, and the parts do not overlap.
        unsafe {
            ParticipantsState::init(part(TABLE, plan.ring)?, &shape.ring.seats())?;
            Ring::<Envelope>::init(part(plan.ring, plan.arena)?, &shape.ring)?;
            let blocks = ArenaConfig::new(shape.arena)?;
            ArenaState::init(part(plan.arena, plan.end)?, &blocks)?;
        }
        // SAFETY: large enough and aligned, as just checked; all fields are atomics.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.arena.store(shape.arena, Relaxed);
        // Release pairs with the Acquire load in `attach`.
        header.magic.store(MAGIC, Release);
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<Shape, AttachError> {
        let have = region.len() as u64;
        if region.len() < TABLE {
            let need = TABLE as u64;
            return Err(AttachError::Truncated { need, have });
        }
        let header = region.base().cast::<Header>();
        if !header.is_aligned() {
            return Err(AttachError::Misaligned { need: 128 });
        }
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let header = unsafe { header.as_ref() };
        let found = header.magic.load(Acquire);
        if found != MAGIC {
            return Err(AttachError::BadMagic { found });
        }
        let arena = header.arena.load(Relaxed);
        let part = |from: usize| {
            let need = from as u64;
            let rest = region.len().saturating_sub(from);
            region
                .sub(from, rest)
                .ok_or(AttachError::Truncated { need, have })
        };
        let seats = ParticipantsState::attach(part(TABLE)?)?;
        let table = ParticipantsState::layout(&seats)
            .map_err(|_| AttachError::Corrupt { field: "slots" })?;
        let start = (TABLE + table.size()).next_multiple_of(128);
        let ring = Ring::<Envelope>::attach(part(start)?)?;
        let shape = Shape { ring, arena };
        let plan = shape
            .plan()
            .map_err(|_| AttachError::Corrupt { field: "queue" })?;
        if plan.ring != start || ring.seats() != seats {
            return Err(AttachError::Corrupt { field: "endpoints" });
        }
        if region.len() < plan.end {
            let need = plan.end as u64;
            return Err(AttachError::Truncated { need, have });
        }
        let blocks = ArenaState::attach(part(plan.arena)?)?;
        let wanted = ArenaConfig::new(arena);
        if wanted.is_ok_and(|wanted| wanted == blocks) {
            Ok(shape)
        } else {
            Err(AttachError::Corrupt { field: "arena" })
        }
    }
}

struct Inner {
    segment: Segment,
    plan: Plan,
    participant: Participant,
}

impl Inner {
    fn part(&self, from: usize, to: usize) -> Region<'_> {
        let payload = self.segment.payload();
        payload.sub(from, to - from).unwrap_or(payload)
    }
}

/// As a [`Memory`]: the ring's bytes. As [`Peers`]: this process.
#[derive(Clone)]
pub(super) struct Home(Arc<Inner>);

/// The arena's bytes.
pub(super) struct Blocks(Home);

pub(super) type QueueArena = Arena<Blocks, Home>;

impl Home {
    pub(super) fn create(shape: &Shape) -> Result<Self, QueueError> {
        let segment = Segment::create_place::<State>(shape)?;
        Self::join(segment, shape)
    }

    pub(super) fn attach(file: OwnedFd) -> Result<(Self, Shape), QueueError> {
        let (segment, shape) = Segment::attach_place::<State>(file)?;
        Ok((Self::join(segment, &shape)?, shape))
    }

    fn join(segment: Segment, shape: &Shape) -> Result<Self, QueueError> {
        let plan = shape.plan()?;
        let table = Participants::within(segment.try_clone()?, TABLE)?;
        let participant = table.join()?;
        Ok(Self(Arc::new(Inner {
            segment,
            plan,
            participant,
        })))
    }

    pub(super) fn arena(&self) -> Result<QueueArena, AttachError> {
        Arena::attach(Blocks(self.clone()), self.clone())
    }
}

// SAFETY: a part of a mapped segment's payload, whose address does not change while a clone lives.
unsafe impl Memory for Home {
    fn region(&self) -> Region<'_> {
        self.0.part(self.0.plan.ring, self.0.plan.arena)
    }
}

// SAFETY: as above.
unsafe impl Memory for Blocks {
    fn region(&self) -> Region<'_> {
        let inner = &self.0.0;
        inner.part(inner.plan.arena, inner.plan.end)
    }
}

// SAFETY: the participant's own answers.
unsafe impl Peers for Home {
    fn me(&self) -> ParticipantId {
        self.0.participant.me()
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        self.0.participant.is_dead(participant)
    }
    fn table(&self) -> u32 {
        self.0.participant.table()
    }
    fn share_pid_namespace(&self) -> bool {
        self.0.participant.share_pid_namespace()
    }
}

impl AsFd for Home {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.segment.as_fd()
    }
}
