//! Owned locks between processes whose owners die: killed anywhere, or in the ways that have
//! broken other robust locks. One test for each of those, by name.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::thread::{Caller, Thread};
use multiprocess_core::{Peers, ShmSafe, Timeout};
use multiprocess_shm::{Participants, Shared};
use multiprocess_sync::{
    Condition, Event, LockError, Mutex, NotOwner, OnceCell, RLock, RawMutex, RwLock,
};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    mutex: Mutex<[u64; 2]>,
    other: RawMutex,
    recursive: RLock,
    table: RwLock<u64, 4>,
    condition: Condition,
    cell: OnceCell<u64>,
    ready: Event,
    go: Event,
    count: AtomicU64,
    tickets: AtomicU32,
}

impl Stage {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            mutex: Mutex::new([0; 2]),
            other: RawMutex::new(),
            recursive: RLock::new(),
            table: RwLock::new(0),
            condition: Condition::new(),
            cell: OnceCell::new(),
            ready: Event::new(),
            go: Event::new(),
            count: AtomicU64::new(0),
            tickets: AtomicU32::new(0),
        })
        .unwrap()
    }

    fn of_the_parent() -> Shared<Self> {
        Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
    }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// The lock from a dead owner, repaired.
fn inherit(mutex: &Mutex<[u64; 2]>) {
    match mutex.lock_timeout(Duration::from_secs(60)) {
        Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
        other => panic!("not an owner's death: {other:?}"),
    }
}

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
        let guard = stage.mutex.lock().unwrap();
        let recursive = stage.recursive.lock().unwrap();
        let fork = |work: &dyn Fn() -> bool| {
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
        assert!(fork(&|| {
            let me = Caller::current();
            stage.mutex.raw().release(&me) == Err(NotOwner)
                && stage.recursive.release() == Err(NotOwner)
                && !stage.recursive.is_owned()
                && stage.mutex.try_lock().is_err()
                && me.thread().held() == 0
        }));
        assert!(stage.recursive.is_owned(), "its parent does, still");
        // It can lock, and die with it, like anybody.
        assert!(fork(&|| {
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
