//! Why nothing came out.

use std::fmt;
use std::io;

#[derive(Debug)]
pub(crate) enum Failure {
    Start(String),
    WorkerDied(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn cannot_start(error: impl fmt::Display) -> Self {
        Self::Start(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(why) | Self::WorkerDied(why) => f.write_str(why),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}
