//! A doorbell travels with its descriptor, and reaches a poller in another process.

use std::time::Duration;

use multiprocess::{Context, Event, SharedDoorbell, StartMethod, transfer, wait_any_with};
use multiprocess_testkit::watchdog::Watchdog;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const BOUND: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

fn set_and_ring((event, bell): (Event, SharedDoorbell)) {
    std::thread::sleep(Duration::from_millis(50));
    event.set();
    bell.ring().unwrap();
}

#[test]
fn a_child_rings_its_parent() {
    let _watchdog = Watchdog::seconds(60);
    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        let context = Context::new(method).unwrap();
        let event = Event::new().unwrap();
        let bell = SharedDoorbell::new().unwrap();
        let theirs = bell.try_clone().unwrap();
        let worker = context
            .spawn(set_and_ring, (event.clone(), theirs))
            .unwrap();
        while bell.poll_any(&[&*event]).unwrap().is_none() {
            let readable = poll(&mut [PollFd::new(&*bell, PollFlags::IN)], Some(&BOUND));
            assert_eq!(readable, Ok(1), "the ring was lost");
        }
        worker.join().unwrap();
        event.clear();
        // A sleeper on the same doorbell, without the descriptor.
        let worker = context
            .spawn(set_and_ring, (event.clone(), bell.try_clone().unwrap()))
            .unwrap();
        let ready = wait_any_with(bell.bell(), &[&*event], Duration::from_secs(30));
        assert_eq!(ready, Ok(0));
        worker.join().unwrap();
    }
}

#[test]
fn a_doorbell_sends_two_descriptors_and_only_inside_a_message() {
    let bell = SharedDoorbell::new().unwrap();
    assert!(postcard::to_stdvec(&bell).is_err());
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&bell).unwrap());
    assert_eq!(fds.len(), 2);
    let copy: SharedDoorbell = transfer::supply(fds, || postcard::from_bytes(&bytes)).unwrap();
    bell.arm().unwrap();
    copy.ring().unwrap();
    let now = Timespec::default();
    assert_eq!(
        poll(&mut [PollFd::new(&*bell, PollFlags::IN)], Some(&now)),
        Ok(1)
    );
}

/// As a user runs it: `cargo test` has built it beside this test.
#[test]
fn the_async_example_waits_and_its_runtime_goes_on() {
    let _watchdog = Watchdog::seconds(60);
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .unwrap()
        .with_file_name("examples/async_doorbell");
    let output = std::process::Command::new(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the runtime is alive"), "{text}");
    assert!(text.ends_with("source 1 is ready\n"), "{text}");
}
