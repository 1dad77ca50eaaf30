//! `ShareableList`: a list of plain values in shared memory, in CPython's layout.
//!
//! | offset | what | type |
//! |---|---|---|
//! | 0 | N, the number of items | i64 |
//! | 8 | offsets of the items from the start of the data, and of its end | i64 x (N + 1) |
//! | 8 (N + 2) | the data, a slot of whole words each | |
//! | then | formats: `q`, `d`, `xxxxxxx?`, `xxxxxx?x`, `16s`; NUL-padded | 8 bytes x N |
//! | then | 0 a number or a bool, 1 text, 2 bytes, 3 None | u8 x N |
//!
//! Native byte order, no padding at the end. Source: CPython 3.11,
//! `Lib/multiprocessing/shared_memory.py`.

use std::fmt;

use crate::{Named, NamedError, SharedMemory};

mod item;

pub use item::Item;

use item::{FORMAT_LEN, Kind};

const WORD: usize = 8;
/// The longest text whose format fits its 8 bytes.
const MAX_SLOT: usize = 9_999_999;

/// A list of fixed length in shared memory whose items are numbers, booleans, texts, bytes and
/// `None`: Python's `multiprocessing.shared_memory.ShareableList`, byte for byte, so that both sides
/// can open, read and change it.
///
/// Not for Rust programs among themselves: there is no lock, and an item that two write at once may
/// be neither's. A struct in a [`Shared`](crate::Shared) has types and locks.
///
/// # Differences from Python
///
/// Two of its faults are not repeated:
/// * Trailing NULs are lost there when they are read, since a slot is padded with them. The layout
///   has no room for a length, so they are refused here ([`ListError::TrailingNul`]).
/// * A text's slot is as large there as it has *characters*, and other than ASCII is cut off, or
///   cannot be read. Here it is as large as it has bytes; Python reads that well. A text that Python
///   has cut off is [`ListError::NotText`].
///
/// # Examples
///
/// ```
/// use multiprocess_shm::{Item, ShareableList};
///
/// let list = ShareableList::create(&[Item::from(7), Item::from(2.5), Item::from("h\u{e9}llo")])?;
/// let same = ShareableList::open(list.name())?;            // in another process, or in Python
/// same.set(0, 8)?;
/// assert_eq!(list.get(0)?, Item::Int(8));
/// assert_eq!(list.get(2)?, Item::from("h\u{e9}llo"));
/// assert_eq!(list.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A maker killed leaves no list that could be opened. A process killed while it sets an item may leave it with the new type and the old bytes, or half
/// of the new ones; the other items are as they were. Trust: *guarded*: where the items lie is read
/// once, when it is opened, and checked; what is wrong later is [`ListError::Corrupt`].
///
/// # Fork
///
/// As [`SharedMemory`].
pub struct ShareableList {
    memory: SharedMemory,
    /// Where slots begin, from the start of the memory, and where the last one ends: checked.
    slots: Vec<usize>,
}

/// Why an item could not be had or set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListError {
    /// No such item.
    OutOfRange {
        /// The index asked for.
        index: usize,
        /// Items there are.
        len: usize,
    },
    /// The item does not fit the slot that it got when the list was made.
    TooLong {
        /// Bytes of the item.
        len: usize,
        /// Bytes of the slot.
        slot: usize,
    },
    /// A text or bytes with a NUL at the end, which would be lost.
    TrailingNul,
    /// The bytes of a text are not UTF-8.
    NotText(Vec<u8>),
    /// The list contradicts itself.
    Corrupt {
        /// Which part.
        field: &'static str,
    },
    /// No items in memory that has room for some: Python has made it and is just filling it in, or has
    /// died at that. This library's lists are filled in before they can be opened.
    Unfinished,
    /// There is no such value in the list.
    NotFound,
    /// The memory could not be made or opened.
    Named(NamedError),
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { index, len } => write!(f, "no item {index} in a list of {len}"),
            Self::TooLong { len, slot } => write!(f, "{len} bytes do not fit a slot of {slot}"),
            Self::TrailingNul => f.write_str("a NUL at the end would be lost"),
            Self::NotText(bytes) => write!(f, "text that is not UTF-8: {bytes:x?}"),
            Self::Corrupt { field } => write!(f, "corrupt list: {field}"),
            Self::Unfinished => f.write_str("a list that its maker has not filled in"),
            Self::NotFound => f.write_str("no such value in the list"),
            Self::Named(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Named(error) => Some(error),
            _ => None,
        }
    }
}

impl From<NamedError> for ListError {
    fn from(error: NamedError) -> Self {
        Self::Named(error)
    }
}

impl ShareableList {
    /// Makes a list of `items` under a name of its own, tracked.
    ///
    /// # Errors
    ///
    /// [`ListError::TrailingNul`], [`ListError::TooLong`], [`ListError::Named`] as
    /// [`SharedMemory::create`].
    pub fn create(items: &[Item]) -> Result<Self, ListError> {
        Self::create_in(None, items)
    }

    /// Makes a list of `items` under `name`.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and as [`SharedMemory::create_as`].
    pub fn create_as(name: &Named, items: &[Item]) -> Result<Self, ListError> {
        Self::create_in(Some(name), items)
    }

    fn create_in(name: Option<&Named>, items: &[Item]) -> Result<Self, ListError> {
        let start = WORD * (items.len() + 2);
        let mut slots = vec![start];
        let mut end = start;
        for item in items {
            let slot = item.slot()?;
            if slot > MAX_SLOT {
                return Err(ListError::TooLong {
                    len: slot,
                    slot: MAX_SLOT,
                });
            }
            end += slot;
            slots.push(end);
        }
        // All of it, so that whoever can open the list finds it filled in.
        let mut bytes = Vec::with_capacity(end + items.len() * (FORMAT_LEN + 1));
        bytes.extend((items.len() as i64).to_ne_bytes());
        for slot in &slots {
            bytes.extend(((slot - start) as i64).to_ne_bytes());
        }
        for (item, end) in items.iter().zip(&slots[1..]) {
            bytes.extend(item.bytes());
            bytes.resize(*end, 0);
        }
        for item in items {
            bytes.extend(item.format(item.slot()?));
        }
        bytes.extend(items.iter().map(Item::code));
        let memory = SharedMemory::create_filled(name, bytes.len(), &bytes)?;
        Ok(Self { memory, slots })
    }

    /// Opens a list that this library or Python has made.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`] if it is none; [`ListError::Unfinished`]; [`ListError::Named`] as
    /// [`SharedMemory::open`].
    pub fn open(name: &str) -> Result<Self, ListError> {
        Self::over(SharedMemory::open(name)?)
    }

    /// As [`open`](Self::open), with the choices of a [`Named`].
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_as(name: &Named) -> Result<Self, ListError> {
        Self::over(SharedMemory::open_as(name)?)
    }

    /// Takes the bytes of `memory` for a list.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`] if they are none, [`ListError::Unfinished`] if they are not one yet.
    pub fn over(memory: SharedMemory) -> Result<Self, ListError> {
        let corrupt = |field| ListError::Corrupt { field };
        let mut list = Self {
            memory,
            slots: Vec::new(),
        };
        let size = list.memory.size();
        let len = list.read_word(0).map_err(|_| corrupt("length"))?;
        // Each item takes a slot, an offset, a format and a code.
        if len > size / (2 * WORD + FORMAT_LEN + 1) {
            return Err(corrupt("length"));
        }
        // A list of no items has two words and no more.
        if len == 0 && size > 2 * WORD {
            return Err(ListError::Unfinished);
        }
        let start = WORD * (len + 2);
        let mut last = 0;
        for index in 0..=len {
            let offset = list.read_word(index + 1).map_err(|_| corrupt("offsets"))?;
            let grows = offset > last || index == 0 && offset == 0;
            if !grows || !offset.is_multiple_of(WORD) || offset > size {
                return Err(corrupt("offsets"));
            }
            last = offset;
            list.slots.push(start + offset);
        }
        match start + last + len * (FORMAT_LEN + 1) <= size {
            true => Ok(list),
            false => Err(corrupt("size")),
        }
    }

    /// Items; fixed when the list was made.
    pub fn len(&self) -> usize {
        self.slots.len() - 1
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name by which it is opened.
    pub fn name(&self) -> &str {
        self.memory.name()
    }

    /// The memory that it lies in: Python's `shm`.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// A copy of item number `index`.
    ///
    /// # Errors
    ///
    /// [`ListError::OutOfRange`], [`ListError::NotText`], [`ListError::Corrupt`].
    pub fn get(&self, index: usize) -> Result<Item, ListError> {
        let (at, slot) = self.slot(index)?;
        let kind = Kind::parse(self.format_of(index)?, self.code_of(index)?, slot)?;
        let mut bytes = vec![0; kind.len()];
        self.read(at, &mut bytes)?;
        kind.decode(bytes)
    }

    /// Replaces item number `index`, by one of another type if that fits the slot.
    ///
    /// # Errors
    ///
    /// [`ListError::OutOfRange`], [`ListError::TooLong`], [`ListError::TrailingNul`]: nothing was
    /// changed.
    pub fn set(&self, index: usize, item: impl Into<Item>) -> Result<(), ListError> {
        let item = item.into();
        let (_, slot) = self.slot(index)?;
        item.slot()?;
        let len = item.bytes().len();
        if len > slot {
            return Err(ListError::TooLong { len, slot });
        }
        self.put(index, &item, slot)
    }

    /// How many items are equal to `item`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn count(&self, item: impl Into<Item>) -> Result<usize, ListError> {
        let item = item.into();
        let mut count = 0;
        for index in 0..self.len() {
            count += usize::from(self.is_at(index, &item)?);
        }
        Ok(count)
    }

    /// The index of the first item equal to `item`.
    ///
    /// # Errors
    ///
    /// [`ListError::NotFound`]; as [`get`](Self::get).
    pub fn index(&self, item: impl Into<Item>) -> Result<usize, ListError> {
        let item = item.into();
        for index in 0..self.len() {
            if self.is_at(index, &item)? {
                return Ok(index);
            }
        }
        Err(ListError::NotFound)
    }

    /// What cannot be read is equal to nothing.
    fn is_at(&self, index: usize, item: &Item) -> Result<bool, ListError> {
        match self.get(index) {
            Ok(other) => Ok(other == *item),
            Err(ListError::NotText(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies of the items, one after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Item, ListError>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// All formats in a row, as Python's `struct` module understands them.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`].
    pub fn format(&self) -> Result<String, ListError> {
        let mut all = String::new();
        for index in 0..self.len() {
            let format = self.format_of(index)?;
            let format = str::from_utf8(format.split(|byte| *byte == 0).next().unwrap_or_default());
            all += format.map_err(|_| ListError::Corrupt { field: "format" })?;
        }
        Ok(all)
    }

    /// Where a slot begins, and its bytes.
    fn slot(&self, index: usize) -> Result<(usize, usize), ListError> {
        match self.slots.get(index..).unwrap_or_default() {
            [at, end, ..] => Ok((*at, end - at)),
            _ => Err(ListError::OutOfRange {
                index,
                len: self.len(),
            }),
        }
    }

    /// The format first, as Python does: who reads meanwhile may take old bytes for the new type.
    fn put(&self, index: usize, item: &Item, slot: usize) -> Result<(), ListError> {
        let (at, _) = self.slot(index)?;
        let end = self.end();
        self.write(end + index * FORMAT_LEN, &item.format(slot))?;
        self.write(end + self.len() * FORMAT_LEN + index, &[item.code()])?;
        let mut bytes = item.bytes();
        if item.is_text_or_bytes() {
            bytes.resize(slot, 0); // and the rest of what was there goes
        }
        self.write(at, &bytes)
    }

    /// Where the data ends and the formats begin.
    fn end(&self) -> usize {
        self.slots.last().copied().unwrap_or(2 * WORD)
    }

    fn format_of(&self, index: usize) -> Result<[u8; FORMAT_LEN], ListError> {
        let mut format = [0; FORMAT_LEN];
        self.read(self.end() + index * FORMAT_LEN, &mut format)?;
        Ok(format)
    }

    fn code_of(&self, index: usize) -> Result<u8, ListError> {
        let mut code = [0];
        self.read(self.end() + self.len() * FORMAT_LEN + index, &mut code)?;
        Ok(code[0])
    }

    fn read_word(&self, number: usize) -> Result<usize, ListError> {
        let mut bytes = [0; WORD];
        self.read(number * WORD, &mut bytes)?;
        usize::try_from(i64::from_ne_bytes(bytes)).map_err(|_| ListError::Corrupt { field: "sign" })
    }

    fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), ListError> {
        let read = self.memory.read(at, bytes);
        read.map_err(|_| ListError::Corrupt { field: "size" })
    }

    fn write(&self, at: usize, bytes: &[u8]) -> Result<(), ListError> {
        let written = self.memory.write(at, bytes);
        written.map_err(|_| ListError::Corrupt { field: "size" })
    }
}

impl fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
