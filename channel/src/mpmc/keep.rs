//! What a reactor knows of a ring that a task waits for.

use std::sync::Arc;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use multiprocess_core::{AttachError, Memory, Place};

use super::Ring;
use super::bell::Bell;
use super::layout::Parts;
use super::words::{State, Ticket, Word};
use crate::spsc::Message;
use crate::tasks::Keep;

struct BellKeep<T, M> {
    parts: Parts<T>,
    _memory: M,
    of_senders: bool,
}

// SAFETY: the parts point into the memory, which moves along; what they point to is atomics.
unsafe impl<T, M: Send> Send for BellKeep<T, M> {}
// SAFETY: as above; the memory is not used.
unsafe impl<T, M: Sync> Sync for BellKeep<T, M> {}

/// For senders or for receivers of the ring in `memory`.
pub(crate) fn keep<T: Message, M: Memory + Send + Sync + 'static>(
    memory: M,
    of_senders: bool,
) -> Result<Arc<dyn Keep>, AttachError> {
    let config = Ring::<T>::attach(memory.region())?;
    let parts = Parts::<T>::of(memory.region(), &config)?;
    Ok(Arc::new(BellKeep {
        parts,
        _memory: memory,
        of_senders,
    }))
}

impl<T: Message, M> BellKeep<T, M> {
    fn bell(&self) -> &Bell {
        let control = self.parts.control();
        match self.of_senders {
            true => &control.senders,
            false => &control.receivers,
        }
    }

    fn count(&self, is_one: impl Fn(State) -> bool) -> u64 {
        let state = |index| {
            let bits = self.parts.slot(Ticket::new(index)).word.load(Relaxed);
            Word::from_bits(bits).state
        };
        (0..self.parts.capacity)
            .filter(|&index| is_one(state(index)))
            .count() as u64
    }
}

impl<T: Message, M: Send + Sync> Keep for BellKeep<T, M> {
    fn word(&self) -> &AtomicU32 {
        self.bell().word()
    }

    fn is_to_look(&self, expected: u32, _: u64) -> bool {
        // A wake that changed no word came after what it tells of.
        fence(SeqCst);
        if self.word().load(Relaxed) != expected {
            return true;
        }
        if !self.of_senders {
            return self.count(|state| matches!(state, State::Ready | State::Orphan)) > 0;
        }
        let limit = self.parts.limit;
        let untaken = |state| matches!(state, State::Writing | State::Ready);
        self.count(|state| state == State::Empty) > 0 && (limit == 0 || self.count(untaken) < limit)
    }

    fn pass_on(&self) {
        self.bell().pass_on();
    }
}
