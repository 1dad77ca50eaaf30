//! Senders and receivers inside serde messages. Whoever gets one has another handle on the same ring;
//! a seat is kept for it, so that nobody takes the ring for deserted while the message is under way.

use std::cell::Cell;
use std::os::fd::AsFd;

use multiprocess_core::{Memory, Place};
use multiprocess_shm::transfer::{Fd, refuse_receiving, refuse_sending};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::endpoint::Endpoint;
use super::layout::Parts;
use super::words::{Owner, Role};
use super::{ChannelError, Home, Receiver, Ring, Sender};
use crate::spsc::Message;

/// What travels beside the descriptor: the seat's number and word.
type Kept = (Owner, u64);

/// The descriptor, and what to do if nobody gets it. Serialises once.
struct Duplicate<'a> {
    home: &'a Home,
    if_lost: Cell<Option<Box<dyn FnOnce() + Send>>>,
}

impl Serialize for Duplicate<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(leave) = self.if_lost.take() else {
            return Err(refuse_sending("the handle was serialised twice"));
        };
        Fd::serialize_unique(self.home.as_fd(), move |_| leave(), serializer)
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

fn send<T: Message, S: Serializer>(
    endpoint: &Endpoint<T, Home, Home>,
    role: Role,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if !endpoint.is_open {
        return Err(refuse_sending("this end of the ring is closed"));
    }
    let (number, word) = endpoint.keep_seat().map_err(refuse_sending)?;
    let home = endpoint.memory().clone();
    let leave = move || {
        let parts = Ring::<T>::attach(home.region())
            .and_then(|config| Parts::<T>::of(home.region(), &config));
        if let Ok(parts) = parts {
            parts.leave(number, word, role);
        }
    };
    let kept: Kept = (number, word);
    let duplicate = Duplicate {
        home: endpoint.memory(),
        if_lost: Cell::new(Some(Box::new(leave))),
    };
    (duplicate, kept).serialize(serializer)
}

fn receive<'de, T: Message, D: Deserializer<'de>>(
    role: Role,
    deserializer: D,
) -> Result<Endpoint<T, Home, Home>, D::Error> {
    let (fd, kept): (Fd, Kept) = Deserialize::deserialize(deserializer)?;
    let attach = || {
        let home = Home::attach::<Ring<T>>(fd.into_inner())?;
        let endpoint = Endpoint::attach_kept(home.clone(), home, role, kept)?;
        Ok::<_, ChannelError>(endpoint)
    };
    attach().map_err(refuse_receiving)
}

impl<T: Message> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(&self.endpoint, Role::Sender, serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let endpoint = receive(Role::Sender, deserializer)?;
        Ok(Self { endpoint })
    }
}

impl<T: Message> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(&self.endpoint, Role::Receiver, serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::with(receive(Role::Receiver, deserializer)?))
    }
}
