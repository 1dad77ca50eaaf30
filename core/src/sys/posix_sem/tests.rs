//! What only this backend has: its table. What it shares with the others: `tests/park.rs`.
extern crate std;

use std::ffi::{CStr, CString};
use std::format;
use std::process::Command;
use std::sync::atomic::{AtomicU32 as Counter, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

use super::node::{Phase, Sleeper};
use super::table::{self, NODES_PER_BUCKET, Table};
use super::{Deadline, Parked, WaitEntry, wait, wake};
use crate::atomic::AtomicU32;

/// A table of this test alone, unlinked when the test is done.
struct Fresh(CString);

impl Fresh {
    fn new() -> Self {
        static NEXT: Counter = Counter::new(0);
        let number = NEXT.fetch_add(1, SeqCst);
        let name = format!("/multiprocess-park-test-{}-{number}", std::process::id());
        Self(CString::new(name).unwrap())
    }

    fn name(&self) -> &CStr {
        &self.0
    }

    fn open(&self) -> &'static Table {
        // SAFETY: ready, and never unmapped.
        unsafe { &*table::open(self.name()).unwrap() }
    }

    /// The file behind it.
    fn path(&self) -> std::path::PathBuf {
        format!("/dev/shm{}", self.0.to_str().unwrap()).into()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

/// The number of a process that is no more.
fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}

fn state(table: &Table) -> &AtomicU64 {
    // SAFETY: the state is the first word of the table.
    unsafe { &*core::ptr::from_ref(table).cast() }
}

fn sleepers(table: &Table, key: u16) -> usize {
    let queued = |number: &u16| table.node(*number).sleeper().phase() == Phase::Queued;
    table.occupied(key).filter(queued).count()
}

#[test]
fn those_who_open_it_at_once_get_one_table() {
    let fresh = Fresh::new();
    let key = 77;
    thread::scope(|scope| {
        let tables: Vec<_> = (0..8).map(|_| scope.spawn(|| fresh.open())).collect();
        let tables: Vec<_> = tables.into_iter().map(|t| t.join().unwrap()).collect();
        tables[0].set_occupied(table::number(key, 5), true);
        for table in tables {
            assert_eq!(table.occupied(key).count(), 1);
        }
    });
}

#[test]
fn a_creator_that_died_half_way_is_succeeded_in_place() {
    let fresh = Fresh::new();
    let table = fresh.open();
    table.set_occupied(table::number(3, 0), true); // half-way: anything may be there
    state(table).store(1 << 32 | u64::from(dead_pid()), SeqCst);
    let start = Instant::now();
    let again = fresh.open();
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(state(again).load(SeqCst), 2 << 32);
    assert_eq!(table.occupied(3).count(), 0, "the same object, made anew");
}

#[test]
fn a_creator_that_is_slow_is_not_pushed_aside() {
    let fresh = Fresh::new();
    let table = fresh.open();
    let slow = 1 << 32 | u64::from(std::process::id());
    state(table).store(slow, SeqCst);
    assert!(table::open(fresh.name()).is_none(), "not now");
    assert_eq!(state(table).load(SeqCst), slow);
    state(table).store(2 << 32, SeqCst);
    fresh.open();
}

#[test]
fn what_is_not_ours_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let fresh = Fresh::new();
    std::fs::write(fresh.path(), "another version").unwrap();
    std::fs::set_permissions(fresh.path(), PermissionsExt::from_mode(0o600)).unwrap();
    assert!(table::open(fresh.name()).is_none(), "size");
    std::fs::remove_file(fresh.path()).unwrap();
    let table = fresh.open();
    std::fs::set_permissions(fresh.path(), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(table::open(fresh.name()).is_none(), "others may write");
    std::fs::set_permissions(fresh.path(), PermissionsExt::from_mode(0o600)).unwrap();
    state(table).store(9 << 32, SeqCst);
    assert!(table::open(fresh.name()).is_none(), "state");
}

#[test]
fn without_a_table_a_wait_polls() {
    let word = AtomicU32::new(0);
    let entries = [WaitEntry::new(&word, 0)];
    let start = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(30));
    let mut polls = 0;
    while wait(None, &entries, deadline) == Ok(Parked::Woken) {
        polls += 1;
    }
    assert_eq!(wait(None, &entries, deadline), Ok(Parked::TimedOut));
    assert!(polls <= 31, "{polls}: it naps in between");
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(wake(None, 0), 0);
    thread::scope(|scope| {
        scope.spawn(|| word.store(1, SeqCst));
        while wait(None, &entries, Deadline::NEVER) != Ok(Parked::Changed) {}
    });
}

#[test]
fn sleepers_beyond_the_bucket_poll_and_a_wake_reaches_all() {
    let fresh = Fresh::new();
    let table = fresh.open();
    let word = AtomicU32::new(0);
    let key = super::key(&word);
    thread::scope(|scope| {
        let count = NODES_PER_BUCKET + 30;
        let sleepers_of =
            |_| scope.spawn(|| wait(Some(table), &[WaitEntry::new(&word, 0)], Deadline::NEVER));
        let threads: Vec<_> = (0..count).map(sleepers_of).collect();
        while sleepers(table, key) < NODES_PER_BUCKET {
            thread::sleep(Duration::from_millis(1));
        }
        word.store(1, SeqCst);
        let woken = wake(Some(table), key) as usize;
        assert!((1..=count).contains(&woken), "{woken}");
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
    assert_eq!(table.occupied(key).count(), 0);
    assert_eq!(wake(Some(table), key), 0);
}

#[test]
fn nodes_of_the_dead_are_taken_when_no_other_is_free() {
    let fresh = Fresh::new();
    let table = fresh.open();
    let (key, dead) = (9, dead_pid());
    for index in 0..NODES_PER_BUCKET {
        let number = table::number(key, index);
        let sleeper = Sleeper::claimed(dead, key, number).in_phase(Phase::Queued);
        table.node(number).change(Sleeper::NOBODY, sleeper).unwrap();
        table.set_occupied(number, true);
    }
    let (number, mine) = super::claim(table, key, None).unwrap();
    assert_eq!(table.node(number).sleeper(), mine);
    assert_eq!(
        wake(Some(table), key) as usize,
        NODES_PER_BUCKET - 1,
        "once"
    );
    assert_eq!(wake(Some(table), key), 0, "and not again");
    table.node(number).change(mine, Sleeper::NOBODY).unwrap();
}
