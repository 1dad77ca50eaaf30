//! The workers: hired, mourned, replaced.

use std::fmt;
use std::time::Duration;

use multiprocess::{Array, Context, JoinableQueue, Process, Queue};

use super::Failure;
use super::count::Totals;
use super::hash::Seeded;
use super::in_hand;
use super::message::{Answer, Batch};
use super::worker::{self, Desk, Share};

/// Deaths in a row, above the number of workers, at which it is no accident any more.
const TOO_MANY_DEATHS: usize = 2;

pub(crate) struct Crew {
    context: Context,
    batches: JoinableQueue<Batch>,
    answers: Queue<Answer>,
    in_hand: Array<u64>,
    seed: Seeded,
    batches_at_most: usize,
    workers: Vec<Worker>,
    hired: u64,
    deaths_in_a_row: usize,
    /// How workers died, but for those that we killed.
    pub obituaries: Vec<String>,
    /// Those that we killed.
    pub killed: u64,
}

struct Worker {
    number: u64,
    process: Process<Result<Share, String>>,
    killed: bool,
}

impl Crew {
    pub(crate) fn hire(
        context: Context,
        workers: usize,
        batches: JoinableQueue<Batch>,
        answers: Queue<Answer>,
        in_hand: Array<u64>,
        seed: Seeded,
        batches_at_most: usize,
    ) -> Result<Self, Failure> {
        let mut crew = Self {
            context: context.daemon(true),
            batches,
            answers,
            in_hand,
            seed,
            batches_at_most,
            workers: Vec::new(),
            hired: 0,
            deaths_in_a_row: 0,
            obituaries: Vec::new(),
            killed: 0,
        };
        for row in 0..workers {
            let worker = crew.start(row).map_err(Failure::cannot_start)?;
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    fn start(&mut self, row: usize) -> Result<Worker, multiprocess::SpawnError> {
        self.hired += 1;
        let number = self.hired;
        let desk = Desk {
            number,
            row,
            batches: self.batches.clone(),
            answers: self.answers.clone(),
            in_hand: self.in_hand.clone(),
            seed: self.seed,
            batches_at_most: self.batches_at_most,
        };
        let context = self.context.clone().named(format!("worker {number}"));
        Ok(Worker {
            number,
            process: context.spawn(worker::work, desk)?,
            killed: false,
        })
    }

    /// Something was counted: deaths before it are forgiven.
    pub(crate) fn has_succeeded(&mut self) {
        self.deaths_in_a_row = 0;
    }

    /// Starts a new worker for each that has died.
    pub(crate) fn replace_the_dead(&mut self) -> Result<(), Failure> {
        for row in 0..self.workers.len() {
            if self.workers[row].process.is_alive() {
                continue;
            }
            let killed = self.workers[row].killed;
            let obituary = self.workers[row].obituary();
            if killed {
                self.killed += 1;
            } else {
                self.deaths_in_a_row += 1;
                if self.deaths_in_a_row > self.workers.len() + TOO_MANY_DEATHS {
                    let deaths = self.deaths_in_a_row;
                    return Err(Failure::WorkerDied(format!(
                        "{obituary}; {deaths} in a row, and nothing was counted meanwhile"
                    )));
                }
                self.obituaries.push(obituary.clone());
            }
            // Its batch would be found to be free in any case; this way it is at once.
            let _ = (self.batches.recover(), self.answers.recover());
            in_hand::set(&self.in_hand, row, Totals::default());
            self.workers[row] = self
                .start(row)
                .map_err(|error| Failure::WorkerDied(format!("{obituary}; the next: {error}")))?;
        }
        Ok(())
    }

    /// Kills the `n`th worker, modulo their number, with SIGKILL.
    pub(crate) fn kill(&mut self, n: u64) {
        let row = (n % self.workers.len() as u64) as usize;
        let worker = &mut self.workers[row];
        if worker.process.is_alive() {
            worker.killed = worker.process.kill().is_ok();
        }
    }

    /// Ends all, without waiting for what they do.
    pub(crate) fn kill_all(&self) {
        for worker in &self.workers {
            let _ = worker.process.kill();
        }
    }

    /// Joins all: they find the queues closed. What each did, of those that live to tell.
    pub(crate) fn dismiss(&mut self) -> Vec<Share> {
        let mut shares = Vec::new();
        for mut worker in self.workers.drain(..) {
            match worker.process.join_timeout(None) {
                Some(Ok(Ok(share))) => shares.push(share),
                _ if worker.killed => self.killed += 1,
                Some(Ok(Err(why))) => self.obituaries.push(worker.named(&why)),
                Some(Err(error)) => self.obituaries.push(worker.named(&error)),
                None => {}
            }
        }
        shares
    }
}

impl Worker {
    fn named(&self, why: &dyn fmt::Display) -> String {
        let pid = self.process.pid();
        format!("worker {} (pid {pid}): {why}", self.number)
    }

    /// It has ended, and nobody has told it to.
    fn obituary(&mut self) -> String {
        match self.process.join_timeout(Duration::from_secs(10)) {
            Some(Err(error)) => self.named(&error),
            Some(Ok(Err(why))) => self.named(&why),
            Some(Ok(Ok(_))) | None => self.named(&"it ended too early"),
        }
    }
}
