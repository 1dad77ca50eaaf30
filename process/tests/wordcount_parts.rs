//! Parts of the example program that a run shows by chance only: answers that come twice, or half.
#![expect(dead_code, reason = "these tests use a part of the example")]

#[path = "../examples/wordcount/count.rs"]
mod count;
#[path = "../examples/wordcount/hash.rs"]
mod hash;
#[path = "../examples/wordcount/ledger.rs"]
mod ledger;
#[path = "../examples/wordcount/message.rs"]
mod message;

use std::path::PathBuf;

use count::Totals;
use hash::Seeded;
use ledger::Ledger;
use message::{Answer, Part, cut};

fn parts(worker: u64, batch: usize, words: &str, counts: &[u64]) -> Vec<Answer> {
    let totals = Totals {
        files: 1,
        words: counts.iter().sum(),
        ..Totals::default()
    };
    let (head, tail) = words.split_at(words.len() / 2);
    let parts = [
        Part::Words(head.into()),
        Part::Words(tail.into()),
        Part::Counts(counts.into()),
        Part::Done {
            totals,
            complaints: Vec::new(),
        },
    ];
    let answer = |part| Answer {
        worker,
        batch,
        part,
    };
    parts.into_iter().map(answer).collect()
}

fn enter(ledger: &mut Ledger, answers: Vec<Answer>) -> bool {
    let mut entered = answers.into_iter().map(|answer| ledger.enter(answer));
    entered.any(|complaints| complaints.is_some())
}

#[test]
fn an_answer_that_comes_twice_is_counted_once() {
    let mut ledger = Ledger::new(2, Seeded::default());
    assert!(enter(&mut ledger, parts(1, 0, "one\ntwo\n", &[1, 2])));
    assert!(!enter(&mut ledger, parts(2, 0, "two\none\n", &[2, 1])));
    assert!(!ledger.is_complete());
    assert!(enter(&mut ledger, parts(2, 1, "two\n", &[40])));
    assert!(ledger.is_complete());
    assert_eq!((ledger.totals.files, ledger.totals.words), (2, 43));
    assert_eq!((ledger.table["one"], ledger.table["two"]), (1, 42));
    assert_eq!(ledger.repeated, 1);
}

#[test]
fn what_a_dead_worker_has_sent_of_an_answer_is_not_counted() {
    let mut ledger = Ledger::new(1, Seeded::default());
    let mut half = parts(1, 0, "one\ntwo\n", &[1, 2]);
    half.truncate(3);
    assert!(!enter(&mut ledger, half));
    assert!(!ledger.is_complete());
    assert!(ledger.table.is_empty());
    assert!(enter(&mut ledger, parts(2, 0, "one\ntwo\n", &[1, 2])));
    assert_eq!((ledger.table["one"], ledger.table["two"]), (1, 2));
}

#[test]
fn an_answer_for_a_batch_that_never_was_is_ignored() {
    let mut ledger = Ledger::new(1, Seeded::default());
    assert!(!enter(&mut ledger, parts(1, 7, "one\n", &[1])));
    assert!(ledger.table.is_empty() && !ledger.is_complete());
}

#[test]
fn batches_are_all_files_in_their_order() {
    for (files, workers) in [(0, 1), (1, 8), (9, 2), (100_000, 3)] {
        let files: Vec<PathBuf> = (0..files).map(|i| PathBuf::from(i.to_string())).collect();
        for chaos in [false, true] {
            let batches = cut(&files, workers, chaos);
            let again: Vec<PathBuf> = batches
                .iter()
                .flat_map(|batch| batch.files.iter().map(PathBuf::from))
                .collect();
            assert_eq!(again, files);
            assert!(batches.iter().all(|batch| !batch.files.is_empty()));
            assert!(batches.iter().enumerate().all(|(i, b)| b.number == i));
        }
    }
}
