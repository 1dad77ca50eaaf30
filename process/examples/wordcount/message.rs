//! What goes through the two queues.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::count::Totals;

/// To a worker: files that are counted, and answered for, together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub number: usize,
    pub files: Vec<OsString>,
}

/// From a worker: a part of the answer to one batch. The last part is [`Part::Done`], and what
/// came before it means nothing without it: a batch is counted by one message, or not at all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of workers, no two have the same number, also if one takes another's place.
    pub worker: u64,
    pub batch: usize,
    pub part: Part,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Of the different words, with a newline behind each. Cut anywhere.
    Words(String),
    /// How often each of them occurs, in the same order.
    Counts(Vec<u64>),
    Done {
        totals: Totals,
        /// Lines for the user.
        complaints: Vec<String>,
    },
}

/// Bytes of paths in a batch: it must fit into the queue's memory.
const PATHS_AT_MOST: usize = 1 << 20;
const FILES_AT_MOST: usize = 4096;
const FILES_AT_LEAST: usize = 8;
/// So small that a worker may live to finish one.
const FILES_IN_CHAOS: usize = 16;

/// Cuts `files` into batches. Large ones first, for a word in two batches is sent twice; smaller
/// ones towards the end, so that all workers end together.
pub(crate) fn cut(files: &[PathBuf], workers: usize, chaos: bool) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut rest = files;
    while !rest.is_empty() {
        let most = if chaos {
            FILES_IN_CHAOS
        } else {
            (rest.len() / (workers * 2)).clamp(FILES_AT_LEAST, FILES_AT_MOST)
        };
        let (mut files, mut bytes) = (Vec::new(), 0);
        while let [file, others @ ..] = rest
            && files.len() < most
            && bytes < PATHS_AT_MOST
        {
            bytes += file.as_os_str().len();
            files.push(file.as_os_str().to_owned());
            rest = others;
        }
        let number = batches.len();
        batches.push(Batch { number, files });
    }
    batches
}
