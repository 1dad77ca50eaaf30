//! What has been counted: each batch once, however often it was answered for.

use std::collections::HashMap;

use super::count::{Table, Totals, add};
use super::hash::Seeded;
use super::message::{Answer, Part};

/// Counts of all batches that were answered for.
pub(crate) struct Ledger {
    pub table: Table,
    pub totals: Totals,
    /// Answers to batches that were counted already.
    pub repeated: u64,
    is_counted: Vec<bool>,
    left: usize,
    /// Answers of which the last part has not come, by worker.
    drafts: HashMap<u64, Draft>,
}

#[derive(Default)]
struct Draft {
    words: String,
    counts: Vec<u64>,
}

impl Ledger {
    pub(crate) fn new(batches: usize, seed: Seeded) -> Self {
        Self {
            table: Table::with_hasher(seed),
            totals: Totals::default(),
            repeated: 0,
            is_counted: vec![false; batches],
            left: batches,
            drafts: HashMap::new(),
        }
    }

    /// Whether all batches have been counted.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Enters a part of an answer. If a batch is counted by it, lines for the user.
    pub(crate) fn enter(&mut self, answer: Answer) -> Option<Vec<String>> {
        // A worker's messages come in order, and all before its last one: if that comes, this
        // worker's draft is whole.
        let draft = self.drafts.entry(answer.worker).or_default();
        let (totals, complaints) = match answer.part {
            Part::Words(piece) => {
                draft.words.push_str(&piece);
                return None;
            }
            Part::Counts(piece) => {
                draft.counts.extend(piece);
                return None;
            }
            Part::Done { totals, complaints } => (totals, complaints),
        };
        let draft = self.drafts.remove(&answer.worker)?;
        let is_counted = self.is_counted.get_mut(answer.batch)?;
        if std::mem::replace(is_counted, true) {
            self.repeated += 1;
            return None;
        }
        self.left -= 1;
        self.totals += totals;
        // If all were new; else the table is moved more often.
        self.table.reserve(draft.counts.len());
        for (word, count) in draft.words.lines().zip(draft.counts) {
            add(&mut self.table, word, count);
        }
        Some(complaints)
    }
}
