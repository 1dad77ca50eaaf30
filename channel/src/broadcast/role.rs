//! Who the sender is: how one comes to it, takes over, and closes.

use core::cell::Cell;

use multiprocess_core::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::thread::generation;
use multiprocess_core::{AttachError, Memory, ParticipantId, Peers, asymmetric};

use super::Sender;
use super::layout::{Parts, there};
use crate::spsc::Message;

// | bits of the role | meaning | who enters | who leaves |
// |---|---|---|---|
// | all clear | no sender yet | creator | attacher, by CAS |
// | 0: CLAIMED | the ring has a sender | attacher, by CAS | nobody; a successor keeps it |
// | 1: CLOSED | the sender is gone for good | sender | successor that was told to take over |
// | 2: LIGHT | the sender publishes with light fences only | attacher | successor |
// | 3: SENT | the sender is under way in a message, and nobody's until it is received | sender | receiver of the message |
// | 32-63 | the sender, a `ParticipantId` | attacher | successor, sender that is sent |
const CLAIMED: u64 = 1;
const CLOSED: u64 = 2;
const LIGHT: u64 = 4;
#[cfg(feature = "serde")]
const SENT: u64 = 8;

pub(super) fn is_light(role: u64) -> bool {
    role & LIGHT != 0
}

/// Who the sender is, or was; anonymous if there was none, or if it is none of the participants.
pub(super) fn identity(role: u64) -> ParticipantId {
    ParticipantId::from_bits((role >> 32) as u32)
}

pub(super) fn is_closed(role: u64) -> bool {
    role & CLOSED != 0
}

impl<T: Message, M: Memory, P: Peers> Sender<T, M, P> {
    /// Claims the sending end of the ring in `memory`, for a process that is `peers` to the others:
    /// if it is free, or its owner is attested dead.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if the ring has a sender, or had one that closed; whatever is wrong
    /// with the bytes.
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachError> {
        let parts = Parts::<T>::attach(memory.region().into())?;
        parts.bound().bind(&peers)?;
        let light = asymmetric::register();
        let role = &parts.control().door.role;
        let seen = role.load(Relaxed);
        let free = seen == 0;
        let id = identity(seen);
        let dead =
            seen & CLOSED == 0 && id != peers.me() && !id.is_anonymous() && peers.is_dead(id);
        if !free && !dead {
            return Err(AttachError::RoleTaken);
        }
        // The word that was judged is the word that is replaced: of two successors one gets it.
        // Acquire and Release: one sender's tail is seen by the next.
        role.compare_exchange(seen, Self::role(light, &peers), AcqRel, Relaxed)
            .map_err(|_| AttachError::RoleTaken)?;
        Ok(Self::begin(memory, parts, peers, light))
    }

    /// Gives the role away for whoever gets a message with it: `false` if it is not ours. Nothing more is
    /// sent by this handle.
    #[cfg(feature = "serde")]
    pub(crate) fn give_away(&self) -> bool {
        if !self.can_be_given() {
            return false;
        }
        self.is_open.set(false);
        self.limit.set(self.tail);
        // By CAS: a successor that was told that we are dead keeps it. Release pairs with the Acquire in
        // `claim_sent`: the tail is seen.
        let role = &self.parts.control().door.role;
        let ours = Self::role(self.light, &self.peers);
        role.compare_exchange(ours, CLAIMED | SENT, AcqRel, Relaxed)
            .is_ok()
    }

    /// Whether it is ours to give.
    #[cfg(feature = "serde")]
    pub(crate) fn can_be_given(&self) -> bool {
        self.is_open.get() && self.is_ours()
    }

    /// Claims the sender that was under way in a message.
    ///
    /// # Errors
    ///
    /// [`AttachError::RoleTaken`] if somebody has got it, or it was closed.
    #[cfg(feature = "serde")]
    pub(crate) fn claim_sent(memory: M, peers: P) -> Result<Self, AttachError> {
        let parts = Parts::<T>::attach(memory.region().into())?;
        parts.bound().bind(&peers)?;
        let light = asymmetric::register();
        let role = &parts.control().door.role;
        // By CAS: of two who were handed the same message one gets it. Acquire: as in `give_away`.
        role.compare_exchange(CLAIMED | SENT, Self::role(light, &peers), AcqRel, Relaxed)
            .map_err(|_| AttachError::RoleTaken)?;
        Ok(Self::begin(memory, parts, peers, light))
    }

    /// Becomes the sender in place of one that died, or closed.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), without `RoleTaken`.
    ///
    /// # Safety
    ///
    /// The kernel must have attested the former sender's death (a readable pidfd, a reaped child), or it
    /// must have closed: stopped is not dead, and two senders tear each other's messages.
    pub unsafe fn take_over(memory: M, peers: P) -> Result<Self, AttachError> {
        let parts = Parts::<T>::attach(memory.region().into())?;
        parts.bound().bind(&peers)?;
        let light = asymmetric::register();
        let role = &parts.control().door.role;
        // As in `attach`.
        role.swap(Self::role(light, &peers), AcqRel);
        Ok(Self::begin(memory, parts, peers, light))
    }

    fn role(light: bool, peers: &P) -> u64 {
        let light = if light { LIGHT } else { 0 };
        u64::from(peers.me().bits()) << 32 | CLAIMED | light
    }

    /// Step 19.
    fn begin(memory: M, parts: Parts<T>, peers: P, light: bool) -> Self {
        let mut tail = parts.tail();
        // Relaxed: whoever wrote it is dead, and the role was claimed after that.
        if parts.slot(tail).sequence.load(Relaxed) == there(tail) {
            // Sent, and perhaps received: its number is used.
            tail = tail.wrapping_add(1);
            // Release: as in `publish`.
            parts.control().tail.store(tail, Release);
        }
        // A sleeper whose fence comes before this one is seen by our next look at its bell; one whose
        // fence comes after it sees whether we are light.
        fence(SeqCst);
        let sender = Self {
            memory,
            parts,
            peers,
            tail,
            limit: Cell::new(tail),
            light,
            is_open: Cell::new(true),
            generation: generation(),
            spin: AdaptiveSpin::new(),
        };
        // For what our predecessor sent and did not tell.
        sender.wake_sleepers();
        sender
    }

    /// Nothing more is sent: receivers read what is there and are then disconnected. Idempotent;
    /// dropping does the same.
    pub fn close(&mut self) {
        self.limit.set(self.tail);
        if !self.is_open.replace(false) || !self.is_ours() {
            return;
        }
        let role = &self.parts.control().door.role;
        let ours = Self::role(self.light, &self.peers);
        // By CAS: a successor that was told that we are dead is not closed. Release pairs with the
        // Acquire load in `Parts::is_closed`: the last message is seen.
        if role
            .compare_exchange(ours, ours | CLOSED, AcqRel, Acquire)
            .is_ok()
        {
            fence(SeqCst);
            self.wake_sleepers();
        }
    }
}

impl<T: Message, M: Memory, P: Peers> Drop for Sender<T, M, P> {
    fn drop(&mut self) {
        #[cfg(feature = "serde")]
        if multiprocess_shm::transfer::is_refused_for_now() && self.give_away() {
            return; // its message comes again
        }
        self.close();
    }
}
