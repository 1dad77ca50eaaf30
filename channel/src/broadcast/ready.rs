//! Waiting for several rings, and other things, at once.

use multiprocess_core::atomic::Ordering::Relaxed;
use multiprocess_core::park::WaitEntry;
use multiprocess_core::{Memory, Peers};
use multiprocess_sync::{Armed, Source};

use super::layout::Parts;
use super::{LosslessReceiver, ReadMemory, Receiver, Sender, role};
use crate::spsc::Message;

/// Steps a to c of `bell.rs`, at the receivers' bell.
fn arm_receiver<T: Message>(parts: &Parts<T>, is_ready: impl Fn() -> bool) -> Armed<'_> {
    let door = &parts.control().door;
    let armed = door
        .receivers
        .arm(|| role::is_light(door.role.load(Relaxed)));
    match is_ready() {
        true => Armed::Ready,
        false => door.receivers.entry(armed),
    }
}

/// Ready when a message is there, or was missed, or none can come any more.
///
/// One whose memory is mapped for reading announces nothing: its waiter looks every millisecond.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::broadcast::{self, Receiver, Start};
/// use multiprocess_sync::{Event, Source, wait_any};
///
/// let (mut prices, home) = broadcast::channel::<u64>(16)?;
/// let mut receiver = Receiver::<u64>::attach(home, Start::Next)?;
/// let stop = Event::new();                               // or in a shared segment
/// prices.send(7)?;
/// let sources: [&dyn Source; 2] = [&stop, &receiver];
/// assert_eq!(wait_any(&sources, None)?, 1);
/// assert_eq!(receiver.try_recv(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: Message, V: ReadMemory> Source for Receiver<T, V> {
    fn is_ready(&self) -> bool {
        self.parts.is_there(self.cursor) || self.parts.is_closed()
    }

    fn arm(&self) -> Armed<'_> {
        if self.memory.region().is_some() {
            return arm_receiver(&self.parts, || self.is_ready());
        }
        // Before the look: a message that comes after the look changes it.
        let tail = self.parts.tail();
        match self.is_ready() {
            true => Armed::Ready,
            false => Armed::Unheard(WaitEntry::new(&*self.parts.control().tail, tail as u32)),
        }
    }
}

/// Ready when a message is there, or none can come any more. A sender that was killed is noticed at
/// the inner bound, 50 ms to 1 s later.
impl<T: Message, M: Memory, P: Peers> Source for LosslessReceiver<T, M, P> {
    fn is_ready(&self) -> bool {
        self.parts.is_there(self.cursor)
            || self.parts.is_closed()
            || self.sender_was_found_dead()
            // A child's copy joins by looking.
            || !self.is_open
            || !self.is_ours()
    }

    fn arm(&self) -> Armed<'_> {
        arm_receiver(&self.parts, || self.is_ready())
    }

    fn recheck(&self) {
        let role = self.parts.control().door.role.load(Relaxed);
        if self.is_sender_dead(role) {
            self.dead.set(role);
        }
    }
}

/// Ready when there is room for a message, or nothing can be sent any more. Receivers that were killed
/// are dropped at the inner bound, 50 ms to 1 s later.
impl<T: Message, M: Memory, P: Peers> Source for Sender<T, M, P> {
    fn is_ready(&self) -> bool {
        self.tail != self.limit.get()
            || !self.is_open.get()
            || !self.is_ours()
            // One that claims to have read what was not sent is for the send to name.
            || self
                .parts
                .slowest(self.tail)
                .is_none_or(|lag| lag < self.parts.capacity)
    }

    fn arm(&self) -> Armed<'_> {
        let bell = &self.parts.control().room.bell;
        let armed = bell.arm(|| self.parts.may_be_light());
        match self.is_ready() {
            true => Armed::Ready,
            false => bell.entry(armed),
        }
    }

    fn recheck(&self) {
        self.drop_dead();
    }
}
