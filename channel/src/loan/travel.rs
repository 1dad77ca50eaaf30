//! Senders and receivers inside serde messages, as those of `mpmc`.

use std::cell::RefCell;
use std::os::fd::AsFd;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Home, Receiver, Ring, Sender};
use crate::mpmc;
use crate::mpmc::travel::{receive, send};
use crate::store::Blocks;

impl Serialize for Sender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ring = self.ring.borrow();
        send(&ring.endpoint, self.memory().as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Sender {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        receive(deserializer, |file, kept| {
            let home = Home::attach::<Ring>(file)?;
            let (blocks, ring) = Blocks::attach(home.clone(), home.clone())?;
            let ring = mpmc::Sender::attach_kept(ring, home, kept)?;
            Ok(Self::of(ring, blocks))
        })
    }
}

impl Serialize for Receiver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ring = self.ring.borrow();
        send(&ring.endpoint, self.memory().as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Receiver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        receive(deserializer, |file, kept| {
            let home = Home::attach::<Ring>(file)?;
            let (blocks, ring) = Blocks::attach(home.clone(), home.clone())?;
            let ring = RefCell::new(mpmc::Receiver::attach_kept(ring, home, kept)?);
            Ok(Self { ring, blocks })
        })
    }
}
