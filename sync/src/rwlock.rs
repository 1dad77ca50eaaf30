//! `RwLock<T>`: many readers or one writer, each of which may die. Algorithm: one robust lock
//! for the writer and one for each reader, on cache lines of their own (as BRAVO's reader
//! table, <https://arxiv.org/abs/1810.01553>, and LMDB's), with Dekker's handshake in between.
//!
//! # Protocol
//!
//! *read*: (1) take a slot, a [`RawMutex`] that is nearly always free; (2) look at the writer's
//! mutex: free and consistent: reading. Else (3) give the slot back; (4) announce oneself at the
//! gate; (5) look again; (6) park at the gate; from (1). *end of read*: (7) give the slot back.
//! *write*: (8) take the writer's mutex; (9) wait for each slot to be free, in order. *end of
//! write*: (10) release the mutex; (11) look at the gate; (12) if somebody waits there, open it:
//! generation + 1, wake all.
//!
//! # Ordering
//!
//! Two handshakes after Dekker, each side changing its own word and then loading the other's, all
//! `SeqCst`: 1, 2 against 8, 9 (either the reader sees the writer, or the writer sees the
//! reader's slot), and 4, 5 against 10, 11. The Release half of giving back a slot (7) pairs with
//! the Acquire half of the look in 9, that of the mutex (10) with the look in 2.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1, 2 | a slot of the dead | the kernel marks it and wakes the writer that waits for it; without a list, a writer asks the participants; the next reader takes the slot over |
//! | 4, 6 | gate announced in vain | one wake too many |
//! | 8, 9 | the writer's mutex of the dead | writers: `OwnerDied`; readers: `WriterDied` until one has repaired the data |
//! | 10, 11 | gate closed, nobody woken | readers notice at their inner bound, at most 1 s later |

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    UnsafeCell, fence_in_model,
};
use multiprocess_core::park::Patience;
use multiprocess_core::thread::Caller;
use multiprocess_core::{CachePadded, Deadline, LayoutHash, ShmSafe, Timeout, array_of, park};

use crate::raw_mutex::{Look, Owner};
use crate::{LockError, RawMutex};

mod guard;

pub use guard::{RwLockReadGuard, RwLockWriteGuard};

const WAITERS: u32 = 1;
const GENERATION_ONE: u32 = 2;

/// What the writer and those who wait for it share.
#[repr(C)]
struct Writer {
    mutex: RawMutex,
    /// | bits | meaning | who enters | who leaves |
    /// |---|---|---|---|
    /// | WAITERS | readers may sleep here | reader (4) | writer (12) |
    /// | generation, from bit 1 | times it was opened, modulo 2^31 | writer (12) | |
    gate: AtomicU32,
    reserved: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Writer>(), 48);

/// Data in shared memory that many may read, or one may write, at a time; robust.
///
/// Readers do not meet on a cache line, so reading scales; a writer looks at all `SLOTS` of
/// them, and the lock is `(SLOTS + 1) * 128` bytes large. For small data with frequent writers a
/// [`Mutex`](crate::Mutex) is better. Writers go first: readers that come while one waits let it
/// pass. More than `SLOTS` readers at a time wait for each other. A thread may read twice, but a
/// writer that waits in between makes that a deadlock.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::Shared;
/// use multiprocess_sync::RwLock;
///
/// let table = Shared::new(RwLock::<[u32; 16]>::new([0; 16]))?;
/// table.write().unwrap()[3] = 7;
/// let (one, other) = (table.read().unwrap(), table.read().unwrap());
/// assert_eq!(one[3] + other[3], 14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What a writer wrote is visible to whoever has the lock later.
///
/// # Crash safety
///
/// A reader that dies blocks nobody. A writer that dies leaves data that may be half-written: the
/// next writer has it with [`LockError::OwnerDied`], repairs it and says
/// [`mark_consistent`](RwLockWriteGuard::mark_consistent); until then readers get
/// [`LockError::WriterDied`]. Detection as for [`RawMutex`]. Trust: *trusting*, as there.
///
/// # Fork
///
/// A child owns neither its parent's reads nor its writes: their guards release nothing there.
// Layout: 0x00 writer (128), 0x80 slots (128 each), then the data at its alignment.
#[repr(C)]
pub struct RwLock<T, const SLOTS: usize = 32> {
    writer: CachePadded<Writer>,
    slots: [CachePadded<RawMutex>; SLOTS],
    data: UnsafeCell<T>,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(core::mem::offset_of!(RwLock<u64, 3>, slots), 0x80);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(core::mem::offset_of!(RwLock<u64, 3>, data), 0x200);

// SAFETY: the data is reached through guards only: one that writes, or any number that read.
unsafe impl<T: Send, const SLOTS: usize> Send for RwLock<T, SLOTS> {}
// SAFETY: as above; readers share `&T` between threads, writers take `&mut T` to theirs.
unsafe impl<T: Send + Sync, const SLOTS: usize> Sync for RwLock<T, SLOTS> {}

impl<T, const SLOTS: usize> RwLock<T, SLOTS> {
    const NOT_EMPTY: () = assert!(SLOTS > 0, "a lock without a slot could not be read");

    multiprocess_core::const_unless_loom! {
        /// An unlocked lock around `value`.
        pub fn new(value: T) -> Self {
            let () = Self::NOT_EMPTY;
            Self {
                writer: CachePadded::new(Writer {
                    mutex: RawMutex::new(),
                    gate: AtomicU32::new(0),
                    reserved: AtomicU32::new(0),
                }),
                slots: array_of![CachePadded::new(RawMutex::new()); SLOTS],
                data: UnsafeCell::new(value),
            }
        }
    }

    /// Locks for reading, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError::WriterDied`], [`LockError::NotRecoverable`], [`LockError::TooManyHeld`],
    /// [`LockError::Corrupt`], [`LockError::System`]. Never `OwnerDied`.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn read(&self) -> Result<RwLockReadGuard<'_, T, SLOTS>, LockError<()>> {
        self.read_as(Caller::current(), Timeout::Never)
    }

    /// Locks for reading unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`LockError::Timeout`].
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn read_timeout(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<RwLockReadGuard<'_, T, SLOTS>, LockError<()>> {
        self.read_as(Caller::current(), timeout)
    }

    /// Locks for reading if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`](crate::TryLockError), but never `OwnerDied`.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn try_read(&self) -> Result<RwLockReadGuard<'_, T, SLOTS>, crate::TryLockError<()>> {
        self.read_as(Caller::current(), Timeout::TRY)
            .map_err(crate::TryLockError::from_timed)
    }

    /// Locks for writing, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError`]; [`OwnerDied`](LockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn write(
        &self,
    ) -> Result<RwLockWriteGuard<'_, T, SLOTS>, LockError<RwLockWriteGuard<'_, T, SLOTS>>> {
        self.write_as(Caller::current(), Timeout::Never)
    }

    /// Locks for writing unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`LockError::Timeout`].
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn write_timeout(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<RwLockWriteGuard<'_, T, SLOTS>, LockError<RwLockWriteGuard<'_, T, SLOTS>>> {
        self.write_as(Caller::current(), timeout)
    }

    /// Locks for writing if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`](crate::TryLockError); [`OwnerDied`](crate::TryLockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn try_write(
        &self,
    ) -> Result<RwLockWriteGuard<'_, T, SLOTS>, crate::TryLockError<RwLockWriteGuard<'_, T, SLOTS>>>
    {
        self.write_as(Caller::current(), Timeout::TRY)
            .map_err(crate::TryLockError::from_timed)
    }

    /// Locks for reading in the name of `caller`: without `std`, or as one of several
    /// participants.
    ///
    /// # Errors
    ///
    /// As [`read_timeout`](Self::read_timeout).
    #[inline]
    pub fn read_as<'a>(
        &'a self,
        caller: Caller<'a>,
        timeout: impl Into<Timeout>,
    ) -> Result<RwLockReadGuard<'a, T, SLOTS>, LockError<()>> {
        let deadline = Deadline::after(timeout);
        loop {
            let (slot, owner) = self.take_slot(&caller, deadline)?;
            // Dekker, reader's half: against the writer's in `write_as`.
            fence_in_model();
            let look = self.writer.mutex.look();
            if look == Look::Free {
                return Ok(RwLockReadGuard::of(self, slot, caller, owner));
            }
            // SAFETY: just taken by this caller.
            let _ = unsafe { slot.release_guarded(&caller, owner) };
            match look {
                Look::NotRecoverable => return Err(LockError::NotRecoverable),
                Look::Died => return Err(LockError::WriterDied),
                Look::Held | Look::Free => self.wait_at_gate(&caller, deadline)?,
            }
        }
    }

    /// Step 1: a slot that is free, or was a dead reader's.
    #[inline]
    fn take_slot(
        &self,
        caller: &Caller<'_>,
        deadline: Deadline,
    ) -> Result<(&RawMutex, Owner), LockError<()>> {
        // Multiplied, so that ids in a row lie apart (Fibonacci hashing).
        let start = (caller.thread().id().wrapping_mul(0x9e37_79b9) >> 16) as usize % SLOTS;
        loop {
            for probe in 0..SLOTS {
                let slot = &*self.slots[(start + probe) % SLOTS];
                match take_as_reader(slot, caller, || Deadline::after(Timeout::TRY)) {
                    Err(LockError::TooManyHeld) => return Err(LockError::TooManyHeld),
                    Err(_) => {} // taken, or broken by a peer: the next
                    taken => return taken,
                }
            }
            if deadline.has_passed() {
                return Err(LockError::Timeout);
            }
            // All are taken. Wait for one of them, and look at the others now and then.
            let mut others = (0..SLOTS).map(|probe| &*self.slots[(start + probe) % SLOTS]);
            let Some(slot) = others.find(|slot| !slot.is_owned_by(caller)) else {
                return Err(LockError::Deadlock); // all by this thread
            };
            let moment = deadline.min(Deadline::now().plus(Patience::FIRST));
            match take_as_reader(slot, caller, || moment) {
                Err(LockError::Timeout) => {}
                taken => return taken,
            }
        }
    }

    /// Steps 4 to 6, until the writer is gone.
    #[cold]
    fn wait_at_gate(&self, caller: &Caller<'_>, deadline: Deadline) -> Result<(), LockError<()>> {
        let gate = &self.writer.gate;
        let mut patience = Patience::new();
        loop {
            // Dekker, reader's half: against the writer's in `open_gate`.
            let seen = gate.fetch_or(WAITERS, SeqCst) | WAITERS;
            fence_in_model();
            if self.writer.mutex.look() != Look::Held {
                return Ok(());
            }
            let dead = caller
                .peers()
                .is_some_and(|peers| self.writer.mutex.owner_is_dead(peers));
            if dead {
                return Err(LockError::WriterDied);
            }
            if deadline.has_passed() {
                return Err(LockError::Timeout);
            }
            patience
                .park(gate, seen, deadline)
                .map_err(LockError::System)?;
        }
    }

    /// Locks for writing in the name of `caller`: without `std`, or as one of several
    /// participants.
    ///
    /// # Errors
    ///
    /// As [`write_timeout`](Self::write_timeout).
    pub fn write_as<'a>(
        &'a self,
        caller: Caller<'a>,
        timeout: impl Into<Timeout>,
    ) -> Result<RwLockWriteGuard<'a, T, SLOTS>, LockError<RwLockWriteGuard<'a, T, SLOTS>>> {
        let deadline = Deadline::after(timeout);
        let (owner, died) = match self.writer.mutex.acquire_by(&caller, || deadline) {
            Ok(owner) => (owner, false),
            Err(LockError::OwnerDied(owner)) => (owner, true),
            Err(error) => return Err(error.without_guard()),
        };
        // Dekker, writer's half: against the reader's in `read_as`.
        fence_in_model();
        for slot in &self.slots {
            if let Err(error) = slot.wait_until_free(&caller, deadline) {
                // What was not repaired for want of time is left to the next writer.
                // SAFETY: just taken by this caller.
                unsafe { self.writer.mutex.release_unrepaired(&caller, owner) };
                self.open_gate();
                return Err(error.without_guard());
            }
        }
        let guard = RwLockWriteGuard::of(self, caller, owner);
        if died {
            return Err(LockError::OwnerDied(guard));
        }
        Ok(guard)
    }

    /// Steps 11 and 12.
    fn open_gate(&self) {
        let gate = &self.writer.gate;
        // Dekker, writer's half: against the reader's in `wait_at_gate`.
        fence_in_model();
        let mut seen = gate.load(SeqCst);
        while seen & WAITERS != 0 {
            let open = seen.wrapping_add(GENERATION_ONE) & !WAITERS;
            match gate.compare_exchange(seen, open, Relaxed, Relaxed) {
                Ok(_) => {
                    park::wake(gate, u32::MAX);
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Plays the kernel at the death of thread `id`, in a model.
    #[cfg(loom)]
    pub fn kernel_ends(&self, id: u32) {
        self.writer.mutex.kernel_ends(id);
        self.slots.iter().for_each(|slot| slot.kernel_ends(id));
    }

    /// Whether somebody writes, at the moment of asking.
    pub fn is_locked_for_writing(&self) -> bool {
        self.writer.mutex.is_locked()
    }

    /// How many writers have died in it, modulo 2^32.
    pub fn deaths(&self) -> u32 {
        self.writer.mutex.deaths()
    }

    /// Readers at the moment of asking.
    pub fn readers(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_locked()).count()
    }
}

#[inline]
fn take_as_reader<'a>(
    slot: &'a RawMutex,
    caller: &Caller<'_>,
    deadline: impl FnOnce() -> Deadline,
) -> Result<(&'a RawMutex, Owner), LockError<()>> {
    match slot.acquire_by(caller, deadline) {
        Ok(owner) => Ok((slot, owner)),
        Err(LockError::OwnerDied(owner)) => {
            // A reader has nothing to leave half-done.
            let _ = slot.mark_consistent(caller);
            Ok((slot, owner))
        }
        Err(error) => Err(error.without_guard()),
    }
}

impl<T: Default, const SLOTS: usize> Default for RwLock<T, SLOTS> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T, const SLOTS: usize> fmt::Debug for RwLock<T, SLOTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock")
            .field("writer", &self.writer.mutex)
            .field("readers", &self.readers())
            .finish_non_exhaustive()
    }
}

// SAFETY: `repr(C)` of `ShmSafe` locks, words of which any value is valid, and `ShmSafe` data.
unsafe impl<T: ShmSafe, const SLOTS: usize> ShmSafe for RwLock<T, SLOTS> {
    const LAYOUT: LayoutHash = LayoutHash::of_type::<Self>("RwLock")
        .mix(SLOTS as u64)
        .mix(RawMutex::LAYOUT.bits())
        .mix(T::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part. The data is not told: a guard hands out
        // `&mut T`, by which it can be moved and overwritten, also a lock in it that is held.
        unsafe {
            self.writer.mutex.placed();
            self.slots.placed();
        }
    }

    fn may_unmap(&self) -> bool {
        self.writer.mutex.may_unmap()
            && self.slots.may_unmap()
            // SAFETY: nobody in this process uses the value when it is asked, by the trait's word.
            && self.data.with(|data| unsafe { (*data).may_unmap() })
    }
}
