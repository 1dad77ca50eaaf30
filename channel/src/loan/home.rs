//! A ring of loans in a segment of its own.

use super::{Config, Receiver, Ring, Sender};
use crate::home::{ChannelError, Home, Housed};

impl Housed for Ring {
    /// That of the endpoints: each process has one at least.
    fn participants(config: &Config) -> u32 {
        config.0.ring.seats()
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own, for 32 endpoints, with `bytes`
/// for the blocks of all messages, loans and samples together.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::{SendError, loan};
///
/// let (sender, receiver) = loan::channel(16, 1 << 20)?;
/// let mut frame = sender.loan(64 << 10)?;    // written where it lies, for as long as it takes
/// frame.fill(7);
/// frame.send().map_err(SendError::without_message)?; // else the loan comes back
///
/// let frame = receiver.take()?;              // killed here, another receiver gets it
/// assert_eq!((frame.len(), frame[1000]), (64 << 10, 7));
/// frame.release();
///
/// let value = sender.loan_value(3.5_f64)?;
/// value.send().map_err(SendError::without_message)?;
/// assert_eq!(receiver.take()?.value(), Some(&3.5_f64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`](multiprocess_core::CreateError::Capacity) for 0 or more than
/// 2^40 messages, no bytes, or more than 128 GiB.
pub fn channel(capacity: u64, bytes: u64) -> Result<(Sender, Receiver), ChannelError> {
    channel_with(&Config::new(capacity, bytes))
}

/// As [`channel`], with another [`Config`].
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with(config: &Config) -> Result<(Sender, Receiver), ChannelError> {
    let home = Home::create::<Ring>(config)?;
    Ok((
        Sender::attach(home.clone(), home.clone())?,
        Receiver::attach(home.clone(), home)?,
    ))
}
