//! What a reactor knows of a ring that a task waits for.

use std::sync::Arc;

use multiprocess_core::atomic::{AtomicU32, Ordering::Acquire};
use multiprocess_core::{AttachError, Memory};

use super::layout::Parts;
use crate::spsc::Message;
use crate::tasks::Keep;

struct BellKeep<T, M> {
    parts: Parts<T>,
    _memory: M,
    of_sender: bool,
}

// SAFETY: the parts point into the memory, which moves along; what they point to is atomics.
unsafe impl<T, M: Send> Send for BellKeep<T, M> {}
// SAFETY: as above; the memory is not used.
unsafe impl<T, M: Sync> Sync for BellKeep<T, M> {}

/// For the sender or for receivers of the ring in `memory`.
pub(crate) fn keep<T: Message, M: Memory + Send + Sync + 'static>(
    memory: M,
    of_sender: bool,
) -> Result<Arc<dyn Keep>, AttachError> {
    let parts = Parts::<T>::attach(memory.region().into())?;
    Ok(Arc::new(BellKeep {
        parts,
        _memory: memory,
        of_sender,
    }))
}

impl<T: Message, M: Send + Sync> Keep for BellKeep<T, M> {
    fn word(&self) -> &AtomicU32 {
        let control = self.parts.control();
        match self.of_sender {
            true => control.room.bell.word(),
            false => control.door.receivers.word(),
        }
    }

    fn is_to_look(&self, expected: u32, _: u64) -> bool {
        // Who wakes changes the word before.
        self.word().load(Acquire) != expected
    }
}
