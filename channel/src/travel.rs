//! Ends of rings inside serde messages. An end moves: its sender keeps a closed handle.

use multiprocess_shm::Segment;
use multiprocess_shm::transfer::{Fd, refuse_receiving, refuse_sending};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::os::fd::AsFd;

use crate::endpoint::Claim;
use crate::{bytes, spsc};

fn send<S: Serializer>(
    serializer: S,
    segment: &Segment,
    give_away: impl FnOnce() -> bool,
) -> Result<S::Ok, S::Error> {
    if !give_away() {
        return Err(refuse_sending(
            "this end of the ring is closed or was sent already",
        ));
    }
    Fd::serialize_borrowed(segment.as_fd(), serializer)
}

fn receive<'de, D: Deserializer<'de>, P: multiprocess_core::Place>(
    deserializer: D,
) -> Result<Segment, D::Error> {
    let fd = Fd::deserialize(deserializer)?.into_inner();
    Segment::attach(fd, P::LAYOUT).map_err(refuse_receiving)
}

impl<T: spsc::Message> Serialize for spsc::Producer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(serializer, self.memory(), || self.give_away())
    }
}

impl<'de, T: spsc::Message> Deserialize<'de> for spsc::Producer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = receive::<D, spsc::Ring<T>>(deserializer)?;
        Self::claim(segment, &Claim::Received).map_err(refuse_receiving)
    }
}

impl<T: spsc::Message> Serialize for spsc::Consumer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(serializer, self.memory(), || self.give_away())
    }
}

impl<'de, T: spsc::Message> Deserialize<'de> for spsc::Consumer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = receive::<D, spsc::Ring<T>>(deserializer)?;
        Self::claim(segment, &Claim::Received).map_err(refuse_receiving)
    }
}

impl Serialize for bytes::Producer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(serializer, self.memory(), || self.give_away())
    }
}

impl<'de> Deserialize<'de> for bytes::Producer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = receive::<D, bytes::Ring>(deserializer)?;
        Self::claim(segment, &Claim::Received).map_err(refuse_receiving)
    }
}

impl Serialize for bytes::Consumer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(serializer, self.memory(), || self.give_away())
    }
}

impl<'de> Deserialize<'de> for bytes::Consumer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = receive::<D, bytes::Ring>(deserializer)?;
        Self::claim(segment, &Claim::Received).map_err(refuse_receiving)
    }
}
