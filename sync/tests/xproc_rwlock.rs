//! `RwLock` between processes, one of which is killed while others read, or wait to.
//!
//! Shown to fail (`.ci/mutants`): an heir that gives up and takes the repair with it, a reader at
//! the gate that does not ask the participants.
#![cfg(all(not(loom), target_os = "linux"))]

mod stage;

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_core::Timeout;
use multiprocess_core::thread::Caller;
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{LockError, OnceCell, RwLock};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use stage::{Stage, sleep_for_ever};

const LONG: Duration = Duration::from_secs(40);

#[test]
fn an_heir_that_meets_a_reader_leaves_the_repair_to_the_next() {
    let test = "an_heir_that_meets_a_reader_leaves_the_repair_to_the_next";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let _ = stage.table.write(); // the parent reads
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let reading = stage.table.read().unwrap();
    // A writer that dies while it waits for a reader is a writer that has died.
    let mut writer = Child::run(test, "writer", &[stage.as_fd()]);
    while !stage.table.is_locked_for_writing() {
        std::thread::yield_now();
    }
    writer.kill();
    // This one is told of the death, but not before the reader has gone: it runs out of time.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let heir = stage.table.write_timeout(Timeout::TRY);
            assert_eq!(heir.err(), Some(LockError::Timeout));
        });
    });
    // And the reader itself would wait for itself.
    assert_eq!(stage.table.write().err(), Some(LockError::Deadlock));
    drop(reading);
    assert_eq!(stage.table.read().err(), Some(LockError::WriterDied));
    let Err(LockError::OwnerDied(mut heir)) = stage.table.write() else {
        panic!("the death was told to one that could do nothing about it");
    };
    heir.mark_consistent();
    drop(heir);
    assert_eq!(stage.table.read().map(|data| *data), Ok(0));
    assert_eq!(stage.table.deaths(), 1);
}

/// A lock that nobody has placed: the kernel has it on no list, and does not tell.
type Unplaced = OnceCell<RwLock<u64, 4>>;

/// The child's part of the two tests below: holds the lock for writing until it is killed.
fn write_until_killed() -> ! {
    let fd = |index| child::fd(index).try_clone_to_owned().unwrap();
    let cell = Shared::<Unplaced>::attach(fd(0)).unwrap();
    let table = Participants::attach(fd(1)).unwrap();
    let me = table.join().unwrap();
    let lock = cell.get().unwrap();
    let _writing = lock.write_as(Caller::current().among(&me), Timeout::Never);
    sleep_for_ever()
}

/// The lock, the participants, and a child that writes.
fn written(test: &str) -> (Shared<Unplaced>, Participants, Child) {
    let cell = Shared::new(Unplaced::new()).unwrap();
    let lock = cell.get_or_init(|| RwLock::new(0)).unwrap();
    let table = Participants::new(4).unwrap();
    let writer = Child::run(test, "writer", &[cell.as_fd(), table.as_fd()]);
    while !lock.is_locked_for_writing() {
        std::thread::yield_now();
    }
    (cell, table, writer)
}

#[test]
fn a_reader_learns_from_the_participants_that_the_writer_is_dead() {
    if child::role().is_some() {
        write_until_killed();
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "a_reader_learns_from_the_participants_that_the_writer_is_dead";
    let (cell, table, mut writer) = written(test);
    let (lock, me) = (cell.get().unwrap(), table.join().unwrap());
    let read = |timeout| {
        let read = lock.read_as(Caller::current().among(&me), timeout);
        read.map(|data| *data)
    };
    writer.signal(libc::SIGSTOP);
    assert_eq!(
        read(Timeout::TRY),
        Err(LockError::Timeout),
        "stopped is not dead"
    );
    writer.kill();
    assert_eq!(read(Timeout::TRY), Err(LockError::WriterDied));
    // Without them nobody knows.
    assert_eq!(
        lock.read_timeout(Timeout::TRY).err(),
        Some(LockError::Timeout)
    );
}

#[test]
fn a_reader_asleep_at_the_gate_asks_the_participants_now_and_then() {
    if child::role().is_some() {
        write_until_killed();
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "a_reader_asleep_at_the_gate_asks_the_participants_now_and_then";
    let (cell, table, mut writer) = written(test);
    let (lock, me) = (cell.get().unwrap(), table.join().unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = lock.read_as(Caller::current().among(&me), LONG);
            read.map(|data| *data)
        });
        std::thread::sleep(Duration::from_millis(20)); // it sleeps, or soon will
        writer.kill();
        assert_eq!(reader.join().unwrap(), Err(LockError::WriterDied));
    });
}
