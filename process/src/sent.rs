//! A descriptor that stays with its owner while a duplicate is sent.

use std::os::fd::BorrowedFd;

use multiprocess_shm::transfer::Fd;
use serde::{Serialize, Serializer};

/// Serialises as the [`Fd`] that is received.
pub(crate) struct Sent<'a>(pub(crate) BorrowedFd<'a>);

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.0, serializer)
    }
}
