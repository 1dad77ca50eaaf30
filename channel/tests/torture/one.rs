//! One producer and one consumer, whose ends go to successors: `spsc` and `bytes`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_channel::{Home, Housed, bytes, spsc};

use crate::harness::{Case, Ledger, Message, Run, Worker, message};

/// A kind of ring.
pub(crate) trait Kind {
    type Ring: Housed<Config = u64>;
    type Producer;
    type Consumer;
    /// Whether a message is gone with a consumer that dies with it in hand; else it comes again.
    const BY_VALUE: bool = false;
    const CAPACITY: u64 = 64;
    /// Messages that [`fill`](Self::fill) finds room for.
    const HOLDS: u64 = Self::CAPACITY;

    fn producer(home: Home) -> Self::Producer;
    fn consumer(home: Home) -> Self::Consumer;
    /// After a close.
    fn take_over(home: Home) -> (Self::Producer, Self::Consumer);
    fn position(producer: &Self::Producer) -> u64;
    /// Waits for room. `false`: disconnected.
    fn send(producer: &mut Self::Producer, message: Message) -> bool;
    /// Waits for a message. `false`: disconnected.
    fn receive(consumer: &mut Self::Consumer, account: impl FnOnce(Message)) -> bool;
    /// Fills an empty ring and empties it; how many there were.
    fn fill(producer: &mut Self::Producer, consumer: &mut Self::Consumer) -> u64;
}

/// `spsc`, looked at and released.
pub(crate) struct Peeked;

impl Kind for Peeked {
    type Ring = spsc::Ring<Message>;
    type Producer = spsc::Producer<Message>;
    type Consumer = spsc::Consumer<Message>;

    fn producer(home: Home) -> Self::Producer {
        spsc::Producer::attach(home.clone(), home).unwrap()
    }
    fn consumer(home: Home) -> Self::Consumer {
        spsc::Consumer::attach(home.clone(), home).unwrap()
    }
    fn take_over(home: Home) -> (Self::Producer, Self::Consumer) {
        // SAFETY: both owners have closed their ends and are gone.
        unsafe {
            (
                spsc::Producer::take_over(home.clone(), home.clone()).unwrap(),
                spsc::Consumer::take_over(home.clone(), home).unwrap(),
            )
        }
    }
    fn position(producer: &Self::Producer) -> u64 {
        producer.position()
    }
    fn send(producer: &mut Self::Producer, message: Message) -> bool {
        producer.push(message).is_ok()
    }
    fn receive(consumer: &mut Self::Consumer, account: impl FnOnce(Message)) -> bool {
        let Ok(got) = consumer.peek_timeout(None) else {
            return false;
        };
        account(got);
        assert!(consumer.release());
        true
    }
    fn fill(producer: &mut Self::Producer, consumer: &mut Self::Consumer) -> u64 {
        while producer.try_push([0; 8]).is_ok() {}
        consumer.drain().count() as u64
    }
}

/// `spsc`, by value.
pub(crate) struct Popped;

impl Kind for Popped {
    type Ring = spsc::Ring<Message>;
    type Producer = spsc::Producer<Message>;
    type Consumer = spsc::Consumer<Message>;
    const BY_VALUE: bool = true;

    fn producer(home: Home) -> Self::Producer {
        Peeked::producer(home)
    }
    fn consumer(home: Home) -> Self::Consumer {
        Peeked::consumer(home)
    }
    fn take_over(home: Home) -> (Self::Producer, Self::Consumer) {
        Peeked::take_over(home)
    }
    fn position(producer: &Self::Producer) -> u64 {
        producer.position()
    }
    fn send(producer: &mut Self::Producer, message: Message) -> bool {
        Peeked::send(producer, message)
    }
    fn receive(consumer: &mut Self::Consumer, account: impl FnOnce(Message)) -> bool {
        consumer.pop().map(account).is_ok()
    }
    fn fill(producer: &mut Self::Producer, consumer: &mut Self::Consumer) -> u64 {
        Peeked::fill(producer, consumer)
    }
}

/// `bytes`: the message several times in a row.
pub(crate) struct Records;

impl Kind for Records {
    type Ring = bytes::Ring;
    type Producer = bytes::Producer;
    type Consumer = bytes::Consumer;
    const CAPACITY: u64 = 4096;
    /// Headers without bytes.
    const HOLDS: u64 = 512;

    fn producer(home: Home) -> Self::Producer {
        bytes::Producer::attach(home.clone(), home).unwrap()
    }
    fn consumer(home: Home) -> Self::Consumer {
        bytes::Consumer::attach(home.clone(), home).unwrap()
    }
    fn take_over(home: Home) -> (Self::Producer, Self::Consumer) {
        // SAFETY: both owners have closed their ends and are gone.
        unsafe {
            (
                bytes::Producer::take_over(home.clone(), home.clone()).unwrap(),
                bytes::Consumer::take_over(home.clone(), home).unwrap(),
            )
        }
    }
    fn position(producer: &Self::Producer) -> u64 {
        producer.position()
    }
    fn send(producer: &mut Self::Producer, message: Message) -> bool {
        let times = 1 + message[2] as usize % 8;
        let Ok(mut grant) = producer.reserve(times * size_of::<Message>()) else {
            return false;
        };
        for part in grant.as_chunks_mut().0 {
            *part = bytemuck::must_cast::<Message, [u8; 64]>(message);
        }
        grant.commit(times * size_of::<Message>());
        true
    }
    fn receive(consumer: &mut Self::Consumer, account: impl FnOnce(Message)) -> bool {
        let Ok(record) = consumer.peek() else {
            return false;
        };
        let (parts, rest) = record.as_chunks::<64>();
        let is_whole = rest.is_empty() && parts.iter().all(|part| *part == parts[0]);
        assert!(is_whole, "torn");
        account(bytemuck::must_cast(parts[0]));
        record.release();
        true
    }
    fn fill(producer: &mut Self::Producer, consumer: &mut Self::Consumer) -> u64 {
        while producer.try_push(&[]).is_ok() {}
        let mut count = 0;
        while let Ok(record) = consumer.try_peek() {
            record.release();
            count += 1;
        }
        count
    }
}

// Words of the ledger.
/// Messages that the producer has begun to send: the last one may not be sent.
const BEGUN: u64 = 0;
/// Two: where the producer stood before a message, by whether its number is even.
const STOOD: u64 = 1;
/// Messages that a producer knows to be sent.
const COMMITTED: u64 = 3;
/// All that will ever be sent, and one.
const TOTAL: u64 = 4;
/// The next message to be accounted for, and in the upper half the consumers there had been when the one
/// before it was.
const NEXT: u64 = 5;
/// Consumers that there have been.
const CONSUMERS: u64 = 6;
/// Messages that came again from the dead, or were gone with them.
const AGAIN: u64 = 7;
const GONE: u64 = 8;

pub(crate) struct One<K: Kind> {
    home: Home,
    kind: std::marker::PhantomData<K>,
}

/// The number of the next message to be sent: what a producer that was killed has left open, the ring tells.
fn go_on_from(ledger: &Ledger, position: u64) -> u64 {
    let begun = ledger.word(BEGUN).load(Relaxed);
    let Some(last) = begun.checked_sub(1) else {
        return 0;
    };
    let stood = ledger.word(STOOD + last % 2).load(Relaxed);
    let next = if position == stood { last } else { begun };
    let committed = ledger.word(COMMITTED).load(Relaxed);
    assert!(
        committed == next || committed + 1 == next,
        "forgotten, or sent twice"
    );
    next
}

fn produce<K: Kind>(home: Home, ledger: &Ledger, me: u64) {
    let mut producer = K::producer(home);
    for number in go_on_from(ledger, K::position(&producer)).. {
        let position = K::position(&producer);
        ledger.word(STOOD + number % 2).store(position, Relaxed);
        ledger.word(BEGUN).store(number + 1, Relaxed);
        // Without a consumer until the next one comes.
        while !ledger.is_over() && !K::send(&mut producer, message(me, number)) {
            std::thread::sleep(Duration::from_micros(50));
        }
        if ledger.is_over() {
            let sent = number + u64::from(K::position(&producer) != position);
            ledger.word(TOTAL).store(sent + 1, Relaxed);
            return;
        }
        ledger.word(COMMITTED).store(number + 1, Relaxed);
    }
}

fn consume<K: Kind>(home: Home, ledger: &Ledger) {
    let mut consumer = K::consumer(home);
    let consumers = ledger.word(CONSUMERS).fetch_add(1, Relaxed) + 1;
    let mut is_first = true;
    loop {
        let before = ledger.word(NEXT).load(Relaxed);
        let next = before & u64::from(u32::MAX);
        let came = K::receive(&mut consumer, |got| {
            let [worker, number, ..] = got;
            assert_eq!(got, message(worker, number), "torn");
            if number + 1 == next && is_first && !K::BY_VALUE {
                ledger.word(AGAIN).fetch_add(1, Relaxed);
                return;
            }
            // Since the last one each consumer but us may have died with one.
            let gone = number.checked_sub(next).expect("came twice");
            let may_be_gone = match K::BY_VALUE && is_first {
                true => consumers - (before >> 32),
                false => 0,
            };
            assert!(gone <= may_be_gone, "{gone} are lost before {number}");
            ledger
                .word(NEXT)
                .store(consumers << 32 | (number + 1), Relaxed);
            ledger.word(GONE).fetch_add(gone, Relaxed);
            ledger.received().fetch_add(1, Relaxed);
        });
        if came {
            is_first = false;
            continue;
        }
        // The producer is gone, and may have a successor.
        match ledger.word(TOTAL).load(Relaxed) {
            0 => std::thread::sleep(Duration::from_micros(50)),
            total => {
                let next = ledger.word(NEXT).load(Relaxed) & u64::from(u32::MAX);
                assert_eq!(next, total - 1, "the last ones are lost");
                return;
            }
        }
    }
}

impl<K: Kind> Case for One<K> {
    const SENDERS: u64 = 1;
    const RECEIVERS: u64 = 1;

    fn new() -> Self {
        Self {
            home: Home::create::<K::Ring>(&K::CAPACITY).unwrap(),
            kind: std::marker::PhantomData,
        }
    }

    fn words(_: u64) -> u64 {
        9
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.home.as_fd()
    }

    fn work(file: OwnedFd, ledger: &Ledger, worker: Worker) {
        let home = Home::attach::<K::Ring>(file).unwrap();
        match worker.place {
            0 => produce::<K>(home, ledger, worker.number),
            _ => consume::<K>(home, ledger),
        }
    }

    fn gets_on_without(_: &[u64], _: bool) -> bool {
        false
    }

    fn judge(&mut self, run: &mut Run<Self>) -> String {
        run.leave(1..2);
        let word = |index| run.ledger.word(index).load(Relaxed);
        let (again, gone) = (word(AGAIN), word(GONE));
        assert!(
            again + gone <= run.killed,
            "{again} came again, {gone} are gone"
        );
        let (mut producer, mut consumer) = K::take_over(self.home.clone());
        for _ in 0..3 {
            assert_eq!(
                K::fill(&mut producer, &mut consumer),
                K::HOLDS,
                "room is missing"
            );
        }
        match K::BY_VALUE {
            true => format!("{gone} gone with the dead"),
            false => format!("{again} came again from the dead"),
        }
    }
}
