//! A quick hash for short words; seeded, so that no text can be written whose words collide.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes hashers of one seed; each default has another one.
///
/// Tables of one seed have their words in much the same order, so that adding one to another walks
/// through both, and does not jump about in memory.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().hash_one(MULTIPLIER))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

/// Eight bytes at a time: multiplied into 128 bits, the halves of which are mixed.
pub(crate) struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, bits: u64) {
        let product = u128::from(self.0 ^ bits) * u128::from(MULTIPLIER);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks();
        for eight in eights {
            self.mix(u64::from_le_bytes(*eight));
        }
        self.mix(
            rest.iter()
                .fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
        );
    }

    // Ends a string: words have no zeros, so their bytes alone tell them apart.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
