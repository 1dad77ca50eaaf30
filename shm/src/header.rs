//! The first 128 bytes of every segment: who made it, what it is, and whether it is ready.
//!
//! | offset | field | type | written |
//! |---|---|---|---|
//! | 0x00 | magic `MPRCSEG1` | u64 | creator, by CAS from 0, first |
//! | 0x08 | layout version | u32 | creator, before `state` |
//! | 0x0c | state | u32 | creator: CREATING first, READY last |
//! | 0x10 | layout hash of the payload | u64 | creator, before READY |
//! | 0x18 | size of the whole segment, bytes | u64 | creator, before READY |
//! | 0x20 | inode of the creator's PID namespace | u64 | creator, before `state` |
//! | 0x28 | creator's pid in that namespace | u32 | creator, before `state` |
//! | 0x2c | flags, 0 | u32 | creator, before READY |
//! | 0x30 | creator's start time, clock ticks since boot | u64 | creator, before `state` |
//! | 0x38 | the boot of the machine it was made in; 0: not told | u64 | creator, before `state` |
//! | 0x40 | reserved, 0 | 64 B | |
//!
//! Nothing changes after READY. Killed before CREATING: the magic or the state is zero, which
//! attach refuses as garbage. Killed between CREATING and READY: attach asks the kernel
//! whether the recorded creator lives, and says `Initialising` or `CreatorDied`.

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use multiprocess_core::{AttachError, LayoutHash, View};

use crate::sys::{self, Identity};

/// Bytes before the payload; also the payload's alignment.
pub(crate) const HEADER_SIZE: usize = 128;

/// "MPRCSEG1" in the byte order of its writer.
const MAGIC: u64 = u64::from_le_bytes(*b"MPRCSEG1");
const VERSION: u32 = 1;

// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | no header | nobody: zeroed memory | creator, if all of the header is zero |
// | CREATING | payload being initialised | creator | creator; nobody once it is dead |
// | READY | attach may go on | creator, last store | nobody |
const CREATING: u32 = 1;
const READY: u32 = 2;

#[repr(C, align(128))]
pub(crate) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    state: AtomicU32,
    layout: AtomicU64,
    size: AtomicU64,
    pid_namespace: AtomicU64,
    creator_pid: AtomicU32,
    flags: AtomicU32,
    creator_start: AtomicU64,
    boot: AtomicU64,
    reserved: [AtomicU64; 8],
}

#[cfg(not(loom))]
mod layout {
    use super::{HEADER_SIZE, Header};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<Header>(), HEADER_SIZE);
    const_assert_eq!(offset_of!(Header, version), 0x08);
    const_assert_eq!(offset_of!(Header, state), 0x0c);
    const_assert_eq!(offset_of!(Header, layout), 0x10);
    const_assert_eq!(offset_of!(Header, size), 0x18);
    const_assert_eq!(offset_of!(Header, pid_namespace), 0x20);
    const_assert_eq!(offset_of!(Header, creator_pid), 0x28);
    const_assert_eq!(offset_of!(Header, flags), 0x2c);
    const_assert_eq!(offset_of!(Header, creator_start), 0x30);
    const_assert_eq!(offset_of!(Header, boot), 0x38);
    const_assert_eq!(offset_of!(Header, reserved), 0x40);
}

/// A copy of a file's first bytes, to be judged as a header.
#[cfg(feature = "std")]
#[repr(C, align(128))]
pub(crate) struct Bytes([u8; HEADER_SIZE]);

#[cfg(feature = "std")]
impl Bytes {
    pub(crate) fn zeroed() -> Self {
        Self([0; HEADER_SIZE])
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The header in the first `len` bytes.
    pub(crate) fn header(&self, len: usize) -> Result<&Header, AttachError> {
        let base = core::ptr::NonNull::from(&self.0).cast();
        // SAFETY: borrowed as long as the header is; nobody writes it meanwhile, and of the header
        // only loads are made.
        Header::of(unsafe { View::new(base, len.min(HEADER_SIZE)) })
    }
}

/// How far the creator of a file that is to be a segment has come.
#[cfg(feature = "std")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of the header is zero.
    Zero,
    /// It has said that it is at work.
    Begun,
    Ready,
    /// No segment of this byte order.
    Foreign,
}

impl Header {
    /// The header of a mapping of at least [`HEADER_SIZE`] bytes that starts on a page.
    pub(crate) fn of(region: View<'_>) -> Result<&Header, AttachError> {
        if region.len() < HEADER_SIZE {
            return Err(AttachError::Truncated {
                need: HEADER_SIZE as u64,
                have: region.len() as u64,
            });
        }
        let header = region.base().cast::<Header>();
        if !header.is_aligned() {
            return Err(AttachError::Misaligned {
                need: HEADER_SIZE as u64,
            });
        }
        // SAFETY: aligned, in bounds, mapped while the view's lifetime lasts; all fields are
        // atomics, for which every bit pattern is valid and racing peers are no data race. Of a
        // view that is read-only the callers use loads only.
        Ok(unsafe { header.as_ref() })
    }

    /// Says who is at work here, before the payload is touched. `false`: not all zero, so somebody
    /// has been at work already.
    pub(crate) fn begin(&self, creator: Identity, boot: u64) -> bool {
        // Relaxed: nothing is read on the strength of it. The CAS lets one of two creators in.
        let is_fresh = self.is_zero()
            && self
                .magic
                .compare_exchange(0, MAGIC, Relaxed, Relaxed)
                .is_ok();
        if !is_fresh {
            return false;
        }
        self.version.store(VERSION, Relaxed);
        self.pid_namespace.store(creator.pid_namespace, Relaxed);
        self.creator_pid.store(creator.pid, Relaxed);
        self.creator_start.store(creator.start_time, Relaxed);
        self.boot.store(boot, Relaxed);
        // Release pairs with the Acquire load in `validate`: who sees CREATING sees by whom.
        self.state.store(CREATING, Release);
        true
    }

    fn is_zero(&self) -> bool {
        let Self {
            magic,
            version,
            state,
            layout,
            size,
            pid_namespace,
            creator_pid,
            flags,
            creator_start,
            boot,
            reserved,
        } = self;
        let words = [magic, layout, size, pid_namespace, creator_start, boot];
        let halves = [version, state, creator_pid, flags];
        words
            .into_iter()
            .chain(reserved)
            .all(|word| word.load(Relaxed) == 0)
            && halves.into_iter().all(|half| half.load(Relaxed) == 0)
    }

    /// Publishes the segment.
    pub(crate) fn finish(&self, layout: LayoutHash, size: u64) {
        self.layout.store(layout.bits(), Relaxed);
        self.size.store(size, Relaxed);
        self.flags.store(0, Relaxed);
        // Release pairs with the Acquire load in `validate`: who sees READY sees the payload.
        self.state.store(READY, Release);
    }

    /// Checks everything, trusting nothing. `actual` is the size of the mapping.
    pub(crate) fn validate(&self, layout: LayoutHash, actual: u64) -> Result<(), AttachError> {
        // Acquire pairs with the Release stores in `begin` and `finish`.
        let state = self.state.load(Acquire);
        let magic = self.magic.load(Relaxed);
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
        match state {
            READY => {}
            CREATING => return Err(self.unfinished()),
            _ => return Err(AttachError::Corrupt { field: "state" }),
        }
        let found = self.layout.load(Relaxed);
        if found != layout.bits() {
            return Err(AttachError::Layout {
                found,
                expected: layout.bits(),
            });
        }
        let header = self.size.load(Relaxed);
        if header > actual {
            return Err(AttachError::Truncated {
                need: header,
                have: actual,
            });
        }
        if header < actual {
            return Err(AttachError::SizeMismatch { header, actual });
        }
        Ok(())
    }

    fn unfinished(&self) -> AttachError {
        let creator = self.creator();
        if creator.is_dead() {
            AttachError::CreatorDied { pid: creator.pid }
        } else {
            AttachError::Initialising { pid: creator.pid }
        }
    }

    /// The boot it was made in; 0: not told.
    #[cfg(feature = "std")]
    pub(crate) fn boot(&self) -> u64 {
        self.boot.load(Relaxed)
    }

    /// Which layout it says it has.
    #[cfg(feature = "std")]
    pub(crate) fn layout_bits(&self) -> u64 {
        self.layout.load(Relaxed)
    }

    /// The process that made it.
    pub(crate) fn creator(&self) -> Identity {
        Identity {
            pid: self.creator_pid.load(Relaxed),
            start_time: self.creator_start.load(Relaxed),
            pid_namespace: self.pid_namespace.load(Relaxed),
        }
    }

    /// How far its creator has come.
    #[cfg(feature = "std")]
    pub(crate) fn progress(&self) -> Progress {
        // Acquire pairs with the Release stores in `begin` and `finish`.
        let state = self.state.load(Acquire);
        match (self.magic.load(Relaxed), state) {
            (MAGIC, READY) => Progress::Ready,
            (MAGIC, 0 | CREATING) => Progress::Begun,
            (0, 0) if self.is_zero() => Progress::Zero,
            _ => Progress::Foreign,
        }
    }

    /// Whether the creator counted processes in another PID namespace than ours.
    pub(crate) fn is_from_other_namespace(&self) -> bool {
        self.pid_namespace.load(Relaxed) != sys::pid_namespace()
    }

    /// The creator's pid, in its own namespace.
    pub(crate) fn creator_pid(&self) -> u32 {
        self.creator_pid.load(Relaxed)
    }
}
