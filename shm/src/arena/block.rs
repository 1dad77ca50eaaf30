//! Blocks, and what is in them.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use multiprocess_core::{LayoutHash, Memory, Peers, ShmSafe};

use super::Arena;
use super::words::UNIT;

/// A block that this participant holds. To be given to [`Arena::free`]; dropped, it stays allocated
/// until this process has died and is recovered.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped stays allocated"]
pub struct Block {
    pub(super) unit: u32,
    pub(super) units: u32,
    /// The handle that it came from.
    pub(super) arena: u64,
}

impl Block {
    /// Bytes from the start of the heap: what names the block in every process.
    pub const fn offset(&self) -> u64 {
        self.unit as u64 * UNIT as u64
    }

    /// Bytes that it has: as many as were asked for, or some more.
    pub const fn size(&self) -> usize {
        self.units as usize * UNIT
    }
}

/// Why no block was allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// No block of that size is free.
    NoSpace {
        /// Bytes asked for.
        requested: usize,
    },
    /// No bytes were asked for.
    Empty,
    /// No block is aligned so.
    Alignment {
        /// Bytes asked for; 128 at most.
        requested: usize,
    },
    /// The caller is anonymous: what it held could not be given back if it died.
    NotAParticipant,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace { requested } => write!(f, "no block of {requested} bytes is free"),
            Self::Empty => f.write_str("a block of no bytes"),
            Self::Alignment { requested } => {
                write!(
                    f,
                    "blocks are aligned to 128 bytes at most, not to {requested}"
                )
            }
            Self::NotAParticipant => f.write_str("only a participant can hold a block"),
        }
    }
}

impl core::error::Error for AllocError {}

/// The block is not this participant's: nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeError;

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a block of this participant")
    }
}

impl core::error::Error for FreeError {}

/// Where a `T` lies in an arena: a pointer that means the same in every process, and may lie in
/// shared memory itself. Zero bytes are [`NULL`](Self::NULL).
///
/// # Examples
///
/// ```
/// use multiprocess_core::ShmSafe;
/// use multiprocess_shm::Offset;
///
/// #[derive(ShmSafe)]
/// #[repr(C)]
/// struct Node {
///     value: u64,
///     next: Offset<Node>,
/// }
/// assert!(Node { value: 1, next: Offset::NULL }.next.is_null());
/// ```
#[repr(transparent)]
pub struct Offset<T> {
    /// Units from the start of the heap, plus 1; 0 is nowhere.
    raw: u64,
    points_to: PhantomData<fn() -> T>,
}

impl<T> Offset<T> {
    /// Nowhere.
    pub const NULL: Self = Self {
        raw: 0,
        points_to: PhantomData,
    };

    /// To the start of `block`.
    pub const fn of(block: &Block) -> Self {
        Self {
            raw: block.unit as u64 + 1,
            points_to: PhantomData,
        }
    }

    /// Whether it is [`NULL`](Self::NULL).
    pub const fn is_null(self) -> bool {
        self.raw == 0
    }

    /// Bytes from the start of the heap, as [`Block::offset`].
    pub const fn bytes(self) -> Option<u64> {
        match self.raw.checked_sub(1) {
            Some(units) => units.checked_mul(UNIT as u64),
            None => None,
        }
    }

    /// As a number that stands for it in an atomic, say; 0 is [`NULL`](Self::NULL).
    pub const fn to_bits(self) -> u64 {
        self.raw
    }

    /// The inverse of [`to_bits`](Self::to_bits); every number is an offset, to be checked when it is
    /// used.
    pub const fn from_bits(raw: u64) -> Self {
        Self {
            raw,
            points_to: PhantomData,
        }
    }
}

impl<T> Clone for Offset<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Offset<T> {}

impl<T> PartialEq for Offset<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<T> Eq for Offset<T> {}

impl<T> Default for Offset<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> fmt::Debug for Offset<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            Some(bytes) => write!(f, "Offset({bytes:#x})"),
            None => f.write_str("Offset::NULL"),
        }
    }
}

// SAFETY: a transparent number, every value of which is valid. (The type that it points to is not
// mixed in: it may be the one that holds it.)
unsafe impl<T: 'static> ShmSafe for Offset<T> {
    const LAYOUT: LayoutHash = LayoutHash::of("Offset").mix(1);
}

impl<M: Memory, P: Peers> Arena<M, P> {
    /// Moves `value` into a block of its own.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); the value is dropped, which for a [`ShmSafe`] one is nothing.
    pub fn alloc<T: ShmSafe>(&self, value: T) -> Result<ArenaBox<'_, T, M, P>, AllocError> {
        // A block of a type without bytes has one all the same.
        let size = size_of::<T>().max(1);
        let layout = Layout::from_size_align(size, align_of::<T>());
        let too_large = AllocError::NoSpace { requested: size };
        let block = self.allocate(layout.map_err(|_| too_large)?)?;
        let place = self.data(&block).cast::<T>();
        // SAFETY: as many bytes as asked for, aligned as asked for, and ours alone.
        unsafe { place.write(value) };
        let held: ArenaBox<'_, T, M, P> = ArenaBox {
            arena: self,
            block: ManuallyDrop::new(block),
            value: PhantomData,
        };
        // SAFETY: it stays there until the block is freed, which asks `may_unmap` first.
        unsafe { held.placed() };
        Ok(held)
    }

    /// The `T` at `offset`: checked to lie in the arena, aligned, in a block in use that is large
    /// enough. `None` if not.
    ///
    /// # Safety
    ///
    /// As long as the reference lives the block must not be freed, and it must hold a `T`: an offset
    /// from [`ArenaBox::offset`], in a protocol that tells who frees. (*Trusting*, as all typed
    /// references.)
    pub unsafe fn get<T: ShmSafe>(&self, offset: Offset<T>) -> Option<&T> {
        let block = self.find(offset.bytes()?)?;
        let place = self.data(&block).cast::<T>();
        if block.size() < size_of::<T>() || !place.is_aligned() {
            return None;
        }
        // SAFETY: mapped as long as the arena is borrowed, large enough and aligned; T accepts any
        // bytes; the rest is the caller's word.
        Some(unsafe { place.as_ref() })
    }
}

/// A `T` in a block of its own, which is freed when this is dropped: a `Box` in shared memory.
///
/// # Crash safety
///
/// As a [`Block`] of this process.
///
/// # Fork
///
/// The block is the parent's: dropped in a child, it stays.
pub struct ArenaBox<'a, T: ShmSafe, M: Memory, P: Peers> {
    arena: &'a Arena<M, P>,
    block: ManuallyDrop<Block>,
    value: PhantomData<T>,
}

impl<'a, T: ShmSafe, M: Memory, P: Peers> ArenaBox<'a, T, M, P> {
    /// Where it is, for other processes.
    pub fn offset(&self) -> Offset<T> {
        Offset::of(&self.block)
    }

    /// Lets go of it without freeing it: for a structure of blocks that refer to each other.
    pub fn leak(self) -> Offset<T> {
        ManuallyDrop::new(self).offset()
    }

    /// Takes back what [`leak`](Self::leak) has let go of. `None` if there is no block of this
    /// participant's that is large enough.
    ///
    /// # Safety
    ///
    /// `offset` must come from `leak`, in this process, and be taken back once.
    pub unsafe fn from_offset(arena: &'a Arena<M, P>, offset: Offset<T>) -> Option<Self> {
        // SAFETY: nobody else has it, by the caller's word.
        let block = unsafe { arena.block_at(offset.bytes()?) }.ok()?;
        let fits = block.size() >= size_of::<T>() && arena.data(&block).cast::<T>().is_aligned();
        fits.then(|| Self {
            arena,
            block: ManuallyDrop::new(block),
            value: PhantomData,
        })
    }

    fn place(&self) -> NonNull<T> {
        self.arena.data(&self.block).cast()
    }
}

impl<T: ShmSafe, M: Memory, P: Peers> Deref for ArenaBox<'_, T, M, P> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: written there when it was made, and the block is ours until it is dropped.
        unsafe { self.place().as_ref() }
    }
}

impl<T: ShmSafe, M: Memory, P: Peers> Drop for ArenaBox<'_, T, M, P> {
    fn drop(&mut self) {
        // A lock in it that a thread of ours has forgotten is on that thread's list, by its address.
        if (**self).may_unmap() {
            // SAFETY: dropped once, here, and not used afterwards.
            let block = unsafe { ManuallyDrop::take(&mut self.block) };
            // Not ours: in a forked child.
            let _ = self.arena.free(block);
        } else {
            self.arena.pin();
        }
    }
}

impl<T: ShmSafe + fmt::Debug, M: Memory, P: Peers> fmt::Debug for ArenaBox<'_, T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ArenaBox").field(&**self).finish()
    }
}
