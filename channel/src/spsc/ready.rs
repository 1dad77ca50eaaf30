//! Waiting for several rings, and other things, at once.

use multiprocess_core::{Memory, Peers};
use multiprocess_sync::{Armed, Source};

use super::{Consumer, Message, Producer};

/// Ready when a message is there, or none can come any more.
///
/// Wait, then [`try_pop`](Consumer::try_pop), and wait again: as for the other ends of this crate. A
/// producer that was killed is noticed at the inner bound, 50 ms to 1 s later; then `try_pop` says
/// `Disconnected`.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::spsc;
/// use multiprocess_sync::{Event, Source, wait_any};
///
/// let (mut producer, mut jobs) = spsc::channel::<u64>(16)?;
/// let (_answers, full) = spsc::channel::<u64>(16)?;
/// let stop = Event::new();                               // or in a shared segment
/// producer.push(7)?;
/// let sources: [&dyn Source; 3] = [&stop, &jobs, &full];
/// assert_eq!(wait_any(&sources, None)?, 1);
/// assert_eq!(jobs.try_pop(), Ok(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: Message, M: Memory, P: Peers> Source for Consumer<T, M, P> {
    fn is_ready(&self) -> bool {
        self.head != self.limit.get()
            || self.sign() > self.head
            || self.endpoint.peer_is_gone()
            || !self.endpoint.is_open()
    }

    fn arm(&self) -> Armed<'_> {
        self.endpoint.arm(|| self.is_ready())
    }

    fn recheck(&self) {
        self.endpoint.find_dead_peer();
    }
}

/// Ready when there is room for a message, or nothing can be sent any more.
impl<T: Message, M: Memory, P: Peers> Source for Producer<T, M, P> {
    fn is_ready(&self) -> bool {
        let full = self.tail.wrapping_sub(self.capacity);
        self.tail != self.limit.get()
            || self.endpoint.peer_index() != full
            || self.endpoint.peer_is_gone()
            || !self.endpoint.is_open()
    }

    fn arm(&self) -> Armed<'_> {
        self.endpoint.arm(|| self.is_ready())
    }

    fn recheck(&self) {
        self.endpoint.find_dead_peer();
    }
}
