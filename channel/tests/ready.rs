//! Every end of every ring is something that `wait_any` waits for.
#![cfg(not(loom))]

mod common;
#[path = "common/broadcast.rs"]
mod setup;

use std::thread;
use std::time::Duration;

use common::Heap;
use multiprocess_channel::loan::LoanError;
use multiprocess_channel::{
    NoPeers, TryRecvError, TryReserveError, TrySendError, broadcast, bytes, loan, mpmc, spsc,
};
use multiprocess_core::{ParticipantId, Peers};
use multiprocess_sync::{Doorbell, Event, Source, WaitError, wait_any, wait_any_with};
use multiprocess_testkit::watchdog::Watchdog;
use setup::{Process, lossless, lossy, sender};

const MOMENT: Duration = Duration::from_millis(5);

/// Waits beside something that never comes.
fn ready(source: &dyn Source, timeout: Option<Duration>) -> bool {
    let never = Event::new();
    match wait_any(&[&never, source], timeout) {
        Ok(index) => index == 1,
        Err(error) => {
            assert_eq!(error, WaitError::Timeout);
            false
        }
    }
}

/// Not ready yet; then it is, by what another thread does while we sleep. `does` is given back.
fn becomes_ready<S: Send>(source: &dyn Source, mut other: S, does: impl Fn(&mut S) + Send) -> S {
    let _watchdog = Watchdog::seconds(60);
    assert!(!source.is_ready());
    assert!(!ready(source, Some(MOMENT)));
    thread::scope(|scope| {
        let doing = scope.spawn(move || {
            thread::sleep(2 * MOMENT);
            does(&mut other);
            other
        });
        assert!(ready(source, None));
        doing.join().unwrap()
    })
}

fn spsc_ends() -> (
    spsc::Producer<u64, Heap, NoPeers>,
    spsc::Consumer<u64, Heap, NoPeers>,
) {
    let heap = Heap::holding::<spsc::Ring<u64>>(2);
    (
        spsc::Producer::attach(heap.clone(), NoPeers).unwrap(),
        spsc::Consumer::attach(heap, NoPeers).unwrap(),
    )
}

#[test]
fn ends_of_spsc() {
    let (producer, mut consumer) = spsc_ends();
    let mut producer = becomes_ready(&consumer, producer, |producer| producer.push(1).unwrap());
    assert_eq!(consumer.try_pop(), Ok(1));
    producer.push_slice(&[2, 3]).unwrap();
    assert_eq!(producer.try_push(4), Err(TrySendError::Full(4)));
    let mut consumer = becomes_ready(&producer, consumer, |consumer| {
        assert_eq!(consumer.pop(), Ok(2));
    });
    assert_eq!(producer.try_push(4), Ok(()));
    assert_eq!((consumer.pop(), consumer.pop()), (Ok(3), Ok(4)));
    drop(becomes_ready(&consumer, producer, spsc::Producer::close));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));

    let (mut producer, consumer) = spsc_ends();
    producer.push_slice(&[1, 2]).unwrap();
    becomes_ready(&producer, consumer, spsc::Consumer::close);
    assert_eq!(producer.try_push(3), Err(TrySendError::Disconnected(3)));
    producer.close();
    assert!(
        ready(&producer, None),
        "a closed end is for its owner to see"
    );
}

#[test]
fn ends_of_bytes() {
    let heap = Heap::holding::<bytes::Ring>(64);
    let producer = bytes::Producer::attach(heap.clone(), NoPeers).unwrap();
    let mut consumer = bytes::Consumer::attach(heap, NoPeers).unwrap();
    let mut producer = becomes_ready(&consumer, producer, |it| it.push(&[1; 8]).unwrap());
    let mut buffer = [0; 24];
    assert_eq!(consumer.try_pop_into(&mut buffer), Ok(8));
    producer.push(&[2; 8]).unwrap();
    producer.push(&[3; 8]).unwrap();
    // Room for some record, not for this one.
    assert!(ready(&producer, None));
    assert_eq!(producer.try_push(&[4; 24]), Err(TryReserveError::Full));
    let mut consumer = becomes_ready(&producer, consumer, |it| {
        it.try_pop_into(&mut [0; 8]).unwrap();
        it.try_pop_into(&mut [0; 8]).unwrap();
    });
    assert_eq!(producer.try_push(&[4; 24]), Ok(()));
    assert_eq!(consumer.try_pop_into(&mut buffer), Ok(24));
    drop(becomes_ready(&consumer, producer, bytes::Producer::close));
    assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Disconnected));
}

#[test]
fn ends_of_mpmc() {
    for limit in [2, 3] {
        let heap = Heap::holding::<mpmc::Ring<u64>>(mpmc::Config::new(limit));
        let mut sender = mpmc::Sender::<u64, _, _>::attach(heap.clone(), Process(1)).unwrap();
        let receiver = mpmc::Receiver::<u64, _, _>::attach(heap, Process(2)).unwrap();
        assert!(ready(&sender, None));
        let mut sent = 0;
        while sender.try_send(sent).is_ok() {
            sent += 1;
        }
        let receiver = becomes_ready(&sender, receiver, |it| assert_eq!(it.recv(), Ok(0)));
        assert_eq!(sender.try_send(sent), Ok(()));
        becomes_ready(&sender, receiver, mpmc::Receiver::close);
        assert_eq!(sender.try_send(9), Err(TrySendError::Disconnected(9)));
    }
}

#[test]
fn ends_of_broadcast() {
    let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(1));
    let to_all = sender(&heap);
    let mut read_only = lossy(&heap, broadcast::Start::Next);
    let memory = setup::Shared(heap.clone(), true);
    let mut writable =
        broadcast::Receiver::<u64, _>::attach(memory, broadcast::Start::Next).unwrap();
    let mut seated = lossless(&heap, 2);
    let to_all = becomes_ready(&read_only, to_all, |it| it.send(1).unwrap());
    assert_eq!((read_only.try_recv(), writable.try_recv()), (Ok(1), Ok(1)));
    assert_eq!(seated.try_recv(), Ok(1));
    let to_all = becomes_ready(&writable, to_all, |it| it.send(2).unwrap());
    assert_eq!(seated.try_recv(), Ok(2));
    let mut to_all = becomes_ready(&seated, to_all, |it| it.send(3).unwrap());
    assert!(ready(&to_all, None));
    to_all.send(4).unwrap();
    assert_eq!(to_all.try_send(5), Err(TrySendError::Full(5)));
    let mut seated = becomes_ready(&to_all, seated, |it| assert_eq!(it.recv(), Ok(3)));
    assert_eq!(to_all.try_send(5), Ok(()));
    assert!(ready(&read_only, None), "what was missed is to be told");
    assert_eq!((seated.try_recv(), seated.try_recv()), (Ok(4), Ok(5)));
    drop(becomes_ready(&seated, to_all, broadcast::Sender::close));
    assert_eq!(seated.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn ends_of_loan() {
    let config = loan::Config::new(4, 64 << 10).endpoints(2);
    let heap = Heap::holding::<loan::Ring>(config);
    let sender = loan::Sender::attach(heap.clone(), Process(1)).unwrap();
    let receiver = loan::Receiver::attach(heap, Process(2)).unwrap();
    let send = |len| sender.try_loan(len).unwrap().try_send().is_ok();
    let take = |it: &mut loan::Receiver<_, _>| it.take().unwrap().release();

    // For a place in the ring.
    assert!(ready(&sender, None));
    while send(1) {}
    let receiver = becomes_ready(&sender, receiver, take);
    assert!(send(1));
    while let Ok(sample) = receiver.try_take() {
        sample.release();
    }

    // For a block, though there are places; of the size that was refused.
    assert!(send(4096));
    let mut loans = Vec::new();
    while let Ok(loan) = sender.try_loan(4096) {
        loans.push(loan);
    }
    let receiver = becomes_ready(&sender, receiver, take);
    loans.push(sender.try_loan(4096).unwrap());
    loans.pop().unwrap().try_send().unwrap();
    assert_eq!(sender.try_loan(32 << 10).err(), Some(LoanError::Exhausted));
    receiver.take().unwrap().release();
    assert!(!ready(&sender, Some(MOMENT)), "the block is too small");
    drop(loans);
    assert!(ready(&sender, None));
    let half = sender.try_loan(32 << 10).unwrap();
    assert!(sender.try_loan(48 << 10).is_err());
    becomes_ready(&sender, receiver, loan::Receiver::close);
    drop(half);
}

/// One whose other is dead.
struct Widow(u16);

// SAFETY: the dead one has done nothing since.
unsafe impl Peers for Widow {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() == 99
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

#[test]
fn the_death_of_the_other_is_noticed_at_the_inner_bound() {
    let _watchdog = Watchdog::seconds(60);
    let heap = Heap::holding::<spsc::Ring<u64>>(2);
    let mut dead = spsc::Producer::<u64, _, _>::attach(heap.clone(), Widow(99)).unwrap();
    let mut consumer = spsc::Consumer::<u64, _, _>::attach(heap.clone(), Widow(1)).unwrap();
    dead.push(1).unwrap();
    std::mem::forget(dead);
    assert!(ready(&consumer, None));
    assert_eq!(consumer.try_pop(), Ok(1));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    assert!(ready(&consumer, None));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
    // A successor is somebody else.
    let mut producer = spsc::Producer::<u64, _, _>::attach(heap, Widow(2)).unwrap();
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    producer.push(2).unwrap();
    assert_eq!(consumer.try_pop(), Ok(2));

    let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(2));
    let mut sender = broadcast::Sender::<u64, _, _>::attach(heap.clone(), Widow(1)).unwrap();
    let slow = broadcast::LosslessReceiver::<u64, _, _>::attach(heap, Widow(99)).unwrap();
    std::mem::forget(slow);
    (1..=2).for_each(|number| sender.send(number).unwrap());
    assert!(ready(&sender, None));
    assert_eq!(sender.try_send(3), Ok(()));

    let heap = Heap::holding::<broadcast::Ring<u64>>(broadcast::Config::new(2).readers(2));
    let dead = broadcast::Sender::<u64, _, _>::attach(heap.clone(), Widow(99)).unwrap();
    let mut receiver = broadcast::LosslessReceiver::<u64, _, _>::attach(heap, Widow(1)).unwrap();
    std::mem::forget(dead);
    let bell = Doorbell::new();
    assert_eq!(wait_any_with(&bell, &[&receiver], None), Ok(0));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));

    let heap = Heap::holding::<mpmc::Ring<u64>>(mpmc::Config::new(2));
    let dead = mpmc::Sender::<u64, _, _>::attach(heap.clone(), Widow(99)).unwrap();
    let mut receiver = mpmc::Receiver::<u64, _, _>::attach(heap, Widow(1)).unwrap();
    std::mem::forget(dead);
    assert!(ready(&receiver, None));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
}
