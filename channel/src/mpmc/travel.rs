//! Senders and receivers inside serde messages. Whoever gets one has another handle on the same ring;
//! a seat is kept for it, so that nobody takes the ring for deserted while the message is under way.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiprocess_core::{Memory, Peers, Place};
use multiprocess_shm::transfer::{Fd, refuse_receiving, refuse_sending};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::endpoint::Endpoint;
use super::layout::Parts;
use super::words::{Owner, Role};
use super::{AttachRingError, ChannelError, Home, Receiver, Ring, Sender};
use crate::spsc::Message;

/// What travels beside the descriptor: the seat's number and word.
pub(crate) type Kept = (Owner, u64);

/// The descriptor, and what to do if nobody gets it. Serialises once.
struct Duplicate<'a> {
    file: BorrowedFd<'a>,
    if_lost: Cell<Option<Box<dyn FnOnce() + Send>>>,
}

impl Serialize for Duplicate<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(leave) = self.if_lost.take() else {
            return Err(refuse_sending("the handle was serialised twice"));
        };
        Fd::serialize_unique(self.file, move |_| leave(), serializer)
    }
}

impl Drop for Duplicate<'_> {
    fn drop(&mut self) {
        // Not even the descriptor went into the message.
        if let Some(leave) = self.if_lost.take() {
            leave();
        }
    }
}

/// The end of a ring in `M`, whose descriptor is `file`.
pub(crate) fn send<T, M, P, S>(
    endpoint: &Endpoint<T, M, P>,
    file: BorrowedFd<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error>
where
    T: Message,
    M: Memory + Clone + Send + 'static,
    P: Peers,
    S: Serializer,
{
    if !endpoint.is_open {
        return Err(refuse_sending("this end of the ring is closed"));
    }
    let role = endpoint.role();
    let (number, word) = endpoint.keep_seat().map_err(refuse_sending)?;
    let memory = endpoint.memory().clone();
    let leave = move || {
        let region = memory.region();
        let parts = Ring::<T>::attach(region).and_then(|config| Parts::<T>::of(region, &config));
        if let Ok(parts) = parts {
            parts.leave(number, word, role);
        }
    };
    let kept: Kept = (number, word);
    let duplicate = Duplicate {
        file,
        if_lost: Cell::new(Some(Box::new(leave))),
    };
    (duplicate, kept).serialize(serializer)
}

/// What [`send`] has sent: `attach` makes an end of it.
pub(crate) fn receive<'de, R, D: Deserializer<'de>>(
    deserializer: D,
    attach: impl FnOnce(OwnedFd, Kept) -> Result<R, ChannelError>,
) -> Result<R, D::Error> {
    let (fd, kept): (Fd, Kept) = Deserialize::deserialize(deserializer)?;
    attach(fd.into_inner(), kept).map_err(refuse_receiving)
}

impl<T: Message> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(&self.endpoint, self.memory().as_fd(), serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        receive(deserializer, |file, kept| {
            let home = Home::attach::<Ring<T>>(file)?;
            Ok(Self::attach_kept(home.clone(), home, kept)?)
        })
    }
}

impl<T: Message> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(&self.endpoint, self.memory().as_fd(), serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        receive(deserializer, |file, kept| {
            let home = Home::attach::<Ring<T>>(file)?;
            Ok(Self::attach_kept(home.clone(), home, kept)?)
        })
    }
}

impl<T: Message, M: Memory, P: Peers> Sender<T, M, P> {
    /// With a seat that was kept for us.
    pub(crate) fn attach_kept(memory: M, peers: P, kept: Kept) -> Result<Self, AttachRingError> {
        let endpoint = Endpoint::attach_kept(memory, peers, Role::Sender, kept)?;
        Ok(Self { endpoint })
    }
}

impl<T: Message, M: Memory, P: Peers> Receiver<T, M, P> {
    /// With a seat that was kept for us.
    pub(crate) fn attach_kept(memory: M, peers: P, kept: Kept) -> Result<Self, AttachRingError> {
        let endpoint = Endpoint::attach_kept(memory, peers, Role::Receiver, kept)?;
        Ok(Self::with(endpoint))
    }
}
