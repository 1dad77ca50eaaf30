//! A model of `Lock::release_dead`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p
//! multiprocess-sync`.
//!
//! Time stands still in a model, so no inner bound hides a missing wake: it is a deadlock. Shown
//! to fail (`.ci/mutants`): no wake after the lock of the dead was released.
#![cfg(loom)]

use core::mem::forget;

use loom::sync::Arc;
use loom::thread;
use multiprocess_core::{ParticipantId, Timeout};
use multiprocess_sync::Lock;

#[test]
fn a_sleeper_gets_the_lock_of_the_dead() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(|| {
        let dead = ParticipantId::new(1, 1);
        let lock = Arc::new(Lock::new());
        forget(lock.lock_as(dead, Timeout::Never).unwrap());
        let other = Arc::clone(&lock);
        let sleeper = thread::spawn(move || drop(other.lock().unwrap()));
        assert!(lock.release_dead(dead));
        sleeper.join().unwrap();
        assert!(!lock.is_locked() && !lock.release_dead(dead));
    });
}
