//! Models of three threads and more, in schedules that are drawn at random: by [shuttle]. Run: `.ci/shuttle`.
//!
//! loom's models (`loom_mpmc`, `loom_broadcast`) know the orderings, and go through all schedules of two or three
//! threads; these have several at each side, one of which dies where the schedule likes. A wake that is lost is
//! a deadlock here, too: time stands still.
//!
//! Shown to fail (`.ci/mutants`, `shuttle/`): a bell of `mpmc`, and of `broadcast`, that is not rung; a message that
//! was stepped over and is not sent again; the sign that a side is deserted taken away late, or set and not told; a
//! lossless receiver that gives room before it has read.
//!
//! [shuttle]: https://docs.rs/shuttle
#![cfg(shuttle)]

mod common;

use common::Heap;
use multiprocess_channel::broadcast::{self, LosslessReceiver, TryReadError};
use multiprocess_channel::mpmc::{self, Orphans};
use multiprocess_channel::{RecvError, TryRecvError};
use multiprocess_core::{Memory, ParticipantId, Peers, Region, View};
use multiprocess_testkit::watchdog::Watchdog;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
use shuttle::thread::{self, yield_now};
use shuttle::{Config, Runner};

/// Random schedules of each model, and as many by PCT.
const SCHEDULES: usize = 10_000;

/// The same ones each time; `SHUTTLE_SEED` draws others.
const SEED: u64 = 0x5eed;

/// Steps whose order a fault may need, for PCT to be likely to meet it.
const DEPTH: usize = 4;

fn check(model: fn()) {
    fn run(scheduler: impl Scheduler + 'static, model: fn()) {
        let mut config = Config::new();
        config.stack_size = 0x2_0000;
        config.silence_warnings = true; // every ordering is SeqCst: known
        Runner::new(scheduler, config).run(model);
    }
    let _watchdog = Watchdog::seconds(300);
    let seed = std::env::var("SHUTTLE_SEED").ok();
    let seed = seed.map_or(SEED, |seed| seed.parse().expect("a number"));
    run(RandomScheduler::new_from_seed(seed, SCHEDULES), model);
    run(PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES), model);
}

/// A participant by number; number 9 is dead once it says so.
#[derive(Clone)]
struct Process(u16, Arc<AtomicBool>);

// SAFETY: number 9 does nothing more when it has said that it is dead.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() == 9 && self.1.load(SeqCst)
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// Two messages from each of `senders`, in the order of each.
fn assert_all_came(mut got: Vec<u32>, senders: u32) {
    got.sort_unstable();
    let all: Vec<u32> = (1..=senders).flat_map(|n| [10 * n, 10 * n + 1]).collect();
    assert_eq!(got, all);
}

// mpmc

type Tx = mpmc::Sender<u32, Heap, Process>;
type Rx = mpmc::Receiver<u32, Heap, Process>;

/// Of eight slots. Two tickets before they wrap.
fn ring(orphans: Orphans) -> Heap {
    let config = mpmc::Config::new(8).endpoints(6).orphans(orphans);
    Heap::holding::<mpmc::Ring<u32>>(config.starting_at((1 << 48) - 2))
}

fn receive_all(mut receiver: Rx) -> Vec<u32> {
    receiver.set_spin_cap(0);
    receiver.set_one_step(false);
    let mut got = Vec::new();
    loop {
        match receiver.recv() {
            Ok(message) => got.push(message),
            Err(RecvError::Disconnected) => return got,
            Err(other) => panic!("{other}"),
        }
    }
}

fn send_two(mut sender: Tx, number: u32) {
    sender.set_spin_cap(0);
    sender.set_one_step(false);
    sender.send(10 * number).unwrap();
    sender.send(10 * number + 1).unwrap();
}

/// Three send and leave, two receive until nothing comes any more.
#[test]
fn many_to_many() {
    check(|| {
        let (heap, dead) = (ring(Orphans::Redeliver), Arc::new(AtomicBool::new(false)));
        let me = |number| Process(number, Arc::clone(&dead));
        let senders = [1, 2, 3].map(|n| Tx::attach(heap.clone(), me(n)).unwrap());
        let receivers = [4, 5].map(|n| Rx::attach(heap.clone(), me(n)).unwrap());
        let receivers = receivers.map(|receiver| thread::spawn(move || receive_all(receiver)));
        let mut number = 0;
        let senders = senders.map(|sender| {
            number += 1;
            let number = number;
            thread::spawn(move || send_two(sender, number))
        });
        senders
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let got = receivers.map(|thread| thread.join().unwrap());
        for got in &got {
            for number in 1..=3 {
                let of_one = got.iter().filter(|message| *message / 10 == number);
                assert!(of_one.is_sorted(), "out of order: {got:?}");
            }
        }
        assert_all_came(got.concat(), 3);
    });
}

/// One of the receivers dies with a message in hand: another one gets that, or it is gone, once somebody recovers.
fn a_receiver_dies(orphans: Orphans) {
    let (heap, died) = (ring(orphans), Arc::new(AtomicBool::new(false)));
    let me = |number| Process(number, Arc::clone(&died));
    let senders = [1, 2].map(|n| Tx::attach(heap.clone(), me(n)).unwrap());
    let mut doomed = Rx::attach(heap.clone(), me(9)).unwrap();
    let receivers = [4, 5].map(|n| Rx::attach(heap.clone(), me(n)).unwrap());
    let last = Rx::attach(heap, me(6)).unwrap();
    let is_dead = Arc::clone(&died);
    let doomed = thread::spawn(move || {
        doomed.set_spin_cap(0);
        let in_hand = doomed.take().ok().map(|taken| {
            let message = taken.get();
            std::mem::forget(taken);
            message
        });
        std::mem::forget(doomed);
        is_dead.store(true, SeqCst);
        in_hand
    });
    let receivers = receivers.map(|receiver| {
        thread::spawn(move || {
            receiver.recover();
            receive_all(receiver)
        })
    });
    let mut number = 0;
    let senders = senders.map(|sender| {
        number += 1;
        let number = number;
        thread::spawn(move || send_two(sender, number))
    });
    senders
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let in_hand = doomed.join().unwrap();
    let mut got = receivers.map(|thread| thread.join().unwrap()).concat();
    last.recover();
    got.extend(receive_all(last));
    if let (Some(message), Orphans::Drop) = (in_hand, orphans) {
        assert!(!got.contains(&message), "dropped, and came");
        got.push(message);
    }
    assert_all_came(got, 2);
}

#[test]
fn what_a_receiver_had_in_hand_comes_again() {
    check(|| a_receiver_dies(Orphans::Redeliver));
}

#[test]
fn what_a_receiver_had_in_hand_is_dropped() {
    check(|| a_receiver_dies(Orphans::Drop));
}

/// Holders that stand still for as long as the schedule likes are stepped over, and hand their slots back.
#[test]
fn slots_are_handed_back_by_the_slow() {
    check(|| {
        let (heap, dead) = (ring(Orphans::Redeliver), Arc::new(AtomicBool::new(false)));
        let me = |number| Process(number, Arc::clone(&dead));
        let mut sender = Tx::attach(heap.clone(), me(1)).unwrap();
        sender.set_one_step(false);
        let slow = [2, 3].map(|n| Rx::attach(heap.clone(), me(n)).unwrap());
        let mut receiver = Rx::attach(heap, me(4)).unwrap();
        receiver.set_one_step(false);
        let slow = slow.map(|mut slow| {
            thread::spawn(move || {
                let mut got = Vec::new();
                while let Ok(taken) = slow.take() {
                    let message = taken.get();
                    yield_now();
                    assert_eq!(message, taken.get(), "overwritten in our hands");
                    taken.release();
                    got.push(message);
                }
                got
            })
        });
        let sending = thread::spawn(move || {
            sender.set_spin_cap(0);
            // Twice round the ring.
            (0..18).for_each(|message| sender.send(message).unwrap());
        });
        receiver.set_spin_cap(0);
        let mut got = receive_all(receiver);
        sending.join().unwrap();
        for slow in slow {
            got.extend(slow.join().unwrap());
        }
        got.sort_unstable();
        assert!(got.into_iter().eq(0..18));
    });
}

// broadcast

/// Memory that a receiver may not write.
struct ReadOnly(Heap);

// SAFETY: as `Heap` for `Memory`.
unsafe impl broadcast::ReadMemory for ReadOnly {
    fn view(&self) -> View<'_> {
        self.0.region().into()
    }
    fn region(&self) -> Option<Region<'_>> {
        None
    }
}

const SENT: u64 = 6;

/// One sends three laps; two get everything, one is told what it missed, and one dies.
#[test]
fn one_to_many() {
    check(|| {
        let config = broadcast::Config::new(2).readers(4);
        let (heap, died) = (
            Heap::holding::<broadcast::Ring<u64>>(config),
            Arc::new(AtomicBool::new(false)),
        );
        let me = |number| Process(number, Arc::clone(&died));
        let mut sender = broadcast::Sender::<u64, _, _>::attach(heap.clone(), me(1)).unwrap();
        let lossless = |n| LosslessReceiver::<u64, _, _>::attach(heap.clone(), me(n)).unwrap();
        let (all, mut doomed) = ([2, 3].map(lossless), lossless(9));
        let start = broadcast::Start::Next;
        let mut lossy =
            broadcast::Receiver::<u64, _>::attach(ReadOnly(heap.clone()), start).unwrap();
        let all = all.map(|mut receiver| {
            thread::spawn(move || {
                receiver.set_spin_cap(0);
                for message in 0..SENT {
                    assert_eq!(receiver.recv(), Ok(message));
                }
                assert_eq!(receiver.recv(), Err(RecvError::Disconnected));
            })
        });
        let is_dead = Arc::clone(&died);
        let dying = thread::spawn(move || {
            doomed.set_spin_cap(0);
            assert_eq!(doomed.recv(), Ok(0));
            std::mem::forget(doomed);
            is_dead.store(true, SeqCst);
        });
        let reading = thread::spawn(move || {
            let mut expected = 0;
            loop {
                match lossy.try_recv() {
                    Ok(message) => {
                        assert_eq!(message, expected, "torn, or out of order");
                        expected += 1;
                    }
                    Err(TryReadError::Lagged(missed)) => expected += missed,
                    Err(TryReadError::Empty) => yield_now(),
                    Err(TryReadError::Disconnected) => break,
                    Err(other) => panic!("{other}"),
                }
                assert_eq!(lossy.position(), expected);
            }
            assert_eq!(expected, SENT);
        });
        sender.set_spin_cap(0);
        for message in 0..SENT {
            // Until the dead one is found, without waiting for an inner bound.
            while sender.try_send(message).is_err() {
                sender.drop_dead();
                yield_now();
            }
        }
        dying.join().unwrap();
        drop(sender);
        all.into_iter().for_each(|thread| thread.join().unwrap());
        reading.join().unwrap();
    });
}

/// A sender asleep for want of room is woken by the slowest, whoever that is.
#[test]
fn a_sleeping_sender_is_handed_the_room_by_the_slowest() {
    check(|| {
        let config = broadcast::Config::new(2).readers(3);
        let (heap, dead) = (
            Heap::holding::<broadcast::Ring<u64>>(config),
            Arc::new(AtomicBool::new(false)),
        );
        let me = |number| Process(number, Arc::clone(&dead));
        let mut sender = broadcast::Sender::<u64, _, _>::attach(heap.clone(), me(1)).unwrap();
        let receivers = [2, 3, 4]
            .map(|n| LosslessReceiver::<u64, _, _>::attach(heap.clone(), me(n)).unwrap())
            .map(|mut receiver| {
                thread::spawn(move || {
                    for message in 0..SENT {
                        loop {
                            match receiver.try_recv() {
                                Ok(got) => break assert_eq!(got, message),
                                Err(TryRecvError::Empty) => yield_now(),
                                Err(other) => panic!("{other}"),
                            }
                        }
                    }
                })
            });
        sender.set_spin_cap(0);
        (0..SENT).for_each(|message| sender.send(message).unwrap());
        receivers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}
