//! A message between being taken and being given back.

use core::fmt;

use multiprocess_core::{Memory, Peers};

use super::words::Ticket;
use super::{Home, Receiver};
use crate::spsc::Message;

/// A message in a receiver's hands. Dropped, it is released.
///
/// # Crash safety
///
/// If this process dies before it is released, the message goes to another receiver, or is dropped,
/// as the ring's [`Orphans`](super::Orphans) say. Forgotten ([`core::mem::forget`]), it stays in hand
/// until then, or until the receiver is dropped.
#[must_use = "a message that is not looked at is lost"]
pub struct Taken<'a, T: Message, M: Memory = Home, P: Peers = Home> {
    pub(super) receiver: &'a mut Receiver<T, M, P>,
    pub(super) ticket: Ticket,
}

impl<T: Message, M: Memory, P: Peers> Taken<'_, T, M, P> {
    /// A copy of the message.
    #[inline]
    pub fn get(&self) -> T {
        self.receiver.read(self.ticket)
    }

    /// The message has been worked on.
    #[inline]
    pub fn release(self) {
        drop(self);
    }

    /// The message was not worked on: it goes to another receiver, out of order.
    pub fn give_up(self) {
        let mut this = core::mem::ManuallyDrop::new(self);
        let ticket = this.ticket;
        if this.receiver.endpoint.is_ours() {
            this.receiver.give_up(ticket);
        }
    }
}

impl<T: Message, M: Memory, P: Peers> Drop for Taken<'_, T, M, P> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child the message is its parent's. If the word is not ours any more, a peer has
        // broken the protocol, and the slot is its.
        if self.receiver.endpoint.is_ours() {
            self.receiver.give_back(self.ticket);
        }
    }
}

impl<T: Message + fmt::Debug, M: Memory, P: Peers> fmt::Debug for Taken<'_, T, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").field(&self.get()).finish()
    }
}
