//! Semantics of `Event`.
#![cfg(not(loom))]

use std::time::{Duration, Instant};

use multiprocess_core::Timeout;
use multiprocess_sync::{Event, WaitError};

fn word(event: &Event) -> u32 {
    // SAFETY: an event is one u32 word.
    unsafe { std::mem::transmute_copy(event) }
}

fn with_word(word: u32) -> Event {
    // SAFETY: an event is one u32 word, and every value is valid.
    unsafe { std::mem::transmute_copy(&word) }
}

fn sleep_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn four_zero_bytes_are_an_event_that_is_not_set() {
    let event = with_word(0);
    assert!(!event.is_set());
    assert_eq!(event.wait_timeout(Timeout::TRY), Err(WaitError::Timeout));
    assert_eq!(word(&event), 0, "a look announces no waiter");
}

#[test]
fn set_stays_until_clear() {
    let event = Event::new();
    event.set();
    event.set();
    assert!(event.is_set());
    event.wait().unwrap();
    event.wait().unwrap();
    event.clear();
    event.clear();
    assert!(!event.is_set());
}

#[test]
fn set_releases_every_sleeper() {
    let event = Event::new();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..5).map(|_| scope.spawn(|| event.wait())).collect();
        sleep_until(|| word(&event) & 2 != 0);
        event.set();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_sleeper_passes_though_clear_follows_set_at_once() {
    for _ in 0..200 {
        let event = Event::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| event.wait_timeout(Duration::from_secs(60)));
            sleep_until(|| word(&event) & 2 != 0);
            event.set();
            event.clear();
            waiter.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_timeout_is_not_early() {
    let event = Event::new();
    let start = Instant::now();
    let timeout = Duration::from_millis(120);
    assert_eq!(event.wait_timeout(timeout), Err(WaitError::Timeout));
    assert!(start.elapsed() >= timeout);
}

#[test]
fn the_generation_wraps() {
    let event = with_word(!3);
    event.set();
    assert_eq!(word(&event), 1);
}

#[test]
fn any_word_is_a_valid_state() {
    for bits in [u32::MAX, 2, 3, 0x8000_0000] {
        let event = with_word(bits);
        event.set();
        event.wait().unwrap();
        event.clear();
        assert_eq!(event.wait_timeout(Timeout::TRY), Err(WaitError::Timeout));
    }
}
