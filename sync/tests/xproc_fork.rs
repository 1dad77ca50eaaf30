//! What a forked child inherits half-way: a `Once` whose closure forked, and a participant that
//! joins anew while a signal handler asks for it.
//!
//! Shown to fail by hand: a child that marks its parent's turn as done, or writes the value; a
//! participant that waits without end for the renewal that its own handler has interrupted.
#![cfg(all(not(loom), target_os = "linux"))]
#![allow(clippy::disallowed_methods)] // forking is what is tested

mod stage;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::thread::Caller;
use multiprocess_core::{ParticipantId, Peers, Timeout};
use multiprocess_shm::{Participant, Participants, Shared};
use multiprocess_sync::{LockError, Once, OnceCell};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use stage::Stage;

/// Forks; what the child does ends it, with 0 unless it panics. It dies with its parent.
fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: in a process that was executed for one test; the child leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        exit_after(work);
    }
    pid
}

fn exit_after(work: impl FnOnce()) -> ! {
    // SAFETY: asks for a signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let result = catch_unwind(AssertUnwindSafe(work));
    // SAFETY: ends the child.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

fn ended_well(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status == 0
}

/// Runs the rest of a test in a process of its own, which may fork.
fn in_a_process(test: &str, work: impl FnOnce()) {
    if child::role().is_some() {
        return work();
    }
    let _watchdog = Watchdog::seconds(60);
    assert!(Child::run(test, "parent", &[]).wait().success());
}

#[test]
fn a_child_forked_in_the_closure_does_not_end_the_turn() {
    in_a_process(
        "a_child_forked_in_the_closure_does_not_end_the_turn",
        || {
            let once = Shared::new(Once::new()).unwrap();
            let mut pid = -1;
            let called = once.call_once(|| {
                // SAFETY: as in `fork`; the child comes out of `call_once` on its own.
                pid = unsafe { libc::fork() };
                if pid == 0 {
                    // It waits for its parent, as anybody would.
                    let me = Caller::current();
                    let again = once.call_once_as(me, Timeout::TRY, || unreachable!());
                    assert_eq!(again, Err(LockError::Timeout));
                    return;
                }
                assert!(ended_well(pid));
                assert!(!once.is_done(), "the work is not done");
            });
            if pid == 0 {
                exit_after(|| assert_eq!(called, Err(LockError::Deadlock)));
            }
            assert_eq!(called, Ok(()));
            assert!(once.is_done());
        },
    );
}

#[test]
fn a_child_forked_in_the_closure_does_not_make_the_value() {
    let test = "a_child_forked_in_the_closure_does_not_make_the_value";
    in_a_process(test, || {
        for parent_is_first in [false, true] {
            let cell = Shared::new(OnceCell::<u64>::new()).unwrap();
            let mut pid = -1;
            let made = cell.get_or_init(|| {
                // SAFETY: as in `fork`; the child comes out of `get_or_init` on its own.
                pid = unsafe { libc::fork() };
                if pid == 0 {
                    // SAFETY: asks for a signal.
                    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                    while parent_is_first && cell.get().is_none() {
                        std::thread::yield_now();
                    }
                    return 9;
                }
                if !parent_is_first {
                    assert!(ended_well(pid));
                    assert_eq!(cell.get(), None, "the value is not there");
                }
                7
            });
            if pid == 0 {
                exit_after(|| assert_eq!(made, Err(LockError::Deadlock)));
            }
            assert_eq!(made, Ok(&7));
            assert!(!parent_is_first || ended_well(pid));
            assert_eq!(cell.get(), Some(&7), "the child's was written over it");
        }
    });
}

/// What the handler below works with.
static ME: AtomicPtr<Participant> = AtomicPtr::new(std::ptr::null_mut());
static STAGE: AtomicPtr<Stage> = AtomicPtr::new(std::ptr::null_mut());
static PAGES: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
static RUNS: AtomicU32 = AtomicU32::new(0);
static SEEN: AtomicU32 = AtomicU32::new(u32::MAX);

fn protect(protection: libc::c_int) {
    let [start, len] = [0, 1].map(|i| PAGES[i].load(Relaxed));
    // SAFETY: the mapping of the table, which stays.
    let done = unsafe { libc::mprotect(start as *mut libc::c_void, len, protection) };
    assert_eq!(done, 0);
}

/// Where the file behind `fd` is mapped: start and length.
fn mapping_of(fd: impl AsFd) -> [usize; 2] {
    // SAFETY: fills a local for a descriptor that is open.
    let inode = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::fstat(fd.as_fd().as_raw_fd(), &mut stat), 0);
        stat.st_ino.to_string()
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.split_whitespace().nth(4) == Some(inode.as_str()));
    let range = line.unwrap().split(' ').next().unwrap();
    let bound = |text| usize::from_str_radix(text, 16).unwrap();
    let (start, end) = range.split_once('-').unwrap();
    [bound(start), bound(end) - bound(start)]
}

/// Runs at the first store into the table, in the middle of joining it.
extern "C" fn ask_in_the_middle(_: libc::c_int) {
    RUNS.fetch_add(1, Relaxed);
    // SAFETY: set before the handler; both outlive it.
    let (me, stage) = unsafe { (&*ME.load(Relaxed), &*STAGE.load(Relaxed)) };
    SEEN.store(me.me().bits(), Relaxed);
    // Whatever it uses among the participants it uses as nobody in particular, and to the end.
    let caller = Caller::current().among(me);
    if let Ok(mut guard) = stage.mutex.lock_as(caller, Timeout::TRY) {
        guard[0] += 1;
    }
    if let Ok(read) = stage.table.read_as(caller, Timeout::TRY) {
        stage.count.store(1 + *read, Relaxed);
    }
    protect(libc::PROT_READ | libc::PROT_WRITE);
}

#[test]
fn a_signal_handler_in_the_middle_of_joining_anew_is_nobody() {
    let test = "a_signal_handler_in_the_middle_of_joining_anew_is_nobody";
    in_a_process(test, || {
        let stage = Stage::new();
        let me = Participants::new(4).unwrap().join().unwrap();
        let parents = me.me();
        let pages = mapping_of(me.participants());
        PAGES[0].store(pages[0], Relaxed);
        PAGES[1].store(pages[1], Relaxed);
        ME.store((&raw const me).cast_mut(), Relaxed);
        STAGE.store((&raw const *stage).cast_mut(), Relaxed);
        let pid = fork(|| {
            // SAFETY: the handler touches what is set above, and is async-signal-safe here: the
            // child has one thread, which is not inside of libc when the store faults.
            unsafe {
                let handler = ask_in_the_middle as extern "C" fn(libc::c_int);
                libc::signal(libc::SIGSEGV, handler as libc::sighandler_t);
            }
            protect(libc::PROT_READ);
            let mine = me.me();
            assert_eq!(RUNS.load(Relaxed), 1, "it ran in the middle");
            let seen = ParticipantId::from_bits(SEEN.load(Relaxed));
            assert!(seen.is_anonymous());
            assert!(!mine.is_anonymous() && mine != parents);
            assert_eq!(
                stage.mutex.lock().unwrap()[0],
                1,
                "the handler had the lock"
            );
            assert_eq!(stage.count.load(Relaxed), 1, "and read");
            // And what it is among the others, all can see.
            let caller = Caller::current().among(&me);
            let _guard = stage
                .mutex
                .lock_as(caller, Duration::from_secs(30))
                .unwrap();
            let alive = |entry: &multiprocess_shm::Entry| entry.id == mine && entry.is_alive;
            assert!(me.participants().entries().any(|entry| alive(&entry)));
        });
        assert!(ended_well(pid));
        assert_eq!(me.me(), parents);
    });
}
