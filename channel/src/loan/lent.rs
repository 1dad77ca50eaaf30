//! A block between being lent and being sent.

use core::fmt;
use core::ops::{Deref, DerefMut};

use multiprocess_core::{Memory, Peers, Timeout};

use super::held::Held;
use super::{Home, Sender};
use crate::spsc::Message;
use crate::{SendError, TrySendError};

/// A block of shared memory that is ours until we send it. Its bytes are what the last holder left in them.
///
/// Dropped, it goes back. A process may have as many as there are, for as long as it likes: nobody waits for
/// them but who finds no other.
///
/// # Crash safety
///
/// If this process dies before it is sent, the block comes back.
///
/// # Fork
///
/// It stays the parent's: a child must not write into it, and cannot send it.
#[must_use = "a loan that is not sent goes back"]
pub struct Loan<'a, M: Memory = Home, P: Peers = Home> {
    pub(super) sender: &'a Sender<M, P>,
    pub(super) held: Held<'a, M, P>,
}

impl<M: Memory, P: Peers> Loan<'_, M, P> {
    /// Sends it if there is room.
    ///
    /// # Errors
    ///
    /// [`TrySendError`], with the loan.
    #[inline]
    pub fn try_send(self) -> Result<(), TrySendError<Self>> {
        if !self.held.is_ours() {
            return Err(TrySendError::Disconnected(self));
        }
        let sent = self
            .sender
            .ring
            .borrow_mut()
            .try_send(self.held.reference());
        match sent {
            Ok(()) => {
                self.held.pass_on();
                Ok(())
            }
            Err(error) => Err(error.with(self)),
        }
    }

    /// Sends it, waiting for room in the ring as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the loan.
    #[inline]
    pub fn send(self) -> Result<(), SendError<Self>> {
        self.send_timeout(Timeout::Never)
    }

    /// Sends it, waiting for room in the ring for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the loan.
    #[inline]
    pub fn send_timeout(self, timeout: impl Into<Timeout>) -> Result<(), SendError<Self>> {
        if !self.held.is_ours() {
            return Err(SendError::Disconnected(self));
        }
        let reference = self.held.reference();
        let sent = self
            .sender
            .ring
            .borrow_mut()
            .send_timeout(reference, timeout);
        match sent {
            Ok(()) => {
                self.held.pass_on();
                Ok(())
            }
            Err(SendError::Timeout(_)) => Err(SendError::Timeout(self)),
            Err(SendError::Disconnected(_)) => Err(SendError::Disconnected(self)),
            Err(SendError::Corrupt(_)) => Err(SendError::Corrupt(self)),
            Err(SendError::System(_, errno)) => Err(SendError::System(self, errno)),
        }
    }

    /// Only the first `len` bytes are sent; no effect if there are not more.
    pub fn truncate(&mut self, len: usize) {
        self.held.truncate(len);
    }

    /// Its bytes as a `T`, to be written in place. `None` if it is not as long as a `T`, or not aligned for
    /// one: blocks are aligned to 128 bytes.
    pub fn value_mut<T: Message>(&mut self) -> Option<&mut T> {
        bytemuck::try_from_bytes_mut(&mut self.held).ok()
    }
}

impl<M: Memory, P: Peers> Deref for Loan<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.held
    }
}

impl<M: Memory, P: Peers> DerefMut for Loan<'_, M, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.held
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Loan<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loan").field(&self.held).finish()
    }
}
