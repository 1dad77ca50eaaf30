//! The table of those who share memory: who is who, and who is still alive.
//!
//! | offset | field | type | who writes |
//! |---|---|---|---|
//! | 0x00 | magic `MPRCPART` | u64 | creator, last |
//! | 0x08 | layout version | u32 | creator |
//! | 0x0c | slots | u32 | creator |
//! | 0x10 | inode of the creator's PID namespace | u64 | creator |
//! | 0x18 | flags: 1 = several PID namespaces | u32 | whoever joins; never taken back |
//! | 0x1c | a number for this table, not 0 | u32 | creator |
//! | 0x80 | slots, 32 bytes each | | their owner |
//!
//! A slot: `epoch u32 (bit 16: its owner has left) | pid u32 | start time u64 | PID namespace u64 | 0 u64`.
//!
//! # Protocol
//!
//! *join*: (1) open the table's file anew, for a file description that nobody shares; (2) lock
//! the byte whose offset is the slot's number, the first that is free, those last whose process
//! lives and has only left; (3) write pid, start time and namespace; (4) epoch + 1. *dead(slot,
//! epoch)*: (5) the slot has another epoch: dead, its byte was free once; (6) the byte is free:
//! dead (or it has executed another program), unless it has said that it leaves, and the kernel
//! does not say that its process has ended; (7) it is locked, but
//! the kernel says that the recorded process has ended: dead, and a child that it forked still
//! holds the description.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 | nothing | |
//! | 2, 3 | a byte that the kernel frees at once, a slot half-written under its old epoch | the old epoch's owner is dead anyway; the next owner writes it again |
//! | 4 | its byte is freed | it is dead |

use core::fmt;
use core::ptr::NonNull;

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering, spin_loop};
use multiprocess_core::thread::generation;
use multiprocess_core::{AttachError, CreateError, Errno, ParticipantId, Peers, Place};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use crate::Segment;
use crate::sys::{Identity, ofd};

mod state;

pub use state::{MAX_PARTICIPANTS, ParticipantsState};

use state::{Header, LEFT, MIXED_NAMESPACES, Slot};

/// A table of processes in shared memory, in which each can [`join`](Self::join), and by which
/// each can tell who of the others has died.
///
/// One table serves any number of segments: make one for a group of processes, and pass it on
/// (it travels inside messages) to all that share locks. Not needed for
/// `Mutex` and `RLock` within one PID namespace: there the kernel tells. Needed by `Lock`,
/// `Barrier`, and for locks shared by containers.
///
/// # Examples
///
/// ```
/// use multiprocess_core::Peers;
/// use multiprocess_shm::Participants;
///
/// let table = Participants::new(64)?;
/// let (me, other) = (table.join()?, table.join()?);   // two, for the sake of the example
/// let id = other.me();
/// assert!(!me.is_dead(id));
/// drop(other);
/// assert!(!me.is_dead(id), "it has left, and its process lives");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A process that dies, in whatever way, is dead in the table at once; its slot is used again
/// under another epoch. Trust: *guarded* as to memory; a hostile peer can write epochs, and so
/// have the living taken for dead.
///
/// # Fork
///
/// A child is not a participant until it joins or uses a [`Participant`] of its parent's, which
/// then joins anew.
pub struct Participants {
    segment: Segment,
    /// Where the table begins in the segment's payload; the byte locks begin at the same number.
    offset: usize,
    slots: u32,
}

/// Why a process could not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParticipantError {
    /// All slots are taken: by living participants, or by the dead whose forked children have not
    /// let go of what they inherited.
    Full {
        /// Slots in the table.
        slots: u32,
    },
    /// The kernel refused: no `/proc`, no descriptor left.
    System(Errno),
}

impl fmt::Display for ParticipantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { slots } => write!(f, "all {slots} slots for participants are taken"),
            Self::System(errno) => write!(f, "joining the participants: {errno}"),
        }
    }
}

impl core::error::Error for ParticipantError {}

impl From<Errno> for ParticipantError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl Participants {
    /// Makes a table for at most `slots` processes at a time, in a nameless segment.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for none or more than [`MAX_PARTICIPANTS`]; as
    /// [`Segment::create`].
    pub fn new(slots: u32) -> Result<Self, CreateError> {
        let segment = Segment::create_place::<ParticipantsState>(&slots)?;
        Ok(Self {
            segment,
            offset: 0,
            slots,
        })
    }

    /// Attaches to the table behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// As [`Segment::attach`].
    pub fn attach(file: OwnedFd) -> Result<Self, AttachError> {
        let (segment, slots) = Segment::attach_place::<ParticipantsState>(file)?;
        Ok(Self {
            segment,
            offset: 0,
            slots,
        })
    }

    /// Attaches to the table that lies in a segment among other things, `offset` bytes from the start
    /// of its payload.
    ///
    /// # Errors
    ///
    /// [`AttachError`], for what is wrong with the bytes there.
    pub fn within(segment: Segment, offset: usize) -> Result<Self, AttachError> {
        let payload = segment.payload();
        let have = payload.len() as u64;
        let rest = payload.len().saturating_sub(offset);
        let table = payload.sub(offset, rest);
        let need = offset as u64;
        let slots = ParticipantsState::attach(table.ok_or(AttachError::Truncated { need, have })?)?;
        Ok(Self {
            segment,
            offset,
            slots,
        })
    }

    /// Becomes a participant until the handle is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`].
    pub fn join(&self) -> Result<Participant, ParticipantError> {
        let table = Self {
            segment: self.segment.try_clone().map_err(errno_of)?,
            offset: self.offset,
            slots: self.slots,
        };
        let (file, id) = table.take_slot()?;
        Ok(Participant {
            table,
            id: AtomicU32::new(id.bits()),
            file: AtomicU32::new(file.into_raw_fd() as u32),
            generation: AtomicU64::new(generation()),
        })
    }

    /// The slots that have been used: who they belong or belonged to, and whether that one lives.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.slots).filter_map(|number| {
            let slot = self.slot(number)?;
            let epoch = slot.epoch.load(Ordering::Acquire) as u16;
            (epoch != 0).then(|| {
                let id = ParticipantId::new(number as u16, epoch);
                Entry {
                    id,
                    pid: slot.pid.load(Ordering::Relaxed),
                    is_alive: self.takes_part(id),
                }
            })
        })
    }

    /// How many processes can take part at a time.
    pub fn capacity(&self) -> u32 {
        self.slots
    }

    fn base(&self) -> NonNull<u8> {
        // SAFETY: the table was found to fit behind it.
        unsafe { self.segment.payload().base().add(self.offset) }
    }

    /// The byte of a slot's lock.
    fn byte(&self, slot: u32) -> u64 {
        self.offset as u64 + u64::from(slot)
    }

    fn header(&self) -> &Header {
        // SAFETY: checked when the table was made or attached; the segment stays mapped.
        unsafe { self.base().cast::<Header>().as_ref() }
    }

    fn slot(&self, number: u32) -> Option<&Slot> {
        if number >= self.slots {
            return None;
        }
        // SAFETY: `number` is below the slots that were found to fit; the bytes are atomics.
        unsafe {
            let first = self.base().add(size_of::<Header>());
            Some(first.cast::<Slot>().add(number as usize).as_ref())
        }
    }

    /// Steps 1 to 4.
    fn take_slot(&self) -> Result<(OwnedFd, ParticipantId), ParticipantError> {
        let file = ofd::reopen(self.segment.as_fd())?;
        // Twice: the ids of processes that live, and have only left, are spared as long as possible.
        let slots = (0..self.slots).map(|number| (number, true));
        let again = (0..self.slots).map(|number| (number, false));
        for (number, sparing) in slots.chain(again) {
            let Some(slot) = self.slot(number) else { break };
            if sparing && slot.has_left() && !slot.process().is_dead() {
                continue;
            }
            if !ofd::try_lock(file.as_fd(), self.byte(number))? {
                continue;
            }
            let me = Identity::own();
            slot.pid.store(me.pid, Ordering::Relaxed);
            slot.start_time.store(me.start_time, Ordering::Relaxed);
            slot.pid_namespace
                .store(me.pid_namespace, Ordering::Relaxed);
            if me.pid_namespace != self.header().pid_namespace.load(Ordering::Relaxed) {
                self.header()
                    .flags
                    .fetch_or(MIXED_NAMESPACES, Ordering::SeqCst);
            }
            let epoch = match (slot.epoch.load(Ordering::Relaxed) as u16).wrapping_add(1) {
                0 => 1, // 0 is: never used
                next => next,
            };
            // Release pairs with the Acquire loads in `has_died` and `entries`.
            slot.epoch.store(u32::from(epoch), Ordering::Release);
            return Ok((file, ParticipantId::new(number as u16, epoch)));
        }
        Err(ParticipantError::Full { slots: self.slots })
    }

    /// Steps 5 to 7. The segment's own description never holds a byte.
    fn has_died(&self, id: ParticipantId) -> bool {
        let Some(slot) = self.slot(u32::from(id.slot())) else {
            return false; // no such slot: nobody can attest anything
        };
        if slot.epoch.load(Ordering::Acquire) as u16 != id.epoch() {
            return true;
        }
        // A successor may have written its identity since, before its epoch: it is alive, and then
        // this is late, not wrong.
        match ofd::is_locked(self.segment.as_fd(), self.byte(id.slot().into())) {
            Ok(false) => !slot.has_left() || slot.process().is_dead(),
            Ok(true) => slot.process().has_ended(),
            Err(_) => false,
        }
    }

    fn takes_part(&self, id: ParticipantId) -> bool {
        let locked = ofd::is_locked(self.segment.as_fd(), self.byte(id.slot().into()));
        locked == Ok(true) && !self.has_died(id)
    }
}

impl Slot {
    fn has_left(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) & LEFT != 0
    }

    fn process(&self) -> Identity {
        Identity {
            pid: self.pid.load(Ordering::Relaxed),
            start_time: self.start_time.load(Ordering::Relaxed),
            pid_namespace: self.pid_namespace.load(Ordering::Relaxed),
        }
    }
}

impl AsFd for Participants {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl fmt::Debug for Participants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// One slot of the table that has been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// As locks are stamped.
    pub id: ParticipantId,
    /// Its process id, in its own PID namespace.
    pub pid: u32,
    /// Whether it still takes part.
    pub is_alive: bool,
}

/// This process as one of the [`Participants`]; what locks that ask for
/// [`Peers`] are taken with.
///
/// # Crash safety
///
/// Dead: its slot is free, and its id is dead to the others. Dropped: it has left; locks that its
/// process has forgotten are still its own, until the process ends or the last free slot is needed.
///
/// # Fork
///
/// In a child it joins anew at the first use, and is another participant from then on; if the
/// table is full, an anonymous one. The parent's slot is its own: the child's copy of the file
/// description is closed then.
pub struct Participant {
    table: Participants,
    /// `ParticipantId` bits.
    id: AtomicU32,
    /// The descriptor of the private file description, or [`NO_FILE`].
    file: AtomicU32,
    /// The process that `id` and `file` belong to: its generation, which is odd; less one while
    /// one of its threads changes them.
    generation: AtomicU64,
}

const NO_FILE: u32 = u32::MAX;

/// How long one thread of a forked child waits for another one to join anew, in pauses.
const RENEWING_SPINS: u32 = 1 << 20;

impl Participant {
    /// The table it is in.
    pub fn participants(&self) -> &Participants {
        &self.table
    }

    /// Joins anew if this is not the process that joined.
    #[inline]
    fn renew(&self) {
        // Acquire pairs with the Release store in `rejoin`.
        if self.generation.load(Ordering::Acquire) != generation() {
            self.rejoin();
        }
    }

    #[cold]
    fn rejoin(&self) {
        let now = generation();
        for tries in 0.. {
            if tries == RENEWING_SPINS {
                return; // a signal handler in the middle of it: anonymous for now
            }
            let seen = self.generation.load(Ordering::Acquire);
            if seen == now {
                return;
            }
            // What another process has left, even while it was changing it, is past.
            let renewing = now - 1;
            let first = seen != renewing
                && self
                    .generation
                    .compare_exchange(seen, renewing, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok();
            if first {
                break;
            }
            spin_loop();
        }
        let (file, id) = match self.table.take_slot() {
            Ok((file, id)) => (file.into_raw_fd() as u32, id),
            Err(_) => (NO_FILE, ParticipantId::ANONYMOUS),
        };
        close(self.file.swap(file, Ordering::Relaxed));
        self.id.store(id.bits(), Ordering::Relaxed);
        // Release pairs with the Acquire loads here and in `renew`.
        self.generation.store(now, Ordering::Release);
    }
}

fn close(file: u32) {
    if file != NO_FILE {
        // SAFETY: a descriptor that `take_slot` opened and nobody else has.
        drop(unsafe { OwnedFd::from_raw_fd(file as i32) });
    }
}

// SAFETY: an epoch moves on only after the byte was free; the kernel frees the byte when the last
// descriptor of a description that only this process's lineage has is closed, and says itself
// whether a process has ended. (A slot of a living process that has left is used again only when
// no other is free: what it forgot to release is then given away.) `me` is the slot whose byte we
// hold.
unsafe impl Peers for Participant {
    fn me(&self) -> ParticipantId {
        self.renew();
        // Acquire pairs with the Release store in `rejoin`.
        if self.generation.load(Ordering::Acquire) != generation() {
            return ParticipantId::ANONYMOUS;
        }
        ParticipantId::from_bits(self.id.load(Ordering::Relaxed))
    }

    fn is_dead(&self, participant: ParticipantId) -> bool {
        !participant.is_anonymous() && participant != self.me() && self.table.has_died(participant)
    }

    fn can_be(&self, participant: ParticipantId) -> bool {
        u32::from(participant.slot()) < self.table.slots
    }

    fn table(&self) -> u32 {
        self.table.header().number.load(Ordering::Relaxed)
    }

    fn share_pid_namespace(&self) -> bool {
        self.table.header().flags.load(Ordering::Relaxed) & MIXED_NAMESPACES == 0
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        // Not in a child's copy: the slot is its parent's.
        if self.generation.load(Ordering::Relaxed) == generation() {
            let id = ParticipantId::from_bits(self.id.load(Ordering::Relaxed));
            if let Some(slot) = self.table.slot(u32::from(id.slot()))
                && !id.is_anonymous()
            {
                slot.epoch.fetch_or(LEFT, Ordering::Relaxed);
            }
        }
        close(self.file.load(Ordering::Relaxed));
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Participant").field(&self.me()).finish()
    }
}

fn errno_of(error: AttachError) -> Errno {
    if let AttachError::System(errno) = error {
        return errno;
    }
    Errno::IO
}
