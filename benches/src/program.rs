//! Peers that are programs of their own: C, or C++ with Boost.
//!
//! # Protocol
//!
//! The program is started once per repetition, with the arguments `NEAR_CPU FAR_CPU
//! MILLISECONDS` and those of the comparison. It pins itself, runs for about that long, prints
//! one number in the comparison's unit on its standard output, and exits with 0. It must end
//! by itself: it may be left alone.
//!
//! A C peer is one file, `peers/c/NAME.c`, built with `cc` when it is first needed; a peer with
//! Boost is `peers/cpp/NAME.cpp`, built with what [`boost::compiler`] finds. Without a compiler the
//! comparison is skipped, and a line on stderr says so.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::boost;
use crate::clock::SPAN;
use crate::comparison::{Failure, Language, Measured, Program};
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

    fn command(&self) -> Result<Command, Failure> {
        if self.language != Language::Python {
            return Ok(Command::new(self.build()?));
        }
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/py");
        let mut python = Command::new("python3");
        python.arg(peers.join(self.name).with_extension("py"));
        Ok(python)
    }

    /// The program's path, after making it if it is missing or older than its source.
    fn build(&self) -> Result<PathBuf, Failure> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let folder = match self.language {
            Language::Boost => "cpp",
            _ => "c",
        };
        let source = peers.join(folder).join(self.name).with_extension(folder);
        let target = peers.join("target").join(folder);
        let program = target.join(self.name);
        let changed = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
        let wanted =
            changed(&source).map_err(|error| Absent(format!("{}: {error}", source.display())))?;
        if changed(&program).is_ok_and(|made| made >= wanted) {
            return Ok(program);
        }
        fs::create_dir_all(&target)?;
        let mut compiler = self.compiler()?;
        let status = compiler
            .arg("-o")
            .args([&program, &source])
            .status()
            .map_err(|error| {
                let name = compiler.get_program().display();
                Absent(format!("no compiler: {name}: {error}"))
            })?;
        if !status.success() {
            return Err(format!("{compiler:?} ended with {status}").into());
        }
        Ok(program)
    }

    fn compiler(&self) -> Result<Command, Absent> {
        let (name, flags) = match self.language {
            Language::C | Language::Python => ("cc", ["-std=gnu11", "-O2", "-pthread"]),
            Language::Boost => {
                let why = |why: &str| Absent(why.to_owned());
                (boost::compiler().map_err(why)?, boost::FLAGS)
            }
        };
        let mut compiler = Command::new(name);
        compiler.args(flags);
        Ok(compiler)
    }
}
