//! Waiting for several rings, and other things, at once.

use multiprocess_core::{Memory, Peers};
use multiprocess_sync::{Armed, Source};

use super::{Consumer, Producer};

/// Ready when a record is there, or none can come any more. As [`spsc::Consumer`](crate::spsc::Consumer).
impl<M: Memory, P: Peers> Source for Consumer<M, P> {
    fn is_ready(&self) -> bool {
        self.head != self.tail.get()
            || self.endpoint.peer_index() != self.head
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

/// Ready when there is room for the record that was last refused, or for an empty one if none was; or
/// nothing can be sent any more.
impl<M: Memory, P: Peers> Source for Producer<M, P> {
    fn is_ready(&self) -> bool {
        let (_, need) = self.need(self.refused);
        let used = self.tail.wrapping_sub(self.endpoint.peer_index());
        // More than the capacity is corrupt, as the next look says.
        need <= self.room()
            || used > self.capacity
            || need <= self.capacity - used
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
