//! What may have become of the messages.

use multiprocess_testkit::{Env, Outcome};

use super::sweeps::{IN_DOUBT, RIVALS, Seen};
use super::{CAPACITY, Op, SUCCESSORS};

impl Op {
    /// Nothing lost, nothing doubled, nothing out of order.
    pub(super) fn judge(
        self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let seen = Seen::new(env, left);
        let before = (1..=self.before()).fold(0, |all, message| all | 1 << message);
        let sent = before | 1 << IN_DOUBT | 1 << SUCCESSORS | 0xff << RIVALS;
        seen.judge(outcome, true, sent)?;
        // An orphan comes out of order, and only one that somebody had taken.
        let mut ordered: Vec<u64> = left.to_vec();
        ordered.sort_unstable_by_key(|message| match *message {
            IN_DOUBT | SUCCESSORS => 100,
            other => other,
        });
        let had_taken = !matches!(self, Op::Send { .. } | Op::SendToSleeper | Op::WaitForRoom);
        if left != ordered && !had_taken && outcome.rival.is_none() {
            return seen.wrong("out of order", outcome);
        }
        let may_be_gone = self.is_at_most_once() && !outcome.completed;
        let in_doubt_sent = match self {
            Op::RecvWithSleeper | Op::WaitForMessage => outcome.helper == Some(1),
            Op::Send { .. } | Op::SendToSleeper | Op::WaitForRoom => {
                outcome.completed && outcome.result == 1
            }
            _ => false,
        };
        let lost = seen.missing(self.before()).count_ones()
            + u32::from(in_doubt_sent && seen.all() & 1 << IN_DOUBT == 0);
        if lost > u32::from(may_be_gone) {
            return seen.wrong("lost", outcome);
        }
        match outcome.rival {
            Some((2, 0)) => return seen.wrong("the rival was blocked", outcome),
            Some((1, 0)) if self.before() < CAPACITY - 1 => {
                return seen.wrong("the rival was refused", outcome);
            }
            _ => {}
        }
        let may_fail = match self {
            Op::Send { before, .. } => before == CAPACITY || outcome.rival.is_some(),
            Op::Take { before } | Op::Recv { before } | Op::OneStep { before } => {
                before == 0 || outcome.rival.is_some()
            }
            Op::GiveUp => outcome.rival.is_some(),
            _ => false,
        };
        if outcome.completed && outcome.result == 0 && !may_fail {
            return seen.wrong("refused", outcome);
        }
        Ok(seen.fate(lost > 0))
    }
}
