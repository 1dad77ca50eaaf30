//! What a worker process does.

use std::path::Path;
use std::time::Duration;

use multiprocess::channel::queue::{GetError, PutError, PutFailure};
use multiprocess::{Array, JoinableQueue, Queue};
use serde::{Deserialize, Serialize};

use super::count::{Outcome, Table, Totals, count_file};
use super::hash::Seeded;
use super::in_hand;
use super::message::{Answer, Batch, Part};

/// Bytes of words, or counts, in one message: several fit into the queue's memory.
const PIECE: usize = 256 << 10;

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
pub(crate) fn work(desk: Desk) -> Result<Share, String> {
    let mut totals = Totals::default();
    loop {
        let batch = match desk.batches.get() {
            Ok(batch) => batch,
            Err(GetError::Closed) => break,
            Err(error) => return Err(error.to_string()),
        };
        match desk.count(&batch) {
            Ok(counted) => totals += counted,
            // All has been counted: this batch by another, who died before it said `done`.
            Err(PutFailure::Closed) => break,
            Err(error) => {
                batch.give_up();
                return Err(error.to_string());
            }
        }
        // Killed before this, another worker counts the batch again; that it was answered for
        // already shows by its number.
        batch.done();
    }
    Ok(Share {
        number: desk.number,
        totals,
        busy: cpu_time(),
    })
}

impl Desk {
    /// Counts the files of a batch and sends the answer.
    fn count(&self, batch: &Batch) -> Result<Totals, PutFailure> {
        let (mut table, mut totals) = (Table::with_hasher(self.seed), Totals::default());
        let mut complaints = Vec::new();
        for file in &batch.files {
            let path = Path::new(file);
            let outcome = count_file(path, &mut table);
            totals.add(&outcome);
            in_hand::set(&self.in_hand, self.row, totals);
            match outcome {
                Outcome::Counted { .. } => {}
                Outcome::Unreadable(error) => {
                    complaints.push(format!("{}: {error}", path.display()));
                }
                Outcome::NotUtf8 => {
                    complaints.push(format!("{}: not UTF-8 text, skipped", path.display()));
                }
            }
        }
        self.send_table(batch.number, &table)?;
        in_hand::set(&self.in_hand, self.row, Totals::default());
        self.send(batch.number, Part::Done { totals, complaints })?;
        Ok(totals)
    }

    fn send_table(&self, batch: usize, table: &Table) -> Result<(), PutFailure> {
        let mut words = String::new();
        let mut counts = Vec::with_capacity(table.len());
        for (word, count) in table {
            words.push_str(word);
            words.push('\n');
            counts.push(*count);
        }
        let mut rest = &*words;
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(rest.floor_char_boundary(PIECE));
            self.send(batch, Part::Words(piece.to_owned()))?;
            rest = others;
        }
        for piece in counts.chunks(PIECE / size_of::<u64>()) {
            self.send(batch, Part::Counts(piece.to_vec()))?;
        }
        Ok(())
    }

    fn send(&self, batch: usize, part: Part) -> Result<(), PutFailure> {
        let worker = self.number;
        let answer = Answer {
            worker,
            batch,
            part,
        };
        let put = self.answers.put(answer);
        put.map_err(|PutError { reason, .. }| reason)
    }
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
