//! Ends of `broadcast` inside messages.
#![cfg(all(not(loom), feature = "serde"))]

use multiprocess_channel::broadcast::{
    self, LosslessReceiver, ReadError, Receiver, Sender, Start, TryReadError,
};
use multiprocess_channel::{SendError, TrySendError};
use multiprocess_shm::{ReadOnlySegment, transfer};
use serde::{Serialize, de::DeserializeOwned};

fn sent<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(value).unwrap());
    transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap())
}

#[test]
fn a_receiver_that_was_sent_goes_on_where_the_first_one_stood() {
    let (mut sender, home) = broadcast::channel::<u64>(8).unwrap();
    let mut receiver = Receiver::<u64>::attach(home.clone(), Start::Next).unwrap();
    let read_only = home.read_only().unwrap();
    let mut looks = broadcast::receiver::<u64>(read_only, Start::Next).unwrap();
    for message in 1..=3 {
        sender.send(message).unwrap();
    }
    assert_eq!((receiver.recv(), looks.recv()), (Ok(1), Ok(1)));
    let mut there = sent(&receiver);
    let mut also: Receiver<u64, ReadOnlySegment> = sent(&looks);
    for message in 2..=3 {
        assert_eq!((receiver.recv(), there.recv()), (Ok(message), Ok(message)));
        assert_eq!((looks.recv(), also.recv()), (Ok(message), Ok(message)));
    }
    assert_eq!(there.try_recv(), Err(TryReadError::Empty));
    // Overtaken before it arrives, it is told as any other.
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&there).unwrap());
    for message in 4..=20 {
        sender.send(message).unwrap();
    }
    let mut late: Receiver<u64> = transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    let missed = match late.try_recv() {
        Err(TryReadError::Lagged(missed)) => missed,
        other => panic!("{other:?}"),
    };
    assert_eq!(late.try_recv(), Ok(4 + missed));
}

#[test]
fn a_cursor_that_a_message_makes_up_is_refused() {
    let (mut sender, home) = broadcast::channel::<u64>(8).unwrap();
    sender.send(1).unwrap();
    let receiver = Receiver::<u64>::attach(home, Start::Next).unwrap();
    for cursor in [3_u64, 100, u64::MAX, 1 << 63] {
        let (_, fds) = transfer::collect(|| postcard::to_stdvec(&receiver).unwrap());
        let bytes = postcard::to_stdvec(&(0_u32, cursor)).unwrap();
        let refused = transfer::supply(fds, || postcard::from_bytes::<Receiver<u64>>(&bytes));
        assert!(refused.is_err(), "{cursor}");
    }
}

#[test]
fn a_lossless_receiver_that_was_sent_has_a_seat_of_its_own() {
    let (mut sender, home) = broadcast::channel::<u64>(2).unwrap();
    let first = LosslessReceiver::<u64>::attach(home.clone(), home).unwrap();
    let mut there = sent(&first);
    drop(first);
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    assert_eq!(there.recv(), Ok(1));
    sender.send(3).unwrap();
    assert_eq!(sender.statistics().readers, 1);
}

#[test]
fn the_sender_moves() {
    let (mut sender, home) = broadcast::channel::<u64>(8).unwrap();
    let mut receiver = Receiver::<u64>::attach(home, Start::Next).unwrap();
    sender.send(1).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&sender).unwrap());
    // Under way: this one sends no more, and nobody is told that it was closed.
    assert_eq!(sender.send(9), Err(SendError::Disconnected(9)));
    drop(sender);
    assert_eq!(receiver.recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Err(TryReadError::Empty));
    let again = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let mut there: Sender<u64> = transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    // Of two who were handed the message, one gets it.
    let second = transfer::supply(again, || postcard::from_bytes::<Sender<u64>>(&bytes));
    assert!(second.is_err());
    there.send(2).unwrap();
    assert_eq!((there.position(), receiver.recv()), (2, Ok(2)));
    drop(there);
    assert_eq!(receiver.recv(), Err(ReadError::Disconnected));
}

#[test]
fn a_sender_that_nobody_gets_is_closed_and_one_that_was_not_serialised_is_not() {
    let (sender, home) = broadcast::channel::<u64>(8).unwrap();
    let mut receiver = Receiver::<u64>::attach(home, Start::Next).unwrap();
    assert!(postcard::to_stdvec(&sender).is_err(), "outside of a send");
    assert_eq!(receiver.try_recv(), Err(TryReadError::Empty));
    let (_, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&sender).unwrap());
    let (again, _) = transfer::collect_parcel(|| postcard::to_stdvec(&sender));
    assert!(again.is_err(), "it was sent already");
    assert_eq!(receiver.try_recv(), Err(TryReadError::Empty));
    drop(parcel);
    assert_eq!(receiver.recv(), Err(ReadError::Disconnected));
}
