//! Counting, the same in one process and in many.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::AddAssign;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::table::Table;

/// Of a file that says it is empty, as those of procfs do, at most so much is read.
const EMPTY_AT_MOST: u64 = 16 << 20;

/// What became of one file.
pub(crate) enum Outcome {
    /// Bytes and words of it.
    Counted { bytes: u64, words: u64 },
    /// It could not be read.
    Unreadable(std::io::Error),
    /// It is no text.
    NotUtf8,
}

/// Adds the words of a file to the table. A word is a longest run of letters, digits and underscores.
/// `buffer` is for the file's bytes: kept from file to file, so that each finds memory that is there.
pub(crate) fn count_file(path: &Path, table: &mut Table, buffer: &mut Vec<u8>) -> Outcome {
    buffer.clear();
    if let Err(error) = read(path, buffer) {
        return Outcome::Unreadable(error);
    }
    let Ok(text) = std::str::from_utf8(buffer) else {
        return Outcome::NotUtf8;
    };
    let mut words = 0;
    let mut end = 0;
    loop {
        let start = run(text, end, false);
        if start == text.len() {
            break;
        }
        end = run(text, start, true);
        words += 1;
        table.add(&text[start..end]);
    }
    Outcome::Counted {
        bytes: text.len() as u64,
        words,
    }
}

/// Where the characters end, from `at` on, that are all of words, or all not.
fn run(text: &str, mut at: usize, of_words: bool) -> usize {
    while let Some(byte) = text.as_bytes().get(at) {
        let (is_of_word, len) = if byte.is_ascii() {
            (IS_OF_WORD[usize::from(*byte)], 1)
        } else {
            let c = text[at..].chars().next().expect("there is a byte");
            (c.is_alphanumeric(), c.len_utf8())
        };
        if is_of_word != of_words {
            break;
        }
        at += len;
    }
    at
}

/// Of ASCII.
const IS_OF_WORD: [bool; 128] = {
    let mut is_of_word = [false; 128];
    let mut byte = 0_u8;
    while byte < 128 {
        is_of_word[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_';
        byte += 1;
    }
    is_of_word
};

/// All of a file that has an end, without waiting for what is not there.
fn read(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.len() > 0 {
        file.read_to_end(bytes)?;
    } else if file.take(EMPTY_AT_MOST).read_to_end(bytes)? as u64 == EMPTY_AT_MOST {
        return Err(io::Error::other("says it is empty, and does not end"));
    }
    Ok(())
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
