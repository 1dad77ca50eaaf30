//! Models of `Snapshot`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-shm
//! --no-default-features --test loom_snapshot`.
//!
//! Shown to fail (`.ci/mutants`): the sequence stored Relaxed, either fence left out, the sequence
//! not looked at again, the turn taken Relaxed.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use multiprocess_core::{ParticipantId, Peers};
use multiprocess_shm::Snapshot;

/// A process that does not die.
struct Process(u16);

// SAFETY: nobody dies, and the ids are the model's own.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }

    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }

    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(f);
}

/// Value number n is [n, n].
fn look(snapshot: &Snapshot<[u64; 2]>, last: &mut u64) {
    let (number, value) = snapshot.reader().read_numbered().unwrap();
    assert_eq!(value, [number; 2], "not whole");
    assert!(number >= *last, "back in time");
    *last = number;
}

/// The writer is the main thread: loom takes two loads for ordered, and would not run a reader
/// between them and a writer's store otherwise.
#[test]
fn a_reader_sees_whole_values_in_their_order() {
    model(Some(3), || {
        let snapshot = Arc::new(Snapshot::new([0u64, 0]));
        let seen = Arc::clone(&snapshot);
        let reader = thread::spawn(move || {
            let mut last = 0;
            look(&seen, &mut last);
            look(&seen, &mut last);
        });
        for value in 1..=3 {
            snapshot.write(&Process(1), [value, value], None).unwrap();
        }
        reader.join().unwrap();
        assert_eq!(snapshot.read(), Ok([3, 3]));
    });
}

#[test]
fn of_two_writers_no_update_is_lost() {
    model(Some(3), || {
        let snapshot = Arc::new(Snapshot::new([0u64, 0]));
        let other = Arc::clone(&snapshot);
        let add = |[a, b]: [u64; 2]| [a + 1, b + 1];
        let writer = thread::spawn(move || {
            other.update(&Process(1), add, None).unwrap();
        });
        snapshot.update(&Process(2), add, None).unwrap();
        writer.join().unwrap();
        assert_eq!(snapshot.read(), Ok([2, 2]));
    });
}
