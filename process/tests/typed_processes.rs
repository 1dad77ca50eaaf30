//! `Value`, `Array` and their like between processes, under all start methods; and killed ones.

mod common;

use std::time::Duration;

use multiprocess::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess::owned::{Condition, Event, RLock};
use multiprocess::{
    Array, Context, JoinError, LockError, Queue, RawArray, Shared, StartMethod, Timeout, Value,
};

use common::start;

const STEPS: u64 = 2000;

under_all_methods!(increments_of_several_processes_are_not_lost, |method| {
    let work = |(total, counts): (Value<u64>, Array<u32>)| {
        for step in 0..STEPS {
            *total.lock().unwrap() += 1;
            counts.lock().unwrap()[step as usize % 7] += 1;
        }
    };
    let total = Value::new(0).unwrap();
    let counts = Array::zeroed(7).unwrap();
    let workers = [0; 3].map(|_| start(method, work, (total.clone(), counts.clone())));
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(total.get().unwrap(), 3 * STEPS);
    let counts = counts.lock().unwrap();
    assert_eq!(counts.iter().map(|n| u64::from(*n)).sum::<u64>(), 3 * STEPS);
});

under_all_methods!(a_lock_that_was_given_guards_several_elsewhere, |method| {
    // Two values that are always equal, seen under the one lock of both.
    let work = |(left, right, lock): (Value<u64>, Array<u64>, RLock)| {
        for _ in 0..STEPS {
            let _both = lock.lock().unwrap();
            let (mut left, mut right) = (left.lock().unwrap(), right.lock().unwrap());
            assert_eq!(*left, right[1]);
            *left += 1;
            right[1] += 1;
        }
    };
    let lock = RLock::new().unwrap();
    let left = Value::with_lock(0, lock.clone()).unwrap();
    let right = Array::zeroed_with_lock(2, lock.clone()).unwrap();
    let all = || (left.clone(), right.clone(), lock.clone());
    let workers = [0; 2].map(|_| start(method, work, all()));
    work(all());
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(left.get().unwrap(), 3 * STEPS);
    assert_eq!(*right.lock().unwrap(), [0, 3 * STEPS]);
});

under_all_methods!(typed_memory_travels_back_in_results, |method| {
    let make = |text: String| {
        let name = Array::<u8>::zeroed(8).unwrap();
        name.lock().unwrap().set_value(text.as_bytes()).unwrap();
        let raw = RawArray::from_slice(&[1.5f64; 6]).unwrap();
        raw.view2d(2, 3).unwrap().set(1, 1, 9.0).unwrap();
        (name, raw, Value::new(-1i16).unwrap())
    };
    let (name, raw, value) = start(method, make, "nine".to_owned()).join().unwrap();
    assert_eq!(name.lock().unwrap().value(), b"nine");
    assert_eq!(raw.to_vec(), [1.5, 1.5, 1.5, 1.5, 9.0, 1.5]);
    assert_eq!(value.get().unwrap(), -1);
});

under_all_methods!(atomics_are_counted_without_a_lock, |method| {
    let work = |counters: Shared<[AtomicU64]>| {
        (0..STEPS as usize).for_each(|step| {
            counters[step % 2].fetch_add(1, Relaxed);
        });
    };
    let counters = Shared::from_fn(2, |_| AtomicU64::new(0)).unwrap();
    let worker = start(method, work, counters.clone());
    work(counters.clone());
    worker.join().unwrap();
    assert!(
        counters
            .iter()
            .all(|counter| counter.load(Relaxed) == STEPS)
    );
});

under_all_methods!(a_condition_waits_with_the_lock_of_a_value, |method| {
    let consume = |(changed, stock): (Condition, Value<u32>)| {
        let mut got = 0;
        while got < 20 {
            let held = changed.lock().unwrap();
            let there = |_: &mut _| stock.get().unwrap() > 0;
            let (_held, there) = changed.wait_for(held, None, there).unwrap();
            assert!(there);
            got += std::mem::take(&mut *stock.lock().unwrap());
        }
        got
    };
    let changed = Condition::new().unwrap();
    let stock = Value::with_lock(0, changed.get_lock().clone()).unwrap();
    let consumer = start(method, consume, (changed.clone(), stock.clone()));
    for _ in 0..20 {
        let _held = changed.lock().unwrap();
        *stock.lock().unwrap() += 1;
        changed.notify(1);
    }
    assert_eq!(consumer.join().unwrap(), 20);
});

under_all_methods!(the_documents_example_counts, |method| {
    let count = |(files, totals): (Queue<String>, Array<u64>)| {
        while let Ok(path) = files.get() {
            totals.lock().unwrap()[path.len()] += 1;
        }
    };
    let files = Queue::bounded(8).unwrap();
    let totals = Array::<u64>::zeroed(4).unwrap();
    let workers = [0; 2].map(|_| start(method, count, (files.clone(), totals.clone())));
    for path in ["a", "bb", "ccc", "d", "ee", "f"] {
        files.put(path.to_owned()).unwrap();
    }
    files.close();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(*totals.lock().unwrap(), [0, 3, 2, 1]);
});

// ---- killed

/// Writes half of what belongs together, says so, and stands there with the guard.
fn stand_inside((pair, inside): (Array<u64>, Event)) {
    let mut pair = pair.lock().unwrap();
    pair[0] += 1;
    inside.set();
    std::thread::sleep(Duration::from_secs(600));
    pair[1] += 1;
}

fn kill_inside(method: StartMethod, pair: &Array<u64>) {
    let inside = Event::new().unwrap();
    let mut owner = start(method, stand_inside, (pair.clone(), inside.clone()));
    inside.wait().unwrap();
    assert!(pair.try_lock().is_err(), "it stands inside");
    owner.kill().unwrap();
    let error = owner.join_timeout(Timeout::Never).unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Exited(-9)), "{error:?}");
}

under_all_methods!(who_comes_after_a_killed_owner_is_told, |method| {
    let pair = Array::<u64>::zeroed(2).unwrap();
    for round in 1..=2 {
        kill_inside(method, &pair);
        let Err(LockError::OwnerDied(mut guard)) = pair.lock() else {
            panic!("nobody told");
        };
        assert_eq!(*guard, [round, round - 1]);
        guard[1] = guard[0];
        guard.mark_consistent();
        drop(guard);
        assert_eq!(*pair.lock().unwrap(), [round; 2], "repaired for all");
    }
});

under_all_methods!(a_waiter_gets_what_a_killed_owner_had, |method| {
    let wait = |pair: Array<u64>| match pair.lock() {
        Err(LockError::OwnerDied(mut guard)) => {
            guard.mark_consistent();
            guard[0]
        }
        other => panic!("{other:?}"),
    };
    let pair = Array::<u64>::zeroed(2).unwrap();
    let inside = Event::new().unwrap();
    let owner = start(method, stand_inside, (pair.clone(), inside.clone()));
    inside.wait().unwrap();
    let waiter = start(method, wait, pair.clone());
    std::thread::sleep(Duration::from_millis(20)); // asleep by now, or nearly
    owner.kill().unwrap();
    assert_eq!(waiter.join().unwrap(), 1);
    assert_eq!(*pair.lock().unwrap(), [1, 0]);
});

under_all_methods!(what_nobody_repairs_is_not_given_out_again, |method| {
    let pair = Array::<u64>::zeroed(2).unwrap();
    kill_inside(method, &pair);
    let unrepaired = pair.lock().unwrap_err();
    assert!(matches!(unrepaired, LockError::OwnerDied(_)));
    drop(unrepaired);
    for _ in 0..2 {
        assert!(matches!(pair.lock(), Err(LockError::NotRecoverable)));
    }
});

under_all_methods!(
    a_dead_owner_of_several_is_told_of_whichever_is_first,
    |method| {
        let lock = RLock::new().unwrap();
        let pair = Array::zeroed_with_lock(2, lock.clone()).unwrap();
        let other = Value::with_lock(7, lock.clone()).unwrap();
        kill_inside(method, &pair);
        let Err(LockError::OwnerDied(mut guard)) = other.lock() else {
            panic!("nobody told");
        };
        // The dead one's guard of the pair is over, too: its lock has had another death.
        assert_eq!(*pair.lock().unwrap(), [1, 0]);
        guard.mark_consistent();
        drop(guard);
        assert_eq!(*pair.lock().unwrap(), [1, 0]);
    }
);

/// A copy of a guard that fork made neither frees the lock nor the elements.
#[test]
#[allow(clippy::disallowed_methods)] // forking is what is tested
fn a_forked_child_does_not_own_its_parents_guard() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    fn body(pair: Array<u64>) {
        let mut guard = Some(pair.lock().unwrap());
        // SAFETY: this process has one thread; the child returns from nothing, and exits at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(guard.take());
            let free = pair.try_lock().is_ok();
            // SAFETY: ends this process without what its parent registered.
            unsafe { libc::_exit(i32::from(free)) };
        }
        let mut status = 0;
        // SAFETY: our own child, and a local to write to.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        let again = pair.lock().map(drop).unwrap_err();
        assert_eq!(again, LockError::Deadlock, "this one has it still");
        guard.take().unwrap()[0] = 1;
    }
    let pair = Array::zeroed(1).unwrap();
    let process = Context::spawn_exec().spawn(body, pair.clone()).unwrap();
    process.join().unwrap();
    assert_eq!(*pair.lock().unwrap(), [1]);
}
