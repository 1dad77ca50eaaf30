//! A store-load barrier whose price is paid by the side that is about to sleep.
//!
//! "Publish, then look whether somebody sleeps" against "announce sleep, then look whether
//! something was published" needs a full barrier between the store and the load on *both*
//! sides (Dekker). A publisher that runs a million times a second need not pay it: it issues
//! [`light`] (a compiler barrier) and the sleeper issues [`heavy`], which makes the kernel run
//! a barrier on every CPU where a registered process runs:
//! `membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)`,
//! <https://man7.org/linux/man-pages/man2/membarrier.2.html>.
//!
//! # Protocol
//!
//! 1. A process that wants to use `light` calls [`register`] once. On success its publisher
//!    may use `light`, *after* it has told its peers so in shared memory and run one full
//!    [`fence`](crate::atomic::fence) after that store.
//! 2. A sleeper announces itself, runs a full fence, and reads whether the publisher is light;
//!    if so it runs `heavy` before it looks again. If `heavy` can fail there
//!    ([`can_heavy`] was false), it tells publishers, who then stay with full fences.
//!
//! In a loom model both are `fence(SeqCst)`, or `light` is nothing where nobody sleeps
//! (`model::LightIsNothing`): a fence that a system call puts into other threads cannot be
//! modelled, so the handshake above is argued here and tested by kills, and not modelled.

use crate::sys;

/// Whether [`heavy`] works in this process (kernel ≥ 4.16, not forbidden by seccomp).
///
/// Costs a system call: ask at attach, not per operation.
pub fn can_heavy() -> bool {
    sys::membarrier_works()
}

/// Lets this process be reached by other processes' [`heavy`]; `false` if the kernel refuses.
///
/// Idempotent; inherited by `fork`, lost by `exec`. Costs a system call.
#[must_use]
pub fn register() -> bool {
    sys::membarrier_register()
}

/// The publisher's half: orders its earlier stores before its later loads, as seen by a peer
/// that runs [`heavy`]. No instruction on Linux.
#[inline(always)]
pub fn light() {
    sys::light_fence();
}

/// The sleeper's half: a full barrier here and on every CPU that runs a registered process.
///
/// Returns `false` if the kernel refused; the caller then must not sleep without bound.
#[must_use]
pub fn heavy() -> bool {
    sys::heavy_fence()
}
