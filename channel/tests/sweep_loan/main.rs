//! `loan`, killed, stopped and preempted at every instruction: loan, send, take, keep, give up, recover, and
//! the blocking forms with a sleeping peer. No message is lost or torn, no block is lost, none is anybody
//! else's.
//!
//! Shown to fail (`.ci/mutants loan/`): a block freed before its message is released; a recovery that frees what a
//! message names, or that leaves what none does; an orphan dropped without its block.
#![cfg(all(not(loom), target_os = "linux"))]

#[path = "../common/in_run.rs"]
mod in_run;
mod judge;
#[path = "../common/sweeps.rs"]
mod sweeps;

use std::mem::forget;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_channel::loan::{self, Config as Shape, Loan, Orphans, Receiver, Ring};
use multiprocess_core::{Peers, Place, Region};
use multiprocess_testkit::{Env, Mode, Operation, Outcome, Role, Subject};

use in_run::{InRun, LongDead, peers};
use sweeps::{IN_DOUBT, RIVAL, RIVALS, VICTIM, done, note, sweeps, swept, whole};

const CAPACITY: u64 = 8;
/// One chunk.
const BYTES: usize = 4096;
/// Blocks of the messages below that fit.
const BLOCKS: usize = BYTES / 128;

/// Where the slots lie (channel/README.md).
const SLOTS: usize = 0x80 + 0x300 + 7 * 0x80;

/// Shorter than any inner bound.
const AT_ONCE: Duration = Duration::from_micros(1);

/// A message: its number, all over 16 words.
type Words = [u64; 16];

type Tx<'a> = loan::Sender<Region<'a>, InRun<'a>>;
type Rx<'a> = Receiver<Region<'a>, InRun<'a>>;

/// A loan with a message in it; `None` if no block was free.
fn written<'a, 'm, P: Peers>(
    sender: &'a loan::Sender<Region<'m>, P>,
    number: u64,
) -> Option<Loan<'a, Region<'m>, P>> {
    let mut loan = sender.try_loan(size_of::<Words>()).ok()?;
    *loan.value_mut::<Words>()? = [number; 16];
    Some(loan)
}

/// The message's number. Panics, which is a violation, if it is torn.
fn number(bytes: &[u8]) -> u64 {
    // A large one at its beginning: this is done step by step.
    let words = bytes.get(..128).unwrap_or(bytes).as_chunks::<8>().0;
    assert!(words.iter().all(|word| *word == words[0]), "torn");
    u64::from_ne_bytes(words[0])
}

fn send<P: Peers>(sender: &loan::Sender<Region<'_>, P>, number: u64) -> u64 {
    let sent = written(sender, number).is_some_and(|loan| loan.send_timeout(AT_ONCE).is_ok());
    u64::from(sent)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// Borrow a block and give it back.
    Loan,
    Send {
        before: u64,
    },
    /// Take, work, release.
    Take {
        before: u64,
    },
    /// The same, where orphans are dropped.
    TakeOrDrop,
    Keep,
    GiveUp,
    /// An orphan lies in the ring, and is dropped.
    Discard,
    /// One that is long dead had a loan, had sent a message, and has two in hand, one not adopted.
    Recover,
    RecoverAndDrop,
    /// All memory is in a message; a sender sleeps.
    ReleaseWithSleeper,
    /// The same; a helper takes it when we sleep.
    WaitForBlock,
}

impl Op {
    fn before(self) -> u64 {
        match self {
            Op::Send { before } | Op::Take { before } => before,
            Op::TakeOrDrop | Op::Keep | Op::GiveUp | Op::Discard => 2,
            Op::Recover | Op::RecoverAndDrop => 4,
            Op::ReleaseWithSleeper | Op::WaitForBlock => 1,
            Op::Loan => 0,
        }
    }

    fn has_peer(self) -> bool {
        matches!(self, Op::ReleaseWithSleeper | Op::WaitForBlock)
    }

    /// Who recovers is a victim of its own.
    fn modes(self) -> Vec<Mode> {
        match self.has_peer() {
            true => vec![Mode::Kill],
            false => vec![Mode::Kill, Mode::Preempt, Mode::PreemptThenKill],
        }
    }

    fn drops(self) -> bool {
        matches!(self, Op::TakeOrDrop | Op::Discard | Op::RecoverAndDrop)
    }

    fn shape(self) -> Shape {
        let orphans = match self.drops() {
            true => Orphans::Drop,
            false => Orphans::Redeliver,
        };
        let bytes = BYTES as u64;
        Shape::new(CAPACITY, bytes).endpoints(7).orphans(orphans)
    }

    fn region<'a>(self, env: &Env<'a>) -> Region<'a> {
        let size = self.size();
        // SAFETY: as large as `size` says, mapped as long as the run lasts, accessed through rings only.
        unsafe { Region::new(NonNull::new(env.segment).unwrap(), size) }
    }

    fn sender<'a>(self, env: &Env<'a>) -> Tx<'a> {
        Tx::attach(self.region(env), peers(env)).unwrap()
    }

    fn receiver<'a>(self, env: &Env<'a>) -> Rx<'a> {
        Rx::attach(self.region(env), peers(env)).unwrap()
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("loan {self:?}")
    }

    fn size(&self) -> usize {
        Ring::layout(&self.shape()).unwrap().size()
    }

    fn setup(&self, env: &Env<'_>) {
        // SAFETY: nobody else knows of the segment yet.
        unsafe { Ring::init(self.region(env), &self.shape()) }.unwrap();
        // Keep their seats: setup lives on.
        let (sender, receiver) = (self.sender(env), self.receiver(env));
        // Warms clock and CPU count, and moves the ring on.
        assert!(receiver.take_timeout(AT_ONCE).is_err());
        for _ in 0..3 {
            assert_eq!(send(&sender, 39), 1);
            receiver.try_take().unwrap().release();
        }
        match self {
            Op::Recover | Op::RecoverAndDrop => {
                let dead_tx = loan::Sender::attach(self.region(env), LongDead).unwrap();
                let dead_rx = Receiver::attach(self.region(env), LongDead).unwrap();
                let sent = [send(&sender, 1), send(&sender, 2), send(&dead_tx, 3)];
                assert_eq!((sent, send(&sender, 4)), ([1; 3], 1));
                forget(dead_rx.try_take().unwrap());
                // It has also taken message 2, in ticket 4, and not adopted its block; seat 3 is its.
                // SAFETY: inside the region, aligned, accessed atomically by all.
                let word = unsafe {
                    self.region(env)
                        .base()
                        .add(SLOTS + 4 * 16)
                        .cast::<AtomicU64>()
                        .as_ref()
                };
                assert_eq!(
                    word.load(Relaxed) & 0xe000_ffff_ffff_ffff,
                    2 << 61 | 4,
                    "the layout has changed"
                );
                word.store(3 << 61 | 3 << 48 | 4, Relaxed);
                forget(written(&dead_tx, 38).unwrap());
                forget((dead_tx, dead_rx));
            }
            Op::ReleaseWithSleeper | Op::WaitForBlock => {
                let mut loan = sender.try_loan(BYTES).unwrap();
                loan.as_chunks_mut::<8>().0.fill(1_u64.to_ne_bytes());
                loan.try_send().unwrap();
                assert!(sender.loan_timeout(1, AT_ONCE).is_err());
            }
            // The first one's block is that of a dead sender while its taker stands before the adoption.
            Op::Take { .. } => {
                let dead = loan::Sender::attach(self.region(env), LongDead).unwrap();
                assert_eq!(send(&dead, 1), 1);
                forget(dead);
                for message in 2..=self.before() {
                    assert_eq!(send(&sender, message), 1);
                }
            }
            _ => {
                for message in 1..=self.before() {
                    assert_eq!(send(&sender, message), 1);
                }
            }
        }
        if *self == Op::Discard {
            receiver.try_take().unwrap().give_up();
        }
        forget((sender, receiver));
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let op = *self;
        let control = env.control;
        match op {
            Op::Loan => {
                let sender = op.sender(&env);
                Box::new(move || u64::from(sender.try_loan(128).is_ok()))
            }
            Op::Send { .. } => {
                let sender = op.sender(&env);
                Box::new(move || {
                    let loan = written(&sender, IN_DOUBT);
                    u64::from(loan.is_some_and(|loan| loan.try_send().is_ok()))
                })
            }
            Op::WaitForBlock => {
                let sender = op.sender(&env);
                Box::new(move || {
                    let mut loan = sender.loan(128).unwrap();
                    *loan.value_mut::<Words>().unwrap() = [IN_DOUBT; 16];
                    u64::from(loan.send().is_ok())
                })
            }
            Op::Recover | Op::RecoverAndDrop => {
                let sender = op.sender(&env);
                Box::new(move || {
                    sender.recover();
                    1
                })
            }
            Op::Take { .. } | Op::TakeOrDrop | Op::Keep | Op::GiveUp | Op::ReleaseWithSleeper => {
                let receiver = op.receiver(&env);
                Box::new(move || {
                    let Ok(sample) = receiver.try_take() else {
                        return 0;
                    };
                    let message = number(&sample);
                    match op {
                        Op::GiveUp => sample.give_up(),
                        Op::Keep => {
                            let kept = sample.keep();
                            note(control, VICTIM, number(&kept));
                        }
                        _ => {
                            note(control, VICTIM, message);
                            sample.release();
                        }
                    }
                    message
                })
            }
            Op::Discard => {
                let receiver = op.receiver(&env);
                Box::new(move || {
                    let mut got = 0;
                    while let Ok(sample) = receiver.try_take() {
                        got = number(&sample);
                        note(control, VICTIM, got);
                    }
                    got
                })
            }
        }
    }

    fn has_helper(&self) -> bool {
        self.has_peer()
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        match self {
            Op::WaitForBlock => {
                let receiver = self.receiver(env);
                go();
                let got = receiver.try_take().map_or(0, |sample| number(&sample));
                env.control.helper_has_settled();
                note(env.control, RIVAL, got);
                got
            }
            _ => {
                let sender = self.sender(env);
                let Ok(mut loan) = sender.loan(128) else {
                    return 0;
                };
                *loan.value_mut::<Words>().unwrap() = [IN_DOUBT; 16];
                u64::from(loan.send().is_ok())
            }
        }
    }

    /// What others do while the victim stands still. None of it may be blocked by it.
    fn rivals(&self) -> &[&'static str] {
        match self.has_peer() {
            true => &[],
            false => &[
                "receive all",
                "send and receive",
                "recover and use all blocks",
            ],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        let (sender, receiver) = (self.sender(env), self.receiver(env));
        let receive = || {
            while let Ok(sample) = receiver.take_timeout(AT_ONCE) {
                note(env.control, RIVAL, number(&sample));
            }
        };
        match which {
            0 => receive(),
            1 => {
                let sent = send(&sender, RIVALS);
                receive();
                return sent;
            }
            _ => {
                sender.recover();
                let loans: Vec<_> = std::iter::from_fn(|| written(&sender, 63)).collect();
                return loans.len() as u64;
            }
        }
        0
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, env: &Env<'_>, dead: Role) {
        self.sender(env).recover();
        if dead == Role::Victim
            && *self == Op::ReleaseWithSleeper
            && let Ok(sample) = self.receiver(env).try_take()
        {
            note(env.control, RIVAL, number(&sample));
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let (sender, receiver) = (self.sender(env), self.receiver(env));
        receiver.recover();
        let mut left = Vec::new();
        while let Ok(sample) = receiver.take_timeout(AT_ONCE) {
            left.push(number(&sample));
        }
        let fate = self.judge(env, outcome, &left)?;
        sender.recover();
        let blocks = sender.memory_statistics().blocks;
        if blocks > 0 {
            return Err(format!("{blocks} blocks are nobody's"));
        }
        for lap in 0..2 {
            let loans: Vec<_> = std::iter::from_fn(|| written(&sender, 62)).collect();
            if loans.len() != BLOCKS {
                return Err(format!("{} blocks in lap {lap}", loans.len()));
            }
        }
        let receive = || Some(number(&receiver.try_take().ok()?));
        whole(CAPACITY, |number| send(&sender, number) == 1, receive)?;
        done(receiver.recover())?;
        Ok(fate)
    }
}

sweeps! {
    borrow_and_give_back: Op::Loan, true;
    send_into_an_empty_ring: Op::Send { before: 0 }, true;
    send_into_a_full_ring: Op::Send { before: 8 }, false;
    take_and_release: Op::Take { before: 2 }, true;
    take_from_a_full_ring: Op::Take { before: 8 }, false;
    take_where_orphans_are_dropped: Op::TakeOrDrop, false;
    keep_a_block: Op::Keep, true;
    give_up: Op::GiveUp, false;
    discard_an_orphan: Op::Discard, false;
    recover: Op::Recover, false;
    recover_where_orphans_are_dropped: Op::RecoverAndDrop, false;
    release_with_a_sleeping_sender: Op::ReleaseWithSleeper, true;
    wait_for_a_block: Op::WaitForBlock, false;
}
