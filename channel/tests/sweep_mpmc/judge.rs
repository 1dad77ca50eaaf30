//! What may have become of the messages.

use std::sync::atomic::Ordering::Relaxed;

use multiprocess_testkit::{Env, Outcome};

use super::{CAPACITY, HELPER, IN_DOUBT, Op, RIVAL, RIVALS, SUCCESSORS, VICTIM};

impl Op {
    /// Nothing lost, nothing doubled, nothing out of order.
    pub(super) fn judge(
        self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let seen = |who: usize| env.control.notes[who].load(Relaxed) & !1;
        let (victim, rival, helper) = (seen(VICTIM), seen(RIVAL), seen(HELPER));
        let wrong = |what: &str| {
            Err(format!(
                "{what}: {left:?} left, victim {victim:#x}, rival {rival:#x}, helper {helper:#x}, \
                 {outcome:?}",
                outcome = (
                    outcome.completed,
                    outcome.result,
                    outcome.rival,
                    outcome.helper
                ),
            ))
        };
        let mut in_left = 0_u64;
        for message in left {
            if in_left & 1 << message != 0 {
                return wrong("doubled");
            }
            in_left |= 1 << message;
        }
        // An orphan comes out of order, and only one that somebody had taken.
        let mut ordered: Vec<u64> = left.to_vec();
        ordered.sort_unstable_by_key(|message| match *message {
            IN_DOUBT | SUCCESSORS => 100,
            other => other,
        });
        let moved = left.iter().zip(&ordered).filter(|(a, b)| a != b).count();
        let had_taken = !matches!(self, Op::Send { .. } | Op::SendToSleeper | Op::WaitForRoom);
        if moved > 0 && !had_taken && outcome.rival.is_none() {
            return wrong("out of order");
        }
        let by_others = rival | helper;
        if by_others & in_left != 0 || rival & helper != 0 {
            return wrong("doubled");
        }
        // What the victim has worked on and not released comes again, if it died.
        if victim & (in_left | by_others) != 0 && outcome.completed {
            return wrong("doubled");
        }
        let all = in_left | by_others | victim;
        let before = (1..=self.before()).fold(0, |all, message| all | 1 << message);
        let missing = before & !all;
        let gone = missing.count_ones();
        let may_be_gone = self.is_at_most_once() && !outcome.completed;
        let in_doubt_sent = match self {
            Op::RecvWithSleeper => outcome.helper == Some(1),
            Op::WaitForMessage => outcome.helper == Some(1),
            Op::Send { .. } | Op::SendToSleeper | Op::WaitForRoom => {
                outcome.completed && outcome.result == 1
            }
            _ => false,
        };
        let lost = gone + u32::from(in_doubt_sent && all & 1 << IN_DOUBT == 0);
        if lost > u32::from(may_be_gone) {
            return wrong("lost");
        }
        let invented = all & !(before | 1 << IN_DOUBT | 1 << SUCCESSORS | 0xff << RIVALS);
        if invented != 0 {
            return wrong("invented");
        }
        match outcome.rival {
            Some((2, 0)) => return wrong("the rival was blocked"),
            Some((1, 0)) if self.before() < CAPACITY - 1 => return wrong("the rival was refused"),
            _ => {}
        }
        if outcome.completed {
            let failed = outcome.result == 0;
            let may_fail = match self {
                Op::Send { before, .. } => before == CAPACITY || outcome.rival.is_some(),
                Op::Take { before } | Op::Recv { before } | Op::OneStep { before } => {
                    before == 0 || outcome.rival.is_some()
                }
                Op::GiveUp => outcome.rival.is_some(),
                _ => false,
            };
            if failed && !may_fail {
                return wrong("refused");
            }
        }
        Ok(match () {
            () if lost > 0 => "lost with its taker",
            () if all & 1 << IN_DOUBT != 0 => "sent",
            () if victim & in_left != 0 => "comes again",
            () if victim != 0 => "taken",
            () => "nothing done",
        })
    }
}
