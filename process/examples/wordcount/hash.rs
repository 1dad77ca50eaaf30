//! A quick hash for short words; seeded, so that no text can be written whose words collide.

use std::hash::{BuildHasher, RandomState};

use serde::{Deserialize, Serialize};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash function; each default is another one.
///
/// Tables of one seed have their words in the same order, so that adding one to another walks
/// through both, and does not jump about in memory.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().hash_one(MULTIPLIER))
    }
}

impl Seeded {
    /// Eight bytes at a time: multiplied into 128 bits, the halves of which are mixed.
    pub(crate) fn hash(self, word: &str) -> u64 {
        let bytes = word.as_bytes();
        let mut state = mix(self.0, bytes.len() as u64);
        let mut rest = bytes;
        while let Some((eight, others)) = rest.split_first_chunk() {
            state = mix(state, u64::from_le_bytes(*eight));
            rest = others;
        }
        mix(state, last(rest))
    }
}

/// Up to seven bytes. No two of one length have the same number.
fn last(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(head), Some(tail)) => {
            u64::from(u32::from_le_bytes(*head)) << 32 | u64::from(u32::from_le_bytes(*tail))
        }
        _ => bytes
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
    }
}

fn mix(state: u64, bits: u64) -> u64 {
    let product = u128::from(state ^ bits) * u128::from(MULTIPLIER);
    product as u64 ^ (product >> 64) as u64
}
