//! `mpmc`, killed, stopped and preempted at every instruction: send, take, receive, give up, recover,
//! and the blocking forms with a sleeping peer.
//!
//! Shown to fail (`.ci/mutants`): stalled writers, or readers, that are not stepped over; a recovery that
//! forgets held writers, or readers; an orphan ahead of the head that is taken as if the head had passed; who
//! leaves last and is killed before it says so.
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

use in_run::{InRun, LongDead, peers};
use multiprocess_channel::TrySendError;
use multiprocess_channel::mpmc::{Config as Shape, Receiver, Ring, Sender};
use multiprocess_core::{Place, Region};
use multiprocess_testkit::{Env, Mode, Operation, Outcome, Role, Subject};
use sweeps::{HELPER, IN_DOUBT, RIVAL, RIVALS, VICTIM, done, note, sweeps, swept, whole};

const SHAPE: Shape = Shape::new(8).endpoints(7);
const CAPACITY: u64 = 8;
/// Where the slots lie (channel/README.md).
const SLOTS: usize = 0x300 + 7 * 0x80;
const STRIDE: usize = 16;

/// What a successor sends in its place.
const SUCCESSORS: u64 = 60;
/// Looks as often as it takes to step over one that stalls, and does not sleep.
const AT_ONCE: Duration = Duration::ZERO;

/// More than stall at a time.
const STALLED: u32 = 4;

fn region<'a>(env: &Env<'a>) -> Region<'a> {
    let size = Ring::<u64>::layout(&SHAPE).unwrap().size();
    // SAFETY: as large as `size` says, mapped as long as the run lasts, accessed through rings only.
    unsafe { Region::new(NonNull::new(env.segment).unwrap(), size) }
}

fn sender<'a>(env: &Env<'a>) -> Sender<u64, Region<'a>, InRun<'a>> {
    Sender::attach(region(env), peers(env)).unwrap()
}

fn receiver<'a>(env: &Env<'a>) -> Receiver<u64, Region<'a>, InRun<'a>> {
    Receiver::attach(region(env), peers(env)).unwrap()
}

/// A slot's word.
fn word<'a>(env: &Env<'a>, ticket: u64) -> &'a AtomicU64 {
    let offset = SLOTS + (ticket % CAPACITY) as usize * STRIDE;
    // SAFETY: inside the region, aligned, accessed atomically by all.
    unsafe { region(env).base().add(offset).cast::<AtomicU64>().as_ref() }
}

/// The slots, for messages of violations.
fn words(env: &Env<'_>) -> String {
    (0..CAPACITY)
        .map(|slot| word(env, slot).load(Relaxed))
        .map(|word| format!("{}.{}@{} ", word >> 61, word >> 48 & 0x1fff, word & 0xffff))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// In one step, or in three.
    Send {
        before: u64,
        at_once: bool,
    },
    /// Take, work, release.
    Take {
        before: u64,
    },
    /// By value.
    Recv {
        before: u64,
    },
    /// By value, in one step.
    OneStep {
        before: u64,
    },
    GiveUp,
    /// One that is long dead was writing, and had a message in hand.
    Recover,
    /// Its slots have been stepped over.
    RecoverHeld,
    /// A receiver sleeps.
    SendToSleeper,
    /// The ring is full, and a sender sleeps.
    RecvWithSleeper,
    /// The ring is empty; a helper sends when we sleep.
    WaitForMessage,
    /// The ring is full; a helper receives when we sleep.
    WaitForRoom,
    /// Receivers sleep until the ring is closed.
    Close,
    /// The last sender, while a receiver sleeps.
    Leave,
}

impl Op {
    fn before(self) -> u64 {
        match self {
            Op::Send { before, .. }
            | Op::Take { before }
            | Op::Recv { before }
            | Op::OneStep { before } => before,
            Op::GiveUp => 2,
            Op::Recover | Op::RecoverHeld => 3,
            Op::RecvWithSleeper | Op::WaitForRoom => CAPACITY,
            Op::SendToSleeper | Op::WaitForMessage | Op::Close | Op::Leave => 0,
        }
    }

    fn has_peer(self) -> bool {
        matches!(
            self,
            Op::SendToSleeper
                | Op::RecvWithSleeper
                | Op::WaitForMessage
                | Op::WaitForRoom
                | Op::Close
                | Op::Leave
        )
    }

    fn modes(self) -> Vec<Mode> {
        match self.has_peer() {
            true => vec![Mode::Kill],
            false => vec![
                Mode::Kill,
                Mode::Preempt,
                Mode::PreemptThenKill,
                Mode::RecovererKilled,
            ],
        }
    }

    /// Slots in the hands of those who stand still.
    fn held(self) -> u64 {
        match self {
            Op::Recover | Op::RecoverHeld => 2,
            _ => 1,
        }
    }

    /// Whether a message may be gone with its taker.
    fn is_at_most_once(self) -> bool {
        matches!(
            self,
            Op::Recv { .. } | Op::OneStep { .. } | Op::RecvWithSleeper | Op::WaitForMessage
        )
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("mpmc {self:?}")
    }

    fn size(&self) -> usize {
        Ring::<u64>::layout(&SHAPE).unwrap().size()
    }

    fn setup(&self, env: &Env<'_>) {
        // SAFETY: nobody else knows of the segment yet.
        unsafe { Ring::<u64>::init(region(env), &SHAPE) }.unwrap();
        // Keep their seats: setup lives on.
        let (mut sender, mut receiver) = (sender(env), receiver(env));
        // Warms clock and CPU count, and moves the ring on.
        let nothing = receiver.recv_timeout(AT_ONCE);
        assert!(nothing.is_err());
        for _ in 0..3 {
            sender.try_send(39).unwrap();
            receiver.try_recv().unwrap();
        }
        if matches!(self, Op::Recover | Op::RecoverHeld) {
            let mut dead = Receiver::<u64, _, _>::attach(region(env), LongDead).unwrap();
            sender.try_send(1).unwrap();
            forget(dead.try_take().unwrap());
            // As a sender it has claimed ticket 4; seat 2 is its.
            assert_eq!(word(env, 4).load(Relaxed), 4, "the layout has changed");
            word(env, 4).store(1 << 61 | 2 << 48 | 4, Relaxed);
            forget(dead);
            sender.try_send(2).unwrap();
            sender.try_send(3).unwrap();
            if *self == Op::RecoverHeld {
                assert_eq!(receiver.recv_timeout(AT_ONCE), Ok(2));
                for message in 4..8 {
                    sender.send_timeout(message, AT_ONCE).unwrap();
                }
                assert_eq!(receiver.drain().count(), 5);
                sender.send_timeout(2, AT_ONCE).unwrap();
                sender.send_timeout(3, AT_ONCE).unwrap();
            }
        } else {
            for message in 1..=self.before() {
                sender.try_send(message).unwrap();
            }
        }
        if *self == Op::Leave {
            sender.close();
        }
        forget((sender, receiver));
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let op = *self;
        let control = env.control;
        match op {
            Op::Send { at_once, .. } => {
                let mut sender = sender(&env);
                sender.set_one_step(at_once);
                Box::new(move || u64::from(sender.try_send(IN_DOUBT).is_ok()))
            }
            Op::SendToSleeper | Op::WaitForRoom => {
                let mut sender = sender(&env);
                sender.set_spin_cap(20);
                sender.set_one_step(op == Op::SendToSleeper);
                Box::new(move || u64::from(sender.send(IN_DOUBT).is_ok()))
            }
            Op::Close => {
                let mut sender = sender(&env);
                Box::new(move || {
                    sender.close_ring();
                    1
                })
            }
            Op::Leave => {
                let mut sender = sender(&env);
                Box::new(move || {
                    sender.close();
                    1
                })
            }
            Op::Recover | Op::RecoverHeld => {
                let sender = sender(&env);
                Box::new(move || {
                    sender.recover();
                    1
                })
            }
            Op::Take { .. } => {
                let mut receiver = receiver(&env);
                Box::new(move || {
                    let Ok(taken) = receiver.try_take() else {
                        return 0;
                    };
                    let message = taken.get();
                    note(control, VICTIM, message);
                    taken.release();
                    message
                })
            }
            Op::GiveUp => {
                let mut receiver = receiver(&env);
                Box::new(move || {
                    let Ok(taken) = receiver.try_take() else {
                        return 0;
                    };
                    taken.give_up();
                    1
                })
            }
            Op::Recv { .. } | Op::OneStep { .. } | Op::RecvWithSleeper | Op::WaitForMessage => {
                let mut receiver = receiver(&env);
                receiver.set_spin_cap(20);
                receiver.set_one_step(matches!(op, Op::OneStep { .. }));
                Box::new(move || {
                    let message = match op {
                        Op::WaitForMessage => receiver.recv().unwrap_or(0),
                        _ => receiver.try_recv().unwrap_or(0),
                    };
                    note(control, VICTIM, message);
                    message
                })
            }
        }
    }

    fn has_helper(&self) -> bool {
        self.has_peer()
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        match self {
            Op::SendToSleeper | Op::Close | Op::Leave => {
                let mut receiver = receiver(env);
                receiver.set_spin_cap(0);
                let got = receiver.recv().unwrap_or(0);
                note(env.control, HELPER, got);
                got
            }
            Op::WaitForRoom => {
                let mut receiver = receiver(env);
                go();
                let got = receiver.try_recv().unwrap_or(0);
                env.control.helper_has_settled();
                note(env.control, HELPER, got);
                got
            }
            Op::WaitForMessage => {
                let mut sender = sender(env);
                go();
                let sent = sender.try_send(IN_DOUBT).is_ok();
                env.control.helper_has_settled();
                u64::from(sent)
            }
            _ => {
                let mut sender = sender(env);
                sender.set_spin_cap(0);
                u64::from(sender.send(IN_DOUBT).is_ok())
            }
        }
    }

    /// What others do while the victim stands still. None of it may be blocked by it.
    fn rivals(&self) -> &[&'static str] {
        match self.has_peer() {
            true => &[],
            false => &["receive all", "send and receive", "two laps"],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        let mut sent = 0;
        let (mut sender, mut receiver) = (sender(env), receiver(env));
        // A call that is late at once steps over one that stalls, and there may be several.
        let mut receive = || {
            for _ in 0..STALLED {
                while let Ok(message) = receiver.recv_timeout(AT_ONCE) {
                    note(env.control, RIVAL, message);
                }
            }
        };
        let mut send = |message| {
            u64::from((0..STALLED).any(|_| sender.send_timeout(message, AT_ONCE).is_ok()))
        };
        match which {
            0 => receive(),
            1 => {
                sent += send(RIVALS);
                receive();
            }
            _ => {
                receive();
                for _ in 0..2 {
                    for _ in 0..CAPACITY - self.held() {
                        let message = RIVALS + sent % 8;
                        sent += send(message);
                    }
                    receive();
                }
                // What others hold is stepped over.
                return u64::from(sent == 2 * (CAPACITY - self.held()));
            }
        }
        sent
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, env: &Env<'_>, dead: Role) {
        if *self == Op::Leave {
            return; // the sleeper is to find out by itself
        }
        let mut sender = sender(env);
        sender.recover();
        if dead != Role::Victim {
            return;
        }
        match self {
            Op::SendToSleeper if !env.control.helper_has_returned() => {
                let _ = sender.try_send(SUCCESSORS);
            }
            Op::Close => sender.close_ring(),
            Op::RecvWithSleeper => {
                let mut receiver = receiver(env);
                if let Ok(message) = receiver.try_recv() {
                    note(env.control, RIVAL, message);
                }
            }
            _ => {}
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let mut receiver = receiver(env);
        receiver.recover();
        let mut left = Vec::new();
        while let Ok(message) = receiver.recv_timeout(AT_ONCE) {
            left.push(message);
        }
        let fate = self.judge(env, outcome, &left)?;
        if *self != Op::Close {
            let mut sender = sender(env);
            if !receiver.is_empty() {
                return Err(format!("{} left after a drain", receiver.len()));
            }
            let mut refused = None;
            let send = |message| {
                refused = sender.try_send(message).err();
                refused.is_none()
            };
            whole(CAPACITY, send, || receiver.try_recv().ok())
                .map_err(|what| format!("{what} {}", words(env)))?;
            if !matches!(refused, Some(TrySendError::Full(_))) {
                return Err(format!("{refused:?} {}", words(env)));
            }
            let endpoints = sender.statistics().endpoints;
            let living = match self {
                Op::Leave => 3,
                _ if env.control.victim_is_dead() => 4,
                _ => 5,
            };
            if endpoints != living {
                return Err(format!("{endpoints} seats are taken, {living} should be"));
            }
        }
        done(receiver.recover())?;
        Ok(fate)
    }
}

sweeps! {
    send_into_an_empty_ring: Op::Send { before: 0, at_once: false }, true;
    send_across_the_wrap: Op::Send { before: 6, at_once: false }, true;
    send_at_once: Op::Send { before: 6, at_once: true }, true;
    send_at_once_into_a_full_ring: Op::Send { before: 8, at_once: true }, false;
    send_into_a_full_ring: Op::Send { before: 8, at_once: false }, false;
    take_and_release: Op::Take { before: 2 }, true;
    take_from_a_full_ring: Op::Take { before: 8 }, false;
    take_from_an_empty_ring: Op::Take { before: 0 }, false;
    receive_by_value: Op::Recv { before: 2 }, true;
    receive_in_one_step: Op::OneStep { before: 2 }, true;
    give_up: Op::GiveUp, true;
    recover: Op::Recover, true;
    recover_what_was_stepped_over: Op::RecoverHeld, false;
    send_to_a_sleeping_receiver: Op::SendToSleeper, true;
    receive_with_a_sleeping_sender: Op::RecvWithSleeper, true;
    wait_for_a_message: Op::WaitForMessage, false;
    wait_for_room: Op::WaitForRoom, false;
    close_with_a_sleeping_receiver: Op::Close, true;
    leave_with_a_sleeping_receiver: Op::Leave, true;
}
