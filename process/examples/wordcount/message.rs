//! What goes through the two queues.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::count::Totals;
use super::table::Piece;

/// To a worker: files that are counted, and answered for, together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub number: usize,
    pub files: Vec<OsString>,
}

impl Batch {
    pub(crate) fn of(files: &[PathBuf], number: usize) -> Self {
        let files = files.iter().map(|file| file.as_os_str().to_owned());
        Self {
            number,
            files: files.collect(),
        }
    }
}

/// From a worker: a part of the answer to some batches. The last part is [`Part::Done`], and what
/// came before it means nothing without it: batches are counted by one message, or not at all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of workers, no two have the same number, also if one takes another's place.
    pub worker: u64,
    pub part: Part,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Words of all the batches, each word once.
    Piece(Piece),
    Done {
        batches: Vec<usize>,
        totals: Totals,
        /// Lines for the user.
        complaints: Vec<String>,
    },
}

/// Bytes of paths in a batch: it must fit into the queue's memory.
const PATHS_AT_MOST: usize = 1 << 20;
const FILES_AT_MOST: usize = 4096;
/// So small that a worker may live to finish one.
const FILES_IN_CHAOS: usize = 16;

/// Cuts `files` into batches. Large ones first, since each is a message; smaller ones towards the
/// end, so that all workers end together.
pub(crate) fn cut(files: &[PathBuf], workers: usize, chaos: bool) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut start = 0;
    while start < files.len() {
        let rest = &files[start..];
        let most = if chaos {
            FILES_IN_CHAOS
        } else {
            (rest.len() / (workers * 2)).clamp(1, FILES_AT_MOST)
        };
        let mut bytes = 0;
        let fit = rest.iter().take(most).take_while(|file| {
            let fits = bytes < PATHS_AT_MOST;
            bytes += file.as_os_str().len();
            fits
        });
        let end = start + fit.count();
        batches.push(start..end);
        start = end;
    }
    batches
}
