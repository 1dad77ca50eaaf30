//! Queues inside serde messages: whoever gets one has the same queue.

use std::os::fd::AsFd;

use multiprocess_shm::transfer::{Fd, Sent, refuse_receiving};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{JoinableQueue, Queue, SimpleQueue};

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Sent(self.as_fd()), self.rack().map(Sent)).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (file, rack): (Fd, Option<Fd>) = Deserialize::deserialize(deserializer)?;
        let attached = match rack {
            None => Self::attach(file.into_inner()),
            Some(rack) => Self::attach_with_rack(file.into_inner(), rack.into_inner()),
        };
        attached.map_err(refuse_receiving)
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let queue = Queue::deserialize(deserializer)?;
        Ok(Self { queue })
    }
}

impl<T> Serialize for SimpleQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for SimpleQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let queue = Queue::deserialize(deserializer)?;
        Ok(Self { queue })
    }
}
