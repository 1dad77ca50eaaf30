//! `Heap`: an arena, its participants and a directory of named objects in one segment.
//!
//! | offset in the payload | what |
//! |---|---|
//! | 0x00 | participants u32, objects u32, bytes of the arena u64 |
//! | 0x80 | the table of [`Participants`] |
//! | then, at multiples of 128 | counters (`heap/counts.rs`), directory (`heap/directory.rs`), arena |

use std::alloc::Layout;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{
    AttachError, CreateError, Deadline, LayoutHash, Memory, Place, Region, ShmSafe, Timeout,
};

use crate::participants::ParticipantsState;
use crate::{
    Arena, ArenaConfig, ArenaState, ArenaStatistics, Named, NamedSegment, Participant,
    Participants, Recovered, Segment,
};

mod counted;
mod counts;
mod directory;
mod error;
mod kept;

pub use counted::Counted;
pub use directory::{MAX_KEY, ObjectInfo};
pub use error::HeapError;

use counts::{Counts, CountsConfig, CountsState, Handle};
use directory::{Directory, DirectoryState, Key};
use kept::Kept;

/// How large a heap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapConfig {
    /// Processes that can use it at a time: 1 to 1024. Each costs 8 bytes for every object.
    pub participants: u32,
    /// Shared values that it can hold at a time, named or not: 1 to 65,536.
    pub objects: u32,
    /// Bytes for blocks, to be rounded up.
    pub bytes: u64,
}

const MAX_PARTICIPANTS: u32 = 1024;

/// Looks for a name that others remove and make anew all the time.
const ATTEMPTS: u32 = 64;

impl Default for HeapConfig {
    /// 32 participants, 256 objects, 1 MiB.
    fn default() -> Self {
        Self {
            participants: 32,
            objects: 256,
            bytes: 1 << 20,
        }
    }
}

/// In shared memory; by the creator.
#[repr(C, align(128))]
struct Header {
    participants: AtomicU32,
    objects: AtomicU32,
    bytes: AtomicU64,
}

/// Where the parts lie.
#[derive(Debug, Clone, Copy)]
struct Plan {
    counts: usize,
    directory: usize,
    arena: usize,
    size: usize,
}

const TABLE: usize = size_of::<Header>();

impl HeapConfig {
    fn counts(&self) -> CountsConfig {
        CountsConfig {
            values: self.objects,
            participants: self.participants,
        }
    }

    fn plan(&self) -> Result<Plan, CreateError> {
        if self.participants > MAX_PARTICIPANTS {
            return Err(CreateError::Capacity {
                requested: u64::from(self.participants),
                max: u64::from(MAX_PARTICIPANTS),
            });
        }
        let absurd = CreateError::Capacity {
            requested: self.bytes,
            max: isize::MAX as u64,
        };
        let after = |start: usize, part: Layout| {
            let end = start.checked_add(part.size())?;
            end.checked_next_multiple_of(128)
        };
        let table = ParticipantsState::layout(&self.participants)?;
        let counts = after(TABLE, table).ok_or(absurd)?;
        let counters = CountsState::layout(&self.counts())?;
        let directory = after(counts, counters).ok_or(absurd)?;
        let arena = after(directory, DirectoryState::layout(&self.objects)?).ok_or(absurd)?;
        let end = after(arena, ArenaState::layout(&ArenaConfig::new(self.bytes)?)?);
        Ok(Plan {
            counts,
            directory,
            arena,
            size: end.ok_or(absurd)?,
        })
    }
}

/// The state in shared memory.
struct HeapState;

// SAFETY: `attach` recomputes the plan from three numbers, and lets each part check its own bytes.
unsafe impl Place for HeapState {
    type Config = HeapConfig;

    const LAYOUT: LayoutHash = LayoutHash::of("Heap")
        .mix(1)
        .mix(ParticipantsState::LAYOUT.bits())
        .mix(CountsState::LAYOUT.bits())
        .mix(DirectoryState::LAYOUT.bits())
        .mix(ArenaState::LAYOUT.bits());

    fn layout(config: &HeapConfig) -> Result<Layout, CreateError> {
        let size = config.plan()?.size;
        Layout::from_size_align(size, 128).map_err(|_| CreateError::Capacity {
            requested: size as u64,
            max: isize::MAX as u64,
        })
    }

    unsafe fn init(region: Region<'_>, config: &HeapConfig) -> Result<(), CreateError> {
        region.check(Self::layout(config)?)?;
        let plan = config.plan()?;
        let part = |from, to: usize| {
            region
                .sub(from, to - from)
                .ok_or(CreateError::RegionTooSmall {
                    need: to as u64,
                    have: region.len() as u64,
                })
        };
        // SAFETY: nobody else uses the bytes, by the caller's word, and the parts do not overlap.
        unsafe {
            ParticipantsState::init(part(TABLE, plan.counts)?, &config.participants)?;
            CountsState::init(part(plan.counts, plan.directory)?, &config.counts())?;
            DirectoryState::init(part(plan.directory, plan.arena)?, &config.objects)?;
            ArenaState::init(
                part(plan.arena, plan.size)?,
                &ArenaConfig::new(config.bytes)?,
            )?;
        }
        // SAFETY: large enough and aligned, as just checked; all fields are atomics.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.participants.store(config.participants, Relaxed);
        header.objects.store(config.objects, Relaxed);
        // Release pairs with the Acquire load in `attach`.
        header.bytes.store(config.bytes, Release);
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<HeapConfig, AttachError> {
        let have = region.len() as u64;
        if region.len() < size_of::<Header>() {
            let need = size_of::<Header>() as u64;
            return Err(AttachError::Truncated { need, have });
        }
        let header = region.base().cast::<Header>();
        if !header.is_aligned() {
            return Err(AttachError::Misaligned { need: 128 });
        }
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let header = unsafe { header.as_ref() };
        let config = HeapConfig {
            // Acquire pairs with the Release store in `init`.
            bytes: header.bytes.load(Acquire),
            participants: header.participants.load(Relaxed),
            objects: header.objects.load(Relaxed),
        };
        let plan = config.plan();
        let plan = plan.map_err(|_| AttachError::Corrupt { field: "heap" })?;
        if region.len() < plan.size {
            let need = plan.size as u64;
            return Err(AttachError::Truncated { need, have });
        }
        Ok(config)
    }
}

/// What keeps the bytes.
enum Keeper {
    Nameless(Segment),
    Named(NamedSegment),
}

/// The bytes of one part.
struct Part {
    segment: Segment,
    offset: usize,
    len: usize,
}

// SAFETY: a part of a mapped segment's payload, whose address does not change while it lives.
unsafe impl Memory for Part {
    fn region(&self) -> Region<'_> {
        let payload = self.segment.payload();
        payload.sub(self.offset, self.len).unwrap_or(payload)
    }
}

struct Inner {
    // Dropped in this order: the name last.
    arena: Arena<Part, Participant>,
    counts: Counts<Part>,
    directory: Directory<Part>,
    kept: Kept,
    config: HeapConfig,
    keeper: Keeper,
}

/// A heap in shared memory: values that processes allocate, share, find by name, and that come back
/// when whoever had them is dead.
///
/// What Boost.Interprocess calls a managed shared memory. Each process attaches once, and takes part
/// in a table that attests deaths. Not for one value (that is a [`Shared`](crate::Shared)), nor for
/// blocks without names or counts (that is an [`Arena`]).
///
/// # Examples
///
/// ```
/// use multiprocess_core::atomic::{AtomicU64, Ordering};
/// use multiprocess_shm::{Heap, HeapConfig};
///
/// let heap = Heap::new(&HeapConfig::default())?;         // or `Heap::open_or_create(&name, ..)`
/// let hits = heap.find_or_create("hits", || AtomicU64::new(0))?;
/// hits.fetch_add(1, Ordering::Relaxed);
///
/// let same = heap.find::<AtomicU64>("hits")?;            // in any process that has the heap
/// assert_eq!(same.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A process killed at any instruction leaves references and blocks that [`recover`](Self::recover)
/// takes back, and at worst the directory's turn, which the next one inherits. Trust: words and
/// directory *guarded*, values *trusting*.
///
/// # Fork
///
/// A child is another participant; the handles that it has inherited are its parent's, and not
/// counted: let it find or attach to what it needs.
#[derive(Clone)]
pub struct Heap {
    inner: Arc<Inner>,
}

impl Heap {
    /// Makes a heap without a name, to be passed on as a descriptor.
    ///
    /// # Errors
    ///
    /// [`HeapError::Create`], [`HeapError::Participant`].
    pub fn new(config: &HeapConfig) -> Result<Self, HeapError> {
        let segment = Segment::create_place::<HeapState>(config)?;
        Self::join(Keeper::Nameless(segment), *config)
    }

    /// Attaches to the heap behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// [`HeapError::Attach`], [`HeapError::Participant`].
    pub fn attach(file: OwnedFd) -> Result<Self, HeapError> {
        let (segment, config) = Segment::attach_place::<HeapState>(file)?;
        Self::join(Keeper::Nameless(segment), config)
    }

    /// Attaches to the heap of that name, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`HeapError::Named`], [`HeapError::Participant`].
    pub fn open_or_create(name: &Named, config: &HeapConfig) -> Result<Self, HeapError> {
        let (segment, config) = name.open_or_create_place::<HeapState>(config)?;
        Self::join(Keeper::Named(segment), config)
    }

    /// Attaches to the heap of that name.
    ///
    /// # Errors
    ///
    /// [`HeapError::Named`], [`HeapError::Attach`], [`HeapError::Participant`].
    pub fn open(name: &Named) -> Result<Self, HeapError> {
        let segment = name.open(HeapState::LAYOUT)?;
        let config = HeapState::attach(segment.payload())?;
        Self::join(Keeper::Named(segment), config)
    }

    fn join(keeper: Keeper, config: HeapConfig) -> Result<Self, HeapError> {
        let segment: &Segment = match &keeper {
            Keeper::Nameless(segment) => segment,
            Keeper::Named(segment) => segment,
        };
        let plan = config.plan()?;
        let part = |from: usize, to: usize| {
            let segment = segment.try_clone()?;
            let (offset, len) = (from, to - from);
            Ok::<_, AttachError>(Part {
                segment,
                offset,
                len,
            })
        };
        let table = Participants::within(segment.try_clone()?, TABLE)?;
        let me = table.join()?;
        let inner = Inner {
            arena: Arena::attach(part(plan.arena, plan.size)?, me)?,
            counts: Counts::attach(part(plan.counts, plan.directory)?, config.counts())?,
            directory: Directory::attach(part(plan.directory, plan.arena)?)?,
            kept: Kept::new(config.objects),
            config,
            keeper,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Moves `value` into the heap, to be shared; with the last reference of the last process it
    /// goes away.
    ///
    /// # Errors
    ///
    /// [`HeapError::Alloc`].
    pub fn share<T: ShmSafe + Send + Sync>(&self, value: T) -> Result<Counted<T>, HeapError> {
        Counted::share(&self.inner, value)
    }

    /// The shared value that a [`Counted::token`] names. Whoever made the token must have kept its
    /// reference until now; if nobody has one, that is an error.
    ///
    /// # Errors
    ///
    /// [`HeapError::NotFound`], [`HeapError::OtherType`], [`HeapError::NotAParticipant`].
    pub fn by_token<T: ShmSafe + Send + Sync>(&self, token: u64) -> Result<Counted<T>, HeapError> {
        let handle = Handle::from_bits(token).ok_or(HeapError::NotFound)?;
        Counted::acquire(&self.inner, handle)
    }

    /// The object of that name. Lock-free; no system call.
    ///
    /// # Errors
    ///
    /// [`HeapError::NotFound`]; [`HeapError::OtherType`] if it is there and of another layout;
    /// [`HeapError::InvalidKey`].
    pub fn find<T: ShmSafe + Send + Sync>(&self, key: &str) -> Result<Counted<T>, HeapError> {
        let key = Key::new(key)?;
        for _ in 0..ATTEMPTS {
            let found = self.inner.directory.find(&key).ok_or(HeapError::NotFound)?;
            let acquired = Counted::acquire(&self.inner, found.handle);
            // It may have been removed, and made anew, since.
            if self.inner.directory.is_there(&found) {
                return acquired;
            }
        }
        Err(HeapError::NotFound)
    }

    /// The object of that name, borrowed for as long as this process has the heap. Lock-free; no system
    /// call; and, but for the first time, no write to shared memory, so that any number of processes can
    /// look things up at once.
    ///
    /// Not for names that come and go: this process keeps what it has borrowed, which is counted once, until the
    /// last handle of the heap in it is dropped, and a [removed](Self::remove) object has its block until
    /// then. [`find`](Self::find) gives an object back as soon as it is dropped.
    ///
    /// ```
    /// # use multiprocess_core::atomic::{AtomicU64, Ordering};
    /// # use multiprocess_shm::{Heap, HeapConfig};
    /// # let heap = Heap::new(&HeapConfig::default())?;
    /// heap.create("hits", AtomicU64::new(7))?;
    /// let hits: &AtomicU64 = heap.get("hits")?;
    /// assert_eq!(hits.load(Ordering::Relaxed), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    ///
    /// # Crash safety
    ///
    /// Killed, what was kept is taken back by [`recover`](Self::recover), as any reference.
    ///
    /// # Fork
    ///
    /// What the parent has borrowed is good in a child as long as the parent keeps it; what the child asks
    /// for is counted for the child.
    pub fn get<T: ShmSafe + Send + Sync>(&self, key: &str) -> Result<&T, HeapError> {
        let key = Key::new(key)?;
        for _ in 0..ATTEMPTS {
            let found = self.inner.directory.find(&key).ok_or(HeapError::NotFound)?;
            if let Some(kept) = self.inner.look(found.handle) {
                return Ok(kept);
            }
            let kept = self.inner.keep(found.handle);
            // It may have been removed, and made anew, since.
            if self.inner.directory.is_there(&found) {
                return kept;
            }
        }
        Err(HeapError::NotFound)
    }

    /// Gives `value` a name.
    ///
    /// # Errors
    ///
    /// [`HeapError::Exists`], [`HeapError::Full`], [`HeapError::InvalidKey`], [`HeapError::Alloc`];
    /// [`HeapError::Timeout`] if another process has had the directory's turn for 10 s;
    /// [`HeapError::Attach`] if what stands there is nobody's turn ([`AttachError::Corrupt`]).
    pub fn create<T: ShmSafe + Send + Sync>(
        &self,
        key: &str,
        value: T,
    ) -> Result<Counted<T>, HeapError> {
        self.create_timeout(key, value, directory::PATIENCE)
    }

    /// As [`create`](Self::create), waiting for the directory's turn no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_timeout<T: ShmSafe + Send + Sync>(
        &self,
        key: &str,
        value: T,
        timeout: impl Into<Timeout>,
    ) -> Result<Counted<T>, HeapError> {
        let deadline = Deadline::after(timeout);
        let key = Key::new(key)?;
        let made = self.share(value)?;
        self.enter(&key, &made, deadline)?;
        Ok(made)
    }

    /// The object of that name, or a new one. Several processes that find nothing may call `make` at
    /// once; one wins, the others drop theirs and get that one's.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`create`](Self::create), but for `NotFound` and `Exists`.
    pub fn find_or_create<T: ShmSafe + Send + Sync>(
        &self,
        key: &str,
        make: impl FnOnce() -> T,
    ) -> Result<Counted<T>, HeapError> {
        match self.find(key) {
            Err(HeapError::NotFound) => {}
            other => return other,
        }
        let made = self.share(make())?;
        let key = Key::new(key)?;
        for _ in 0..ATTEMPTS {
            match self.enter(&key, &made, Deadline::after(directory::PATIENCE)) {
                Ok(()) => return Ok(made),
                Err(HeapError::Exists) => {}
                Err(error) => return Err(error),
            }
            match self.find(key.as_str()) {
                Err(HeapError::NotFound) => {} // removed again
                other => return other,
            }
        }
        Err(HeapError::NotFound)
    }

    fn enter<T: ShmSafe>(
        &self,
        key: &Key<'_>,
        made: &Counted<T>,
        deadline: Deadline,
    ) -> Result<(), HeapError> {
        let (handle, layout) = (made.handle(), counted::layout_of::<T>());
        self.inner
            .directory
            .insert(key, handle, layout, &self.inner, deadline)
    }

    /// Takes a name away; who has the object keeps it.
    ///
    /// # Errors
    ///
    /// [`HeapError::NotFound`], [`HeapError::InvalidKey`]; [`HeapError::Timeout`] and
    /// [`HeapError::Attach`] as [`create`](Self::create).
    pub fn remove(&self, key: &str) -> Result<(), HeapError> {
        self.remove_timeout(key, directory::PATIENCE)
    }

    /// As [`remove`](Self::remove), waiting for the directory's turn no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_timeout(&self, key: &str, timeout: impl Into<Timeout>) -> Result<(), HeapError> {
        let deadline = Deadline::after(timeout);
        self.inner
            .directory
            .remove(&Key::new(key)?, &self.inner, deadline)
    }

    /// The named objects.
    pub fn objects(&self) -> impl Iterator<Item = ObjectInfo> + '_ {
        self.inner.directory.objects()
    }

    /// Takes back what dead processes held: blocks, and references to shared values, which go away
    /// if nobody else has one. To be called at any time, by anybody.
    pub fn recover(&self) -> Recovered {
        self.inner.counts.recover(&self.inner.arena);
        self.inner.arena.recover()
    }

    /// The blocks, for those who want some without a count.
    pub fn arena(&self) -> &Arena<impl Memory, Participant> {
        &self.inner.arena
    }

    /// This process among the participants: what locks in the heap are taken with.
    pub fn participant(&self) -> &Participant {
        self.inner.arena.peers()
    }

    /// Numbers about the blocks.
    pub fn statistics(&self) -> ArenaStatistics {
        self.inner.arena.statistics()
    }

    /// How large it is.
    pub fn config(&self) -> &HeapConfig {
        &self.inner.config
    }
}

impl AsFd for Heap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.inner.keeper {
            Keeper::Nameless(segment) => segment.as_fd(),
            Keeper::Named(segment) => segment.as_fd(),
        }
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("config", &self.inner.config)
            .field("statistics", &self.statistics())
            .finish()
    }
}
