//! What every ring must survive.

use std::marker::PhantomData;
use std::mem::forget;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::Region;
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Control, Env, Mode, Operation, Outcome, Role, Subject, sweep};

use crate::rings::{Came, Consumer, Producer, Ring};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    /// With `before` messages in the ring of four.
    Push { before: u64 },
    /// Look, process, give back.
    Take { before: u64 },
    /// By value.
    Pop { before: u64 },
    /// A consumer sleeps.
    PushToSleeper,
    /// A consumer sleeps, and nobody but the victim wakes it: if that dies between its publication
    /// and its wake, the consumer notices by itself.
    PushToSleeperAlone,
    /// The ring is full, and a producer sleeps.
    TakeWithSleeper,
    /// The ring is empty; a helper pushes when we sleep.
    WaitForMessage,
    /// The ring is full; a helper takes when we sleep.
    WaitForRoom,
    /// A consumer sleeps.
    CloseProducer,
    /// The ring is full, and a producer sleeps.
    CloseConsumer,
}

/// The message whose fate is in doubt.
const IN_DOUBT: u64 = 50;
/// The one that a successor sends.
const SUCCESSORS: u64 = 60;
/// The one that a rival sends while the victim stands still.
const RIVALS: u64 = 61;
/// Longer than the inner bound, shorter than a hang.
const PATIENCE: Duration = Duration::from_secs(8);

/// Notes: what the victim had seen when it died, one bit for each message.
const SEEN: usize = 0;

/// Where the control block (channel/README.md) keeps its two indices.
const TAIL: usize = 0x0c0;
const HEAD: usize = 0x140;

fn index(region: Region<'_>, offset: usize) -> u64 {
    // SAFETY: inside the control block of a ring, aligned, and accessed atomically by all.
    unsafe { region.base().add(offset).cast::<AtomicU64>().as_ref() }.load(Relaxed)
}

fn note(control: &Control) -> &AtomicU64 {
    &control.notes[SEEN]
}

pub(crate) fn region<'a, R: Ring>(ring: &R, env: &Env<'a>) -> Region<'a> {
    let base = NonNull::new(env.segment).unwrap();
    // SAFETY: the segment is that large, page-aligned, and accessed through rings only.
    unsafe { Region::new(base, ring.size()) }
}

impl Op {
    fn victim_produces(self) -> bool {
        matches!(
            self,
            Op::Push { .. }
                | Op::PushToSleeper
                | Op::PushToSleeperAlone
                | Op::WaitForRoom
                | Op::CloseProducer
        )
    }

    /// Messages in the ring when the victim starts: 1, 2, ...
    fn before(self) -> u64 {
        match self {
            Op::Push { before } | Op::Take { before } | Op::Pop { before } => before,
            Op::PushToSleeper | Op::PushToSleeperAlone | Op::WaitForMessage | Op::CloseProducer => {
                0
            }
            Op::TakeWithSleeper | Op::WaitForRoom | Op::CloseConsumer => 4,
        }
    }

    fn has_peer(self) -> bool {
        !matches!(self, Op::Push { .. } | Op::Take { .. } | Op::Pop { .. })
    }
}

struct Sweep<R: Ring> {
    op: Op,
    ring: R,
    kind: PhantomData<R>,
}

impl<R: Ring> Sweep<R> {
    fn region<'a>(&self, env: &Env<'a>) -> Region<'a> {
        region(&self.ring, env)
    }
}

impl<R: Ring> Subject for Sweep<R> {
    fn name(&self) -> String {
        format!("{} {:?}", R::NAME, self.op)
    }

    fn size(&self) -> usize {
        self.ring.size()
    }

    fn setup(&self, env: &Env<'_>) {
        self.ring.init(self.region(env));
        // Warms clock and CPU count, and moves the ring on, so that it wraps.
        let mut producer = R::producer(self.region(env), false);
        let mut consumer = R::consumer(self.region(env), false);
        for _ in 0..3 {
            assert!(producer.try_push(90));
            let came = consumer.take(None, &mut |_| ()).unwrap();
            assert_eq!(came, Came::Message(90));
        }
        let nothing = consumer.take(Some(Duration::from_micros(1)), &mut |_| ());
        assert_eq!(nothing.unwrap(), Came::Nothing);
        for number in 1..=self.op.before() {
            assert!(producer.try_push(number));
        }
        // Neither closes: the processes of the run take over.
        forget((producer, consumer));
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let region = self.region(&env);
        let op = self.op;
        if op.victim_produces() {
            let mut producer = R::producer(region, true);
            return Box::new(move || match op {
                Op::Push { .. } => u64::from(producer.try_push(IN_DOUBT)),
                Op::CloseProducer => {
                    producer.close();
                    1
                }
                _ => u64::from(producer.push(IN_DOUBT)),
            });
        }
        let mut consumer = R::consumer(region, true);
        let control = env.control;
        Box::new(move || {
            let mut seen = |number: u64| note(control).store(1 << number, Relaxed);
            let came = match op {
                Op::CloseConsumer => {
                    consumer.close();
                    return 1;
                }
                Op::Pop { .. } => consumer.pop(&mut seen),
                Op::Take { before: 0 } => consumer.take(Some(Duration::ZERO), &mut seen),
                _ => consumer.take(None, &mut seen),
            };
            match came {
                Ok(Came::Message(number)) => number,
                Ok(_) => 0,
                Err(_) => u64::MAX - 1,
            }
        })
    }

    fn has_helper(&self) -> bool {
        self.op.has_peer()
    }

    /// The other end. Where the victim only sleeps until the peer acts, it acts when told;
    /// otherwise it sleeps until the victim, or its successor, acts. The result is what came
    /// (100: disconnected), or whether a push was accepted (2: disconnected).
    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        let region = self.region(env);
        if self.op.victim_produces() {
            let mut consumer = R::consumer(region, true);
            if self.op == Op::WaitForRoom {
                go();
            }
            let came = consumer.take(None, &mut |_| ());
            if self.op == Op::WaitForRoom {
                env.control.helper_has_settled();
            }
            forget(consumer);
            match came {
                Ok(Came::Message(number)) => number,
                Ok(Came::Disconnected) => 100,
                other => panic!("{other:?}"),
            }
        } else {
            let mut producer = R::producer(region, true);
            if self.op == Op::WaitForMessage {
                go();
            }
            let accepted = producer.push(IN_DOUBT);
            if self.op == Op::WaitForMessage {
                env.control.helper_has_settled();
            }
            forget(producer);
            if accepted { 1 } else { 2 }
        }
    }

    /// The other end, which acts while the victim stands still: neither end may block the other.
    fn rivals(&self) -> &[&'static str] {
        if self.op.has_peer() {
            &[]
        } else {
            &["the other end"]
        }
    }

    /// What was taken (0: nothing), or whether a message was accepted.
    fn rival(&self, env: &Env<'_>, _which: usize) -> u64 {
        let region = self.region(env);
        if self.op.victim_produces() {
            let mut consumer = R::consumer(region, true);
            let came = consumer.take(Some(Duration::ZERO), &mut |_| ());
            forget(consumer);
            match came {
                Ok(Came::Message(number)) => number,
                Ok(Came::Nothing) => 0,
                other => panic!("{other:?}"),
            }
        } else {
            let mut producer = R::producer(region, true);
            let accepted = producer.try_push(RIVALS);
            forget(producer);
            u64::from(accepted)
        }
    }

    fn has_recovery(&self) -> bool {
        true
    }

    /// A successor takes the dead one's role and does one operation, so that a sleeping peer
    /// moves. Repeatable: it acts only while the peer has not moved.
    fn recover(&self, env: &Env<'_>, dead: Role) {
        if dead != Role::Victim {
            return;
        }
        let region = self.region(env);
        match self.op {
            // Published: hands off, the sleeper's inner bound is to do.
            Op::PushToSleeperAlone if index(region, TAIL) != index(region, HEAD) => {}
            Op::PushToSleeperAlone if env.control.helper_has_returned() => {}
            Op::PushToSleeper | Op::PushToSleeperAlone => {
                let mut producer = R::producer(region, true);
                producer.try_push(SUCCESSORS);
                forget(producer);
            }
            Op::CloseProducer => R::producer(region, true).close(),
            Op::CloseConsumer => R::consumer(region, true).close(),
            Op::TakeWithSleeper => {
                let mut consumer = R::consumer(region, true);
                let _ = consumer.take(Some(Duration::ZERO), &mut |_| ());
                forget(consumer);
            }
            _ => {}
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let region = self.region(env);
        self.check_peer(outcome)?;
        let mut consumer = R::consumer(region, true);
        let mut left = Vec::new();
        while let Came::Message(number) = consumer.take(Some(Duration::ZERO), &mut |_| ())? {
            left.push(number);
        }
        let fate = self.check_messages(env, outcome, &left)?;
        // The ring is whole again: four messages fit, not five, and come out in order.
        let mut producer = R::producer(region, true);
        let accepted: Vec<_> = (70..75).map(|number| producer.try_push(number)).collect();
        if accepted != [true, true, true, true, false] {
            return Err(format!("capacity lost: {accepted:?}"));
        }
        for number in 70..74 {
            let came = consumer.take(Some(PATIENCE), &mut |_| ())?;
            if came != Came::Message(number) {
                return Err(format!("{number} sent, {came:?} came"));
            }
        }
        Ok(fate)
    }
}

impl<R: Ring> Sweep<R> {
    /// The peer moved, and got what it may have got.
    fn check_peer(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        let Some(got) = outcome.helper else {
            return Ok(());
        };
        let allowed: &[u64] = match self.op {
            Op::PushToSleeper | Op::PushToSleeperAlone => &[IN_DOUBT, SUCCESSORS],
            Op::WaitForRoom => &[1],
            Op::CloseProducer => &[100],
            Op::CloseConsumer => &[2],
            _ => &[1],
        };
        if allowed.contains(&got) {
            return Ok(());
        }
        Err(format!("the peer got {got}, and may get {allowed:?}"))
    }

    /// Nothing lost, nothing doubled, nothing out of order.
    fn check_messages(
        &self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let before: Vec<u64> = (1..=self.op.before()).collect();
        let seen = note(env.control).load(Relaxed);
        let wrong = |what: &str| Err(format!("{what}: {left:?} left, {seen:#x} seen"));
        match self.op {
            Op::Push { .. } => {
                let taken = outcome
                    .rival
                    .and_then(|(_, number)| (number > 0).then_some(number));
                let out: Vec<u64> = taken.into_iter().chain(left.iter().copied()).collect();
                let sent = [before.as_slice(), &[IN_DOUBT]].concat();
                let accepted = outcome.completed.then_some(outcome.result == 1);
                match () {
                    () if out == sent && accepted != Some(false) => Ok("sent"),
                    () if out == before && accepted != Some(true) => {
                        // Refused only where it was full at some moment.
                        match accepted.is_none() || before.len() == 4 {
                            true => Ok("not sent"),
                            false => wrong("refused with room"),
                        }
                    }
                    () => wrong("lost or doubled"),
                }
            }
            Op::Take { .. } | Op::Pop { .. } => {
                let accepted = outcome.rival.is_some_and(|(_, accepted)| accepted == 1);
                if outcome.rival.is_some() && !accepted && before.len() < 4 {
                    return wrong("the rival was refused with room");
                }
                let stream: Vec<u64> = before
                    .iter()
                    .copied()
                    .chain(accepted.then_some(RIVALS))
                    .collect();
                let result = outcome.completed.then_some(outcome.result);
                let gone = !stream.is_empty() && left == &stream[1..];
                match () {
                    () if left == stream && result.is_none_or(|number| number == 0) => {
                        // Nothing came only where it was empty at some moment.
                        match result.is_none() || before.is_empty() {
                            true => Ok("not taken"),
                            false => wrong("nothing came of a filled ring"),
                        }
                    }
                    () if gone && seen == 1 << stream[0] => {
                        match result.is_none_or(|number| number == stream[0]) {
                            true => Ok("taken"),
                            false => wrong("another came than was taken"),
                        }
                    }
                    // By value is at most once, and says so.
                    () if gone && result.is_none() && matches!(self.op, Op::Pop { .. }) => {
                        Ok("lost with its taker")
                    }
                    () => wrong("lost or doubled"),
                }
            }
            Op::PushToSleeper | Op::PushToSleeperAlone | Op::WaitForRoom => {
                let got = outcome.helper.unwrap_or(0);
                let mut all = vec![got];
                all.extend(left);
                let sent = all.contains(&IN_DOUBT);
                if outcome.completed && !sent {
                    return wrong("lost");
                }
                let mut sorted = all.clone();
                sorted.dedup();
                match sorted.len() == all.len() {
                    true if sent => Ok("sent"),
                    true => Ok("not sent"),
                    false => wrong("doubled"),
                }
            }
            Op::TakeWithSleeper | Op::WaitForMessage => {
                let expected = before.iter().copied().chain([IN_DOUBT]);
                let given_back = (self.op.before() + 1) as usize - left.len();
                let tail: Vec<u64> = expected.skip(given_back).collect();
                // The victim's, and its successor's where the operation's peer needs one.
                let at_most = if self.op == Op::WaitForMessage { 1 } else { 2 };
                if left != tail || given_back > at_most {
                    return wrong("lost, doubled or out of order");
                }
                Ok(if seen == 0 { "not taken" } else { "seen" })
            }
            Op::CloseProducer | Op::CloseConsumer => match left == before {
                true => Ok("closed"),
                false => wrong("messages changed"),
            },
        }
    }
}

pub(crate) fn swept<R: Ring>(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    let subject = Sweep::<R> {
        op,
        ring: R::new(),
        kind: PhantomData,
    };
    // Recovery is one operation of a successor: those are swept by themselves.
    let modes = if op.has_peer() {
        vec![Mode::Kill]
    } else {
        vec![Mode::Kill, Mode::Preempt, Mode::PreemptThenKill]
    };
    let config = Config {
        modes,
        ..Config::default()
    };
    sweep(&subject, &config).assert_ok();
}
