//! `broadcast`, killed, stopped and preempted at every instruction: send, receive, join, leave, close,
//! take over, and the waiting forms with a sleeping peer.
//!
//! Shown to fail (`.ci/mutants`): a successor that writes a message anew which somebody has received; a
//! sequence published before the message; a sender that waits for one who is only joining, or for the
//! dead; seats of the dead that stay.
#![cfg(all(not(loom), target_os = "linux"))]

#[path = "common/broadcast_run.rs"]
mod run;

use std::mem::forget;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_channel::TryRecvError;
use multiprocess_channel::broadcast::{LosslessReceiver, Ring, Sender, Start, TryReadError};
use multiprocess_core::Place;
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};
use run::{LongDead, SHAPE, Words, lossless, lossy, number, peers, region, sender, tail, words};

const CAPACITY: u64 = 4;
/// The message whose fate is in doubt.
const IN_DOUBT: u64 = 50;
/// What the first successor sends, and the second.
const SUCCESSORS: u64 = 60;
/// What others send, from here on.
const RIVALS: u64 = 20;

/// Longer than detection takes, shorter than the harness's patience.
const LONG: Duration = Duration::from_secs(5);

/// Notes: the messages that the rival has received, a bit for each.
const RIVAL: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Send {
        before: u64,
    },
    /// The ring is full for a lossless receiver that is long dead.
    SendPastTheDead,
    /// A lossless receiver sleeps.
    SendToSleeper,
    /// A receiver that may not write sleeps.
    SendToBlindSleeper,
    /// More than the ring holds; a helper receives when we sleep.
    WaitForRoom,
    /// Takes over from one that was killed before it moved the tail.
    TakeOver,
    Close,
    /// A lossless receiver's.
    Receive {
        before: u64,
    },
    /// One's that can be overtaken.
    Read,
    /// The ring is full and the sender sleeps.
    ReceiveWithSleeper,
    /// A helper sends when we sleep.
    WaitForMessage,
    Join,
    Leave,
}

impl Op {
    fn before(self) -> u64 {
        match self {
            Op::Send { before } | Op::Receive { before } => before,
            Op::Read => 2,
            Op::SendPastTheDead => CAPACITY,
            Op::TakeOver | Op::Join | Op::Leave => 2,
            _ => 0,
        }
    }

    fn has_peer(self) -> bool {
        matches!(
            self,
            Op::SendToSleeper
                | Op::SendToBlindSleeper
                | Op::WaitForRoom
                | Op::Close
                | Op::ReceiveWithSleeper
                | Op::WaitForMessage
        )
    }

    /// Whether the victim is the sender.
    fn sends(self) -> bool {
        matches!(
            self,
            Op::Send { .. }
                | Op::SendPastTheDead
                | Op::SendToSleeper
                | Op::SendToBlindSleeper
                | Op::WaitForRoom
                | Op::TakeOver
                | Op::Close
        )
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("broadcast {self:?}")
    }

    fn size(&self) -> usize {
        Ring::<Words>::layout(&SHAPE).unwrap().size()
    }

    fn setup(&self, env: &Env<'_>) {
        // SAFETY: nobody else knows of the segment yet.
        unsafe { Ring::<Words>::init(region(env), &SHAPE) }.unwrap();
        let mut sender = sender(env);
        // Warms clock and CPU count.
        let mut receiver = lossless(env);
        assert!(receiver.recv_timeout(Duration::from_micros(1)).is_err());
        drop(receiver);
        if *self == Op::SendPastTheDead {
            let dead = LosslessReceiver::<Words, _, _>::attach(region(env), LongDead).unwrap();
            forget(dead);
        }
        if !matches!(self, Op::Receive { .. } | Op::Read) {
            for message in 1..=self.before() {
                sender.try_send(words(message)).unwrap();
            }
        }
        if *self == Op::TakeOver {
            tail(env).fetch_sub(1, Relaxed);
        }
        forget(sender);
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let op = *self;
        match op {
            Op::Send { .. } => {
                let mut sender = sender(&env);
                Box::new(move || u64::from(sender.try_send(words(IN_DOUBT)).is_ok()))
            }
            Op::SendPastTheDead | Op::SendToSleeper | Op::SendToBlindSleeper => {
                let mut sender = sender(&env);
                Box::new(move || u64::from(sender.send_timeout(words(IN_DOUBT), LONG).is_ok()))
            }
            Op::WaitForRoom => {
                let mut sender = sender(&env);
                Box::new(move || {
                    (0..=CAPACITY)
                        .filter(|offset| sender.send(words(IN_DOUBT + offset)).is_ok())
                        .count() as u64
                })
            }
            Op::TakeOver => Box::new(move || {
                let mut sender = sender(&env);
                let sent = sender.try_send(words(IN_DOUBT)).is_ok();
                forget(sender);
                u64::from(sent)
            }),
            Op::Close => {
                let mut sender = sender(&env);
                Box::new(move || {
                    sender.close();
                    1
                })
            }
            Op::Receive { .. } | Op::ReceiveWithSleeper | Op::WaitForMessage => {
                let mut receiver = lossless(&env);
                let mut sender = sender(&env);
                for message in 1..=op.before() {
                    sender.try_send(words(message)).unwrap();
                }
                forget(sender);
                Box::new(move || {
                    let got = match op {
                        Op::WaitForMessage => receiver.recv().ok(),
                        _ => receiver.try_recv().ok(),
                    };
                    got.map_or(0, |words| number(&words))
                })
            }
            Op::Read => {
                let mut receiver = lossy(&env, Start::Next);
                let mut sender = sender(&env);
                for message in 1..=op.before() {
                    sender.try_send(words(message)).unwrap();
                }
                forget(sender);
                Box::new(move || match receiver.try_recv() {
                    Ok(words) => number(&words),
                    Err(TryReadError::Lagged(missed)) => 100 + missed,
                    Err(_) => 0,
                })
            }
            Op::Join => Box::new(move || {
                let receiver = lossless(&env);
                let position = receiver.position();
                forget(receiver);
                position
            }),
            Op::Leave => {
                let mut receiver = lossless(&env);
                Box::new(move || {
                    receiver.close();
                    1
                })
            }
        }
    }

    fn has_helper(&self) -> bool {
        self.has_peer()
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        match self {
            Op::SendToSleeper | Op::Close => {
                let mut receiver = lossless(env);
                receiver.recv().map_or(0, |words| number(&words))
            }
            Op::SendToBlindSleeper => {
                let mut receiver = lossy(env, Start::Next);
                receiver.set_spin_cap(0);
                receiver.recv().map_or(0, |words| number(&words))
            }
            Op::WaitForRoom => {
                let mut receiver = lossless(env);
                go();
                let got = receiver.try_recv().map_or(0, |words| number(&words));
                env.control.helper_has_settled();
                // Keeps its seat: whoever sends on finds it dead.
                forget(receiver);
                got
            }
            Op::ReceiveWithSleeper => {
                let mut sender = sender(env);
                let sent = (0..=CAPACITY)
                    .filter(|offset| sender.send(words(RIVALS + offset)).is_ok())
                    .count();
                forget(sender);
                sent as u64
            }
            _ => {
                let mut sender = sender(env);
                go();
                let sent = sender.try_send(words(IN_DOUBT)).is_ok();
                env.control.helper_has_settled();
                forget(sender);
                u64::from(sent)
            }
        }
    }

    /// What others do while the victim stands still. None of it may be blocked by it.
    fn rivals(&self) -> &[&'static str] {
        match self {
            op if op.has_peer() => &[],
            Op::SendPastTheDead => &[],
            op if op.sends() => &["receive all"],
            Op::Receive { .. } | Op::Read => &["send three", "send two laps"],
            _ => &["send two laps"],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        if self.sends() {
            let mut seen = 0;
            for words in lossy(env, Start::Oldest).drain() {
                seen |= 1 << number(&words);
            }
            env.control.notes[RIVAL].store(seen, Relaxed);
            // One that waits for all can come and go, too.
            drop(lossless(env));
            return 1;
        }
        let mut sender = sender(env);
        let many = if which == 0 && matches!(self, Op::Receive { .. } | Op::Read) {
            3
        } else {
            2 * CAPACITY
        };
        let sent = (0..many)
            .filter(|offset| sender.try_send(words(RIVALS + offset)).is_ok())
            .count();
        forget(sender);
        sent as u64
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, env: &Env<'_>, dead: Role) {
        if !self.sends() {
            // The sender that was set up is nobody's, or the helper's, which runs.
            if !self.has_peer() {
                let sender = sender(env);
                sender.drop_dead();
                forget(sender);
            }
            return;
        }
        let mut sender = match Sender::<Words, _, _>::attach(region(env), peers(env)) {
            Ok(sender) => sender,
            // It was closed, or nobody had taken it over.
            Err(_) => sender(env),
        };
        sender.set_spin_cap(0);
        let number = SUCCESSORS + u64::from(env.role == Role::SecondRecoverer);
        let has_returned = env.control.helper_has_returned();
        match self {
            // Somebody has to.
            Op::Close => sender.close(),
            // The helper keeps its seat, and we do not know that it has ended.
            Op::WaitForRoom => drop(sender.try_send(words(number))),
            Op::SendToSleeper if has_returned => {}
            _ if dead == Role::Victim => {
                sender.send_timeout(words(number), LONG).unwrap();
            }
            _ => {}
        }
        forget(sender);
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let left: Vec<u64> = lossy(env, Start::Oldest)
            .drain()
            .map(|words| number(&words))
            .collect();
        let fate = self.judge(env, outcome, &left)?;
        // Everybody can go on.
        let mut sender = sender(env);
        let position = sender.position();
        sender.drop_dead();
        let living = match self {
            Op::Receive { .. } | Op::Join => u32::from(!env.control.victim_is_dead()),
            _ => 0,
        };
        if sender.statistics().readers != living {
            return Err(format!("{:?}", sender.statistics()));
        }
        if living > 0 {
            // It is far behind, perhaps, and nobody makes it go on.
            return Ok(fate);
        }
        let mut receivers = [lossless(env), lossless(env)];
        let mut lossy = lossy(env, Start::Next);
        for lap in 0..3 {
            for offset in 0..CAPACITY {
                if sender.try_send(words(lap * CAPACITY + offset)).is_err() {
                    return Err(format!("lap {lap}: no room for {offset}"));
                }
            }
            if sender.try_send(words(9)).is_ok() {
                return Err("nobody is waited for".into());
            }
            for offset in 0..CAPACITY {
                let expected = lap * CAPACITY + offset;
                let got = receivers
                    .each_mut()
                    .map(|receiver| receiver.try_recv().map(|words| number(&words)));
                let blind = lossy.try_recv().map(|words| number(&words));
                if got != [Ok(expected); 2] || blind != Ok(expected) {
                    return Err(format!("{got:?} and {blind:?} for {expected}"));
                }
            }
            if receivers[0].try_recv() != Err(TryRecvError::Empty) {
                return Err("one too many".into());
            }
        }
        match sender.position() == position + 3 * CAPACITY {
            true => Ok(fate),
            false => Err("miscounted".into()),
        }
    }
}

impl Op {
    /// Nothing lost, nothing doubled, nothing out of order; torn ones have panicked.
    fn judge(
        self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let wrong = |what: &str| {
            let (completed, result) = (outcome.completed, outcome.result);
            let (rival, helper) = (outcome.rival, outcome.helper);
            Err(format!(
                "{what}: {left:?} left, {completed} {result}, rival {rival:?}, helper {helper:?}"
            ))
        };
        if !left.is_sorted() && self.sends() || left.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("out of order or doubled");
        }
        let has = |message: u64| left.contains(&message);
        match self {
            Op::Send { .. } | Op::SendPastTheDead | Op::TakeOver => {
                // What was there before, as far as the ring reaches back.
                let new = left.iter().filter(|message| **message >= IN_DOUBT).count();
                let kept = (CAPACITY as usize - 1).saturating_sub(new);
                let before: Vec<u64> = (1..=self.before()).collect();
                let expected = &before[before.len().saturating_sub(kept)..];
                if left[..left.len() - new] != *expected {
                    return wrong("lost");
                }
                let seen = env.control.notes[RIVAL].load(Relaxed);
                if seen & 1 << IN_DOUBT != 0 && !has(IN_DOUBT) {
                    return wrong("written again after it was received");
                }
                if outcome.completed && !has(IN_DOUBT) {
                    return wrong("lost");
                }
                if env.control.victim_is_dead() && !has(SUCCESSORS) && !has(SUCCESSORS + 1) {
                    return wrong("the successor's message is lost");
                }
                Ok(if has(IN_DOUBT) { "sent" } else { "not sent" })
            }
            Op::SendToSleeper | Op::SendToBlindSleeper => match outcome.helper {
                Some(IN_DOUBT) => Ok("sent"),
                Some(SUCCESSORS) if !outcome.completed && !has(IN_DOUBT) => Ok("not sent"),
                // The sender is dead, and that is told before its successor sends.
                Some(0) if !outcome.completed => Ok("abandoned"),
                _ => wrong("the sleeper"),
            },
            Op::WaitForRoom => match outcome.completed {
                true if outcome.result != CAPACITY + 1 => wrong("refused"),
                true if !has(IN_DOUBT + CAPACITY) => wrong("lost"),
                true => Ok("sent"),
                false => Ok("killed"),
            },
            Op::Close => match outcome.helper {
                Some(0) => Ok("closed, or noticed"),
                _ => wrong("the sleeper"),
            },
            Op::Receive { before } => {
                let sent = outcome.rival.map_or(0, |(_, sent)| sent);
                let first = if before > 0 { 1 } else { RIVALS };
                // While it has its seat, at most a ring and what it has received.
                let most = CAPACITY - before + 1;
                if outcome.rival.is_some() && (sent + 1 < most.min(3) || sent > most) {
                    return wrong("it was not waited for");
                }
                match outcome.completed {
                    false => Ok("killed"),
                    true if outcome.result == first => Ok("received"),
                    true if outcome.result == 0 && before == 0 => Ok("nothing there"),
                    true => wrong("another came"),
                }
            }
            Op::Read => match outcome.result {
                _ if !outcome.completed => Ok("killed"),
                1 => Ok("received"),
                missed if missed > 100 && outcome.rival.is_some() => Ok("overtaken"),
                _ => wrong("another came"),
            },
            Op::ReceiveWithSleeper => match outcome.helper {
                Some(sent) if sent == CAPACITY + 1 => Ok("room"),
                _ => wrong("the sleeper"),
            },
            Op::WaitForMessage => match outcome.completed {
                true if outcome.result == IN_DOUBT => Ok("received"),
                false => Ok("killed"),
                true => wrong("another came"),
            },
            Op::Join => {
                if let Some((_, sent)) = outcome.rival {
                    // A ring is sent in any case, two if it does not sit yet.
                    if sent < CAPACITY {
                        return wrong("the sender was blocked by one who joins");
                    }
                    let sat = sent < 2 * CAPACITY;
                    if outcome.completed && sat && outcome.result > 2 + CAPACITY {
                        return wrong("joined late");
                    }
                    return Ok(if sat { "waited for" } else { "not waited for" });
                }
                Ok("joined, or not")
            }
            Op::Leave => Ok("left, or not"),
        }
    }
}

/// At every instruction, and what is long wherever the state changes.
fn swept(op: Op, at_every_instruction: bool) {
    let _watchdog = Watchdog::seconds(300);
    let modes = match op {
        op if op.has_peer() => vec![Mode::Kill],
        Op::SendPastTheDead => vec![Mode::Kill],
        _ => vec![
            Mode::Kill,
            Mode::Preempt,
            Mode::PreemptThenKill,
            Mode::RecovererKilled,
        ],
    };
    let edges = Config {
        edges_only: true,
        modes: modes.clone(),
        ..Config::default()
    };
    sweep(&op, &edges).assert_ok();
    if at_every_instruction {
        let all = Config {
            modes: modes
                .into_iter()
                .filter(|mode| *mode != Mode::RecovererKilled)
                .collect(),
            ..Config::default()
        };
        sweep(&op, &all).assert_ok();
    }
}

macro_rules! sweeps {
    ($($name:ident: $op:expr, $all:expr;)*) => {
        $(#[test] fn $name() { swept($op, $all); })*
    };
}

sweeps! {
    send_into_an_empty_ring: Op::Send { before: 0 }, true;
    send_across_the_wrap: Op::Send { before: 4 }, true;
    send_past_the_dead: Op::SendPastTheDead, false;
    send_to_a_sleeping_receiver: Op::SendToSleeper, true;
    send_to_a_receiver_that_cannot_announce_itself: Op::SendToBlindSleeper, false;
    wait_for_room: Op::WaitForRoom, false;
    take_over_before_the_tail: Op::TakeOver, true;
    close_with_a_sleeping_receiver: Op::Close, true;
    receive: Op::Receive { before: 2 }, true;
    receive_from_an_empty_ring: Op::Receive { before: 0 }, false;
    read_while_it_is_overwritten: Op::Read, true;
    receive_with_a_sleeping_sender: Op::ReceiveWithSleeper, true;
    wait_for_a_message: Op::WaitForMessage, false;
    join: Op::Join, true;
    leave: Op::Leave, true;
}
