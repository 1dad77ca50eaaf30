//! One suite, three start methods: the same code behaves the same.
//!
//! `fork` needs a process with one thread, which libtest has not: those tests run their body
//! in a child made by `spawn`, whose only thread then forks.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use multiprocess::sync::{Event, Lock};
use multiprocess::{
    Context, JoinError, Process, RawArray, Shared, SpawnError, StartMethod, Timeout, bytes, spsc,
    transfer,
};
use multiprocess_testkit::watchdog::Watchdog;

/// Runs `body` with a context of each method. `body` panics if something is wrong.
fn for_each_method(body: fn(StartMethod)) {
    for method in [StartMethod::Forkserver, StartMethod::Spawn] {
        body(method);
    }
}

/// Declares a test that runs `$body` under all three methods.
macro_rules! under_all_methods {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            let _watchdog = watchdog();
            for_each_method($body);
            fn forked(method: StartMethod) {
                let body: fn(StartMethod) = $body;
                body(method)
            }
            Context::spawn_exec()
                .spawn(
                    |name: String| forked(name.parse().unwrap()),
                    "fork".to_owned(),
                )
                .unwrap()
                .join()
                .unwrap();
        }
    };
}

/// Over every test: one that hangs is named, and ends the run.
fn watchdog() -> Watchdog {
    Watchdog::seconds(120)
}

fn context(method: StartMethod) -> Context {
    Context::new(method).unwrap()
}

fn start<A, R>(method: StartMethod, f: impl Fn(A) -> R + Copy + 'static, args: A) -> Process<R>
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    context(method).spawn(f, args).unwrap()
}

under_all_methods!(arguments_and_results_travel, |method| {
    let process = start(
        method,
        |(a, b): (u64, String)| (b.len() as u64 + a, b + "!"),
        (40, "hi".to_owned()),
    );
    assert_eq!(process.join().unwrap(), (42, "hi!".to_owned()));
});

under_all_methods!(it_is_another_process, |method| {
    let process = start(method, |()| std::process::id(), ());
    let pid = process.pid();
    let said = process.join().unwrap();
    assert_eq!(said as i32, pid);
    assert_ne!(said, std::process::id());
});

under_all_methods!(a_panic_is_an_error, |method| {
    let mut process = start(method, |n: u32| -> u32 { panic!("on purpose {n}") }, 7);
    let error = process.join_timeout(Timeout::Never).unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Panicked(why) if why == "on purpose 7"));
    assert_eq!(process.exit_code().unwrap(), Some(101));
});

under_all_methods!(an_exit_code_passes_through, |method| {
    let process = start(method, |code: i32| std::process::exit(code), 3);
    let error = process.join().map(|never: ()| never).unwrap_err();
    assert!(matches!(error, JoinError::Exited(3)), "{error:?}");
});

under_all_methods!(terminate_and_kill_are_told_by_their_signal, |method| {
    let sleep = |()| std::thread::sleep(Duration::from_secs(600));
    for (send, signal) in [
        (Process::terminate as fn(&Process<()>) -> _, 15),
        (Process::kill, 9),
    ] {
        let mut process = start(method, sleep, ());
        assert!(process.is_alive());
        assert_eq!(process.exit_code().unwrap(), None);
        send(&process).unwrap();
        let error = process.join_timeout(Timeout::Never).unwrap().unwrap_err();
        assert!(matches!(error, JoinError::Exited(code) if code == -signal));
        assert_eq!(process.exit_code().unwrap(), Some(-signal));
        assert!(!process.is_alive());
        send(&process).unwrap(); // the dead mind no signals
    }
});

under_all_methods!(join_with_a_timeout_keeps_the_handle, |method| {
    let go = Shared::new(Event::new()).unwrap();
    let wait = |go: Shared<Event>| go.wait().map(|()| 7).unwrap();
    let mut process = start(method, wait, go.clone());
    assert!(process.join_timeout(Timeout::TRY).is_none());
    assert!(process.join_timeout(Duration::from_millis(30)).is_none());
    go.set();
    assert_eq!(process.join_timeout(Timeout::Never).unwrap().unwrap(), 7);
    let again = process.join_timeout(Timeout::Never).unwrap();
    assert!(matches!(again, Err(JoinError::AlreadyJoined)));
});

under_all_methods!(large_arguments_and_results_do_not_jam, |method| {
    let reverse = |mut bytes: Vec<u8>| {
        bytes.reverse();
        bytes
    };
    let bytes: Vec<u8> = (0..700_000u32).map(|i| i as u8).collect();
    let mut result = start(method, reverse, bytes.clone()).join().unwrap();
    result.reverse();
    assert!(result == bytes);
});

under_all_methods!(six_hundred_descriptors_fit_one_call, |method| {
    let count = |fds: Vec<transfer::Fd>| {
        let open = fds.iter().all(|fd| is_open(fd.as_fd()));
        (fds.len(), open)
    };
    let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let fds: Vec<_> = (0..600).map(|_| transfer::Fd::from(fd())).collect();
    assert_eq!(start(method, count, fds).join().unwrap(), (600, true));
});

fn is_open(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    fd.try_clone_to_owned().is_ok()
}

under_all_methods!(handles_travel_both_ways, |method| {
    type Work = (
        spsc::Consumer<u64>,
        bytes::Producer,
        Shared<Lock>,
        RawArray<u64>,
    );
    let work = |(mut jobs, mut results, lock, totals): Work| {
        while let Ok(job) = jobs.pop() {
            let _guard = lock.lock().unwrap();
            totals.set(0, totals.get(0).unwrap() + job).unwrap();
            results.push(format!("job {job}").as_bytes()).unwrap();
        }
        // A handle made in the child outlives it in the parent.
        let made_here = RawArray::from_slice(&[totals.get(0).unwrap()]).unwrap();
        (made_here, jobs)
    };
    let (mut producer, consumer) = spsc::channel(4).unwrap();
    let (sender, mut receiver) = bytes::channel(256).unwrap();
    let lock = Shared::new(Lock::new()).unwrap();
    let totals = RawArray::<u64>::zeroed(1).unwrap();
    let args = (consumer, sender, lock.clone(), totals.clone());
    let process = start(method, work, args);
    for job in 1..=100 {
        producer.push(job).unwrap();
        let record = receiver.peek().unwrap();
        assert_eq!(&*record, format!("job {job}").as_bytes());
        record.release();
    }
    producer.close();
    let (made_there, mut jobs) = process.join().unwrap();
    assert_eq!(made_there.get(0), Some(5050));
    assert_eq!(totals.get(0), Some(5050));
    assert!(jobs.pop().is_err(), "the end came back, and is at its end");
});

under_all_methods!(children_have_children, |method| {
    let nested = |(method, depth): (String, u32)| -> u32 {
        fn nest(method: String, depth: u32) -> u32 {
            if depth == 0 {
                return 1;
            }
            let context = Context::new(method.parse().unwrap()).unwrap();
            let child = context
                .spawn(|(m, d): (String, u32)| nest(m, d), (method, depth - 1))
                .unwrap();
            1 + child.join().unwrap()
        }
        nest(method, depth)
    };
    let process = start(method, nested, (method.to_string(), 2));
    assert_eq!(process.join().unwrap(), 3);
});

under_all_methods!(the_sentinel_polls, |method| {
    let go = Shared::new(Event::new()).unwrap();
    let process = start(method, |go: Shared<Event>| go.wait().unwrap(), go.clone());
    assert!(!readable(&process, 0));
    go.set();
    assert!(readable(&process, -1));
});

fn readable<R>(process: &Process<R>, timeout_ms: i32) -> bool {
    let mut fd = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&process.as_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut fd, 1, timeout_ms) == 1 }
}

under_all_methods!(a_grandchild_that_keeps_the_socket_hangs_nobody, |method| {
    // `sleep` inherits nothing (close-on-exec); a forked grandchild inherits everything.
    let process = start(
        method,
        |()| {
            #[allow(clippy::disallowed_methods)] // a grandchild that this crate knows nothing of
            // SAFETY: the child has one thread unless it is a daemon; the grandchild calls
            // only async-signal-safe functions.
            unsafe {
                if libc::fork() == 0 {
                    libc::sleep(30);
                    libc::_exit(0);
                }
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
        },
        (),
    );
    let error = process.join().unwrap_err();
    assert!(matches!(error, JoinError::Exited(-9)), "{error:?}");
});

under_all_methods!(daemons_die_with_their_parent, |method| {
    // This child is the parent; it is killed, and its daemon must go too.
    let parent = |(name, pids): (String, RawArray<u32>)| {
        let context = Context::new(name.parse().unwrap()).unwrap().daemon(true);
        let sleep = |()| std::thread::sleep(Duration::from_secs(600));
        let daemon = context.spawn(sleep, ()).unwrap();
        pids.set(0, daemon.pid() as u32).unwrap();
        std::thread::sleep(Duration::from_secs(600));
    };
    let pids = RawArray::<u32>::zeroed(1).unwrap();
    let process = start(method, parent, (method.to_string(), pids.clone()));
    wait_until(|| pids.get(0) != Some(0));
    let daemon = pids.get(0).unwrap();
    assert!(std::fs::metadata(format!("/proc/{daemon}")).is_ok());
    process.kill().unwrap();
    wait_until(|| has_ended(daemon));
});

under_all_methods!(stopped_daemons_die_with_their_parent, |method| {
    // The parent starts its daemon from its main thread, where this closure runs.
    let parent = |(name, pids): (String, RawArray<u32>)| {
        let context = Context::new(name.parse().unwrap()).unwrap().daemon(true);
        let report = |pids: RawArray<u32>| {
            pids.set(0, std::process::id()).unwrap();
            std::thread::sleep(Duration::from_secs(600));
        };
        let _daemon = context.spawn(report, pids).unwrap();
        std::thread::sleep(Duration::from_secs(600));
    };
    let pids = RawArray::<u32>::zeroed(1).unwrap();
    let process = start(method, parent, (method.to_string(), pids.clone()));
    wait_until(|| pids.get(0) != Some(0));
    let daemon = pids.get(0).unwrap();
    // SAFETY: no memory involved; a process that this test started.
    unsafe { libc::kill(daemon as i32, libc::SIGSTOP) };
    process.kill().unwrap();
    wait_until(|| has_ended(daemon));
});

#[test]
fn a_daemon_outlives_its_forkservers_context() {
    let _watchdog = watchdog();
    let go = Shared::new(Event::new()).unwrap();
    let wait = |go: Shared<Event>| go.wait().map(|()| 7).unwrap();
    let context = Context::forkserver().unwrap().daemon(true);
    let mut daemon = context.spawn(wait, go.clone()).unwrap();
    drop(context); // the server sees the end of its requests; we go on
    assert!(daemon.join_timeout(Duration::from_millis(200)).is_none());
    go.set();
    assert_eq!(daemon.join().unwrap(), 7);
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Gone, or a zombie that nobody has reaped.
fn has_ended(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

under_all_methods!(no_zombies_pile_up, |method| {
    for _ in 0..20 {
        drop(start(method, |()| (), ()));
    }
    // Each spawn reaps what has ended.
    wait_until(|| {
        start(method, |()| (), ()).join().unwrap();
        zombies() == 0
    });
});

fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stat_of =
        |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| stat_of(entry.ok()?))
        .filter(|stat| {
            let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
            fields[0] == "Z" && fields[1] == own
        })
        .count()
}

#[test]
fn fork_refuses_threads() {
    let _watchdog = watchdog();
    // libtest runs this test in a thread of its own.
    let error = Context::new(StartMethod::Fork).unwrap_err();
    assert!(matches!(error, SpawnError::Threads(n) if n > 1));
}

#[test]
fn forked_children_of_a_printing_process_can_print() {
    let _watchdog = watchdog();
    Context::spawn_exec()
        .spawn(print_and_fork, ())
        .unwrap()
        .join()
        .unwrap();
}

fn print_and_fork(_: ()) {
    for _ in 0..2 {
        std::thread::spawn(|| {
            loop {
                eprint!("");
                print!("");
            }
        });
    }
    // SAFETY: the children need the standard streams' locks only.
    let context = unsafe { Context::fork() };
    for i in 0..50 {
        let child = context.spawn(|i: u32| print!("{}", if i > 99 { "?" } else { "" }), i);
        child.unwrap().join().unwrap();
    }
}

#[test]
fn a_closure_may_capture_when_forked() {
    let _watchdog = watchdog();
    let value = [1u64, 2, 3];
    // SAFETY: the child needs no lock of libtest's other threads.
    let process = unsafe { Context::fork().fork_closure(|| value.iter().sum::<u64>()) };
    assert_eq!(process.unwrap().join().unwrap(), 6);
}

#[test]
fn a_default_context_restarts_a_dead_forkserver() {
    let _watchdog = watchdog();
    Context::spawn_exec()
        .spawn(kill_the_server, ())
        .unwrap()
        .join()
        .unwrap();
}

fn kill_the_server(_: ()) {
    let parent_of = |_| std::os::unix::process::parent_id();
    let server = Context::default()
        .spawn(parent_of, ())
        .unwrap()
        .join()
        .unwrap();
    let own = Context::forkserver().unwrap();
    let own_server = own.spawn(parent_of, ()).unwrap().join().unwrap();
    assert_ne!(server, own_server);

    // SAFETY: the servers are children of ours.
    unsafe { libc::kill(server as i32, libc::SIGKILL) };
    wait_until(|| has_ended(server));
    let next = Context::default()
        .spawn(parent_of, ())
        .unwrap()
        .join()
        .unwrap();
    assert_ne!(next, server);

    // A context with a server of its own says that it is dead.
    // SAFETY: as above.
    unsafe { libc::kill(own_server as i32, libc::SIGKILL) };
    wait_until(|| has_ended(own_server));
    let error = own.spawn(parent_of, ()).unwrap_err();
    assert!(matches!(error, SpawnError::System(_)), "{error:?}");
}

#[test]
fn an_exit_code_survives_the_forkserver() {
    let _watchdog = watchdog();
    let context = Context::forkserver().unwrap();
    let mut child = context
        .spawn(
            |()| {
                std::thread::sleep(Duration::from_millis(200));
                std::process::exit(5)
            },
            (),
        )
        .map(|process: Process<()>| process)
        .unwrap();
    let ask = |_| std::os::unix::process::parent_id();
    let server = context.spawn(ask, ()).unwrap().join().unwrap();
    // SAFETY: the server is a child of ours.
    unsafe { libc::kill(server as i32, libc::SIGKILL) };
    let code = child.wait_timeout(Timeout::Never).unwrap().unwrap();
    // The kernel knows (Linux 6.15), or nobody does.
    assert!(matches!(code, 5 | 255), "{code}");
}

#[test]
fn contexts_are_named_and_names_unique() {
    let _watchdog = watchdog();
    let named = Context::default()
        .named("worker")
        .spawn(|()| (), ())
        .unwrap();
    assert_eq!(named.name(), "worker");
    let (a, b) = (
        Context::default().spawn(|()| (), ()).unwrap(),
        Context::default().spawn(|()| (), ()).unwrap(),
    );
    assert_ne!(a.name(), b.name());
    assert!(format!("{a:?}").contains(a.name()));
}

#[test]
fn unknown_start_methods_are_refused() {
    let _watchdog = watchdog();
    let error = "thread".parse::<StartMethod>().unwrap_err();
    assert!(error.to_string().contains("\"thread\""));
}

#[test]
fn arguments_that_cannot_be_sent_are_an_error() {
    let _watchdog = watchdog();
    let (mut producer, _consumer) = spsc::channel::<u64>(4).unwrap();
    producer.close();
    let error = Context::default().spawn(|_: spsc::Producer<u64>| (), producer);
    assert!(matches!(error.unwrap_err(), SpawnError::Arguments(_)));
}
