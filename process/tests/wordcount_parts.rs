//! Parts of the example program that a run shows by chance only: answers that come twice, or half, or
//! for batches of which some were counted before.
#![expect(dead_code, reason = "these tests use a part of the example")]

#[path = "../examples/wordcount/count.rs"]
mod count;
#[path = "../examples/wordcount/hash.rs"]
mod hash;
#[path = "../examples/wordcount/ledger.rs"]
mod ledger;
#[path = "../examples/wordcount/message.rs"]
mod message;
#[path = "../examples/wordcount/table.rs"]
mod table;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use count::{Outcome, Totals, count_file};
use hash::Seeded;
use ledger::{Entered, Ledger};
use message::{Answer, Batch, Part, cut};
use table::Table;

/// A worker's answer, in pieces of a word or two.
fn parts(worker: u64, seed: Seeded, batches: &[usize], words: &[&str]) -> Vec<Answer> {
    let mut table = Table::new(seed);
    words.iter().for_each(|word| table.add(word));
    let totals = Totals {
        files: batches.len() as u64,
        words: words.len() as u64,
        ..Totals::default()
    };
    let done = Part::Done {
        batches: batches.to_vec(),
        totals,
        complaints: Vec::new(),
    };
    let pieces = table.pieces(4).map(Part::Piece);
    let parts = pieces.chain([done]);
    parts.map(|part| Answer { worker, part }).collect()
}

/// Enters them; what the last one changed. The others change nothing.
fn enter(ledger: &mut Ledger, answers: Vec<Answer>) -> Entered {
    let mut last = Entered::Nothing;
    for answer in answers {
        assert_eq!(last, Entered::Nothing);
        last = ledger.enter(answer);
    }
    last
}

const COUNTED: Entered = Entered::Counted(Vec::new());

#[test]
fn an_answer_that_comes_twice_is_counted_once() {
    let seed = Seeded::default();
    let mut ledger = Ledger::new(2);
    let first = parts(1, seed, &[0], &["one", "two", "two"]);
    let again = parts(2, seed, &[0], &["two", "two", "one"]);
    assert_eq!(enter(&mut ledger, first), COUNTED);
    assert_eq!(enter(&mut ledger, again), Entered::Nothing);
    assert!(!ledger.is_complete());
    let other = parts(2, seed, &[1], &["two"; 40]);
    assert_eq!(enter(&mut ledger, other), COUNTED);
    assert!(ledger.is_complete());
    assert_eq!((ledger.totals.files, ledger.totals.words), (2, 43));
    let table = Table::merged(seed, &ledger.pieces, 2);
    assert_eq!((table.get("one"), table.get("two")), (1, 42));
    assert_eq!((table.len(), ledger.repeated), (2, 1));
}

#[test]
fn an_answer_of_which_a_part_was_counted_before_is_refused_and_the_rest_counted_again() {
    let seed = Seeded::default();
    let mut ledger = Ledger::new(3);
    let first = parts(1, seed, &[1], &["one"]);
    assert_eq!(enter(&mut ledger, first), COUNTED);
    let mixed = parts(2, seed, &[2, 1, 0], &["zero", "one", "two"]);
    assert_eq!(enter(&mut ledger, mixed), Entered::Refused(vec![0, 2]));
    assert_eq!(ledger.totals.words, 1);
    let rest = parts(2, seed, &[0, 2], &["zero", "two"]);
    assert_eq!(enter(&mut ledger, rest), COUNTED);
    assert!(ledger.is_complete());
    let table = Table::merged(seed, &ledger.pieces, 3);
    let counts = ["zero", "one", "two"].map(|word| table.get(word));
    assert_eq!((counts, ledger.totals.words), ([1, 1, 1], 3));
}

#[test]
fn a_batch_that_one_worker_has_counted_twice_is_counted_again() {
    let seed = Seeded::default();
    let mut ledger = Ledger::new(2);
    let twice = parts(1, seed, &[1, 0, 1], &["one", "zero", "one"]);
    assert_eq!(enter(&mut ledger, twice), Entered::Refused(vec![0, 1]));
    assert!(ledger.pieces.is_empty() && !ledger.is_complete());
}

#[test]
fn what_a_dead_worker_has_sent_of_an_answer_is_not_counted() {
    let seed = Seeded::default();
    let mut ledger = Ledger::new(1);
    let mut half = parts(1, seed, &[0], &["one", "two", "two"]);
    half.pop();
    assert_eq!(enter(&mut ledger, half), Entered::Nothing);
    assert!(!ledger.is_complete());
    assert!(ledger.pieces.is_empty());
    let whole = parts(2, seed, &[0], &["one", "two", "two"]);
    assert_eq!(enter(&mut ledger, whole), COUNTED);
    let table = Table::merged(seed, &ledger.pieces, 1);
    assert_eq!((table.get("one"), table.get("two")), (1, 2));
}

#[test]
fn an_answer_for_a_batch_that_never_was_is_ignored() {
    let seed = Seeded::default();
    let mut ledger = Ledger::new(1);
    let stray = parts(1, seed, &[7], &["one"]);
    assert_eq!(enter(&mut ledger, stray), Entered::Nothing);
    assert!(ledger.pieces.is_empty() && !ledger.is_complete());
}

#[test]
fn batches_are_all_files_in_their_order() {
    for (files, workers) in [(0, 1), (1, 8), (9, 2), (100_000, 3)] {
        let files: Vec<PathBuf> = (0..files).map(|i| PathBuf::from(i.to_string())).collect();
        for chaos in [false, true] {
            let mut again = Vec::new();
            for (number, batch) in cut(&files, workers, chaos).into_iter().enumerate() {
                let batch = Batch::of(&files[batch], number);
                assert!(!batch.files.is_empty());
                again.extend(batch.files.iter().map(PathBuf::from));
            }
            assert_eq!(again, files);
        }
    }
}

/// The table must agree with the one of the standard library, through growing, merging, clearing.
#[test]
fn tables_count_as_maps_do_and_merging_adds_them_up() {
    let seed = Seeded::default();
    let mut expected = HashMap::<String, u64>::new();
    let (mut one, mut pieces) = (Table::new(seed), Vec::new());
    let mut all = Table::new(Seeded::default());
    for i in 0..60_000_u64 {
        // Of every length up to 40 bytes, some of them often.
        let word = format!("w{}_{}", i * i % 20_011, "ä".repeat((i % 17) as usize));
        one.add(&word);
        all.add(&word);
        *expected.entry(word).or_default() += 1;
        if i % 25_000 == 24_999 {
            pieces.extend(one.pieces(1000));
            one.clear();
            assert_eq!(one.len(), 0);
        }
    }
    pieces.extend(one.pieces(1000));
    for threads in [1, 3, 64] {
        let merged = Table::merged(seed, &pieces, threads);
        assert_eq!(merged.len(), expected.len());
        assert!(merged.iter().all(|(word, count)| expected[word] == count));
        assert!(merged == all && merged.get("another") == 0);
    }
    all.add("another");
    assert!(Table::merged(seed, &pieces, 2) != all);
}

#[test]
fn words_are_the_longest_runs_of_letters_digits_and_underscores() {
    let directory = tempfile::tempdir().unwrap();
    let mut buffer = Vec::new();
    for text in [
        "",
        " ",
        "word",
        "one two_2, ünï-cödé!\n x",
        "«guillemets»日本語。終わり_",
        "\u{a0}no\u{300}combining ٣٤ a",
    ] {
        let file = directory.path().join("file");
        fs::write(&file, text).unwrap();
        let mut table = Table::new(Seeded::default());
        let outcome = count_file(&file, &mut table, &mut buffer);
        let is_between = |c: char| !(c.is_alphanumeric() || c == '_');
        let expected: Vec<&str> = text.split(is_between).filter(|w| !w.is_empty()).collect();
        let Outcome::Counted { bytes, words } = outcome else {
            panic!("a text is counted");
        };
        assert_eq!((bytes, words), (text.len() as u64, expected.len() as u64));
        for word in &expected {
            let count = expected.iter().filter(|other| *other == word).count();
            assert_eq!(table.get(word), count as u64, "{word}");
        }
    }
}
