//! A ring in a segment of its own.

use std::os::fd::OwnedFd;

use multiprocess_core::AttachError;
#[cfg(doc)]
use multiprocess_core::CreateError;
use multiprocess_shm::ReadOnlySegment;

use super::{Config, Receiver, Ring, Sender, Start};
use crate::home::{ChannelError, Home, Housed};
use crate::spsc::Message;

/// Processes that may have it mapped writable beside those of the lossless receivers.
const OTHERS: u32 = 32;

impl<T: Message> Housed for Ring<T> {
    fn participants(config: &Config) -> u32 {
        config.readers.saturating_add(OTHERS)
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own, for 8 lossless
/// receivers and any number of others. Receivers attach to the [`Home`], or to its
/// [descriptors](Home::read_only).
///
/// # Examples
///
/// ```
/// use multiprocess_channel::broadcast::{self, Receiver, Start};
///
/// let (mut sender, home) = broadcast::channel::<u64>(64)?;
/// let mut receiver = Receiver::<u64>::attach(home, Start::Next)?;
/// std::thread::spawn(move || sender.send(7));
/// assert_eq!(receiver.recv()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 messages.
pub fn channel<T: Message>(capacity: u64) -> Result<(Sender<T>, Home), ChannelError> {
    channel_with(&Config::new(capacity))
}

/// As [`channel`], with another [`Config`].
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with<T: Message>(config: &Config) -> Result<(Sender<T>, Home), ChannelError> {
    let home = Home::create::<Ring<T>>(config)?;
    Ok((Sender::attach(home.clone(), home.clone())?, home))
}

/// A receiver that maps the ring behind `file` read-only: a descriptor of [`Home::read_only`], or any
/// other of that segment.
///
/// # Errors
///
/// [`AttachError`], for whatever is wrong with the bytes.
pub fn receiver<T: Message>(
    file: OwnedFd,
    start: Start,
) -> Result<Receiver<T, ReadOnlySegment>, AttachError> {
    Receiver::attach(Home::attach_read_only::<Ring<T>>(file)?, start)
}
