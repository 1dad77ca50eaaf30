//! One sender, whose end goes to successors, and receivers each of whom gets everything: lossless, or told
//! exactly what it missed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_channel::broadcast::{
    Config, LosslessReceiver, ReadError, ReadMemory, Receiver, Ring, Sender, Start, receiver,
};
use multiprocess_channel::{Home, RecvError, SendError};

use crate::harness::{Case, Ledger, Message, Run, Worker, message};

const CAPACITY: u64 = 64;
const READERS: u32 = 8;

// Words of the ledger.
/// Messages that a sender knows to be sent.
const COMMITTED: u64 = 0;
/// All that will ever be sent, and one.
const TOTAL: u64 = 1;
/// Messages that were missed, by all.
const MISSED: u64 = 2;
/// Whose a message was, that no two receivers are told different things: by its number modulo as many.
const WHOSE: u64 = 3;
const REMEMBERED: u64 = 1 << 12;

fn send(home: Home, ledger: &Ledger, me: u64) {
    let mut sender = Sender::<Message>::attach(home.clone(), home).unwrap();
    let committed = ledger.word(COMMITTED).load(Relaxed);
    let doubtful = sender.position().checked_sub(committed);
    assert!(
        doubtful.is_some_and(|sent| sent <= 1),
        "forgotten, or sent twice"
    );
    for number in sender.position().. {
        if ledger.is_over() {
            ledger.word(TOTAL).store(number + 1, Relaxed);
            return;
        }
        // Short: in vain it asks who of the slow ones is dead.
        let sent = loop {
            match sender.send_timeout(message(me, number), Duration::from_millis(2)) {
                Err(SendError::Timeout(_)) => {}
                other => break other,
            }
        };
        sent.unwrap();
        ledger.word(COMMITTED).store(number + 1, Relaxed);
    }
}

/// A message, which is to be the one of that number, and the same for all.
fn account(ledger: &Ledger, got: Message, number: u64) {
    assert_eq!(got, message(got[0], got[1]), "torn");
    assert_eq!(got[1], number, "lost, or doubled");
    let mine = number << 24 | got[0];
    let whose = ledger.word(WHOSE + number % REMEMBERED);
    let seen = whose.fetch_max(mine, Relaxed);
    assert!(
        seen >> 24 != number || seen == mine,
        "two were sent as {number}"
    );
    ledger.received().fetch_add(1, Relaxed);
}

/// Whether nothing will come any more; then all has come.
fn is_at_the_end(ledger: &Ledger, position: u64) -> bool {
    let total = ledger.word(TOTAL).load(Relaxed);
    if total == 0 {
        // Between two senders.
        std::thread::sleep(Duration::from_micros(50));
        return false;
    }
    assert_eq!(position, total - 1, "the last ones are lost");
    true
}

/// One whom the sender waits for.
fn receive_all(home: Home, ledger: &Ledger) {
    let mut receiver = LosslessReceiver::<Message>::attach(home.clone(), home).unwrap();
    loop {
        let number = receiver.position();
        match receiver.recv() {
            Ok(got) => account(ledger, got, number),
            Err(RecvError::Disconnected) if is_at_the_end(ledger, number) => return,
            Err(RecvError::Disconnected) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// One that is overtaken, and told by how many.
fn receive_some<V: ReadMemory>(mut receiver: Receiver<Message, V>, ledger: &Ledger) {
    loop {
        let number = receiver.position();
        // It is not told of the sender's death.
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok(got) => account(ledger, got, number),
            Err(ReadError::Lagged(missed)) => {
                assert_eq!(receiver.position(), number + missed);
                ledger.word(MISSED).fetch_add(missed, Relaxed);
            }
            Err(ReadError::Disconnected) if is_at_the_end(ledger, number) => return,
            Err(ReadError::Disconnected | ReadError::Timeout) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn create() -> Home {
    Home::create::<Ring<Message>>(&Config::new(CAPACITY).readers(READERS)).unwrap()
}

/// Of a ring that all have left.
fn judge(home: &Home) -> u64 {
    // SAFETY: the last sender has closed it, and is gone.
    let sender = unsafe { Sender::<Message>::take_over(home.clone(), home.clone()).unwrap() };
    sender.drop_dead();
    assert_eq!(sender.statistics().readers, 0, "seats of the dead");
    let seats: Vec<_> = (0..READERS)
        .map(|_| LosslessReceiver::<Message>::attach(home.clone(), home.clone()).unwrap())
        .collect();
    assert_eq!(sender.statistics().readers, seats.len() as u32);
    sender.statistics().dropped
}

pub(crate) struct Lossless(Home);

impl Case for Lossless {
    const SENDERS: u64 = 1;
    const RECEIVERS: u64 = 3;

    fn new() -> Self {
        Self(create())
    }

    fn words(_: u64) -> u64 {
        WHOSE + REMEMBERED
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn work(file: OwnedFd, ledger: &Ledger, worker: Worker) {
        let home = Home::attach::<Ring<Message>>(file).unwrap();
        match worker.place {
            0 => send(home, ledger, worker.number),
            _ => receive_all(home, ledger),
        }
    }

    fn gets_on_without(victims: &[u64], are_dead: bool) -> bool {
        // The stopped are waited for.
        are_dead && !victims.contains(&0)
    }

    fn judge(&mut self, run: &mut Run<Self>) -> String {
        run.leave(1..4);
        format!("{} seats of the dead given away", judge(&self.0))
    }
}

pub(crate) struct Lossy(Home);

impl Case for Lossy {
    const SENDERS: u64 = 1;
    const RECEIVERS: u64 = 3;

    fn new() -> Self {
        Self(create())
    }

    fn words(_: u64) -> u64 {
        WHOSE + REMEMBERED
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn work(file: OwnedFd, ledger: &Ledger, worker: Worker) {
        let home = Home::attach::<Ring<Message>>(file).unwrap();
        match worker.place {
            0 => send(home, ledger, worker.number),
            1 => {
                let memory = home.read_only().unwrap();
                receive_some(receiver(memory, Start::Next).unwrap(), ledger);
            }
            _ => receive_some(Receiver::attach(home, Start::Oldest).unwrap(), ledger),
        }
    }

    fn gets_on_without(victims: &[u64], _: bool) -> bool {
        !victims.contains(&0)
    }

    fn judge(&mut self, run: &mut Run<Self>) -> String {
        run.leave(1..4);
        assert_eq!(judge(&self.0), 0);
        let missed = run.ledger.word(MISSED).load(Relaxed);
        format!("{missed} missed and told")
    }
}
