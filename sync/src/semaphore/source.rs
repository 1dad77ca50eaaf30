//! A [`Semaphore`] among the things that [`wait_any`](crate::wait_any) waits for.

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::park::{self, WaitEntry};

use super::{Semaphore, WAITERS, has_permit, has_waiters, is_corrupt};
use crate::{Armed, Source};

/// Ready while there is a permit; then [`try_acquire`](Semaphore::try_acquire), which may come
/// too late. A corrupt semaphore is ready, and `try_acquire` says so.
impl Source for Semaphore {
    fn is_ready(&self) -> bool {
        // Relaxed, here and below: `try_acquire` orders.
        let seen = self.word.load(Relaxed);
        has_permit(seen) || is_corrupt(seen)
    }

    fn arm(&self) -> Armed<'_> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if has_permit(seen) || is_corrupt(seen) {
                return Armed::Ready;
            }
            if has_waiters(seen) {
                return Armed::Waiting(WaitEntry::new(&self.word, WAITERS as u32));
            }
            let armed = seen | WAITERS;
            match self.word.compare_exchange(seen, armed, Relaxed, Relaxed) {
                Ok(_) => seen = armed,
                Err(now) => seen = now,
            }
        }
    }

    /// A release wakes as many sleepers as it makes permits.
    fn pass_on(&self) {
        if has_waiters(self.word.load(Relaxed)) {
            park::wake(&self.word, 1);
        }
    }
}
