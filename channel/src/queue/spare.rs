//! Places at the ring that no thread of this process uses at the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use multiprocess_core::CachePadded;
use multiprocess_core::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

/// One in front, to be had by one swap; the others behind a lock, for more threads.
pub(super) struct Spare<E> {
    front: CachePadded<AtomicPtr<E>>,
    others: Mutex<Vec<Box<E>>>,
}

impl<E: Send> Spare<E> {
    pub(super) fn new() -> Self {
        Self {
            front: CachePadded::new(AtomicPtr::new(std::ptr::null_mut())),
            others: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn take(&self) -> Option<Box<E>> {
        self.take_front().or_else(|| self.others().pop())
    }

    pub(super) fn keep(&self, place: Box<E>) {
        let place = Box::into_raw(place);
        // Release pairs with the Acquire of `take_front`; Acquire with the Release of an earlier `keep`.
        let displaced = self.front.swap(place, AcqRel);
        if !displaced.is_null() {
            // SAFETY: as in `take_front`.
            self.others().push(unsafe { Box::from_raw(displaced) });
        }
    }

    fn others(&self) -> MutexGuard<'_, Vec<Box<E>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Spare<E> {
    fn take_front(&self) -> Option<Box<E>> {
        // Acquire pairs with the Release of `keep`: the last user's writes come before ours.
        let front = self.front.swap(std::ptr::null_mut(), Acquire);
        // SAFETY: a pointer in front came from `Box::into_raw` and is taken away by one.
        (!front.is_null()).then(|| unsafe { Box::from_raw(front) })
    }
}

impl<E> Drop for Spare<E> {
    fn drop(&mut self) {
        drop(self.take_front());
    }
}
