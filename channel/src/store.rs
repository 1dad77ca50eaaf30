//! A ring, and beside it an arena of blocks that its messages name: what queues of values and loans have
//! in common.
//!
//! | offset | what |
//! |---|---|
//! | 0x00 | bytes of the arena u64, magic "MPRCSTOR" u64; creator |
//! | 0x10 | pouches u64, cookie of their rack u64; creator |
//! | then, at multiples of 128 | the ring (`mpmc`), the arena, the arena of pouches if there are any |
//!
//! # Protocol
//!
//! A block is its sender's until who takes the message *adopts* it. *send*: (1) allocate; (2) write; (3)
//! send. *receive*: (4) take; (5) adopt; (6) read; (7) release; (8) free. *recover*, after the ring's own: (9)
//! a block of the dead that no message names is freed; one that a message names waits for step 5, whoever's
//! it is. *discard*, where orphans are dropped: 4, 5, 7 and 8, by whoever finds one.
//!
//! # Why no block is lost, or freed twice
//!
//! The word of a block names its holder, and changes by compare-and-swap. A message stays in its slot, in a
//! state that says so, from step 3 to step 7, and its block is somebody's then: the sender's up to 5, the
//! receiver's from there. So a block that no message names, when its holder was dead before, will not be
//! named again: who else would send it? And if it was taken over since, step 9 finds another holder in the
//! word. Released before it is freed: the other way round an orphan could name a block that is another's.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | recovery |
//! |---|---|---|
//! | 1, 2 | a block that no message names | freed |
//! | 3 | a message that names it | adopted by who takes that |
//! | 4, 5, 6 | an orphan that names it | the same, or discarded |
//! | 7 | a block that no message names | freed |
//! | 8 | nothing; who waits for a block is not told | it looks at its inner bound |
//! | 9 | what is left is done by the next one | |

use core::alloc::Layout;
use core::marker::PhantomData;

use multiprocess_core::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{
    AttachError, CreateError, Deadline, LayoutHash, Memory, Peers, Place, Region,
};
use multiprocess_shm::{AllocError, Arena, ArenaConfig, ArenaState, Block};

use crate::SendError;
#[cfg(feature = "std")]
use crate::home::Housed;
use crate::mpmc::{self, Endpoint, Onlooker, Recovered, Ring};
use crate::spsc::Message;

const MAGIC: u64 = u64::from_le_bytes(*b"MPRCSTOR");

/// Where the ring starts.
const RING: usize = 128;

#[repr(C, align(128))]
struct Header {
    /// Bytes of the arena. Creator.
    arena: AtomicU64,
    /// Creator, last.
    magic: AtomicU64,
    /// Places for descriptors (`queue/pouch.rs`). Creator.
    pouches: AtomicU64,
    /// The kernel's number of the socket that they hang on. Creator.
    rack: AtomicU64,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Header>(), 128);

/// A message that may name a block.
pub(crate) trait Names: Message {
    /// The block's offset.
    fn block(&self) -> Option<u64>;
}

/// How large the parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) ring: mpmc::Config,
    /// Bytes of all blocks together.
    pub(crate) arena: u64,
    /// Places for the descriptors of a message; 0, or [`MIN_POUCHES`] to [`MAX_POUCHES`].
    pub(crate) pouches: u64,
    /// The kernel's number of the socket that they hang on.
    pub(crate) rack: u64,
}

pub(crate) const MIN_POUCHES: u64 = 4;
pub(crate) const MAX_POUCHES: u64 = 1024;

/// Where the arena starts, the arena of pouches, and the end.
#[derive(Debug, Clone, Copy)]
struct Plan {
    arena: usize,
    pouches: usize,
    end: usize,
}

impl Shape {
    fn plan<T: Message>(&self) -> Result<Plan, CreateError> {
        let absurd = CreateError::Capacity {
            requested: self.arena,
            max: isize::MAX as u64,
        };
        let after = |start: usize, part: Layout| {
            let end = start.checked_add(part.size())?;
            end.checked_next_multiple_of(128)
        };
        let arena = after(RING, Ring::<T>::layout(&self.ring)?).ok_or(absurd)?;
        let blocks = ArenaState::layout(&ArenaConfig::new(self.arena)?)?;
        let pouches = after(arena, blocks).ok_or(absurd)?;
        let end = match self.pouch_arena()? {
            Some(config) => after(pouches, ArenaState::layout(&config)?).ok_or(absurd)?,
            None => pouches,
        };
        Ok(Plan {
            arena,
            pouches,
            end,
        })
    }

    /// A ring and an arena.
    pub(crate) const fn new(ring: mpmc::Config, arena: u64) -> Self {
        Self {
            ring,
            arena,
            pouches: 0,
            rack: 0,
        }
    }

    /// Bytes of the block that stands for a pouch: as many as make the arena's smallest size for the fewest.
    pub(crate) fn pouch_bytes(&self) -> u64 {
        64 * (64 / self.pouches.max(1)).max(1)
    }

    /// The arena whose blocks stand for pouches. Nothing is in them: it is about their words.
    fn pouch_arena(&self) -> Result<Option<ArenaConfig>, CreateError> {
        match self.pouches {
            0 => Ok(None),
            MIN_POUCHES..=MAX_POUCHES => {
                ArenaConfig::new(self.pouches * self.pouch_bytes()).map(Some)
            }
            requested => Err(CreateError::Capacity {
                requested,
                max: MAX_POUCHES,
            }),
        }
    }
}

pub(crate) struct Store<T>(PhantomData<T>);

#[cfg(feature = "std")]
impl<T: Message> Housed for Store<T> {
    fn participants(shape: &Shape) -> u32 {
        shape.ring.seats()
    }
}

// SAFETY: `attach` recomputes the plan from numbers that are read once, and lets each part check its own
// bytes.
unsafe impl<T: Message> Place for Store<T> {
    type Config = Shape;

    const LAYOUT: LayoutHash = LayoutHash::of("a ring and its blocks")
        .mix(2)
        .mix(Ring::<T>::LAYOUT.bits())
        .mix(ArenaState::LAYOUT.bits());

    fn layout(shape: &Shape) -> Result<Layout, CreateError> {
        let size = shape.plan::<T>()?.end;
        Layout::from_size_align(size, 128).map_err(|_| CreateError::Capacity {
            requested: size as u64,
            max: isize::MAX as u64,
        })
    }

    unsafe fn init(region: Region<'_>, shape: &Shape) -> Result<(), CreateError> {
        region.check(Self::layout(shape)?)?;
        let plan = shape.plan::<T>()?;
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
            Ring::<T>::init(part(RING, plan.arena)?, &shape.ring)?;
            let blocks = ArenaConfig::new(shape.arena)?;
            ArenaState::init(part(plan.arena, plan.pouches)?, &blocks)?;
            if let Some(pouches) = shape.pouch_arena()? {
                ArenaState::init(part(plan.pouches, plan.end)?, &pouches)?;
            }
        }
        // SAFETY: large enough and aligned, as just checked; all fields are atomics.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.arena.store(shape.arena, Relaxed);
        header.pouches.store(shape.pouches, Relaxed);
        header.rack.store(shape.rack, Relaxed);
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
        // Acquire pairs with the Release store in `init`.
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
        let ring = Ring::<T>::attach(part(RING)?)?;
        let shape = Shape {
            ring,
            arena,
            pouches: header.pouches.load(Relaxed),
            rack: header.rack.load(Relaxed),
        };
        let plan = shape
            .plan::<T>()
            .map_err(|_| AttachError::Corrupt { field: "blocks" })?;
        if region.len() < plan.end {
            let need = plan.end as u64;
            return Err(AttachError::Truncated { need, have });
        }
        let blocks = ArenaState::attach(part(plan.arena)?)?;
        if ArenaConfig::new(arena) != Ok(blocks) {
            return Err(AttachError::Corrupt { field: "arena" });
        }
        if let Ok(Some(wanted)) = shape.pouch_arena()
            && ArenaState::attach(part(plan.pouches)?)? != wanted
        {
            return Err(AttachError::Corrupt { field: "pouches" });
        }
        Ok(shape)
    }
}

/// Some of the bytes of a memory.
#[derive(Debug, Clone)]
pub(crate) struct Part<M> {
    memory: M,
    from: usize,
    len: usize,
}

// SAFETY: the memory's address and length do not change, and so do the part's.
unsafe impl<M: Memory> Memory for Part<M> {
    fn region(&self) -> Region<'_> {
        let whole = self.memory.region();
        // Found to be inside when it was made.
        whole.sub(self.from, self.len).unwrap_or(whole)
    }
}

/// The ring's bytes, and the arena's, of the store in `memory`.
pub(crate) fn parts<T: Message, M: Memory + Clone>(
    memory: M,
) -> Result<(Part<M>, Part<M>), AttachError> {
    let plan = Store::<T>::attach(memory.region())?
        .plan::<T>()
        .map_err(|_| AttachError::Corrupt { field: "blocks" })?;
    let part = |memory, from, to: usize| Part {
        memory,
        from,
        len: to - from,
    };
    let ring = part(memory.clone(), RING, plan.arena);
    Ok((ring, part(memory, plan.arena, plan.pouches)))
}

/// The bytes of the arena of pouches of the store in `memory`, which has some.
#[cfg(feature = "serde")]
pub(crate) fn pouches<T: Message, M: Memory>(memory: M) -> Result<Part<M>, AttachError> {
    let plan = Store::<T>::attach(memory.region())?
        .plan::<T>()
        .map_err(|_| AttachError::Corrupt { field: "pouches" })?;
    Ok(Part {
        memory,
        from: plan.pouches,
        len: plan.end - plan.pouches,
    })
}

/// Why no block was had.
#[derive(Debug)]
pub(crate) enum Refused {
    TooLarge,
    NotAParticipant,
    Waiting(SendError<()>),
}

/// The arena, and a look at the ring whose messages name its blocks.
pub(crate) struct Blocks<T: Names, M: Memory, P: Peers> {
    arena: Arena<Part<M>, P>,
    ring: Onlooker<T, Part<M>>,
}

impl<T: Names, M: Memory + Clone, P: Peers> Blocks<T, M, P> {
    /// The arena of the store in `memory`; the ring's part of it, too.
    pub(crate) fn attach(memory: M, peers: P) -> Result<(Self, Part<M>), AttachError> {
        let (ring, arena) = parts::<T, M>(memory)?;
        let arena = Arena::attach(arena, peers)?;
        let onlooker = Onlooker::attach(ring.clone())?;
        let blocks = Self {
            arena,
            ring: onlooker,
        };
        Ok((blocks, ring))
    }
}

impl<T: Names, M: Memory, P: Peers> Blocks<T, M, P> {
    pub(crate) fn arena(&self) -> &Arena<Part<M>, P> {
        &self.arena
    }

    /// To look on.
    pub(crate) fn ring(&self) -> &Onlooker<T, Part<M>> {
        &self.ring
    }

    /// What all of it lies in.
    pub(crate) fn memory(&self) -> &M {
        &self.ring.memory().memory
    }

    /// Step 1, waiting for what others have. `recover` is to take back what the dead had.
    #[inline]
    pub(crate) fn allocate(
        &self,
        layout: Layout,
        deadline: impl FnOnce() -> Deadline,
        recover: impl Fn(),
    ) -> Result<Block, Refused> {
        match self.arena.allocate(layout) {
            Ok(block) => Ok(block),
            Err(AllocError::NoSpace { .. }) => {
                if layout.size() as u64 > self.arena.config().bytes() {
                    return Err(Refused::TooLarge);
                }
                self.wait(deadline(), || self.arena.allocate(layout).ok(), recover)
            }
            // A forked child for which the table of participants has no place.
            Err(_) => Err(Refused::NotAParticipant),
        }
    }

    /// Waits until `again` finds something that others have.
    pub(crate) fn wait<R>(
        &self,
        deadline: Deadline,
        again: impl Fn() -> Option<R>,
        recover: impl Fn(),
    ) -> Result<R, Refused> {
        match self.ring.wait_for_memory(deadline, &again, &recover) {
            Err(SendError::Timeout(())) => {
                // The dead may have some.
                recover();
                again().ok_or(Refused::Waiting(SendError::Timeout(())))
            }
            waited => waited.map_err(Refused::Waiting),
        }
    }

    /// Step 8, or a block that was not sent.
    #[inline]
    pub(crate) fn free(&self, block: Block) {
        // Not ours: in a forked child, or a peer has written over the word.
        if self.arena.free(block).is_ok() {
            self.ring.ring_for_memory();
        }
    }

    /// Step 5, for a message in our hands. `None` if a peer has written what it should not.
    #[inline]
    pub(crate) fn adopt(&self, message: &T) -> Option<Block> {
        // SAFETY: the message names it, and is in our hands alone: its holder, alive or dead, has passed
        // it on. (A peer that lies about it gets us another's bytes, and that one loses them.)
        unsafe { self.arena.adopt(message.block()?) }
    }

    /// The ring's recovery and step 9. `seated` discards orphans, if they are to be dropped.
    pub(crate) fn recover(&self, seated: Option<&Endpoint<T, Part<M>, P>>) -> Recovered {
        let recovered = self.ring.recover(self.arena.peers());
        if let Some(endpoint) = seated
            && self.ring.discards()
        {
            endpoint.discard_orphans(|message| {
                let block = self.adopt(&message);
                move || {
                    let _ = block.map(|block| self.arena.free(block));
                }
            });
        }
        self.arena.recover_unless(|offset| {
            self.ring
                .has_message(|message| message.block() == Some(offset))
        });
        self.ring.ring_for_memory();
        recovered
    }
}
