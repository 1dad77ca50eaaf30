//! Semantics of `Once` and `OnceCell`.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::thread::Caller;
use multiprocess_shm::Shared;
use multiprocess_sync::{LockError, Once, OnceCell};

#[test]
fn it_runs_once_among_threads_and_all_see_it() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let once = Shared::new(Once::new()).unwrap();
    let runs = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                once.call_once(|| {
                    std::thread::sleep(Duration::from_millis(5));
                    runs.fetch_add(1, Relaxed);
                })
                .unwrap();
                assert_eq!(runs.load(Relaxed), 1);
            });
        }
    });
    assert!(once.is_done());
}

#[test]
fn a_panic_passes_the_turn_on() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let once = Once::new();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        once.call_once(|| panic!("on purpose"))
    }));
    assert!(unwound.is_err() && !once.is_done());
    once.call_once(|| ()).unwrap();
    assert!(once.is_done());
}

#[test]
fn calling_it_from_within_is_a_deadlock_that_is_told() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let once = Once::new();
    let mut inner = None;
    once.call_once(|| inner = Some(once.call_once(|| ())))
        .unwrap();
    assert_eq!(inner, Some(Err(LockError::Deadlock)));
}

#[test]
fn one_that_waits_for_another_can_run_out_of_time() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    let once = Once::new();
    once.call_once(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let timeout = Duration::from_millis(5);
                let late = once.call_once_as(Caller::current(), timeout, || ());
                assert_eq!(late, Err(LockError::Timeout));
            });
        });
    })
    .unwrap();
}

#[test]
fn a_thread_that_dies_in_it_passes_the_turn_on() {
    let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
    // A dead thread stands for a dead process here: `xproc_mutex.rs` kills one.
    let cell = Shared::new(OnceCell::<u64>::new()).unwrap();
    let stuck = cell.clone();
    let once = std::thread::spawn(move || {
        let never = stuck.get_or_init(|| {
            // SAFETY: ends this thread and nothing else; it owns nothing that another one needs.
            unsafe { libc_exit_thread() }
        });
        drop(never);
    });
    drop(once); // it cannot be joined: it never returns to the runtime
    let mut tries = 0;
    while cell.get().is_none() && tries < 1000 {
        std::thread::sleep(Duration::from_millis(1));
        tries += 1;
        if let Ok(value) = cell.get_or_init(|| 7) {
            assert_eq!(*value, 7);
        }
    }
    assert_eq!(cell.get(), Some(&7));
}

/// The bare system call: no destructors, no unwinding, as if the thread had been killed.
unsafe fn libc_exit_thread() -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `exit(0)` of one thread.
    unsafe {
        std::arch::asm!("syscall", in("rax") 60, in("rdi") 0, options(noreturn))
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `exit(0)` of one thread.
    unsafe {
        std::arch::asm!("svc 0", in("x8") 93, in("x0") 0, options(noreturn))
    };
}
