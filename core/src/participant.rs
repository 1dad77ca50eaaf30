//! Who holds something: the stamp in lock words and queue descriptors.

use core::fmt;

/// A process attached to a segment, as lock words and descriptors name it.
///
/// `slot` is its index in the segment's participant table, `epoch` counts the lives of that
/// slot, so that a successor is never taken for its predecessor. All zero is
/// [`ANONYMOUS`](Self::ANONYMOUS): nobody can attest this one's death.
///
/// # Examples
///
/// ```
/// use multiprocess_core::ParticipantId;
///
/// let id = ParticipantId::new(3, 7);
/// assert_eq!(ParticipantId::from_bits(id.bits()), id);
/// assert!(ParticipantId::default().is_anonymous());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct ParticipantId {
    slot: u16,
    epoch: u16,
}

impl ParticipantId {
    /// Not a participant of any table.
    pub const ANONYMOUS: Self = Self { slot: 0, epoch: 0 };

    /// The participant in `slot`, in that slot's life number `epoch`.
    pub const fn new(slot: u16, epoch: u16) -> Self {
        Self { slot, epoch }
    }

    /// Index in the participant table.
    pub const fn slot(self) -> u16 {
        self.slot
    }

    /// Which life of the slot.
    pub const fn epoch(self) -> u16 {
        self.epoch
    }

    /// Whether this is [`ANONYMOUS`](Self::ANONYMOUS).
    pub const fn is_anonymous(self) -> bool {
        self.slot == 0 && self.epoch == 0
    }

    /// As it stands in shared words: slot in the low half, epoch in the high half.
    pub const fn bits(self) -> u32 {
        self.slot as u32 | (self.epoch as u32) << 16
    }

    /// The inverse of [`bits`](Self::bits); every value is a valid id.
    pub const fn from_bits(bits: u32) -> Self {
        Self {
            slot: bits as u16,
            epoch: (bits >> 16) as u16,
        }
    }
}

impl fmt::Debug for ParticipantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_anonymous() {
            f.write_str("ParticipantId::ANONYMOUS")
        } else {
            write!(f, "ParticipantId({}.{})", self.slot, self.epoch)
        }
    }
}
