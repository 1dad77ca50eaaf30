//! Peers that are programs of their own.
//!
//! # Protocol
//!
//! The program is started once per repetition, with the arguments `NEAR_CPU FAR_CPU
//! MILLISECONDS` and those of the comparison. It pins itself, runs for about that long, prints
//! one number in the comparison's unit on its standard output, and exits with 0. It must end
//! by itself: it may be left alone.
//!
//! [`make`] builds it when it is first needed. Where that cannot be done the comparison is skipped, and
//! a line on stderr says so.

use std::error::Error;
use std::fmt;
use std::process::{Command, Stdio};

use crate::clock::SPAN;
use crate::comparison::{Failure, Language, Measured, Program};
use crate::cpu::Cpus;
use crate::make;

/// The program is not here and cannot be built; says why.
#[derive(Debug)]
pub(crate) struct Absent(pub(crate) String);

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Absent {}

impl Program {
    pub(crate) fn measure(&self, cpus: Cpus) -> Measured {
        let output = self
            .command()?
            .args([cpus.near.to_string(), cpus.far.to_string()])
            .arg(SPAN.as_millis().to_string())
            .args(self.args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| Absent(format!("{}: {error}", self.name)))?;
        if !output.status.success() {
            return Err(format!("{} ended with {}", self.name, output.status).into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let number: f64 = text.trim().parse()?;
        if number.is_finite() && number > 0.0 {
            Ok(number)
        } else {
            Err(format!("{} printed {number}", self.name).into())
        }
    }

    /// What starts it, after making it if that is needed.
    pub(crate) fn command(&self) -> Result<Command, Failure> {
        if self.language != Language::Python {
            return Ok(Command::new(make::made(self)?));
        }
        let mut python = Command::new("python3");
        python.arg(
            make::peers()
                .join("py")
                .join(self.name)
                .with_extension("py"),
        );
        Ok(python)
    }
}
