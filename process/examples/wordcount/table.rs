//! How often each word occurs.
//!
//! An open-addressed table; the words lie one behind the other in a buffer, so that a new one costs no
//! allocation, and two places of memory are looked at for one that is there.
//!
//! It is cut into shards by the words' hash: those of one number in two tables have nothing to do with
//! the others, and several threads merge them. In a shard, too, words are in the order of their hashes.

use serde::{Deserialize, Serialize};

use super::hash::Seeded;

/// Of each table. More than there are CPUs in most machines.
pub(crate) const SHARDS: usize = 16;

#[derive(Debug)]
pub(crate) struct Table {
    seed: Seeded,
    shards: Vec<Shard>,
}

impl Table {
    pub(crate) fn new(seed: Seeded) -> Self {
        Self {
            seed,
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
        }
    }

    /// Adds an occurrence of a word.
    pub(crate) fn add(&mut self, word: &str) {
        let hash = self.seed.hash(word);
        self.shards[shard_of(hash)].add(word, tag_of(hash), 1);
    }

    /// Different words.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.taken).sum()
    }

    /// How often `word` occurs.
    pub(crate) fn get(&self, word: &str) -> u64 {
        let hash = self.seed.hash(word);
        let shard = &self.shards[shard_of(hash)];
        match shard.find(word, tag_of(hash)) {
            Ok(at) => shard.slots[at].count,
            Err(_) => 0,
        }
    }

    /// All words, with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.shards.iter().flat_map(Shard::iter)
    }

    /// All words again, as pieces of about `bytes` bytes, each of words of one shard.
    pub(crate) fn pieces(&self, bytes: usize) -> impl Iterator<Item = Piece> {
        let shards = (0..).zip(&self.shards);
        shards.flat_map(move |(number, shard)| shard.pieces(number, bytes))
    }

    /// Forgets all words, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        for shard in &mut self.shards {
            shard.slots.fill(FREE);
            shard.taken = 0;
            shard.words.clear();
        }
    }

    /// The table of all words in `pieces`, which came from tables of the same seed. By `threads` threads.
    pub(crate) fn merged(seed: Seeded, pieces: &[Piece], threads: usize) -> Self {
        let mut table = Self::new(seed);
        std::thread::scope(|scope| {
            let each = SHARDS.div_ceil(threads.max(1));
            let parts = table.shards.chunks_mut(each).enumerate();
            for (part, shards) in parts {
                scope.spawn(move || {
                    for (shard, number) in shards.iter_mut().zip(part * each..) {
                        let of_it = pieces.iter().filter(|piece| piece.shard as usize == number);
                        shard.enter(seed, of_it);
                    }
                });
            }
        });
        table
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(word, count)| other.get(word) == count)
    }
}

/// Some words of a table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Piece {
    shard: u32,
    words: u32,
    /// One for each word: the word, a space, and how often it occurs. A text, since that is sent as it is.
    lines: String,
}

impl Piece {
    fn push(&mut self, word: &str, count: u64) {
        self.words += 1;
        self.lines.push_str(word);
        self.lines.push(' ');
        self.push_number(count);
        self.lines.push('\n');
    }

    /// Most have one digit.
    fn push_number(&mut self, number: u64) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.lines.push(char::from(b'0' + (number % 10) as u8));
    }

    fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let lines = self.lines.lines();
        lines.filter_map(|line| {
            let (word, count) = line.rsplit_once(' ')?;
            Some((word, count.parse().ok()?))
        })
    }
}

/// Words whose hashes begin alike.
#[derive(Debug, Default)]
struct Shard {
    /// A power of two; sorted by tag, but for those whose place was taken.
    slots: Vec<Slot>,
    taken: usize,
    words: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    tag: u32,
    /// Bytes of the word; 0 if the slot is free.
    len: u32,
    /// Where it lies.
    start: usize,
    count: u64,
}

const FREE: Slot = Slot {
    tag: 0,
    len: 0,
    start: 0,
    count: 0,
};

/// The first bits of a hash.
fn shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARDS.ilog2())) as usize
}

/// The last 32 bits.
fn tag_of(hash: u64) -> u32 {
    hash as u32
}

/// The slot where a word of this tag is looked for first.
fn home(tag: u32, slots: usize) -> usize {
    ((u64::from(tag) * slots as u64) >> 32) as usize
}

impl Shard {
    fn word(&self, slot: Slot) -> &str {
        &self.words[slot.start..slot.start + slot.len as usize]
    }

    fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let taken = self.slots.iter().filter(|slot| **slot != FREE);
        taken.map(|slot| (self.word(*slot), slot.count))
    }

    /// The slot of a word; or the one that it would have.
    fn find(&self, word: &str, tag: u32) -> Result<usize, usize> {
        let Some(mask) = self.slots.len().checked_sub(1) else {
            return Err(0);
        };
        let mut at = home(tag, self.slots.len());
        // Ends: a quarter of them is free.
        loop {
            let slot = self.slots[at];
            if slot.len == 0 {
                return Err(at);
            }
            if slot.tag == tag && self.word(slot).as_bytes() == word.as_bytes() {
                return Ok(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn add(&mut self, word: &str, tag: u32, count: u64) {
        if self.taken >= self.slots.len() / 4 * 3 {
            self.grow(self.taken + 1);
        }
        match self.find(word, tag) {
            Ok(at) => self.slots[at].count += count,
            Err(free) => {
                self.slots[free] = Slot {
                    tag,
                    len: word.len() as u32,
                    start: self.words.len(),
                    count,
                };
                self.taken += 1;
                self.words.push_str(word);
            }
        }
    }

    /// Makes room for `words` words. They are not looked at: tags say where they belong.
    fn grow(&mut self, words: usize) {
        let slots = (words * 4 / 3 + 1).next_power_of_two().max(64);
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        for slot in old {
            if slot.len != 0 {
                let mut at = home(slot.tag, slots);
                while self.slots[at].len != 0 {
                    at = (at + 1) & (slots - 1);
                }
                self.slots[at] = slot;
            }
        }
    }

    fn pieces(&self, number: u32, bytes: usize) -> impl Iterator<Item = Piece> {
        let mut words = self.iter();
        std::iter::from_fn(move || {
            let mut piece = Piece {
                shard: number,
                ..Piece::default()
            };
            while piece.lines.len() < bytes
                && let Some((word, count)) = words.next()
            {
                piece.push(word, count);
            }
            (piece.words > 0).then_some(piece)
        })
    }

    fn enter<'a>(&mut self, seed: Seeded, pieces: impl Iterator<Item = &'a Piece> + Clone) {
        // For all at once: words that come in the order of their slots pile up in a table that is
        // small, and each looks through the pile.
        self.grow(pieces.clone().map(|piece| piece.words as usize).sum());
        for (word, count) in pieces.flat_map(Piece::iter) {
            self.add(word, tag_of(seed.hash(word)), count);
        }
    }
}
