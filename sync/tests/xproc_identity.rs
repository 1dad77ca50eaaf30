//! Owned locks whose owners might be taken for somebody else, or somebody else for them: across PID
//! namespaces, `fork`, `exec`, and in threads that libc does not know.
#![cfg(all(not(loom), target_os = "linux"))]

mod stage;

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_core::thread::{Caller, Thread};
use multiprocess_core::{Peers, Timeout};
use multiprocess_shm::Participants;
use multiprocess_sync::{LockError, NotOwner};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;
use stage::{Stage, inherit, sleep_for_ever};

#[test]
fn two_containers_with_the_same_pid_are_told_apart() {
    let test = "two_containers_with_the_same_pid_are_told_apart";
    if let Some(role) = child::role() {
        // SAFETY: changes the PID namespace of children to come.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            let stage = Stage::of_the_parent();
            stage.count.store(1, Relaxed);
            stage.ready.set();
            return;
        }
        #[allow(clippy::disallowed_methods)] // the first process of a namespace is made by fork
        // SAFETY: this process was re-executed for this test, and its other threads only wait.
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            let mut status = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            return;
        }
        let stage = Stage::of_the_parent();
        let table = Participants::attach(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
        let me = table.join().unwrap();
        assert!(!me.share_pid_namespace());
        let caller = Caller::current().among(&me);
        assert_eq!(
            caller.thread().id(),
            1,
            "the first process of its namespace"
        );
        if role == "owner" {
            let _guard = stage.mutex.lock_as(caller, Timeout::Never).unwrap();
            stage.ready.set();
            sleep_for_ever();
        }
        stage.ready.set();
        let _ = stage.mutex.lock_as(caller, Timeout::Never);
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let table = Participants::new(8).unwrap();
    let me = table.join().unwrap();
    let caller = Caller::current().among(&me);
    let run = |role| {
        let child = Child::run(test, role, &[stage.as_fd(), table.as_fd()]);
        stage.ready.wait().unwrap();
        stage.ready.clear();
        child
    };
    let owner = run("owner");
    if stage.count.load(Relaxed) == 1 {
        println!("SKIPPED: this user may not make a PID namespace");
        return;
    }
    let before = table.entries().filter(|entry| entry.is_alive).count();
    let waiter = run("waiter");
    std::thread::sleep(Duration::from_millis(100)); // it sleeps, or soon will
    kill_grandchild(&waiter);
    while table.entries().filter(|entry| entry.is_alive).count() > before {
        std::thread::yield_now();
    }
    // The kernel looked at pid 1's locks when pid 1 of the other namespace died.
    let refused = stage.mutex.lock_as(caller, Duration::from_millis(100));
    assert_eq!(refused.err(), Some(LockError::Timeout), "its owner lives");
    kill_grandchild(&owner);
    match stage.mutex.lock_as(caller, Duration::from_secs(30)) {
        Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
        other => panic!("{other:?}"),
    }
}

/// Kills the first process of the namespace that `child` has made.
fn kill_grandchild(child: &Child) {
    let path = format!("/proc/{0}/task/{0}/children", child.pid());
    // The fork was made by a thread of the test harness.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.pid())).unwrap();
    let mut pids = std::fs::read_to_string(path).unwrap_or_default();
    for task in tasks.flatten() {
        pids += &std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    let pid: i32 = pids.split_whitespace().next().unwrap().parse().unwrap();
    // SAFETY: a process that this test has made, and whose parent has not reaped it.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// A thread that libc knows nothing of: it must not touch thread-local storage.
struct RawThread {
    thread: Thread,
    stage: *const Stage,
}

// SAFETY: used by the raw thread alone, once it is started.
unsafe impl Sync for RawThread {}

extern "C" fn raw_thread(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: a leaked `RawThread`, which the starter does not touch any more.
    let this = unsafe { &*argument.cast::<RawThread>() };
    // SAFETY: the stage outlives the thread: the test waits for its death.
    let stage = unsafe { &*this.stage };
    let _ = stage.other.acquire(&Caller::new(&this.thread), None);
    stage
        .count
        .store(1 + u64::from(this.thread.has_kernel_list()), Relaxed);
    // SAFETY: ends this thread alone, with the lock held.
    unsafe { libc::syscall(libc::SYS_exit, 0) as libc::c_int }
}

#[test]
fn a_thread_that_libc_does_not_know_hands_its_lock_on() {
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let raw = Box::leak(Box::new(RawThread {
        // SAFETY: leaked, and used by the one thread that gets it.
        thread: unsafe { Thread::new() },
        stage: &raw const *stage,
    }));
    let stack = Box::leak(vec![0u128; 16 << 10].into_boxed_slice());
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    // SAFETY: a stack of its own, which is leaked; the function touches no thread-local storage.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        libc::clone(raw_thread, top, flags, (&raw mut *raw).cast())
    };
    assert!(pid > 0);
    while stage.count.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(
        stage.count.load(Relaxed),
        2,
        "it registered a list of its own"
    );
    let me = Caller::current();
    assert_eq!(
        stage.other.acquire(&me, Duration::from_secs(30)),
        Err(LockError::OwnerDied(()))
    );
    stage.other.mark_consistent(&me).unwrap();
    stage.other.release(&me).unwrap();
}

#[test]
fn a_forked_child_owns_none_of_its_parents_locks() {
    let test = "a_forked_child_owns_none_of_its_parents_locks";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let mut guard = Some(stage.mutex.lock().unwrap());
        let recursive = stage.recursive.lock().unwrap();
        stage.parents.acquire(&Caller::current(), None).unwrap();
        let fork = |work: &mut dyn FnMut() -> bool| {
            #[allow(clippy::disallowed_methods)] // forking is what is tested
            // SAFETY: the child works on shared memory and leaves by _exit.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let code = i32::from(!work());
                // SAFETY: ends the child.
                unsafe { libc::_exit(code) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            status == 0
        };
        assert!(fork(&mut || {
            let me = Caller::current();
            drop(guard.take()); // the child's copy
            stage.parents.release(&me) == Err(NotOwner)
                && stage.recursive.release() == Err(NotOwner)
                && !stage.recursive.is_owned()
                && stage.mutex.try_lock().is_err()
                && me.thread().held() == 0
        }));
        assert!(stage.recursive.is_owned(), "its parent does, still");
        // It can lock, and die with it, like anybody.
        assert!(fork(&mut || {
            let me = Caller::current();
            stage.other.acquire(&me, None).is_ok()
        }));
        let me = Caller::current();
        assert_eq!(
            stage.other.acquire(&me, None),
            Err(LockError::OwnerDied(()))
        );
        stage.other.mark_consistent(&me).unwrap();
        stage.other.release(&me).unwrap();
        drop((recursive, guard));
        stage.parents.release(&me).unwrap();
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    assert!(
        Child::run(test, "parent", &[stage.as_fd()])
            .wait()
            .success()
    );
    drop(stage.mutex.lock().unwrap());
}

/// Locks in a process of one thread, and executes something else.
fn lock_and_exec(stage: &Stage) -> ! {
    let _guard = stage.mutex.lock().unwrap();
    // SAFETY: nothing of the harness outlives the parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    stage.ready.set();
    stage.go.wait().unwrap();
    let error = std::process::Command::new("sleep").arg("60").exec();
    panic!("{error}");
}

#[test]
fn exec_with_a_held_lock_is_an_owners_death() {
    let test = "exec_with_a_held_lock_is_an_owners_death";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        #[allow(clippy::disallowed_methods)] // the forked child has one thread, its main one
        // SAFETY: it locks and executes.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            lock_and_exec(&stage);
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let mut owner = Child::run(test, "owner", &[stage.as_fd()]);
    stage.ready.wait().unwrap();
    stage.go.set();
    inherit(&stage.mutex);
    assert!(owner.wait_timeout(Duration::ZERO).is_none(), "it lives");
}

#[test]
fn exec_by_a_second_thread_is_found_out_by_the_participants() {
    // The kernel gives that thread the main thread's id before it looks for the old one.
    let test = "exec_by_a_second_thread_is_found_out_by_the_participants";
    if child::role().is_some() {
        let stage = Stage::of_the_parent();
        let table = Participants::attach(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
        let me = table.join().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let caller = Caller::current().among(&me);
                let _guard = stage.mutex.lock_as(caller, Timeout::Never).unwrap();
                stage.ready.set();
                stage.go.wait().unwrap();
                let error = std::process::Command::new("sleep").arg("60").exec();
                panic!("{error}");
            });
        });
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let stage = Stage::new();
    let table = Participants::new(4).unwrap();
    let me = table.join().unwrap();
    let _owner = Child::run(test, "owner", &[stage.as_fd(), table.as_fd()]);
    stage.ready.wait().unwrap();
    stage.go.set();
    let caller = Caller::current().among(&me);
    match stage.mutex.lock_as(caller, Duration::from_secs(50)) {
        Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
        other => panic!("{other:?}"),
    }
}
