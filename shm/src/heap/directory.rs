//! The directory of a heap: names, and the shared values that they stand for.
//!
//! A hash table with open addressing. Whoever changes it has its [`Turn`]; whoever looks something
//! up needs nothing.
//!
//! # Protocol
//!
//! *insert*, in turn: (1) find a place: the first that is not taken, from the name's hash on; (2) its
//! word → Claimed, with another generation; (3) name, layout, handle of the value; (4) the directory is
//! counted among those who have the value; (5) its word → Taken. *remove*, in turn: (6) Taken →
//! Claimed; (7) the directory gives its reference up; (8) handle → none; (9) → Removed. *find*: (10)
//! read a word; (11) if it is Taken and has the name's hash, copy name and handle out; (12) if the word still is the same, that was the entry.
//! Places are looked through from the hash on, to the first that was never used.
//! *inherit*: whoever gets the turn looks for Claimed places, which only the dead can have left, and
//! goes on with 7 for each.
//!
//! # Ordering
//!
//! The store of 5 is Release and pairs with the Acquire load of 10; the Acquire fence before 12 pairs
//! with the Release fence after 2 and 6, as in a sequence lock.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the next one in turn |
//! |---|---|---|
//! | 1 | the turn | inherits it |
//! | 2, 3, 4 | a Claimed place, with a handle perhaps | 7 to 9 |
//! | 5, 9 | the turn | |
//! | 6, 7, 8 | a Claimed place | 7 to 9: giving up what was given up is nothing |

use std::alloc::Layout;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use multiprocess_core::{AttachError, CreateError, Deadline, LayoutHash, Memory, Place, Region};

use super::counts::Handle;
use super::{HeapError, Inner};
use crate::turn::{Turn, TurnError};

/// Bytes of a name at most.
pub const MAX_KEY: usize = 64;

/// How long another process's turn is waited for.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

const MAX_OBJECTS: u32 = 1 << 20;

/// A name, and its hash.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    text: &'a str,
    hash: u32,
}

impl<'a> Key<'a> {
    #[inline]
    pub(super) fn new(text: &'a str) -> Result<Self, HeapError> {
        if text.is_empty() || text.len() > MAX_KEY {
            return Err(HeapError::InvalidKey);
        }
        let mut key = Self { text, hash: 0 };
        // FNV-1a, but by words; each is folded, since a product's low bits know nothing of the high
        // ones.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ text.len() as u64;
        key.all_words(|_, word| {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
            true
        });
        key.hash = hash as u32;
        Ok(key)
    }

    /// Whether `f` says so of all its bytes, by eight, numbered, the last ones padded with NULs.
    #[inline]
    fn all_words(&self, mut f: impl FnMut(usize, u64) -> bool) -> bool {
        let (whole, rest) = self.text.as_bytes().as_chunks::<8>();
        for (number, word) in whole.iter().enumerate() {
            if !f(number, u64::from_ne_bytes(*word)) {
                return false;
            }
        }
        rest.is_empty() || f(whole.len(), padded(rest))
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.text
    }
}

/// Less than eight bytes, and NULs. By two loads that overlap, or by three: a copy of a length that is
/// known only now would be a call.
#[inline]
fn padded(rest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    match (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            bytes[..4].copy_from_slice(first);
            bytes[rest.len() - 4..rest.len()].copy_from_slice(last);
        }
        _ => {
            for (to, from) in bytes.iter_mut().zip(rest) {
                *to = *from;
            }
        }
    }
    u64::from_ne_bytes(bytes)
}

// An entry's word: state in bits 0-1, generation in bits 2-31, hash of the name above.
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | UNUSED (0) | never used: searches end here | | inserter (2) |
// | CLAIMED | being filled or emptied, in turn | inserter (2), remover (6) | inserter (5), remover, heir (9) |
// | TAKEN | an object | inserter (5) | remover (6) |
// | REMOVED | free again: searches go on | remover, heir (9) | inserter (2) |
const UNUSED: u64 = 0;
const CLAIMED: u64 = 1;
const TAKEN: u64 = 2;
const REMOVED: u64 = 3;
const STATE: u64 = 3;
const GENERATION_ONE: u64 = 4;
const GENERATION: u64 = 0xffff_fffc;
const HASH_SHIFT: u32 = 32;

/// By whoever has the turn.
#[repr(C, align(128))]
struct Entry {
    word: AtomicU64,
    layout: AtomicU64,
    handle: AtomicU64,
    len: AtomicU32,
    reserved: AtomicU32,
    key: [AtomicU64; MAX_KEY / 8],
}

/// `places`: by the creator.
#[repr(C, align(128))]
struct Header {
    turn: Turn,
    places: AtomicU32,
}

#[cfg(not(loom))]
const _: () = {
    use static_assertions::const_assert_eq;
    const_assert_eq!(size_of::<Entry>(), 128);
    const_assert_eq!(size_of::<Header>(), 128);
};

/// The state in shared memory.
pub(super) struct DirectoryState;

// SAFETY: `attach` checks that as many places as it returns fit the region.
unsafe impl Place for DirectoryState {
    /// Objects.
    type Config = u32;

    const LAYOUT: LayoutHash = LayoutHash::of("Directory").mix(2);

    fn layout(objects: &u32) -> Result<Layout, CreateError> {
        if *objects == 0 || *objects > MAX_OBJECTS {
            return Err(CreateError::Capacity {
                requested: u64::from(*objects),
                max: u64::from(MAX_OBJECTS),
            });
        }
        let size = size_of::<Header>() + places(*objects) as usize * size_of::<Entry>();
        Layout::from_size_align(size, align_of::<Header>()).map_err(|_| CreateError::NoSpace)
    }

    unsafe fn init(region: Region<'_>, objects: &u32) -> Result<(), CreateError> {
        region.check(Self::layout(objects)?)?;
        // SAFETY: large enough and aligned, as just checked; nobody else uses the bytes.
        unsafe { region.base().as_ptr().write_bytes(0, region.len()) };
        // SAFETY: as above; zeroes are a valid header.
        let header = unsafe { region.base().cast::<Header>().as_ref() };
        header.places.store(places(*objects), Release);
        Ok(())
    }

    /// As many places as there are.
    fn attach(region: Region<'_>) -> Result<u32, AttachError> {
        let have = region.len() as u64;
        let header = region.base().cast::<Header>();
        if region.len() < size_of::<Header>() || !header.is_aligned() {
            let need = size_of::<Header>() as u64;
            return Err(AttachError::Truncated { need, have });
        }
        // SAFETY: large enough and aligned; any bytes are valid atomics.
        let places = unsafe { header.as_ref() }.places.load(Acquire);
        let fit = (region.len() - size_of::<Header>()) / size_of::<Entry>();
        match places {
            0 => Err(AttachError::Corrupt { field: "places" }),
            places if places as usize > fit => Err(AttachError::Corrupt { field: "places" }),
            places => Ok(places),
        }
    }
}

/// A third more than asked for: searches in a full table would be long.
const fn places(objects: u32) -> u32 {
    objects + objects.div_ceil(3)
}

/// A named object, at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its name.
    pub key: String,
    /// Its layout ([`LayoutHash::bits`]).
    pub layout: u64,
    handle: u64,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) handle: Handle,
    place: usize,
    /// The entry as it was.
    word: u64,
}

/// This process's way to the directory.
pub(super) struct Directory<M> {
    memory: M,
    places: u32,
}

impl<M: Memory> Directory<M> {
    pub(super) fn attach(memory: M) -> Result<Self, AttachError> {
        let places = DirectoryState::attach(memory.region())?;
        Ok(Self { memory, places })
    }

    fn header(&self) -> &Header {
        // SAFETY: `attach` has checked it; the memory stays.
        unsafe { self.memory.region().base().cast::<Header>().as_ref() }
    }

    fn entries(&self) -> &[Entry] {
        // SAFETY: `attach` has found as many entries to fit behind the header; they are atomics.
        unsafe {
            let first = self.memory.region().base().add(size_of::<Header>());
            std::slice::from_raw_parts(first.cast().as_ptr(), self.places as usize)
        }
    }

    /// The entries from the key's place on, once around.
    #[inline]
    fn places_for(&self, key: &Key<'_>) -> impl Iterator<Item = (usize, &Entry)> {
        let entries = self.entries();
        // The hash is a fraction of 2^32, and so is the place of all places: below their number.
        let start = ((u64::from(key.hash) * entries.len() as u64) >> 32) as usize;
        let mut next = start;
        (0..entries.len()).filter_map(move |_| {
            let number = next;
            next = if number + 1 < entries.len() {
                number + 1
            } else {
                0
            };
            Some((number, entries.get(number)?))
        })
    }

    /// Whether what was found still has its name.
    pub(super) fn is_there(&self, found: &Found) -> bool {
        let entry = self.entries().get(found.place);
        entry.is_some_and(|entry| entry.word.load(Acquire) == found.word)
    }

    /// Steps 10 to 12.
    #[inline]
    pub(super) fn find(&self, key: &Key<'_>) -> Option<Found> {
        for (place, entry) in self.places_for(key) {
            // Acquire pairs with the Release store in `insert`.
            let word = entry.word.load(Acquire);
            if word & STATE == UNUSED {
                return None;
            }
            if word & STATE == TAKEN && (word >> HASH_SHIFT) as u32 == key.hash && entry.is(key) {
                let handle = Handle::from_bits(entry.handle.load(Relaxed));
                // Pairs with the Release fences in `insert` and `remove`.
                fence(Acquire);
                if entry.word.load(Relaxed) == word {
                    return Some(Found {
                        handle: handle?,
                        place,
                        word,
                    });
                }
            }
        }
        None
    }

    fn turn(&self, heap: &Inner, deadline: Deadline) -> Result<crate::turn::Taken<'_>, HeapError> {
        let taken = self.header().turn.take(heap.arena.peers(), deadline);
        let taken = taken.map_err(|error| match error {
            TurnError::Timeout => HeapError::Timeout,
            TurnError::NotAParticipant => HeapError::NotAParticipant,
            TurnError::Corrupt => AttachError::Corrupt { field: "turn" }.into(),
            TurnError::System(errno) => HeapError::System(errno),
        })?;
        if taken.is_inherited() {
            for entry in self.entries() {
                if entry.word.load(Relaxed) & STATE == CLAIMED {
                    entry.empty(heap);
                }
            }
        }
        Ok(taken)
    }

    /// Steps 1 to 5.
    pub(super) fn insert(
        &self,
        key: &Key<'_>,
        handle: Handle,
        layout: LayoutHash,
        heap: &Inner,
        deadline: Deadline,
    ) -> Result<(), HeapError> {
        let _turn = self.turn(heap, deadline)?;
        if self.find(key).is_some() {
            return Err(HeapError::Exists);
        }
        let mut places = self.places_for(key).map(|(_, entry)| entry);
        let place =
            places.find(|entry| matches!(entry.word.load(Relaxed) & STATE, UNUSED | REMOVED));
        let entry = place.ok_or(HeapError::Full)?;
        let generation = (entry.word.load(Relaxed) & GENERATION).wrapping_add(GENERATION_ONE);
        let generation = generation & GENERATION;
        entry.word.store(generation | CLAIMED, Relaxed);
        // Pairs with the Acquire fence in `find`.
        fence(Release);
        key.all_words(|number, word| {
            match entry.key.get(number) {
                Some(to) => to.store(word, Relaxed),
                None => return false,
            }
            true
        });
        entry.len.store(key.text.len() as u32, Relaxed);
        entry.layout.store(layout.bits(), Relaxed);
        entry.handle.store(handle.bits(), Relaxed);
        heap.counts.hold_for_directory(handle);
        let word = u64::from(key.hash) << HASH_SHIFT | generation | TAKEN;
        // Release pairs with the Acquire load in `find`.
        entry.word.store(word, Release);
        Ok(())
    }

    /// Steps 6 to 9.
    pub(super) fn remove(
        &self,
        key: &Key<'_>,
        heap: &Inner,
        deadline: Deadline,
    ) -> Result<(), HeapError> {
        let _turn = self.turn(heap, deadline)?;
        let mut entries = self.places_for(key).map(|(_, entry)| entry);
        let entry = entries
            .find(|entry| entry.word.load(Relaxed) & STATE == TAKEN && entry.is(key))
            .ok_or(HeapError::NotFound)?;
        let word = entry.word.load(Relaxed);
        entry.word.store(word & !STATE | CLAIMED, Relaxed);
        // Pairs with the Acquire fence in `find`.
        fence(Release);
        entry.empty(heap);
        Ok(())
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = ObjectInfo> + '_ {
        self.entries().iter().filter_map(Entry::info)
    }
}

impl Entry {
    #[inline]
    fn is(&self, key: &Key<'_>) -> bool {
        self.len.load(Relaxed) as usize == key.text.len()
            && key.all_words(|number, word| {
                let own = self.key.get(number);
                own.is_some_and(|own| own.load(Relaxed) == word)
            })
    }

    /// Steps 7 to 9, of a Claimed one, in turn.
    fn empty(&self, heap: &Inner) {
        if let Some(handle) = Handle::from_bits(self.handle.load(Relaxed)) {
            heap.counts.release_by_directory(&heap.arena, handle);
        }
        self.handle.store(0, Relaxed);
        let generation = self.word.load(Relaxed) & GENERATION;
        self.word.store(generation | REMOVED, Release);
    }

    fn info(&self) -> Option<ObjectInfo> {
        let word = self.word.load(Acquire);
        if word & STATE != TAKEN {
            return None;
        }
        let words: [u64; MAX_KEY / 8] = std::array::from_fn(|i| self.key[i].load(Relaxed));
        let bytes: [u8; MAX_KEY] = bytemuck::cast(words);
        let len = (self.len.load(Relaxed) as usize).min(MAX_KEY);
        let info = ObjectInfo {
            key: String::from_utf8_lossy(&bytes[..len]).into_owned(),
            layout: self.layout.load(Relaxed),
            handle: self.handle.load(Relaxed),
        };
        // Pairs with the Release fences in `insert` and `remove`.
        fence(Acquire);
        (self.word.load(Relaxed) == word).then_some(info)
    }
}
