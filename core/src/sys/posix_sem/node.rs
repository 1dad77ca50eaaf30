//! One place to sleep on: who sits there, and a semaphore.

use core::cell::UnsafeCell;

use super::table::NODES;
use crate::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use crate::park::Parked;
use crate::{Deadline, Errno};

/// What a node is about: who sleeps there, on which key, and where to post.
///
/// | bits | meaning |
/// |---|---|
/// | 0-31 | pid |
/// | 32-41 | key |
/// | 42-43 | phase |
/// | 44-56 | number of the node whose semaphore is waited for |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sleeper(u64);

/// | phase | meaning | who enters | who leaves |
/// |---|---|---|---|
/// | Free | nobody's | the kernel; its owner (9) | a sleeper (1) |
/// | Claimed | being prepared | a sleeper (1) | its owner (3); a sleeper, once the owner is dead (1) |
/// | Queued | its owner sleeps, or is about to | its owner (3) | a waker (14); its owner (9); as above |
/// | Woken | its owner is to wake | a waker (14) | its owner (9); as above |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    Claimed,
    Queued,
    Woken,
}

impl Sleeper {
    pub(super) const NOBODY: Self = Self(0);

    pub(super) fn claimed(pid: u32, key: u16, target: u16) -> Self {
        let bits = u64::from(pid) | u64::from(key) << 32 | u64::from(target) << 44;
        Self(bits).in_phase(Phase::Claimed)
    }

    pub(super) fn in_phase(self, phase: Phase) -> Self {
        Self(self.0 & !(3 << 42) | (phase as u64) << 42)
    }

    pub(super) fn pid(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn key(self) -> u16 {
        (self.0 >> 32 & 0x3ff) as u16
    }

    pub(super) fn phase(self) -> Phase {
        [Phase::Free, Phase::Claimed, Phase::Queued, Phase::Woken][(self.0 >> 42 & 3) as usize]
    }

    /// In bounds, whatever the bits say.
    pub(super) fn target(self) -> u16 {
        (self.0 >> 44) as u16 % NODES as u16
    }
}

/// A place to sleep on.
#[repr(C, align(64))]
pub(super) struct Node {
    /// A [`Sleeper`]. Any process, by CAS.
    sleeper: AtomicU64,
    /// Through `sem_*` only.
    semaphore: UnsafeCell<libc::sem_t>,
}

// SAFETY: the semaphore is initialised as process-shared before anybody gets at the node, and is
// used by the `sem_*` functions alone, which any thread may call.
unsafe impl Sync for Node {}

impl Node {
    /// # Safety
    ///
    /// Nobody may use the node yet.
    pub(super) unsafe fn initialise(&self) -> bool {
        self.sleeper.store(Sleeper::NOBODY.0, Relaxed);
        // SAFETY: the memory of a semaphore that nobody uses, by the caller's word.
        unsafe { libc::sem_init(self.semaphore.get(), 1, 0) == 0 }
    }

    pub(super) fn sleeper(&self) -> Sleeper {
        Sleeper(self.sleeper.load(Acquire))
    }

    /// Acquire: whose node it was has done with it. Release: pairs with that, and with the load.
    pub(super) fn change(&self, from: Sleeper, to: Sleeper) -> Result<(), Sleeper> {
        match self.sleeper.compare_exchange(from.0, to.0, AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Sleeper(now)),
        }
    }

    /// Takes away posts that came too late for who sat here before. What is left wakes for nothing.
    pub(super) fn empty(&self) {
        for _ in 0..64 {
            // SAFETY: initialised, by `initialise`; so below.
            if unsafe { libc::sem_trywait(self.semaphore.get()) } != 0 {
                return;
            }
        }
    }

    pub(super) fn post(&self) {
        // SAFETY: as in `empty`. It fails only if the count is full, and then nobody is asleep.
        unsafe { libc::sem_post(self.semaphore.get()) };
    }

    pub(super) fn wait(&self, deadline: Deadline) -> Result<Parked, Errno> {
        let semaphore = self.semaphore.get();
        let result = match deadline.nanos() {
            // SAFETY: as in `empty`.
            None => unsafe { libc::sem_wait(semaphore) },
            // SAFETY: as in `empty`.
            Some(nanos) => unsafe { clock::sem_wait_until(semaphore, nanos) },
        };
        match result {
            0 => Ok(Parked::Woken),
            _ => match errno() {
                Errno::INTR => Ok(Parked::Interrupted),
                Errno::TIMEDOUT => Ok(Parked::TimedOut),
                other => Err(other),
            },
        }
    }
}

/// The time of semaphores is the wall clock's, unless libc can do better.
#[cfg(target_env = "gnu")]
mod clock {
    unsafe extern "C" {
        // glibc 2.30; the libc crate does not have it.
        fn sem_clockwait(
            semaphore: *mut libc::sem_t,
            clock: libc::clockid_t,
            until: *const libc::timespec,
        ) -> libc::c_int;
    }

    /// # Safety
    ///
    /// As `sem_wait`.
    pub(super) unsafe fn sem_wait_until(semaphore: *mut libc::sem_t, nanos: u64) -> libc::c_int {
        let until = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as _,
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        // SAFETY: the caller's word; `until` is a valid time.
        unsafe { sem_clockwait(semaphore, libc::CLOCK_MONOTONIC, &raw const until) }
    }
}

#[cfg(not(target_env = "gnu"))]
compile_error!(
    "the backend of POSIX semaphores has been made and tested with glibc's sem_clockwait only; \
     sem_timedwait follows the wall clock and can oversleep without end when that is set back"
);

fn errno() -> Errno {
    // SAFETY: the address of this thread's errno.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
