//! `Arena`: blocks of memory inside shared memory, to be had and given back by any process.
//!
//! Size classes and slabs as in Bonwick, *The Slab Allocator* (USENIX 1994), with every word that
//! says whose a block is beside the blocks and not in them, so that whoever comes late to a word
//! never touches data. Lock-free: nobody waits for a process that is stopped or dead.
//!
//! # Protocol
//!
//! The heap is divided into *chunks*, chunks into *units* of 64 bytes; each has a word
//! (`arena/words.rs` has their state tables). A block of up to half a chunk lies in a *slab*, a
//! chunk of blocks of one size class; a larger one is a run of whole chunks.
//!
//! *small block*: (1) CAS the word of a unit in a slab FREE → me; if the chunk no longer is that slab,
//! give the word back, and look on. *new slab*: (2) CAS a chunk Free → Claimed(me); (3) → Slab.
//! *free*: (4) the unit's word → FREE. *large block*: (5) claim a run of chunks one after the other, or
//! give back what was claimed; (6) CAS the first unit's word FREE → me; (7) bodies, first to last:
//! Claimed → Body; (8) the head: Claimed → Large. *free*: (9) the head: Large → Claimed(me); (10)
//! bodies, last to first → Free; (11) the unit's word → FREE; (12) the head → Free.
//! *reclaim*, when there is no Free chunk: (13) Slab → Emptying(me); (14) look at all words of its
//! units; (15) none is taken: → Free, else back to Slab.
//! *recover*: (16) a Claimed chunk of the dead: CAS → Claimed(me), free the bodies right behind it,
//! then 12; an Emptying one: CAS → Slab; (17) a unit's word of the dead in a slab: CAS → FREE; at the
//! head of a run: CAS → me, then 9 to 12.
//!
//! # Why blocks never overlap
//!
//! A chunk's word is changed by who has it Claimed, and by CAS. Bodies are a run right behind a head
//! that is Large or Claimed, from 7 to 10, so they are found from it, and by nobody else. 1 and 13
//! meet as in Dekker's algorithm: the allocator writes the unit's word and then reads the chunk's, the
//! reclaimer writes the chunk's and then reads the units'. So either the allocator sees that the slab
//! is gone, or the reclaimer sees that it is not empty. An allocator that was stopped between the two
//! for long may have put its stamp into a word of what is another slab, or a run, by now: it finds
//! out, and gives it back; until then that place is passed over, and if it dies, 17 gives it back. If
//! the chunk is a slab of the *same* class again when it looks, its claim is good: a word that is
//! taken keeps the chunk from being reclaimed since.
//!
//! # Ordering
//!
//! Frees are Release and pair with the Acquire half of claims: what the last holder wrote is over.
//! Steps 1 and 13, and the loads that follow them, are `SeqCst`, for the argument above.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | until `recover` |
//! |---|---|---|
//! | 1, 6 | a block, or a place, of the dead | it is in use |
//! | 2, 5, 7, 9, 10, 11 | chunks Claimed by the dead; Bodies behind one | they are passed over |
//! | 13, 14 | a slab Emptying by the dead, with blocks of the living perhaps | its free blocks are passed over, its others stay |
//! | 3, 8 | a slab; a block of the dead | |
//! | 4, 12, 15 | nothing | |
//! | 16, 17 | as 2 and 9 | |

use core::alloc::Layout;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
    fence_in_model,
};
use multiprocess_core::{AttachError, Deadline, Memory, ParticipantId, Peers, Place};

mod block;
mod hints;
mod large;
mod layout;
mod recover;
mod room;
#[cfg(feature = "std")]
mod shared;
mod small;
mod statistics;
mod words;

pub use block::{AllocError, ArenaBox, Block, FreeError, Offset};
pub use layout::{ArenaConfig, ArenaState};
pub use recover::Recovered;
pub use statistics::{ArenaStatistics, BlockInfo};

use hints::Hints;
use layout::Parts;
use words::{Chunk, FREE_UNIT, SHARED_SLOT, UNIT, class_of, units_of};

/// The largest alignment of a block.
const MAX_ALIGN: usize = 128;

/// The kind of block that a layout needs.
enum Fitting {
    /// Of a size class.
    Small(u32),
    /// So many chunks.
    Large(u32),
}

/// This process's way to the blocks of an arena in shared memory.
///
/// A block is 64-byte aligned, is named by its [offset](Block::offset), which means the same in every
/// process, and belongs to the participant that allocated it until that one frees it, or is dead and
/// [recovered](Self::recover). An allocation and its free are one atomic read-modify-write together,
/// and no system call. Not for many small values: a block has 64 bytes at least, and the arena keeps
/// another 4 for each of its 64.
///
/// # Examples
///
/// ```
/// use core::alloc::Layout;
/// use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Participants, Segment};
///
/// let table = Participants::new(16)?;
/// let segment = Segment::create_place::<ArenaState>(&ArenaConfig::new(1 << 20)?)?;
/// let arena = Arena::attach(segment, table.join()?)?;
///
/// let block = arena.allocate(Layout::new::<[u8; 1000]>())?;
/// assert!(block.size() >= 1000 && block.offset() % 64 == 0);
/// arena.free(block)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A process killed at any instruction leaves blocks of its own, and chunks it was at work on, which
/// [`recover`](Self::recover) gives back, also if it is killed itself; nobody waits for it. Trust:
/// *guarded*: whatever a peer writes into the words, a call returns, touches no memory outside the
/// arena, and does not panic; but a peer can make blocks overlap.
///
/// # Fork
///
/// As `P`: a child is another participant, and its parent's blocks are not its own.
pub struct Arena<M: Memory, P: Peers> {
    /// Not unmapped if it is pinned.
    memory: ManuallyDrop<M>,
    peers: P,
    config: ArenaConfig,
    hints: Hints,
    /// Of this handle, for its blocks.
    id: u64,
    /// 1: what lies in the memory is on a list of the kernel's.
    pinned: AtomicU32,
}

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Attaches to the [`ArenaState`] that somebody has initialised in `memory`, as `peers`.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes: [`AttachError`]. [`AttachError::OtherParticipants`]: the arena
    /// belongs to those who came first, and these are of another table.
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachError> {
        let config = ArenaState::attach(memory.region())?;
        layout::bind(memory.region(), peers.table())?;
        let hints = Hints::new(u32::from(peers.me().slot()), &config);
        // No two handles are made at the same place at the same time.
        let place = memory.region().base().addr().get() as u64;
        let now = Deadline::now().nanos().unwrap_or(0);
        Ok(Self {
            memory: ManuallyDrop::new(memory),
            peers,
            config,
            hints,
            id: place.rotate_left(32) ^ now,
            pinned: AtomicU32::new(0),
        })
    }

    /// Keeps the memory mapped when the arena is dropped: a forgotten lock in it is on its thread's
    /// robust list, by its address.
    pub(crate) fn pin(&self) {
        self.pinned.store(1, Relaxed);
    }

    /// Allocates a block for `layout`. Its bytes are what the last holder left in them.
    ///
    /// # Errors
    ///
    /// [`AllocError::NoSpace`], after looking everywhere (but [`recover`](Self::recover) may find
    /// some; and in an arena that is nearly full two that want the same place at the same moment, to
    /// allocate there or to reclaim the slab, may both step back: nobody waits, so it may be said
    /// beside a block that is free by then); [`AllocError::Empty`] for no bytes;
    /// [`AllocError::Alignment`] above 128;
    /// [`AllocError::NotAParticipant`].
    #[inline]
    pub fn allocate(&self, layout: Layout) -> Result<Block, AllocError> {
        let me = self.peers.me();
        if me.is_anonymous() || me.slot() == SHARED_SLOT {
            return Err(AllocError::NotAParticipant);
        }
        let found = match self.fitting(layout)? {
            Fitting::Small(class) => self.allocate_small(class, me),
            Fitting::Large(chunks) => self.allocate_large(chunks, me),
        };
        found.ok_or(AllocError::NoSpace {
            requested: layout.size(),
        })
    }

    /// What kind of block `layout` needs.
    #[inline]
    fn fitting(&self, layout: Layout) -> Result<Fitting, AllocError> {
        if layout.size() == 0 {
            return Err(AllocError::Empty);
        }
        if layout.align() > MAX_ALIGN {
            return Err(AllocError::Alignment {
                requested: layout.align(),
            });
        }
        let units = layout.size().div_ceil(UNIT);
        // Every second unit is aligned to 128, and classes of even size are all there are of above 8.
        let units = if layout.align() > UNIT {
            units.next_multiple_of(2)
        } else {
            units
        };
        let Ok(units) = u32::try_from(units) else {
            return Err(AllocError::NoSpace {
                requested: layout.size(),
            });
        };
        Ok(if units <= self.chunk_units() / 2 {
            Fitting::Small(class_of(units))
        } else {
            Fitting::Large(units.div_ceil(self.chunk_units()))
        })
    }

    /// Gives a block back.
    ///
    /// # Errors
    ///
    /// [`FreeError`], with nothing changed: it is not this participant's, or was allocated by another
    /// handle. So is a parent's in a forked child, and what a hostile peer has written over.
    #[inline]
    pub fn free(&self, block: Block) -> Result<(), FreeError> {
        let me = self.peers.me();
        let Some(unit) = self.parts().units.get(block.unit as usize) else {
            return Err(FreeError);
        };
        if block.arena != self.id || me.is_anonymous() || unit.load(Relaxed) != me.bits() {
            return Err(FreeError);
        }
        let head = block.unit >> self.config.shift();
        match self.chunk(head) {
            // A store and no CAS: the word is ours, and a block is freed once.
            // Also while somebody looks whether the slab is empty: it is not, by this block.
            Some(Chunk::Slab(class) | Chunk::Emptying(class, _))
                if self.slab_units(class) == Some(block.units) =>
            {
                // Release pairs with the Acquire half in `try_claim`.
                unit.store(FREE_UNIT, Release);
                self.hints.freed(class, block.unit);
                Ok(())
            }
            Some(Chunk::Large(chunks)) if self.is_first(block.unit) => {
                match self.free_large(head, chunks, me, me.bits()) {
                    true => Ok(()),
                    false => Err(FreeError),
                }
            }
            _ => Err(FreeError),
        }
    }

    /// The block of this participant's at `offset`: found again, not allocated.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: there is none, or it is somebody else's.
    ///
    /// # Safety
    ///
    /// There must be no other [`Block`] or [`ArenaBox`] of it, or it would be freed twice.
    pub unsafe fn block_at(&self, offset: u64) -> Result<Block, FreeError> {
        let block = self.find(offset).ok_or(FreeError)?;
        let me = self.peers.me();
        match self.unit_word(block.unit) {
            Some(word) if !me.is_anonymous() && word == me.bits() => Ok(block),
            _ => Err(FreeError),
        }
    }

    /// Makes the block at `offset` this participant's, whose ever it was. `None` if there is none, or somebody
    /// else adopts it at the same moment.
    ///
    /// # Safety
    ///
    /// Its holder must have passed it on, to this participant alone: a message with its offset, say. Nobody
    /// uses another [`Block`] of it from now on.
    pub unsafe fn adopt(&self, offset: u64) -> Option<Block> {
        let block = self.find(offset)?;
        let me = self.peers.me();
        let holder = self.unit_word(block.unit)?;
        if me.is_anonymous() || words::holder(holder).is_none() {
            return None;
        }
        self.claim(block.unit, holder, me.bits()).then_some(block)
    }

    /// The first byte of a block.
    #[inline]
    pub fn data(&self, block: &Block) -> NonNull<u8> {
        self.address(block.unit)
    }

    /// The participants that it was attached as.
    pub fn peers(&self) -> &P {
        &self.peers
    }

    /// How large it is.
    pub fn config(&self) -> &ArenaConfig {
        &self.config
    }

    #[inline]
    fn parts(&self) -> Parts<'_> {
        // SAFETY: `attach` got the configuration from this region.
        unsafe { layout::parts(self.memory.region(), &self.config) }
    }

    #[inline]
    fn chunk_units(&self) -> u32 {
        1 << self.config.shift()
    }

    /// Whether `unit` is the first of a chunk.
    #[inline]
    fn is_first(&self, unit: u32) -> bool {
        unit & (self.chunk_units() - 1) == 0
    }

    #[inline]
    fn chunk_word(&self, chunk: u32) -> Option<&AtomicU64> {
        self.parts().chunks.get(chunk as usize)
    }

    /// What a chunk is used for; `None` if there is no such chunk, or its word says nothing.
    #[inline]
    fn chunk(&self, chunk: u32) -> Option<Chunk> {
        // SeqCst: the second half of step 1, and Acquire where it matters.
        Chunk::of(self.chunk_word(chunk)?.load(SeqCst))
    }

    /// All chunks from `from` on, once around, and what their words were at a glance: to be looked at
    /// again.
    #[inline]
    fn glance(&self, from: u32) -> impl Iterator<Item = (u32, u64)> + '_ {
        let words = self.parts().chunks;
        let from = (from as usize).checked_rem(words.len()).unwrap_or(0);
        let (before, behind) = words.split_at_checked(from).unwrap_or((&[], words));
        let behind = behind.iter().zip(from as u32..);
        let all = behind.chain(before.iter().zip(0..));
        all.map(|(word, chunk)| (chunk, word.load(Relaxed)))
    }

    /// One step of a chunk.
    #[inline]
    fn turn(&self, chunk: u32, from: Chunk, to: Chunk) -> bool {
        // SeqCst: the first half of step 13. Acquire and Release pair with each other.
        self.chunk_word(chunk).is_some_and(|word| {
            let turned = word.compare_exchange(from.word(), to.word(), SeqCst, Relaxed);
            turned.is_ok()
        })
    }

    fn unit_word(&self, unit: u32) -> Option<u32> {
        Some(self.parts().units.get(unit as usize)?.load(Relaxed))
    }

    /// One step of a unit.
    #[inline]
    fn claim(&self, unit: u32, from: u32, to: u32) -> bool {
        // SeqCst: the first half of step 1. Its Acquire half pairs with the Release of frees.
        self.parts().units.get(unit as usize).is_some_and(|word| {
            let claimed = word.compare_exchange(from, to, SeqCst, Relaxed);
            fence_in_model();
            claimed.is_ok()
        })
    }

    /// Where a unit lies; the first one's for one that is not there.
    #[inline]
    fn address(&self, unit: u32) -> NonNull<u8> {
        let parts = self.parts();
        let inside = (unit as usize) < parts.units.len();
        let offset = if inside { unit as usize * UNIT } else { 0 };
        // SAFETY: as many units as there are words have been found to fit behind `heap`.
        unsafe { parts.heap.add(offset) }
    }

    /// The block that begins at `offset`, whoever has it, if its place is one for blocks.
    fn find(&self, offset: u64) -> Option<Block> {
        let unit = u32::try_from(offset / UNIT as u64).ok()?;
        if !offset.is_multiple_of(UNIT as u64) || self.unit_word(unit)? == FREE_UNIT {
            return None;
        }
        let head = unit >> self.config.shift();
        let within = unit & (self.chunk_units() - 1);
        let units = match self.chunk(head)? {
            Chunk::Slab(class) | Chunk::Emptying(class, _) => {
                let units = self.slab_units(class)?;
                let fits = within.is_multiple_of(units) && within + units <= self.chunk_units();
                fits.then_some(units)?
            }
            Chunk::Large(chunks) if within == 0 => self.run_units(head, chunks)?,
            _ => return None,
        };
        Some(self.block(unit, units))
    }

    fn block(&self, unit: u32, units: u32) -> Block {
        Block {
            unit,
            units,
            arena: self.id,
        }
    }

    /// Units of a class's blocks, if it is one of this arena's.
    #[inline]
    fn slab_units(&self, class: u32) -> Option<u32> {
        let is_one = class <= class_of(self.chunk_units() / 2);
        is_one.then(|| units_of(class))
    }

    /// Units of a run, if it fits.
    fn run_units(&self, head: u32, chunks: u32) -> Option<u32> {
        let end = head.checked_add(chunks)?;
        (end <= self.config.chunks()).then(|| chunks << self.config.shift())
    }

    /// Whether a word names a participant that is dead.
    fn is_dead(&self, holder: ParticipantId) -> bool {
        !holder.is_anonymous() && self.peers.is_dead(holder)
    }
}

impl<M: Memory, P: Peers> Drop for Arena<M, P> {
    fn drop(&mut self) {
        if self.pinned.load(Relaxed) == 0 {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Arena<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("config", &self.config)
            .field("statistics", &self.statistics())
            .finish()
    }
}
