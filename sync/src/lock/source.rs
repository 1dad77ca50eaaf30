//! A [`Lock`] among the things that [`wait_any`](crate::wait_any) waits for.

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::park::{self, WaitEntry};

use super::{Lock, STATE, WAITERS, has_waiters, is_corrupt, is_locked};
use crate::{Armed, Source};

/// Ready while nobody holds it; then [`try_lock`](Lock::try_lock), which may come too late. A
/// corrupt lock is ready, and `try_lock` says so. The death of a holder is not looked for.
impl Source for Lock {
    fn is_ready(&self) -> bool {
        // Relaxed, here and below: `try_lock` orders.
        let seen = self.word.load(Relaxed);
        !is_locked(seen) || is_corrupt(seen)
    }

    fn arm(&self) -> Armed<'_> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if !is_locked(seen) || is_corrupt(seen) {
                return Armed::Ready;
            }
            if has_waiters(seen) {
                return Armed::Waiting(WaitEntry::new(&self.word, STATE as u32));
            }
            let armed = seen | WAITERS;
            match self.word.compare_exchange(seen, armed, Relaxed, Relaxed) {
                Ok(_) => seen = armed,
                Err(now) => seen = now,
            }
        }
    }

    /// A release wakes one sleeper.
    fn pass_on(&self) {
        if has_waiters(self.word.load(Relaxed)) {
            park::wake(&self.word, 1);
        }
    }
}
