//! Waiting until all that was sent has been worked on.

use core::fmt;

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::park::{Parked, Patience};
use multiprocess_core::{Deadline, Errno, Memory, Peers};

use super::endpoint::Endpoint;
use super::layout::Slot;
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

impl<T: Message, M: Memory, P: Peers> Endpoint<T, M, P> {
    /// Slots with a message that was sent and not released. Walks the ring.
    fn unreleased(&self) -> impl Iterator<Item = &Slot<T>> {
        let slots = (0..self.parts.capacity).map(|index| self.parts.slot(Ticket::new(index)));
        slots.filter(|slot| {
            // Acquire: what was done with a message comes before its release.
            let word = Word::from_bits(slot.word.load(Acquire));
            matches!(
                word.state,
                State::Ready | State::Reading | State::HeldReading | State::Orphan
            )
        })
    }

    pub(super) fn unfinished(&self) -> u64 {
        self.unreleased().count() as u64
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
            if self.unfinished() == 0 {
                return Ok(());
            }
            if self.parts.is_deserted(Role::Receiver) {
                return Err(WaitDoneError::Abandoned);
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
