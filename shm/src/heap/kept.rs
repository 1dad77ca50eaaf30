//! What this process keeps of a heap: objects that were borrowed from it, each counted once.
//!
//! A list for each counter, of this process's own memory. A record is never changed and never taken out
//! again before the heap goes, so that whoever reads one needs no lock and no count of its own.
//!
//! # Protocol
//!
//! *look*: (1) the records of the counter, the newest first; (2) one of the same value, the same type and
//! this process is it. *keep*: (3) count one more reference of this process; (4) a new record before
//! the newest, by compare-and-swap; if another thread was faster, the count back, and again from 1.
//! *drop*: (5) give up the references of all records that this process has made.
//!
//! A counter has several records only if its value was asked for as two types, which a peer must have
//! forged, or if the process has forked: what its parent has counted protects the parent only, so a child
//! counts anew.
//!
//! # Crash safety
//!
//! In shared memory there are only counts of this process (`heap/counts.rs`, steps 7 to 9), which
//! `recover` takes back from the dead.

use std::ptr::{self, NonNull};

use multiprocess_core::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};
use multiprocess_core::thread::generation;
use multiprocess_core::{Peers, ShmSafe};

use super::counted::{self, layout_of};
use super::counts::Handle;
use super::{HeapError, Inner};

/// One value, counted.
struct Record {
    handle: Handle,
    layout: u64,
    /// Of the process that is counted.
    generation: u64,
    value: NonNull<u8>,
    may_unmap: unsafe fn(NonNull<u8>) -> bool,
    older: *mut Record,
}

/// The records of all counters.
pub(super) struct Kept {
    newest: Box<[AtomicPtr<Record>]>,
}

// SAFETY: records are owned here, never changed once they can be seen, and point to values that are
// `Send` and `Sync`, since only `keep` makes any.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

/// Whether this process may unmap the `T` there.
///
/// # Safety
///
/// There is a `T`, as [`Inner::look`] would return it.
unsafe fn may_unmap<T: ShmSafe>(value: NonNull<u8>) -> bool {
    // SAFETY: the caller's word.
    unsafe { value.cast::<T>().as_ref() }.may_unmap()
}

impl Kept {
    pub(super) fn new(objects: u32) -> Self {
        let none = || AtomicPtr::new(ptr::null_mut());
        Self {
            newest: (0..objects).map(|_| none()).collect(),
        }
    }
}

impl Inner {
    /// The value, if it is kept. Steps 1 and 2.
    #[inline]
    pub(super) fn look<T: ShmSafe>(&self, handle: Handle) -> Option<&T> {
        let mut next = self
            .kept
            .newest
            .get(usize::from(handle.index))?
            .load(Acquire);
        // Acquire pairs with the Release in `keep`. SAFETY: records stay, unchanged, until `self` is
        // dropped.
        while let Some(record) = unsafe { next.as_ref() } {
            let is_it = record.handle == handle
                && record.layout == layout_of::<T>().bits()
                && record.generation == generation();
            if is_it {
                // SAFETY: `keep` has found a `T` there, large enough and aligned, and has counted it for
                // this process: nobody frees it before `self` is dropped. T accepts any bytes.
                return Some(unsafe { record.value.cast::<T>().as_ref() });
            }
            next = record.older;
        }
        None
    }

    /// Keeps the value. Steps 3 and 4.
    #[cold]
    pub(super) fn keep<T: ShmSafe + Send + Sync>(&self, handle: Handle) -> Result<&T, HeapError> {
        let value = counted::acquire::<T>(self, handle)?;
        let newest = self.kept.newest.get(usize::from(handle.index));
        let newest = newest.ok_or(HeapError::NotFound)?;
        let mut record = Box::new(Record {
            handle,
            layout: layout_of::<T>().bits(),
            generation: generation(),
            value: value.cast(),
            may_unmap: may_unmap::<T>,
            older: newest.load(Acquire),
        });
        loop {
            if let Some(kept) = self.look(handle) {
                let me = self.arena.peers().me();
                self.counts.release(&self.arena, handle, me);
                return Ok(kept);
            }
            let (older, new) = (record.older, Box::into_raw(record));
            // Release pairs with the Acquire in `look`.
            match newest.compare_exchange(older, new, Release, Acquire) {
                // SAFETY: as in `look`.
                Ok(_) => return Ok(unsafe { value.as_ref() }),
                Err(now) => {
                    // SAFETY: from `into_raw` just now; nobody has seen it.
                    record = unsafe { Box::from_raw(new) };
                    record.older = now;
                }
            }
        }
    }
}

impl Drop for Inner {
    /// Step 5.
    fn drop(&mut self) {
        for newest in &self.kept.newest {
            let mut next = newest.load(Acquire);
            while !next.is_null() {
                // SAFETY: from `into_raw` in `keep`; reached once, since it is in one list only.
                let record = unsafe { Box::from_raw(next) };
                next = record.older;
                // As `Counted` is dropped.
                // SAFETY: a `T` is there still: it is counted.
                if !unsafe { (record.may_unmap)(record.value) } {
                    self.arena.pin();
                } else if record.generation == generation() {
                    let me = self.arena.peers().me();
                    self.counts.release(&self.arena, record.handle, me);
                }
            }
        }
    }
}
