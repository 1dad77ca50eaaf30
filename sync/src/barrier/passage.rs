//! A party's way through a barrier: to come, to wait, to give up. The steps are those of the
//! protocol in `barrier.rs`.

use multiprocess_core::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::{Deadline, ParticipantId, Peers, Timeout, spin};

use super::Barrier;
use super::round::{self, ACTION, ARRIVED_ONE, BROKEN, End, SLEEPERS};
use crate::BarrierError;

/// One call of a party.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    peers: Option<&'a dyn Peers>,
    deadline: Deadline,
    /// Read once: a peer may write anything.
    parties: u32,
}

/// How a party has come.
enum Arrival {
    /// Number `index`, and others are to come.
    Early { round: u32, index: u32 },
    /// The last one; the action is its to run.
    Last { round: u32, index: u32 },
    /// The last one; the round is over.
    Passed { index: u32 },
}

impl Barrier {
    pub(super) fn call<'a>(
        &self,
        peers: Option<&'a dyn Peers>,
        timeout: impl Into<Timeout>,
    ) -> Call<'a> {
        Call {
            peers,
            deadline: Deadline::after(timeout),
            parties: self.parties.load(Relaxed),
        }
    }

    pub(super) fn pass(
        &self,
        call: Call<'_>,
        action: Option<impl FnOnce()>,
    ) -> Result<u32, BarrierError> {
        match self.arrive(&call, action.is_some())? {
            Arrival::Passed { index } => Ok(index),
            Arrival::Early { round, index } => {
                let state = self.await_end(&call, round)?;
                self.judge(state, round).map(|()| index)
            }
            Arrival::Last { round, index } => {
                let breaks = BreakUnlessDone {
                    barrier: self,
                    round,
                };
                if let Some(action) = action {
                    action();
                }
                core::mem::forget(breaks);
                match self.end_round(round, |state| round::next(state, End::Completed)) {
                    Ok(()) => Ok(index),
                    Err(state) => self.judge(state, round).map(|()| index),
                }
            }
        }
    }

    /// Steps 1 to 4.
    fn arrive(&self, call: &Call<'_>, has_action: bool) -> Result<Arrival, BarrierError> {
        let mut signed = None;
        // Acquire pairs with the Release half of whoever ended the last round.
        let mut seen = self.state.load(Acquire);
        loop {
            if round::is_corrupt(seen, call.parties) {
                return Err(BarrierError::Corrupt);
            }
            let round = round::round(seen);
            if round::is_broken(seen) {
                return Err(self.broken(round.wrapping_sub(1)));
            }
            if let Some(peers) = call.peers
                && signed != Some(round)
            {
                self.register.sign(peers.me(), round);
                signed = Some(round);
            }
            if round::runs_action(seen) {
                seen = self.await_end(call, round)?;
                continue;
            }
            let index = round::arrived(seen);
            let is_last = index + 1 == call.parties;
            let arrived = match (is_last, has_action) {
                (true, false) => round::next(seen, End::Completed),
                (true, true) => (seen + ARRIVED_ONE) | ACTION,
                (false, _) => seen + ARRIVED_ONE,
            };
            // Release: what this party wrote is seen by the last one, or by all if it is the
            // last. Acquire: the last one sees what the others wrote before theirs.
            match self.state.compare_exchange(seen, arrived, AcqRel, Acquire) {
                Ok(_) if !is_last => return Ok(Arrival::Early { round, index }),
                Ok(_) if has_action => return Ok(Arrival::Last { round, index }),
                Ok(_) => {
                    self.wake(seen);
                    return Ok(Arrival::Passed { index });
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Steps 8 to 10; the state after the end of `round`, however it ended. Or this call breaks
    /// it.
    fn await_end(&self, call: &Call<'_>, round: u32) -> Result<u64, BarrierError> {
        let mut patience = park::Patience::new();
        let mut spins = match call.deadline.has_passed() {
            true => 0,
            false => spin::handoff_budget(call.parties),
        };
        loop {
            // Acquire pairs with the Release half of whoever ends the round.
            let seen = self.state.load(Acquire);
            if round::round(seen) != round {
                return Ok(seen);
            }
            if round::is_corrupt(seen, call.parties) || round::is_broken(seen) {
                return Err(BarrierError::Corrupt);
            }
            if spins > 0 {
                spins -= 1;
                spin_loop();
                continue;
            }
            if call.deadline.has_passed() {
                return self.give_up(call, seen, BarrierError::Timeout);
            }
            if !round::has_sleepers(seen)
                && self
                    .state
                    .compare_exchange(seen, seen | SLEEPERS, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            match patience.park(&self.state, round, call.deadline) {
                Ok(Parked::TimedOut) => return self.give_up(call, seen, BarrierError::Timeout),
                Ok(Parked::Recheck) => {
                    if let Some(dead) = self.find_dead(call, seen) {
                        return self.give_up_for(dead, seen);
                    }
                }
                Ok(_) => {}
                Err(errno) => return self.give_up(call, seen, BarrierError::System(errno)),
            }
        }
    }

    fn find_dead(&self, call: &Call<'_>, seen: u64) -> Option<ParticipantId> {
        self.register.find_dead(seen, call.peers?)
    }

    /// Breaks the round of `seen` for `why`, or because somebody has died. The state after the
    /// round, if it ended first.
    #[cold]
    fn give_up(&self, call: &Call<'_>, seen: u64, why: BarrierError) -> Result<u64, BarrierError> {
        if let Some(dead) = self.find_dead(call, seen) {
            return self.give_up_for(dead, seen);
        }
        match self.break_round(round::round(seen)) {
            Ok(()) => Err(why),
            Err(state) => Ok(state),
        }
    }

    /// Steps 11 to 13.
    #[cold]
    fn give_up_for(&self, dead: ParticipantId, seen: u64) -> Result<u64, BarrierError> {
        let round = round::round(seen);
        let note = u64::from(round) | u64::from(dead.bits()) << 32;
        self.dead.store(note, Relaxed); // published by the CAS that breaks the round
        match self.break_round(round) {
            Ok(()) => Err(BarrierError::Broken { dead: Some(dead) }),
            Err(state) => Ok(state),
        }
    }

    pub(super) fn break_round(&self, round: u32) -> Result<(), u64> {
        self.end_round(round, |state| round::next(state, End::Cut) | BROKEN)
    }

    /// Ends `round` in the way that `next` says, and wakes all; the state, if it has ended before.
    fn end_round(&self, round: u32, next: impl Fn(u64) -> u64) -> Result<(), u64> {
        // Acquire, here and on failure: as in `await_end`.
        let mut seen = self.state.load(Acquire);
        while round::round(seen) == round && !round::is_broken(seen) {
            // Release pairs with the Acquire loads in `await_end` and `arrive`.
            match self
                .state
                .compare_exchange(seen, next(seen), AcqRel, Acquire)
            {
                Ok(_) => {
                    self.wake(seen);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(seen)
    }

    /// Wakes all who slept through the end of the round of `before`.
    pub(super) fn wake(&self, before: u64) {
        if round::has_sleepers(before) {
            park::wake(&self.state, u32::MAX);
        }
    }

    /// What the end of `round` means for its parties.
    fn judge(&self, state: u64, round: u32) -> Result<(), BarrierError> {
        match round::end_of(state, round) {
            End::Completed => Ok(()),
            End::Cut => Err(self.broken(round)),
        }
    }

    fn broken(&self, round: u32) -> BarrierError {
        let note = self.dead.load(Relaxed);
        let dead = ParticipantId::from_bits((note >> 32) as u32);
        let known = note as u32 == round && !dead.is_anonymous();
        BarrierError::Broken {
            dead: known.then_some(dead),
        }
    }
}

/// Breaks the round if the action panics.
struct BreakUnlessDone<'a> {
    barrier: &'a Barrier,
    round: u32,
}

impl Drop for BreakUnlessDone<'_> {
    fn drop(&mut self) {
        // Somebody else may have broken it already.
        let _ = self.barrier.break_round(self.round);
    }
}
