//! What the words of an arena say.

use multiprocess_core::ParticipantId;

/// Bytes of a unit: the alignment of blocks, and what sizes are counted in.
pub(super) const UNIT: usize = 64;

// A unit's word, at the first unit of a block:
//
// | word | meaning | who enters | who leaves |
// |---|---|---|---|
// | FREE | no block begins here | owner's free, recoverer | allocator (1) |
// | participant | held by that one | allocator (1, 6) | owner, recoverer once it is dead |
// | shared(c) | belongs to those who are counted in counter c | owner | whoever has c to itself |
pub(super) const FREE_UNIT: u32 = 0;

/// No participant of an arena has this slot: words with it are `shared`.
pub(super) const SHARED_SLOT: u16 = u16::MAX;

/// What holds a unit.
pub(super) fn holder(word: u32) -> Option<ParticipantId> {
    let by = ParticipantId::from_bits(word);
    (word != FREE_UNIT && by.slot() != SHARED_SLOT).then_some(by)
}

/// What a chunk is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// For nothing.
    Free,
    /// That participant is about to change what it is used for.
    Claimed(ParticipantId),
    /// A slab of that class, which that participant would have for itself if no block of it is held.
    /// Until it has looked, there may be some.
    Emptying(u32, ParticipantId),
    /// For blocks of that size class.
    Slab(u32),
    /// First of so many chunks that are one block.
    Large(u32),
    /// So many chunks behind such a first one.
    Body(u32),
}

// A chunk's word: kind in the top four bits, argument in the low half.
//
// | word | meaning | who enters | who leaves |
// |---|---|---|---|
// | Free (0) | nothing in it | claimer, last | claimer (2, 5) |
// | Claimed | somebody is at work on it, and no block of others is in it | claimer (2, 5), freer, heir | the same |
// | Emptying | a slab that is looked through | reclaimer (13) | reclaimer (15), heir (16) |
// | Slab | blocks of one class | claimer (3) | reclaimer |
// | Large | first of a run that is one block | claimer, after the bodies (8) | its owner's free, recoverer |
// | Body | behind a Claimed or Large one | claimer of the run (7) | freer of the run, last to first |
const KIND_SHIFT: u32 = 60;
const CLAIMED: u64 = 1;
const SLAB: u64 = 2;
const LARGE: u64 = 3;
const BODY: u64 = 4;
const EMPTYING: u64 = 5;
/// Of the class of an Emptying one; its participant is the argument.
const CLASS_SHIFT: u32 = 32;
const CLASS: u64 = 0xff;

impl Chunk {
    /// `None` for what no process of ours writes.
    #[inline]
    pub(super) fn of(word: u64) -> Option<Self> {
        let argument = word as u32;
        if word >> KIND_SHIFT == EMPTYING {
            let class = word >> CLASS_SHIFT & CLASS;
            let chunk = Self::Emptying(class as u32, ParticipantId::from_bits(argument));
            return (chunk.word() == word).then_some(chunk);
        }
        if word & !(0xf << KIND_SHIFT) != u64::from(argument) {
            return None;
        }
        match word >> KIND_SHIFT {
            0 if argument == 0 => Some(Self::Free),
            CLAIMED => Some(Self::Claimed(ParticipantId::from_bits(argument))),
            SLAB => Some(Self::Slab(argument)),
            LARGE if argument > 0 => Some(Self::Large(argument)),
            BODY if argument > 0 => Some(Self::Body(argument)),
            _ => None,
        }
    }

    #[inline]
    pub(super) const fn word(self) -> u64 {
        let (kind, argument) = match self {
            Self::Emptying(class, by) => {
                let class = (class as u64 & CLASS) << CLASS_SHIFT;
                return EMPTYING << KIND_SHIFT | class | by.bits() as u64;
            }
            Self::Free => (0, 0),
            Self::Claimed(by) => (CLAIMED, by.bits()),
            Self::Slab(class) => (SLAB, class),
            Self::Large(chunks) => (LARGE, chunks),
            Self::Body(distance) => (BODY, distance),
        };
        kind << KIND_SHIFT | argument as u64
    }
}

/// Size classes at most: the largest block of a slab is half a chunk of [`MAX_CHUNK_UNITS`].
pub(super) const CLASSES: usize = 49;

/// log2 of the units of the smallest and of the largest chunk: 4 KiB and 1 MiB.
pub(super) const MIN_SHIFT: u32 = 6;
pub(super) const MAX_SHIFT: u32 = 14;

/// Units of a class's blocks: 1, 2, 3, 4, then four to each doubling.
#[inline]
pub(super) const fn units_of(class: u32) -> u32 {
    if class < 4 {
        return class + 1;
    }
    let (group, step) = ((class - 4) / 4, (class - 4) % 4 + 1);
    (4 << group) + (step << group)
}

/// The smallest class whose blocks have `units`, which is 1 at least.
#[inline]
pub(super) const fn class_of(units: u32) -> u32 {
    if units <= 4 {
        return units - 1;
    }
    let group = ((units - 1) / 4).ilog2();
    let step = (units - (4 << group)).div_ceil(1 << group);
    4 + 4 * group + step - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_fits() {
        for units in 1..=1 << (MAX_SHIFT - 1) {
            let class = class_of(units);
            assert!((class as usize) < CLASSES, "{units}: {class}");
            assert!(units_of(class) >= units, "{units}");
            assert!(class == 0 || units_of(class - 1) < units, "{units}");
            // A quarter is wasted at most.
            assert!(units <= 4 || units_of(class) * 4 <= units * 5, "{units}");
        }
    }

    #[test]
    fn words_say_what_they_were_made_of_and_others_nothing() {
        let someone = ParticipantId::new(3, 9);
        for chunk in [
            Chunk::Free,
            Chunk::Claimed(someone),
            Chunk::Emptying(48, someone),
            Chunk::Slab(7),
            Chunk::Large(1),
            Chunk::Body(u32::MAX),
        ] {
            assert_eq!(Chunk::of(chunk.word()), Some(chunk));
        }
        for word in [
            1,
            6 << 60,
            5 << 60 | 1 << 40,
            u64::MAX,
            SLAB << 60 | 1 << 32,
            LARGE << 60,
            BODY << 60,
        ] {
            assert_eq!(Chunk::of(word), None, "{word:#x}");
        }
    }
}
