//! Tests across processes: children by re-executing the test binary, watchdogs, and the sweep
//! that kills a process at every machine instruction of an operation.
//!
//! | module | what it gives |
//! |---|---|
//! | [`child`] | run the current test again as another process, in a role |
//! | [`sandbox`] | a kernel that lacks a system call |
//! | [`watchdog`] | a test that hangs says where, and dies |
//! | [`sweep()`] | kill, stop, or preempt a process at each instruction of an operation |
//!
//! Dev-dependency only. The crate's `README.md` explains how a sweep works and how to write a
//! subject for one.
#![warn(clippy::unnecessary_safety_comment)]
// A test harness is no user of the product's atomics facade, and forks on purpose.
#![allow(clippy::disallowed_methods)]

pub mod child;
mod control;
mod process;
mod report;
pub mod sandbox;
pub mod sweep;
mod symbol;
mod tracee;
pub mod watchdog;

pub use control::{Control, Env, Role, STALLED};
pub use report::{Report, Violation};
pub use sweep::{Config, Mode, Operation, Outcome, Subject, sweep};
