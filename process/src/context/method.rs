//! `StartMethod`: the three ways to start a process, by name.

use std::fmt;
use std::str::FromStr;

/// The three ways to start a process.
///
/// | method | start | what the child begins with |
/// |---|---|---|
/// | `Forkserver` | fast, whatever this process's size | the program, freshly started and forked before `main` |
/// | `Spawn` | a new program start | the program, freshly started |
/// | `Fork` | grows with this process's size | a copy of everything |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StartMethod {
    /// Ask a small server process to fork.
    #[default]
    Forkserver,
    /// Run the program again.
    Spawn,
    /// Copy this process, which must have one thread.
    Fork,
}

impl StartMethod {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Forkserver, Self::Spawn, Self::Fork];

    /// `"forkserver"`, `"spawn"` or `"fork"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forkserver => "forkserver",
            Self::Spawn => "spawn",
            Self::Fork => "fork",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = UnknownStartMethod;

    fn from_str(name: &str) -> Result<Self, UnknownStartMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| UnknownStartMethod(name.to_owned()))
    }
}

/// A name that is none of `forkserver`, `spawn`, `fork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStartMethod(String);

impl fmt::Display for UnknownStartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a start method (forkserver, spawn, fork)",
            self.0
        )
    }
}

impl std::error::Error for UnknownStartMethod {}
