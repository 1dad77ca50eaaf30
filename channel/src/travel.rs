//! Ends of rings inside serde messages. An end moves: its sender keeps a closed handle.

use std::os::fd::{AsFd, OwnedFd};

use multiprocess_core::{CreateError, Errno, Region};
use multiprocess_shm::transfer::{Fd, Reason, comes_again, refuse_receiving, refuse_sending};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::endpoint::Claim;
use crate::mpmc::JoinError;
use crate::{ChannelError, Home, Housed, NoPeers, broadcast, bytes, spsc};

impl Reason for ChannelError {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Create(CreateError::System(errno)) | Self::Sockets(errno) => Some(*errno),
            Self::Attach(error) => error.errno(),
            Self::Participant(error) => error.errno(),
            _ => None,
        }
    }
}

impl Reason for JoinError {}

/// What the ends have in common of which there is one only.
trait End: Sized + 'static {
    type Ring: Housed;
    fn home(&self) -> &Home;
    /// Whether it is ours to give.
    fn is_open(&self) -> bool;
    /// `false` if it was not.
    fn give_away(&self) -> bool;
    fn claim(home: Home) -> Result<Self, ChannelError>;
    /// Closes the end that was sent, of the ring in `region`, for whoever cannot receive it.
    fn close_sent(region: Region<'_>);
}

fn send<E: End, S: Serializer>(end: &E, serializer: S) -> Result<S::Ok, S::Error> {
    let not_ours = || refuse_sending("this end of the ring is closed or was sent already");
    if !end.is_open() {
        return Err(not_ours());
    }
    // Given away last: what fails before leaves the end to its owner, and the parcel's action,
    // which finds it not sent, does nothing.
    let sent = Fd::serialize_unique(end.home().as_fd(), lost::<E>, serializer)?;
    if !end.give_away() {
        return Err(not_ours());
    }
    Ok(sent)
}

/// Without a descriptor or a place among the participants nobody can have the end: it is closed, unless its
/// message comes again.
fn receive<E: End>(fd: OwnedFd) -> Result<E, ChannelError> {
    let home = Home::attach_or::<E::Ring>(fd, |region, error| {
        if !comes_again(error) {
            E::close_sent(region);
        }
    });
    E::claim(home?)
}

/// Nobody got the end: closes it, so that its peer does not wait for ever. Does nothing if
/// somebody got it after all.
fn lost<E: End>(fd: OwnedFd) {
    drop(receive::<E>(fd));
}

fn deserialize<'de, E: End, D: Deserializer<'de>>(deserializer: D) -> Result<E, D::Error> {
    let fd = Fd::deserialize(deserializer)?.into_inner();
    receive(fd).map_err(refuse_receiving)
}

impl<T: spsc::Message> End for spsc::Producer<T> {
    type Ring = spsc::Ring<T>;
    fn home(&self) -> &Home {
        self.memory()
    }
    fn is_open(&self) -> bool {
        self.is_open()
    }
    fn give_away(&self) -> bool {
        self.give_away()
    }
    fn claim(home: Home) -> Result<Self, ChannelError> {
        Ok(Self::claim(home.clone(), home, &Claim::Received)?)
    }
    fn close_sent(region: Region<'_>) {
        drop(spsc::Producer::<T, _, _>::claim(
            region,
            NoPeers,
            &Claim::Received,
        ));
    }
}

impl<T: spsc::Message> Serialize for spsc::Producer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self, serializer)
    }
}

impl<'de, T: spsc::Message> Deserialize<'de> for spsc::Producer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        self::deserialize(deserializer)
    }
}

impl<T: spsc::Message> End for spsc::Consumer<T> {
    type Ring = spsc::Ring<T>;
    fn home(&self) -> &Home {
        self.memory()
    }
    fn is_open(&self) -> bool {
        self.is_open()
    }
    fn give_away(&self) -> bool {
        self.give_away()
    }
    fn claim(home: Home) -> Result<Self, ChannelError> {
        Ok(Self::claim(home.clone(), home, &Claim::Received)?)
    }
    fn close_sent(region: Region<'_>) {
        drop(spsc::Consumer::<T, _, _>::claim(
            region,
            NoPeers,
            &Claim::Received,
        ));
    }
}

impl<T: spsc::Message> Serialize for spsc::Consumer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self, serializer)
    }
}

impl<'de, T: spsc::Message> Deserialize<'de> for spsc::Consumer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        self::deserialize(deserializer)
    }
}

impl<T: spsc::Message> End for broadcast::Sender<T> {
    type Ring = broadcast::Ring<T>;
    fn home(&self) -> &Home {
        self.memory()
    }
    fn is_open(&self) -> bool {
        self.can_be_given()
    }
    fn give_away(&self) -> bool {
        self.give_away()
    }
    fn claim(home: Home) -> Result<Self, ChannelError> {
        Ok(Self::claim_sent(home.clone(), home)?)
    }
    fn close_sent(region: Region<'_>) {
        drop(broadcast::Sender::<T, _, _>::claim_sent(region, NoPeers));
    }
}

impl<T: spsc::Message> Serialize for broadcast::Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self, serializer)
    }
}

impl<'de, T: spsc::Message> Deserialize<'de> for broadcast::Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        self::deserialize(deserializer)
    }
}

impl End for bytes::Producer {
    type Ring = bytes::Ring;
    fn home(&self) -> &Home {
        self.memory()
    }
    fn is_open(&self) -> bool {
        self.is_open()
    }
    fn give_away(&self) -> bool {
        self.give_away()
    }
    fn claim(home: Home) -> Result<Self, ChannelError> {
        Ok(Self::claim(home.clone(), home, &Claim::Received)?)
    }
    fn close_sent(region: Region<'_>) {
        drop(bytes::Producer::claim(region, NoPeers, &Claim::Received));
    }
}

impl Serialize for bytes::Producer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self, serializer)
    }
}

impl<'de> Deserialize<'de> for bytes::Producer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        self::deserialize(deserializer)
    }
}

impl End for bytes::Consumer {
    type Ring = bytes::Ring;
    fn home(&self) -> &Home {
        self.memory()
    }
    fn is_open(&self) -> bool {
        self.is_open()
    }
    fn give_away(&self) -> bool {
        self.give_away()
    }
    fn claim(home: Home) -> Result<Self, ChannelError> {
        Ok(Self::claim(home.clone(), home, &Claim::Received)?)
    }
    fn close_sent(region: Region<'_>) {
        drop(bytes::Consumer::claim(region, NoPeers, &Claim::Received));
    }
}

impl Serialize for bytes::Consumer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self, serializer)
    }
}

impl<'de> Deserialize<'de> for bytes::Consumer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        self::deserialize(deserializer)
    }
}
