//! What a worker process does.

use std::path::Path;
use std::time::Duration;

use multiprocess::channel::queue::{GetError, PutError, PutFailure};
use multiprocess::{Array, Job, JoinableQueue, Queue};
use serde::{Deserialize, Serialize};

use super::count::{Outcome, Totals, count_file};
use super::hash::Seeded;
use super::in_hand;
use super::message::{Answer, Batch, Part};
use super::table::Table;

/// Bytes of words in one message: many fit into the queue's memory, and one into a CPU's.
const PIECE: usize = 64 << 10;
/// Different words at which a worker answers, for the memory.
const WORDS_AT_MOST: usize = 4 << 20;

/// Everything a worker gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Desk {
    pub number: u64,
    /// Its row in `in_hand`.
    pub row: usize,
    pub batches: JoinableQueue<Batch>,
    pub answers: Queue<Answer>,
    /// What each worker has counted and not answered yet, for the user to see: `in_hand.rs`.
    pub in_hand: Array<u64>,
    /// Of everybody's tables.
    pub seed: Seeded,
    /// Batches that one answer may be for.
    pub batches_at_most: usize,
}

/// What a worker did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub number: u64,
    pub totals: Totals,
    /// CPU time spent, by this process.
    pub busy: Duration,
}

/// The worker's function: counts batches until there are no more.
///
/// As long as batches are waiting it takes one after the other and counts them into one table, so
/// that a word is sent once, and not once for each batch.
pub(crate) fn work(desk: Desk) -> Result<Share, String> {
    let mut totals = Totals::default();
    let mut work = Work::new(desk.seed);
    loop {
        let batch = if work.jobs.is_empty() {
            desk.batches.get()
        } else if work.jobs.len() < desk.batches_at_most && work.table.len() < WORDS_AT_MOST {
            desk.batches.try_get()
        } else {
            Err(GetError::Empty)
        };
        match batch {
            Ok(batch) => {
                work.count(&desk, &batch);
                work.jobs.push(batch);
                continue;
            }
            Err(GetError::Closed) if work.jobs.is_empty() => break,
            Err(GetError::Empty | GetError::Closed) => {}
            Err(error) => return Err(work.give_up(&error)),
        }
        let answered = work.answer(&desk);
        match answered {
            Ok(()) => totals += work.totals,
            // All has been counted: these batches by another, who died before it said `done`.
            Err(PutFailure::Closed) => break,
            Err(error) => return Err(work.give_up(&error)),
        }
        work.done();
    }
    Ok(Share {
        number: desk.number,
        totals,
        busy: cpu_time(),
    })
}

/// What a worker has in its hands.
struct Work {
    jobs: Vec<Job<Batch>>,
    table: Table,
    totals: Totals,
    complaints: Vec<String>,
    buffer: Vec<u8>,
}

impl Work {
    fn new(seed: Seeded) -> Self {
        Self {
            jobs: Vec::new(),
            table: Table::new(seed),
            totals: Totals::default(),
            complaints: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Counts the files of a batch.
    fn count(&mut self, desk: &Desk, batch: &Batch) {
        for file in &batch.files {
            let path = Path::new(file);
            let outcome = count_file(path, &mut self.table, &mut self.buffer);
            self.totals.add(&outcome);
            in_hand::set(&desk.in_hand, desk.row, self.totals);
            match outcome {
                Outcome::Counted { .. } => {}
                Outcome::Unreadable(error) => {
                    self.complaints.push(format!("{}: {error}", path.display()));
                }
                Outcome::NotUtf8 => {
                    self.complaints
                        .push(format!("{}: not UTF-8 text, skipped", path.display()));
                }
            }
        }
    }

    /// Sends what was counted.
    fn answer(&mut self, desk: &Desk) -> Result<(), PutFailure> {
        for piece in self.table.pieces(PIECE) {
            desk.send(Part::Piece(piece))?;
        }
        in_hand::set(&desk.in_hand, desk.row, Totals::default());
        desk.send(Part::Done {
            batches: self.jobs.iter().map(|batch| batch.number).collect(),
            totals: self.totals,
            complaints: std::mem::take(&mut self.complaints),
        })
    }

    /// Killed before this, other workers count the batches again; that they were answered for
    /// already shows by their numbers.
    fn done(&mut self) {
        self.jobs.drain(..).for_each(Job::done);
        self.table.clear();
        self.totals = Totals::default();
    }

    /// Others are to count what is in hand.
    fn give_up(&mut self, why: &impl ToString) -> String {
        self.jobs.drain(..).for_each(Job::give_up);
        why.to_string()
    }
}

impl Desk {
    fn send(&self, part: Part) -> Result<(), PutFailure> {
        let worker = self.number;
        let put = self.answers.put(Answer { worker, part });
        put.map_err(|PutError { reason, .. }| reason)
    }
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
