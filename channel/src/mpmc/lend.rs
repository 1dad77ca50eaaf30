//! What a ring does for messages that name blocks of an arena beside it.

use multiprocess_core::atomic::Ordering::{Acquire, Relaxed};
use multiprocess_core::park::{Parked, Patience};
use multiprocess_core::{AttachError, Deadline, Memory, Peers, Place};
use multiprocess_sync::{Armed, Source};

use super::done::is_unreleased;
use super::endpoint::Endpoint;
use super::layout::Parts;
use super::table::Recovered;
use super::words::{State, Ticket, Word};
use super::{Orphans, Ring};
use crate::SendError;
use crate::spsc::Message;

/// Looks at a ring without a seat, for as many threads at once as like to.
pub(crate) struct Onlooker<T: Message, M: Memory> {
    memory: M,
    parts: Parts<T>,
}

// SAFETY: the parts point into `memory`, which moves along; what they point to is atomics and racy cells.
unsafe impl<T: Message, M: Memory + Send> Send for Onlooker<T, M> {}
// SAFETY: as above; by reference nothing but those is written.
unsafe impl<T: Message, M: Memory + Sync> Sync for Onlooker<T, M> {}

impl<T: Message, M: Memory> Onlooker<T, M> {
    pub(crate) fn attach(memory: M) -> Result<Self, AttachError> {
        let config = Ring::<T>::attach(memory.region())?;
        let parts = Parts::of(memory.region(), &config)?;
        Ok(Self { memory, parts })
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    pub(crate) fn recover(&self, peers: &impl Peers) -> Recovered {
        self.parts.recover(peers)
    }

    /// Whether a message that was sent and not released is one of those. Walks the ring.
    pub(crate) fn has_message(&self, is_it: impl Fn(&T) -> bool) -> bool {
        (0..self.parts.capacity).any(|index| {
            let slot = self.parts.slot(Ticket::new(index));
            // Acquire: what was done with a message comes before its release; pairs with step 3, too, for
            // the message.
            is_unreleased(Word::from_bits(slot.word.load(Acquire))) && is_it(&slot.message.load())
        })
    }

    /// Waits until `look` finds something, or the other side is gone. `recover` is called at the inner bound.
    pub(crate) fn wait_for_memory<R>(
        &self,
        deadline: Deadline,
        look: impl Fn() -> Option<R>,
        recover: impl Fn(),
    ) -> Result<R, SendError<()>> {
        let bell = &self.parts.control().rare.memory;
        let mut patience = Patience::new();
        loop {
            let late = deadline.has_passed();
            let armed = bell.arm();
            if let Some(found) = look() {
                return Ok(found);
            }
            if self.is_sent_in_vain() {
                return Err(SendError::Disconnected(()));
            }
            if late {
                return Err(SendError::Timeout(()));
            }
            match bell.park(armed, &mut patience, deadline) {
                Ok(Parked::Recheck | Parked::TimedOut) => recover(),
                Ok(_) => {}
                Err(errno) => return Err(SendError::System((), errno)),
            }
        }
    }

    /// Whether nobody takes what is sent.
    pub(crate) fn is_sent_in_vain(&self) -> bool {
        self.parts.is_sent_in_vain()
    }

    /// Announces who waits for memory, unless `is_ready`.
    pub(crate) fn arm_for_memory(&self, is_ready: impl Fn() -> bool) -> Armed<'_> {
        self.parts.control().rare.memory.arm_unless(is_ready)
    }

    /// Announces a sender that waits for a place, unless `is_ready`.
    pub(crate) fn arm_for_place(&self, is_ready: impl Fn() -> bool) -> Armed<'_> {
        self.parts.control().senders.arm_unless(is_ready)
    }

    /// Another sender is to look for a place.
    pub(crate) fn pass_place_on(&self) {
        self.parts.control().senders.pass_on();
    }

    /// Those who wait for memory are to look: some has become free.
    #[inline]
    pub(crate) fn ring_for_memory(&self) {
        self.parts.control().rare.memory.ring_all();
    }

    /// Whether nobody gets orphans: who finds one gives its block back.
    pub(crate) fn discards(&self) -> bool {
        self.parts.orphans == Orphans::Drop
    }
}

/// Ready for receivers of the ring.
impl<T: Message, M: Memory> Source for Onlooker<T, M> {
    fn is_ready(&self) -> bool {
        self.parts.is_ready()
    }

    fn arm(&self) -> Armed<'_> {
        self.parts.arm()
    }

    fn pass_on(&self) {
        self.parts.pass_on();
    }
}

impl<T: Message, M: Memory, P: Peers> Endpoint<T, M, P> {
    /// Gives each orphan to `free` and takes it out of the ring, as a receiver would that takes it and dies
    /// or releases it. `free` makes the block its own, and returns what frees it: after the message is
    /// gone. How many there were.
    pub(crate) fn discard_orphans<F: FnOnce()>(&self, free: impl Fn(T) -> F) -> u32 {
        if !self.is_seated() {
            return 0;
        }
        let mut discarded = 0;
        for index in 0..self.parts.capacity {
            let slot = self.parts.slot(Ticket::new(index));
            let bits = slot.word.load(Relaxed);
            let word = Word::from_bits(bits);
            if word.state != State::Orphan || (word.ticket.bits() ^ index) & self.mask() != 0 {
                continue;
            }
            // Step 5, out of order. Acquire as there.
            let mine = word.taken(self.number, false).bits();
            if slot
                .word
                .compare_exchange(bits, mine, Acquire, Relaxed)
                .is_err()
            {
                continue;
            }
            slot.hands.read();
            let freeing = free(slot.message.load());
            if self.give_back(word.ticket) {
                freeing();
                discarded += 1;
            }
        }
        discarded
    }

    fn mask(&self) -> u64 {
        self.parts.capacity - 1
    }
}
