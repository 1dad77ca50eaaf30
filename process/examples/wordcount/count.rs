//! Counting, the same in one process and in many.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::AddAssign;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hash::Seeded;

/// Of a file that says it is empty, as those of procfs do, at most so much is read.
const EMPTY_AT_MOST: u64 = 16 << 20;

/// How often each word occurs. A word is a longest run of letters, digits and underscores.
pub(crate) type Table = HashMap<Box<str>, u64, Seeded>;

/// Adds `count` occurrences of a word.
pub(crate) fn add(table: &mut Table, word: &str, count: u64) {
    match table.get_mut(word) {
        Some(sum) => *sum += count,
        None => {
            table.insert(word.into(), count);
        }
    }
}

/// What became of one file.
pub(crate) enum Outcome {
    /// Bytes and words of it.
    Counted { bytes: u64, words: u64 },
    /// It could not be read.
    Unreadable(std::io::Error),
    /// It is no text.
    NotUtf8,
}

/// Adds the words of a file to the table.
pub(crate) fn count_file(path: &Path, table: &mut Table) -> Outcome {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Outcome::Unreadable(error),
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Outcome::NotUtf8;
    };
    let mut words = 0;
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
        if word.is_empty() {
            continue;
        }
        words += 1;
        add(table, word, 1);
    }
    Outcome::Counted {
        bytes: bytes.len() as u64,
        words,
    }
}

/// All of a file that has an end, without waiting for what is not there.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.len() > 0 {
        file.read_to_end(&mut bytes)?;
    } else if file.take(EMPTY_AT_MOST).read_to_end(&mut bytes)? as u64 == EMPTY_AT_MOST {
        return Err(io::Error::other("says it is empty, and does not end"));
    }
    Ok(bytes)
}

/// Sums over files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub words: u64,
    pub unreadable: u64,
    pub not_utf8: u64,
}

impl Totals {
    /// Adds a file.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Counted { bytes, words } => {
                self.files += 1;
                self.bytes += bytes;
                self.words += words;
            }
            Outcome::Unreadable(_) => self.unreadable += 1,
            Outcome::NotUtf8 => self.not_utf8 += 1,
        }
    }

    /// Files that were looked at.
    pub(crate) fn looked_at(&self) -> u64 {
        self.files + self.unreadable + self.not_utf8
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.words += other.words;
        self.unreadable += other.unreadable;
        self.not_utf8 += other.not_utf8;
    }
}
