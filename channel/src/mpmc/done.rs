//! Waiting until all that was sent has been worked on.

use core::fmt;

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::park::{Parked, Patience};
use multiprocess_core::{Deadline, Errno, Memory, Peers};

use super::endpoint::Endpoint;
use super::words::{Role, State, Ticket, Word};
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

pub(super) fn is_unreleased(word: Word) -> bool {
    matches!(
        word.state,
        State::Ready | State::Reading | State::HeldReading | State::Orphan
    )
}

impl<T: Message, M: Memory, P: Peers> Endpoint<T, M, P> {
    /// Whether there was a moment, since the call, at which no message was there or in hand.
    ///
    /// Two walks that find the same words, and no message: tickets never come back, so each slot had
    /// none all the time from the first walk to the second.
    fn is_done(&self) -> bool {
        let walk = || {
            (0..self.parts.capacity).try_fold(0_u64, |sum, index| {
                // Acquire: what was done with a message comes before its release.
                let bits = self.parts.slot(Ticket::new(index)).word.load(Acquire);
                let has_none = !is_unreleased(Word::from_bits(bits));
                has_none.then(|| sum.rotate_left(7).wrapping_add(bits).wrapping_mul(MIX))
            })
        };
        walk().is_some_and(|first| walk() == Some(first))
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
                Ok(Parked::Recheck | Parked::TimedOut) => drop(self.recover()),
                Ok(_) => {}
                Err(errno) => return Err(WaitDoneError::System(errno)),
            }
        }
    }
}
