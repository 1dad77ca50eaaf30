//! How long to spin before parking.
//!
//! A lock's holder is usually done within a hundred pauses, so locks spin a fixed budget. A
//! hand-off (event, ring) takes as long as the peer's work does, so its budget adapts: glibc's
//! adaptive mutex rule (`nptl/pthread_mutex_lock.c`), kept in the process-local handle. Nobody
//! spins on a machine with one CPU, where the peer cannot run meanwhile.

use crate::sys;

/// Asks for the line in which `place` begins, where the processor can be asked (x86-64): a hint, without
/// which nothing is wrong.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch accesses nothing that a program could tell, whatever its address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

/// Budget of a lock, in pauses.
pub const LOCK_SPINS: u32 = 100;

/// Largest budget of a hand-off, in pauses.
pub const HANDOFF_SPINS: u32 = 2000;

/// The budget of a lock: [`LOCK_SPINS`], or 0 if this process may run on one CPU only.
#[inline]
pub fn lock_budget() -> u32 {
    if sys::cpus() > 1 { LOCK_SPINS } else { 0 }
}

/// The budget of a hand-off among `parties` that all run at once: [`HANDOFF_SPINS`], or 0 if there
/// are more of them than CPUs. Who spins then keeps off the CPU the one it waits for.
#[inline]
pub fn handoff_budget(parties: u32) -> u32 {
    match sys::cpus() {
        cpus if cpus > 1 && parties <= cpus => HANDOFF_SPINS,
        _ => 0,
    }
}

/// A spin budget that follows what spinning has been worth lately.
///
/// Starts at a tenth of [`HANDOFF_SPINS`]; after each wait, `average += (used - average) / 8`,
/// and the next budget is `2 * average + 10`, at most the cap.
///
/// # Examples
///
/// ```
/// use multiprocess_core::spin::AdaptiveSpin;
///
/// let mut spin = AdaptiveSpin::new();
/// let before = spin.budget();
/// for _ in 0..100 { spin.record(0); }      // the peer was always there at once
/// assert!(spin.budget() <= before);
/// ```
#[derive(Debug, Clone)]
pub struct AdaptiveSpin {
    average: u32,
    cap: u32,
}

impl AdaptiveSpin {
    /// With the cap of a hand-off.
    pub fn new() -> Self {
        Self::with_cap(HANDOFF_SPINS)
    }

    /// With a cap of `cap` pauses; 0 parks at once.
    pub fn with_cap(cap: u32) -> Self {
        Self {
            average: cap / 10,
            cap: if sys::cpus() > 1 { cap } else { 0 },
        }
    }

    /// Pauses to spend before the next park.
    #[inline]
    pub fn budget(&self) -> u32 {
        (2 * self.average + 10).min(self.cap)
    }

    /// `used` pauses were spent, whether or not they were enough.
    #[inline]
    pub fn record(&mut self, used: u32) {
        // Signed shift: the average can fall as well as rise.
        let delta = (i64::from(used) - i64::from(self.average)) / 8;
        self.average = (i64::from(self.average) + delta) as u32;
    }
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self::new()
    }
}
