//! Forks, deaths and successors of ends, in real processes.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]
#![allow(clippy::disallowed_methods)] // forks: that is what is tested

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_channel::broadcast::{self, LosslessReceiver, Receiver, Start};
use multiprocess_channel::{Home, Housed, RecvError, bytes, mpmc, spsc};
use multiprocess_core::AttachError;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const SHORT: Duration = Duration::from_millis(5);

fn of_the_parent<R: Housed>() -> Home {
    Home::attach::<R>(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// What comes next, from a successor that may take longer to begin than its predecessor's death to be noticed.
fn successors<T>(mut receive: impl FnMut() -> Result<T, RecvError>) -> Result<T, RecvError> {
    loop {
        match receive() {
            Err(RecvError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

/// Forks a child that lives on and does nothing: it has copies of all that its parent has.
fn leave_a_child() -> i32 {
    // SAFETY: a process with one thread that matters; the child calls nothing but sleep.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends with the test at the latest.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, 0);
            libc::alarm(60);
            loop {
                libc::pause();
            }
        }
    }
    child
}

/// The dead owner's child, which has its descriptors, is no reason to believe that it lives.
#[test]
fn a_producer_whose_child_lives_on_is_dead_all_the_same() {
    if child::role().is_some() {
        let home = of_the_parent::<bytes::Ring>();
        let mut producer = bytes::Producer::attach(home.clone(), home).unwrap();
        let child = leave_a_child();
        producer.push(&child.to_le_bytes()).unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let home = Home::create::<bytes::Ring>(&64).unwrap();
    let mut consumer = bytes::Consumer::attach(home.clone(), home.clone()).unwrap();
    let test = "a_producer_whose_child_lives_on_is_dead_all_the_same";
    let mut child = Child::run(test, "producer", &[home.as_fd()]);
    let record = consumer.peek().unwrap();
    let grandchild = i32::from_le_bytes(record[..].try_into().unwrap());
    record.release();
    child.kill();
    assert_eq!(consumer.peek().err(), Some(RecvError::Disconnected));
    let mut successor = bytes::Producer::attach(home.clone(), home).unwrap();
    successor.push(b"again").unwrap();
    assert_eq!(&*consumer.peek().unwrap(), b"again");
    // SAFETY: our grandchild, which nobody reaps before.
    unsafe { libc::kill(grandchild, libc::SIGKILL) };
}

/// As many successors as there are, one after the other: each is killed with a message in the middle.
#[test]
fn a_long_line_of_successors_each_goes_on() {
    if child::role().is_some() {
        let home = of_the_parent::<spsc::Ring<u64>>();
        let mut producer = spsc::Producer::<u64>::attach(home.clone(), home).unwrap();
        loop {
            producer.push(producer.position()).unwrap();
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let home = Home::create::<spsc::Ring<u64>>(&4).unwrap();
    let mut consumer = spsc::Consumer::<u64>::attach(home.clone(), home.clone()).unwrap();
    let test = "a_long_line_of_successors_each_goes_on";
    let mut next = 0;
    // More than there are places in the table.
    for generation in 0..70 {
        let mut child = Child::run(test, "producer", &[home.as_fd()]);
        let until = next + 3 + generation % 5;
        while next < until {
            assert_eq!(successors(|| consumer.pop()), Ok(next));
            next += 1;
        }
        child.kill();
        for message in consumer.iter() {
            assert_eq!(message, next);
            next += 1;
        }
        assert_eq!(consumer.pop_timeout(SHORT), Err(RecvError::Disconnected));
    }
    assert_eq!(consumer.statistics().sent, next);
}

/// Many at once want the end of a dead one.
#[test]
fn of_many_successors_at_once_one_gets_the_end() {
    if child::role().is_some() {
        let home = of_the_parent::<spsc::Ring<u64>>();
        let mut producer = spsc::Producer::<u64>::attach(home.clone(), home).unwrap();
        producer.push(1).unwrap();
        sleep_for_ever();
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "of_many_successors_at_once_one_gets_the_end";
    for _ in 0..10 {
        let home = Home::create::<spsc::Ring<u64>>(&4).unwrap();
        let mut consumer = spsc::Consumer::<u64>::attach(home.clone(), home.clone()).unwrap();
        let mut child = Child::run(test, "producer", &[home.as_fd()]);
        assert_eq!(consumer.pop(), Ok(1));
        let taken = spsc::Producer::<u64>::attach(home.clone(), home.clone());
        assert_eq!(taken.err(), Some(AttachError::RoleTaken));
        child.kill();
        let start = std::sync::Barrier::new(6);
        let got: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        let file = home.as_fd().try_clone_to_owned().unwrap();
                        let own = Home::attach::<spsc::Ring<u64>>(file).unwrap();
                        start.wait();
                        let end = spsc::Producer::<u64>::attach(home.clone(), own);
                        // Kept until all have tried.
                        start.wait();
                        usize::from(end.is_ok())
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(got, 1);
    }
}

/// A broadcaster is killed over and over: what each receiver got and missed adds up, nothing is torn.
#[test]
fn killed_broadcasters_leave_an_exact_count() {
    type Words = [u64; 7];
    type Ring = broadcast::Ring<Words>;
    if child::role().is_some() {
        let home = of_the_parent::<Ring>();
        let mut sender = broadcast::Sender::<Words>::attach(home.clone(), home).unwrap();
        loop {
            let number = sender.position();
            sender.send([number; 7]).unwrap();
        }
    }
    let _watchdog = Watchdog::seconds(120);
    let home = Home::create::<Ring>(&broadcast::Config::new(4).readers(1)).unwrap();
    let mut lossless = LosslessReceiver::<Words>::attach(home.clone(), home.clone()).unwrap();
    let mut lossy = broadcast::receiver::<Words>(home.read_only().unwrap(), Start::Next).unwrap();
    let mut slow = Receiver::<Words>::attach(home.clone(), Start::Next).unwrap();
    let test = "killed_broadcasters_leave_an_exact_count";
    let (mut next, mut received, mut slowly) = (0_u64, 0_u64, 0_u64);
    for generation in 0..25_u64 {
        let mut child = Child::run(test, "sender", &[home.as_fd()]);
        let until = next + 100 + generation * 37;
        while next < until {
            assert_eq!(successors(|| lossless.recv()), Ok([next; 7]));
            next += 1;
            while let Ok(message) = lossy.try_recv() {
                assert_eq!(message, [lossy.position() - 1; 7]);
                received += 1;
            }
        }
        child.kill();
        while let Ok(message) = lossless.recv() {
            assert_eq!(message, [next; 7]);
            next += 1;
        }
        for _ in 0..3 {
            if let Ok(message) = slow.try_recv() {
                assert_eq!(message, [slow.position() - 1; 7]);
                slowly += 1;
            }
        }
    }
    received += lossy.drain().count() as u64;
    slowly += slow.drain().count() as u64;
    assert_eq!(received + lossy.lost(), next);
    assert_eq!(slowly + slow.lost(), next);
    assert_eq!(lossless.position(), next);
}

/// Stopped is not dead, and who goes on after a while has lost nothing.
#[test]
fn a_stopped_lossless_receiver_holds_the_sender_and_goes_on() {
    if child::role().is_some() {
        let home = of_the_parent::<broadcast::Ring<u64>>();
        let mut receiver = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
        assert!(receiver.iter().take(1000).eq(0..1000));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let (mut sender, home) = broadcast::channel::<u64>(4).unwrap();
    let test = "a_stopped_lossless_receiver_holds_the_sender_and_goes_on";
    let mut child = Child::run(test, "receiver", &[home.as_fd()]);
    while sender.statistics().readers == 0 {
        std::thread::sleep(SHORT);
    }
    let mut next = 0;
    while next < 1000 {
        if next % 100 == 50 {
            child.signal(libc::SIGSTOP);
            // It stops a moment later.
            let state = format!("/proc/{}/stat", child.pid());
            while !std::fs::read_to_string(&state).unwrap().contains(") T ") {
                std::thread::yield_now();
            }
            let mut stopped = next;
            while sender.try_send(stopped).is_ok() {
                stopped += 1;
            }
            assert!(
                sender
                    .send_timeout(stopped, Duration::from_millis(120))
                    .is_err()
            );
            child.signal(libc::SIGCONT);
            next = stopped;
        }
        sender.send(next).unwrap();
        next += 1;
    }
    assert!(child.wait().success());
}

/// A forked child's copies: of a sender it is disconnected, a lossless receiver starts anew, an mpmc
/// receiver too; what it drops closes nothing of its parent's.
#[test]
fn what_a_child_has_inherited_is_not_its_parents() {
    if child::role().is_some() {
        let (mut sender, home) = broadcast::channel::<u64>(4).unwrap();
        let mut lossless = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
        let (mut to, mut from) = mpmc::channel::<u64>(64).unwrap();
        let (mut push, mut pop) = spsc::channel::<u64>(4).unwrap();
        sender.send(1).unwrap();
        to.send(1).unwrap();
        push.push(1).unwrap();
        // SAFETY: one thread that matters.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let bad = sender.try_send(9).is_ok()
                || lossless.try_recv().is_ok()
                || from.recv() != Ok(1)
                || to.send(5).is_err();
            drop((sender, lossless, to, from, push, pop));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(bad)) };
        }
        let mut status = 0;
        // SAFETY: our child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        sender.send(2).unwrap();
        assert!(lossless.iter().take(2).eq([1, 2]));
        assert_eq!(sender.statistics().readers, 1);
        assert_eq!(from.recv(), Ok(5));
        to.send(6).unwrap();
        assert_eq!(from.recv(), Ok(6));
        assert_eq!(pop.pop(), Ok(1));
        push.push(2).unwrap();
        assert_eq!(pop.pop(), Ok(2));
        assert!(!push.is_disconnected());
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "what_a_child_has_inherited_is_not_its_parents";
    assert!(Child::run(test, "parent", &[]).wait().success());
}

/// A forked child cannot send its parent's ends away: the parent still has them.
#[cfg(feature = "serde")]
#[test]
fn what_a_child_has_inherited_it_cannot_send() {
    use multiprocess_shm::transfer;

    if child::role().is_some() {
        let (mut push, mut pop) = spsc::channel::<u64>(4).unwrap();
        let (mut write, mut read) = bytes::channel(64).unwrap();
        // SAFETY: one thread that matters.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let sent = [
                transfer::collect_parcel(|| postcard::to_stdvec(&push).is_ok()),
                transfer::collect_parcel(|| postcard::to_stdvec(&pop).is_ok()),
                transfer::collect_parcel(|| postcard::to_stdvec(&write).is_ok()),
                transfer::collect_parcel(|| postcard::to_stdvec(&read).is_ok()),
            ];
            let bad = sent.iter().any(|(sent, _)| *sent);
            // What was not sent is told to the parcels, which must not take it for lost either.
            drop((sent, push, pop, write, read));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(bad)) };
        }
        let mut status = 0;
        // SAFETY: our child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "sent by a child");
        push.push(1).unwrap();
        assert_eq!(pop.pop(), Ok(1));
        write.push(&[7]).unwrap();
        let mut byte = [0];
        assert_eq!((read.try_pop_into(&mut byte), byte), (Ok(1), [7]));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "what_a_child_has_inherited_it_cannot_send";
    assert!(Child::run(test, "parent", &[]).wait().success());
}
