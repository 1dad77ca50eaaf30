//! Hooks around forks, what a forkserver has loaded before it forks, and functions by name.

mod common;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::start;
use multiprocess::owned::Event;
use multiprocess::{
    AtFork, Context, Forkserver, JoinError, RawArray, SpawnError, StartMethod, at_fork,
    set_forkserver_preload,
};
use multiprocess_testkit::watchdog::Watchdog;

/// What ran, a decimal digit each.
static TRACE: AtomicU32 = AtomicU32::new(0);

fn note<const DIGIT: u32>() {
    TRACE.store(TRACE.load(SeqCst) * 10 + DIGIT, SeqCst);
}

fn hooks<const BEFORE: u32, const PARENT: u32, const CHILD: u32>() -> AtFork {
    AtFork {
        before: Some(note::<BEFORE>),
        in_parent: Some(note::<PARENT>),
        in_child: Some(note::<CHILD>),
    }
}

fn trace(_: ()) -> u32 {
    TRACE.load(SeqCst)
}

#[test]
fn hooks_run_around_a_fork_in_order() {
    let _watchdog = Watchdog::seconds(120);
    let body = |()| {
        at_fork(hooks::<1, 3, 5>());
        at_fork(hooks::<2, 4, 6>());
        let fork = Context::new(StartMethod::Fork).unwrap();
        let child = fork.spawn(trace, ()).unwrap().join().unwrap();
        (child, trace(()))
    };
    let (child, parent) = Context::spawn_exec()
        .spawn(body, ())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!((child, parent), (2156, 2134));
}

#[test]
fn a_hook_that_panics_in_the_child_is_the_childs_panic() {
    let _watchdog = Watchdog::seconds(120);
    let body = |()| {
        at_fork(AtFork {
            in_child: Some(|| panic!("hooked")),
            ..AtFork::default()
        });
        let fork = Context::new(StartMethod::Fork).unwrap();
        fork.spawn(|()| (), ())
            .unwrap()
            .join()
            .unwrap_err()
            .to_string()
    };
    let said = Context::spawn_exec()
        .spawn(body, ())
        .unwrap()
        .join()
        .unwrap();
    assert!(said.contains("hooked"), "{said}");
}

static LOADED: OnceLock<(u32, u64)> = OnceLock::new();

fn load() {
    LOADED.set((std::process::id(), 42)).unwrap();
}

fn loaded(_: ()) -> Option<(u32, u64)> {
    LOADED.get().copied()
}

#[test]
fn a_preload_runs_once_in_the_server() {
    let _watchdog = Watchdog::seconds(120);
    let context = Forkserver::new().preload(load).start().unwrap();
    let parent = |()| std::os::unix::process::parent_id();
    let server = context.spawn(parent, ()).unwrap().join().unwrap();
    for _ in 0..2 {
        let seen = context.spawn(loaded, ()).unwrap().join().unwrap();
        assert_eq!(seen, Some((server, 42)));
    }
    assert_eq!(loaded(()), None);
}

#[test]
fn a_preloads_hooks_run_in_the_servers_children() {
    let _watchdog = Watchdog::seconds(120);
    let register = || at_fork(hooks::<1, 3, 5>());
    let context = Forkserver::new().preload(register).start().unwrap();
    assert_eq!(context.spawn(trace, ()).unwrap().join().unwrap(), 15);
    assert_eq!(context.spawn(trace, ()).unwrap().join().unwrap(), 1315);
}

#[test]
fn the_shared_server_loads_again_when_it_is_started_again() {
    let _watchdog = Watchdog::seconds(120);
    let body = |()| {
        set_forkserver_preload(load);
        let seen = || {
            Context::default()
                .spawn(loaded, ())
                .unwrap()
                .join()
                .unwrap()
                .unwrap()
        };
        let (first, _) = seen();
        assert_eq!(seen().0, first);
        // SAFETY: the server is a child of this process.
        unsafe { libc::kill(first as i32, libc::SIGKILL) };
        while seen().0 == first {
            std::thread::sleep(Duration::from_millis(1));
        }
        seen().1
    };
    assert_eq!(
        Context::spawn_exec()
            .spawn(body, ())
            .unwrap()
            .join()
            .unwrap(),
        42
    );
}

#[test]
fn a_preload_that_fails_is_an_error_of_the_start() {
    let _watchdog = Watchdog::seconds(120);
    let said = |server: Forkserver| match server.start().unwrap_err() {
        SpawnError::Preload(why) => why,
        other => panic!("{other:?}"),
    };
    let threads = said(Forkserver::new().preload(|| {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(600)));
    }));
    assert!(threads.contains("2 threads"), "{threads}");
    let panics = said(Forkserver::new().preload(|| panic!("on purpose")));
    assert!(panics.contains("on purpose"), "{panics}");
    let exits = said(Forkserver::new().preload(|| std::process::exit(0)));
    assert!(exits.contains("has ended"), "{exits}");
}

fn join_names((a, b): (String, Event)) -> (String, Event) {
    b.set();
    (a + "!", b)
}
multiprocess::entry!("test.join_names", join_names);

mod inner {
    pub(super) fn double(n: u64) -> u64 {
        2 * n
    }
    multiprocess::entry!("test.double", double);
}

under_all_methods!(functions_are_found_by_name, |method| {
    let context = Context::new(method).unwrap();
    let event = Event::new().unwrap();
    let args = ("hi".to_owned(), event.clone());
    let named = context.spawn_named::<_, (String, Event)>("test.join_names", args);
    let (said, back) = named.unwrap().join().unwrap();
    assert_eq!(said, "hi!");
    assert!(event.is_set() && back.is_set());
    let doubled = context.spawn_named::<u64, u64>("test.double", 21).unwrap();
    assert_eq!(doubled.join().unwrap(), 42);
    assert_eq!(start(method, inner::double, 21).join().unwrap(), 42);
});

under_all_methods!(names_and_values_that_do_not_fit_are_refused, |method| {
    let context = Context::new(method).unwrap();
    let refused = |process: Result<multiprocess::Process<u64>, SpawnError>| match process
        .unwrap()
        .join()
        .unwrap_err()
    {
        JoinError::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    let nobody = refused(context.spawn_named("nobody", 21u64));
    assert!(nobody.contains("\"nobody\""), "{nobody}");
    assert!(refused(context.spawn_named("", 21u64)).contains("\"\""));
    let misfit = refused(context.spawn_named("test.double", 21i64));
    assert!(misfit.contains("fn(i64) -> u64"), "{misfit}");
});

#[test]
fn a_copy_of_the_program_is_the_same_build() {
    let _watchdog = Watchdog::seconds(120);
    let copy = std::env::temp_dir().join(format!("copy-{}", std::process::id()));
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    let server = Forkserver::new()
        .program(&copy)
        .preload(load)
        .start()
        .unwrap();
    for context in [Context::spawn_program(&copy).unwrap(), server] {
        assert_eq!(
            context.spawn(inner::double, 21).unwrap().join().unwrap(),
            42
        );
        let named = context.spawn_named::<u64, u64>("test.double", 21).unwrap();
        assert_eq!(named.join().unwrap(), 42);
    }
    std::fs::remove_file(&copy).unwrap();
    let gone = Context::spawn_program(&copy).unwrap().spawn(|()| (), ());
    assert!(matches!(gone.unwrap_err(), SpawnError::System(_)));
}

#[test]
fn a_program_that_is_none_of_ours_ends_by_itself() {
    let _watchdog = Watchdog::seconds(120);
    let process = Context::spawn_program("/bin/true")
        .unwrap()
        .spawn(|()| (), ());
    assert!(matches!(process.unwrap().join(), Err(JoinError::Exited(0))));
    let process = Context::spawn_program("/bin/false")
        .unwrap()
        .spawn(|()| (), ());
    assert!(matches!(process.unwrap().join(), Err(JoinError::Exited(1))));
}

fn parent_of(_: ()) -> u32 {
    std::os::unix::process::parent_id()
}

#[test]
fn a_forkserver_serves_several_clients() {
    let _watchdog = Watchdog::seconds(120);
    let context = Forkserver::new().preload(load).start().unwrap();
    let server = context.spawn(parent_of, ()).unwrap().join().unwrap();
    let (go, told) = (Event::new().unwrap(), Event::new().unwrap());
    type Client = (Context, Event, Event);
    let client = |(context, told, go): Client| {
        let before = context.spawn(loaded, ()).unwrap().join().unwrap().unwrap();
        told.set();
        go.wait().unwrap();
        let after = context.spawn(loaded, ()).unwrap().join().unwrap().unwrap();
        (before, after)
    };
    let args = (context.clone(), told.clone(), go.clone());
    let other = Context::spawn_exec().spawn(client, args).unwrap();
    told.wait().unwrap();
    drop(context); // the server has another client yet
    go.set();
    assert_eq!(other.join().unwrap(), ((server, 42), (server, 42)));
}

#[test]
fn a_servers_daemons_end_with_their_own_client() {
    let _watchdog = Watchdog::seconds(120);
    let context = Forkserver::new().start().unwrap().daemon(true);
    let sleep = |()| std::thread::sleep(Duration::from_secs(600));
    let ours = context.spawn(sleep, ()).unwrap();
    let (pid, told) = (RawArray::<u32>::zeroed(1).unwrap(), Event::new().unwrap());
    let client = |(context, pid, told): (Context, RawArray<u32>, Event)| {
        let daemon = context.spawn(|()| std::thread::sleep(Duration::from_secs(600)), ());
        let daemon = daemon.unwrap();
        pid.set(0, daemon.pid() as u32).unwrap();
        // A stopped one runs no thread that watches us: its server kills it.
        daemon.signal(libc::SIGSTOP).unwrap();
        told.set();
        std::thread::sleep(Duration::from_secs(600));
    };
    let args = (context, pid.clone(), told.clone());
    let client = Context::spawn_exec().spawn(client, args).unwrap();
    told.wait().unwrap();
    client.kill().unwrap();
    let stat = format!("/proc/{}/stat", pid.get(0).unwrap());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(ours.is_alive());
    ours.kill().unwrap();
}

under_all_methods!(contexts_travel_with_their_settings, |method| {
    let context = Context::new(method).unwrap().named("kid").env("LIFE", "7");
    let file = std::fs::File::open("/dev/null").unwrap();
    let context = context.stdin(file).daemon(method != StartMethod::Fork);
    let use_it = |context: Context| {
        let look = |()| {
            let stdin = std::fs::read_link("/proc/self/fd/0").unwrap();
            (std::env::var("LIFE").unwrap(), stdin)
        };
        let child = context.spawn(look, ()).unwrap();
        let (name, daemon) = (child.name().to_owned(), child.is_daemon());
        let (variable, stdin) = child.join().unwrap();
        (name, daemon, variable, stdin, context)
    };
    let child = Context::new(method)
        .unwrap()
        .spawn(use_it, context)
        .unwrap();
    let (name, daemon, variable, stdin, context) = child.join().unwrap();
    assert_eq!((name.as_str(), variable.as_str()), ("kid", "7"));
    assert_eq!(daemon, method != StartMethod::Fork);
    assert_eq!(stdin, std::path::Path::new("/dev/null"));
    assert_eq!(context.start_method(), method);
});

#[test]
fn a_context_with_a_contract_does_not_travel() {
    let _watchdog = Watchdog::seconds(120);
    // SAFETY: nothing is forked.
    let fork = unsafe { Context::fork() };
    let error = Context::spawn_exec()
        .spawn(|_: Context| (), fork)
        .unwrap_err();
    assert!(error.to_string().contains("beside threads"), "{error}");
}
