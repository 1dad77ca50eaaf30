//! Faults of `Heap`'s counters that only threads of one process, or many processes at once, showed.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::atomic::AtomicU64;
use multiprocess_shm::{Heap, HeapConfig};

const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// An acquirer that was late for an earlier life of a counter wiped out the number that another thread of
/// its process had in the next life: that one's value was freed under it.
#[test]
fn a_late_acquirer_does_not_touch_the_next_value_s_references() {
    let config = HeapConfig {
        participants: 2,
        objects: 4,
        bytes: 1 << 16,
    };
    let heap = Heap::new(&config).unwrap();
    let (token, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    drop(heap.by_token::<AtomicU64>(token.load(Relaxed)));
                }
            });
        }
        let start = Instant::now();
        let wrong = (1..).find_map(|round| {
            let held = heap.share(AtomicU64::new(round)).unwrap();
            token.store(held.token(), Relaxed);
            for _ in 0..20 {
                std::hint::spin_loop();
            }
            let again = heap.by_token::<AtomicU64>(held.token());
            let is_whole = again.is_ok() && held.load(Relaxed) == round;
            if !is_whole {
                return Some(Some(round));
            }
            (start.elapsed() > LONG_ENOUGH).then_some(None)
        });
        is_over.store(true, Relaxed);
        assert_eq!(wrong, Some(None), "a value was freed while it was held");
    });
}

/// Whoever frees looks at the numbers one by one; a reference that moved about meanwhile was missed, and the
/// value not found for a moment.
#[test]
fn a_value_that_somebody_always_has_is_always_found() {
    let config = HeapConfig {
        participants: 1024,
        objects: 4,
        bytes: 1 << 16,
    };
    let first = Heap::new(&config).unwrap();
    let attach = |_| Heap::attach(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let others: Vec<Heap> = (0..5).map(attach).collect();
    let mut held = first.share(AtomicU64::new(7)).unwrap();
    let token = held.token();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for heap in &others[..2] {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    drop(heap.by_token::<AtomicU64>(token));
                }
            });
        }
        let start = Instant::now();
        let mut missed = 0;
        let mut seed = 12_345_u64;
        while start.elapsed() < LONG_ENOUGH {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            match others[2 + (seed % 3) as usize].by_token(token) {
                Ok(next) => held = next,
                Err(_) => missed += 1,
            }
        }
        is_over.store(true, Relaxed);
        assert_eq!(missed, 0, "not found though held");
        drop(held);
    });
}
