//! What the parent does: hands out batches, enters answers, replaces the dead.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use multiprocess::channel::queue::{GetError, PutError, PutFailure, QueueConfig};
use multiprocess::{Array, Context, JoinableQueue, Queue, StartMethod};

use super::Failure;
use super::count::Totals;
use super::crew::Crew;
use super::hash::Seeded;
use super::in_hand;
use super::ledger::{Entered, Ledger};
use super::message::{Answer, Batch, cut};
use super::table::Table;
use super::worker::Share;

/// Memory for answers on their way; and for batches that wait or are in somebody's hands, at least and
/// at most.
const LARGE: u64 = 3 << 20;
const BATCHES_LARGE: u64 = 32 << 20;
/// Batches that one answer is for, at most; few in chaos, so that a worker may live to give one.
const BATCHES_AT_MOST: usize = 64;
const BATCHES_IN_CHAOS: usize = 4;
/// Of a queue.
const PLACES_AT_MOST: usize = 8192;
/// Batches that wait to be taken, at most.
const WAITING_AT_MOST: usize = 4096;
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
    let cut = cut(files, plan.workers, plan.chaos);
    let batches_at_most = batches_at_most(plan);
    let (batches, answers) = queues(files, cut.len(), plan)?;
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
            batches_at_most,
        )?,
        batches,
        answers,
        in_hand,
        next_murder: plan.chaos.then(Instant::now),
        murders: 0,
    };
    let counted = office.count(files, &cut, watch);
    // Whoever still counts, counts what has been counted, and ends; meanwhile the CPUs are free.
    office.batches.close();
    office.answers.close();
    if counted.is_err() {
        office.crew.kill_all();
    }
    let ledger = counted?;
    let table = Table::merged(seed, &ledger.pieces, plan.workers);
    Ok(Counted {
        shares: office.crew.dismiss(),
        elapsed: started.elapsed(),
        table,
        totals: ledger.totals,
        obituaries: office.crew.obituaries,
        killed: office.crew.killed,
        repeated: ledger.repeated,
    })
}

/// For how many batches an answer is.
fn batches_at_most(plan: &Plan) -> usize {
    let most = if plan.chaos {
        BATCHES_IN_CHAOS
    } else {
        BATCHES_AT_MOST
    };
    most.min(PLACES_AT_MOST / 2 / plan.workers - 2)
}

fn queues(
    files: &[PathBuf],
    batches: usize,
    plan: &Plan,
) -> Result<(JoinableQueue<Batch>, Queue<Answer>), Failure> {
    // As many places again for the dead, whose places nobody has cleared yet.
    let queue =
        |values: usize, places: usize| QueueConfig::new(values as u64).endpoints(2 * places as u32);
    // A place for each batch in somebody's hands, and one more for each worker.
    let places = plan.workers * (batches_at_most(plan) + 1) + 1;
    let paths: usize = files.iter().map(|file| file.as_os_str().len()).sum();
    let config = queue(batches.clamp(1, WAITING_AT_MOST), places)
        .large((2 * paths as u64).clamp(LARGE, BATCHES_LARGE));
    let batches = JoinableQueue::with(&config).map_err(Failure::cannot_start)?;
    let config = queue(4 * plan.workers, plan.workers + 1).large(LARGE);
    let answers = Queue::with(&config).map_err(Failure::cannot_start)?;
    Ok((batches, answers))
}

struct Office {
    crew: Crew,
    batches: JoinableQueue<Batch>,
    answers: Queue<Answer>,
    in_hand: Array<u64>,
    next_murder: Option<Instant>,
    /// Since something was counted.
    murders: u32,
}

impl Office {
    fn count(
        &mut self,
        files: &[PathBuf],
        batches: &[Range<usize>],
        watch: &impl Watch,
    ) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(batches.len());
        // To be put, the first one last.
        let mut waiting: Vec<usize> = (0..batches.len()).rev().collect();
        while !ledger.is_complete() {
            while let Some(number) = waiting.last() {
                let batch = Batch::of(&files[batches[*number].clone()], *number);
                match self.batches.try_put(batch) {
                    Ok(()) => _ = waiting.pop(),
                    Err(PutError {
                        reason: PutFailure::Full,
                        ..
                    }) => break,
                    Err(error) => return Err(Failure::WorkerDied(error.to_string())),
                }
            }
            match self.answers.get_timeout(NAP) {
                Ok(answer) => match ledger.enter(answer) {
                    Entered::Counted(complaints) => {
                        self.crew.has_succeeded();
                        self.murders = 0;
                        complaints.iter().for_each(|line| watch.line(line));
                    }
                    Entered::Refused(again) => waiting.extend(again),
                    Entered::Nothing => {}
                },
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
