//! Peers that are programs of their own: C, or Rust with dependencies that this package should
//! not have.
//!
//! # Protocol
//!
//! The program is started once per repetition, with the arguments `NEAR_CPU FAR_CPU
//! MILLISECONDS` and those of the comparison. It pins itself, runs for about that long, prints
//! one number in the comparison's unit on its standard output, and exits with 0. It must end
//! by itself: it may be left alone.
//!
//! A C peer is one file, `peers/c/NAME.c`, built with `cc` when it is first needed. Without a
//! compiler the comparison is skipped, and a line on stderr says so.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::clock::SPAN;
use crate::comparison::{Failure, Measured, Program};
use crate::cpu::Cpus;

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
        let output = Command::new(self.build()?)
            .args([cpus.near.to_string(), cpus.far.to_string()])
            .arg(SPAN.as_millis().to_string())
            .args(self.args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
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

    /// The program's path, after making it if it is missing or older than its source.
    fn build(&self) -> Result<PathBuf, Failure> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let source = peers.join("c").join(self.name).with_extension("c");
        let program = peers.join("target/c").join(self.name);
        let changed = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
        let wanted =
            changed(&source).map_err(|error| Absent(format!("{}: {error}", source.display())))?;
        if changed(&program).is_ok_and(|made| made >= wanted) {
            return Ok(program);
        }
        fs::create_dir_all(peers.join("target/c"))?;
        let status = Command::new("cc")
            .args(["-std=gnu11", "-O2", "-pthread", "-o"])
            .args([&program, &source])
            .status()
            .map_err(|error| Absent(format!("no C compiler: cc: {error}")))?;
        if !status.success() {
            return Err(format!("cc {} ended with {status}", source.display()).into());
        }
        Ok(program)
    }
}
