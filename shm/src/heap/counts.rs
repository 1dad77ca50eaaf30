//! Who has which shared value: a counter for each, with a number for every participant.
//!
//! Counters lie beside the blocks and not in them, and every word names the life of the counter that
//! it belongs to, so whoever comes late to one changes nothing.
//!
//! # Protocol
//!
//! *share*: (1) the value in a block of one's own; (2) claim a counter: Free → Claimed(me), another
//! generation; (3) one's own number: 1; (4) offset and layout; (5) the block's word: me → shared; (6)
//! Claimed → Live. *acquire*: (7) one's own number + 1; (8) if the counter is Freeing in that generation,
//! → Live; if it is neither, the number back, and it is gone. *release*: (9) one's own number - 1; if it is
//! 0 now, and so are all: (10) Live → Freeing(me); (11) look at all numbers again: one is not 0: back to
//! Live, and again from 10; else Freeing(me) → Claimed(me), or somebody has acquired it; (12) the block's
//! word: shared → me; (13) offset: none; (14) free the block; (15) → Free. *recover*: (16) numbers of
//! the dead → 0, and 10 if all are; (17) a counter Claimed by the dead: → by me, and on with 12;
//! Freeing by the dead: → Live, and 10.
//!
//! 7 and 8, 10 and 11 meet as in Dekker's algorithm (`SeqCst`): the one who frees sees the number, or the
//! one who acquires sees Freeing, and one of the two wins the word. So a value that somebody has all the
//! time is never missed, though its references move about while they are looked at. One that acquires
//! and gives its number back may have turned somebody away who was about to free, so it looks itself.
//!
//! A number is written by all threads of its participant, also by one that comes late, for an earlier life
//! of the counter: it replaces a number of another life only while its own life is in the counter's word.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | `recover` |
//! |---|---|---|
//! | 1 | a block of the dead | frees it |
//! | 2 to 5 | a counter Claimed by the dead, perhaps with a block | 17 |
//! | 6, 7, 8 | a number of the dead | 16 |
//! | 9 | all numbers 0, perhaps | 16 |
//! | 10 | a counter Freeing by the dead | 17 |
//! | 11 to 14 | a counter Claimed by the dead; after 12 a block of the dead | 17, and frees it |
//! | 15 | nothing | |

use std::alloc::Layout;
use std::ptr::NonNull;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use multiprocess_core::{
    AttachError, CreateError, LayoutHash, Memory, ParticipantId, Peers, Place, Region,
};

use super::{HeapError, MAX_PARTICIPANTS};
use crate::{Arena, Block};

// A counter's word: state in bits 0-1, generation in bits 2-31, participant above.
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | FREE (0) | no value | who has it Claimed or Freeing (15) | claimer (2) |
// | CLAIMED | being set up, or taken down, by that participant | claimer (2), freer (11), heir (17) | the same (6, 15) |
// | LIVE | a value; the participant is 0 | claimer (6), freer (11), acquirer (8), heir (17) | freer (10) |
// | FREEING | that participant looks whether it is used | freer (10) | the same (11), acquirer (8), heir (17) |
const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const LIVE: u64 = 2;
const FREEING: u64 = 3;
const STATE: u64 = 3;
const GENERATION_BITS: u32 = 30;
const GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// Attempts of one that frees, and is turned away by others that come and go.
const ATTEMPTS: u32 = 64;

fn word(state: u64, generation: u32, by: ParticipantId) -> u64 {
    state | u64::from(generation & GENERATION) << 2 | u64::from(by.bits()) << 32
}

fn generation(word: u64) -> u32 {
    (word >> 2) as u32 & GENERATION
}

fn by(word: u64) -> ParticipantId {
    ParticipantId::from_bits((word >> 32) as u32)
}

/// A participant's number: count in bits 0-15, epoch in bits 16-31, generation above.
fn number(generation: u32, epoch: u16, count: u16) -> u64 {
    u64::from(generation) << 32 | u64::from(epoch) << 16 | u64::from(count)
}

/// Names a shared value for good: its counter, and which life of it. 0 names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) index: u16,
    generation: u32,
}

impl Handle {
    pub(super) fn bits(self) -> u64 {
        u64::from(self.generation) << 16 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let generation = (bits >> 16) as u32 & GENERATION;
        (generation != 0 && bits >> 46 == 0).then_some(Self {
            index: bits as u16,
            generation,
        })
    }
}

/// How many values, and participants.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountsConfig {
    pub(super) values: u32,
    pub(super) participants: u32,
}

/// Before the numbers. By whoever has the counter Claimed or Freeing.
#[repr(C)]
struct Counter {
    word: AtomicU64,
    /// Where the block is, and 1; 0: nowhere.
    offset: AtomicU64,
    layout: AtomicU64,
    reserved: AtomicU64,
}

#[repr(C, align(128))]
struct Header {
    values: AtomicU32,
    participants: AtomicU32,
}

impl CountsConfig {
    /// Bytes of a counter with its numbers: one for each participant, and the directory's.
    fn stride(&self) -> usize {
        (size_of::<Counter>() + 8 * (self.participants as usize + 1)).next_multiple_of(64)
    }
}

/// The state in shared memory.
pub(super) struct CountsState;

// SAFETY: `attach` checks that all counters of the configuration that it returns fit the region.
unsafe impl Place for CountsState {
    type Config = CountsConfig;

    const LAYOUT: LayoutHash = LayoutHash::of("Counts").mix(1);

    fn layout(config: &CountsConfig) -> Result<Layout, CreateError> {
        let limits = [
            (config.values, 1 << 16),
            (config.participants, MAX_PARTICIPANTS),
        ];
        for (requested, max) in limits {
            if requested == 0 || requested > max {
                let (requested, max) = (u64::from(requested), u64::from(max));
                return Err(CreateError::Capacity { requested, max });
            }
        }
        let size = size_of::<Header>() + config.values as usize * config.stride();
        Layout::from_size_align(size, 128).map_err(|_| CreateError::NoSpace)
    }

    unsafe fn init(region: Region<'_>, config: &CountsConfig) -> Result<(), CreateError> {
        region.check(Self::layout(config)?)?;
        // SAFETY: large enough and aligned, as just checked; nobody else uses the bytes.
        unsafe { region.base().as_ptr().write_bytes(0, region.len()) };
        // SAFETY: as above; zeroes are a valid header.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.participants.store(config.participants, Relaxed);
        header.values.store(config.values, Release);
        Ok(())
    }

    fn attach(region: Region<'_>) -> Result<CountsConfig, AttachError> {
        let header = region.base().cast::<Header>();
        if region.len() < size_of::<Header>() || !header.is_aligned() {
            let (need, have) = (size_of::<Header>() as u64, region.len() as u64);
            return Err(AttachError::Truncated { need, have });
        }
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let header = unsafe { header.as_ref() };
        let config = CountsConfig {
            values: header.values.load(Acquire),
            participants: header.participants.load(Relaxed),
        };
        match Self::layout(&config) {
            Ok(layout) if layout.size() <= region.len() => Ok(config),
            _ => Err(AttachError::Corrupt { field: "counts" }),
        }
    }
}

/// This process's way to the counters.
pub(super) struct Counts<M> {
    memory: M,
    config: CountsConfig,
}

impl<M: Memory> Counts<M> {
    pub(super) fn attach(memory: M, config: CountsConfig) -> Result<Self, AttachError> {
        let found = CountsState::attach(memory.region())?;
        // What the heap's own header says is what numbers are looked up by.
        if (found.values, found.participants) != (config.values, config.participants) {
            return Err(AttachError::Corrupt { field: "counts" });
        }
        Ok(Self { memory, config })
    }

    fn counter(&self, index: u16) -> Option<(&Counter, &[AtomicU64])> {
        if u32::from(index) >= self.config.values {
            return None;
        }
        let stride = self.config.stride();
        // SAFETY: `attach` has found as many counters of that size to fit behind the header, which is
        // aligned; all of it is atomics.
        unsafe {
            let first = self.memory.region().base().add(size_of::<Header>());
            let at = first.add(usize::from(index) * stride);
            let numbers = at.add(size_of::<Counter>()).cast();
            let len = self.config.participants as usize + 1;
            Some((
                at.cast::<Counter>().as_ref(),
                NonNull::slice_from_raw_parts(numbers, len).as_ref(),
            ))
        }
    }

    /// Steps 2 to 6.
    pub(super) fn share<A: Memory, P: Peers>(
        &self,
        arena: &Arena<A, P>,
        block: Block,
        layout: LayoutHash,
    ) -> Result<Handle, HeapError> {
        let me = arena.peers().me();
        let Some(handle) = self.claim(me) else {
            let _ = arena.free(block);
            return Err(HeapError::Full);
        };
        let Some((counter, numbers)) = self.counter(handle.index) else {
            return Err(HeapError::Full);
        };
        if let Some(own) = numbers.get(usize::from(me.slot())) {
            own.store(number(handle.generation, me.epoch(), 1), SeqCst);
        }
        counter.layout.store(layout.bits(), Relaxed);
        counter.offset.store(block.offset() | 1, Relaxed);
        arena.give(block, handle.index);
        let live = word(LIVE, handle.generation, ParticipantId::ANONYMOUS);
        counter.word.store(live, SeqCst);
        Ok(handle)
    }

    /// Step 2.
    fn claim(&self, me: ParticipantId) -> Option<Handle> {
        if me.is_anonymous() || u32::from(me.slot()) >= self.config.participants {
            return None;
        }
        (0..self.config.values).find_map(|index| {
            let index = index as u16;
            let (counter, _) = self.counter(index)?;
            let seen = counter.word.load(Relaxed);
            if seen & STATE != FREE {
                return None;
            }
            // 0 is nobody's, so that no handle is 0.
            let generation = match generation(seen).wrapping_add(1) & GENERATION {
                0 => 1,
                next => next,
            };
            let claimed = word(CLAIMED, generation, me);
            let turned = counter
                .word
                .compare_exchange(seen, claimed, SeqCst, Relaxed);
            turned.ok().map(|_| Handle { index, generation })
        })
    }

    /// Steps 7 and 8. Address of the value, which has `size` bytes.
    pub(super) fn acquire<A: Memory, P: Peers>(
        &self,
        arena: &Arena<A, P>,
        handle: Handle,
        layout: LayoutHash,
        size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let (counter, numbers) = self.counter(handle.index).ok_or(HeapError::NotFound)?;
        let is_there = || holds(counter.word.load(SeqCst), handle.generation);
        if !is_there() {
            return Err(HeapError::NotFound);
        }
        let found = counter.layout.load(Relaxed);
        if found != layout.bits() {
            let expected = layout.bits();
            return Err(HeapError::OtherType { found, expected });
        }
        let me = arena.peers().me();
        let own = numbers.get(usize::from(me.slot()));
        let own = own
            .filter(|_| !me.is_anonymous())
            .ok_or(HeapError::NotAParticipant)?;
        count_up(own, handle.generation, me, is_there)?;
        let is_live = Self::keep_live(counter, handle.generation);
        let offset = counter.offset.load(Relaxed);
        let place = is_live
            .then(|| arena.shared(offset & !1, handle.index))
            .flatten()
            .filter(|(_, len)| *len >= size);
        match place {
            Some((place, _)) => Ok(place),
            None => {
                self.release(arena, handle, me);
                Err(HeapError::NotFound)
            }
        }
    }

    /// Step 8. Whether the value is there, and stays as long as our number.
    fn keep_live(counter: &Counter, generation: u32) -> bool {
        let live = word(LIVE, generation, ParticipantId::ANONYMOUS);
        for _ in 0..ATTEMPTS {
            let seen = counter.word.load(SeqCst);
            if seen == live {
                return true;
            }
            if !holds(seen, generation) {
                return false;
            }
            // Whoever is about to free it has not seen our number.
            let kept = counter.word.compare_exchange(seen, live, SeqCst, SeqCst);
            if kept.is_ok() {
                return true;
            }
        }
        // Turned away as often as that, by others that come and go: as if it had gone.
        false
    }

    /// Step 9, and on.
    pub(super) fn release<A: Memory, P: Peers>(
        &self,
        arena: &Arena<A, P>,
        handle: Handle,
        me: ParticipantId,
    ) {
        let Some((_, numbers)) = self.counter(handle.index) else {
            return;
        };
        let own = numbers.get(usize::from(me.slot()));
        if own.is_some_and(|own| count_down(own, handle.generation, me.epoch())) {
            self.free_if_unused(arena, handle);
        }
    }

    /// The directory has one reference.
    pub(super) fn hold_for_directory(&self, handle: Handle) {
        if let Some((_, [.., directory])) = self.counter(handle.index) {
            directory.store(number(handle.generation, 0, 1), SeqCst);
        }
    }

    /// And gives it up: once, however often it is called.
    pub(super) fn release_by_directory<A: Memory, P: Peers>(
        &self,
        arena: &Arena<A, P>,
        handle: Handle,
    ) {
        if let Some((_, [.., directory])) = self.counter(handle.index) {
            count_down(directory, handle.generation, 0);
            self.free_if_unused(arena, handle);
        }
    }

    /// Whether somebody is counted in this life of the counter.
    fn is_used(numbers: &[AtomicU64], generation: u32) -> bool {
        let counts = |number: u64| number as u16 != 0 && (number >> 32) as u32 == generation;
        // The directory's first: it has what is looked up most.
        numbers
            .iter()
            .rev()
            .any(|number| counts(number.load(SeqCst)))
    }

    /// Steps 10 to 15.
    fn free_if_unused<A: Memory, P: Peers>(&self, arena: &Arena<A, P>, handle: Handle) {
        let Some((counter, numbers)) = self.counter(handle.index) else {
            return;
        };
        let me = arena.peers().me();
        let generation = handle.generation;
        let live = word(LIVE, generation, ParticipantId::ANONYMOUS);
        let mine = word(FREEING, generation, me);
        for _ in 0..ATTEMPTS {
            if me.is_anonymous()
                || Self::is_used(numbers, generation)
                || counter
                    .word
                    .compare_exchange(live, mine, SeqCst, Relaxed)
                    .is_err()
            {
                return;
            }
            if !Self::is_used(numbers, generation) {
                let claimed = word(CLAIMED, generation, me);
                let won = counter
                    .word
                    .compare_exchange(mine, claimed, SeqCst, Relaxed);
                if won.is_ok() {
                    self.finish(arena, counter, handle.index, claimed);
                }
                return;
            }
            let _ = counter.word.compare_exchange(mine, live, SeqCst, Relaxed);
        }
    }

    /// Steps 12 to 15, of a counter that we have Claimed, as `mine` says.
    fn finish<A: Memory, P: Peers>(
        &self,
        arena: &Arena<A, P>,
        counter: &Counter,
        index: u16,
        mine: u64,
    ) {
        let offset = counter.offset.load(Relaxed);
        // None: somebody was killed after 12, or before 5; the block is the dead one's.
        let block = (offset & 1 == 1)
            .then(|| arena.take_back(offset & !1, index))
            .flatten();
        counter.offset.store(0, Relaxed);
        if let Some(block) = block {
            let _ = arena.free(block);
        }
        let free = word(FREE, generation(mine), ParticipantId::ANONYMOUS);
        let _ = counter.word.compare_exchange(mine, free, SeqCst, Relaxed);
    }

    /// Steps 16 and 17, for all.
    pub(super) fn recover<A: Memory, P: Peers>(&self, arena: &Arena<A, P>) {
        for index in 0..self.config.values {
            self.recover_counter(arena, index as u16);
        }
    }

    fn recover_counter<A: Memory, P: Peers>(&self, arena: &Arena<A, P>, index: u16) {
        let Some((counter, numbers)) = self.counter(index) else {
            return;
        };
        let peers = arena.peers();
        let me = peers.me();
        let seen = counter.word.load(SeqCst);
        let generation = generation(seen);
        let handle = Handle { index, generation };
        let is_of_the_dead = |word| !me.is_anonymous() && by(word) != me && peers.is_dead(by(word));
        match seen & STATE {
            CLAIMED => {
                // The word that was judged is the word that is replaced.
                let mine = word(CLAIMED, generation, me);
                let inherited = is_of_the_dead(seen)
                    && counter
                        .word
                        .compare_exchange(seen, mine, SeqCst, Relaxed)
                        .is_ok();
                if inherited {
                    self.finish(arena, counter, index, mine);
                }
                return;
            }
            FREEING => {
                let live = word(LIVE, generation, ParticipantId::ANONYMOUS);
                if !is_of_the_dead(seen)
                    || counter
                        .word
                        .compare_exchange(seen, live, SeqCst, Relaxed)
                        .is_err()
                {
                    return;
                }
            }
            LIVE => {}
            _ => return,
        }
        let [of_participants @ .., _] = numbers else {
            return;
        };
        for (slot, own) in of_participants.iter().enumerate() {
            let seen = own.load(Relaxed);
            let by = ParticipantId::new(slot as u16, (seen >> 16) as u16);
            if seen as u16 != 0 && by != me && peers.is_dead(by) {
                let _ = own.compare_exchange(seen, 0, SeqCst, Relaxed);
            }
        }
        self.free_if_unused(arena, handle);
    }
}

/// Whether a counter with that word has the value of that life.
fn holds(word: u64, life: u32) -> bool {
    matches!(word & STATE, LIVE | FREEING) && generation(word) == life
}

/// Step 7. What a dead predecessor in the slot, or an earlier life of the counter, has left counts
/// nothing; but if the number is of a later life, it is another thread's, and we are late.
fn count_up(
    own: &AtomicU64,
    generation: u32,
    me: ParticipantId,
    is_there: impl Fn() -> bool,
) -> Result<(), HeapError> {
    // SeqCst: before the look at the counter's word.
    let mut seen = own.load(SeqCst);
    loop {
        let next = match seen as u16 {
            _ if seen & !0xffff != number(generation, me.epoch(), 0) => {
                if !is_there() {
                    return Err(HeapError::NotFound);
                }
                1
            }
            count => count.checked_add(1).ok_or(HeapError::Full)?,
        };
        let next = number(generation, me.epoch(), next);
        match own.compare_exchange(seen, next, SeqCst, SeqCst) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

/// Whether it is 0 now.
fn count_down(own: &AtomicU64, generation: u32, epoch: u16) -> bool {
    let mut seen = own.load(Relaxed);
    loop {
        if seen & !0xffff != number(generation, epoch, 0) || seen as u16 == 0 {
            return false;
        }
        match own.compare_exchange(seen, seen - 1, SeqCst, Relaxed) {
            Ok(_) => return seen as u16 == 1,
            Err(now) => seen = now,
        }
    }
}
