//! Who shares a segment with us, and who of them is still alive.

use crate::ParticipantId;

/// A process's membership in a table of participants: who we are to the others, and whether
/// the kernel attests somebody's death.
///
/// What the waiting primitives ask when a wait takes long. `shm` has the table that implements
/// it (`Participant`); an embedder with liveness of its own implements it itself.
///
/// # Safety
///
/// [`is_dead`](Self::is_dead) must be true only for a participant that the kernel has ended:
/// what it held is then given to others. *Stopped is not dead*, and "cannot tell" is `false`.
/// [`me`](Self::me) must name a participant of this process, in no other process's name.
pub unsafe trait Peers: Sync {
    /// This process, as the others know it. Anonymous only if it has no place among them: a
    /// forked child for which there was none left.
    fn me(&self) -> ParticipantId;

    /// Whether `participant` has ended. An id whose slot has a newer epoch has.
    fn is_dead(&self, participant: ParticipantId) -> bool;

    /// Whether there can be such a participant: `false` for one that the table has no slot for. A word
    /// that names it was written by nobody who follows the protocol, and nobody can attest its
    /// death.
    fn can_be(&self, participant: ParticipantId) -> bool {
        let _ = participant;
        true
    }

    /// A number for the table that all of them are in; not 0, and another one for another table. A
    /// lock is bound to the table of the first participant that takes it.
    fn table(&self) -> u32;

    /// Whether all participants live in one PID namespace. If not, a thread id names several
    /// threads, and the kernel's robust lists must be left alone.
    fn share_pid_namespace(&self) -> bool;
}

// SAFETY: the participant's own answers.
unsafe impl<P: Peers + ?Sized> Peers for &P {
    fn me(&self) -> ParticipantId {
        (**self).me()
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        (**self).is_dead(participant)
    }
    fn can_be(&self, participant: ParticipantId) -> bool {
        (**self).can_be(participant)
    }
    fn table(&self) -> u32 {
        (**self).table()
    }
    fn share_pid_namespace(&self) -> bool {
        (**self).share_pid_namespace()
    }
}
