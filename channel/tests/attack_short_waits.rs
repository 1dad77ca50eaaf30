//! Who waits often and never long learns of the dead, too: an event loop that waits 10 ms at a time.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiprocess_channel::broadcast::{self, LosslessReceiver};
use multiprocess_channel::{Home, Housed, RecvError, SendError, mpmc};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// Shorter than the inner bound of a wait.
const SHORT: Duration = Duration::from_millis(10);
/// Many times the inner bound.
const ENOUGH: Duration = Duration::from_secs(5);

fn of_the_parent<R: Housed>() -> Home {
    Home::attach::<R>(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// What `wait` says other than `None`, which is that it has waited in vain.
fn until_it_ends<R>(mut wait: impl FnMut() -> Option<R>) -> Option<R> {
    let start = Instant::now();
    while start.elapsed() < ENOUGH {
        if let Some(result) = wait() {
            return Some(result);
        }
    }
    None
}

#[test]
fn a_broadcaster_that_waits_shortly_drops_a_dead_lossless_receiver() {
    if child::role().is_some() {
        let home = of_the_parent::<broadcast::Ring<u64>>();
        let mut receiver = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
        receiver.recv().unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let (mut sender, home) = broadcast::channel::<u64>(2).unwrap();
    let test = "a_broadcaster_that_waits_shortly_drops_a_dead_lossless_receiver";
    let mut child = Child::run(test, "receiver", &[home.as_fd()]);
    while sender.statistics().readers == 0 {
        std::thread::sleep(SHORT);
    }
    sender.send(0).unwrap();
    while sender.lag() > 0 {
        std::thread::sleep(SHORT);
    }
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    assert_eq!(
        sender.send_timeout(3, SHORT),
        Err(SendError::Timeout(3)),
        "it lives"
    );
    child.kill();
    let sent = until_it_ends(|| match sender.send_timeout(3, SHORT) {
        Err(SendError::Timeout(_)) => None,
        other => Some(other),
    });
    assert_eq!(sent, Some(Ok(())));
}

#[test]
fn a_lossless_receiver_that_waits_shortly_learns_of_a_dead_sender() {
    if child::role().is_some() {
        let home = of_the_parent::<broadcast::Ring<u64>>();
        let mut sender = broadcast::Sender::<u64>::attach(home.clone(), home).unwrap();
        sender.send(7).unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<broadcast::Ring<u64>>(&broadcast::Config::new(2).readers(1)).unwrap();
    let mut receiver = LosslessReceiver::<u64>::attach(home.clone(), home.clone()).unwrap();
    let test = "a_lossless_receiver_that_waits_shortly_learns_of_a_dead_sender";
    let mut child = Child::run(test, "sender", &[home.as_fd()]);
    assert_eq!(receiver.recv(), Ok(7));
    assert_eq!(receiver.recv_timeout(SHORT), Err(RecvError::Timeout));
    child.kill();
    let end = until_it_ends(|| match receiver.recv_timeout(SHORT) {
        Err(RecvError::Timeout) => None,
        other => Some(other),
    });
    assert_eq!(end, Some(Err(RecvError::Disconnected)));
}

#[test]
fn a_receiver_of_mpmc_that_waits_shortly_learns_of_dead_senders() {
    if child::role().is_some() {
        let home = of_the_parent::<mpmc::Ring<u64>>();
        let mut sender = mpmc::Sender::<u64>::attach(home.clone(), home).unwrap();
        sender.send(7).unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<mpmc::Ring<u64>>(&mpmc::Config::new(8).endpoints(4)).unwrap();
    let mut receiver = mpmc::Receiver::<u64>::attach(home.clone(), home.clone()).unwrap();
    let test = "a_receiver_of_mpmc_that_waits_shortly_learns_of_dead_senders";
    let mut child = Child::run(test, "sender", &[home.as_fd()]);
    assert_eq!(receiver.recv(), Ok(7));
    child.kill();
    let end = until_it_ends(|| match receiver.recv_timeout(SHORT) {
        Err(RecvError::Timeout) => None,
        other => Some(other),
    });
    assert_eq!(end, Some(Err(RecvError::Disconnected)));
}

#[test]
fn a_receiver_of_mpmc_that_waits_shortly_gets_what_a_dead_one_had_in_hand() {
    if child::role().is_some() {
        let home = of_the_parent::<mpmc::Ring<u64>>();
        let mut receiver = mpmc::Receiver::<u64>::attach(home.clone(), home).unwrap();
        let _hand = receiver.take().unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<mpmc::Ring<u64>>(&mpmc::Config::new(8).endpoints(4)).unwrap();
    let mut sender = mpmc::Sender::<u64>::attach(home.clone(), home.clone()).unwrap();
    let test = "a_receiver_of_mpmc_that_waits_shortly_gets_what_a_dead_one_had_in_hand";
    let mut child = Child::run(test, "receiver", &[home.as_fd()]);
    sender.send(7).unwrap();
    while !sender.is_empty() {
        std::thread::sleep(SHORT);
    }
    child.kill();
    let mut receiver = mpmc::Receiver::<u64>::attach(home.clone(), home).unwrap();
    let got = until_it_ends(|| match receiver.recv_timeout(SHORT) {
        Err(RecvError::Timeout) => None,
        other => Some(other),
    });
    assert_eq!(got, Some(Ok(7)));
}
