//! [`Lock`] as a [`lock_api`] raw mutex: `lock_api::Mutex<Lock, T>` and what is built on it.
//!
//! That interface has no errors. Where [`Lock::lock`] would return one (a word that a peer has
//! destroyed, a kernel that does not let us sleep), these calls keep trying, 20 times a second.
//! Holders are anonymous: a dead one is not found out.

use core::mem::forget;
use core::time::Duration;

use multiprocess_core::atomic::AtomicU32;
use multiprocess_core::{Deadline, park};

use super::Lock;
use crate::LockError;

/// Between two tries at a lock that cannot be waited for.
const PAUSE: Duration = Duration::from_millis(50);

fn pause(deadline: Deadline) {
    let nobody_wakes = AtomicU32::new(0);
    let _ = park::wait(&nobody_wakes, 0, deadline.min(Deadline::after(PAUSE)));
}

fn lock_until(lock: &Lock, deadline: Deadline) -> bool {
    loop {
        let timeout = deadline.remaining();
        match lock.lock_timeout(timeout) {
            Ok(guard) | Err(LockError::OwnerDied(guard)) => {
                forget(guard);
                return true;
            }
            Err(LockError::Timeout) => return false,
            Err(_) if deadline.has_passed() => return false,
            Err(_) => pause(deadline),
        }
    }
}

// SAFETY: `lock` returns, and `try_lock` is true, only after the CAS that took a free lock; only
// a release frees it again.
unsafe impl lock_api::RawMutex for Lock {
    const INIT: Self = Self::new();

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        lock_until(self, Deadline::NEVER);
    }

    fn try_lock(&self) -> bool {
        Lock::try_lock(self).map(forget).is_ok()
    }

    unsafe fn unlock(&self) {
        // Somebody else may have released it already: anyone may.
        let _ = self.release();
    }

    fn is_locked(&self) -> bool {
        Lock::is_locked(self)
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawMutexTimed for Lock {
    type Duration = Duration;
    type Instant = Deadline;

    fn try_lock_for(&self, timeout: Duration) -> bool {
        lock_until(self, Deadline::after(timeout))
    }

    fn try_lock_until(&self, deadline: Deadline) -> bool {
        lock_until(self, deadline)
    }
}
