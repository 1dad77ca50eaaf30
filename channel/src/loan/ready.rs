//! Waiting for several rings, and other things, at once.

use multiprocess_core::{Memory, Peers};
use multiprocess_sync::{Armed, Source};

use super::{Receiver, Sender};

/// Ready when a message is there, or none can come any more; as an
/// [`mpmc::Receiver`](crate::mpmc::Receiver).
impl<M: Memory, P: Peers> Source for Receiver<M, P> {
    fn is_ready(&self) -> bool {
        self.blocks.ring().is_ready()
    }

    fn arm(&self) -> Armed<'_> {
        self.blocks.ring().arm()
    }

    fn pass_on(&self) {
        self.blocks.ring().pass_on();
    }

    fn recheck(&self) {
        self.recover();
    }
}

/// Ready when there is a place for a message; or, if the last loan was refused because no block was free,
/// when one of that size is; or when nothing can be sent any more.
///
/// All who wait for a block are woken when one becomes free: wait, try, and wait again.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::TrySendError;
/// use multiprocess_channel::loan::{self, LoanError};
/// use multiprocess_sync::{Event, Source, wait_any};
///
/// let (sender, receiver) = loan::channel(16, 128 << 10)?;
/// let stop = Event::new();                               // or in a shared segment
/// let mut frames = 0;
/// while frames < 100 {
///     match sender.try_loan(64 << 10) {
///         Ok(frame) => {
///             frame.try_send().map_err(TrySendError::without_message)?;
///             frames += 1;
///         }
///         Err(LoanError::Exhausted) => {
///             receiver.take()?.release();                // somebody else does
///             let sources: [&dyn Source; 2] = [&stop, &sender];
///             assert_eq!(wait_any(&sources, None)?, 1);
///         }
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<M: Memory, P: Peers> Source for Sender<M, P> {
    fn is_ready(&self) -> bool {
        match self.wanted() {
            Some(layout) => {
                self.blocks.arena().has_room(layout) || self.blocks.ring().is_sent_in_vain()
            }
            None => self.ring.borrow().is_ready(),
        }
    }

    fn arm(&self) -> Armed<'_> {
        let ring = self.blocks.ring();
        match self.wanted() {
            Some(_) => ring.arm_for_memory(|| self.is_ready()),
            None => ring.arm_for_place(|| self.is_ready()),
        }
    }

    fn pass_on(&self) {
        // Who frees a block wakes all who wait for one.
        if self.wanted().is_none() {
            self.blocks.ring().pass_place_on();
        }
    }

    fn recheck(&self) {
        self.recover();
    }
}
