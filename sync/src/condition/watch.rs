//! A [`Condition`] among the things that [`wait_any`](crate::wait_any) waits for.

use core::fmt;

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::park::{self, WaitEntry};

use super::{Condition, SLEEPERS};
use crate::{Armed, Source};

/// A moment in the life of a [`Condition`]: ready once it has been notified after that.
///
/// Made by [`Condition::watch`]. Like every wait for a condition it may be ready without a
/// notification, so look at the state under the lock.
#[derive(Clone, Copy)]
pub struct ConditionWatch<'a> {
    condition: &'a Condition,
    seen: u32,
}

impl Condition {
    /// Starts to watch for a notification, for [`wait_any`](crate::wait_any).
    ///
    /// Call it with the lock held, after having looked at the state; then release the lock and
    /// wait. To wait for nothing else, use [`wait_for`](Self::wait_for).
    ///
    /// # Examples
    ///
    /// The one right loop, here over a condition and an event:
    ///
    /// ```
    /// use multiprocess_sync::{Condition, Event, Mutex, wait_any};
    ///
    /// static STOP: Event = Event::new();
    /// static LETTERS: Mutex<u32> = Mutex::new(1);
    /// static ARRIVED: Condition = Condition::new();
    ///
    /// let got = loop {
    ///     let mut letters = LETTERS.lock()?;
    ///     if *letters > 0 {
    ///         *letters -= 1;
    ///         break true;
    ///     }
    ///     let arrived = ARRIVED.watch();    // with the lock held,
    ///     drop(letters);                    // and now without
    ///     if wait_any(&[&STOP, &arrived], None)? == 0 {
    ///         break false;
    ///     }
    /// };
    /// assert!(got);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Crash safety
    ///
    /// Leaves the hint SLEEPERS behind, as a waiter does.
    pub fn watch(&self) -> ConditionWatch<'_> {
        let seen = self.word.fetch_or(SLEEPERS, Relaxed) | SLEEPERS;
        ConditionWatch {
            condition: self,
            seen,
        }
    }
}

impl Source for ConditionWatch<'_> {
    fn is_ready(&self) -> bool {
        // Relaxed: the lock orders. Any change counts: without SLEEPERS, too, nobody would wake us.
        self.condition.word.load(Relaxed) != self.seen
    }

    fn arm(&self) -> Armed<'_> {
        if self.is_ready() {
            Armed::Ready
        } else {
            Armed::Waiting(WaitEntry::new(&self.condition.word, self.seen))
        }
    }

    /// `notify(1)` wakes one sleeper.
    fn pass_on(&self) {
        park::wake(&self.condition.word, 1);
    }
}

impl fmt::Debug for ConditionWatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionWatch")
            .field("ready", &self.is_ready())
            .finish()
    }
}
