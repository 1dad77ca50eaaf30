//! Semantics of `loan`, within one process and between several.
#![cfg(all(not(loom), feature = "std"))]

use std::mem::forget;
use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_channel::loan::{self, Config, Home, LoanError, Orphans, Receiver, Ring, Sender};
use multiprocess_channel::{RecvError, SendError, TryRecvError, TrySendError, mpmc};
use multiprocess_core::{AttachError, Place, Region};
use multiprocess_sync::{Event, Source, wait_any};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const MOMENT: Duration = Duration::from_millis(30);

type Ends = (Sender, Receiver);

/// Of 8 messages, for 4 endpoints, with memory for 16 blocks of 4 KiB.
fn small() -> Ends {
    loan::channel_with(&Config::new(8, 64 << 10).endpoints(4)).unwrap()
}

fn send(sender: &Sender, len: usize, byte: u8) {
    let mut loan = sender.try_loan(len).unwrap();
    loan.fill(byte);
    loan.try_send().unwrap();
}

fn blocks(sender: &Sender) -> u64 {
    sender.memory_statistics().blocks
}

#[test]
fn what_was_written_is_read_in_place_and_in_order() {
    let (sender, receiver) = small();
    assert!(matches!(receiver.try_take(), Err(TryRecvError::Empty)));
    for lap in 0..50 {
        for i in 0..8 {
            send(&sender, 100 * usize::from(i), lap + i);
        }
        assert_eq!((sender.len(), blocks(&sender)), (8, 8));
        for i in 0..8 {
            let sample = receiver.take().unwrap();
            assert_eq!(sample.len(), 100 * usize::from(i));
            assert!(sample.iter().all(|byte| *byte == lap + i));
        }
        assert_eq!((receiver.is_empty(), blocks(&sender)), (true, 0));
    }
    assert_eq!(sender.statistics().messages, 800);
}

#[test]
fn a_full_ring_gives_the_loan_back() {
    let (sender, receiver) = small();
    for _ in 0..8 {
        send(&sender, 1, 0);
    }
    let mut loan = sender.try_loan(3).unwrap();
    loan.copy_from_slice(b"abc");
    let Err(TrySendError::Full(loan)) = loan.try_send() else {
        panic!("there was no room");
    };
    let Err(SendError::Timeout(loan)) = loan.send_timeout(MOMENT) else {
        panic!("there was no room");
    };
    receiver.take().unwrap().release();
    loan.send().unwrap();
    for _ in 0..7 {
        assert_eq!(receiver.take().unwrap()[..], [0]);
    }
    assert_eq!(receiver.take().unwrap()[..], *b"abc");
}

#[test]
fn no_block_is_lent_twice_and_none_is_lost() {
    let (sender, receiver) = small();
    let mut loans = Vec::new();
    let exhausted = loop {
        match sender.try_loan(4096) {
            Ok(mut loan) => {
                loan.fill(loans.len() as u8);
                loans.push(loan);
            }
            Err(error) => break error,
        }
    };
    assert_eq!((exhausted, loans.len()), (LoanError::Exhausted, 16));
    for (number, loan) in loans.iter().enumerate() {
        assert!(loan.iter().all(|byte| usize::from(*byte) == number));
    }
    assert!(matches!(
        sender.loan_timeout(1, MOMENT),
        Err(LoanError::Exhausted)
    ));
    // Sent out of order, some of them.
    for loan in loans.drain(9..).rev().take(3) {
        loan.try_send().unwrap();
    }
    let got: Vec<u8> = (0..3).map(|_| receiver.take().unwrap()[7]).collect();
    assert_eq!(got, [15, 14, 13]);
    drop(loans);
    assert_eq!(blocks(&sender), 0);
}

#[test]
fn a_loan_waits_for_a_block_that_is_released() {
    let _watchdog = Watchdog::seconds(60);
    let (sender, receiver) = small();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(sample) = receiver.take() {
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(sample.len(), 40_000);
            }
        });
        // Two do not fit.
        for _ in 0..50 {
            sender.loan(40_000).unwrap().send().unwrap();
        }
        sender.close_ring();
    });
    assert_eq!(blocks(&sender), 0);
}

#[test]
fn absurd_lengths_are_refused() {
    let (sender, _receiver) = small();
    let max = 64 << 10;
    for len in [max + 1, u32::MAX as usize + 1, usize::MAX] {
        assert!(matches!(
            sender.loan(len),
            Err(LoanError::TooLarge { max: told }) if told == max
        ));
    }
    assert!(sender.loan(max).is_ok());
}

#[test]
fn values_are_written_and_read_in_place() {
    let (sender, receiver) = small();
    sender.loan_value([1_u64, 2, 3]).unwrap().send().unwrap();
    let mut loan = sender.loan(24).unwrap();
    loan.value_mut::<[u64; 3]>().unwrap()[1] = 9;
    assert!(loan.value_mut::<u64>().is_none());
    loan.send().unwrap();
    let first = receiver.take().unwrap();
    assert_eq!(first.value::<[u64; 3]>(), Some(&[1, 2, 3]));
    assert_eq!(first.value::<[u64; 2]>(), None);
    assert_eq!(receiver.take().unwrap().value::<[u64; 3]>().unwrap()[1], 9);
    let mut copy = [0; 100];
    assert_eq!(first.copy_to(&mut copy), 24);
    assert_eq!(bytemuck::cast_slice::<u8, u64>(&copy[..24]), [1, 2, 3]);
    assert_eq!(first.copy_to(&mut copy[..5]), 5);
}

#[test]
fn a_loan_may_be_longer_than_what_is_sent() {
    let (sender, receiver) = small();
    let mut loan = sender.loan(1000).unwrap();
    loan.fill(3);
    loan.truncate(10);
    loan.truncate(20);
    loan.send().unwrap();
    assert_eq!(receiver.take().unwrap()[..], [3; 10]);
}

#[test]
fn a_receiver_has_many_samples_and_keeps_some() {
    let (sender, receiver) = small();
    for i in 0..4 {
        send(&sender, 64, i);
    }
    let first = receiver.take().unwrap();
    let second = receiver.take().unwrap();
    let third = receiver.take().unwrap();
    let kept = second.keep();
    first.release();
    third.give_up();
    // The one that was given up comes on top of the last one, and nothing comes twice.
    let mut left = [
        receiver.try_take().unwrap()[0],
        receiver.try_take().unwrap()[0],
    ];
    left.sort_unstable();
    assert_eq!(left, [2, 3]);
    assert!(matches!(receiver.try_take(), Err(TryRecvError::Empty)));
    // The ring goes on for many laps; the block stays.
    for _ in 0..100 {
        send(&sender, 64, 99);
        receiver.take().unwrap().release();
    }
    assert_eq!((kept[..].to_vec(), blocks(&sender)), (vec![1; 64], 1));
    drop(kept);
    assert_eq!(blocks(&sender), 0);
}

#[test]
fn a_sample_forgotten_in_hand_comes_again_when_its_receiver_goes() {
    let (sender, first) = small();
    let second = first.try_clone().unwrap();
    send(&sender, 10, 7);
    forget(first.take().unwrap());
    assert!(matches!(second.try_take(), Err(TryRecvError::Empty)));
    drop(first);
    assert_eq!(second.take().unwrap()[..], [7; 10]);
    assert_eq!(blocks(&sender), 0);
}

#[test]
fn where_orphans_are_dropped_their_blocks_come_back() {
    let config = Config::new(8, 64 << 10).endpoints(4).orphans(Orphans::Drop);
    // Found by a receiver, and by a sender that recovers.
    for by_sender in [false, true] {
        let (sender, first) = loan::channel_with(&config).unwrap();
        let second = first.try_clone().unwrap();
        send(&sender, 10, 1);
        send(&sender, 10, 2);
        forget(first.take().unwrap());
        drop(first);
        assert_eq!(blocks(&sender), 2);
        if by_sender {
            sender.recover();
            assert_eq!((blocks(&sender), sender.len()), (1, 1));
        }
        assert_eq!(second.take().unwrap()[..], [2; 10]);
        assert!(matches!(second.try_take(), Err(TryRecvError::Empty)));
        assert_eq!(blocks(&sender), 0);
        for lap in 0..30 {
            send(&sender, 10, lap);
            assert_eq!(second.take().unwrap()[0], lap);
        }
    }
}

#[test]
fn who_waits_is_disconnected_by_close_and_by_the_last_one_to_leave() {
    let _watchdog = Watchdog::seconds(60);
    let (sender, receiver) = small();
    let all = sender.loan(64 << 10).unwrap();
    let waiting = sender.try_clone().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || waiting.loan(1).map(drop));
        std::thread::sleep(MOMENT);
        drop(receiver);
        assert_eq!(waiter.join().unwrap(), Err(LoanError::Disconnected));
    });
    let Err(SendError::Disconnected(all)) = all.send() else {
        panic!("nobody is there");
    };
    drop(all);
    assert_eq!(blocks(&sender), 0);

    let (sender, receiver) = small();
    send(&sender, 1, 5);
    sender.close_ring();
    assert_eq!(receiver.take().unwrap()[..], [5]);
    assert!(matches!(receiver.take(), Err(RecvError::Disconnected)));
    assert!(sender.is_disconnected() && receiver.is_disconnected());
}

#[test]
fn a_receiver_waits_beside_other_things() {
    let (sender, receiver) = small();
    let stop = Event::new();
    let sources: [&dyn Source; 2] = [&stop, &receiver];
    send(&sender, 4, 1);
    assert_eq!(wait_any(&sources, None).unwrap(), 1);
    receiver.take().unwrap().release();
    stop.set();
    assert_eq!(wait_any(&sources, None).unwrap(), 0);
}

#[test]
fn foreign_memory_is_refused() {
    let (other, _receiver) = mpmc::channel::<u64>(8).unwrap();
    let file = other.memory().as_fd().try_clone_to_owned().unwrap();
    assert!(Home::attach::<Ring>(file).is_err());
    let home = other.memory().clone();
    assert!(Sender::attach(home.clone(), home).is_err());
    assert!(loan::channel(0, 1 << 20).is_err());
    assert!(loan::channel(8, 0).is_err());
    let mut bytes = vec![std::mem::MaybeUninit::new(0); 1 << 20];
    let attached = Ring::attach(Region::from_uninit(&mut bytes));
    assert!(matches!(
        attached,
        Err(AttachError::BadMagic { found: 0 } | AttachError::Misaligned { .. })
    ));
}

fn attached() -> Ends {
    let home = Home::attach::<Ring>(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
    (
        Sender::attach(home.clone(), home.clone()).unwrap(),
        Receiver::attach(home.clone(), home).unwrap(),
    )
}

/// A writer that is stopped with a block half filled is nobody's business, for any number of laps.
#[test]
fn a_slow_writer_blocks_nobody_and_sends_in_the_end() {
    let test = "a_slow_writer_blocks_nobody_and_sends_in_the_end";
    if child::role().is_some() {
        let (sender, _) = attached();
        let mut loan = sender.loan(4000).unwrap();
        let (first, second) = loan.split_at_mut(2000);
        first.fill(1);
        // Says that it is half way, and is stopped here.
        send(&sender, 1, 0);
        while sender.statistics().messages < 2000 {
            std::thread::yield_now();
        }
        second.fill(1);
        loan.send().unwrap();
        return;
    }
    let _watchdog = Watchdog::seconds(120);
    let (sender, receiver) = small();
    let mut writer = Child::run(test, "writer", &[sender.memory().as_fd()]);
    receiver.take().unwrap().release();
    writer.signal(libc::SIGSTOP);
    for lap in 0..1000_u64 {
        sender.loan_value(lap).unwrap().send().unwrap();
        assert_eq!(receiver.take().unwrap().value(), Some(&lap));
    }
    assert_eq!(sender.statistics().quarantines, 0, "it holds no slot");
    writer.signal(libc::SIGCONT);
    assert_eq!(receiver.take().unwrap()[..], [1; 4000]);
    assert!(writer.wait().success());
}

/// With nobody left to ring: who waits for several things asks the kernel, too.
#[test]
fn who_waits_for_several_learns_that_the_last_sender_was_killed() {
    let test = "who_waits_for_several_learns_that_the_last_sender_was_killed";
    if child::role().is_some() {
        let (sender, _) = attached();
        send(&sender, 10, 1);
        std::thread::sleep(Duration::from_secs(100));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let (sender, receiver) = small();
    let mut last = Child::run(test, "last", &[sender.memory().as_fd()]);
    receiver.take().unwrap().release();
    drop(sender);
    last.kill();
    let stop = Event::new();
    let sources: [&dyn Source; 2] = [&stop, &receiver];
    assert_eq!(wait_any(&sources, None), Ok(1));
    assert_eq!(receiver.try_take().err(), Some(TryRecvError::Disconnected));
}

const MESSAGES: u64 = 3000;

/// Each message is worked on by somebody who lives on, and all blocks are free in the end.
#[test]
fn samples_of_killed_receivers_go_to_others_and_loans_of_killed_senders_come_back() {
    let test = "samples_of_killed_receivers_go_to_others_and_loans_of_killed_senders_come_back";
    let stage = Config::new(64, 1 << 20).endpoints(24);
    match child::role().as_deref() {
        // Passes on what it gets, by another ring.
        Some("worker") => {
            let (_, jobs) = attached();
            let home = Home::attach::<Ring>(child::fd(1).try_clone_to_owned().unwrap()).unwrap();
            let results = Sender::attach(home.clone(), home).unwrap();
            while let Ok(job) = jobs.take() {
                let number = job[0];
                assert!(job.iter().all(|byte| *byte == number), "torn");
                let mut result = results.loan(job.len()).unwrap();
                result.copy_from_slice(&job);
                result.send().unwrap();
                job.release();
            }
            return;
        }
        // Has as many loans as it can, until it is killed.
        Some("hoarder") => {
            let (sender, _) = attached();
            let loans: Vec<_> = (0..40).map(|_| sender.loan(3000)).collect();
            std::thread::sleep(Duration::from_secs(100));
            drop(loans);
            return;
        }
        _ => {}
    }
    let _watchdog = Watchdog::seconds(120);
    let (jobs, kept_open) = loan::channel_with(&stage).unwrap();
    let (kept, results) = loan::channel_with(&stage).unwrap();
    let fds = [jobs.memory().as_fd(), kept.memory().as_fd()];
    let worker = || Child::run(test, "worker", &fds);
    let hoarder = || Child::run(test, "hoarder", &fds);
    let (mut workers, mut thief) = ([worker(), worker()], hoarder());
    let (mut sent, mut came, mut victim) = (0, [0_u64; 256], 0);
    // One that is lost keeps us here until the watchdog ends us.
    let wanted = |number| {
        (0..MESSAGES)
            .filter(|sent| *sent as u8 as usize == number)
            .count() as u64
    };
    let mut done = false;
    while !done {
        if sent < MESSAGES {
            let number = sent as u8;
            match jobs.loan_timeout(200 + 10 * usize::from(number), MOMENT) {
                Ok(mut loan) => {
                    loan.fill(number);
                    sent += u64::from(loan.send_timeout(MOMENT).is_ok());
                }
                Err(LoanError::Exhausted) => {}
                Err(other) => panic!("{other}"),
            }
        }
        while let Ok(result) = results.try_take() {
            came[usize::from(result[0])] += 1;
        }
        if sent % 300 == 299 {
            workers[victim].kill();
            workers[victim] = worker();
            victim = 1 - victim;
            thief.kill();
            thief = hoarder();
        }
        if sent == MESSAGES {
            // Who closes tells the workers to go, also while one that is dead has a job in hand.
            jobs.recover();
            done = jobs.is_empty() && (0..256).all(|number| came[number] >= wanted(number));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    thief.kill();
    jobs.close_ring();
    for mut worker in workers {
        while worker.wait_timeout(Duration::from_millis(1)).is_none() {
            while let Ok(result) = results.try_take() {
                came[usize::from(result[0])] += 1;
            }
        }
    }
    while let Ok(result) = results.try_take() {
        came[usize::from(result[0])] += 1;
    }
    kept_open.recover();
    results.recover();
    assert_eq!((blocks(&jobs), blocks(&kept)), (0, 0));
}
