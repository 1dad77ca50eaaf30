//! What runs when a process ends, and where children log to.

mod common;

use std::io::Read;

use common::start;
use multiprocess::{
    Context, Finalizer, Process, RawArray, StartMethod, Stdio, Timeout, at_exit, log_to_stderr,
};
use multiprocess_testkit::watchdog::Watchdog;

/// Appends a decimal digit.
fn note(trace: &RawArray<u64>, digit: u64) {
    trace.set(0, trace.get(0).unwrap() * 10 + digit).unwrap();
}

fn later(trace: &RawArray<u64>, priority: i32, digit: u64) -> Finalizer {
    let trace = trace.clone();
    at_exit(priority, move || note(&trace, digit))
}

under_all_methods!(finalizers_run_in_order_and_once, |method| {
    let work = |trace: RawArray<u64>| {
        later(&trace, 0, 3);
        later(&trace, 0, 2);
        later(&trace, 10, 1);
        later(&trace, -10, 5);
        at_exit(-1, || panic!("stops nobody"));
        let again = trace.clone();
        at_exit(-5, move || {
            later(&again, 0, 4);
        });
        assert!(later(&trace, 0, 9).cancel());
        assert!(later(&trace, 0, 7).run());
        note(&trace, 8);
    };
    let trace = RawArray::<u64>::zeroed(1).unwrap();
    start(method, work, trace.clone()).join().unwrap();
    assert_eq!(trace.get(0), Some(7_812_345));
});

// Once `exit` runs them the thread's locals are gone, to send was a panic.
under_all_methods!(finalizers_start_processes_at_exit, |method| {
    let work = |trace: RawArray<u64>| -> () {
        at_exit(0, move || {
            let note = |trace: RawArray<u64>| note(&trace, 1);
            let child = Context::spawn_exec().spawn(note, trace.clone());
            child.unwrap().join().unwrap();
        });
        std::process::exit(3)
    };
    let trace = RawArray::<u64>::zeroed(1).unwrap();
    let mut process = start(method, work, trace.clone());
    assert_eq!(process.wait_timeout(Timeout::Never).unwrap(), Some(3));
    assert_eq!(trace.get(0), Some(1));
});

under_all_methods!(finalizers_run_at_exit_and_after_a_panic, |method| {
    let work = |(trace, how): (RawArray<u64>, u32)| {
        later(&trace, 0, 1);
        match how {
            0 => std::process::exit(3),
            1 => panic!("on purpose"),
            // SAFETY: ends this process.
            _ => unsafe { libc::_exit(3) },
        }
    };
    for (how, expected, code) in [(0, 1, 3), (1, 1, 101), (2, 0, 3)] {
        let trace = RawArray::<u64>::zeroed(1).unwrap();
        let mut process: Process<()> = start(method, work, (trace.clone(), how));
        assert_eq!(process.wait_timeout(Timeout::Never).unwrap(), Some(code));
        assert_eq!(trace.get(0), Some(expected), "{how}");
    }
});

#[test]
fn a_forked_child_leaves_its_parents_finalizers_alone() {
    let _watchdog = Watchdog::seconds(120);
    struct Dropped(RawArray<u64>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            note(&self.0, 2);
        }
    }
    let work = |trace: RawArray<u64>| {
        let held = Dropped(trace.clone());
        at_exit(0, move || note(&held.0, 1));
        let fork = Context::new(StartMethod::Fork).unwrap();
        fork.spawn(|()| (), ()).unwrap().join().unwrap();
        assert_eq!(trace.get(0), Some(0));
    };
    let trace = RawArray::<u64>::zeroed(1).unwrap();
    Context::spawn_exec()
        .spawn(work, trace.clone())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(trace.get(0), Some(12));
}

under_all_methods!(children_log_where_their_parent_does, |method| {
    let parent = |name: String| {
        log_to_stderr(log::LevelFilter::Info).unwrap();
        assert!(log_to_stderr(log::LevelFilter::Trace).is_err());
        let context = Context::new(name.parse().unwrap()).unwrap();
        log::info!("parent");
        let child = |()| {
            log::info!("child");
            log::debug!("unheard");
            let grandchild = |()| log::warn!("grandchild");
            Context::spawn_exec()
                .spawn(grandchild, ())
                .unwrap()
                .join()
                .unwrap();
        };
        context
            .named("kid")
            .spawn(child, ())
            .unwrap()
            .join()
            .unwrap();
    };
    let context = Context::new(method)
        .unwrap()
        .named("top")
        .stderr(Stdio::piped());
    let mut process = context.spawn(parent, method.to_string()).unwrap();
    let mut said = String::new();
    process
        .take_stderr()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    process.join().unwrap();
    assert!(said.contains("[INFO/top] parent\n"), "{said}");
    assert!(said.contains("[INFO/kid] child\n"), "{said}");
    assert!(
        said.contains("[WARN/Process-") && said.contains("] grandchild\n"),
        "{said}"
    );
    assert!(!said.contains("unheard"), "{said}");
});
