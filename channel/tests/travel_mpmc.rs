//! Senders and receivers of `mpmc` inside messages.
#![cfg(all(not(loom), feature = "serde"))]

use multiprocess_channel::loan;
use multiprocess_channel::mpmc::{self, Receiver, Sender};
use multiprocess_channel::{RecvError, TryRecvError, TrySendError};
use multiprocess_shm::transfer;

#[test]
fn who_gets_one_has_another_handle_on_the_same_ring() {
    let (mut sender, mut receiver) = mpmc::channel::<u64>(8).unwrap();
    let both = (&sender, &receiver);
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&both).unwrap());
    let (mut there, mut back): (Sender<u64>, Receiver<u64>) =
        transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    there.send(1).unwrap();
    sender.send(2).unwrap();
    assert_eq!((receiver.recv(), back.recv()), (Ok(1), Ok(2)));
    assert_eq!(receiver.statistics().endpoints, 4);
}

#[test]
fn an_end_under_way_keeps_the_ring_from_being_deserted() {
    let (mut sender, receiver) = mpmc::channel::<u64>(8).unwrap();
    let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&receiver).unwrap());
    drop(receiver);
    sender.try_send(1).unwrap();
    let mut there: Receiver<u64> =
        transfer::supply(parcel.into_fds(), || postcard::from_bytes(&bytes).unwrap());
    assert_eq!(there.recv(), Ok(1));
    drop(there);
    assert_eq!(sender.try_send(2), Err(TrySendError::Disconnected(2)));
}

#[test]
fn an_end_that_nobody_gets_leaves() {
    let (sender, mut receiver) = mpmc::channel::<u64>(8).unwrap();
    let (_, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&sender).unwrap());
    drop(sender);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    drop(parcel);
    assert_eq!(receiver.recv(), Err(RecvError::Disconnected));
}

#[test]
fn a_message_that_comes_twice_makes_two_handles() {
    let (sender, mut receiver) = mpmc::channel::<u64>(8).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&sender).unwrap());
    let again = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let get =
        |fds| -> Sender<u64> { transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap()) };
    let (mut first, mut second) = (get(fds), get(again));
    drop(sender);
    first.send(1).unwrap();
    drop(first);
    second.send(2).unwrap();
    assert_eq!((receiver.recv(), receiver.recv()), (Ok(1), Ok(2)));
}

#[test]
fn another_type_is_refused() {
    let (sender, _receiver) = mpmc::channel::<u64>(8).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&sender).unwrap());
    let other = transfer::supply(fds, || postcard::from_bytes::<Sender<[u64; 2]>>(&bytes));
    assert!(other.is_err());
}

#[test]
fn ends_of_a_ring_of_loans_travel_as_well() {
    let (sender, receiver) = loan::channel(8, 1 << 16).unwrap();
    let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&(&sender, &receiver)));
    let bytes = bytes.unwrap();
    drop(sender);
    assert!(!receiver.is_disconnected(), "one is under way");
    let (there, back): (loan::Sender, loan::Receiver) =
        transfer::supply(parcel.into_fds(), || postcard::from_bytes(&bytes).unwrap());
    there.loan_value(7_u64).unwrap().send().unwrap();
    assert_eq!(back.take().unwrap().value(), Some(&7_u64));
    assert_eq!(back.statistics().endpoints, 3);
    drop(there);
    assert!(receiver.is_disconnected());
}
