//! Builds the peers that are programs, into `peers/target/`, when they are missing or older than
//! their sources.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::boost;
use crate::comparison::{Failure, Language, Program};
use crate::program::Absent;

/// Where their sources are.
pub(crate) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// The program's path, after making it if that is needed.
pub(crate) fn made(program: &Program) -> Result<PathBuf, Failure> {
    match program.language {
        Language::C | Language::Python => compile(program.name, "c", cc),
        Language::Boost => compile(program.name, "cpp", with_boost),
        Language::Dpdk => compile(program.name, "cpp", with_dpdk),
        Language::Rust => package(program.name),
    }
}

/// A compiler that has its flags, and what it wants behind the sources.
type Compiler = (Command, Vec<String>);

/// `peers/FOLDER/NAME.FOLDER`, with the headers that are beside it.
fn compile(
    name: &str,
    folder: &str,
    compiler: fn() -> Result<Compiler, Absent>,
) -> Result<PathBuf, Failure> {
    let sources = peers().join(folder);
    let source = sources.join(name).with_extension(folder);
    let target = peers().join("target").join(folder);
    let program = target.join(name);
    let wanted =
        newest(&sources).map_err(|error| Absent(format!("{}: {error}", sources.display())))?;
    if changed(&program).is_ok_and(|made| made >= wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&target)?;
    let (mut compiler, libraries) = compiler()?;
    let status = compiler
        .arg("-o")
        .args([&program, &source])
        .args(libraries)
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

fn changed(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// When a file of `folder` was last changed.
fn newest(folder: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for file in fs::read_dir(folder)? {
        newest = newest.max(file?.metadata()?.modified()?);
    }
    Ok(newest)
}

fn cc() -> Result<Compiler, Absent> {
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O2", "-pthread"]);
    Ok((compiler, Vec::new()))
}

fn with_boost() -> Result<Compiler, Absent> {
    let mut compiler = Command::new(boost::compiler().map_err(|why| Absent(why.to_owned()))?);
    compiler.args(boost::FLAGS);
    Ok((compiler, Vec::new()))
}

/// As `pkg-config` says, for any processor that the installed DPDK runs on, as our side is built for
/// any: for this very one (`-march=native`) on one side alone, the flag would be what is measured.
fn with_dpdk() -> Result<Compiler, Absent> {
    let absent = || Absent("no DPDK (Debian: g++, pkg-config, libdpdk-dev)".to_owned());
    let asked = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libdpdk"])
        .stderr(Stdio::null())
        .output()
        .map_err(|_| absent())?;
    if !asked.status.success() {
        return Err(absent());
    }
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O3", "-pthread"]);
    let flags = String::from_utf8_lossy(&asked.stdout);
    let flags = flags.split_whitespace().map(str::to_owned).collect();
    Ok((compiler, flags))
}

/// `peers/rust`, a workspace of its own; `cargo` is asked once, and knows whether there is something
/// to do.
fn package(name: &str) -> Result<PathBuf, Failure> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let target = peers().join("target/rust");
    let built = BUILT.get_or_init(|| {
        let asked = Command::new("cargo")
            .args(["build", "--quiet", "--release", "--locked"])
            .arg("--manifest-path")
            .arg(peers().join("rust/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status();
        match asked {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err("cargo could not build peers/rust".to_owned()),
            Err(error) => Err(format!("no cargo: {error}")),
        }
    });
    built.clone().map_err(Absent)?;
    Ok(target.join("release").join(name))
}
