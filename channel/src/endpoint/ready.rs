//! How an end of a single-writer ring is waited for beside other things: the sleeper's steps of
//! `waiter`, by somebody who sleeps on several words.
//!
//! An end armed and not slept on keeps its token in the doorbell: the peer's next publication wakes
//! nobody, and takes it away.

use multiprocess_core::atomic::Ordering::Acquire;
use multiprocess_core::park::WaitEntry;
use multiprocess_core::{Memory, Peers};
use multiprocess_sync::Armed;

use super::{Endpoint, Side, is_left_behind};
use crate::waiter::{Announced, disarm};

impl<S: Side, M: Memory, P: Peers> Endpoint<S, M, P> {
    /// Steps 1 to 3.
    pub(crate) fn arm(&self, is_ready: impl Fn() -> bool) -> Armed<'_> {
        // Of an end that is not ours the doorbell is not ours either.
        if is_ready() || !self.is_open() {
            return Armed::Ready;
        }
        let doorbell = S::own_doorbell(self.control());
        let Announced { token, is_heard } = self.waiter.announce(doorbell, self.peer());
        if is_ready() {
            disarm(doorbell, token);
            return Armed::Ready;
        }
        self.own().count_wait();
        let entry = WaitEntry::new(doorbell, token);
        if is_heard {
            Armed::Waiting(entry)
        } else {
            Armed::Unheard(entry)
        }
    }

    /// Asks the kernel whether the peer is dead; then it counts as gone, until it has a successor.
    pub(crate) fn find_dead_peer(&self) {
        let seen = self.peer().role.load(Acquire);
        if is_left_behind(&self.peers, seen) {
            self.dead.set(seen);
        }
    }
}
