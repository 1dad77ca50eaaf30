//! Ends of rings in messages that do not arrive: their peers are told, and do not wait for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiprocess::channel::RecvError;
use multiprocess::{Context, SpawnError, StartMethod, bytes, spsc};
use multiprocess_testkit::watchdog::Watchdog;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

const LIMIT: u64 = 60;

/// A child that another thread forks may keep a dropped `Process`'s socket open for a moment, in which a
/// result is sent that nobody will read: forks and that test take turns.
static FORKS: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}
const LONG: Duration = Duration::from_secs(600);

/// Cannot be serialised.
struct Unwilling;

impl Serialize for Unwilling {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("on purpose"))
    }
}

impl<'de> Deserialize<'de> for Unwilling {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("on purpose"))
    }
}

fn contexts() -> [Context; 3] {
    let fresh = |method| Context::new(method).unwrap();
    // SAFETY: the children of these tests need no lock but malloc's.
    let fork = unsafe { Context::fork() };
    [
        fresh(StartMethod::Forkserver),
        fresh(StartMethod::Spawn),
        fork,
    ]
}

#[test]
fn arguments_that_cannot_be_serialised_disconnect_the_peer() {
    let _watchdog = Watchdog::seconds(LIMIT);
    let _turn = turn();
    for context in contexts() {
        let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
        let spawned = context.spawn(
            |_: (spsc::Producer<u64>, Unwilling)| (),
            (producer, Unwilling),
        );
        assert!(matches!(spawned, Err(SpawnError::Arguments(_))));
        assert_eq!(consumer.pop_timeout(LONG), Err(RecvError::Disconnected));
    }
}

#[test]
fn a_result_that_cannot_be_serialised_disconnects_the_peer() {
    let _watchdog = Watchdog::seconds(LIMIT);
    let _turn = turn();
    for context in contexts() {
        let (producer, mut consumer) = bytes::channel(64).unwrap();
        let child = context.spawn(|producer: bytes::Producer| (producer, Unwilling), producer);
        assert!(child.unwrap().join().is_err());
        assert_eq!(
            consumer.peek_timeout(LONG).err(),
            Some(RecvError::Disconnected)
        );
    }
}

#[test]
fn a_result_that_its_parent_never_reads_disconnects_the_peer() {
    let _watchdog = Watchdog::seconds(LIMIT);
    let _turn = turn();
    let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    let (mut go, wait) = spsc::channel::<u64>(1).unwrap();
    let give_back = |(producer, mut wait): (spsc::Producer<u64>, spsc::Consumer<u64>)| {
        wait.pop().unwrap();
        producer
    };
    drop(
        Context::spawn_exec()
            .spawn(give_back, (producer, wait))
            .unwrap(),
    );
    go.push(1).unwrap();
    assert_eq!(consumer.pop_timeout(LONG), Err(RecvError::Disconnected));
}

#[test]
fn a_result_that_came_and_that_nobody_takes_disconnects_the_peer() {
    let _watchdog = Watchdog::seconds(LIMIT);
    let _turn = turn();
    let give_back = |producer: spsc::Producer<u64>| producer;
    for (context, reads_it) in contexts().into_iter().zip([true, false, true]) {
        let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
        let mut child = context.spawn(give_back, producer).unwrap();
        if reads_it {
            assert_eq!(child.wait_timeout(LONG).unwrap(), Some(0));
        }
        while child.is_alive() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(child);
        assert_eq!(consumer.pop_timeout(LONG), Err(RecvError::Disconnected));
    }
}

#[test]
fn a_spawn_without_descriptors_disconnects_the_peer() {
    let _watchdog = Watchdog::seconds(LIMIT);
    // In a process of its own, whose limit may be lowered.
    let failures = Context::spawn_exec()
        .spawn(spawn_at_every_limit, ())
        .unwrap();
    // Serialising fails at the lowest, starting at those above.
    assert!(failures.join().unwrap() > 2);
}

fn spawn_at_every_limit((): ()) -> u32 {
    let contexts = contexts();
    let mut failures = 0;
    for used in 3..20 {
        for context in &contexts {
            let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
            set_descriptor_limit(used);
            let spawned = context.spawn(|producer: spsc::Producer<u64>| drop(producer), producer);
            set_descriptor_limit(1024);
            failures += u32::from(spawned.is_err());
            assert_eq!(consumer.pop_timeout(LONG), Err(RecvError::Disconnected));
        }
    }
    failures
}

fn set_descriptor_limit(limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: 1024,
    };
    // SAFETY: a valid rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}
