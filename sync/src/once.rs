//! `Once` and `OnceCell`: something that is done once, by whoever comes first and survives it.

use core::fmt;
use core::mem::MaybeUninit;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    UnsafeCell,
};
use multiprocess_core::thread::Caller;
use multiprocess_core::{LayoutHash, ShmSafe, Timeout};

use crate::{LockError, RawMutex};

const DONE: u32 = 1;

/// Runs an initialisation once for all processes.
///
/// As `std::sync::Once`; if the process that runs it is killed, or the closure panics, the turn
/// goes to the next one. (A u32 would do for the state, but could not name an owner whose death the
/// kernel attests: hence the [`RawMutex`] inside.)
///
/// # Examples
///
/// ```
/// use multiprocess_sync::Once;
///
/// static ONCE: Once = Once::new();      // or in a shared segment
///
/// ONCE.call_once(|| println!("once"))?;
/// ONCE.call_once(|| unreachable!())?;
/// assert!(ONCE.is_done());
/// # Ok::<(), multiprocess_sync::LockError<()>>(())
/// ```
///
/// # Memory ordering
///
/// What the closure wrote is visible after any `call_once` has returned, and after `is_done` has
/// returned `true`.
///
/// # Crash safety
///
/// *call*: (1) return if done; (2) acquire the mutex; (3) return if done; (4) run the closure;
/// (5) done; (6) release. Killed after 2 to 4: the next one runs its closure, on whatever the dead
/// one has left. After 5: done. Trust: *trusting*, as [`RawMutex`]; a peer can claim that it was
/// done.
///
/// # Fork
///
/// A child that is forked inside the closure does not own the turn.
// | done | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | not done; who holds `raw` is at it | creator | the runner (5) |
// | DONE | done | the runner (5), by Release | nobody |
#[repr(C)]
pub struct Once {
    done: AtomicU32,
    reserved: AtomicU32,
    raw: RawMutex,
}

#[cfg(not(loom))]
static_assertions::const_assert_eq!(size_of::<Once>(), 48);
#[cfg(not(loom))]
static_assertions::const_assert_eq!(core::mem::offset_of!(Once, raw), 8);

impl Once {
    multiprocess_core::const_unless_loom! {
        /// Not done; the same as 48 zero bytes.
        pub fn new() -> Self {
            Self { done: AtomicU32::new(0), reserved: AtomicU32::new(0), raw: RawMutex::new() }
        }
    }

    /// Runs `f` if nobody has, or waits until somebody has.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`] inside its own closure, and in a child that was forked there;
    /// [`LockError::System`],
    /// [`LockError::Corrupt`]. Never `OwnerDied`: the turn simply passes on.
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn call_once(&self, f: impl FnOnce()) -> Result<(), LockError<()>> {
        self.call_once_as(Caller::current(), Timeout::Never, f)
    }

    /// As [`call_once`](Self::call_once), in the name of `caller`, waiting for at most `timeout`
    /// for somebody else's closure.
    ///
    /// # Errors
    ///
    /// As [`call_once`](Self::call_once), and [`LockError::Timeout`].
    #[inline]
    pub fn call_once_as(
        &self,
        caller: Caller<'_>,
        timeout: impl Into<Timeout>,
        f: impl FnOnce(),
    ) -> Result<(), LockError<()>> {
        if self.is_done() {
            return Ok(());
        }
        self.run(&caller, timeout.into(), f)
    }

    #[cold]
    fn run(
        &self,
        caller: &Caller<'_>,
        timeout: Timeout,
        f: impl FnOnce(),
    ) -> Result<(), LockError<()>> {
        match self.raw.acquire(caller, timeout) {
            Ok(()) => {}
            Err(LockError::OwnerDied(())) => {
                // What it left half-done is ours to do.
                let _ = self.raw.mark_consistent(caller);
            }
            Err(error) => return Err(error),
        }
        let _turn = Turn(&self.raw, caller);
        if !self.is_done() {
            f();
            if !self.raw.is_owned_by(caller) {
                return Err(LockError::Deadlock); // a child that was forked inside the closure
            }
            // Release pairs with the Acquire load in `is_done`.
            self.done.store(DONE, Release);
        }
        Ok(())
    }

    /// Whether it has been done. One load.
    #[inline]
    pub fn is_done(&self) -> bool {
        // Acquire pairs with the Release store in `run`.
        self.done.load(Acquire) == DONE
    }
}

/// Gives the turn back, also when the closure panics.
struct Turn<'a>(&'a RawMutex, &'a Caller<'a>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Not the owner in one case only: the closure forked, and this is the child.
        let _ = self.0.release(self.1);
    }
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("done", &(self.done.load(Relaxed) == DONE))
            .field("running", &self.raw.is_locked())
            .finish()
    }
}

// SAFETY: `repr(C)` of two words of which any value is valid and a `ShmSafe` lock.
unsafe impl ShmSafe for Once {
    const LAYOUT: LayoutHash = LayoutHash::of("Once").mix(48).mix(RawMutex::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part.
        unsafe { self.raw.placed() };
    }

    fn may_unmap(&self) -> bool {
        self.raw.may_unmap()
    }
}

/// A value in shared memory that is made once, by whoever needs it first.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::Shared;
/// use multiprocess_sync::OnceCell;
///
/// let cell = Shared::new(OnceCell::<u64>::new())?;
/// assert_eq!(cell.get(), None);
/// assert_eq!(cell.get_or_init(|| 42)?, &42);
/// assert_eq!(cell.get_or_init(|| 43)?, &42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// As [`Once`].
///
/// # Crash safety
///
/// As [`Once`]: a value that its maker's death left half-written is written anew. Trust:
/// *trusting*: a reference to it assumes that peers do not write it again.
///
/// # Fork
///
/// As [`Once`].
// Layout: the `Once` (48 bytes), then T at its alignment.
#[repr(C)]
pub struct OnceCell<T> {
    once: Once,
    /// Written by whoever has the turn, before `once` is done; never afterwards.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written once, under the turn, and only read once it is done.
unsafe impl<T: Send> Send for OnceCell<T> {}
// SAFETY: as above; `get` hands out `&T` on any thread, the maker's T came from another one.
unsafe impl<T: Send + Sync> Sync for OnceCell<T> {}

impl<T> OnceCell<T> {
    multiprocess_core::const_unless_loom! {
        /// Without a value.
        pub fn new() -> Self {
            Self { once: Once::new(), value: UnsafeCell::new(MaybeUninit::uninit()) }
        }
    }
}

impl<T: ShmSafe> OnceCell<T> {
    /// The value, if somebody has made it.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.once.is_done().then(|| {
            // SAFETY: done, seen by Acquire: the value was written and is not written again. A
            // peer that only claims so leaves bytes that T accepts, whatever they are.
            self.value
                .with(|value| unsafe { (*value).assume_init_ref() })
        })
    }

    /// The value, made by `make` if nobody has.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once`].
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<&T, LockError<()>> {
        self.get_or_init_as(Caller::current(), Timeout::Never, make)
    }

    /// As [`get_or_init`](Self::get_or_init), in the name of `caller`, waiting for at most
    /// `timeout` for somebody else's value.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once_as`].
    pub fn get_or_init_as(
        &self,
        caller: Caller<'_>,
        timeout: impl Into<Timeout>,
        make: impl FnOnce() -> T,
    ) -> Result<&T, LockError<()>> {
        self.once.call_once_as(caller, timeout, || {
            let made = make();
            if !self.once.raw.is_owned_by(&caller) {
                return; // a child that was forked inside `make`
            }
            self.value.with_mut(|value| {
                // SAFETY: it is our turn and not done: nobody else reads or writes the value.
                unsafe { value.write(MaybeUninit::new(made)) }
            });
        })?;
        self.get().ok_or(LockError::Corrupt)
    }
}

impl<T> Default for OnceCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ShmSafe + fmt::Debug> fmt::Debug for OnceCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceCell").field(&self.get()).finish()
    }
}

// SAFETY: `repr(C)` of a `ShmSafe` once and bytes that T accepts, whatever they are.
unsafe impl<T: ShmSafe> ShmSafe for OnceCell<T> {
    const LAYOUT: LayoutHash = LayoutHash::of_type::<Self>("OnceCell")
        .mix(Once::LAYOUT.bits())
        .mix(T::LAYOUT.bits());

    unsafe fn placed(&self) {
        // SAFETY: the caller's word holds for every part. A value that comes later is told by
        // nobody: locks in it work without the kernel's list.
        unsafe { self.once.placed() };
    }

    fn may_unmap(&self) -> bool {
        self.once.may_unmap() && self.get().is_none_or(T::may_unmap)
    }
}
