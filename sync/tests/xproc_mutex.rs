//! Owned locks between processes whose owners are killed anywhere, or in the ways that have broken
//! other robust locks. One test for each of those, by name; `xproc_identity.rs` has those in which
//! a thread is taken for another one.
#![cfg(all(not(loom), target_os = "linux"))]

mod stage;

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_core::thread::{Caller, Thread};
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{LockError, RawMutex};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use stage::{Stage, inherit, sleep_for_ever};

#[test]
fn an_owner_that_is_killed_hands_its_lock_on() {
    let test = "an_owner_that_is_killed_hands_its_lock_on";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let (_one, _two) = (stage.mutex.lock().unwrap(), stage.recursive.lock().unwrap());
        let _three = stage.recursive.lock().unwrap();
        let _four = stage.table.write().unwrap();
        let _never = stage.cell.get_or_init(|| {
            stage.ready.set();
            sleep_for_ever()
        });
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let mut owner = Child::run(test, "owner", &[stage.as_fd()]);
    stage.ready.wait().unwrap();
    assert_eq!(
        stage.mutex.lock_timeout(Duration::from_millis(20)).err(),
        Some(LockError::Timeout)
    );
    // One that sleeps when it happens is woken by the kernel.
    std::thread::scope(|scope| {
        scope.spawn(|| inherit(&stage.mutex));
        std::thread::sleep(Duration::from_millis(20));
        owner.kill();
    });
    let mut recursive = stage.recursive.lock().unwrap_err().into_guard().unwrap();
    recursive.mark_consistent();
    assert_eq!(stage.recursive.depth(), 1);
    assert_eq!(stage.table.read().err(), Some(LockError::WriterDied));
    let mut table = stage.table.write().unwrap_err().into_guard().unwrap();
    table.mark_consistent();
    assert_eq!(stage.cell.get_or_init(|| 7), Ok(&7), "the turn passed on");
}

#[test]
fn a_barging_locker_inherits_the_waiters_bit() {
    // pthread's robust mutexes drop it: A releases and wakes W; X barges in; W is killed before
    // it runs; X releases without a wake, and Z sleeps for ever on a free lock.
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let me = Caller::current();
    let mut barged = 0;
    while barged < 20 {
        stage.other.acquire(&me, None).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let other = Caller::current();
                    stage.other.acquire(&other, None).unwrap();
                    stage.other.release(&other).unwrap();
                });
            }
            std::thread::sleep(Duration::from_millis(2));
            stage.other.release(&me).unwrap();
            if stage.other.try_acquire(&me).is_ok() {
                let seen = format!("{:?}", stage.other);
                // Nobody else can have set it: two sleep, one of them woken and not yet running.
                if seen.contains("waiters: true") {
                    barged += 1;
                } else {
                    // Both sleepers were quicker, or had not come to sleep yet.
                    assert!(seen.contains("waiters: false"));
                }
                stage.other.release(&me).unwrap();
            }
        });
    }
}

#[test]
fn a_notification_that_dies_with_its_receiver_reaches_the_others() {
    let test = "a_notification_that_dies_with_its_receiver_reaches_the_others";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let guard = stage.mutex.lock().unwrap();
        stage.count.fetch_add(1, Relaxed);
        let (_guard, there) = stage
            .condition
            .wait_for(guard, None, |_| stage.tickets.load(Relaxed) > 0)
            .unwrap();
        assert!(there);
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    for round in 0..10_u64 {
        let stage = Stage::new();
        let mut victim = Child::run(test, "victim", &[stage.as_fd()]);
        while stage.count.load(Relaxed) < 1 {
            std::thread::yield_now();
        }
        let mut other = Child::run(test, "other", &[stage.as_fd()]);
        while stage.count.load(Relaxed) < 2 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20)); // both sleep, the victim first
        stage.tickets.store(1, Relaxed);
        victim.signal(libc::SIGKILL);
        std::thread::sleep(Duration::from_micros(round * 10));
        stage.condition.notify(1);
        victim.wait();
        assert!(other.wait().success());
    }
}

#[test]
fn a_reader_killed_inside_an_rwlock_holds_up_no_writer() {
    let test = "a_reader_killed_inside_an_rwlock_holds_up_no_writer";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let _reading = stage.table.read().unwrap();
        stage.ready.set();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let mut reader = Child::run(test, "reader", &[stage.as_fd()]);
    stage.ready.wait().unwrap();
    assert_eq!(
        stage.table.write_timeout(Duration::from_millis(20)).err(),
        Some(LockError::Timeout)
    );
    std::thread::scope(|scope| {
        scope.spawn(|| *stage.table.write().unwrap() = 5);
        std::thread::sleep(Duration::from_millis(20));
        reader.kill();
    });
    assert_eq!(*stage.table.read().unwrap(), 5);
}

#[test]
fn a_signal_handler_that_locks_during_an_unlock_breaks_no_list() {
    let test = "a_signal_handler_that_locks_during_an_unlock_breaks_no_list";
    static STAGE: std::sync::OnceLock<Shared<Stage>> = std::sync::OnceLock::new();
    extern "C" fn handler(_: libc::c_int) {
        if let Some(stage) = STAGE.get() {
            let me = Caller::current();
            if stage.other.try_acquire(&me).is_ok() {
                let _ = stage.other.release(&me);
                stage.count.fetch_add(1, Relaxed);
            }
        }
    }
    if child::role().is_some() {
        let stage = STAGE.get_or_init(Stage::of_the_parent);
        let _ = Thread::current().id(); // looked at before a handler can be in the middle of it
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 50,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the handler locks, unlocks, and adds; it neither allocates nor panics. The
        // timer's signal may hit any thread; all of them have their own list.
        unsafe {
            libc::signal(libc::SIGALRM, handler as *const () as libc::sighandler_t);
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
        }
        let start = std::time::Instant::now();
        while stage.count.load(Relaxed) < 5_000 && start.elapsed() < Duration::from_secs(20) {
            for _ in 0..100 {
                let mut both = stage.mutex.lock().unwrap();
                both[0] += 1;
                both[1] += 1;
            }
        }
        let (_one, _two) = (stage.mutex.lock().unwrap(), stage.recursive.lock().unwrap());
        assert_eq!(Thread::current().held(), 2, "the list is whole");
        stage.ready.set();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let mut owner = Child::run(test, "owner", &[stage.as_fd()]);
    stage.ready.wait().unwrap();
    owner.kill();
    inherit(&stage.mutex); // the list was whole to its end
    let mut guard = stage.recursive.lock().unwrap_err().into_guard().unwrap();
    guard.mark_consistent();
    drop(guard);
    assert!(stage.count.load(Relaxed) > 0);
    let both = stage.mutex.lock().unwrap();
    assert_eq!(both[0], both[1]);
}

#[test]
fn locks_beyond_the_kernels_walk_are_found_by_the_participants() {
    let test = "locks_beyond_the_kernels_walk_are_found_by_the_participants";
    const MANY: usize = 2500;
    type Many = [RawMutex; MANY];
    if child::role().is_some() {
        let all = Shared::<Many>::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
        let table = Participants::attach(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
        let me = table.join().unwrap();
        let caller = Caller::current().among(&me);
        for mutex in &*all {
            mutex.acquire(&caller, None).unwrap();
        }
        // SAFETY: dies at once, with all of them.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let _watchdog = Watchdog::seconds(60);
    let all: Shared<Many> = Shared::new([const { RawMutex::new() }; MANY]).unwrap();
    let table = Participants::new(4).unwrap();
    let me = table.join().unwrap();
    let caller = Caller::current().among(&me);
    Child::run(test, "owner", &[all.as_fd(), table.as_fd()]).wait();
    for mutex in &*all {
        assert_eq!(
            mutex.try_acquire(&caller).unwrap_err().into_guard(),
            Some(())
        );
        mutex.mark_consistent(&caller).unwrap();
        mutex.release(&caller).unwrap();
    }
}

/// A storm: three contenders, one of which is killed at any moment, a hundred times.
#[test]
fn owners_that_are_killed_anywhere_harm_nobody() {
    let test = "owners_that_are_killed_anywhere_harm_nobody";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        loop {
            let mut both = match stage.mutex.lock() {
                Ok(both) => {
                    assert_eq!(both[0], both[1], "a death was missed");
                    both
                }
                Err(LockError::OwnerDied(mut both)) => {
                    both[1] = both[0];
                    stage.tickets.store(0, Relaxed);
                    both.mark_consistent();
                    both
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(stage.tickets.fetch_add(1, Relaxed) % 2, 0, "two are inside");
            both[0] += 1;
            both[1] += 1;
            stage.tickets.fetch_add(1, Relaxed);
            drop(both);
            stage.count.fetch_add(1, Relaxed);
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let stage = Stage::new();
    let run = |role: &str| Child::run(test, role, &[stage.as_fd()]);
    let mut steady = [run("1"), run("2")];
    for round in 0..100_u64 {
        let mut victim = run("3");
        let start = stage.count.load(Relaxed);
        while stage.count.load(Relaxed) < start + 100 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(round * 37 % 500));
        victim.kill();
        let guard = match stage.mutex.lock_timeout(Duration::from_secs(30)) {
            Ok(guard) => guard,
            Err(LockError::OwnerDied(mut guard)) => {
                guard[1] = guard[0];
                stage.tickets.store(0, Relaxed);
                guard.mark_consistent();
                guard
            }
            Err(error) => panic!("{error}"),
        };
        drop(guard);
        for child in &mut steady {
            let ended = child.wait_timeout(Duration::ZERO);
            assert!(
                ended.is_none(),
                "a survivor found something wrong: {ended:?}"
            );
        }
    }
}
