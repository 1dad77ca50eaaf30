//! Models of `mpmc`. Run: `RUSTFLAGS="--cfg loom" cargo test --release -p multiprocess-channel
//! --no-default-features --test loom_mpmc`.
//!
//! In a model nobody is patient: a slot whose holder stands still is stepped over at once, so every
//! interleaving of a slow process is one of a stalled process. The ring has four slots; messages are sent
//! beforehand so that slots are used again, across the wrap of the tickets.
//!
//! Shown to fail (`.ci/mutants`): publishing, claiming, finding and giving back by weaker orders;
//! publishing, taking and giving back by stores; handing back as EMPTY; not sending again; orphans that are
//! not announced; a sleeper that does not look again, a bell that is not rung, or not twice; leaving that is
//! not told.
#![cfg(loom)]

mod common;

use common::Heap;
use loom::thread;
use multiprocess_channel::mpmc::{Config, Receiver, Ring, Sender};
use multiprocess_channel::{RecvError, TryRecvError};
use multiprocess_core::{ParticipantId, Peers};

/// A participant by number; number 9 is dead.
#[derive(Clone, Copy)]
struct Process(u16);

// SAFETY: number 9 is used by no thread once others run.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() == 9
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

type Tx = Sender<u32, Heap, Process>;
type Rx = Receiver<u32, Heap, Process>;

/// Two tickets before they wrap.
const FIRST: u64 = (1 << 48) - 2;

fn ring() -> Heap {
    Heap::holding::<Ring<u32>>(Config::new(4).endpoints(3).starting_at(FIRST))
}

fn sender(ring: &Heap, number: u16) -> Tx {
    Sender::attach(ring.clone(), Process(number)).unwrap()
}

fn receiver(ring: &Heap, number: u16) -> Rx {
    let mut receiver = Rx::attach(ring.clone(), Process(number)).unwrap();
    receiver.set_one_step(false);
    receiver
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(f);
}

fn receive(receiver: &mut Rx) -> u32 {
    loop {
        match receiver.try_recv() {
            Ok(message) => return message,
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

fn send(sender: &mut Tx, message: u32) {
    while sender.try_send(message).is_err() {
        thread::yield_now();
    }
}

#[test]
fn messages_arrive_whole_and_in_order_into_slots_that_are_used_again() {
    model(3, || {
        let ring = ring();
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        for message in 1..=3 {
            send(&mut sender, message);
        }
        let thread = thread::spawn(move || {
            send(&mut sender, 4);
            send(&mut sender, 5);
            sender
        });
        for message in 1..=5 {
            assert_eq!(receive(&mut receiver), message);
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn in_one_step_they_arrive_whole_too() {
    model(3, || {
        let ring = ring();
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        receiver.set_one_step(true);
        for message in 1..=3 {
            send(&mut sender, message);
        }
        let thread = thread::spawn(move || {
            send(&mut sender, 4);
            send(&mut sender, 5);
            sender
        });
        for message in 1..=5 {
            assert_eq!(receive(&mut receiver), message);
        }
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_sender_that_is_stepped_over_sends_again() {
    model(2, || {
        let ring = ring();
        let mut first = sender(&ring, 1);
        let mut second = sender(&ring, 2);
        let mut receiver = receiver(&ring, 3);
        let one = thread::spawn(move || {
            send(&mut first, 1);
            first
        });
        let two = thread::spawn(move || {
            send(&mut second, 2);
            second
        });
        let mut got = [receive(&mut receiver), receive(&mut receiver)];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        let ends = (one.join().unwrap(), two.join().unwrap());
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(ends);
    });
}

#[test]
fn two_receivers_share_and_a_slow_one_is_stepped_over() {
    model(2, || {
        let ring = ring();
        let mut sender = sender(&ring, 1);
        let mut first = receiver(&ring, 2);
        let mut second = receiver(&ring, 3);
        for message in 1..=4 {
            send(&mut sender, message);
        }
        // Holds on to what it takes for as long as the model likes.
        let slow = thread::spawn(move || {
            let taken = first.take().unwrap();
            let message = taken.get();
            assert_eq!(message, taken.get(), "overwritten in our hands");
            taken.release();
            (message, first)
        });
        let mut sum = receive(&mut second) + receive(&mut second);
        // Room behind the slow one's slot, or in it.
        send(&mut sender, 5);
        send(&mut sender, 6);
        sum += receive(&mut second);
        let (message, first) = slow.join().unwrap();
        sum += message;
        sum += receive(&mut second) + receive(&mut second);
        assert_eq!(sum, 21);
        assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
        drop((sender, first));
    });
}

#[test]
fn what_the_dead_had_in_hand_comes_again_once_whoever_recovers() {
    model(2, || {
        let ring = ring();
        let mut sender = sender(&ring, 1);
        let mut dead = receiver(&ring, 9);
        let mut receiver = receiver(&ring, 2);
        send(&mut sender, 1);
        core::mem::forget(dead.try_take().unwrap());
        core::mem::forget(dead);
        let thread = thread::spawn(move || {
            sender.recover();
            send(&mut sender, 2);
            sender
        });
        receiver.recover();
        let mut got = [receive(&mut receiver), receive(&mut receiver)];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        let sender = thread.join().unwrap();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(sender.statistics().endpoints, 2);
        drop(sender);
    });
}

#[test]
fn a_sleeping_receiver_is_handed_the_message() {
    model(3, || {
        let ring = ring();
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        receiver.set_spin_cap(0);
        let thread = thread::spawn(move || {
            assert_eq!(receiver.recv(), Ok(1));
            receiver
        });
        send(&mut sender, 1);
        drop(thread.join().unwrap());
    });
}

#[test]
fn two_sleeping_receivers_get_one_message_each() {
    model(2, || {
        let ring = ring();
        let mut sender = sender(&ring, 1);
        let threads: Vec<_> = [2, 3]
            .map(|number| {
                let mut receiver = receiver(&ring, number);
                receiver.set_spin_cap(0);
                thread::spawn(move || {
                    receiver.recv().unwrap();
                    receiver
                })
            })
            .into();
        send(&mut sender, 1);
        send(&mut sender, 2);
        for thread in threads {
            drop(thread.join().unwrap());
        }
    });
}

#[test]
fn a_sleeping_sender_is_handed_the_room() {
    model(3, || {
        let ring = ring();
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        sender.set_spin_cap(0);
        for message in 1..=4 {
            send(&mut sender, message);
        }
        let thread = thread::spawn(move || {
            assert_eq!(sender.send(5), Ok(()));
            sender
        });
        assert_eq!(receive(&mut receiver), 1);
        drop(thread.join().unwrap());
    });
}

#[test]
fn a_sleeping_receiver_hears_that_the_last_sender_leaves() {
    model(3, || {
        let ring = ring();
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        receiver.set_spin_cap(0);
        let thread = thread::spawn(move || {
            let first = receiver.recv();
            if first == Ok(1) {
                assert_eq!(receiver.recv(), Err(RecvError::Disconnected));
            }
            first
        });
        send(&mut sender, 1);
        drop(sender);
        assert_eq!(thread.join().unwrap(), Ok(1), "sent before it left");
    });
}

#[test]
fn a_worker_that_does_the_last_job_and_leaves_has_abandoned_nothing() {
    model(3, || {
        let config = Config::new(4).endpoints(3).starting_at(FIRST).joinable();
        let ring = Heap::holding::<Ring<u32>>(config);
        let (mut sender, mut receiver) = (sender(&ring, 1), receiver(&ring, 2));
        send(&mut sender, 1);
        let thread = thread::spawn(move || {
            let taken = receiver.try_take().unwrap();
            taken.release();
        });
        assert_eq!(sender.join(None), Ok(()));
        thread.join().unwrap();
    });
}
