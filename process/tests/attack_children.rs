//! Attacks on the start and the end of children: streams that are closed, descriptors that have run out,
//! hooks and payloads that panic.

use std::fs;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use multiprocess::owned::Event;
use multiprocess::{
    AtFork, Context, Forkserver, JoinError, Process, RawArray, SpawnError, StartMethod,
    active_children, at_exit, at_fork,
};
use multiprocess_testkit::watchdog::Watchdog;

const LONG: Duration = Duration::from_secs(600);

/// Of each method, whatever the number of threads.
fn context(method: StartMethod) -> Context {
    match method {
        // SAFETY: these tests' children need no lock but malloc's and the standard streams'.
        StartMethod::Fork => unsafe { Context::fork() },
        other => Context::new(other).unwrap(),
    }
}

fn fork() -> Context {
    context(StartMethod::Fork)
}

/// Runs `body` in a process of its own.
fn apart<A, R>(body: impl Fn(A) -> R + Copy + 'static, args: A) -> R
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    let _watchdog = Watchdog::seconds(120);
    let process = Context::spawn_exec().spawn(body, args).unwrap();
    process.join().unwrap()
}

#[test]
fn what_a_child_prints_where_nothing_is_open_goes_to_no_shared_memory() {
    let body = |method: String| {
        let context = Context::new(method.parse().unwrap()).unwrap();
        let print = |shared: [RawArray<u8>; 3]| {
            println!("said");
            eprintln!("complained");
            shared[0].set(0, 7).unwrap();
        };
        let shared = RawArray::<u8>::zeroed(8).unwrap();
        let mut header = [[0; 16]; 2];
        rustix::io::pread(shared.as_fd(), &mut header[0], 0).unwrap();
        for stream in 0..3 {
            // SAFETY: nothing in this process uses the streams any more.
            unsafe { libc::close(stream) };
        }
        let child = context.spawn(print, [(); 3].map(|()| shared.clone()));
        child.unwrap().join().unwrap();
        rustix::io::pread(shared.as_fd(), &mut header[1], 0).unwrap();
        (header[0] == header[1], shared.get(0))
    };
    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        let outcome = apart(body, method.to_string());
        assert_eq!(outcome, (true, Some(7)), "{method}");
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a payload is not to be dropped");
    }
}

#[test]
fn a_payload_that_panics_is_a_panic_and_no_abort() {
    let _watchdog = Watchdog::seconds(120);
    for method in [
        StartMethod::Spawn,
        StartMethod::Forkserver,
        StartMethod::Fork,
    ] {
        let child = context(method).spawn(|()| panic_any(Bomb), ()).unwrap();
        let outcome: Result<(), _> = child.join();
        assert!(
            matches!(outcome, Err(JoinError::Panicked(_))),
            "{outcome:?}"
        );

        let ran = Event::new().unwrap();
        let finalizers = |ran: Event| {
            at_exit(0, move || ran.set());
            at_exit(1, || panic_any(Bomb));
        };
        let child = context(method).spawn(finalizers, ran.clone()).unwrap();
        assert_eq!(child.join().map_err(|error| error.to_string()), Ok(()));
        assert!(ran.is_set());
    }
    let refused = Forkserver::new().preload(|| panic_any(Bomb)).start();
    assert!(matches!(refused, Err(SpawnError::Preload(why)) if why.contains("panicked")));
}

#[test]
fn a_hook_that_panics_in_the_parent_leaves_the_child_alone() {
    let outcome = apart(
        |()| {
            at_fork(AtFork {
                in_parent: Some(|| panic!("on purpose")),
                ..AtFork::default()
            });
            let ran = Event::new().unwrap();
            let run = |ran: Event| ran.set();
            let start = || fork().spawn(run, ran.clone()).map(drop);
            let panicked = catch_unwind(AssertUnwindSafe(start)).is_err();
            let heard = ran.wait_timeout(LONG).is_ok();
            while !active_children().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // SAFETY: asks for a child that was not reaped; there is none.
            let left = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            (panicked, heard, left)
        },
        (),
    );
    assert_eq!(outcome, (true, true, -1));
}

#[test]
fn a_hook_that_panics_in_a_forkserver_ends_no_server() {
    static FORKS: AtomicU32 = AtomicU32::new(0);
    let _watchdog = Watchdog::seconds(120);
    let preload = || {
        at_fork(AtFork {
            before: Some(|| assert_ne!(FORKS.fetch_add(1, Relaxed), 1, "on purpose")),
            in_parent: Some(|| panic!("on purpose")),
            ..AtFork::default()
        });
    };
    let context = Forkserver::new().preload(preload).start().unwrap();
    let start = || context.spawn(|n: u32| n + 1, 1);
    assert_eq!(start().unwrap().join().unwrap(), 2);
    let refused = start().map(drop).unwrap_err().to_string();
    assert!(refused.contains("anceled"), "{refused}");
    assert_eq!(start().unwrap().join().unwrap(), 2);
}

/// A fork when every descriptor is in use opens nothing in the child.
#[test]
fn a_child_forked_without_a_free_descriptor_keeps_no_socket_of_its_siblings() {
    fn sockets(_: ()) -> usize {
        let fds = (0..1024).map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")));
        let is_socket = |link: &std::path::PathBuf| link.to_string_lossy().starts_with("socket:");
        fds.flatten().filter(is_socket).count()
    }
    let (alone, failed, most) = apart(
        |()| {
            let sibling: Process<()> = Context::spawn_exec()
                .spawn(|()| std::thread::sleep(LONG), ())
                .unwrap();
            let alone = fork().spawn(sockets, ()).unwrap().join().unwrap();
            let (mut failed, mut most) = (0, 0);
            for limit in 3..40 {
                set_descriptor_limit(limit);
                let outcome = fork().spawn(sockets, ()).map(Process::join);
                set_descriptor_limit(1024);
                match outcome {
                    Ok(Ok(count)) => most = most.max(count),
                    Ok(Err(error)) => panic!("{error}"),
                    Err(_) => failed += 1,
                }
            }
            sibling.kill().unwrap();
            (alone, failed, most)
        },
        (),
    );
    assert!(failed > 0, "no limit was low enough to test anything");
    assert_eq!(most, alone);
}

fn set_descriptor_limit(limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: 1024,
    };
    // SAFETY: a valid rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}
