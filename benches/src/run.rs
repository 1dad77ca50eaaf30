//! Repetitions of one comparison: alternate, bracket, bin.

use std::fmt;

use crate::clock::median;
use crate::comparison::{Comparison, Contender, Failure, Measured, Side};
use crate::cpu::Cpus;
use crate::watchdog::Watchdog;
use crate::{floor, program, stage};

/// A repetition whose two floors differ by more than this was moved about meanwhile.
const STEADY: f64 = 1.25;

/// Floors below this, in nanoseconds, are of two CPUs that are near to each other.
const NEAR: f64 = 150.0;

/// Repetitions that may be tried for each one that is kept.
const TRIES: usize = 4;

/// Where the hypervisor had placed the two CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Near,
    Far,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

/// Both sides, one after the other, between two floors.
struct Repetition {
    ours: f64,
    peer: f64,
    floors: [f64; 2],
}

impl Repetition {
    fn run(line: &Comparison, cpus: Cpus, ours_first: bool) -> Result<Self, Failure> {
        let floor = || measure(&floor::LINE, floor::NAME, Side::Peer, cpus);
        let side = |side| measure(line.contender(side), line.name, side, cpus);
        let before = floor()?;
        let (ours, peer) = if ours_first {
            let ours = side(Side::Ours)?;
            (ours, side(Side::Peer)?)
        } else {
            let peer = side(Side::Peer)?;
            (side(Side::Ours)?, peer)
        };
        Ok(Self {
            ours,
            peer,
            floors: [before, floor()?],
        })
    }

    fn is_steady(&self) -> bool {
        let [before, after] = self.floors;
        before.max(after) / before.min(after) <= STEADY
    }

    fn placement(&self) -> Placement {
        if (self.floors[0] + self.floors[1]) / 2.0 < NEAR {
            Placement::Near
        } else {
            Placement::Far
        }
    }
}

/// What came out of a comparison.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Medians of the two sides.
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    /// Median, least and greatest of the paired ratios.
    pub(crate) advantage: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How it came about.
    pub(crate) placement: Placement,
    pub(crate) floor: f64,
    pub(crate) counted: usize,
    pub(crate) other_bin: usize,
    pub(crate) dropped: usize,
}

/// Why there is no outcome.
#[derive(Debug)]
pub(crate) enum Unmeasured {
    /// A peer program is not here.
    Absent(program::Absent),
    /// Too few repetitions were steady.
    Unsteady {
        counted: usize,
        dropped: usize,
    },
    Failed(Failure),
}

impl From<Failure> for Unmeasured {
    fn from(failure: Failure) -> Self {
        match failure.downcast::<program::Absent>() {
            Ok(absent) => Self::Absent(*absent),
            Err(failure) => Self::Failed(failure),
        }
    }
}

fn measure(contender: &Contender, name: &str, side: Side, cpus: Cpus) -> Measured {
    let _watchdog = Watchdog::watch(format!("{name} {side}"));
    match contender {
        Contender::Alone(run) => run(cpus),
        Contender::Pair(pair) => stage::measure(2, pair.bytes, pair.near, name, side, cpus),
        Contender::Four(four) => stage::measure(4, four.bytes, four.near, name, side, cpus),
        Contender::Program(program) => program.measure(cpus),
    }
}

/// Repeats until `wanted` repetitions were steady, or too many were not.
pub(crate) fn compare(line: &Comparison, cpus: Cpus, wanted: usize) -> Result<Outcome, Unmeasured> {
    line.prepare()?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    let mut dropped = 0;
    for attempt in 0..wanted * TRIES {
        let repetition = Repetition::run(line, cpus, attempt % 2 == 0)?;
        match repetition.placement() {
            _ if !repetition.is_steady() => dropped += 1,
            Placement::Near => near.push(repetition),
            Placement::Far => far.push(repetition),
        }
        if near.len() + far.len() == wanted {
            break;
        }
    }
    let (kept, other) = if near.len() >= far.len() {
        (near, far)
    } else {
        (far, near)
    };
    if kept.len() < wanted.div_ceil(3) {
        return Err(Unmeasured::Unsteady {
            counted: kept.len(),
            dropped: dropped + other.len(),
        });
    }
    let of = |f: fn(&Repetition) -> f64| median(&mut kept.iter().map(f).collect::<Vec<_>>());
    let ratio = |r: &Repetition| line.unit.advantage(r.ours, r.peer);
    let mut ratios: Vec<f64> = kept.iter().map(ratio).collect();
    let advantage = median(&mut ratios); // sorts
    Ok(Outcome {
        ours: of(|r| r.ours),
        peer: of(|r| r.peer),
        advantage,
        min: ratios[0],
        max: ratios[ratios.len() - 1],
        placement: kept[0].placement(),
        floor: of(|r| (r.floors[0] + r.floors[1]) / 2.0),
        counted: kept.len(),
        other_bin: other.len(),
        dropped,
    })
}
