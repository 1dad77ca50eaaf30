//! Receivers inside serde messages. Whoever gets one has another one on the same ring. (The sender moves, as the
//! ends of the other rings: `crate::travel`.)

use std::os::fd::AsFd;

use multiprocess_shm::ReadOnlySegment;
use multiprocess_shm::transfer::{Fd, Sent, refuse_receiving};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ChannelError, LosslessReceiver, Receiver, Ring};
use crate::home::Home;
use crate::spsc::Message;

/// The ring, and the message that is read next.
impl<T: Message> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Sent(self.memory().as_fd()), self.cursor).serialize(serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (file, cursor): (Fd, u64) = Deserialize::deserialize(deserializer)?;
        let attach = || -> Result<Self, ChannelError> {
            let home = Home::attach::<Ring<T>>(file.into_inner())?;
            Ok(Self::attach_at(home, cursor)?)
        };
        attach().map_err(refuse_receiving)
    }
}

/// The same, by a descriptor that is good for reading only.
impl<T: Message> Serialize for Receiver<T, ReadOnlySegment> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Sent(self.memory().as_fd()), self.cursor).serialize(serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for Receiver<T, ReadOnlySegment> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (file, cursor): (Fd, u64) = Deserialize::deserialize(deserializer)?;
        Home::attach_read_only::<Ring<T>>(file.into_inner())
            .and_then(|segment| Self::attach_at(segment, cursor))
            .map_err(refuse_receiving)
    }
}

/// The ring; the seat is one of its own.
impl<T: Message> Serialize for LosslessReceiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.memory().as_fd(), serializer)
    }
}

impl<'de, T: Message> Deserialize<'de> for LosslessReceiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = Fd::deserialize(deserializer)?.into_inner();
        let attach = || -> Result<Self, ChannelError> {
            let home = Home::attach::<Ring<T>>(file)?;
            Ok(Self::attach(home.clone(), home)?)
        };
        attach().map_err(refuse_receiving)
    }
}
