//! Semantics of `wait_any`, `Doorbell` and `DoorbellFd`.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_core::Timeout;
use multiprocess_sync::{
    Condition, Doorbell, DoorbellFd, Event, Lock, Mutex, Source, WaitError, wait_any, wait_any_with,
};
use multiprocess_testkit::watchdog::Watchdog;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|_| Event::new()).collect()
}

fn sources(events: &[Event]) -> Vec<&dyn Source> {
    events.iter().map(|event| event as _).collect()
}

fn announced(event: &Event) -> bool {
    format!("{event:?}").contains("waiters: true")
}

fn sleep_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn no_sources_are_an_error_and_not_a_hang() {
    assert_eq!(wait_any(&[], None), Err(WaitError::NoSources));
    let bell = Doorbell::new();
    assert_eq!(wait_any_with(&bell, &[], None), Err(WaitError::NoSources));
}

#[test]
fn a_ready_source_is_returned_at_once_and_the_first_of_several() {
    for count in [1, 2, 128, 129, 1000] {
        let events = events(count);
        events[count - 1].set();
        let sources = sources(&events);
        assert_eq!(wait_any(&sources, Timeout::TRY), Ok(count - 1));
        events[count / 2].set();
        assert_eq!(wait_any(&sources, None), Ok(count / 2));
        let bell = Doorbell::new();
        assert_eq!(wait_any_with(&bell, &sources, None), Ok(count / 2));
        assert!(!events.iter().any(announced), "nobody slept");
    }
}

#[test]
fn a_timeout_is_not_early_and_a_look_announces_nobody() {
    for count in [1, 2, 128, 129, 1000] {
        let events = events(count);
        let sources = sources(&events);
        assert_eq!(wait_any(&sources, Timeout::TRY), Err(WaitError::Timeout));
        assert!(!events.iter().any(announced));
        let start = Instant::now();
        let timeout = Duration::from_millis(70);
        assert_eq!(wait_any(&sources, timeout), Err(WaitError::Timeout));
        assert!(start.elapsed() >= timeout);
        let start = Instant::now();
        let bell = Doorbell::new();
        let timed_out = wait_any_with(&bell, &sources, timeout);
        assert_eq!(timed_out, Err(WaitError::Timeout));
        assert!(start.elapsed() >= timeout);
    }
}

#[test]
fn a_sleeper_is_woken_by_any_of_them() {
    let _watchdog = Watchdog::seconds(120);
    for count in [1, 2, 3, 128, 129, 300, 1000] {
        for index in [0, count / 2, count - 1] {
            let events = events(count);
            let sources = sources(&events);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    sleep_until(|| announced(&events[0]));
                    events[index].set();
                });
                assert_eq!(wait_any(&sources, LONG), Ok(index), "of {count}");
            });
        }
    }
}

/// One setter, one waiter, hand in hand: the set falls into every phase of arming.
#[test]
fn a_set_while_arming_is_not_lost() {
    let _watchdog = Watchdog::seconds(120);
    for count in [1, 2, 64, 128, 129] {
        let events = events(count);
        let sources = sources(&events);
        let round = AtomicU32::new(0);
        let rounds = if count > 128 { 200 } else { 3000 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 1..=rounds {
                    while round.load(Relaxed) != turn {
                        std::hint::spin_loop();
                    }
                    for _ in 0..turn * 7 % 900 {
                        std::hint::spin_loop();
                    }
                    events[(turn as usize * 31) % count].set();
                }
            });
            for turn in 1..=rounds {
                round.store(turn, Relaxed);
                let index = wait_any(&sources, LONG).unwrap();
                assert_eq!(index, (turn as usize * 31) % count);
                events[index].clear();
            }
        });
    }
}

/// Four setters at once; every event must be seen.
#[test]
fn no_event_of_many_is_overlooked() {
    let _watchdog = Watchdog::seconds(120);
    let bell = Doorbell::new();
    for with_bell in [false, true] {
        for count in [100, 400] {
            let events = events(count);
            std::thread::scope(|scope| {
                for setter in 0..4 {
                    let (events, bell) = (&events, &bell);
                    scope.spawn(move || {
                        for event in events.iter().skip(setter).step_by(4) {
                            event.set();
                            bell.ring();
                        }
                    });
                }
                for _ in 0..count {
                    let sources = sources(&events);
                    let index = match with_bell {
                        true => wait_any_with(&bell, &sources, LONG),
                        false => wait_any(&sources, LONG),
                    };
                    events[index.unwrap()].clear();
                }
            });
            assert!(!events.iter().any(Event::is_set));
        }
    }
}

#[test]
fn a_lock_is_ready_when_free_and_waiting_takes_nothing() {
    let _watchdog = Watchdog::seconds(60);
    let (lock, stop) = (Lock::new(), Event::new());
    assert_eq!(wait_any(&[&stop, &lock], None), Ok(1));
    assert!(!lock.is_locked());
    std::mem::forget(lock.lock().unwrap());
    let tried = wait_any(&[&stop, &lock], Duration::from_millis(20));
    assert_eq!(tried, Err(WaitError::Timeout));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_any(&[&stop, &lock], LONG));
        std::thread::sleep(Duration::from_millis(20));
        lock.release().unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
}

/// The lockers take turns and the idlers never take: each locker must be woken though an idler
/// may have had its wake.
#[test]
fn an_idler_does_not_eat_the_wakes_of_lockers() {
    let _watchdog = Watchdog::seconds(120);
    let (lock, stop, done) = (Lock::new(), Event::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    wait_any(&[&stop, &lock], LONG).unwrap();
                }
            });
        }
        let lockers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let guard = lock.lock().unwrap();
                        std::hint::black_box(&guard);
                    }
                })
            })
            .collect();
        for locker in lockers {
            locker.join().unwrap();
        }
        done.store(true, Relaxed);
        stop.set();
    });
}

#[test]
fn a_watched_condition_is_ready_once_it_is_notified() {
    let _watchdog = Watchdog::seconds(60);
    let (stop, state, changed) = (Event::new(), Mutex::new(0_u32), Condition::new());
    let watch = changed.watch();
    assert!(!watch.is_ready());
    assert_eq!(
        wait_any(&[&stop, &watch], Duration::from_millis(20)),
        Err(WaitError::Timeout)
    );
    changed.notify(1);
    assert_eq!(wait_any(&[&stop, &watch], None), Ok(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..1000 {
                *state.lock().unwrap() += 1;
                changed.notify(1);
            }
        });
        loop {
            let value = state.lock().unwrap();
            if *value == 1000 {
                break;
            }
            let watch = changed.watch();
            drop(value);
            assert_eq!(wait_any(&[&stop, &watch], LONG), Ok(1));
        }
    });
}

#[test]
fn a_doorbell_wakes_for_a_thousand_sources() {
    let _watchdog = Watchdog::seconds(60);
    let (bell, events) = (Doorbell::new(), events(1000));
    let sources = sources(&events);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..500 {
                let event = &events[round * 37 % 1000];
                event.set();
                bell.ring();
                while event.is_set() {
                    std::thread::yield_now();
                }
            }
        });
        for round in 0..500 {
            let index = wait_any_with(&bell, &sources, LONG).unwrap();
            assert_eq!(index, round * 37 % 1000);
            events[index].clear();
        }
    });
    assert!(!events.iter().any(announced), "nobody announced in them");
}

#[test]
fn any_word_is_a_valid_doorbell() {
    let event = Event::new();
    for bits in [0, 1, 2, 3, u32::MAX, !3] {
        // SAFETY: a doorbell is one u32 word, and every value is valid.
        let bell: Doorbell = unsafe { std::mem::transmute_copy(&bits) };
        bell.ring();
        let timed_out = wait_any_with(&bell, &[&event], Duration::from_millis(1));
        assert_eq!(timed_out, Err(WaitError::Timeout));
        let bell = DoorbellFd::new(&bell).unwrap();
        bell.ring().unwrap();
        assert_eq!(bell.poll_any(&[&event]), Ok(None));
        bell.ring().unwrap();
    }
}

fn readable(bell: &DoorbellFd<&Doorbell>, timeout: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: timeout.as_secs() as _,
        tv_nsec: timeout.subsec_nanos() as _,
    };
    poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

#[test]
fn the_descriptor_is_readable_after_a_ring_that_found_a_poller() {
    let (bell, event) = (Doorbell::new(), Event::new());
    let bell = DoorbellFd::new(&bell).unwrap();
    bell.ring().unwrap();
    assert!(!readable(&bell, Duration::ZERO), "nobody polled: no call");
    assert_eq!(bell.poll_any(&[&event]), Ok(None));
    assert!(!readable(&bell, Duration::ZERO));
    event.set();
    bell.bell().ring();
    assert!(!readable(&bell, Duration::ZERO), "a plain ring cannot");
    bell.ring().unwrap();
    assert!(readable(&bell, Duration::ZERO));
    assert_eq!(bell.poll_any(&[&event]), Ok(Some(0)));
    event.clear();
    assert_eq!(bell.poll_any(&[&event]), Ok(None), "the ring is forgotten");
    assert!(!readable(&bell, Duration::ZERO));
}

/// A poller and a sleeper on one doorbell, a ringer, and the set in every phase.
#[test]
fn rings_reach_a_poller_and_a_sleeper() {
    let _watchdog = Watchdog::seconds(120);
    let (word, events) = (Doorbell::new(), [Event::new(), Event::new()]);
    let bell = DoorbellFd::new(&word).unwrap();
    const ROUNDS: usize = 5000;
    std::thread::scope(|scope| {
        let theirs = bell.try_clone().unwrap();
        let events = &events;
        scope.spawn(move || {
            for round in 0..ROUNDS {
                for event in events {
                    event.set();
                    theirs.ring().unwrap();
                }
                for _ in 0..round * 7 % 900 {
                    std::hint::spin_loop();
                }
                while events.iter().any(Event::is_set) {
                    std::thread::yield_now();
                }
            }
        });
        let word = &word;
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                wait_any_with(word, &[&events[1]], LONG).unwrap();
                events[1].clear();
            }
        });
        for _ in 0..ROUNDS {
            while bell.poll_any(&[&events[0]]).unwrap().is_none() {
                assert!(readable(&bell, LONG), "a ring was lost");
            }
            events[0].clear();
        }
    });
}

#[test]
fn a_semaphore_is_ready_when_it_has_a_permit() {
    let (stop, permits) = (Event::new(), multiprocess_sync::Semaphore::new(0).unwrap());
    let sources = || -> [&dyn Source; 2] { [&stop, &permits] };
    let short = Duration::from_millis(5);
    assert_eq!(wait_any(&sources(), short), Err(WaitError::Timeout));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            loop {
                assert_eq!(wait_any(&sources(), None), Ok(1));
                if permits.try_acquire().is_ok() {
                    break;
                }
            }
        });
        std::thread::sleep(short);
        permits.release().unwrap();
        waiter.join().unwrap();
    });
    assert_eq!(permits.value(), 0);
}
