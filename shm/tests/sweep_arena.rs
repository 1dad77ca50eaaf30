//! `Arena`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a claim by load and store, a claim that does not look at the chunk
//! again, a run whose head is freed before its bodies, a recovery that forgets the bodies, and one
//! that takes from the living.
#![cfg(all(not(loom), target_os = "linux"))]

mod common;

use std::alloc::Layout;
use std::sync::atomic::Ordering::Relaxed;

use common::{Decreed, GHOST, InRun, id, peers};
use multiprocess_core::{Place, Region};
use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Block};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};

const HEAP: u64 = 5 * 4096;
const SMALL: usize = 200;
/// Three chunks of five.
const LARGE: usize = 3 * 4096;

/// Note 0: what a role found that must not be.
const BROKEN: u64 = 1;

type InSegment<'a> = Arena<Region<'a>, InRun<'a>>;

fn config() -> ArenaConfig {
    ArenaConfig::new(HEAP).unwrap()
}

fn region<'a>(env: &Env<'a>) -> Region<'a> {
    let size = ArenaState::layout(&config()).unwrap().size();
    // SAFETY: as large as `size` says, mapped as long as the run lasts.
    unsafe { Region::new(std::ptr::NonNull::new(env.segment).unwrap(), size) }
}

fn arena<'a>(env: &Env<'a>) -> InSegment<'a> {
    Arena::attach(region(env), peers(env)).unwrap()
}

fn fill(arena: &InSegment<'_>, block: &Block, byte: u8) {
    // SAFETY: the block is ours, and as large as it says.
    unsafe { arena.data(block).write_bytes(byte, block.size().min(64)) };
}

fn is_filled(arena: &InSegment<'_>, block: &Block, byte: u8) -> bool {
    // SAFETY: as in `fill`.
    let bytes = unsafe { std::slice::from_raw_parts(arena.data(block).as_ptr(), 64) };
    bytes.iter().all(|other| *other == byte)
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// From a slab that is there.
    AllocateSmall,
    /// The only place that is left for it.
    AllocateLast,
    /// With a slab of its own.
    AllocateNew,
    FreeSmall,
    AllocateLarge,
    FreeLarge,
    /// Every chunk is a slab, and all but one are empty.
    AllocateReclaiming,
    /// A run of a dead one.
    RecoverLarge,
}

impl Op {
    fn wanted(self) -> usize {
        match self {
            Op::AllocateLarge | Op::FreeLarge | Op::AllocateReclaiming => LARGE,
            _ => SMALL,
        }
    }

    fn frees(self) -> bool {
        matches!(self, Op::FreeSmall | Op::FreeLarge | Op::RecoverLarge)
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn size(&self) -> usize {
        ArenaState::layout(&config()).unwrap().size()
    }

    fn setup(&self, env: &Env<'_>) {
        // SAFETY: nobody else knows of the segment yet.
        unsafe { ArenaState::init(region(env), &config()) }.unwrap();
        let arena = arena(env);
        let chunks = config().bytes() / config().chunk_bytes();
        match self {
            Op::AllocateSmall | Op::FreeSmall => {
                arena.free(arena.allocate(bytes(SMALL)).unwrap()).unwrap();
            }
            Op::AllocateLast => {
                let mut last = None;
                while let Ok(block) = arena.allocate(bytes(SMALL)) {
                    last = Some(block);
                }
                arena.free(last.unwrap()).unwrap();
            }
            Op::AllocateReclaiming => {
                // One block of each of so many classes.
                let sizes = (0..chunks).map(|class| bytes(64 * (class as usize + 1)));
                let blocks: Vec<Block> = sizes.map(|size| arena.allocate(size).unwrap()).collect();
                for block in blocks {
                    arena.free(block).unwrap();
                }
            }
            Op::RecoverLarge => {
                let ghost = Arena::attach(region(env), Decreed(GHOST)).unwrap();
                drop(ghost.allocate(bytes(LARGE)).unwrap()); // it stays allocated
            }
            _ => {}
        }
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let arena = arena(&env);
        if *self == Op::RecoverLarge {
            return Box::new(move || {
                arena.recover();
                1
            });
        }
        if self.frees() {
            let mut block = Some(arena.allocate(bytes(self.wanted())).unwrap());
            return Box::new(move || u64::from(arena.free(block.take().unwrap()).is_ok()));
        }
        Box::new(move || {
            let Ok(block) = arena.allocate(bytes(self.wanted())) else {
                return 2;
            };
            fill(&arena, &block, 0xaa);
            u64::from(is_filled(&arena, &block, 0xaa))
        })
    }

    fn rivals(&self) -> &[&'static str] {
        &["small", "large", "keep small", "recover and keep all"]
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        let arena = arena(env);
        if which == 3 {
            arena.recover();
            if let Ok(block) = arena.allocate(bytes(HEAP as usize)) {
                drop(block); // it stays allocated
                return 1;
            }
            for size in [LARGE, 4096, SMALL] {
                while let Ok(block) = arena.allocate(bytes(size)) {
                    drop(block);
                }
            }
            return 2;
        }
        // The victim may have taken the only place for it.
        let Ok(block) = arena.allocate(bytes([SMALL, LARGE, SMALL][which])) else {
            return 2;
        };
        fill(&arena, &block, 0xbb);
        let others = arena
            .blocks()
            .filter(|other| other.holder != Some(id(env.role)));
        let (start, end) = (block.offset(), block.offset() + block.size() as u64);
        for other in others {
            if other.offset < end && start < other.offset + other.size {
                env.control.notes[0].store(BROKEN, Relaxed);
            }
        }
        if which == 2 {
            return 1;
        }
        if !is_filled(&arena, &block, 0xbb) || arena.free(block).is_err() {
            env.control.notes[0].store(BROKEN, Relaxed);
        }
        1
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, env: &Env<'_>, _: Role) {
        arena(env).recover();
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(Relaxed) == BROKEN {
            return Err("two had the same bytes".to_owned());
        }
        let refused = outcome.result == 2 && outcome.rival.is_some() && !self.frees();
        if outcome.completed && outcome.result != 1 && !refused {
            return Err(format!("the operation returned {}", outcome.result));
        }
        let arena = arena(env);
        let mut end = 0;
        for block in arena.blocks() {
            if block.offset < end {
                return Err(format!("{block:?} begins inside the one before"));
            }
            end = block.offset + block.size;
        }
        let theirs = |holder| {
            arena
                .blocks()
                .filter(move |block| block.holder == Some(holder))
                .count()
        };
        match outcome.rival {
            Some((2, 1)) if theirs(id(Role::Rival)) != 1 => {
                return Err("the rival's block is gone".to_owned());
            }
            Some((3, 1)) if outcome.completed && outcome.result == 1 && !self.frees() => {
                return Err("the rival has all of it, and the victim some".to_owned());
            }
            _ => {}
        }
        let recovered = arena.recover();
        let alive = !env.control.victim_is_dead();
        let theirs = |holder| {
            arena
                .blocks()
                .filter(move |block| block.holder == Some(holder))
                .count()
        };
        let expected = usize::from(alive && !self.frees() && !refused);
        let statistics = arena.statistics();
        let by_setup = theirs(id(Role::Setup)) as u64;
        if theirs(id(Role::Victim)) != expected || statistics.blocks != by_setup + expected as u64 {
            return Err(format!("{statistics:?}, {expected} blocks are held"));
        }
        if *self == Op::AllocateLast {
            if matches!(outcome.rival, Some((2, 1))) && outcome.completed && outcome.result == 1 {
                return Err("both got the last one".to_owned());
            }
        } else if expected == 0 {
            let whole = arena
                .allocate(bytes(HEAP as usize))
                .map_err(|error| error.to_string())?;
            fill(&arena, &whole, 0xcc);
            arena.free(whole).map_err(|error| error.to_string())?;
        } else {
            let block = arena.blocks().next().ok_or("no block")?;
            if block.holder != Some(id(Role::Victim)) || block.size < self.wanted() as u64 {
                return Err(format!("{block:?}"));
            }
        }
        let again = arena.recover();
        if again != multiprocess_shm::Recovered::default() {
            return Err(format!("recovered twice: {again:?}"));
        }
        Ok(match (recovered.blocks, recovered.chunks) {
            (0, 0) => "nothing to recover",
            (_, 0) => "a block",
            (0, _) => "chunks",
            _ => "a block and chunks",
        })
    }
}

/// Killed at every instruction, if it is not too long; stopped, preempted, and its recoverer (which
/// walks all of the arena) killed wherever the state changes.
fn swept(op: Op, at_every_instruction: bool) {
    let _watchdog = Watchdog::seconds(300);
    let mut edges_only = Config {
        edges_only: true,
        ..Config::default()
    };
    if op == Op::AllocateReclaiming {
        // The longest: what `Preempt` shows, `PreemptThenKill` shows too, but for the victim's end.
        edges_only
            .modes
            .retain(|mode| *mode != Mode::PreemptThenKill);
    }
    sweep(&op, &edges_only).assert_ok();
    if at_every_instruction {
        let kills = Config {
            modes: vec![Mode::Kill],
            ..Config::default()
        };
        sweep(&op, &kills).assert_ok();
    }
}

#[test]
fn an_allocation_survives_a_kill_at_every_instruction() {
    swept(Op::AllocateSmall, true);
}

#[test]
fn an_allocation_of_the_last_block_survives_a_kill_wherever_the_state_changes() {
    swept(Op::AllocateLast, false);
}

#[test]
fn a_new_slab_survives_a_kill_at_every_instruction() {
    swept(Op::AllocateNew, true);
}

#[test]
fn a_free_survives_a_kill_at_every_instruction() {
    swept(Op::FreeSmall, true);
}

#[test]
fn a_large_allocation_survives_a_kill_at_every_instruction() {
    swept(Op::AllocateLarge, true);
}

#[test]
fn a_large_free_survives_a_kill_at_every_instruction() {
    swept(Op::FreeLarge, true);
}

/// Two that recover one run: the one that is late must not touch its head.
#[test]
fn a_recovery_of_a_run_survives_a_kill_wherever_the_state_changes() {
    swept(Op::RecoverLarge, false);
}

#[test]
fn a_reclaiming_allocation_survives_a_kill_wherever_the_state_changes() {
    swept(Op::AllocateReclaiming, false);
}
