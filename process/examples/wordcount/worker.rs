//! What a worker process does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use multiprocess::sync::Lock;
use multiprocess::{RawArray, Shared, bytes};
use serde::{Deserialize, Serialize};

use crate::count::{Outcome, Table, Totals, count_file};

/// First byte of a record on the way back: a line for the user.
pub(crate) const LINE: u8 = b'L';
/// First byte of a record on the way back: a piece of the table.
pub(crate) const TABLE: u8 = b'T';

/// Everything a worker shares with its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Paths to count; ends when the parent closes it.
    pub paths: bytes::Consumer,
    /// Lines and, at the end, the table.
    pub results: bytes::Producer,
    /// Guards `totals`.
    pub lock: Shared<Lock>,
    /// Running totals of all workers.
    pub totals: RawArray<u64>,
}

/// A worker's own share.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub files: u64,
    pub bytes: u64,
    /// CPU time spent, by this process.
    pub busy: Duration,
}

/// The worker's function. An error is a parent that is gone: nobody to report to.
pub(crate) fn work(mut job: Job) -> Result<Share, String> {
    let mut table = Table::new();
    let mut own = Totals::default();
    while let Ok(record) = job.paths.peek() {
        let path = Path::new(OsStr::from_bytes(&record)).to_path_buf();
        record.release();
        let outcome = count_file(&path, &mut table);
        own.add(&outcome);
        add_to_running_totals(&job, &outcome)?;
        let line = match outcome {
            Outcome::Counted { .. } => continue,
            Outcome::Unreadable(error) => format!("{}: {error}", path.display()),
            Outcome::NotUtf8 => format!("{}: not UTF-8 text, skipped", path.display()),
        };
        send(&mut job.results, LINE, line.as_bytes())?;
    }
    let entries: Vec<(&str, u64)> = table.iter().map(|(word, n)| (&**word, *n)).collect();
    let bytes = postcard::to_stdvec(&entries).map_err(|error| error.to_string())?;
    send(&mut job.results, TABLE, &bytes)?;
    Ok(Share {
        files: own.files,
        bytes: own.bytes,
        busy: cpu_time(),
    })
}

fn add_to_running_totals(job: &Job, outcome: &Outcome) -> Result<(), String> {
    let _guard = job.lock.lock().map_err(|error| error.to_string())?;
    let mut array = [0; Totals::LEN];
    let copied = job.totals.copy_to_slice(0, &mut array);
    let mut totals = Totals::from_array(array);
    totals.add(outcome);
    copied
        .and_then(|()| job.totals.copy_from_slice(0, &totals.to_array()))
        .map_err(|error| error.to_string())
}

/// Sends `bytes` in records that fit the ring, each with `tag` before it.
fn send(results: &mut bytes::Producer, tag: u8, bytes: &[u8]) -> Result<(), String> {
    let piece_len = (results.max_len() - 1).min(64 << 10);
    for piece in bytes.chunks(piece_len) {
        let mut grant = results
            .reserve(piece.len() + 1)
            .map_err(|error| error.to_string())?;
        grant[0] = tag;
        grant[1..].copy_from_slice(piece);
        grant.commit(piece.len() + 1);
    }
    Ok(())
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
