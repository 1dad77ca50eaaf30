//! Ends of rings move inside messages.
#![cfg(all(not(loom), feature = "serde"))]

use std::os::fd::AsFd;

use multiprocess_channel::{RecvError, SendError, TryRecvError, bytes, spsc};
use multiprocess_shm::transfer;
use serde::{Serialize, de::DeserializeOwned};

fn moved<T: Serialize + DeserializeOwned>(end: &T) -> T {
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(end).unwrap());
    transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap())
}

#[test]
fn an_end_goes_on_where_it_was_sent_from() {
    let (mut producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    assert_eq!(consumer.pop(), Ok(1));
    let mut there = moved(&consumer);
    assert_eq!(there.pop(), Ok(2));
    producer.push(3).unwrap();
    assert_eq!(there.pop(), Ok(3));
}

#[test]
fn a_sent_end_is_closed_to_its_sender_and_dropping_it_does_not_disconnect() {
    let (mut producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    producer.push(1).unwrap(); // a cached limit must not let another push through
    let mut there = moved(&producer);
    assert_eq!(producer.push(2), Err(SendError::Disconnected(2)));
    let twice = transfer::collect(|| postcard::to_stdvec(&producer)).0;
    assert!(twice.is_err(), "sent twice");
    drop(producer);
    assert_eq!(consumer.pop(), Ok(1));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    there.push(3).unwrap();
    drop(there);
    assert_eq!(consumer.pop(), Ok(3));
    assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
}

#[test]
fn byte_rings_travel_too() {
    let (mut producer, consumer) = bytes::channel(256).unwrap();
    producer.push(b"before").unwrap();
    let (mut producer, mut consumer) = (moved(&producer), moved(&consumer));
    producer.push(b"after").unwrap();
    for expected in [b"before".as_slice(), b"after"] {
        let record = consumer.peek().unwrap();
        assert_eq!(&*record, expected);
        record.release();
    }
}

#[test]
fn the_wrong_end_or_type_is_refused() {
    let (producer, _consumer) = spsc::channel::<u64>(4).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&producer).unwrap());
    let wrong: Result<spsc::Producer<u32>, _> =
        transfer::supply(fds, || postcard::from_bytes(&bytes));
    assert!(wrong.is_err());
    assert_refused_for("layout 0x");
}

/// What a format without messages, like postcard, would lose.
fn assert_refused_for(reason: &str) {
    let said = transfer::take_refusal().unwrap_or_default();
    assert!(said.contains(reason), "{said:?}");
}

#[test]
fn an_end_that_cannot_travel_says_why() {
    let (mut producer, consumer) = bytes::channel(64).unwrap();
    assert!(postcard::to_stdvec(&consumer).is_err());
    assert_refused_for("inside a send");
    producer.close();
    assert!(
        transfer::collect(|| postcard::to_stdvec(&producer))
            .0
            .is_err()
    );
    assert_refused_for("closed");
}

/// Receives `end`'s message twice, through two duplicates of its descriptor.
fn received_twice<T: Serialize + DeserializeOwned>(end: &T) -> (T, bool) {
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(end).unwrap());
    let again = vec![fds[0].try_clone().unwrap()];
    let first = transfer::supply(fds, || postcard::from_bytes(&bytes).unwrap());
    let second = transfer::supply(again, || postcard::from_bytes::<T>(&bytes));
    (first, second.is_ok())
}

#[test]
fn an_end_that_could_not_be_serialised_is_still_ours() {
    let (mut producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    assert!(postcard::to_stdvec(&producer).is_err(), "outside of a send");
    producer.push(1).unwrap();
    assert!(postcard::to_stdvec(&consumer).is_err(), "outside of a send");
    assert_eq!(consumer.pop(), Ok(1));
    let mut there = moved(&producer);
    there.push(2).unwrap();
    assert_eq!(consumer.pop(), Ok(2));
}

#[test]
fn the_peer_of_an_end_that_nobody_got_is_disconnected() {
    let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    let parcel = transfer::collect_parcel(|| postcard::to_stdvec(&producer).unwrap()).1;
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
    drop(parcel);
    assert_eq!(consumer.pop(), Err(RecvError::Disconnected));

    let (mut producer, consumer) = bytes::channel(64).unwrap();
    let message = (consumer, Unwilling);
    let (result, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&message));
    assert!(result.is_err());
    drop(parcel);
    assert!(producer.is_disconnected());
    assert!(producer.push(b"x").is_err());

    let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    let serialise = || transfer::collect(|| panic!("{:?}", postcard::to_stdvec(&producer)));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(serialise)).is_err());
    assert_eq!(consumer.pop(), Err(RecvError::Disconnected));
}

/// Cannot be serialised.
struct Unwilling;

impl Serialize for Unwilling {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("on purpose"))
    }
}

#[test]
fn a_lost_parcel_takes_nothing_from_who_got_it() {
    let (producer, mut consumer) = spsc::channel::<u64>(4).unwrap();
    let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&producer).unwrap());
    let fds = parcel.fds().map(|fd| fd.try_clone_to_owned().unwrap());
    let mut there: spsc::Producer<u64> =
        transfer::supply(fds.collect(), || postcard::from_bytes(&bytes).unwrap());
    drop(parcel);
    there.push(1).unwrap();
    assert_eq!(consumer.pop(), Ok(1));
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Empty));
}

#[test]
fn an_end_has_one_receiver() {
    let (producer, consumer) = spsc::channel::<u64>(4).unwrap();
    let (mut producer, twice) = received_twice(&producer);
    assert!(!twice);
    assert_refused_for("this end of the channel is taken");
    let (mut consumer, twice) = received_twice(&consumer);
    assert!(!twice);
    producer.push(1).unwrap();
    assert_eq!(consumer.pop(), Ok(1));

    let (producer, consumer) = bytes::channel(64).unwrap();
    let (_producer, twice) = received_twice(&producer);
    assert!(!twice);
    let (_consumer, twice) = received_twice(&consumer);
    assert!(!twice);
}

#[test]
fn an_end_that_was_not_sent_is_not_received() {
    let (producer, _consumer) = spsc::channel::<u64>(4).unwrap();
    let fd = transfer::Fd::from(producer.memory().as_fd().try_clone_to_owned().unwrap());
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&fd).unwrap());
    let stolen: Result<spsc::Producer<u64>, _> =
        transfer::supply(fds, || postcard::from_bytes(&bytes));
    assert!(stolen.is_err());
    assert_refused_for("this end of the channel is taken");
}
