//! Counts words in real files with several processes that share memory.
//!
//! The parent walks a directory and puts paths into one `JoinableQueue`, in batches. Workers get them,
//! count, and put tables into one `Queue`; the parent adds them up. An `Array` shows meanwhile how
//! far each worker is.
//!
//! Workers may be killed at any moment, and `--chaos` does it. A worker sends the answer to a batch
//! *before* it says that the batch is done: killed before, the queue gives the batch to another
//! one; killed between, the answer comes twice, and the parent enters the first one only
//! ([`ledger`]). So each file is counted once.
//!
//! ```text
//! cargo run --release --example wordcount -- [DIR] [--workers N] [--verify] [--chaos]
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | done, but some files could not be read |
//! | 2 | nothing could be started: wrong usage, no such directory |
//! | 3 | workers died again and again; the last one is named |
//! | 4 | `--verify` found a difference |
//! | 5 | standard output could not be written: a full disk |
//! | 141 | whoever read standard output has gone; nothing is said about it |

mod coordinator;
mod count;
mod crew;
mod failure;
mod hash;
mod in_hand;
mod ledger;
mod message;
mod progress;
mod report;
mod table;
mod walk;
mod worker;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use multiprocess::StartMethod;

use coordinator::Plan;
use failure::Failure;
use progress::Progress;
use report::complain;

/// Counts words in the files under a directory, with several processes.
///
/// Exit codes: 0 done, 1 done but some files could not be read, 2 nothing could be started
/// (wrong usage, no such directory), 3 workers died again and again, 4 --verify found a difference,
/// 5 standard output could not be written, 141 its reader has gone.
/// Files that are not UTF-8 text, or have no end, are named and skipped. Workers that die are named
/// and replaced.
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

    /// Kill workers at random meanwhile, with SIGKILL.
    #[arg(long)]
    chaos: bool,
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
        None => (walk::registry_sources()?, true),
    };
    let found = walk::walk(&directory, only_rust)?;
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
    let plan = Plan {
        workers,
        method: options.start_method,
        chaos: options.chaos,
    };
    let progress = Progress::new(found.files.len() as u64);
    let counted = coordinator::count(&found.files, &plan, &progress);
    progress.clear();
    let counted = counted?;
    report::mourn(&counted);
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
