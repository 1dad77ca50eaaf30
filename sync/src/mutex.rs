//! `Mutex<T>`: a [`RawMutex`] with the data it guards beside it.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use multiprocess_core::atomic::UnsafeCell;
use multiprocess_core::thread::Caller;
use multiprocess_core::{Deadline, LayoutHash, ShmSafe, Timeout};

use crate::raw_mutex::Owner;
use crate::{LockError, RawMutex, TryLockError};

/// Data in shared memory, and the robust lock that guards it.
///
/// As `std::sync::Mutex`, between processes; what poisoning is there is the death of an owner
/// here: [`LockError::OwnerDied`] hands out the guard, [`MutexGuard::mark_consistent`] says that
/// the data has been repaired. A guard dropped without it makes the mutex
/// [`NotRecoverable`](LockError::NotRecoverable). A panic is not a death: unwinding drops the
/// guard and unlocks.
///
/// Not recursive ([`RLock`](crate::RLock) is), and only its owner may release it
/// ([`Lock`](crate::Lock) is for handing over). Unfair: a newcomer may barge in.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::Shared;
/// use multiprocess_sync::Mutex;
///
/// let totals = Shared::new(Mutex::new([0u64; 4]))?;   // sent to other processes in a message
/// totals.lock().unwrap()[2] += 1;
/// assert_eq!(*totals.lock().unwrap(), [0, 0, 1, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What an owner wrote before it released, or before it died, is visible to the next owner.
///
/// # Crash safety
///
/// As [`RawMutex`]; the data may be half-written when an owner dies, and is handed out as such.
/// Trust: *trusting*: `&mut T` assumes that peers write it under the lock only; T accepts any
/// bytes.
///
/// # Fork
///
/// A child does not own its parent's mutexes: a guard that it dropped releases nothing.
// Layout: the mutex (40 bytes), then T at its alignment.
#[repr(C)]
pub struct Mutex<T> {
    raw: RawMutex,
    data: UnsafeCell<T>,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(core::mem::offset_of!(Mutex<u64>, data), 40);

// SAFETY: the data is reached through a guard only, of which there is one at a time.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above; a guard hands out `&mut T` on the locking thread, so T must be Send.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    multiprocess_core::const_unless_loom! {
        /// An unlocked mutex around `value`.
        pub fn new(value: T) -> Self {
            Self { raw: RawMutex::new(), data: UnsafeCell::new(value) }
        }
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError`]; [`OwnerDied`](LockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        self.lock_as(Caller::current(), Timeout::Never)
    }

    /// Locks unless that takes longer than `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), and [`LockError::Timeout`].
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn lock_timeout(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        self.lock_as(Caller::current(), timeout)
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; [`OwnerDied`](TryLockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError<MutexGuard<'_, T>>> {
        self.try_lock_as(Caller::current())
    }

    /// Locks in the name of `caller`: without `std`, or as one of several participants.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Self::lock_timeout).
    #[inline]
    pub fn lock_as<'a>(
        &'a self,
        caller: Caller<'a>,
        timeout: impl Into<Timeout>,
    ) -> Result<MutexGuard<'a, T>, LockError<MutexGuard<'a, T>>> {
        match self.raw.acquire_by(&caller, || Deadline::after(timeout)) {
            Ok(owner) => Ok(MutexGuard::of(self, caller, owner)),
            Err(error) => Err(error.map(|owner| MutexGuard::of(self, caller, owner))),
        }
    }

    /// As [`try_lock`](Self::try_lock), in the name of `caller`.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    #[inline]
    pub fn try_lock_as<'a>(
        &'a self,
        caller: Caller<'a>,
    ) -> Result<MutexGuard<'a, T>, TryLockError<MutexGuard<'a, T>>> {
        self.lock_as(caller, Timeout::TRY)
            .map_err(TryLockError::from_timed)
    }

    /// Whether somebody holds it, at the moment of asking.
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// How many owners have died with it, modulo 2^32.
    pub fn deaths(&self) -> u32 {
        self.raw.deaths()
    }

    /// The data, of which the caller is the only user.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        self.data.with_mut(|data| {
            // SAFETY: `&mut self`: no guard of this process borrows it. Memory that peers share
            // is never behind a `&mut` in safe code.
            unsafe { &mut *data }
        })
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

// SAFETY: `repr(C)` of a `ShmSafe` lock and `ShmSafe` data; `UnsafeCell` is transparent.
unsafe impl<T: ShmSafe> ShmSafe for Mutex<T> {
    const LAYOUT: LayoutHash = LayoutHash::of_type::<Self>("Mutex")
        .mix(RawMutex::LAYOUT.bits())
        .mix(T::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part. The data is not told: a guard hands out
        // `&mut T`, by which it can be moved and overwritten, also a lock in it that is held.
        unsafe { self.raw.placed() };
    }

    fn may_unmap(&self) -> bool {
        // SAFETY: nobody in this process uses the value when it is asked, by the trait's word.
        self.raw.may_unmap() && self.data.with(|data| unsafe { (*data).may_unmap() })
    }
}

/// The data of a locked [`Mutex`]; releases it when dropped.
///
/// Not `Send`: the lock belongs to the thread that took it. A guard that is forgotten keeps the
/// mutex locked until its thread ends, and its memory mapped. The next owner is told of a death then,
/// also within this process: a borrow of a leaked guard (`Box::leak`) must not outlive its thread.
#[must_use = "the mutex is released at once if the guard is not kept"]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    caller: Caller<'a>,
    owner: Owner,
    not_send: PhantomData<*const ()>,
}

// SAFETY: `&MutexGuard` gives out `&T` and nothing else.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T> MutexGuard<'a, T> {
    fn of(mutex: &'a Mutex<T>, caller: Caller<'a>, owner: Owner) -> Self {
        Self {
            mutex,
            caller,
            owner,
            not_send: PhantomData,
        }
    }

    /// Declares the data whole again, after [`LockError::OwnerDied`].
    pub fn mark_consistent(&mut self) {
        // Not the owner in one case only: a guard that fork has copied into a child.
        let _ = self.mutex.raw.mark_consistent(&self.caller);
    }

    pub(crate) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    pub(crate) fn caller(&self) -> Caller<'a> {
        self.caller
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the mutex is held by this guard, which is borrowed.
        self.mutex.data.with(|data| unsafe { &*data })
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held by this guard, which is borrowed mutably.
        self.mutex.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: made by an acquisition of this caller; only this guard can release it, since
        // nobody else gets at `raw`. An error: a guard that fork has copied into a child.
        let _ = unsafe { self.mutex.raw.release_guarded(&self.caller, self.owner) };
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MutexGuard").field(&**self).finish()
    }
}
