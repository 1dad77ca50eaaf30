//! Semantics of `Barrier` within one process; deaths are in `xproc_barrier.rs`.
#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use multiprocess_core::{ParticipantId, Peers, Timeout};
use multiprocess_sync::{Barrier, BarrierError, InvalidParties};

const BROKEN: Result<u32, BarrierError> = Err(BarrierError::Broken { dead: None });
const TIMED_OUT: Result<u32, BarrierError> = Err(BarrierError::Timeout);

fn barrier(parties: u32) -> Barrier {
    Barrier::new(parties).unwrap()
}

/// The first word of a barrier.
fn state(barrier: &Barrier) -> &AtomicU64 {
    // SAFETY: a barrier begins with an atomic u64, and every value is handled.
    unsafe { &*(&raw const *barrier).cast() }
}

fn sleep_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Number `me`; number `dead`, if any, has died.
struct Fake {
    me: u16,
    dead: Option<u16>,
}

// SAFETY: nothing is given to others on this word; the test decides who is dead.
unsafe impl Peers for Fake {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.me, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        self.dead == Some(participant.slot())
    }
    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

fn alive(me: u16) -> Fake {
    Fake { me, dead: None }
}

#[test]
fn absurd_numbers_of_parties_are_refused() {
    for parties in [0, 4096, u32::MAX] {
        assert_eq!(Barrier::new(parties).err(), Some(InvalidParties));
    }
    assert_eq!(barrier(4095).parties(), 4095);
}

#[test]
fn one_party_always_passes() {
    let barrier = barrier(1);
    for _ in 0..20 {
        assert_eq!(barrier.wait(), Ok(0));
        assert_eq!(barrier.wait_timeout(Timeout::TRY), Ok(0));
    }
}

#[test]
fn all_pass_and_are_numbered_in_the_order_of_arrival() {
    let (barrier, sum) = (barrier(3), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..3 {
            let (barrier, sum) = (&barrier, &sum);
            threads.push(scope.spawn(move || {
                sum.fetch_add(1, Ordering::Relaxed);
                assert_eq!(barrier.wait(), Ok(index));
                assert_eq!(sum.load(Ordering::Relaxed), 3);
            }));
            if index < 2 {
                sleep_until(|| barrier.waiting() == index + 1);
            }
        }
    });
    assert_eq!(barrier.waiting(), 0);
}

#[test]
fn it_is_used_again_and_again() {
    const ROUNDS: u32 = 5_000;
    let (barrier, counts) = (barrier(4), [const { AtomicU32::new(0) }; 4]);
    std::thread::scope(|scope| {
        for me in 0..4 {
            let (barrier, counts) = (&barrier, &counts);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    counts[me].store(round, Ordering::Relaxed);
                    barrier.wait().unwrap();
                    let seen = counts.each_ref().map(|c| c.load(Ordering::Relaxed));
                    assert!(seen.iter().all(|c| *c >= round), "{round}: {seen:?}");
                    barrier.wait().unwrap();
                }
            });
        }
    });
}

#[test]
fn the_last_one_runs_the_action_before_anyone_passes() {
    let (barrier, runs) = (barrier(3), AtomicU32::new(0));
    let action = || {
        std::thread::sleep(Duration::from_millis(20));
        runs.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 1..=3 {
                    barrier.wait_with(action, None).unwrap();
                    assert!(runs.load(Ordering::Relaxed) >= round);
                    barrier.wait().unwrap();
                }
            });
        }
    });
    assert_eq!(runs.into_inner(), 3);
}

#[test]
fn an_action_that_panics_breaks_it_and_the_panic_goes_on() {
    let barrier = barrier(2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait());
        sleep_until(|| barrier.waiting() == 1);
        let action = || std::panic::resume_unwind(Box::new("in the action"));
        let caught = catch_unwind(AssertUnwindSafe(|| barrier.wait_with(action, None)));
        assert_eq!(
            caught.unwrap_err().downcast_ref::<&str>(),
            Some(&"in the action")
        );
        assert_eq!(other.join().unwrap(), BROKEN);
    });
    assert!(barrier.is_broken());
}

#[test]
fn a_newcomer_waits_for_the_action_within_its_timeout() {
    for patient in [true, false] {
        let barrier = barrier(1);
        let (inside, leave) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let (barrier, inside, leave) = (&barrier, &inside, &leave);
            let action = move || {
                inside.store(1, Ordering::Relaxed);
                sleep_until(|| leave.load(Ordering::Relaxed) == 1);
            };
            let runner = scope.spawn(move || barrier.wait_with(action, None));
            sleep_until(|| inside.load(Ordering::Relaxed) == 1);
            assert_eq!(barrier.waiting(), 0, "full is not filling");
            if patient {
                let newcomer = scope.spawn(|| barrier.wait());
                std::thread::sleep(Duration::from_millis(20));
                leave.store(1, Ordering::Relaxed);
                assert_eq!(runner.join().unwrap(), Ok(0));
                assert_eq!(newcomer.join().unwrap(), Ok(0));
            } else {
                let newcomer = barrier.wait_timeout(Duration::from_millis(5));
                assert_eq!(newcomer, TIMED_OUT);
                leave.store(1, Ordering::Relaxed);
                assert_eq!(runner.join().unwrap(), BROKEN);
            }
        });
    }
}

#[test]
fn one_timeout_breaks_it_for_all_until_it_is_reset() {
    let barrier = barrier(3);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait());
        sleep_until(|| barrier.waiting() == 1);
        let start = Instant::now();
        let timeout = Duration::from_millis(120);
        assert_eq!(barrier.wait_timeout(timeout), TIMED_OUT);
        assert!(start.elapsed() >= timeout);
        assert_eq!(other.join().unwrap(), BROKEN);
    });
    assert!(barrier.is_broken());
    assert_eq!(barrier.wait(), BROKEN, "at once");
    assert_eq!(barrier.waiting(), 0);
    barrier.reset();
    assert!(!barrier.is_broken());
    pass(&barrier);
}

/// A whole round.
fn pass(barrier: &Barrier) {
    std::thread::scope(|scope| {
        for _ in 0..barrier.parties() {
            scope.spawn(|| barrier.wait().unwrap());
        }
    });
}

#[test]
fn a_zero_timeout_breaks_it_unless_all_are_there() {
    let barrier = barrier(2);
    assert_eq!(barrier.wait_timeout(Timeout::TRY), TIMED_OUT);
    assert!(barrier.is_broken());
    barrier.reset();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait_timeout(Duration::MAX));
        sleep_until(|| barrier.waiting() == 1);
        assert_eq!(barrier.wait_timeout(Timeout::TRY), Ok(1));
        assert_eq!(other.join().unwrap(), Ok(0));
    });
}

#[test]
fn abort_wakes_all_and_stays() {
    let barrier = barrier(3);
    std::thread::scope(|scope| {
        let waiters = [(); 2].map(|()| scope.spawn(|| barrier.wait()));
        sleep_until(|| barrier.waiting() == 2);
        std::thread::sleep(Duration::from_millis(20));
        barrier.abort();
        barrier.abort();
        assert!(waiters.map(|w| w.join().unwrap()) == [BROKEN; 2]);
    });
    assert_eq!(barrier.wait(), BROKEN);
    barrier.reset();
    pass(&barrier);
}

#[test]
fn reset_sends_the_present_away_and_leaves_it_usable() {
    let barrier = barrier(2);
    barrier.reset();
    assert!(!barrier.is_broken(), "quiet when nobody waits");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        sleep_until(|| barrier.waiting() == 1);
        barrier.reset();
        assert_eq!(waiter.join().unwrap(), BROKEN);
    });
    assert!(!barrier.is_broken());
    pass(&barrier);
}

#[test]
fn resets_between_rounds_harm_nobody() {
    let barrier = barrier(2);
    for _ in 0..100 {
        pass(&barrier);
        barrier.reset();
    }
}

#[test]
fn a_late_sleeper_knows_the_end_of_its_round() {
    // Completed 1, 15 and 16 rounds ago, and longer ago than the word remembers.
    for (later, expected) in [(0, Ok(0)), (15, Ok(0)), (16, BROKEN), (40, BROKEN)] {
        let barrier = barrier(2);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| barrier.wait());
            sleep_until(|| barrier.waiting() == 1);
            std::thread::sleep(Duration::from_millis(10));
            // As if it had been stopped meanwhile: the end of its round, and `later` resets, in
            // one step.
            let round = 1 + later;
            let past = if later >= 16 {
                0xffff
            } else {
                (1 << later) - 1
            };
            state(&barrier).store(u64::from(round as u32) | past << 48, Ordering::Release);
            assert_eq!(waiter.join().unwrap(), expected, "{later}");
        });
    }
}

#[test]
fn the_round_wraps() {
    let barrier = barrier(2);
    state(&barrier).store(u32::MAX.into(), Ordering::Relaxed);
    pass(&barrier);
    assert_eq!(state(&barrier).load(Ordering::Relaxed) as u32, 0);
    pass(&barrier);
}

#[test]
fn a_corrupt_word_is_an_error() {
    let corrupt = Err(BarrierError::Corrupt);
    let arrived = |n: u64| n << 32;
    let (broken, action, reserved) = (1 << 44, 1 << 45, 1 << 47);
    for bits in [
        arrived(2),
        arrived(0xfff),
        action,
        action | arrived(1),
        action | arrived(3),
        broken | arrived(1),
        broken | action | arrived(2),
        reserved,
        u64::MAX,
    ] {
        let barrier = barrier(2);
        state(&barrier).store(bits, Ordering::Relaxed);
        assert_eq!(barrier.wait(), corrupt, "{bits:#x}");
        assert_eq!(barrier.wait_among(&alive(1), None), corrupt);
        let _ = (
            barrier.waiting(),
            barrier.is_broken(),
            format!("{barrier:?}"),
        );
        barrier.abort();
        barrier.reset();
        assert_eq!(barrier.wait_timeout(Timeout::TRY), TIMED_OUT, "{bits:#x}");
    }
    // SAFETY: a barrier of atomics, of which every value is handled.
    let zeroed: Barrier = unsafe { std::mem::zeroed() };
    assert_eq!(zeroed.wait(), corrupt, "for no parties");
    // SAFETY: as above.
    let wild: Barrier = unsafe { std::mem::transmute_copy(&[u64::MAX; 67]) };
    assert_eq!(wild.wait_among(&alive(1), None), corrupt);
    wild.enlist(&alive(1));
}

#[test]
fn a_sleeper_finds_out_that_the_word_is_corrupt() {
    let barrier = barrier(2);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        sleep_until(|| barrier.waiting() == 1);
        state(&barrier).fetch_or(1 << 47, Ordering::Relaxed);
        assert_eq!(waiter.join().unwrap(), Err(BarrierError::Corrupt));
    });
}

#[test]
fn a_death_is_found_and_all_learn_who() {
    let dead = Err(BarrierError::Broken {
        dead: Some(ParticipantId::new(7, 1)),
    });
    let barrier = barrier(3);
    barrier.enlist(&alive(7));
    std::thread::scope(|scope| {
        // One that can tell, and one that cannot.
        let plain = scope.spawn(|| barrier.wait());
        let fake = Fake {
            me: 1,
            dead: Some(7),
        };
        assert_eq!(barrier.wait_among(&fake, None), dead);
        assert_eq!(plain.join().unwrap(), dead);
    });
    assert_eq!(barrier.wait(), dead, "later ones, too");
    // With the reset the dead are forgotten.
    barrier.reset();
    let fake = Fake {
        me: 1,
        dead: Some(7),
    };
    let timeout = Duration::from_millis(60);
    assert_eq!(barrier.wait_among(&fake, timeout), TIMED_OUT);
}

#[test]
fn who_took_part_in_the_last_round_is_missed_in_this_one() {
    let (barrier, seven) = (barrier(2), alive(7));
    std::thread::scope(|scope| {
        scope.spawn(|| barrier.wait_among(&seven, None).unwrap());
        barrier.wait_among(&alive(1), None).unwrap();
    });
    let fake = Fake {
        me: 1,
        dead: Some(7),
    };
    // Found also by a time-out that comes before the first look.
    let found = barrier.wait_among(&fake, Duration::from_millis(5));
    let dead = Some(ParticipantId::new(7, 1));
    assert_eq!(found, Err(BarrierError::Broken { dead }));
}

#[test]
fn who_took_part_long_ago_is_not_missed() {
    let barrier = barrier(1);
    barrier.wait_among(&alive(7), None).unwrap();
    barrier.wait_among(&alive(1), None).unwrap();
    barrier.wait_among(&alive(1), None).unwrap();
    let fake = Fake {
        me: 1,
        dead: Some(7),
    };
    assert_eq!(barrier.wait_among(&fake, None), Ok(0));
}

#[test]
fn a_full_register_forgets_nobody_of_these_two_rounds() {
    let barrier = barrier(2);
    // 64 places, all but one with the same home; and one more, for which there is none.
    for slot in 0..65 {
        barrier.enlist(&alive(slot * 64 + 1));
    }
    for slot in [0, 31, 63] {
        let fake = Fake {
            me: 1,
            dead: Some(slot * 64 + 1),
        };
        let me_is_dead = slot == 0;
        let found = barrier.wait_among(&fake, Duration::from_millis(1));
        let named = matches!(found, Err(BarrierError::Broken { dead: Some(_) }));
        assert_eq!(named, !me_is_dead, "{slot}: {found:?}");
        barrier.reset();
        for slot in 0..64 {
            barrier.enlist(&alive(slot * 64 + 1));
        }
    }
}
