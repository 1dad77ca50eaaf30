//! Counts words in real files with several processes that share memory.
//!
//! The parent walks a directory and hands paths to the workers through byte rings; the workers
//! count, keep running totals in a shared array under a shared lock, and send their tables back
//! through byte rings; the parent merges.
//!
//! ```text
//! cargo run --release --example wordcount -- [DIR] [--workers N] [--verify]
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | done, but some files could not be read |
//! | 2 | nothing could be started: wrong usage, no such directory |
//! | 3 | a worker died; it is named |
//! | 4 | `--verify` found a difference |
//! | 5 | standard output could not be written: a full disk |
//! | 141 | whoever read standard output has gone; nothing is said about it |

mod coordinator;
mod count;
mod report;
mod worker;

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use multiprocess::StartMethod;

use coordinator::Failure;
use report::complain;

/// Counts words in the files under a directory, with several processes.
///
/// Exit codes: 0 done, 1 done but some files could not be read, 2 nothing could be started
/// (wrong usage, no such directory), 3 a worker died, 4 --verify found a difference, 5 standard
/// output could not be written, 141 its reader has gone.
/// Files that are not UTF-8 text, or have no end, are named and skipped.
#[derive(Debug, Parser)]
#[command(name = "wordcount", version)]
struct Options {
    /// Directory to walk; without it, the Rust sources in cargo's registry.
    directory: Option<PathBuf>,

    /// Worker processes; without it, one for each CPU.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: Option<u16>,

    /// How workers are started: forkserver, spawn or fork.
    #[arg(short, long, default_value_t)]
    start_method: StartMethod,

    /// Count again in one process and compare everything.
    #[arg(long)]
    verify: bool,
}

const UNREADABLE: u8 = 1;
const CANNOT_START: u8 = 2;
const WORKER_DIED: u8 = 3;
const DIFFERENT: u8 = 4;
const NO_OUTPUT: u8 = 5;
/// What a shell reports of a program that SIGPIPE ended.
const READER_GONE: u8 = 141;

fn main() -> ExitCode {
    multiprocess::init();
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            ExitCode::from(READER_GONE)
        }
        Err(failure) => {
            complain(&failure);
            ExitCode::from(match failure {
                Failure::WorkerDied(_) => WORKER_DIED,
                Failure::Start(_) => CANNOT_START,
                Failure::Output(_) => NO_OUTPUT,
            })
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let (directory, only_rust) = match &options.directory {
        Some(directory) => (directory.clone(), false),
        None => (registry_sources()?, true),
    };
    let found = walk(&directory, only_rust)?;
    for problem in &found.problems {
        complain(problem);
    }
    if found.files.is_empty() {
        writeln!(
            io::stdout(),
            "no files under {}: nothing to count",
            directory.display()
        )?;
        return Ok(ExitCode::from(if found.problems.is_empty() {
            0
        } else {
            UNREADABLE
        }));
    }
    let workers = match options.workers {
        Some(workers) => workers.into(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // Not locked before the workers have started: a fork takes the lock.
    writeln!(
        io::stdout(),
        "{} files under {}, {workers} workers by {}",
        found.files.len(),
        directory.display(),
        options.start_method
    )?;
    let counted = coordinator::count(&found.files, workers, options.start_method)?;
    let mut out = io::stdout().lock();
    report::print(&mut out, &counted)?;
    let mut code = if found.problems.is_empty() && counted.totals.unreadable == 0 {
        0
    } else {
        UNREADABLE
    };
    if options.verify && !report::verify(&mut out, &counted, &found.files)? {
        code = DIFFERENT;
    }
    out.flush()?;
    Ok(ExitCode::from(code))
}

struct Found {
    files: Vec<PathBuf>,
    problems: Vec<String>,
}

fn walk(directory: &Path, only_rust: bool) -> Result<Found, Failure> {
    // Asked by itself: a walk would only say that nothing was found.
    std::fs::read_dir(directory)
        .map_err(|error| Failure::Start(format!("{}: {error}", directory.display())))?;
    let mut found = Found {
        files: Vec::new(),
        problems: Vec::new(),
    };
    for entry in walkdir::WalkDir::new(directory) {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if only_rust && entry.path().extension() != Some("rs".as_ref()) => {}
            Ok(entry) => found.files.push(entry.into_path()),
            Err(error) => found.problems.push(error.to_string()),
        }
    }
    Ok(found)
}

/// `$CARGO_HOME/registry/src`, where building this project put its dependencies.
fn registry_sources() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .ok_or_else(|| Failure::Start("no HOME and no CARGO_HOME: name a directory".into()))?;
    Ok(home.join("registry").join("src"))
}
