//! Many children: from many threads, one after another, at a time; beside threads that print and
//! allocate; beside somebody else who reaps. Nothing is left, counted.
//!
//! `MULTIPROCESS_LONG=1` takes the numbers that a release is held to.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use multiprocess::owned::Event;
use multiprocess::{
    Context, JoinError, Process, RawArray, StartMethod, Stdio, Timeout, active_children,
};
use multiprocess_testkit::watchdog::Watchdog;

const LONG: Duration = Duration::from_secs(600);

/// `short`, or what a release is held to.
fn scaled(short: usize, long: usize) -> usize {
    match std::env::var_os("MULTIPROCESS_LONG") {
        Some(_) => long,
        None => short,
    }
}

/// Of each method, whatever the number of threads.
fn context(method: StartMethod) -> Context {
    match method {
        // SAFETY: these tests' children need no lock but malloc's and the standard streams'.
        StartMethod::Fork => unsafe { Context::fork() },
        other => Context::new(other).unwrap(),
    }
}

/// Runs `body` for each method, in a process of its own each, whose children and descriptors can be
/// counted.
fn apart(body: impl Fn(StartMethod) + Copy + 'static) {
    let _watchdog = Watchdog::seconds(300);
    for method in StartMethod::ALL {
        let run = move |name: String| body(name.parse().unwrap());
        let process = Context::spawn_exec()
            .spawn(run, method.to_string())
            .unwrap();
        process
            .join()
            .unwrap_or_else(|error| panic!("{method}: {error}"));
    }
}

/// What this process has open, by what it is.
fn open() -> Vec<PathBuf> {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let mut open: Vec<_> = fds
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|link| !link.to_string_lossy().contains("/fd"))
        .collect();
    open.sort();
    open
}

/// Descriptors of another process.
fn open_by(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let entries = fs::read_dir("/proc").unwrap();
    let dead = |stat: &String| {
        let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[0] == "Z" && fields[1] == own
    };
    entries
        .filter_map(|entry| stat(entry.ok()?))
        .filter(dead)
        .count()
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn double((n, _shared): (usize, RawArray<u64>)) -> usize {
    2 * n
}

#[test]
fn nothing_is_left_of_many() {
    apart(|method| {
        let context = context(method);
        let server = context.spawn(|()| std::os::unix::process::parent_id(), ());
        let server = server.unwrap().join().unwrap();
        let shared = RawArray::<u64>::zeroed(8).unwrap();
        let (before, servers) = (open(), open_by(server));
        for n in 0..scaled(100, 1000) {
            let process = context.spawn(double, (n, shared.clone())).unwrap();
            assert_eq!(process.join().unwrap(), 2 * n);
        }
        assert_eq!((open(), zombies()), (before.clone(), 0), "in sequence");
        let go = Event::new().unwrap();
        let wait = |(go, n): (Event, usize)| {
            go.wait().unwrap();
            n
        };
        let count = scaled(40, 200);
        let start = |n| context.spawn(wait, (go.clone(), n)).unwrap();
        let all: Vec<Process<usize>> = (0..count).map(start).collect();
        assert_eq!(active_children().len(), count);
        go.set();
        for (n, process) in all.into_iter().enumerate() {
            assert_eq!(process.join().unwrap(), n);
        }
        // Dropped ones are reaped by whoever looks.
        for _ in 0..10 {
            drop(context.spawn(|()| (), ()).unwrap());
        }
        wait_until(|| active_children().is_empty());
        drop(go);
        assert_eq!((open(), zombies()), (before, 0), "at a time");
        if method == StartMethod::Forkserver {
            // Fewer, if the first child's were still counted before.
            wait_until(|| open_by(server) <= servers);
        }
    });
}

#[test]
fn sixteen_threads_start_at_once() {
    apart(|method| {
        for threads in [1, 16] {
            let work = move |thread: usize| {
                for n in 0..scaled(4, 20) {
                    let shared = RawArray::zeroed(1).unwrap();
                    let process = context(method).spawn(double, (thread + n, shared));
                    assert_eq!(process.unwrap().join().unwrap(), 2 * (thread + n));
                }
            };
            let all: Vec<_> = (0..threads)
                .map(|n| std::thread::spawn(move || work(n)))
                .collect();
            for thread in all {
                thread.join().unwrap();
            }
        }
        assert_eq!((active_children().len(), zombies()), (0, 0));
    });
}

#[test]
fn forks_beside_threads_that_print_and_allocate_all_finish() {
    let _watchdog = Watchdog::seconds(300);
    let parent = |()| {
        for _ in 0..2 {
            std::thread::spawn(|| {
                for n in 0.. {
                    print!("{}", "x".repeat(n % 3000));
                    eprint!("{n}");
                }
            });
            std::thread::spawn(|| {
                for n in 0.. {
                    let blocks: Vec<Vec<u8>> = (0..20).map(|k| vec![1; (n * k) % 9000]).collect();
                    std::hint::black_box(blocks);
                }
            });
        }
        let child = |n: usize| {
            let text = "y".repeat(1 + n % 2000);
            println!("{text}");
            eprintln!("{n}");
            text.len()
        };
        // SAFETY: the children need malloc's lock and those of the standard streams.
        let context = unsafe { Context::fork() };
        for n in 0..300 {
            let process = context.spawn(child, n).unwrap();
            assert!(process.join().unwrap() > 0);
        }
        300
    };
    let quiet = Context::spawn_exec()
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert_eq!(quiet.spawn(parent, ()).unwrap().join().unwrap(), 300);
}

/// Whether the kernel tells the exit code of a process that somebody else reaped (Linux 6.15).
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// Results arrive, and exit codes as far as the kernel tells.
fn all_are_told(method: StartMethod) {
    let context = context(method);
    for n in 0..scaled(20, 300) {
        let shared = RawArray::zeroed(1).unwrap();
        assert_eq!(
            context.spawn(double, (n, shared)).unwrap().join().unwrap(),
            2 * n
        );
        let exit = |code: i32| std::process::exit(code);
        let process = context.spawn(exit, 5).map(|process: Process<()>| process);
        match process.unwrap().join() {
            Err(JoinError::Exited(5)) => {}
            Err(JoinError::Exited(255)) if !kernel_tells() => {}
            other => panic!("{other:?}"),
        }
        let process = context.spawn(|()| std::thread::sleep(LONG), ()).unwrap();
        process.kill().unwrap();
        match process.join() {
            Err(JoinError::Exited(-9)) => {}
            Err(JoinError::Exited(255)) if !kernel_tells() => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(active_children().len(), 0);
}

#[test]
fn somebody_elses_waitpid_loses_nothing() {
    apart(|method| {
        std::thread::spawn(|| {
            loop {
                // SAFETY: reaps whatever ends; the status is not asked for.
                if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
                    std::thread::yield_now(); // no children just now
                }
            }
        });
        all_are_told(method);
    });
}

#[test]
fn an_ignored_sigchld_loses_nothing() {
    apart(|method| {
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        all_are_told(method);
        assert_eq!(zombies(), 0);
    });
}

#[test]
fn a_handle_travels_twice_in_one_message() {
    apart(|method| {
        type Twice = (RawArray<u64>, RawArray<u64>, Vec<Event>);
        let add = |(a, b, events): Twice| {
            a.set(0, 1).unwrap();
            b.set(1, a.get(0).unwrap() + 1).unwrap();
            events[0].set();
            let set = events.iter().all(|event| event.is_set());
            (b.clone(), b, set)
        };
        let array = RawArray::zeroed(2).unwrap();
        let event = Event::new().unwrap();
        let args = (array.clone(), array.clone(), vec![event.clone(); 300]);
        let (a, b, set) = context(method).spawn(add, args).unwrap().join().unwrap();
        assert!(set && event.is_set());
        a.set(0, 7).unwrap();
        assert_eq!((b.to_vec(), array.to_vec()), (vec![7, 2], vec![7, 2]));
    });
}

#[test]
fn descriptors_do_not_leak_to_unrelated_children() {
    apart(|method| {
        if method == StartMethod::Fork {
            return; // a copy of everything but other children's ends, see start_faults.rs
        }
        let count = |()| fs::read_dir("/proc/self/fd").unwrap().count();
        let context = context(method);
        let alone = context.spawn(count, ()).unwrap().join().unwrap();
        let go = Event::new().unwrap();
        let _files: Vec<_> = (0..20)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let wait = |go: Event| go.wait().unwrap();
        let piped = context.clone().stdin(Stdio::piped()).stdout(Stdio::piped());
        let siblings: Vec<_> = (0..20)
            .map(|_| piped.spawn(wait, go.clone()).unwrap())
            .collect();
        assert_eq!(context.spawn(count, ()).unwrap().join().unwrap(), alone);
        go.set();
        siblings
            .into_iter()
            .for_each(|sibling| sibling.join().unwrap());
    });
}

#[test]
fn a_start_without_descriptors_leaves_everything_as_it_was() {
    apart(|method| {
        let context = context(method).stdin(Stdio::null()).stdout(Stdio::piped());
        let array = RawArray::<u64>::zeroed(1).unwrap();
        let work = |array: RawArray<u64>| array.set(0, array.get(0).unwrap() + 1).unwrap();
        context.spawn(work, array.clone()).unwrap().join().unwrap(); // the server is there
        let before = open();
        let highest = fs::File::open("/dev/null").unwrap();
        let used = std::os::fd::AsRawFd::as_raw_fd(&highest) as u64;
        drop(highest);
        let (mut failures, mut done) = (0, 1);
        for limit in used..used + 20 {
            set_descriptor_limit(limit);
            let outcome = context.spawn(work, array.clone());
            let outcome = outcome.map(|mut process| process.wait_timeout(Timeout::Never).unwrap());
            set_descriptor_limit(1024);
            match outcome {
                Ok(Some(0)) => done += 1,
                // It has our limit, too.
                Ok(Some(70)) if method != StartMethod::Forkserver => failures += 1,
                Ok(code) => panic!("limit {limit}: {code:?}"),
                Err(_) => failures += 1,
            }
            assert_eq!((open(), zombies()), (before.clone(), 0), "limit {limit}");
            assert_eq!(array.get(0), Some(done), "done once, or not at all");
        }
        assert!(
            failures > 0 && done > 1,
            "limits were too low or too high to test anything"
        );
    });
}

fn set_descriptor_limit(limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: 1024,
    };
    // SAFETY: a valid rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}
