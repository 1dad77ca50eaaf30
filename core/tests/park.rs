//! What every park backend does. The same suite for futexes and for POSIX semaphores
//! (`.ci/posix_sem`).
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use multiprocess_core::park::{self, MAX_WAIT_ANY, ParkWord, Parked, Patience, WaitEntry};
use multiprocess_core::{Deadline, Errno};

const LONG: Duration = Duration::from_secs(60);

fn later(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// A backend may count sleepers of other words; once those are gone, nobody is counted.
fn nobody_sleeps(word: &impl ParkWord) -> bool {
    (0..10_000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        park::wake(word, 1) == 0
    })
}

/// Until it ends otherwise: any wait may be woken for nothing.
fn wait_any(entries: &[WaitEntry<'_>], deadline: Deadline) -> Result<Parked, Errno> {
    loop {
        match park::wait_any(entries, deadline) {
            Ok(Parked::Woken) => {}
            other => return other,
        }
    }
}

fn has_ended_well(parked: Result<Parked, Errno>) -> bool {
    matches!(parked, Ok(Parked::Woken | Parked::Changed))
}

#[test]
fn a_word_that_has_changed_is_not_slept_on() {
    let (a, b) = (AtomicU32::new(1), AtomicU64::new(1 << 32 | 7));
    assert_eq!(park::wait(&a, 0, Deadline::NEVER), Ok(Parked::Changed));
    assert_eq!(park::wait(&b, 8, Deadline::NEVER), Ok(Parked::Changed));
    let entries = [WaitEntry::new(&a, 1), WaitEntry::new(&b, 8)];
    let parked = park::wait_any(&entries, Deadline::NEVER);
    assert_eq!(parked, Ok(Parked::Changed));
    // The high half does not count.
    let entries = [WaitEntry::new(&b, 7)];
    assert_eq!(wait_any(&entries, later(1)), Ok(Parked::TimedOut));
}

#[test]
fn a_timeout_is_not_early() {
    let (a, b) = (AtomicU32::new(0), AtomicU64::new(0));
    let entries = [WaitEntry::new(&a, 0), WaitEntry::new(&b, 0)];
    for entries in [&entries[..1], &entries[1..], &entries] {
        let start = Instant::now();
        assert_eq!(wait_any(entries, later(40)), Ok(Parked::TimedOut));
        assert!(start.elapsed() >= Duration::from_millis(40));
        let past = Deadline::after(Duration::ZERO);
        assert_eq!(wait_any(entries, past), Ok(Parked::TimedOut));
    }
}

#[test]
fn the_inner_bound_is_told_from_the_deadline() {
    let word = AtomicU32::new(0);
    let mut patience = Patience::new();
    let mut park = |deadline| loop {
        match patience.park(&word, 0, deadline) {
            Ok(Parked::Woken) => {} // for nothing
            other => return other,
        }
    };
    assert_eq!(park(Deadline::NEVER), Ok(Parked::Recheck));
    assert_eq!(park(later(1)), Ok(Parked::TimedOut));
}

/// A peer that wakes and wakes, or traffic on another word of the same key, must not keep a waiter
/// from looking after the owner of its lock.
#[test]
fn wakes_do_not_put_off_the_inner_bound() {
    let (word, done) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                park::wake(&word, u32::MAX);
                thread::sleep(Duration::from_micros(100));
            }
        });
        let mut patience = Patience::new();
        let start = Instant::now();
        while patience.park(&word, 0, Deadline::NEVER) != Ok(Parked::Recheck) {
            assert!(start.elapsed() < LONG);
        }
        assert!(start.elapsed() >= Patience::FIRST);
        done.store(true, Relaxed);
    });
}

#[test]
fn a_wake_without_sleepers_says_so() {
    let (a, b) = (AtomicU32::new(0), AtomicU64::new(0));
    assert!(nobody_sleeps(&a) && nobody_sleeps(&b));
    let entries = [WaitEntry::new(&a, 0)];
    assert_eq!(wait_any(&entries, later(1)), Ok(Parked::TimedOut));
    assert!(nobody_sleeps(&a), "who timed out is gone");
}

#[test]
fn a_wake_of_all_reaches_all() {
    let word = AtomicU64::new(3);
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| park::wait(&word, 3, Deadline::after(LONG))))
            .collect();
        thread::sleep(Duration::from_millis(20));
        word.store(4, SeqCst);
        park::wake(&word, u32::MAX);
        for sleeper in sleepers {
            assert!(has_ended_well(sleeper.join().unwrap()));
        }
    });
    assert!(nobody_sleeps(&word));
}

#[test]
fn an_entry_too_many_is_an_error() {
    let word = AtomicU32::new(0);
    assert_eq!(park::wait_any(&[], Deadline::NEVER), Err(Errno::INVAL));
    let entries = [WaitEntry::new(&word, 0); MAX_WAIT_ANY + 1];
    let parked = park::wait_any(&entries, Deadline::NEVER);
    assert_eq!(parked, Err(Errno::INVAL));
    let most = &entries[..MAX_WAIT_ANY];
    assert_eq!(wait_any(most, later(1)), Ok(Parked::TimedOut));
}

#[test]
fn any_of_many_words_wakes() {
    let words: Vec<AtomicU32> = (0..MAX_WAIT_ANY).map(|_| AtomicU32::new(0)).collect();
    let entries: Vec<_> = words.iter().map(|word| WaitEntry::new(word, 0)).collect();
    for count in [2, 3, 64, MAX_WAIT_ANY] {
        for index in [0, count / 2, count - 1] {
            thread::scope(|scope| {
                let sleeper =
                    scope.spawn(|| park::wait_any(&entries[..count], Deadline::after(LONG)));
                thread::sleep(Duration::from_millis(5));
                words[index].store(1, SeqCst);
                park::wake(&words[index], 1);
                assert!(has_ended_well(sleeper.join().unwrap()));
            });
            words[index].store(0, SeqCst);
        }
    }
}

/// Ping-pong, without an inner bound: a lost wake is a time-out, and that fails.
#[test]
fn no_wake_is_lost() {
    const ROUNDS: u32 = 20_000;
    let words: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
    let await_turn = |mine: &AtomicU32, round: u32, any: bool| loop {
        let seen = mine.load(SeqCst);
        if seen >= round {
            break;
        }
        let entries = [WaitEntry::new(mine, seen), WaitEntry::new(&words[2], 0)];
        let entries = &entries[..1 + usize::from(any)];
        let parked = park::wait_any(entries, Deadline::after(LONG));
        assert_ne!(parked, Ok(Parked::TimedOut), "round {round}");
    };
    let pass = |to: &AtomicU32, round: u32| {
        to.store(round, SeqCst);
        park::wake(to, 1);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                await_turn(&words[0], round, false);
                pass(&words[1], round);
            }
        });
        for round in 1..=ROUNDS {
            pass(&words[0], round);
            await_turn(&words[1], round, true);
        }
    });
}

/// A waker that is told "nobody" stops; then nobody may be asleep on the old value.
#[test]
fn a_storm_of_wakes_leaves_nobody_asleep() {
    let (word, done) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        let seen = word.load(SeqCst);
                        if done.load(Relaxed) {
                            break;
                        }
                        let parked = park::wait(&word, seen, Deadline::after(LONG));
                        assert_ne!(parked, Ok(Parked::TimedOut));
                    }
                })
            })
            .collect();
        for _ in 0..20_000 {
            word.fetch_add(1, SeqCst);
            park::wake(&word, u32::MAX);
        }
        done.store(true, SeqCst);
        word.fetch_add(1, SeqCst);
        park::wake(&word, u32::MAX);
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
    assert!(nobody_sleeps(&word));
}
