//! What the parent does: hands out batches, enters answers, replaces the dead.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use multiprocess::channel::queue::{GetError, PutError, PutFailure, QueueConfig};
use multiprocess::{Array, Context, JoinableQueue, Queue, StartMethod};

use super::Failure;
use super::count::{Table, Totals};
use super::crew::Crew;
use super::hash::Seeded;
use super::in_hand;
use super::ledger::Ledger;
use super::message::{Answer, Batch, cut};
use super::worker::Share;

/// Memory for batches, and answers, on their way.
const LARGE: u64 = 8 << 20;
/// How long to wait for an answer before looking whether somebody has died.
const NAP: Duration = Duration::from_millis(5);
/// Between two murders at most; twice that for each since something was counted, so that a long
/// batch has its time to come.
const PEACE: Duration = Duration::from_millis(20);

/// How to count.
pub(crate) struct Plan {
    pub workers: usize,
    pub method: StartMethod,
    /// Whether to kill workers meanwhile.
    pub chaos: bool,
}

/// What came out.
pub(crate) struct Counted {
    pub table: Table,
    pub totals: Totals,
    pub shares: Vec<Share>,
    pub elapsed: Duration,
    /// How workers died that nobody here has killed.
    pub obituaries: Vec<String>,
    /// Workers killed by chaos, and answers that came again because of deaths.
    pub killed: u64,
    pub repeated: u64,
}

/// Who is told how far it is.
pub(crate) trait Watch {
    /// Files and words so far.
    fn at(&self, so_far: impl FnOnce() -> (u64, u64));
    /// A line for the user.
    fn line(&self, line: &str);
}

/// Counts `files`.
pub(crate) fn count(
    files: &[PathBuf],
    plan: &Plan,
    watch: &impl Watch,
) -> Result<Counted, Failure> {
    let started = Instant::now();
    // Places for all workers, and for as many dead ones whose places nobody has cleared yet.
    let places = 2 * plan.workers as u32 + 2;
    let config = QueueConfig::new(4 * plan.workers as u64)
        .endpoints(places)
        .large(LARGE);
    let batches = JoinableQueue::with(&config).map_err(Failure::cannot_start)?;
    let answers = Queue::with(&config).map_err(Failure::cannot_start)?;
    let in_hand = Array::zeroed(in_hand::len(plan.workers)).map_err(Failure::cannot_start)?;
    let seed = Seeded::default();
    let mut office = Office {
        crew: Crew::hire(
            Context::new(plan.method).map_err(Failure::cannot_start)?,
            plan.workers,
            batches.clone(),
            answers.clone(),
            in_hand.clone(),
            seed,
        )?,
        batches,
        answers,
        in_hand,
        seed,
        next_murder: plan.chaos.then(Instant::now),
        murders: 0,
    };
    let counted = office.count(cut(files, plan.workers, plan.chaos), watch);
    // Whoever still counts, counts what has been counted, and ends.
    office.batches.close();
    office.answers.close();
    if counted.is_err() {
        office.crew.kill_all();
    }
    let ledger = counted?;
    Ok(Counted {
        shares: office.crew.dismiss(),
        elapsed: started.elapsed(),
        table: ledger.table,
        totals: ledger.totals,
        obituaries: office.crew.obituaries,
        killed: office.crew.killed,
        repeated: ledger.repeated,
    })
}

struct Office {
    crew: Crew,
    batches: JoinableQueue<Batch>,
    answers: Queue<Answer>,
    in_hand: Array<u64>,
    seed: Seeded,
    next_murder: Option<Instant>,
    /// Since something was counted.
    murders: u32,
}

impl Office {
    fn count(&mut self, batches: Vec<Batch>, watch: &impl Watch) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(batches.len(), self.seed);
        let mut waiting = batches.into_iter();
        let mut next = waiting.next();
        while !ledger.is_complete() {
            while let Some(batch) = next.take() {
                match self.batches.try_put(batch) {
                    Ok(()) => next = waiting.next(),
                    Err(PutError {
                        value,
                        reason: PutFailure::Full,
                    }) => {
                        next = Some(value);
                        break;
                    }
                    Err(error) => return Err(Failure::WorkerDied(error.to_string())),
                }
            }
            match self.answers.get_timeout(NAP) {
                Ok(answer) => {
                    if let Some(complaints) = ledger.enter(answer) {
                        self.crew.has_succeeded();
                        self.murders = 0;
                        complaints.iter().for_each(|line| watch.line(line));
                    }
                }
                Err(GetError::Empty) => {}
                Err(error) => return Err(Failure::WorkerDied(error.to_string())),
            }
            self.crew.replace_the_dead()?;
            self.murder();
            watch.at(|| {
                let (files, words) = in_hand::sum(&self.in_hand);
                let Totals { words: counted, .. } = ledger.totals;
                (ledger.totals.looked_at() + files, counted + words)
            });
        }
        Ok(ledger)
    }

    /// Kills one of the workers, now and then. Often right after it has sent something, and
    /// before it could say that its batch is done.
    fn murder(&mut self) {
        let now = Instant::now();
        if self.next_murder.is_none_or(|when| now < when) {
            return;
        }
        let random = RandomState::new().hash_one(());
        self.crew.kill(random >> 32);
        let peace = PEACE.mul_f64(f64::from(random as u32) / 2f64.powi(32));
        self.next_murder = Some(now + peace * 2_u32.pow(self.murders.min(16)));
        self.murders += 1;
    }
}
