//! Children and watchdogs.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[test]
fn a_child_has_its_role_and_descriptors() {
    if let Some(role) = child::role() {
        assert_eq!(role, "reader");
        let target = std::fs::read_link(format!("/proc/self/fd/{}", child::fd(0).as_raw_fd()));
        assert_eq!(target.unwrap().to_str(), Some("/dev/null"));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut child = Child::run(
        "a_child_has_its_role_and_descriptors",
        "reader",
        &[null.as_fd()],
    );
    assert!(child.wait().success());
}

#[test]
fn a_failing_child_is_seen() {
    if child::role().is_some() {
        panic!("on purpose");
    }
    let _watchdog = Watchdog::seconds(60);
    let mut child = Child::run("a_failing_child_is_seen", "any", &[]);
    assert!(!child.wait().success());
}

#[test]
fn a_child_is_killed_when_dropped() {
    if child::role().is_some() {
        std::thread::sleep(Duration::from_secs(600));
    }
    let _watchdog = Watchdog::seconds(60);
    let mut child = Child::run("a_child_is_killed_when_dropped", "sleeper", &[]);
    assert!(child.wait_timeout(Duration::from_millis(50)).is_none());
    let pid = child.pid();
    drop(child);
    assert!(std::fs::metadata(format!("/proc/{pid}")).is_err());
}

#[test]
fn a_hang_is_ended_by_the_watchdog() {
    if child::role().is_some() {
        let _watchdog = Watchdog::seconds(1);
        std::thread::sleep(Duration::from_secs(600));
    }
    let _watchdog = Watchdog::seconds(120);
    let mut child = Child::run("a_hang_is_ended_by_the_watchdog", "hang", &[]);
    let status = child.wait();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(6), "SIGABRT: {status}");
}
