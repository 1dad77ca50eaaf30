//! The state of a barrier as one word: which round, how many have come, how former rounds ended.
//!
//! ```text
//! bits  0-31  round: rounds ended so far, modulo 2^32; what waiters park on
//! bits 32-43  arrived: parties counted in this round
//! bit     44  BROKEN
//! bit     45  ACTION: all have arrived, the last one runs the action
//! bit     46  SLEEPERS: somebody may sleep
//! bit     47  zero
//! bits 48-63  past: bit k is set if round - 1 - k was broken or reset, and not completed
//! ```

const ARRIVED_SHIFT: u32 = 32;
const ARRIVED: u64 = 0xfff;
pub(super) const ARRIVED_ONE: u64 = 1 << ARRIVED_SHIFT;
pub(super) const BROKEN: u64 = 1 << 44;
pub(super) const ACTION: u64 = 1 << 45;
pub(super) const SLEEPERS: u64 = 1 << 46;
const RESERVED: u64 = 1 << 47;
const PAST_SHIFT: u32 = 48;
const PAST_ROUNDS: u32 = 16;

/// As many as can be counted.
pub(super) const MAX_PARTIES: u32 = ARRIVED as u32;

/// How a round ended.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Completed,
    /// By a time-out, a death, an abort, a panic in the action, or a reset.
    Cut,
}

pub(super) fn round(state: u64) -> u32 {
    state as u32
}

pub(super) fn arrived(state: u64) -> u32 {
    (state >> ARRIVED_SHIFT & ARRIVED) as u32
}

pub(super) fn is_broken(state: u64) -> bool {
    state & BROKEN != 0
}

pub(super) fn runs_action(state: u64) -> bool {
    state & ACTION != 0
}

pub(super) fn has_sleepers(state: u64) -> bool {
    state & SLEEPERS != 0
}

/// The state when the present round has ended in this way: nobody has arrived yet.
pub(super) fn next(state: u64, end: End) -> u64 {
    let past = state >> PAST_SHIFT << 1 | u64::from(end == End::Cut);
    u64::from(round(state).wrapping_add(1)) | past << PAST_SHIFT
}

/// How `earlier` ended, a round before that of `state`. One that lies further back than is
/// remembered counts as cut: its party was not there for long.
pub(super) fn end_of(state: u64, earlier: u32) -> End {
    let age = round(state).wrapping_sub(earlier).wrapping_sub(1);
    let cut = age >= PAST_ROUNDS || state >> PAST_SHIFT >> age & 1 != 0;
    if cut { End::Cut } else { End::Completed }
}

/// Whether no sequence of steps of `parties` parties leads here.
pub(super) fn is_corrupt(state: u64, parties: u32) -> bool {
    let arrived = arrived(state);
    let range = if is_broken(state) {
        arrived == 0 && !runs_action(state)
    } else if runs_action(state) {
        arrived == parties
    } else {
        arrived < parties
    };
    !range || state & RESERVED != 0 || parties == 0 || parties > MAX_PARTIES
}
