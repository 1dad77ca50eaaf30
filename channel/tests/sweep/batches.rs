//! Batches, which are all there or not at all, and successors that ask their peers.

use std::mem::forget;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiprocess_core::{ParticipantId, Peers};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};

use crate::harness::region;
use crate::in_run::{InRun, LongDead, id, peers};
use crate::rings::{Came, Consumer, Producer, Ring};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Batch {
    /// Three at once, with `before` messages in the ring of four.
    Push { before: u64 },
    /// All that is there.
    Take { before: u64 },
    /// A producer in place of one that is long dead, and a message.
    Attach,
}

/// The first of those whose fate is in doubt.
const IN_DOUBT: u64 = 50;
/// What a successor sends, and what another process sends while the victim stands still.
const SUCCESSORS: u64 = 60;
const RIVALS: u64 = 61;

/// Notes: what the victim has seen, a bit for each message; and what the rival has taken.
const SEEN: usize = 0;
const TAKEN: usize = 1;

/// Who comes after the victim, which the harness has killed.
struct Successor<'a>(InRun<'a>);

// SAFETY: made only where the harness says that the victim is dead.
unsafe impl Peers for Successor<'_> {
    fn me(&self) -> ParticipantId {
        self.0.me()
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant == id(Role::Victim) || self.0.is_dead(participant)
    }
    fn table(&self) -> u32 {
        self.0.table()
    }
    fn share_pid_namespace(&self) -> bool {
        self.0.share_pid_namespace()
    }
}

struct Sweep<R> {
    batch: Batch,
    ring: R,
}

impl Batch {
    fn before(self) -> u64 {
        match self {
            Batch::Push { before } | Batch::Take { before } => before,
            Batch::Attach => 1,
        }
    }
}

fn rest(consumer: &mut impl Consumer) -> Result<Vec<u64>, String> {
    let mut left = Vec::new();
    while let Came::Message(number) = consumer.take(Some(Duration::ZERO), &mut |_| ())? {
        left.push(number);
    }
    Ok(left)
}

impl<R: Ring> Subject for Sweep<R> {
    fn name(&self) -> String {
        format!("{} batch {:?}", R::NAME, self.batch)
    }

    fn size(&self) -> usize {
        self.ring.size()
    }

    fn setup(&self, env: &Env<'_>) {
        let region = region(&self.ring, env);
        self.ring.init(region);
        // Warms clock and CPU count, and moves the ring on, so that a batch wraps.
        let mut producer = R::attach(region, LongDead).unwrap();
        let mut consumer = R::consumer(region, false);
        for _ in 0..3 {
            assert!(producer.try_push(90));
            assert_eq!(consumer.take(None, &mut |_| ()).unwrap(), Came::Message(90));
        }
        let nothing = consumer.take(Some(Duration::from_micros(1)), &mut |_| ());
        assert_eq!(nothing.unwrap(), Came::Nothing);
        for number in 1..=self.batch.before() {
            assert!(producer.try_push(number));
        }
        // Neither closes: the processes of the run take over.
        forget((producer, consumer));
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let region = region(&self.ring, &env);
        match self.batch {
            Batch::Push { .. } => {
                let mut producer = R::producer(region, true);
                Box::new(move || producer.try_push_three(IN_DOUBT) as u64)
            }
            Batch::Take { .. } => {
                let mut consumer = R::consumer(region, true);
                let notes = &env.control.notes[SEEN];
                Box::new(move || {
                    let mut seen = |number: u64| {
                        // Nobody else writes it.
                        notes.store(notes.load(Relaxed) | 1 << number, Relaxed);
                    };
                    match consumer.try_take_all(&mut seen) {
                        Ok(count) => count as u64,
                        Err(_) => u64::MAX - 1,
                    }
                })
            }
            Batch::Attach => Box::new(move || {
                let Some(mut producer) = R::attach(region, peers(&env)) else {
                    return 0;
                };
                let sent = producer.try_push(IN_DOUBT);
                forget(producer);
                u64::from(sent)
            }),
        }
    }

    fn rivals(&self) -> &[&'static str] {
        match self.batch {
            Batch::Attach => &["another successor"],
            _ => &["the other end"],
        }
    }

    /// How many it took; whether its message was accepted.
    fn rival(&self, env: &Env<'_>, _which: usize) -> u64 {
        let region = region(&self.ring, env);
        match self.batch {
            Batch::Push { .. } => {
                let mut consumer = R::consumer(region, true);
                let taken = rest(&mut consumer).unwrap();
                forget(consumer);
                let bits = taken.iter().fold(0, |bits, number| bits | 1 << number);
                env.control.notes[TAKEN].store(bits, Relaxed);
                taken.len() as u64
            }
            Batch::Take { .. } => {
                let mut producer = R::producer(region, true);
                let accepted = producer.try_push(RIVALS);
                forget(producer);
                u64::from(accepted)
            }
            Batch::Attach => {
                let Some(mut producer) = R::attach(region, peers(env)) else {
                    return 0;
                };
                let accepted = producer.try_push(RIVALS);
                forget(producer);
                u64::from(accepted)
            }
        }
    }

    fn has_recovery(&self) -> bool {
        self.batch == Batch::Attach
    }

    /// The next successor. Repeatable: who was killed here has one, too.
    fn recover(&self, env: &Env<'_>, dead: Role) {
        if dead != Role::Victim {
            return;
        }
        // None if a rival has become the producer, and lives.
        if let Some(mut producer) = R::attach(region(&self.ring, env), Successor(peers(env))) {
            producer.try_push(SUCCESSORS);
            forget(producer);
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        let region = region(&self.ring, env);
        let mut consumer = R::consumer(region, true);
        let left = rest(&mut consumer)?;
        let fate = match self.batch {
            Batch::Push { before } => self.check_push(env, outcome, before, &left),
            Batch::Take { before } => self.check_take(env, outcome, before, &left),
            Batch::Attach => check_attach(outcome, &left),
        }?;
        // The ring is whole again: four messages fit, not five, and come out in order.
        let mut producer = R::producer(region, true);
        let accepted: Vec<_> = (70..75).map(|number| producer.try_push(number)).collect();
        if accepted != [true, true, true, true, false] {
            return Err(format!("capacity lost: {accepted:?}"));
        }
        let back = rest(&mut consumer)?;
        if back != [70, 71, 72, 73] {
            return Err(format!("70 to 73 sent, {back:?} came"));
        }
        Ok(fate)
    }
}

impl<R: Ring> Sweep<R> {
    fn check_push(
        &self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        before: u64,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let bits = env.control.notes[TAKEN].load(Relaxed);
        let taken = (0..64).filter(|number| bits >> number & 1 == 1);
        let out: Vec<u64> = taken.chain(left.iter().copied()).collect();
        let sent = out.len() as u64 - before.min(out.len() as u64);
        let expected: Vec<u64> = (1..=before).chain(IN_DOUBT..IN_DOUBT + sent).collect();
        let wrong = |what: &str| Err(format!("{what}: {out:?} came of {expected:?}"));
        if out != expected {
            return wrong("lost, doubled or out of order");
        }
        if outcome.completed && outcome.result != sent {
            return wrong("another number was returned");
        }
        // What there was room for at the start; three if the rival made room before the look.
        let room = (4 - before).min(3);
        let rivalled = outcome.rival.is_some_and(|(_, taken)| taken > 0);
        match sent {
            0 if !outcome.completed => Ok("not sent"),
            sent if sent == room || (rivalled && sent == 3) => Ok("sent"),
            _ => wrong("half a batch"),
        }
    }

    fn check_take(
        &self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        before: u64,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let accepted = outcome.rival.is_some_and(|(_, accepted)| accepted == 1);
        let stream: Vec<u64> = (1..=before).chain(accepted.then_some(RIVALS)).collect();
        let seen = env.control.notes[SEEN].load(Relaxed);
        let wrong = |what: &str| Err(format!("{what}: {left:?} left, {seen:#x} seen"));
        let Some(gone) = stream.len().checked_sub(left.len()) else {
            return wrong("doubled");
        };
        if left != &stream[gone..] {
            return wrong("lost or out of order");
        }
        let bits = |messages: &[u64]| messages.iter().fold(0, |bits, number| bits | 1 << number);
        if outcome.completed && (outcome.result != gone as u64 || seen != bits(&stream[..gone])) {
            return wrong("another number was returned");
        }
        match gone as u64 {
            0 if !outcome.completed || before == 0 => Ok("not taken"),
            gone if gone < before => wrong("half a batch"),
            _ if R::NAME == "bytes" && seen != bits(&stream[..gone]) => wrong("not seen and gone"),
            // Of those by value, a killed one has seen as many as it got to.
            _ if seen & !bits(&stream[..gone]) != 0 => wrong("seen and not taken"),
            _ => Ok("taken"),
        }
    }
}

/// One of those who attached has sent.
fn check_attach(outcome: &Outcome<'_>, left: &[u64]) -> Result<&'static str, String> {
    let wrong = |what: &str| Err(format!("{what}: {left:?} left"));
    let won = outcome.rival.is_some_and(|(_, accepted)| accepted == 1);
    let Some((1, after)) = left.split_first() else {
        return wrong("what the dead had sent is lost");
    };
    let has = |number| after.contains(&number);
    if outcome.completed && outcome.result != u64::from(has(IN_DOUBT)) {
        return wrong("the victim is wrong about its message");
    }
    if won != has(RIVALS) || (won && has(IN_DOUBT)) {
        return wrong("two producers");
    }
    // Two recoverers may have come, one after the other's death.
    let of_successors = after.iter().filter(|number| **number == SUCCESSORS).count();
    let others = usize::from(won) + usize::from(has(IN_DOUBT));
    if after.len() != of_successors + others || (after.is_empty() && outcome.completed) {
        return wrong("lost or doubled");
    }
    if !outcome.completed && !won && of_successors == 0 {
        return wrong("nobody came after the dead");
    }
    match () {
        () if won => Ok("the rival's"),
        () if has(IN_DOUBT) => Ok("the victim's"),
        () => Ok("a successor's"),
    }
}

pub(crate) fn batch_swept<R: Ring>(batch: Batch) {
    let _watchdog = Watchdog::seconds(300);
    let subject = Sweep {
        batch,
        ring: R::new(),
    };
    let config = Config {
        // The victim of `Attach` is a successor itself, so its killing has a recoverer killed.
        modes: vec![Mode::Kill, Mode::Preempt, Mode::PreemptThenKill],
        ..Config::default()
    };
    sweep(&subject, &config).assert_ok();
}
