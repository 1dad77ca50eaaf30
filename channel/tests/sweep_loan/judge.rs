//! What may have become of the messages.

use std::sync::atomic::Ordering::Relaxed;

use multiprocess_testkit::{Env, Outcome};

use super::{BLOCKS, CAPACITY, IN_DOUBT, Op, RIVAL, RIVALS, VICTIM};

impl Op {
    /// Nothing lost that may not be, nothing doubled, nothing that nobody sent.
    pub(super) fn judge(
        self,
        env: &Env<'_>,
        outcome: &Outcome<'_>,
        left: &[u64],
    ) -> Result<&'static str, String> {
        let seen = |who: usize| env.control.notes[who].load(Relaxed) & !1;
        let (victim, rival) = (seen(VICTIM), seen(RIVAL));
        let wrong = |what: &str| {
            let Outcome {
                completed,
                result,
                rival: ran,
                helper,
                ..
            } = outcome;
            Err(format!(
                "{what}: {left:?} left, victim {victim:#x}, rival {rival:#x}; completed {completed}, \
                 result {result}, rival {ran:?}, helper {helper:?}"
            ))
        };
        let in_left = left.iter().fold(0_u64, |all, message| all | 1 << message);
        if in_left.count_ones() as usize != left.len() || rival & in_left != 0 {
            return wrong("doubled");
        }
        // What the victim has worked on and not released comes again, if it died and orphans are not
        // dropped.
        if victim & (in_left | rival) != 0 && (outcome.completed || self.drops()) {
            return wrong("doubled");
        }
        let all = in_left | rival | victim;
        let before = (1..=self.before()).fold(0, |all, message| all | 1 << message);
        let missing = before & !all;
        let dropped = match self {
            // Orphans.
            Op::Discard => 1 << 1,
            Op::RecoverAndDrop => 1 << 1 | 1 << 2,
            _ => 0,
        };
        if all & dropped != 0 {
            return wrong("an orphan came");
        }
        let may_be_gone = match self {
            Op::Keep | Op::TakeOrDrop | Op::Discard => !outcome.completed,
            _ => false,
        };
        let gone = (missing & !dropped).count_ones();
        if gone > u32::from(may_be_gone) {
            return wrong("lost");
        }
        let was_sent = match self {
            Op::Send { .. } | Op::WaitForBlock => outcome.completed && outcome.result == 1,
            Op::ReleaseWithSleeper => outcome.helper == Some(1),
            _ => false,
        };
        if was_sent && all & 1 << IN_DOUBT == 0 {
            return wrong("lost");
        }
        if all & !(before | 1 << IN_DOUBT | 1 << RIVALS) != 0 {
            return wrong("invented");
        }
        match outcome.rival {
            Some((1, 0)) if self.before() < CAPACITY - 1 => return wrong("the rival was refused"),
            // Some are the messages', some the victim's.
            Some((2, count)) if count + self.before() + 2 < BLOCKS as u64 => {
                return wrong("the rival found few blocks");
            }
            _ => {}
        }
        if self == Op::ReleaseWithSleeper && outcome.helper != Some(1) {
            return wrong("the helper was not woken");
        }
        let may_fail = match self {
            Op::Send { before } => before == CAPACITY || outcome.rival.is_some(),
            Op::Take { .. } | Op::TakeOrDrop | Op::Keep | Op::GiveUp | Op::Discard => {
                outcome.rival.is_some()
            }
            _ => false,
        };
        if outcome.completed && outcome.result == 0 && !may_fail {
            return wrong("refused");
        }
        Ok(match () {
            () if gone > 0 => "gone with its taker",
            () if all & 1 << IN_DOUBT != 0 => "sent",
            () if victim & in_left != 0 => "comes again",
            () if victim != 0 => "taken",
            () => "nothing done",
        })
    }
}
