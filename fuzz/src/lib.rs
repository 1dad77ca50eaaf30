//! What the targets of hostile peers share: who they are, and how a peer scribbles.

use std::time::Duration;

use multiprocess_core::{ParticipantId, Peers, Region};

/// A wait that ends at once.
pub const AT_ONCE: Duration = Duration::from_nanos(1);

/// A participant by number. Odd ones are dead.
#[derive(Clone, Copy)]
pub struct Process(pub u16);

// SAFETY: nobody here is odd but the one that has done nothing since.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() % 2 == 1
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// Eleven bytes of input: what to do, where, and with what.
pub type Step = [u8; 11];

/// A word that a peer likes to write: every so many words from the first one, and the bits of it that it
/// writes, so that it comes close to what is right.
#[derive(Clone, Copy)]
pub struct Aim {
    /// In words of eight bytes from the region's start.
    pub first: usize,
    pub every: usize,
    pub count: usize,
    pub bits: u64,
}

/// Writes `value` to the word `at`, wherever that is.
pub fn scribble(region: Region<'_>, at: usize, value: u64) {
    let at = at % (region.len() / 8);
    // SAFETY: inside the region, aligned; volatile because the ring reads it behind our back.
    unsafe {
        region.base().cast::<u64>().add(at).write_volatile(value);
    }
}

/// Lets the steps decide, one after the other, between scribbling, anywhere and at what is aimed at, and one of
/// `operations` by `operate`, which gets its number, a place and a value.
pub fn play(
    region: Region<'_>,
    steps: &[Step],
    aims: &[Aim],
    operations: u8,
    mut operate: impl FnMut(u8, u16, u64),
) {
    for step in steps {
        let at = u16::from_le_bytes([step[1], step[2]]);
        let value = u64::from_le_bytes(step[3..].try_into().unwrap_or_default());
        let place = usize::from(at);
        // 0 and 1: anything, and something small; then the aims.
        let ways = 2 + aims.len() as u8;
        match step[0] % (ways + operations) {
            0 => scribble(region, place, value),
            1 => scribble(region, place, value % 64),
            way if way < ways => {
                let Aim {
                    first,
                    every,
                    count,
                    bits,
                } = aims[usize::from(way) - 2];
                scribble(region, first + place % count * every, value & bits);
            }
            operation => operate(operation - ways, at, value),
        }
    }
}
