//! Queues at the edges of what fits.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use multiprocess_channel::queue::{GetError, PutFailure, Queue, QueueConfig};

/// A value that is not too large is put once all others were got: nothing is in the way for ever.
#[test]
fn what_is_not_too_large_fits_into_an_empty_queue() {
    let mut faults = Vec::new();
    for large in [1, 100, 5000, 100_000] {
        for before in [0, 200, 3000] {
            for less in [0, 8, 256] {
                let queue = Queue::<Vec<u8>>::with(&QueueConfig::new(4).large(large)).unwrap();
                if before > 0 && queue.try_put(vec![7; before]).is_ok() {
                    queue.get().unwrap();
                }
                // The largest that is not refused, and smaller ones.
                let mut len = 2 * large as usize + 9000;
                let put = loop {
                    match queue.put_timeout(vec![1; len], Duration::from_millis(2)) {
                        Err(error) if matches!(error.reason, PutFailure::TooLarge { .. }) => {
                            len = len.saturating_sub(1 + len / 1000);
                        }
                        other => break other.map_err(|error| error.reason),
                    }
                };
                if put.is_ok() {
                    queue.get().unwrap();
                }
                let put =
                    queue.put_timeout(vec![1; len.saturating_sub(less)], Duration::from_millis(2));
                if let Err(error) = put {
                    faults.push((large, before, len, less, error.reason));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults: {:?}",
        faults.len(),
        &faults[..faults.len().min(20)]
    );
}

/// Each of exactly so many bytes, twice round the ring: the longer one's bytes are not the shorter one's.
#[test]
fn values_of_every_size_about_the_envelopes_come_as_they_were() {
    let queue = Queue::<Vec<u8>>::with(&QueueConfig::new(3).endpoints(2)).unwrap();
    for round in 0..4 {
        for len in [119, 0, 118, 1, 120, 7, 121, 8, 9, 122, 119, 118] {
            let value: Vec<u8> = (0..len).map(|i| (i * 7 + round) as u8 | 1).collect();
            queue.put(value.clone()).unwrap();
            assert_eq!(queue.get().unwrap(), value);
        }
    }
    let units = Queue::<()>::bounded(2).unwrap();
    units.put(()).unwrap();
    units.put(()).unwrap();
    assert!(units.try_put(()).is_err());
    units.get().unwrap();
    units.get().unwrap();
    assert!(matches!(units.try_get(), Err(GetError::Empty)));
}

/// Many threads put and get under the smallest limits: the limit is never exceeded, and nothing stalls.
#[test]
fn the_limit_is_exact_among_threads() {
    let exceeded = AtomicBool::new(false);
    for limit in [1, 2, 3, 5, 8, 64, 130] {
        let queue = Queue::<u64>::with(&QueueConfig::new(limit).endpoints(16)).unwrap();
        let total = 6_000;
        let (put, asked_for) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for value in 0..total {
                        queue.put(value).unwrap();
                        let put = put.fetch_add(1, SeqCst) + 1;
                        // What nobody has asked for nobody has got.
                        let asked_for = asked_for.load(SeqCst);
                        if put > asked_for + limit {
                            // Not a panic: the others would wait for ever.
                            exceeded.store(true, SeqCst);
                        }
                    }
                });
                scope.spawn(|| {
                    for _ in 0..total {
                        asked_for.fetch_add(1, SeqCst);
                        queue.get().unwrap();
                    }
                });
            }
        });
        assert!(!exceeded.load(SeqCst), "{limit}");
        assert!(queue.is_empty());
        for value in 0..limit {
            queue.try_put(value).unwrap();
        }
        assert!(queue.try_put(0).is_err(), "{limit}");
    }
}
