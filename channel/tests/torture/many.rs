//! Three senders and three receivers: `mpmc` and `loan`. Whoever is dead or stopped, the others get on.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_channel::{Home, Housed, loan, mpmc};

use crate::harness::{Case, Ledger, Message, PATIENCE, Run, Worker, message};

/// Messages of each sender that are accounted for one by one.
const EACH: u64 = 4096;
const ENDPOINTS: u32 = 24;

/// A kind of ring.
pub(crate) trait Kind {
    type Ring: Housed;
    type Sender;
    type Receiver;
    /// Whether a message is gone with a receiver that dies with it in hand; else it comes again.
    const BY_VALUE: bool;

    fn config() -> <Self::Ring as multiprocess_core::Place>::Config;
    fn sender(home: Home) -> Self::Sender;
    fn receiver(home: Home) -> Self::Receiver;
    /// Waits for room. `false`: disconnected.
    fn send(sender: &mut Self::Sender, message: Message) -> bool;
    /// Waits for a message. `false`: disconnected.
    fn receive(receiver: &mut Self::Receiver, account: impl FnOnce(Message)) -> bool;
    /// Takes back what the dead had; messages that are left.
    fn recover(receiver: &Self::Receiver) -> u64;
    fn try_send(sender: &mut Self::Sender) -> bool;
    /// Of a ring with nobody else; what to report.
    fn judge(sender: &mut Self::Sender) -> String;
}

/// Only these two have a seat.
fn judge_seats(all: mpmc::Statistics) -> String {
    assert_eq!(all.endpoints, 2, "seats of the dead");
    format!("{} slots stepped over", all.quarantines)
}

/// `mpmc`, taken and released.
pub(crate) struct Slots;

impl Kind for Slots {
    type Ring = mpmc::Ring<Message>;
    type Sender = mpmc::Sender<Message>;
    type Receiver = mpmc::Receiver<Message>;
    const BY_VALUE: bool = false;

    fn config() -> mpmc::Config {
        mpmc::Config::new(64).endpoints(ENDPOINTS)
    }
    fn sender(home: Home) -> Self::Sender {
        mpmc::Sender::attach(home.clone(), home).unwrap()
    }
    fn receiver(home: Home) -> Self::Receiver {
        mpmc::Receiver::attach(home.clone(), home).unwrap()
    }
    fn send(sender: &mut Self::Sender, message: Message) -> bool {
        sender.send(message).is_ok()
    }
    fn receive(receiver: &mut Self::Receiver, account: impl FnOnce(Message)) -> bool {
        let Ok(taken) = receiver.take() else {
            return false;
        };
        account(taken.get());
        taken.release();
        true
    }
    fn recover(receiver: &Self::Receiver) -> u64 {
        receiver.recover();
        receiver.len()
    }
    fn try_send(sender: &mut Self::Sender) -> bool {
        sender.try_send([0; 8]).is_ok()
    }
    fn judge(sender: &mut Self::Sender) -> String {
        judge_seats(sender.statistics())
    }
}

/// `mpmc`, by value in one step.
pub(crate) struct OneStep;

impl Kind for OneStep {
    type Ring = mpmc::Ring<Message>;
    type Sender = mpmc::Sender<Message>;
    type Receiver = mpmc::Receiver<Message>;
    const BY_VALUE: bool = true;

    fn config() -> mpmc::Config {
        Slots::config()
    }
    fn sender(home: Home) -> Self::Sender {
        Slots::sender(home)
    }
    fn receiver(home: Home) -> Self::Receiver {
        let mut receiver = Slots::receiver(home);
        receiver.set_one_step(true);
        receiver
    }
    fn send(sender: &mut Self::Sender, message: Message) -> bool {
        Slots::send(sender, message)
    }
    fn receive(receiver: &mut Self::Receiver, account: impl FnOnce(Message)) -> bool {
        receiver.recv().map(account).is_ok()
    }
    fn recover(receiver: &Self::Receiver) -> u64 {
        Slots::recover(receiver)
    }
    fn try_send(sender: &mut Self::Sender) -> bool {
        Slots::try_send(sender)
    }
    fn judge(sender: &mut Self::Sender) -> String {
        Slots::judge(sender)
    }
}

/// `loan`, read in place: the message several times in a row.
pub(crate) struct Loans;

impl Kind for Loans {
    type Ring = loan::Ring;
    type Sender = loan::Sender;
    type Receiver = loan::Receiver;
    const BY_VALUE: bool = false;

    fn config() -> loan::Config {
        loan::Config::new(64, 256 << 10).endpoints(ENDPOINTS)
    }
    fn sender(home: Home) -> Self::Sender {
        loan::Sender::attach(home.clone(), home).unwrap()
    }
    fn receiver(home: Home) -> Self::Receiver {
        loan::Receiver::attach(home.clone(), home).unwrap()
    }
    fn send(sender: &mut Self::Sender, message: Message) -> bool {
        let times = 1 + message[2] as usize % 150;
        let Ok(mut loan) = sender.loan(times * size_of::<Message>()) else {
            return false;
        };
        for part in loan.as_chunks_mut().0 {
            *part = bytemuck::must_cast::<Message, [u8; 64]>(message);
        }
        loan.send().is_ok()
    }
    fn receive(receiver: &mut Self::Receiver, account: impl FnOnce(Message)) -> bool {
        let Ok(sample) = receiver.take() else {
            return false;
        };
        let (parts, rest) = sample.as_chunks::<64>();
        assert!(
            rest.is_empty() && parts.iter().all(|part| *part == parts[0]),
            "torn"
        );
        account(bytemuck::must_cast(parts[0]));
        sample.release();
        true
    }
    fn recover(receiver: &Self::Receiver) -> u64 {
        receiver.recover();
        receiver.len()
    }
    fn try_send(sender: &mut Self::Sender) -> bool {
        sender
            .try_loan(64)
            .is_ok_and(|loan| loan.try_send().is_ok())
    }
    fn judge(sender: &mut Self::Sender) -> String {
        sender.recover();
        let memory = sender.memory_statistics();
        assert_eq!(memory.blocks, 0, "blocks of the dead");
        let whole = sender.try_loan(memory.capacity as usize);
        assert!(whole.is_ok(), "the memory does not come back in one piece");
        drop(whole);
        judge_seats(sender.statistics())
    }
}

pub(crate) struct Many<K: Kind> {
    home: Home,
    /// For the parent: none has died before it.
    ends: Option<(K::Sender, K::Receiver)>,
    /// In hand of receivers when they were killed: may come twice, or be gone if by value.
    excused: HashMap<u64, u64>,
    receivers_killed: u64,
}

/// What a receiver has in hand, or 0.
fn hand<K: Kind>(ledger: &Ledger, place: u64) -> &AtomicU64 {
    ledger.word(place - Many::<K>::SENDERS)
}

/// Messages that a sender knows to be sent.
fn committed(ledger: &Ledger, worker: u64) -> &AtomicU64 {
    ledger.word(8 + worker * (1 + EACH / 8))
}

/// How often a message was received.
fn count(ledger: &Ledger, worker: u64, number: u64) -> (&AtomicU64, u64) {
    let word = ledger.word(9 + worker * (1 + EACH / 8) + number / 8);
    (word, 8 * (number % 8))
}

fn key(worker: u64, number: u64) -> u64 {
    1 << 63 | worker << 40 | number
}

/// Counts a message that came.
fn account(ledger: &Ledger, got: Message) {
    let [worker, number, ..] = got;
    assert_eq!(got, message(worker, number), "torn");
    if number < EACH {
        let (word, shift) = count(ledger, worker, number);
        word.fetch_add(1 << shift, Relaxed);
    }
}

fn send<K: Kind>(mut sender: K::Sender, ledger: &Ledger, me: u64) {
    for number in 0.. {
        if ledger.is_over() {
            return;
        }
        assert!(K::send(&mut sender, message(me, number)), "disconnected");
        committed(ledger, me).store(number + 1, Relaxed);
    }
}

fn receive<K: Kind>(mut receiver: K::Receiver, ledger: &Ledger, place: u64) {
    let hand = hand::<K>(ledger, place);
    let got = |got: Message| {
        hand.store(key(got[0], got[1]), Relaxed);
        account(ledger, got);
        ledger.received().fetch_add(1, Relaxed);
    };
    while K::receive(&mut receiver, got) {
        hand.store(0, Relaxed);
    }
}

impl<K: Kind> Case for Many<K> {
    const SENDERS: u64 = 3;
    const RECEIVERS: u64 = 3;

    fn new() -> Self {
        let home = Home::create::<K::Ring>(&K::config()).unwrap();
        Self {
            ends: Some((K::sender(home.clone()), K::receiver(home.clone()))),
            home,
            excused: HashMap::new(),
            receivers_killed: 0,
        }
    }

    fn words(workers: u64) -> u64 {
        8 + workers * (1 + EACH / 8)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.home.as_fd()
    }

    fn work(file: OwnedFd, ledger: &Ledger, worker: Worker) {
        let home = Home::attach::<K::Ring>(file).unwrap();
        match worker.place < Self::SENDERS {
            true => send::<K>(K::sender(home), ledger, worker.number),
            false => receive::<K>(K::receiver(home), ledger, worker.place),
        }
    }

    fn gets_on_without(_: &[u64], _: bool) -> bool {
        true
    }

    fn bury(&mut self, ledger: &Ledger, place: u64) {
        if place >= Self::SENDERS {
            self.receivers_killed += 1;
            let hand = hand::<K>(ledger, place).swap(0, Relaxed);
            if hand != 0 {
                *self.excused.entry(hand).or_default() += 1;
            }
        }
    }

    fn judge(&mut self, run: &mut Run<Self>) -> String {
        let (mut sender, mut last) = self.ends.take().unwrap();
        let start = Instant::now();
        while K::recover(&last) > 0 {
            assert!(start.elapsed() < PATIENCE, "messages are left");
            std::thread::sleep(Duration::from_millis(1));
        }
        // What they have in hand now is nearly done.
        std::thread::sleep(Duration::from_millis(20));
        for place in Self::SENDERS..Self::PLACES {
            run.kill(self, place);
        }
        while K::recover(&last) > 0 {
            assert!(K::receive(&mut last, |got| account(&run.ledger, got)));
        }
        self.judge_messages(run);

        let mut sent = [0; 3];
        for sent in &mut sent {
            while K::try_send(&mut sender) {
                *sent += 1;
            }
            for _ in 0..*sent {
                assert!(K::receive(&mut last, drop));
            }
        }
        // The first lap may find slots to be given back.
        assert_eq!(sent[1..], [64; 2], "slots are missing");
        let report = K::judge(&mut sender);
        format!("{} in hand of the dead, {report}", self.excused.len())
    }
}

impl<K: Kind> Many<K> {
    /// Each message as often as it may have come.
    fn judge_messages(&self, run: &Run<Self>) {
        let mut gone = 0;
        for worker in 0..run.started {
            let committed = committed(&run.ledger, worker).load(Relaxed);
            for number in 0..EACH {
                let (word, shift) = count(&run.ledger, worker, number);
                let count = word.load(Relaxed) >> shift & 0xff;
                let excused = match K::BY_VALUE {
                    true => 0,
                    false => self.excused.get(&key(worker, number)).copied().unwrap_or(0),
                };
                let most = u64::from(number <= committed) * (1 + excused);
                assert!(count <= most, "{worker}.{number} came {count} times");
                if count == 0 && number < committed {
                    assert!(K::BY_VALUE, "{worker}.{number} is lost");
                    gone += 1;
                }
            }
        }
        // At most one in the hands of each dead receiver.
        assert!(gone <= self.receivers_killed, "{gone} are lost");
    }
}
