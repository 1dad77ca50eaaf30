//! `SharedDoorbell`: a doorbell and its eventfd, which travel together.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use multiprocess_core::CreateError;
use multiprocess_shm::Shared;
use multiprocess_shm::transfer::{Fd, Sent};
use multiprocess_sync::{Doorbell, DoorbellFd};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A [`Doorbell`] in shared memory with its file descriptor, to send to the processes that ring it.
///
/// Who waits makes one and keeps a handle; whoever sets something that is waited for gets a handle
/// inside a message, and rings. Everything else is [`DoorbellFd`], which it dereferences to, its
/// usage loop and its crash safety included. A doorbell that is a field of a larger shared struct
/// needs no handle of this kind: send [`transfer::Fd`](crate::transfer::Fd) beside the struct, and
/// use [`DoorbellFd::from_parts`].
///
/// # Examples
///
/// With an async runtime: `examples/async_doorbell.rs`. With poll:
///
/// ```
/// use multiprocess::{Context, Event, SharedDoorbell};
/// use rustix::event::{PollFd, PollFlags, Timespec, poll};
///
/// fn finish((done, bell): (Event, SharedDoorbell)) {
///     done.set(); // publish, then
///     bell.ring().unwrap();
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiprocess::init();
///     let done = Event::new()?;
///     let bell = SharedDoorbell::new()?;
///     let worker = Context::default().spawn(finish, (done.clone(), bell.try_clone()?))?;
///     let second = Timespec { tv_sec: 1, tv_nsec: 0 };
///     while bell.poll_any(&[&*done])?.is_none() {
///         poll(&mut [PollFd::new(&*bell, PollFlags::IN)], Some(&second))?;
///     }
///     worker.join()?;
///     Ok(())
/// }
/// ```
///
/// # Fork
///
/// As [`DoorbellFd`].
pub struct SharedDoorbell(DoorbellFd<Shared<Doorbell>>);

impl SharedDoorbell {
    /// A doorbell that nobody waits with.
    ///
    /// # Errors
    ///
    /// [`CreateError::System`], if there is no memory or no descriptor left.
    pub fn new() -> Result<Self, CreateError> {
        let bell = Shared::new(Doorbell::new())?;
        DoorbellFd::new(bell).map(Self).map_err(CreateError::System)
    }

    /// Another handle, with a duplicate of the descriptor.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl Deref for SharedDoorbell {
    type Target = DoorbellFd<Shared<Doorbell>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl AsFd for SharedDoorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SharedDoorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl fmt::Debug for SharedDoorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedDoorbell").field(&self.0).finish()
    }
}

impl Serialize for SharedDoorbell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.bell(), Sent(self.as_fd())).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedDoorbell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (bell, fd) = <(Shared<Doorbell>, Fd)>::deserialize(deserializer)?;
        Ok(Self(DoorbellFd::from_parts(bell, fd.into_inner())))
    }
}
