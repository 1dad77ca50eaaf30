//! Torture: workers at both sides of a ring, of which one after the other, or several at once, are killed or
//! stopped at a random moment, and replaced. Every message is accounted for: none lost, none torn, none
//! twice, but what the dead had in hand, as the ring's contract says; at the end no slot, no seat and no
//! block is missing.
//!
//! A few dozen kills of each kind in an ordinary test run; for the real thing
//!
//! ```text
//! TORTURE_KILLS=20000 cargo test --release -p multiprocess-channel --test torture -- --nocapture --test-threads=1
//! ```
//!
//! prints, for each kind, kills and stops, messages, what was in the hands of the dead, and the longest time
//! in which nobody got on.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

mod broadcast;
mod harness;
mod many;
mod one;

use harness::torture;

#[test]
fn mpmc_under_torture() {
    torture::<many::Many<many::Slots>>("mpmc_under_torture");
}

#[test]
fn mpmc_in_one_step_under_torture() {
    torture::<many::Many<many::OneStep>>("mpmc_in_one_step_under_torture");
}

#[test]
fn loan_under_torture() {
    torture::<many::Many<many::Loans>>("loan_under_torture");
}

#[test]
fn spsc_under_torture() {
    torture::<one::One<one::Peeked>>("spsc_under_torture");
}

#[test]
fn spsc_by_value_under_torture() {
    torture::<one::One<one::Popped>>("spsc_by_value_under_torture");
}

#[test]
fn bytes_under_torture() {
    torture::<one::One<one::Records>>("bytes_under_torture");
}

#[test]
fn lossless_broadcast_under_torture() {
    torture::<broadcast::Lossless>("lossless_broadcast_under_torture");
}

#[test]
fn lossy_broadcast_under_torture() {
    torture::<broadcast::Lossy>("lossy_broadcast_under_torture");
}
