//! Linux: shared futexes with absolute monotonic deadlines, and membarrier. No libc.

use core::num::NonZeroU32;

use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::thread::{
    MembarrierCommand, MembarrierQuery, membarrier, membarrier_query, sched_getaffinity,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::park::{MAX_WAIT_ANY, Parked, WaitEntry, WaitWord};
use crate::{Deadline, Errno};

/// The futex backend.
#[derive(Debug)]
pub(crate) struct Backend;

impl super::Park for Backend {
    #[inline]
    fn wait32(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        let timespec = timespec(deadline);
        // WAIT_BITSET and not WAIT: its timeout is absolute, so a signal or a spurious wake
        // does not stretch the wait. No PRIVATE flag: the word is shared between processes.
        parked(futex::wait_bitset(
            word,
            Flags::empty(),
            expected,
            timespec.as_ref(),
            NonZeroU32::MAX,
        ))
    }

    #[inline]
    fn wait64(word: &AtomicU64, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        Self::wait32(low_half(word), expected, deadline)
    }

    #[inline]
    fn wake32(word: &AtomicU32, count: u32) -> u32 {
        // FUTEX_WAKE takes a signed count. It fails only for an address that cannot be read,
        // and then nobody can be sleeping on it.
        futex::wake(word, Flags::empty(), count.min(i32::MAX as u32)).unwrap_or(0) as u32
    }

    #[inline]
    fn wake64(word: &AtomicU64, count: u32) -> u32 {
        Self::wake32(low_half(word), count)
    }

    fn wait_any(entries: &[WaitEntry<'_>], deadline: Deadline) -> Result<Parked, Errno> {
        let mut waits = [Wait::new(); MAX_WAIT_ANY];
        for (wait, entry) in waits.iter_mut().zip(entries) {
            let word = match entry.word() {
                WaitWord::Bits32(word) => word,
                WaitWord::Bits64(word) => low_half(word),
            };
            wait.val = u64::from(entry.expected());
            wait.uaddr = WaitPtr::new(core::ptr::from_ref(word).cast_mut().cast());
            // No PRIVATE flag: the words are shared between processes.
            wait.flags = WaitFlags::SIZE_U32;
        }
        let waits = &waits[..entries.len().min(MAX_WAIT_ANY)];
        let timespec = timespec(deadline);
        // Which of them woke us is a hint at best: several may have been.
        parked(futex::waitv(
            waits,
            WaitvFlags::empty(),
            timespec.as_ref(),
            ClockId::Monotonic,
        ))
    }
}

fn timespec(deadline: Deadline) -> Option<Timespec> {
    deadline.nanos().map(|nanos| Timespec {
        tv_sec: (nanos / 1_000_000_000) as _,
        tv_nsec: (nanos % 1_000_000_000) as _,
    })
}

fn parked<T>(result: Result<T, Errno>) -> Result<Parked, Errno> {
    match result {
        Ok(_) => Ok(Parked::Woken),
        Err(Errno::AGAIN) => Ok(Parked::Changed),
        Err(Errno::INTR) => Ok(Parked::Interrupted),
        Err(Errno::TIMEDOUT) => Ok(Parked::TimedOut),
        Err(other) => Err(other),
    }
}

/// The half of a 64-bit word that holds its low 32 bits, as the kernel addresses it.
pub(super) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let halves: *const AtomicU32 = core::ptr::from_ref(word).cast();
    let index = usize::from(cfg!(target_endian = "big"));
    // SAFETY: both halves lie inside `word`, a 4-byte boundary is implied by its 8-byte one,
    // and the reference lives as long as `word`. It is only handed to the kernel, which
    // compares its value; this process performs no 32-bit access that could race with a
    // 64-bit one in the abstract machine.
    unsafe { &*halves.add(index) }
}

/// `CLOCK_MONOTONIC` in nanoseconds, through the vDSO.
#[inline]
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPUs this thread may run on, asked once per process.
///
/// A cache of a fact about the machine; losing the race to fill it changes nothing.
#[inline]
pub(crate) fn cpus() -> u32 {
    static CPUS: AtomicU32 = AtomicU32::new(0);
    // Relaxed: the value stands alone.
    match CPUS.load(Ordering::Relaxed) {
        0 => ask(&CPUS),
        known => known,
    }
}

#[cold]
fn ask(cache: &AtomicU32) -> u32 {
    let count = sched_getaffinity(None).map_or(1, |set| set.count()).max(1);
    cache.store(count, Ordering::Relaxed);
    count
}

pub(crate) fn membarrier_works() -> bool {
    membarrier_query()
        .contains(MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED)
}

pub(crate) fn membarrier_register() -> bool {
    membarrier_works() && membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
}

#[inline(always)]
pub(crate) fn light_fence() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

pub(crate) fn heavy_fence() -> bool {
    fence(Ordering::SeqCst);
    membarrier(MembarrierCommand::GlobalExpedited).is_ok()
}
