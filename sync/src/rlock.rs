//! `RLock`: a [`RawMutex`] that its owner may take again.

use core::fmt;
use core::marker::PhantomData;

use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use multiprocess_core::thread::Caller;
use multiprocess_core::{LayoutHash, ShmSafe, Timeout};

use crate::{LockError, NotOwner, RawMutex, TryLockError};

/// A lock that its owner, one thread, may take again; released as often as it was taken.
///
/// Python's `multiprocessing.RLock`, and robust: see [`RawMutex`]. It guards whatever its users
/// agree on; it holds no data.
///
/// # Examples
///
/// ```
/// use multiprocess_sync::RLock;
///
/// let lock = RLock::new();
/// let outer = lock.lock().unwrap();
/// let inner = lock.lock().unwrap();
/// assert_eq!(lock.depth(), 2);
/// drop((inner, outer));
/// assert!(lock.release().is_err(), "not owned by this thread");
/// ```
///
/// # Memory ordering
///
/// What an owner wrote before its last release, or before it died, is visible to the next owner.
///
/// # Crash safety
///
/// As [`RawMutex`], whatever the depth: the next one has it at depth 1. Killed after (2): see
/// there; between its acquisition and (3): the depth is a stale number that the next owner
/// overwrites. Trust: *trusting*, as there.
///
/// # Fork
///
/// A child does not own it, although its thread looks like its parent's.
// *lock*: (1) owner already? depth + 1; else (2) acquire, (3) depth = 1, pins = 0. *release*: (4) depth - 1;
// (5) at 0, release. Depth and pins are written by the owner only.
#[repr(C)]
pub struct RLock {
    raw: RawMutex,
    /// The owner.
    depth: AtomicU32,
    /// The owner: so much of the depth is that of [pinned](RLockGuard::pin) guards.
    pins: AtomicU32,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<RLock>(), 48);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(core::mem::offset_of!(RLock, depth), 40);

impl RLock {
    multiprocess_core::const_unless_loom! {
        /// An unlocked lock; the same as 48 zero bytes.
        pub fn new() -> Self {
            Self {
                raw: RawMutex::new(),
                depth: AtomicU32::new(0),
                pins: AtomicU32::new(0),
            }
        }
    }

    /// Locks, waiting as long as it takes; once more if this thread has it already.
    ///
    /// # Errors
    ///
    /// [`LockError`]; [`OwnerDied`](LockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
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
    ) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.lock_as(Caller::current(), timeout)
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; [`OwnerDied`](TryLockError::OwnerDied) carries the guard.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn try_lock(&self) -> Result<RLockGuard<'_>, TryLockError<RLockGuard<'_>>> {
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
    ) -> Result<RLockGuard<'a>, LockError<RLockGuard<'a>>> {
        match self.acquire(&caller, timeout) {
            Ok(()) => Ok(RLockGuard::of(self, caller)),
            Err(error) => Err(error.map(|()| RLockGuard::of(self, caller))),
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
    ) -> Result<RLockGuard<'a>, TryLockError<RLockGuard<'a>>> {
        self.lock_as(caller, Timeout::TRY)
            .map_err(TryLockError::from_timed)
    }

    /// [`lock_as`](Self::lock_as) without a guard.
    ///
    /// # Errors
    ///
    /// As there; with [`OwnerDied`](LockError::OwnerDied) the caller *has* the lock.
    #[inline]
    pub fn acquire(
        &self,
        caller: &Caller<'_>,
        timeout: impl Into<Timeout>,
    ) -> Result<(), LockError<()>> {
        if self.raw.is_owned_by(caller) {
            let depth = self.depth.load(Relaxed);
            // A count that would pass 2^32 is no honest program's.
            let deeper = depth.checked_add(1).ok_or(LockError::Corrupt)?;
            self.depth.store(deeper, Relaxed);
            return Ok(());
        }
        self.acquire_all(caller, timeout, 1)
    }

    /// Undoes one lock of the calling thread; the counterpart of a forgotten guard.
    ///
    /// # Errors
    ///
    /// [`NotOwner`], also if all that this thread has left of it belongs to guards that borrow what the
    /// lock guards (those of a `Value`).
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn release(&self) -> Result<(), NotOwner> {
        self.release_as(&Caller::current())
    }

    /// As [`release`](Self::release), in the name of `caller`.
    ///
    /// # Errors
    ///
    /// [`NotOwner`].
    #[inline]
    pub fn release_as(&self, caller: &Caller<'_>) -> Result<(), NotOwner> {
        self.undo(caller, false)
    }

    #[inline]
    fn undo(&self, caller: &Caller<'_>, pinned: bool) -> Result<(), NotOwner> {
        let owner = self.raw.owned_by(caller).ok_or(NotOwner)?;
        let depth = self.depth.load(Relaxed);
        let pins = self.pins.load(Relaxed);
        if pinned {
            self.pins.store(pins.saturating_sub(1), Relaxed);
        } else if pins != 0 && pins >= depth {
            return Err(NotOwner);
        }
        self.depth.store(depth.saturating_sub(1), Relaxed);
        if depth <= 1 {
            // SAFETY: the word says that it is the caller's, and only the caller can change that.
            unsafe { self.raw.release_guarded(caller, owner) }
        } else {
            Ok(())
        }
    }

    /// Gives it up whatever the depth, which is returned.
    ///
    /// # Errors
    ///
    /// [`Kept::Pinned`]: it is the caller's, and stays so.
    pub(crate) fn release_all(&self, caller: &Caller<'_>) -> Result<u32, Kept> {
        if !self.raw.is_owned_by(caller) {
            return Err(Kept::NotOwned);
        }
        if self.pins.load(Relaxed) != 0 {
            return Err(Kept::Pinned);
        }
        let depth = self.depth.load(Relaxed);
        self.depth.store(0, Relaxed);
        self.raw
            .release(caller)
            .map_err(|NotOwner| Kept::NotOwned)?;
        Ok(depth)
    }

    /// The opposite of [`release_all`](Self::release_all).
    #[inline]
    pub(crate) fn acquire_all(
        &self,
        caller: &Caller<'_>,
        timeout: impl Into<Timeout>,
        depth: u32,
    ) -> Result<(), LockError<()>> {
        let taken = self.raw.acquire(caller, timeout);
        if matches!(taken, Ok(()) | Err(LockError::OwnerDied(()))) {
            self.depth.store(depth, Relaxed);
            // A dead owner's may be left.
            self.pins.store(0, Relaxed);
        }
        taken
    }

    /// How often its owner has taken it; 0 if nobody has. Exact for the owner.
    pub fn depth(&self) -> u32 {
        if self.raw.is_locked() {
            self.depth.load(Relaxed)
        } else {
            0
        }
    }

    /// Whether the calling thread owns it.
    #[cfg(all(feature = "std", not(loom)))]
    pub fn is_owned(&self) -> bool {
        self.raw.is_owned_by(&Caller::current())
    }

    /// How many owners have died with it, modulo 2^32.
    #[inline]
    pub fn deaths(&self) -> u32 {
        self.raw.deaths()
    }
}

impl Default for RLock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("depth", &self.depth())
            .field("raw", &self.raw)
            .finish()
    }
}

// SAFETY: `repr(C)` of a `ShmSafe` lock and two words of which any value is valid.
unsafe impl ShmSafe for RLock {
    const LAYOUT: LayoutHash = LayoutHash::of("RLock")
        .mix(48)
        .mix(2)
        .mix(RawMutex::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part.
        unsafe { self.raw.placed() };
    }

    fn may_unmap(&self) -> bool {
        self.raw.may_unmap()
    }
}

/// Why an [`RLock`] was not given up.
pub(crate) enum Kept {
    NotOwned,
    Pinned,
}

/// Holds an [`RLock`] once; undoes that when dropped.
///
/// Not `Send`: the lock belongs to the thread that took it.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    caller: Caller<'a>,
    pinned: bool,
    not_send: PhantomData<*const ()>,
}

impl<'a> RLockGuard<'a> {
    pub(crate) fn of(lock: &'a RLock, caller: Caller<'a>) -> Self {
        Self {
            lock,
            caller,
            pinned: false,
            not_send: PhantomData,
        }
    }

    /// From now on nothing but the drop of this guard, and the owner's death, gives back what it
    /// holds: for guards that borrow what the lock guards.
    #[doc(hidden)]
    #[inline]
    pub fn pin(mut self) -> Self {
        if !self.pinned && self.lock.raw.is_owned_by(&self.caller) {
            let pins = self.lock.pins.load(Relaxed);
            self.lock.pins.store(pins.saturating_add(1), Relaxed);
            self.pinned = true;
        }
        self
    }

    /// Declares what the lock guards whole again, after [`LockError::OwnerDied`].
    pub fn mark_consistent(&mut self) {
        // Not the owner in one case only: a guard that fork has copied into a child.
        let _ = self.lock.raw.mark_consistent(&self.caller);
    }

    pub(crate) fn lock(&self) -> &'a RLock {
        self.lock
    }

    /// Who locked.
    #[doc(hidden)]
    #[inline]
    pub fn caller(&self) -> Caller<'a> {
        self.caller
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Not the owner: a guard that fork has copied into a child, or one whose share was released
        // by hand.
        let _ = self.lock.undo(&self.caller, self.pinned);
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RLockGuard").field(self.lock).finish()
    }
}
