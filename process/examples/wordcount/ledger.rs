//! What has been counted: each batch once, however often it was answered for.

use std::collections::HashMap;

use super::count::Totals;
use super::message::{Answer, Part};
use super::table::Piece;

/// Counts of all batches that were answered for.
pub(crate) struct Ledger {
    /// Words of the batches that were counted; to be merged.
    pub pieces: Vec<Piece>,
    pub totals: Totals,
    /// Batches that were answered for when they were counted already.
    pub repeated: u64,
    is_counted: Vec<bool>,
    left: usize,
    /// Answers of which the last part has not come, by worker.
    drafts: HashMap<u64, Vec<Piece>>,
}

/// What a part of an answer changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// Nothing yet, or nothing at all.
    Nothing,
    /// Its batches are counted; lines for the user.
    Counted(Vec<String>),
    /// Some of its batches were counted before, or twice, and its words can't be told apart: it was
    /// dropped. These are still to be counted by somebody.
    Refused(Vec<usize>),
}

impl Ledger {
    pub(crate) fn new(batches: usize) -> Self {
        Self {
            pieces: Vec::new(),
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

    /// Enters a part of an answer.
    pub(crate) fn enter(&mut self, answer: Answer) -> Entered {
        // A worker's messages come in order, and all before its last one: if that comes, this
        // worker's draft is whole.
        let (batches, totals, complaints) = match answer.part {
            Part::Piece(piece) => {
                self.drafts.entry(answer.worker).or_default().push(piece);
                return Entered::Nothing;
            }
            Part::Done {
                batches,
                totals,
                complaints,
            } => (batches, totals, complaints),
        };
        let draft = self.drafts.remove(&answer.worker).unwrap_or_default();
        let all = batches.len();
        let mut new = batches;
        // One that was put again, and given back as well, may be here twice.
        new.sort_unstable();
        new.dedup();
        new.retain(|batch| self.is_counted.get(*batch) == Some(&false));
        if new.len() < all {
            self.repeated += (all - new.len()) as u64;
            return if new.is_empty() {
                Entered::Nothing
            } else {
                Entered::Refused(new)
            };
        }
        for batch in &new {
            self.is_counted[*batch] = true;
        }
        self.left -= all;
        self.totals += totals;
        self.pieces.extend(draft);
        Entered::Counted(complaints)
    }
}
