//! What may have become of the messages.

use multiprocess_testkit::{Env, Outcome};

use super::sweeps::{IN_DOUBT, RIVALS, Seen};
use super::{BLOCKS, CAPACITY, Op};

impl Op {
    /// Nothing lost that may not be, nothing doubled, nothing that nobody sent.
    pub(super) fn judge(
        self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let seen = Seen::new(env, left);
        let before = (1..=self.before()).fold(0, |all, message| all | 1 << message);
        let sent = before | 1 << IN_DOUBT | 1 << RIVALS;
        seen.judge(outcome, !self.drops(), sent)?;
        let dropped = match self {
            // Orphans.
            Op::Discard => 1 << 1,
            Op::RecoverAndDrop => 1 << 1 | 1 << 2,
            _ => 0,
        };
        if seen.all() & dropped != 0 {
            return seen.wrong("an orphan came", outcome);
        }
        let may_be_gone = match self {
            Op::Keep | Op::TakeOrDrop | Op::Discard => !outcome.completed,
            _ => false,
        };
        let gone = (seen.missing(self.before()) & !dropped).count_ones();
        let was_sent = match self {
            Op::Send { .. } | Op::WaitForBlock => outcome.completed && outcome.result == 1,
            Op::ReleaseWithSleeper => outcome.helper == Some(1),
            _ => false,
        };
        if gone > u32::from(may_be_gone) || was_sent && seen.all() & 1 << IN_DOUBT == 0 {
            return seen.wrong("lost", outcome);
        }
        match outcome.rival {
            Some((1, 0)) if self.before() < CAPACITY - 1 => {
                return seen.wrong("the rival was refused", outcome);
            }
            // Some are the messages', some the victim's.
            Some((2, count)) if count + self.before() + 2 < BLOCKS as u64 => {
                return seen.wrong("the rival found few blocks", outcome);
            }
            _ => {}
        }
        if self == Op::ReleaseWithSleeper && outcome.helper != Some(1) {
            return seen.wrong("the helper was not woken", outcome);
        }
        let may_fail = match self {
            Op::Send { before } => before == CAPACITY || outcome.rival.is_some(),
            Op::Take { .. } | Op::TakeOrDrop | Op::Keep | Op::GiveUp | Op::Discard => {
                outcome.rival.is_some()
            }
            _ => false,
        };
        if outcome.completed && outcome.result == 0 && !may_fail {
            return seen.wrong("refused", outcome);
        }
        Ok(seen.fate(gone > 0))
    }
}
