//! What a context sets of its children, who they are, and how they are waited for: one suite,
//! three start methods.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use common::start;
use multiprocess::{
    Context, Event, JoinError, ParentProcess, Process, RawArray, ScopeError, SpawnError,
    StartMethod, Stdio, Timeout, active_children, cpu_count, current_process, parent_process,
    scope,
};

const LONG: Duration = Duration::from_secs(600);

fn context(method: StartMethod) -> Context {
    Context::new(method).unwrap()
}

fn sleep(_: ()) {
    std::thread::sleep(LONG);
}

fn variable(key: &str) -> Option<String> {
    std::env::var(key).ok()
}

under_all_methods!(an_environment_is_set_and_removed_and_cleared, |method| {
    type Seen = (Option<String>, bool, bool, usize);
    let look = |()| -> Seen {
        let set = std::process::Command::new("/bin/sh")
            .args(["-c", "test \"$LIFE\" = \"a=b\""])
            .status()
            .unwrap();
        let own = std::env::vars().count();
        (
            variable("LIFE"),
            set.success(),
            variable("PATH").is_some(),
            own,
        )
    };
    let changed = context(method)
        .env("LIFE", "1")
        .env("LIFE", "a=b")
        .env_remove("PATH");
    let (value, inherited, path, _) = changed.spawn(look, ()).unwrap().join().unwrap();
    assert_eq!(value.as_deref(), Some("a=b"));
    assert!(inherited, "its own children see it");
    assert!(!path);
    let cleared = context(method)
        .env("GONE", "1")
        .env_clear()
        .env("LIFE", "a=b");
    let (_, _, path, count) = cleared.spawn(look, ()).unwrap().join().unwrap();
    assert_eq!((path, count), (false, 1));
    // It can still be changed there.
    let change = |()| {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("MORE", "x".repeat(1000)) };
        variable("MORE").map(|value| value.len())
    };
    assert_eq!(
        changed.spawn(change, ()).unwrap().join().unwrap(),
        Some(1000)
    );
    assert_eq!(variable("LIFE"), None, "the parent's is as it was");
});

under_all_methods!(
    a_variable_that_cannot_be_is_an_error_of_the_start,
    |method| {
        let outcome = context(method).env("A=B", "1").spawn(|()| (), ());
        // A forkserver's child finds out by itself.
        let error = match outcome {
            Ok(process) => process.join().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("invalid input"), "{error}");
    }
);

under_all_methods!(a_working_directory_is_the_childs_own, |method| {
    let here = std::env::current_dir().unwrap();
    let look = |()| std::env::current_dir().unwrap();
    let there = context(method).current_dir("/").spawn(look, ()).unwrap();
    assert_eq!(there.join().unwrap(), std::path::Path::new("/"));
    // Relative to us, wherever a forkserver began.
    std::env::set_current_dir("/proc").unwrap();
    let relative = context(method)
        .current_dir("self/..")
        .spawn(look, ())
        .unwrap();
    let seen = relative.join().unwrap();
    std::env::set_current_dir(&here).unwrap();
    assert_eq!(seen, std::path::Path::new("/proc"));
});

under_all_methods!(what_cannot_be_set_is_refused_and_says_so, |method| {
    let nowhere = context(method).current_dir("/nowhere/at/all");
    let far = context(method).affinity([100_000]);
    for (context, word) in [(nowhere, "/nowhere/at/all"), (far, "100000")] {
        let mut process = context.spawn(|()| (), ()).unwrap();
        match process.join_timeout(Timeout::Never).unwrap() {
            Err(JoinError::Refused(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(process.exit_code().unwrap(), Some(70));
    }
});

under_all_methods!(streams_are_piped, |method| {
    let echo = |()| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        print!("out {line}");
        eprint!("err {line}");
        let sent = std::process::Command::new("/bin/sh")
            .args(["-c", "echo grandchild"])
            .status();
        assert!(sent.unwrap().success());
        std::io::stdin().read_line(&mut line).unwrap()
    };
    let piped = context(method)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = piped.spawn(echo, ()).unwrap();
    process.take_stdin().unwrap().write_all(b"hello\n").unwrap(); // and closed
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = process.take_stdout().unwrap();
    stdout.read_to_string(&mut out).unwrap();
    process
        .take_stderr()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(process.take_stdout().is_none());
    assert_eq!(process.join().unwrap(), 0, "the input's end");
    assert_eq!(err, "err hello\n");
    assert!(
        out.contains("out hello\n") && out.contains("grandchild\n"),
        "{out}"
    );
});

under_all_methods!(streams_are_files_and_nothing, |method| {
    let path = std::env::temp_dir().join(format!("life-{method}-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    let both = context(method)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(Stdio::from(file));
    let say = |()| {
        print!("one,");
        std::io::stdout().flush().unwrap();
        eprint!("two");
        std::io::stdin().read(&mut [0]).unwrap()
    };
    assert_eq!(both.spawn(say, ()).unwrap().join().unwrap(), 0);
    let said = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(said, "one,two");
});

under_all_methods!(join_ends_a_piped_input_that_nobody_took, |method| {
    let context = context(method).stdin(Stdio::piped());
    let drain = |()| std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(context.spawn(drain, ()).unwrap().join().unwrap(), 0);
});

under_all_methods!(a_sibling_keeps_no_end_of_a_pipe, |method| {
    let drain = |()| std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let piped = context(method).stdin(Stdio::piped());
    let mut first = piped.spawn(drain, ()).unwrap();
    let sibling = start(method, sleep, ());
    drop(first.take_stdin());
    assert_eq!(first.join().unwrap(), 0, "hangs if the sibling has a copy");
    sibling.kill().unwrap();
});

under_all_methods!(processors_and_niceness_are_set, |method| {
    let allowed = rustix_first_cpu();
    let look = |()| {
        // SAFETY: asks for this process's own niceness.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        (cpu_count(), nice)
    };
    let context = context(method);
    let before = context.spawn(look, ()).unwrap().join().unwrap();
    let set = context.affinity([allowed]).nice(3);
    let after = set.spawn(look, ()).unwrap().join().unwrap();
    assert_eq!(after, (1, (before.1 + 3).min(19)));
    assert_eq!(
        cpu_count(),
        std::thread::available_parallelism().unwrap().get()
    );
});

fn rustix_first_cpu() -> usize {
    // SAFETY: all zeroes are a valid set, which the kernel fills in.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        (0..libc::CPU_SETSIZE as usize)
            .find(|&cpu| libc::CPU_ISSET(cpu, &set))
            .unwrap()
    }
}

under_all_methods!(a_child_knows_who_it_is, |method| {
    type Self_ = (String, u32, bool);
    let look = |()| -> (Self_, Self_) {
        let (own, parent) = (current_process(), parent_process().unwrap());
        (
            (own.name().to_owned(), own.pid(), own.is_daemon()),
            (parent.name().to_owned(), parent.pid(), parent.is_alive()),
        )
    };
    let process = context(method).named("one").spawn(look, ()).unwrap();
    let pid = process.pid() as u32;
    let (own, parent) = process.join().unwrap();
    assert_eq!(own, ("one".to_owned(), pid, false));
    let us = current_process();
    assert_eq!(parent, (us.name().to_owned(), us.pid(), true));
    let daemon = context(method).daemon(true).spawn(look, ()).unwrap();
    assert!(daemon.is_daemon());
    assert!(daemon.join().unwrap().0.2);
});

under_all_methods!(names_tell_the_lineage, |method| {
    let nested = |name: String| {
        let context = context(name.parse().unwrap());
        let child = context
            .spawn(|()| current_process().name().to_owned(), ())
            .unwrap();
        let name = child.name().to_owned();
        let said = child.join().unwrap();
        (current_process().name().to_owned(), name, said)
    };
    let (child, given, grandchild) = start(method, nested, method.to_string()).join().unwrap();
    assert!(child.starts_with("Process-"), "{child}");
    assert_eq!(grandchild, format!("{child}:1"));
    assert_eq!(given, grandchild);
});

under_all_methods!(children_of_a_daemon_are_daemons, |method| {
    let nested = |()| {
        // A daemon has a thread, and is not forked from safely.
        let child = Context::spawn_exec()
            .spawn(|()| current_process().is_daemon(), ())
            .unwrap();
        let told = child.is_daemon();
        let free = Context::spawn_exec()
            .daemon(false)
            .spawn(|()| (), ())
            .unwrap();
        (child.join().unwrap(), told, free.is_daemon())
    };
    let daemon = context(method).daemon(true).spawn(nested, ()).unwrap();
    assert_eq!(daemon.join().unwrap(), (true, true, false));
});

under_all_methods!(a_child_can_wait_for_its_parents_end, |method| {
    // The middle one is killed; its child, no daemon, sees that.
    let middle = |(name, said): (String, RawArray<u32>)| {
        let orphan = |said: RawArray<u32>| {
            let parent: &ParentProcess = parent_process().unwrap();
            assert!(!parent.wait(Timeout::TRY).unwrap());
            said.set(0, 1).unwrap();
            let ended = parent.wait(LONG).unwrap() && !parent.is_alive();
            said.set(0, if ended { 2 } else { 3 }).unwrap();
        };
        let _orphan = context(name.parse().unwrap()).spawn(orphan, said).unwrap();
        sleep(());
    };
    let said = RawArray::<u32>::zeroed(1).unwrap();
    let middle = start(method, middle, (method.to_string(), said.clone()));
    wait_until(|| said.get(0) == Some(1));
    middle.kill().unwrap();
    wait_until(|| said.get(0) != Some(1));
    assert_eq!(said.get(0), Some(2));
});

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

under_all_methods!(active_children_are_those_that_run, |method| {
    // In a process of its own: other tests of this one have children, too.
    let count = |name: String| {
        let method: StartMethod = name.parse().unwrap();
        assert!(active_children().is_empty());
        let kept = context(method).named("kept").spawn(sleep, ()).unwrap();
        drop(context(method).named("dropped").spawn(sleep, ()).unwrap());
        let mut ended = context(method).named("ended").spawn(|()| (), ()).unwrap();
        ended.wait_timeout(Timeout::Never).unwrap();
        let children = active_children();
        let names: Vec<_> = children
            .iter()
            .map(|child| child.name().to_owned())
            .collect();
        assert_eq!(children[0].pid(), kept.pid());
        assert!(!children[0].is_daemon());
        for child in &children {
            child.terminate().unwrap();
            assert!(child.wait(Timeout::Never).unwrap());
            assert!(!child.is_alive());
        }
        assert!(active_children().is_empty());
        assert!(matches!(kept.join(), Err(JoinError::Exited(-15))));
        names
    };
    let counter = start(method, count, method.to_string());
    assert_eq!(counter.join().unwrap(), ["kept", "dropped"]);
});

under_all_methods!(an_interrupt_is_a_sigint, |method| {
    let listen = |ready: Event| {
        // Whoever runs these tests may ignore it, and that is inherited.
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        ready.set();
        sleep(());
    };
    let ready = Event::new().unwrap();
    let process = start(method, listen, ready.clone());
    ready.wait().unwrap();
    process.interrupt().unwrap();
    assert!(matches!(process.join(), Err(JoinError::Exited(-2))));
    let process = start(method, sleep, ());
    process.signal(libc::SIGUSR1).unwrap();
    assert!(process.signal(12345).is_err());
    assert!(matches!(process.join(), Err(JoinError::Exited(code)) if code == -libc::SIGUSR1));
});

under_all_methods!(closing_what_runs_gives_it_back, |method| {
    let process = start(method, sleep, ());
    let mut process: Process<()> = *process.close().unwrap_err().0;
    process.kill().unwrap();
    process.wait_timeout(Timeout::Never).unwrap();
    assert_eq!(process.close().unwrap(), -9);
});

under_all_methods!(a_scope_joins_all, |method| {
    let done = RawArray::<u32>::zeroed(4).unwrap();
    let work = |(done, i): (RawArray<u32>, usize)| {
        std::thread::sleep(Duration::from_millis(20));
        done.set(i, 1).unwrap();
        i
    };
    let joined = context(method).scope(|scope| {
        for i in 0..3 {
            scope.spawn(work, (done.clone(), i)).unwrap();
        }
        let last = scope.spawn(work, (done.clone(), 3)).unwrap();
        assert!(last.pid() > 0);
        last.join().unwrap()
    });
    assert_eq!(joined.unwrap(), 3);
    assert_eq!(done.to_vec(), [1; 4]);
});

under_all_methods!(a_scope_tells_of_a_failure_that_nobody_saw, |method| {
    let done = RawArray::<u32>::zeroed(1).unwrap();
    let finish = |done: RawArray<u32>| {
        std::thread::sleep(Duration::from_millis(50));
        done.set(0, 1).unwrap();
    };
    let error: ScopeError = context(method)
        .scope(|scope| {
            let bad = context(method).named("bad");
            scope
                .spawn_with(&bad, |()| panic!("on purpose"), ())
                .map(|never: multiprocess::ScopedProcess<'_, ()>| drop(never))
                .unwrap();
            scope.spawn(finish, done.clone()).unwrap();
        })
        .unwrap_err();
    assert_eq!(error.name(), "bad");
    assert!(matches!(error.into_inner(), JoinError::Panicked(_)));
    assert_eq!(done.get(0), Some(1), "the others were waited for");
});

#[test]
fn a_scope_joins_also_when_its_body_panics() {
    let done = RawArray::<u32>::zeroed(1).unwrap();
    let finish = |done: RawArray<u32>| {
        std::thread::sleep(Duration::from_millis(50));
        done.set(0, 1).unwrap();
    };
    let copy = done.clone();
    let panicked = std::panic::catch_unwind(move || {
        scope(|scope| {
            scope.spawn(finish, copy).unwrap();
            panic!("on purpose")
        })
    });
    assert!(panicked.is_err());
    assert_eq!(done.get(0), Some(1));
}

#[test]
fn the_first_process_has_no_parent() {
    assert_eq!(current_process().name(), "MainProcess");
    assert!(parent_process().is_none());
    assert!(!current_process().is_daemon());
}

under_all_methods!(a_piped_stream_polls, |method| {
    let context = context(method).stdout(Stdio::piped());
    let mut process = context.spawn(|()| print!("x"), ()).unwrap();
    let mut stdout = process.take_stdout().unwrap();
    let mut fd = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&stdout.as_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    assert_eq!(unsafe { libc::poll(&mut fd, 1, -1) }, 1);
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"x");
    process.join().unwrap();
});

under_all_methods!(a_forked_closure_has_the_contexts_settings, |method| {
    if method != StartMethod::Fork {
        return;
    }
    let captured = [1u64, 2, 3];
    let context = context(method)
        .named("closure")
        .env("LIFE", "7")
        .current_dir("/");
    // SAFETY: this process has one thread.
    let process: Result<_, SpawnError> = unsafe {
        context.fork_closure(|| {
            let place = std::env::current_dir().unwrap();
            (
                captured.iter().sum::<u64>(),
                variable("LIFE"),
                place,
                current_process().name().to_owned(),
            )
        })
    };
    let (sum, life, place, name) = process.unwrap().join().unwrap();
    assert_eq!(
        (sum, life.as_deref(), name.as_str()),
        (6, Some("7"), "closure")
    );
    assert_eq!(place, std::path::Path::new("/"));
});
