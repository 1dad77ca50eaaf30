//! `lock/uncontended`: our `Lock` in shared memory against `std::sync::Mutex` in this process.
//!
//! Both are one compare-exchange to lock and one swap to unlock on a hot line; std's also
//! looks whether the thread panics. Ours returns errors that the caller must look at.

use std::hint::black_box;
use std::sync::Mutex;

use multiprocess_shm::Shared;
use multiprocess_sync::Lock;

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Measured, Unit};
use crate::cpu::Cpus;

pub(crate) const UNCONTENDED: Comparison = Comparison {
    name: "lock/uncontended",
    unit: Unit::Nanoseconds,
    bar: 0.97,
    ours: Contender::Alone(ours),
    peer: Contender::Alone(std_mutex),
};

const PAIRS: usize = 1000;

pub(super) fn ours(_: Cpus) -> Measured {
    let lock = Shared::new(Lock::new())?;
    let lock: &Lock = black_box(&lock);
    Ok(nanos_per_operation(SPAN, PAIRS, || {
        for _ in 0..PAIRS {
            drop(lock.lock().expect("nobody else has the lock"));
        }
    }))
}

fn std_mutex(_: Cpus) -> Measured {
    let mutex = Mutex::new(());
    let mutex = black_box(&mutex);
    Ok(nanos_per_operation(SPAN, PAIRS, || {
        for _ in 0..PAIRS {
            drop(mutex.lock().expect("nobody panicked"));
        }
    }))
}
