//! Where the parts of an arena lie.

use core::alloc::Layout;
use core::ptr::NonNull;

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering};
use multiprocess_core::{AttachError, CreateError, LayoutHash, Place, Region};

use super::words::{MAX_SHIFT, MIN_SHIFT, UNIT};

/// "MPRCAREN" in the byte order of its writer.
const MAGIC: u64 = u64::from_le_bytes(*b"MPRCAREN");
const VERSION: u32 = 1;

/// The most bytes of a heap: 128 GiB, so that units can be counted in 32 bits.
const MAX_BYTES: u64 = 1 << 37;

/// Chunks that a heap is divided into, about, unless their size is at its limit. A block of about a
/// chunk wastes most, a quarter; more chunks are more words to search for a run.
const AIM: u64 = 16384;

/// Of an arena: see the table in the README.
#[repr(C, align(128))]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    shift: AtomicU32,
    chunks: AtomicU32,
    /// The number of the participants' table whose ids stand in the words; 0: nobody has come yet. By
    /// who comes first, by CAS.
    table: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Header>(), 128);

/// How large an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaConfig {
    shift: u32,
    chunks: u32,
}

impl ArenaConfig {
    /// Room for `bytes` of blocks, rounded up to whole chunks.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for none, or more than 128 GiB.
    pub fn new(bytes: u64) -> Result<Self, CreateError> {
        if bytes == 0 || bytes > MAX_BYTES {
            return Err(CreateError::Capacity {
                requested: bytes,
                max: MAX_BYTES,
            });
        }
        let units = (bytes / AIM / UNIT as u64).max(1).next_power_of_two();
        let shift = units.ilog2().clamp(MIN_SHIFT, MAX_SHIFT);
        let chunk = (UNIT as u64) << shift;
        Ok(Self {
            shift,
            chunks: bytes.div_ceil(chunk) as u32,
        })
    }

    /// Bytes of all blocks together.
    pub const fn bytes(&self) -> u64 {
        (self.chunks as u64) << self.shift << UNIT.ilog2()
    }

    /// Bytes of a chunk: blocks of more than half of it are made of whole chunks.
    pub const fn chunk_bytes(&self) -> u64 {
        (UNIT as u64) << self.shift
    }

    pub(super) const fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Units of a chunk, as a power of two.
    pub(super) const fn shift(&self) -> u32 {
        self.shift
    }

    const fn units(&self) -> u64 {
        (self.chunks as u64) << self.shift
    }

    const fn unit_words(&self) -> u64 {
        128 + 8 * self.chunks as u64
    }

    const fn heap(&self) -> u64 {
        (self.unit_words() + 4 * self.units()).next_multiple_of(128)
    }

    const fn size(&self) -> u64 {
        self.heap() + self.bytes()
    }
}

/// The state in shared memory.
#[derive(Debug)]
pub struct ArenaState;

// SAFETY: `attach` checks magic, version, and that all parts of the configuration that it returns fit
// the region.
unsafe impl Place for ArenaState {
    type Config = ArenaConfig;

    const LAYOUT: LayoutHash = LayoutHash::of("Arena").mix(VERSION as u64).mix(UNIT as u64);

    fn layout(config: &ArenaConfig) -> Result<Layout, CreateError> {
        let absurd = CreateError::Capacity {
            requested: config.size(),
            max: isize::MAX as u64,
        };
        let size = usize::try_from(config.size()).map_err(|_| absurd)?;
        Layout::from_size_align(size, align_of::<Header>()).map_err(|_| absurd)
    }

    unsafe fn init(region: Region<'_>, config: &ArenaConfig) -> Result<(), CreateError> {
        region.check(Self::layout(config)?)?;
        // Words only: blocks are not zeroed, and pages of a new file are anyway.
        // SAFETY: large enough, as just checked; nobody else uses the bytes.
        unsafe {
            region
                .base()
                .as_ptr()
                .write_bytes(0, config.heap() as usize)
        };
        // SAFETY: as above, and aligned; all fields are atomics.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.version.store(VERSION, Ordering::Relaxed);
        header.shift.store(config.shift, Ordering::Relaxed);
        header.chunks.store(config.chunks, Ordering::Relaxed);
        // Release pairs with the Acquire load in `attach`.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<ArenaConfig, AttachError> {
        let have = region.len() as u64;
        let truncated = |need: u64| AttachError::Truncated { need, have };
        if have < size_of::<Header>() as u64 {
            return Err(truncated(size_of::<Header>() as u64));
        }
        let header = region.base().cast::<Header>();
        if !header.is_aligned() {
            let need = align_of::<Header>() as u64;
            return Err(AttachError::Misaligned { need });
        }
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let header = unsafe { header.as_ref() };
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
        let shift = header.shift.load(Ordering::Relaxed);
        let chunks = header.chunks.load(Ordering::Relaxed);
        if !(MIN_SHIFT..=MAX_SHIFT).contains(&shift) {
            return Err(AttachError::Corrupt { field: "shift" });
        }
        let config = ArenaConfig { shift, chunks };
        if chunks == 0 || config.bytes() > MAX_BYTES + config.chunk_bytes() {
            return Err(AttachError::Corrupt { field: "chunks" });
        }
        match have >= config.size() {
            true => Ok(config),
            false => Err(truncated(config.size())),
        }
    }
}

/// The arena in a region that was checked belongs to the participants of `table`, from now on if to
/// nobody yet.
pub(super) fn bind(region: Region<'_>, table: u32) -> Result<(), AttachError> {
    // SAFETY: `ArenaState::attach` has checked the region; any bytes are valid atomics.
    let header = unsafe { region.base().cast::<Header>().as_ref() };
    // Relaxed: nothing but the number itself.
    let bound = header
        .table
        .compare_exchange(0, table, Ordering::Relaxed, Ordering::Relaxed);
    match bound {
        Err(other) if other != table => Err(AttachError::OtherParticipants),
        _ => Ok(()),
    }
}

/// The words and the heap, found by arithmetic on numbers that never change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) chunks: &'a [AtomicU64],
    pub(super) units: &'a [AtomicU32],
    pub(super) heap: NonNull<u8>,
}

/// # Safety
///
/// `config` must come from [`ArenaState::attach`] for this region.
#[inline]
pub(super) unsafe fn parts<'a>(region: Region<'a>, config: &ArenaConfig) -> Parts<'a> {
    let base = region.base();
    // SAFETY: `attach` has found that all of it fits the region, which is 128-byte aligned: so are
    // the words behind the header, each at a multiple of its size. They are atomics, for which
    // any bytes are valid.
    unsafe {
        let chunks = NonNull::slice_from_raw_parts(base.add(128).cast(), config.chunks as usize);
        let units = base.add(config.unit_words() as usize).cast();
        Parts {
            chunks: chunks.as_ref(),
            units: NonNull::slice_from_raw_parts(units, config.units() as usize).as_ref(),
            heap: base.add(config.heap() as usize),
        }
    }
}
