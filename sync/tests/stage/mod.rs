//! What the tests between processes share: one of each owned lock.
#![allow(dead_code)] // each test uses its part

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use multiprocess_core::ShmSafe;
use multiprocess_shm::Shared;
use multiprocess_sync::{Condition, Event, LockError, Mutex, OnceCell, RLock, RawMutex, RwLock};
use multiprocess_testkit::child;

#[derive(ShmSafe)]
#[repr(C)]
pub(crate) struct Stage {
    pub(crate) mutex: Mutex<[u64; 2]>,
    pub(crate) other: RawMutex,
    pub(crate) parents: RawMutex,
    pub(crate) recursive: RLock,
    pub(crate) table: RwLock<u64, 4>,
    pub(crate) condition: Condition,
    pub(crate) cell: OnceCell<u64>,
    pub(crate) ready: Event,
    pub(crate) go: Event,
    pub(crate) count: AtomicU64,
    pub(crate) tickets: AtomicU32,
}

impl Stage {
    pub(crate) fn new() -> Shared<Self> {
        Shared::new(Self {
            mutex: Mutex::new([0; 2]),
            other: RawMutex::new(),
            parents: RawMutex::new(),
            recursive: RLock::new(),
            table: RwLock::new(0),
            condition: Condition::new(),
            cell: OnceCell::new(),
            ready: Event::new(),
            go: Event::new(),
            count: AtomicU64::new(0),
            tickets: AtomicU32::new(0),
        })
        .unwrap()
    }

    pub(crate) fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }
}

pub(crate) fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// The lock from a dead owner, repaired.
pub(crate) fn inherit(mutex: &Mutex<[u64; 2]>) {
    match mutex.lock_timeout(Duration::from_secs(60)) {
        Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
        other => panic!("not an owner's death: {other:?}"),
    }
}
