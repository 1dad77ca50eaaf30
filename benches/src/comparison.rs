//! What a comparison is made of. A new line is one constant of type [`Comparison`].

use std::error::Error;
use std::fmt;

use crate::cpu::Cpus;
use crate::stage::Stage;

/// Why something could not be measured.
pub(crate) type Failure = Box<dyn Error>;

/// A measured number, in the comparison's unit.
pub(crate) type Measured = Result<f64, Failure>;

/// One line of the report.
pub(crate) struct Comparison {
    /// `group/what/how`; the filter looks for a part of it.
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// The least advantage that is `ok`.
    pub(crate) bar: f64,
    pub(crate) ours: Contender,
    pub(crate) peer: Contender,
}

impl Comparison {
    pub(crate) fn contender(&self, side: Side) -> &Contender {
        match side {
            Side::Ours => &self.ours,
            Side::Peer => &self.peer,
        }
    }

    /// Makes what can be made beforehand, which may take minutes.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        match &self.peer {
            Contender::Program(peer) => peer.command().map(drop),
            _ => Ok(()),
        }
    }

    pub(crate) fn needs_boost(&self) -> bool {
        matches!(&self.peer, Contender::Program(peer) if peer.language == Language::Boost)
    }
}

/// How one side of a comparison is measured.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    /// In this process, on the near CPU. A second thread pins itself to the far CPU.
    Alone(fn(Cpus) -> Measured),
    /// By two processes with shared memory.
    Pair(Pair),
    /// By four processes with shared memory, two on each CPU.
    Four(Four),
    /// By a program of its own: see [`crate::program`].
    Program(Program),
}

/// Two processes, pinned to the near and the far CPU.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    /// Bytes of shared memory they need.
    pub(crate) bytes: usize,
    /// Runs in the comparing process, sets up the memory, and measures.
    pub(crate) near: fn(&Stage) -> Measured,
    /// Runs in a child process.
    pub(crate) far: fn(&Stage) -> Result<(), Failure>,
}

/// Two processes on the near CPU and two on the far one.
#[derive(Clone, Copy)]
pub(crate) struct Four {
    /// As in [`Pair`].
    pub(crate) bytes: usize,
    /// As in [`Pair`].
    pub(crate) near: fn(&Stage) -> Measured,
    /// Runs in a child process on the near CPU.
    pub(crate) beside: fn(&Stage) -> Result<(), Failure>,
    /// Runs in two child processes on the far CPU; [`Stage::seat`] tells them apart.
    pub(crate) far: fn(&Stage) -> Result<(), Failure>,
}

/// A peer in another language, or with dependencies that this package should not have.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) language: Language,
    /// `peers/c/NAME.c`, `peers/cpp/NAME.cpp` or `peers/py/NAME.py`; of Rust, the package's name.
    pub(crate) name: &'static str,
    /// Passed on behind the two CPU numbers.
    pub(crate) args: &'static [&'static str],
}

/// What a [`Program`] is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    C,
    /// C++ with Boost's headers: see [`crate::boost`].
    Boost,
    /// C++ with DPDK, as `pkg-config` describes it.
    Dpdk,
    /// A package of its own, `peers/rust`, built by `cargo`.
    Rust,
    /// Run by `python3`.
    Python,
}

/// Ours or the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Ours,
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
        })
    }
}

/// What the two numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nanoseconds: less is better.
    Nanoseconds,
    /// Millions of messages per second: more is better.
    MillionsPerSecond,
    /// Gigabytes (10^9) per second: more is better.
    GigabytesPerSecond,
}

impl Unit {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::MillionsPerSecond => "M/s",
            Self::GigabytesPerSecond => "GB/s",
        }
    }

    /// More than 1 if ours is better.
    pub(crate) fn advantage(self, ours: f64, peer: f64) -> f64 {
        match self {
            Self::Nanoseconds => peer / ours,
            Self::MillionsPerSecond | Self::GigabytesPerSecond => ours / peer,
        }
    }
}
