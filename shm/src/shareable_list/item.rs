//! One item: its type, its bytes, and how the type is written down.

use super::{ListError, WORD};

/// Bytes that a format has.
pub(super) const FORMAT_LEN: usize = 8;

const NUMBER: u8 = 0;
const TEXT: u8 = 1;
const BYTES: u8 = 2;
const NONE: u8 = 3;

/// An item of a [`ShareableList`](super::ShareableList), and its type in Python.
///
/// Numbers of different types are different, unlike in Python, where `1 == 1.0 == True`.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int`, of 64 bits.
    Int(i64),
    /// `float`.
    Float(f64),
    /// `str`.
    Text(String),
    /// `bytes`.
    Bytes(Vec<u8>),
}

impl Item {
    /// Bytes of the slot that it gets in a new list: whole words, and at least one byte of padding
    /// behind text and bytes.
    pub(super) fn slot(&self) -> Result<usize, ListError> {
        let bytes = match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
            _ => return Ok(WORD),
        };
        match bytes.last() {
            Some(0) => Err(ListError::TrailingNul),
            _ => Ok(WORD * (bytes.len() / WORD + 1)),
        }
    }

    pub(super) fn is_text_or_bytes(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Bytes(_))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let flag_at = |at: usize, flag: bool| {
            let mut word = vec![0; WORD];
            word[at] = u8::from(flag);
            word
        };
        match self {
            Self::None => flag_at(6, false),
            Self::Bool(flag) => flag_at(7, *flag),
            Self::Int(number) => number.to_ne_bytes().to_vec(),
            Self::Float(number) => number.to_ne_bytes().to_vec(),
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }

    /// How Python's `struct` module unpacks it from a slot of so many bytes.
    pub(super) fn format(&self, slot: usize) -> [u8; FORMAT_LEN] {
        let text = match self {
            Self::None => "xxxxxx?x".to_owned(),
            Self::Bool(_) => "xxxxxxx?".to_owned(),
            Self::Int(_) => "q".to_owned(),
            Self::Float(_) => "d".to_owned(),
            Self::Text(_) | Self::Bytes(_) => format!("{slot}s"),
        };
        let mut format = [0; FORMAT_LEN];
        for (to, from) in format.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        format
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Self::None => NONE,
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => NUMBER,
            Self::Text(_) => TEXT,
            Self::Bytes(_) => BYTES,
        }
    }
}

impl From<()> for Item {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl From<bool> for Item {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Item {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f64> for Item {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Item {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

impl From<Vec<u8>> for Item {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// What format and code say of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Bool,
    Int,
    Float,
    Text(usize),
    Bytes(usize),
}

impl Kind {
    pub(super) fn parse(
        format: [u8; FORMAT_LEN],
        code: u8,
        slot: usize,
    ) -> Result<Self, ListError> {
        let corrupt = |field| ListError::Corrupt { field };
        let text = format.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = str::from_utf8(text).map_err(|_| corrupt("format"))?;
        let kind = match (text, code) {
            ("xxxxxx?x", NONE) => Self::None,
            ("xxxxxxx?", NUMBER) => Self::Bool,
            ("q", NUMBER) => Self::Int,
            ("d", NUMBER) => Self::Float,
            (string, TEXT | BYTES) => {
                let digits = string.strip_suffix('s').ok_or(corrupt("format"))?;
                let len = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    true => digits.parse().map_err(|_| corrupt("format"))?,
                    false => return Err(corrupt("format")),
                };
                if code == TEXT {
                    Self::Text(len)
                } else {
                    Self::Bytes(len)
                }
            }
            _ => return Err(corrupt("code")),
        };
        match kind.len() <= slot {
            true => Ok(kind),
            false => Err(corrupt("format")),
        }
    }

    /// Bytes to be read.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Text(len) | Self::Bytes(len) => len,
            _ => WORD,
        }
    }

    /// From as many bytes as [`len`](Self::len) says.
    pub(super) fn decode(self, mut bytes: Vec<u8>) -> Result<Item, ListError> {
        let word = || {
            let mut word = [0; WORD];
            word.copy_from_slice(&bytes[..WORD]);
            word
        };
        Ok(match self {
            Self::None => Item::None,
            Self::Bool => Item::Bool(word()[7] != 0),
            Self::Int => Item::Int(i64::from_ne_bytes(word())),
            Self::Float => Item::Float(f64::from_ne_bytes(word())),
            Self::Text(_) | Self::Bytes(_) => {
                // Padding; neither side writes text that ends so.
                let len = bytes
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |last| last + 1);
                bytes.truncate(len);
                match self {
                    Self::Bytes(_) => Item::Bytes(bytes),
                    _ => match String::from_utf8(bytes) {
                        Ok(text) => Item::Text(text),
                        Err(error) => return Err(ListError::NotText(error.into_bytes())),
                    },
                }
            }
        })
    }
}
