//! How tightly to poll: a local policy, which no correctness depends on.
//!
//! A locked instruction on a line that somebody polls is slow, so a reader that has caught up with its
//! writer throttles it, and stays caught up. Pausing between looks lets a run of messages build up,
//! but delays the answer of a ping-pong; after a run of one the two look alike. So now and then a short
//! pause is tried: if messages were waiting after it, it is a stream, and the pause doubles; if not,
//! looks are tight again, and tried half as often.

use multiprocess_core::atomic::spin_loop;

use super::words::Role;

/// Longest pause between two looks of a receiver: what a message may be late for it.
const LONGEST: u32 = 64;
/// Longest pause of a sender that has found no room. It delays nobody as long as messages are there, and the
/// more room there is when it ends, the less the two meet on one line.
const LONGEST_WHEN_FULL: u32 = 256;
/// Shortest pause. Tighter looks make the peer's locked instruction wait for the line that we look at: with none a
/// ping-pong takes half as long again (`mpmc/8B/rtt` of the comparison program, 290 ns against 190 to 220).
const AT_LEAST: u32 = 2;
/// The pause that is tried first.
const PROBE: u32 = 4;
/// A run that is a stream.
const STREAM: u32 = 3;
/// Empty looks between two tries, at least and at most.
const OFTEN: u32 = 16;
const RARELY: u32 = 1024;

#[derive(Debug)]
pub(super) struct Pace {
    longest: u32,
    pause: u32,
    run: u32,
    since: u32,
    gap: u32,
}

impl Pace {
    /// For one side of a ring of so many messages.
    pub(super) fn new(role: Role, capacity: u64) -> Self {
        let longest = match role {
            Role::Receiver => LONGEST,
            Role::Sender => LONGEST_WHEN_FULL,
        };
        Self {
            longest: longest
                .min(u32::try_from(capacity / 4).unwrap_or(longest))
                .max(PROBE),
            pause: 0,
            run: 0,
            since: 0,
            gap: OFTEN,
        }
    }

    /// Something was there.
    #[inline(always)]
    pub(super) fn hit(&mut self) {
        self.run = self.run.wrapping_add(1);
    }

    /// Pauses between two looks, at present.
    pub(super) const fn pause(&self) -> u32 {
        self.pause
    }

    /// Nothing was there: pauses before the next look. How many pauses it was.
    #[cold]
    pub(super) fn miss(&mut self) -> u32 {
        if self.run == 0 {
            return Self::spin(AT_LEAST);
        }
        if self.pause == 0 {
            self.since += 1;
            if self.since >= self.gap {
                self.since = 0;
                self.pause = PROBE;
            }
        } else if self.run >= STREAM {
            self.pause = (self.pause * 2).min(self.longest);
            self.gap = OFTEN;
        } else {
            self.pause = 0;
            self.gap = (self.gap * 2).min(RARELY);
        }
        self.run = 0;
        Self::spin(self.pause.max(AT_LEAST))
    }

    fn spin(pauses: u32) -> u32 {
        for _ in 0..pauses {
            spin_loop();
        }
        pauses
    }
}
