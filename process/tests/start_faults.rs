//! Faults that were found by attacking the start methods, and must not come back. Each test
//! hung, leaked or lost an error before.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::parent_id;
use std::thread::sleep;
use std::time::{Duration, Instant};

use multiprocess::{Context, JoinError, Process, RawArray, StartMethod, Timeout, transfer::Fd};

const FRESH: [StartMethod; 2] = [StartMethod::Forkserver, StartMethod::Spawn];
const LONG: Duration = Duration::from_secs(600);
/// A generous watchdog, where the right answer takes milliseconds.
const WATCHDOG: Duration = Duration::from_secs(20);
/// How long two threads race for a deadlock that took less than a second to show.
const RACE: Duration = Duration::from_secs(2);

/// A test that hangs is killed by SIGALRM.
fn alarm() {
    // SAFETY: sets a timer.
    unsafe { libc::alarm(120) };
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: sends a signal to a process that this test started.
    unsafe { libc::kill(pid as i32, signal) };
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1));
    }
}

/// Gone, or a zombie that nobody has reaped.
fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn null() -> OwnedFd {
    fs::File::open("/dev/null").unwrap().into()
}

fn set_descriptor_limit(limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: 1024,
    };
    // SAFETY: a valid rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Forks whatever the number of threads.
fn fork() -> Context {
    // SAFETY: what these tests run in such children needs no lock but malloc's.
    unsafe { Context::fork() }
}

/// Runs `body` in a process of its own, whose limits and servers it may ruin; fails if it takes
/// longer than the watchdog.
fn apart<R>(body: impl Fn(()) -> R + Copy + 'static) -> R
where
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    alarm();
    let mut process = Context::spawn_exec().spawn(body, ()).unwrap();
    let result = process.join_timeout(WATCHDOG);
    process.kill().unwrap();
    result.expect("it hangs").unwrap()
}

#[test]
fn a_daemon_that_holds_stdout_dies_with_its_parent() {
    alarm();
    for method in FRESH {
        let pids = RawArray::<u32>::zeroed(1).unwrap();
        let parent = |(method, pids): (String, RawArray<u32>)| {
            let context = Context::new(method.parse().unwrap()).unwrap().daemon(true);
            let hold = |pids: RawArray<u32>| {
                let _stdout = std::io::stdout().lock();
                pids.set(0, std::process::id()).unwrap();
                sleep(LONG);
            };
            let _daemon = context.spawn(hold, pids).unwrap();
            sleep(LONG);
        };
        let parent = Context::spawn_exec()
            .spawn(parent, (method.to_string(), pids.clone()))
            .unwrap();
        wait_until(|| pids.get(0) != Some(0));
        parent.kill().unwrap();
        wait_until(|| has_ended(pids.get(0).unwrap()));
    }
}

#[test]
fn a_thread_left_behind_with_stdout_does_not_keep_a_child() {
    alarm();
    let leave = |()| {
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _stdout = std::io::stdout().lock();
            said.send(()).unwrap();
            sleep(LONG);
        });
        heard.recv().unwrap();
        7
    };
    assert_eq!(
        Context::spawn_exec()
            .spawn(leave, ())
            .unwrap()
            .join()
            .unwrap(),
        7
    );
}

#[test]
fn the_watcher_of_a_daemon_runs_no_signal_handlers() {
    let masks = |()| {
        sleep(Duration::from_millis(100)); // a thread begins with all blocked, by libc
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let read = |file| move |task: &fs::DirEntry| fs::read_to_string(task.path().join(file));
        tasks
            .map(Result::unwrap)
            .filter(|task| read("comm")(task).unwrap().starts_with("multiprocess"))
            .map(|task| read("status")(&task).unwrap())
            .collect::<Vec<_>>()
    };
    alarm();
    let daemon = Context::spawn_exec().daemon(true);
    let statuses = daemon.spawn(masks, ()).unwrap().join().unwrap();
    assert_eq!(statuses.len(), 1);
    assert!(!statuses[0].contains("SigBlk:\t0000000000000000"));
}

#[test]
fn a_stopped_forkserver_does_not_stretch_a_deadline() {
    alarm();
    let context = Context::forkserver().unwrap();
    let server = context.spawn(|()| parent_id(), ()).unwrap().join().unwrap();
    let mut child = context.spawn(|()| sleep(LONG), ()).unwrap();
    signal(server, libc::SIGSTOP);
    child.kill().unwrap();
    wait_until(|| !child.is_alive());
    // Returns at all: it waited for the server's report whatever the deadline.
    assert!(child.join_timeout(Timeout::TRY).is_none());
    assert_eq!(child.exit_code().unwrap(), None);
    signal(server, libc::SIGCONT);
    assert!(matches!(child.join(), Err(JoinError::Exited(-9))));
}

#[test]
fn exit_codes_outlive_the_forkserver() {
    alarm();
    let context = Context::forkserver().unwrap();
    let server = context.spawn(|()| parent_id(), ()).unwrap().join().unwrap();
    let exit = |()| {
        wait_until(|| has_ended(parent_id()) || parent_id() == 1);
        std::process::exit(5)
    };
    let mut child: Process<()> = context.spawn(exit, ()).unwrap();
    signal(server, libc::SIGKILL);
    let code = child.wait_timeout(Timeout::Never).unwrap();
    // 255 before Linux 6.15, or where nobody reaps orphans.
    assert!(matches!(code, Some(5 | 255)), "{code:?}");
    if kernel_tells() {
        assert_eq!(code, Some(5));
    }
}

/// Whether this kernel tells the exit code of a process that another one reaped, and this
/// machine's init reaps.
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[test]
fn descriptors_that_do_not_fit_are_an_error_and_not_a_hang() {
    let said = apart(|()| {
        let child = Context::spawn_exec()
            .spawn(
                |()| {
                    let fds: Vec<Fd> = (0..200).map(|_| Fd::from(null())).collect();
                    (fds, vec![7u8; 8 << 20]) // more than the socket holds
                },
                (),
            )
            .unwrap();
        set_descriptor_limit(40);
        child.join().map(drop).unwrap_err().to_string()
    });
    assert!(said.contains("open files"), "{said}");
}

#[test]
fn a_blocked_signal_is_not_handed_on_by_the_forkserver() {
    alarm();
    let start = || {
        // SAFETY: all zeroes are a valid set, to which a valid signal is added; the mask is
        // this thread's, which ends.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        Context::forkserver().unwrap()
    };
    let context = std::thread::spawn(start).join().unwrap();
    let child = context.spawn(|()| sleep(LONG), ()).unwrap();
    child.terminate().unwrap();
    assert!(matches!(child.join(), Err(JoinError::Exited(-15))));
}

#[test]
fn an_ignored_sigchld_loses_no_exit_code() {
    let codes = apart(|()| {
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        // The forkserver's own: it reaps, and is no heir of ours.
        let child = Context::default().spawn(|()| std::process::exit(5), ());
        child
            .map(|child: Process<()>| child.join().unwrap_err().to_string())
            .unwrap()
    });
    assert!(codes.contains('5'), "{codes}");
}

#[test]
fn a_forkserver_killed_a_moment_ago_is_replaced() {
    apart(|()| {
        for _ in 0..20 {
            let server = Context::default().spawn(|()| parent_id(), ());
            signal(server.unwrap().join().unwrap(), libc::SIGKILL);
        }
    });
}

#[test]
fn forks_and_restarts_of_the_forkserver_do_not_deadlock() {
    apart(|()| {
        let end = Instant::now() + RACE;
        let restart = move || {
            while Instant::now() < end {
                let server = Context::default().spawn(|()| parent_id(), ());
                signal(server.unwrap().join().unwrap(), libc::SIGKILL);
            }
        };
        let thread = std::thread::spawn(restart);
        while Instant::now() < end {
            fork().spawn(|()| (), ()).unwrap().join().unwrap();
        }
        thread.join().unwrap();
    });
}

#[test]
fn forks_and_spawns_under_a_stdout_lock_do_not_deadlock() {
    apart(|()| {
        let end = Instant::now() + RACE;
        let spawn = move || {
            while Instant::now() < end {
                let _stdout = std::io::stdout().lock();
                drop(Context::spawn_exec().spawn(|()| (), ()).unwrap());
            }
        };
        let thread = std::thread::spawn(spawn);
        while Instant::now() < end {
            fork().spawn(|()| (), ()).unwrap().join().unwrap();
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_forked_child_keeps_no_socket_of_its_siblings() {
    fn sockets(_: ()) -> usize {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    }
    let leaks = apart(|()| {
        let end = Instant::now() + RACE;
        let spawn = move || {
            while Instant::now() < end {
                let child = Context::spawn_exec().spawn(|()| (), ());
                child.unwrap().join().unwrap();
            }
        };
        let alone = fork().spawn(sockets, ()).unwrap().join().unwrap();
        let thread = std::thread::spawn(spawn);
        let mut leaks = 0;
        while Instant::now() < end {
            leaks += usize::from(fork().spawn(sockets, ()).unwrap().join().unwrap() > alone);
        }
        thread.join().unwrap();
        leaks
    });
    assert_eq!(leaks, 0);
}

#[test]
fn the_forkserver_ends_with_its_client_though_a_forked_child_lives() {
    alarm();
    let pids = RawArray::<u32>::zeroed(2).unwrap();
    let client = |pids: RawArray<u32>| {
        let server = Context::default().spawn(|()| parent_id(), ());
        pids.set(0, server.unwrap().join().unwrap()).unwrap();
        let forked = fork().spawn(|()| sleep(LONG), ()).unwrap();
        pids.set(1, forked.pid() as u32).unwrap();
        sleep(LONG);
    };
    let client = Context::spawn_exec().spawn(client, pids.clone()).unwrap();
    wait_until(|| pids.get(1) != Some(0));
    client.kill().unwrap();
    wait_until(|| has_ended(pids.get(0).unwrap()));
    signal(pids.get(1).unwrap(), libc::SIGKILL);
}

#[test]
fn a_spawn_without_descriptors_leaves_no_zombie() {
    let failures = apart(|()| {
        let context = Context::spawn_exec();
        let highest = null();
        let used = std::os::fd::AsRawFd::as_raw_fd(&highest) as u64;
        let mut failures = 0;
        for limit in used..used + 8 {
            set_descriptor_limit(limit);
            let outcome = context.spawn(|()| (), ());
            set_descriptor_limit(1024);
            match outcome {
                Ok(child) => drop(child.join()),
                Err(_) => failures += 1,
            }
            // SAFETY: a valid place for the result; nothing is reaped.
            let (found, info) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                (libc::waitid(libc::P_ALL, 0, &mut info, flags), info)
            };
            // SAFETY: zeroed, and filled in by waitid.
            let ended = unsafe { info.si_pid() };
            // No child at all, or none that has ended.
            assert!(found == -1 || ended == 0, "limit {limit}");
        }
        failures
    });
    assert!(failures > 0, "no limit was low enough to test anything");
}

#[test]
fn arguments_without_descriptors_say_so() {
    let said = apart(|()| {
        let fd = Fd::from(null());
        set_descriptor_limit(16);
        let _all: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        let error = Context::spawn_exec().spawn(|_: Fd| (), fd);
        error.map(drop).unwrap_err().to_string()
    });
    assert!(said.contains("open files"), "{said}");
}

#[test]
fn a_child_that_nobody_initialised_cannot_spawn() {
    let said = apart(|()| {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("MULTIPROCESS_CHILD", "child") };
        [Context::default(), Context::spawn_exec(), fork()]
            .map(|context| {
                context
                    .spawn(|()| (), ())
                    .map(drop)
                    .unwrap_err()
                    .to_string()
            })
            .join("\n")
    });
    assert_eq!(said.matches("init() has not run").count(), 3, "{said}");
}

#[test]
fn a_kill_in_the_middle_of_a_result_is_told() {
    alarm();
    for method in FRESH {
        for delay in [0, 300, 1_000, 3_000, 10_000, 40_000] {
            let context = Context::new(method).unwrap();
            let child = context.spawn(|()| vec![1u8; 64 << 20], ()).unwrap();
            sleep(Duration::from_micros(delay));
            child.kill().unwrap();
            match child.join() {
                Ok(bytes) => assert_eq!(bytes.len(), 64 << 20),
                Err(error) => assert!(matches!(error, JoinError::Exited(-9)), "{error:?}"),
            }
        }
    }
}
