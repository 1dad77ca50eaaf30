//! Where a queue lies: ring and arena in one [`Home`], as one place.
//!
//! | offset in the place | what |
//! |---|---|
//! | 0x00 | bytes of the arena u64, magic "MPRCQUEU" u64 |
//! | 0x80 | the ring (`mpmc`) |
//! | then, at a multiple of 128 | the arena |

use std::alloc::Layout;
use std::os::fd::OwnedFd;

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{AttachError, CreateError, LayoutHash, Memory, Place, Region};
use multiprocess_shm::{Arena, ArenaConfig, ArenaState};

use super::Envelope;
use super::error::QueueError;
use crate::home::{Home, Housed};
use crate::mpmc::{Config, Ring};

const MAGIC: u64 = u64::from_le_bytes(*b"MPRCQUEU");
/// Where the ring starts.
const RING: usize = 128;

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
        let ring = Ring::<Envelope>::layout(&self.ring)?;
        let arena = after(RING, ring).ok_or(absurd)?;
        let blocks = ArenaState::layout(&ArenaConfig::new(self.arena)?)?;
        let end = after(arena, blocks).ok_or(absurd)?;
        Ok(Plan { arena, end })
    }
}

pub(super) struct State;

impl Housed for State {
    fn participants(shape: &Shape) -> u32 {
        shape.ring.seats()
    }
}

// SAFETY: `attach` recomputes the plan from numbers that are read once, and lets each part check its own
// bytes.
unsafe impl Place for State {
    type Config = Shape;

    const LAYOUT: LayoutHash = LayoutHash::of("Queue")
        .mix(2)
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
            Ring::<Envelope>::init(part(RING, plan.arena)?, &shape.ring)?;
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
        if region.len() < RING {
            let need = RING as u64;
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
        let ring = Ring::<Envelope>::attach(part(RING)?)?;
        let shape = Shape { ring, arena };
        let plan = shape
            .plan()
            .map_err(|_| AttachError::Corrupt { field: "queue" })?;
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

/// A part of a home: the ring's bytes, or the arena's.
#[derive(Clone)]
pub(super) struct Part {
    home: Home,
    from: usize,
    to: usize,
}

pub(super) type QueueArena = Arena<Part, Home>;

/// A queue's home, with its parts.
pub(super) struct QueueHome {
    pub(super) home: Home,
    pub(super) ring: Part,
    arena: Part,
}

impl QueueHome {
    pub(super) fn create(shape: &Shape) -> Result<Self, QueueError> {
        Self::of(Home::create::<State>(shape)?, shape)
    }

    pub(super) fn attach(file: OwnedFd) -> Result<(Self, Shape), QueueError> {
        let (home, shape) = Home::attach_with_config::<State>(file)?;
        Ok((Self::of(home, &shape)?, shape))
    }

    fn of(home: Home, shape: &Shape) -> Result<Self, QueueError> {
        let plan = shape.plan()?;
        let part = |from, to| Part {
            home: home.clone(),
            from,
            to,
        };
        Ok(Self {
            ring: part(RING, plan.arena),
            arena: part(plan.arena, plan.end),
            home,
        })
    }

    pub(super) fn arena(&self) -> Result<QueueArena, AttachError> {
        Arena::attach(self.arena.clone(), self.home.clone())
    }
}

// SAFETY: a part of what a home keeps mapped, whose address does not change while a clone lives.
unsafe impl Memory for Part {
    fn region(&self) -> Region<'_> {
        let whole = self.home.region();
        whole.sub(self.from, self.to - self.from).unwrap_or(whole)
    }
}
