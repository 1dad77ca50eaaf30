//! Elements and the lock that guards them, in one segment.
//!
//! | offset | field |
//! |---|---|
//! | `0x00` | the lock, unless one was given that guards other things, too |
//! | `0x30` | the borrower |
//! | `0x80` | the elements |
//!
//! The lock is recursive, but `&mut` is not: a thread that had two guards of one array would have
//! two mutable borrows of it. So a guard also takes the *borrower* word, which the lock guards. And it
//! pins the lock, which then cannot be released by hand, or by a condition, under it:
//!
//! | borrower | meaning | who enters | who leaves |
//! |---|---|---|---|
//! | 0 | no guard | a guard that is dropped, in the process that made it | a guard |
//! | deaths of the lock's owners (high half), thread (low half) | that thread has a guard | it, with the lock held | it |
//! | the same with fewer deaths | as 0: the guard's owner died with the lock | | a guard |
//!
//! # Crash safety
//!
//! Killed with a guard, whether the borrower was written or not: the lock's next owner counts one
//! death more, and with it the borrower is stale.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::copy::RacyCell;
use multiprocess_core::thread::Caller;
use multiprocess_core::{AttachError, CreateError, LayoutHash, ShmSafe, Timeout};
use multiprocess_shm::transfer::{Fd, Sent, refuse_receiving};
use multiprocess_shm::{HeldSegment, Segment, Shared};
use multiprocess_sync::{LockError, RLock, RLockGuard};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::raw::{Plain, RawSlice};

/// What stands before the elements. All zeroes at first.
#[derive(ShmSafe)]
#[repr(C, align(128))]
struct Head {
    lock: RLock,
    /// Who has a guard; see the module.
    borrower: AtomicU64,
}

const _: () = assert!(size_of::<Head>() == 0x80 && offset_of!(Head, borrower) == 0x30);

/// The head of a segment that is as large as one.
fn head(segment: &Segment) -> &Head {
    // SAFETY: `Guarded` checked that there is room for one; 128-byte aligned, as a payload is;
    // any bytes are one; mapped while the segment is borrowed. It is changed by its own atomics.
    unsafe { segment.payload().base().cast::<Head>().as_ref() }
}

/// A handle on elements behind a lock.
pub(super) struct Guarded<T> {
    segment: Arc<HeldSegment>,
    /// Taken in place of the lock beside the elements.
    given: Option<Shared<RLock>>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Guarded<T> {
    const FITS: () = assert!(
        align_of::<T>() <= 128 && size_of::<T>() > 0,
        "an element has a size, and is aligned to 128 bytes at most"
    );

    fn hash(kind: LayoutHash) -> LayoutHash {
        kind.mix(Head::LAYOUT.bits()).mix(T::LAYOUT.bits())
    }

    /// `len` zeroed elements.
    pub(super) fn zeroed(
        kind: LayoutHash,
        len: usize,
        given: Option<Shared<RLock>>,
    ) -> Result<Self, CreateError> {
        const { Self::FITS };
        let absurd = CreateError::Capacity {
            requested: len as u64,
            max: (isize::MAX as u64 - size_of::<Head>() as u64) / size_of::<T>() as u64,
        };
        if len == 0 {
            return Err(absurd);
        }
        let elements = Layout::array::<T>(len).map_err(|_| absurd)?;
        let (layout, _) = Layout::new::<Head>().extend(elements).map_err(|_| absurd)?;
        // A fresh segment is zeroed, and so is an unlocked lock.
        let segment = Segment::create(Self::hash(kind), layout, |_| Ok(()))?;
        let guarded = Self::of(segment, len, given);
        // SAFETY: it lies in the segment for good; `HeldSegment` asks before it unmaps.
        unsafe { guarded.head().placed() };
        Ok(guarded)
    }

    /// A copy of `elements`.
    pub(super) fn copied(
        kind: LayoutHash,
        elements: &[T],
        given: Option<Shared<RLock>>,
    ) -> Result<Self, CreateError> {
        let guarded = Self::zeroed(kind, elements.len(), given)?;
        // As long as the slice, by construction; nobody else knows them.
        let _ = guarded.raw().copy_from_slice(0, elements);
        Ok(guarded)
    }

    fn attach(
        kind: LayoutHash,
        file: OwnedFd,
        given: Option<Shared<RLock>>,
    ) -> Result<Self, AttachError> {
        const { Self::FITS };
        let segment = Segment::attach(file, Self::hash(kind))?;
        let bytes = segment.payload().len().checked_sub(size_of::<Head>());
        match bytes {
            Some(bytes) if bytes > 0 && bytes.is_multiple_of(size_of::<T>()) => {
                Ok(Self::of(segment, bytes / size_of::<T>(), given))
            }
            _ => Err(AttachError::Corrupt { field: "size" }),
        }
    }

    fn of(segment: Segment, len: usize, given: Option<Shared<RLock>>) -> Self {
        Self {
            segment: HeldSegment::new(segment, |segment| head(segment).may_unmap()),
            given,
            len,
            element: PhantomData,
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        kind: LayoutHash,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let (given, file) = <(Option<Shared<RLock>>, Fd)>::deserialize(deserializer)?;
        Self::attach(kind, file.into_inner(), given).map_err(refuse_receiving)
    }

    #[inline]
    fn elements(&self) -> NonNull<[T]> {
        let base = self.segment.payload().base();
        // SAFETY: the payload has a head and `len` elements, by `zeroed` and `attach`.
        let first = unsafe { base.add(size_of::<Head>()) };
        NonNull::slice_from_raw_parts(first.cast(), self.len)
    }

    /// The elements without the lock: not to be accessed while a guard of this process lives.
    #[inline]
    pub(super) fn raw(&self) -> &RawSlice<T> {
        let cells = self.elements().as_ptr() as *const [RacyCell<T>];
        // SAFETY: so many elements, at a multiple of 128; mapped while `self` is borrowed. A cell
        // is transparent around its T, and takes whatever peers write meanwhile.
        RawSlice::of(unsafe { &*cells })
    }

    #[inline]
    pub(super) fn lock(
        &self,
        timeout: impl Into<Timeout>,
    ) -> Result<Borrow<'_, T>, LockError<Borrow<'_, T>>> {
        match self.rlock().lock_as(Caller::current(), timeout) {
            Ok(lock) => self.borrow(lock),
            Err(LockError::OwnerDied(lock)) => match self.borrow(lock) {
                Ok(borrow) => Err(LockError::OwnerDied(borrow)),
                refused => refused,
            },
            Err(other) => Err(other.without_guard()),
        }
    }

    /// Takes the borrower word, with the lock held.
    #[inline]
    fn borrow<'a>(
        &'a self,
        lock: RLockGuard<'a>,
    ) -> Result<Borrow<'a, T>, LockError<Borrow<'a, T>>> {
        let borrower = &self.head().borrower;
        let stamp = stamp(self.rlock(), lock.caller());
        // Relaxed, all three: the lock orders guards.
        let seen = borrower.load(Relaxed);
        if seen == stamp {
            return Err(LockError::Deadlock);
        }
        if seen != 0 && seen >> 32 == stamp >> 32 {
            return Err(LockError::Corrupt);
        }
        borrower.store(stamp, Relaxed);
        Ok(Borrow {
            guarded: self,
            lock: lock.pin(),
        })
    }
}

/// What `caller` writes into the borrower word while it has `lock`.
#[inline]
fn stamp(lock: &RLock, caller: Caller<'_>) -> u64 {
    u64::from(lock.deaths()) << 32 | u64::from(caller.thread().id())
}

impl<T> Guarded<T> {
    #[inline]
    fn head(&self) -> &Head {
        head(&self.segment)
    }

    #[inline]
    pub(super) fn rlock(&self) -> &RLock {
        match &self.given {
            Some(given) => given,
            None => &self.head().lock,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<T> Clone for Guarded<T> {
    fn clone(&self) -> Self {
        Self {
            segment: Arc::clone(&self.segment),
            given: self.given.clone(),
            len: self.len,
            element: PhantomData,
        }
    }
}

impl<T> Serialize for Guarded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.given, Sent(self.segment.as_fd())).serialize(serializer)
    }
}

/// The lock once, and all there is of the elements; both are given back when it is dropped.
///
/// Not `Send`, as the guard of the lock.
pub(super) struct Borrow<'a, T> {
    guarded: &'a Guarded<T>,
    lock: RLockGuard<'a>,
}

impl<T: Plain> Borrow<'_, T> {
    pub(super) fn mark_consistent(&mut self) {
        self.lock.mark_consistent();
    }

    #[inline]
    pub(super) fn elements(&self) -> &[T] {
        // SAFETY: `len` elements, mapped as long as the handle is borrowed. This is the only borrow
        // of them: there was no other in any process, and none begins before it is dropped or this
        // thread dies: it has pinned the lock.
        // Peers write under the lock only (trusting); T takes any bytes.
        unsafe { self.guarded.elements().as_ref() }
    }

    #[inline]
    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `elements`, and `self` is borrowed mutably.
        unsafe { self.guarded.elements().as_mut() }
    }
}

impl<T> Drop for Borrow<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let borrower = &self.guarded.head().borrower;
        // Another one's in one case only: a guard that fork has copied into a child, whose thread is
        // another.
        if borrower.load(Relaxed) == stamp(self.guarded.rlock(), self.lock.caller()) {
            borrower.store(0, Relaxed);
        }
    }
}
