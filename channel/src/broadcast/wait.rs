//! How receivers of both kinds wait for a message.

use multiprocess_core::Deadline;
use multiprocess_core::atomic::{Ordering::Relaxed, spin_loop};
use multiprocess_core::park::{self, Parked, Patience};
use multiprocess_core::spin::AdaptiveSpin;

use super::bell::POLL;
use super::layout::Parts;
use super::role;
use super::{ReadError, TryReadError};
use crate::spsc::Message;

/// A receiver, as far as waiting goes.
pub(super) trait Listener<T: Message> {
    fn parts(&self) -> &Parts<T>;
    fn spin(&mut self) -> &mut AdaptiveSpin;
    /// The message that is read next.
    fn cursor(&self) -> u64;
    /// Whether we may write to the bell.
    fn announces(&self) -> bool;
    /// One look: a message, or why there is none.
    fn look(&mut self) -> Result<T, TryReadError>;
    /// Asked at the inner bound, and before a wait ends for want of time: whether the sender is attested
    /// dead.
    fn is_abandoned(&self) -> bool;
}

/// Looks until there is a message, or another reason than that there is none yet.
#[cold]
pub(super) fn wait<T: Message>(
    listener: &mut impl Listener<T>,
    deadline: Deadline,
) -> Result<T, ReadError> {
    if !deadline.has_passed() {
        let budget = listener.spin().budget();
        for used in 0..budget {
            match listener.look() {
                Err(TryReadError::Empty) => spin_loop(),
                other => {
                    listener.spin().record(used);
                    return other.map_err(ReadError::from);
                }
            }
        }
        listener.spin().record(budget);
    }
    let mut patience = Patience::new();
    let mut abandoned = false;
    loop {
        let late = deadline.has_passed();
        // Before the look: a message that comes after the look changes it.
        let tail = listener.parts().tail();
        let armed = listener.announces().then(|| {
            let door = &listener.parts().control().door;
            door.receivers
                .arm(|| role::is_light(door.role.load(Relaxed)))
        });
        match listener.look() {
            Err(TryReadError::Empty) => {}
            other => return other.map_err(ReadError::from),
        }
        // A message is there before the tail says so, for a moment; more than one never is.
        if tail.wrapping_sub(listener.cursor()).cast_signed() < -1 {
            return Err(ReadError::Corrupt);
        }
        if abandoned {
            return Err(ReadError::Disconnected);
        }
        if late {
            return Err(ReadError::Timeout);
        }
        let control = listener.parts().control();
        let parked = match armed {
            Some(armed) => control.door.receivers.park(armed, &mut patience, deadline),
            None => {
                let bound = deadline.min(Deadline::now().plus(POLL));
                park::wait(&*control.tail, tail as u32, bound)
            }
        };
        match parked {
            // What it sent before it died is looked for once more.
            Ok(Parked::Recheck | Parked::TimedOut) => abandoned = listener.is_abandoned(),
            Ok(_) => {}
            Err(errno) => return Err(ReadError::System(errno)),
        }
    }
}
