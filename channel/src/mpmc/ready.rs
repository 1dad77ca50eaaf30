//! Waiting for several rings, and other things, at once.

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::{Memory, Peers};
use multiprocess_sync::{Armed, Source};

use super::claim::has_room;
use super::layout::Parts;
use super::words::{Role, State, Word};
use super::{Receiver, Sender};
use crate::spsc::Message;

/// Ready when a message is there, or none can come any more.
///
/// Among receivers of one ring each message wakes one waiter, which does not necessarily get it: wait, try
/// to receive, and wait again.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::mpmc;
/// use multiprocess_sync::{Event, Source, wait_any};
///
/// let (mut sender, mut jobs) = mpmc::channel::<u64>(16)?;
/// let stop = Event::new();                               // or in a shared segment
/// sender.send(7)?;
/// let sources: [&dyn Source; 2] = [&stop, &jobs];
/// assert_eq!(wait_any(&sources, None)?, 1);
/// assert_eq!(jobs.try_recv(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: Message, M: Memory, P: Peers> Source for Receiver<T, M, P> {
    fn is_ready(&self) -> bool {
        let (parts, cursor) = (&self.endpoint.parts, self.endpoint.cursor);
        // Acquire: what is ready is seen whole by who receives it next.
        let first = Word::from_bits(parts.slot(cursor).word.load(Acquire));
        first.state == State::Ready && first.ticket == cursor
            || parts.is_ready()
            || !self.endpoint.is_open
    }

    fn arm(&self) -> Armed<'_> {
        self.endpoint.parts.arm()
    }

    fn pass_on(&self) {
        self.endpoint.parts.pass_on();
    }

    fn recheck(&self) {
        self.endpoint.recover();
    }
}

impl<T: Message> Parts<T> {
    /// Whether a receiver is not to wait. Walks the ring.
    pub(super) fn is_ready(&self) -> bool {
        self.len() > 0
            || self.control().receivers.is_closed()
            || !self.is_kept && self.is_deserted(Role::Sender)
    }

    pub(super) fn arm(&self) -> Armed<'_> {
        let bell = &self.control().receivers;
        bell.arm_unless(|| self.is_ready())
    }

    pub(super) fn pass_on(&self) {
        self.control().receivers.pass_on();
    }

    /// Whether nobody takes what is sent.
    pub(super) fn is_sent_in_vain(&self) -> bool {
        self.control().receivers.is_closed() || !self.is_kept && self.is_deserted(Role::Receiver)
    }
}

/// Ready when there is room for a message, or nothing can be sent any more.
///
/// Among senders of one ring each slot that is given back wakes one waiter, as for receivers.
impl<T: Message, M: Memory, P: Peers> Source for Sender<T, M, P> {
    fn is_ready(&self) -> bool {
        has_room(&self.endpoint) || self.endpoint.parts.is_sent_in_vain() || !self.endpoint.is_open
    }

    fn arm(&self) -> Armed<'_> {
        let bell = &self.endpoint.parts.control().senders;
        bell.arm_unless(|| self.is_ready())
    }

    fn pass_on(&self) {
        self.endpoint.parts.control().senders.pass_on();
    }

    fn recheck(&self) {
        self.endpoint.recover();
    }
}
