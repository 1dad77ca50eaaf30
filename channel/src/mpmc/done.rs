//! Waiting until all that was sent has been worked on.

use core::fmt;

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::park::{Parked, Patience};
use multiprocess_core::{Deadline, Errno, Memory, Peers};

use super::endpoint::Endpoint;
#[cfg(feature = "serde")]
use super::layout::Slot;
use super::words::{Role, State, Ticket, Word};
#[cfg(feature = "serde")]
use crate::SendError;
use crate::spsc::Message;

/// Why a wait until all is done ended before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitDoneError {
    /// The timeout passed first.
    Timeout,
    /// Messages are left, and no receiver is: the last one has gone, or died.
    Abandoned,
    /// The ring was not made for it.
    NotJoinable,
    /// The kernel refused to let us sleep.
    System(Errno),
}

impl fmt::Display for WaitDoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out"),
            Self::Abandoned => f.write_str("messages are left, and no receiver is"),
            Self::NotJoinable => f.write_str("the ring is not joinable"),
            Self::System(errno) => write!(f, "waiting until all is done: {errno}"),
        }
    }
}

impl core::error::Error for WaitDoneError {}

/// Spreads the bits of what a walk has seen.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn is_unreleased(word: Word) -> bool {
    matches!(
        word.state,
        State::Ready | State::Reading | State::HeldReading | State::Orphan
    )
}

impl<T: Message, M: Memory, P: Peers> Endpoint<T, M, P> {
    /// Slots with a message that was sent and not released. Walks the ring.
    #[cfg(feature = "serde")]
    fn unreleased(&self) -> impl Iterator<Item = &Slot<T>> {
        let slots = (0..self.parts.capacity).map(|index| self.parts.slot(Ticket::new(index)));
        slots.filter(|slot| {
            // Acquire: what was done with a message comes before its release.
            is_unreleased(Word::from_bits(slot.word.load(Acquire)))
        })
    }

    /// Whether there was a moment, since the call, at which no message was there or in hand.
    ///
    /// Two walks that find the same words, and no message: tickets never come back, so each slot had
    /// none all the time from the first walk to the second.
    fn is_done(&self) -> bool {
        let walk = || {
            (0..self.parts.capacity).try_fold(0_u64, |sum, index| {
                // Acquire as in `unreleased`.
                let bits = self.parts.slot(Ticket::new(index)).word.load(Acquire);
                let has_none = !is_unreleased(Word::from_bits(bits));
                has_none.then(|| sum.rotate_left(7).wrapping_add(bits).wrapping_mul(MIX))
            })
        };
        walk().is_some_and(|first| walk() == Some(first))
    }

    /// Waits until `look` finds something, or the ring is closed. `recover` is called at the inner bound.
    #[cfg(feature = "serde")]
    pub(super) fn wait_for_memory<R>(
        &self,
        deadline: Deadline,
        look: impl Fn() -> Option<R>,
        recover: impl Fn(),
    ) -> Result<R, SendError<()>> {
        let control = self.parts.control();
        let bell = &control.rare.memory;
        let mut patience = Patience::new();
        loop {
            let late = deadline.has_passed();
            let armed = bell.arm();
            if let Some(found) = look() {
                return Ok(found);
            }
            if control.receivers.is_closed() {
                return Err(SendError::Disconnected(()));
            }
            if late {
                return Err(SendError::Timeout(()));
            }
            match bell.park(armed, &mut patience, deadline) {
                Ok(Parked::Recheck) => recover(),
                Ok(_) => {}
                Err(errno) => return Err(SendError::System((), errno)),
            }
        }
    }

    #[cfg(feature = "serde")]
    pub(super) fn has_message(&self, is_it: impl Fn(&T) -> bool) -> bool {
        self.unreleased().any(|slot| is_it(&slot.message.load()))
    }

    pub(super) fn wait_until_done(&self, deadline: Deadline) -> Result<(), WaitDoneError> {
        if !self.parts.is_joinable {
            return Err(WaitDoneError::NotJoinable);
        }
        let bell = &self.parts.control().rare.joiners;
        let mut patience = Patience::new();
        loop {
            let late = deadline.has_passed();
            let armed = bell.arm();
            if self.is_done() {
                return Ok(());
            }
            if self.parts.is_deserted(Role::Receiver) {
                // The last one may have done the last one, and left.
                return match self.is_done() {
                    true => Ok(()),
                    false => Err(WaitDoneError::Abandoned),
                };
            }
            if late {
                return Err(WaitDoneError::Timeout);
            }
            match bell.park(armed, &mut patience, deadline) {
                Ok(Parked::Recheck) => drop(self.recover()),
                Ok(_) => {}
                Err(errno) => return Err(WaitDoneError::System(errno)),
            }
        }
    }
}
