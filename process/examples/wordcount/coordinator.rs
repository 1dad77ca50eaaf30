//! What the parent does: start workers, hand out paths, collect, notice deaths.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use multiprocess::channel::{RecvError, TryRecvError, TryReserveError};
use multiprocess::sync::Lock;
use multiprocess::{Context, JoinError, Process, RawArray, Shared, StartMethod, bytes};

use crate::count::{Table, Totals};
use crate::report::complain;
use crate::worker::{self, Job, LINE, Share, TABLE};

/// Room for paths on their way to one worker: small, so that no worker hoards work.
const PATHS_CAPACITY: u64 = 16 << 10;
/// Room for lines and tables on their way back.
const RESULTS_CAPACITY: u64 = 1 << 20;
/// How long to sleep on one ring when there is nothing to do on any.
const NAP: Duration = Duration::from_millis(2);

/// What came out.
pub(crate) struct Counted {
    pub table: Table,
    pub totals: Totals,
    pub shares: Vec<Share>,
    pub elapsed: Duration,
}

/// Why nothing came out.
#[derive(Debug)]
pub(crate) enum Failure {
    Start(String),
    WorkerDied(String),
    /// Standard output cannot be written.
    Output(io::Error),
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

fn cannot_start(error: impl fmt::Display) -> Failure {
    Failure::Start(error.to_string())
}

struct Worker {
    process: Process<Result<Share, String>>,
    /// `None` once closed.
    paths: Option<bytes::Producer>,
    results: bytes::Consumer,
    table: Vec<u8>,
    finished: bool,
}

/// Counts `files` with `workers` processes.
pub(crate) fn count(
    files: &[PathBuf],
    workers: usize,
    method: StartMethod,
) -> Result<Counted, Failure> {
    let lock = Shared::new(Lock::new()).map_err(cannot_start)?;
    let totals = RawArray::<u64>::zeroed(Totals::LEN).map_err(cannot_start)?;
    let started = Instant::now();
    let context = Context::new(method).map_err(cannot_start)?.daemon(true);
    let mut crew = (1..=workers)
        .map(|i| hire(&context, i, &lock, &totals))
        .collect::<Result<Vec<_>, _>>()?;
    // Not before the workers are started: a fork wants this process to have one thread.
    let progress = Progress::new(files.len() as u64);
    let result = supervise(&mut crew, files, &totals, &progress);
    progress.clear();
    if result.is_err() {
        for worker in &crew {
            let _ = worker.process.kill();
        }
    }
    result?;
    let mut table = Table::new();
    let mut shares = Vec::new();
    for worker in crew {
        shares.push(dismiss(worker, &mut table)?);
    }
    Ok(Counted {
        table,
        totals: read_totals(&totals),
        shares,
        elapsed: started.elapsed(),
    })
}

fn hire(
    context: &Context,
    number: usize,
    lock: &Shared<Lock>,
    totals: &RawArray<u64>,
) -> Result<Worker, Failure> {
    let (paths, paths_there) = bytes::channel(PATHS_CAPACITY).map_err(cannot_start)?;
    let (results_there, results) = bytes::channel(RESULTS_CAPACITY).map_err(cannot_start)?;
    let job = Job {
        paths: paths_there,
        results: results_there,
        lock: lock.clone(),
        totals: totals.clone(),
    };
    let process = context
        .clone()
        .named(format!("worker {number}"))
        .spawn(worker::work, job)
        .map_err(cannot_start)?;
    Ok(Worker {
        process,
        paths: Some(paths),
        results,
        table: Vec::new(),
        finished: false,
    })
}

/// Hands out all paths and collects all results; fails as soon as a worker has died.
fn supervise(
    crew: &mut [Worker],
    files: &[PathBuf],
    totals: &RawArray<u64>,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut waiting = files.iter();
    let mut next = waiting.next();
    let mut turn = 0;
    while crew.iter().any(|worker| !worker.finished) {
        let mut idle = true;
        for worker in crew.iter_mut() {
            // Asked before its ring is read: what it sent before it ended is still read.
            let alive = worker.process.is_alive();
            idle &= !worker.collect(progress)?;
            if !alive && !worker.finished {
                return Err(worker.obituary());
            }
            match next {
                Some(path) if worker.hand(path)? => {
                    next = waiting.next();
                    idle = false;
                }
                Some(_) => {}
                None => worker.paths = None, // closes the ring
            }
        }
        progress.show(read_totals(totals));
        if idle {
            turn = (turn + 1) % crew.len();
            crew[turn].nap();
        }
    }
    Ok(())
}

impl Worker {
    /// Hands over one path if there is room.
    fn hand(&mut self, path: &std::path::Path) -> Result<bool, Failure> {
        let Some(paths) = &mut self.paths else {
            return Ok(false);
        };
        match paths.try_push(path.as_os_str().as_bytes()) {
            Ok(()) => Ok(true),
            // Whether it died shows in `is_alive`.
            Err(TryReserveError::Full | TryReserveError::Disconnected) => Ok(false),
            Err(error) => Err(Failure::Start(format!("{}: {error}", path.display()))),
        }
    }

    /// Takes what has come back. `true` if there was something.
    fn collect(&mut self, progress: &Progress) -> Result<bool, Failure> {
        let mut some = false;
        loop {
            let record = match self.results.try_peek() {
                Ok(record) => record,
                Err(TryRecvError::Empty) => return Ok(some),
                Err(TryRecvError::Disconnected) => {
                    self.finished = true;
                    return Ok(some);
                }
                Err(error) => {
                    return Err(Failure::WorkerDied(format!(
                        "{}: {error}",
                        self.process.name()
                    )));
                }
            };
            some = true;
            match record.split_first() {
                Some((&LINE, line)) => progress.line(&String::from_utf8_lossy(line)),
                Some((&TABLE, piece)) => self.table.extend_from_slice(piece),
                _ => {}
            }
            record.release();
        }
    }

    /// Sleeps until something comes back, briefly.
    fn nap(&mut self) {
        match self.results.peek_timeout(NAP) {
            Err(RecvError::Disconnected) if !self.finished => {}
            Err(RecvError::Disconnected) => std::thread::sleep(NAP),
            _ => {}
        }
    }

    /// It has ended, and its ring was not closed: it was killed, or it crashed.
    fn obituary(&mut self) -> Failure {
        let (name, pid) = (self.process.name().to_owned(), self.process.pid());
        let why = match self.process.join_timeout(Duration::from_secs(10)) {
            Some(Err(error)) => error.to_string(),
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(_))) | None => "it ended without its table".to_owned(),
        };
        Failure::WorkerDied(format!("{name} (pid {pid}): {why}"))
    }
}

/// Joins a worker that has sent everything, and adds its table to the sum.
fn dismiss(worker: Worker, sum: &mut Table) -> Result<Share, Failure> {
    let (name, pid) = (worker.process.name().to_owned(), worker.process.pid());
    let died = |why: String| Failure::WorkerDied(format!("{name} (pid {pid}): {why}"));
    let share = worker
        .process
        .join()
        .map_err(|error: JoinError| died(error.to_string()))?
        .map_err(&died)?;
    // The words stay where they arrived; only new ones are copied.
    let part: Vec<(&str, u64)> =
        postcard::from_bytes(&worker.table).map_err(|error| died(error.to_string()))?;
    if sum.is_empty() {
        sum.reserve(part.len());
    }
    for (word, count) in part {
        match sum.get_mut(word) {
            Some(total) => *total += count,
            None => {
                sum.insert(word.into(), count);
            }
        }
    }
    Ok(share)
}

fn read_totals(totals: &RawArray<u64>) -> Totals {
    let mut array = [0; Totals::LEN];
    // As long as the array, by construction.
    let _ = totals.copy_to_slice(0, &mut array);
    Totals::from_array(array)
}

/// A bar on a terminal, a line now and then otherwise.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    last: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(files: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = "{bar:40} {pos}/{len} files  {msg}";
        let bar = ProgressBar::with_draw_target(Some(files), target)
            .with_style(ProgressStyle::with_template(style).expect("a constant template"));
        Self {
            bar,
            plain,
            last: std::cell::Cell::new(Instant::now()),
        }
    }

    fn show(&self, totals: Totals) {
        let interval = Duration::from_millis(if self.plain { 1000 } else { 100 });
        if self.last.get().elapsed() < interval {
            return;
        }
        self.last.set(Instant::now());
        let done = totals.files + totals.unreadable + totals.not_utf8;
        self.bar.set_position(done);
        self.bar.set_message(format!("{} words", totals.words));
        if self.plain {
            let all = self.bar.length().unwrap_or(0);
            let _ = writeln!(
                io::stderr(),
                "{done} of {all} files, {} words",
                totals.words
            );
        }
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| complain(line));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
