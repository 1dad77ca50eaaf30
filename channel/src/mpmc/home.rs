//! A ring in a segment of its own.

#[cfg(doc)]
use multiprocess_core::CreateError;

use super::{Config, Receiver, Ring, Sender};
use crate::home::{ChannelError, Home, Housed};
use crate::spsc::Message;

impl<T: Message> Housed for Ring<T> {
    /// That of the ring's endpoints: each process has one at least.
    fn participants(config: &Config) -> u32 {
        config.endpoints
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own, for 32 endpoints.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::mpmc;
///
/// let (mut sender, mut receiver) = mpmc::channel::<u64>(64)?;
/// let mut second = sender.try_clone()?;
/// std::thread::spawn(move || second.send(7));
/// sender.send(8)?;
/// assert_eq!(receiver.recv()? + receiver.recv()?, 15);
///
/// sender.send(9)?;
/// let job = receiver.take()?;                // killed here, another receiver gets it
/// assert_eq!(job.get(), 9);
/// job.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 messages.
pub fn channel<T: Message>(capacity: u64) -> Result<(Sender<T>, Receiver<T>), ChannelError> {
    channel_with(&Config::new(capacity))
}

/// As [`channel`], with another [`Config`].
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with<T: Message>(config: &Config) -> Result<(Sender<T>, Receiver<T>), ChannelError> {
    let home = Home::create::<Ring<T>>(config)?;
    Ok((
        Sender::attach(home.clone(), home.clone())?,
        Receiver::attach(home.clone(), home)?,
    ))
}
