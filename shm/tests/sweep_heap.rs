//! Sharing, finding, naming and letting go in a `Heap`, killed and preempted at every instruction.
//!
//! Every role is a participant of its own, whose death the kernel attests, as in real life. `SWEEP=full`
//! also lets a rival in between, at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a value that is freed though somebody has been counted meanwhile, a
//! directory whose heir does not clean up, a claimed counter that stays.
#![cfg(all(feature = "std", not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed as StdRelaxed;

use multiprocess_core::Memory;
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_shm::{Counted, Heap, HeapConfig, HeapError, Mapping};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};

/// Note 0: what a role found that must not be.
const BROKEN: u64 = 1;

type Pair = [AtomicU64; 2];

fn pair() -> Pair {
    [AtomicU64::new(7), AtomicU64::new(!7)]
}

fn is_whole(value: &Pair) -> bool {
    (value[0].load(Relaxed), value[1].load(Relaxed)) == (7, !7)
}

/// One heap for each operation: made before the first fork, and put back to its start by each victim.
struct Stage {
    heap: Heap,
    mapping: Mapping,
    /// Where the participants' table ends.
    from: usize,
    template: OnceLock<Vec<u8>>,
}

impl Stage {
    fn new() -> Self {
        let config = HeapConfig {
            participants: 16,
            objects: 3,
            bytes: 1 << 14,
        };
        let heap = Heap::new(&config).unwrap();
        let mapping = Mapping::attach(heap.as_fd().try_clone_to_owned().unwrap()).unwrap();
        Self {
            heap,
            mapping,
            // Header of the segment, of the heap, and of the table; slots of 32 bytes.
            from: 128 + 128 + 128 + 16 * 32,
            template: OnceLock::new(),
        }
    }

    fn bytes(&self) -> (NonNull<u8>, usize) {
        let region = self.mapping.region();
        // SAFETY: the table lies inside the segment.
        let at = unsafe { region.base().add(self.from) };
        (at, region.len() - self.from)
    }

    fn save(&self) {
        let (at, len) = self.bytes();
        // SAFETY: inside the mapping; nobody is at work.
        let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), len) }.to_vec();
        self.template.set(bytes).unwrap();
    }

    fn restore(&self) {
        let (at, len) = self.bytes();
        let template = self.template.get().unwrap();
        // SAFETY: inside the mapping; nobody is at work.
        unsafe { at.as_ptr().copy_from_nonoverlapping(template.as_ptr(), len) };
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// A value without a name.
    Share,
    /// A value with a name.
    Create,
    Find,
    /// A borrow: counted for the process.
    Get,
    /// The last reference of a value without a name.
    Release,
    Remove,
}

struct Staged {
    op: Op,
    stage: Stage,
}

impl Staged {
    fn heap(&self) -> &Heap {
        &self.stage.heap
    }
}

impl Subject for Staged {
    fn name(&self) -> String {
        format!("{:?}", self.op)
    }

    fn size(&self) -> usize {
        64
    }

    fn setup(&self, _: &Env<'_>) {
        // "name" is there for those who look for it; the setup itself keeps nothing.
        if matches!(self.op, Op::Find | Op::Get | Op::Remove) {
            drop(self.heap().create("name", pair()).unwrap());
        } else {
            drop(self.heap().share(pair()).unwrap());
        }
        self.heap().recover();
        self.stage.save();
    }

    fn arm<'a>(&'a self, _: Env<'a>) -> Operation<'a> {
        self.stage.restore();
        let heap = self.heap();
        heap.recover(); // joins anew, as itself
        let mut kept: Vec<Counted<Pair>> = Vec::with_capacity(2);
        match self.op {
            Op::Share => Box::new(move || match heap.share(pair()) {
                Ok(value) => {
                    kept.push(value);
                    u64::from(is_whole(&kept[0]))
                }
                Err(_) => 2,
            }),
            Op::Create => Box::new(move || match heap.create("name", pair()) {
                Ok(value) => {
                    kept.push(value);
                    u64::from(is_whole(&kept[0]))
                }
                Err(_) => 2,
            }),
            Op::Find => Box::new(move || match heap.find::<Pair>("name") {
                Ok(value) => {
                    kept.push(value);
                    u64::from(is_whole(&kept[0]))
                }
                Err(_) => 2,
            }),
            Op::Get => Box::new(move || match heap.get::<Pair>("name") {
                Ok(value) => u64::from(is_whole(value)),
                Err(_) => 2,
            }),
            Op::Release => {
                kept.push(heap.share(pair()).unwrap());
                Box::new(move || {
                    kept.clear();
                    1
                })
            }
            Op::Remove => Box::new(move || u64::from(heap.remove("name").is_ok())),
        }
    }

    fn rivals(&self) -> &[&'static str] {
        // None that waits for the directory: a stopped process is not dead.
        &["find, share and let go"]
    }

    fn rival(&self, env: &Env<'_>, _: usize) -> u64 {
        let heap = self.heap();
        let found = match heap.find::<Pair>("name") {
            Ok(value) if is_whole(&value) => 1,
            Ok(_) => 0,
            Err(HeapError::NotFound) => 2,
            Err(error) => panic!("{error}"),
        };
        match heap.share(pair()) {
            Ok(value) if is_whole(&value) => {}
            _ => env.control.notes[0].store(BROKEN, StdRelaxed),
        }
        if found == 0 {
            env.control.notes[0].store(BROKEN, StdRelaxed);
        }
        found
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, _: &Env<'_>, _: Role) {
        self.heap().recover();
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(StdRelaxed) == BROKEN {
            return Err("somebody found a value that is not whole, or no room".to_owned());
        }
        if outcome.completed && outcome.result != 1 {
            return Err(format!("the operation returned {}", outcome.result));
        }
        let heap = self.heap();
        let fate = match heap.find::<Pair>("name") {
            Ok(value) if is_whole(&value) => "there",
            Ok(_) => return Err("a name without a whole value".to_owned()),
            Err(_) => "not there",
        };
        match (self.op, fate) {
            (Op::Find | Op::Get, "not there") => return Err("the name is gone".to_owned()),
            (Op::Create, "not there") if outcome.completed => {
                return Err("created, and not there".to_owned());
            }
            (Op::Remove, "there") if outcome.completed => {
                return Err("removed, and there".to_owned());
            }
            _ => {}
        }
        // Whoever is next inherits the turn, and finds the directory in order.
        match heap.create("another", pair()) {
            Ok(value) => drop(value),
            Err(error) => return Err(format!("the next one: {error}")),
        }
        heap.remove("another")
            .map_err(|error| format!("the next one: {error}"))?;
        if fate == "there" {
            heap.remove("name")
                .map_err(|error| format!("the name: {error}"))?;
        }
        heap.recover();
        // A victim that has come to its end has not died yet: what it has is its own.
        let alive = !env.control.victim_is_dead();
        let has = alive && matches!(self.op, Op::Share | Op::Create | Op::Find | Op::Get);
        let blocks = heap.statistics().blocks;
        if blocks != u64::from(has) || heap.objects().count() > 0 {
            return Err(format!("{blocks} blocks are left, {:?}", heap));
        }
        // All counters can be had: none is lost.
        let all: Vec<_> = (0..3 - blocks).map(|_| heap.share(pair())).collect();
        match all.iter().find_map(|value| value.as_ref().err()) {
            Some(error) => Err(format!("a counter is lost: {error}")),
            None => Ok(fate),
        }
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    let subject = Staged {
        op,
        stage: Stage::new(),
    };
    let full = std::env::var_os("SWEEP").is_some_and(|wish| wish == "full");
    let modes: &[Mode] = match full {
        true => &[Mode::Kill, Mode::Preempt, Mode::PreemptThenKill],
        false => &[Mode::Kill],
    };
    let config = Config {
        modes: modes.to_vec(),
        ..Config::default()
    };
    sweep(&subject, &config).assert_ok();
}

#[test]
fn sharing_survives_a_kill_at_every_instruction() {
    swept(Op::Share);
}

#[test]
fn creating_survives_a_kill_at_every_instruction() {
    swept(Op::Create);
}

#[test]
fn finding_survives_a_kill_at_every_instruction() {
    swept(Op::Find);
}

#[test]
fn borrowing_survives_a_kill_at_every_instruction() {
    swept(Op::Get);
}

#[test]
fn letting_go_survives_a_kill_at_every_instruction() {
    swept(Op::Release);
}

#[test]
fn removing_survives_a_kill_at_every_instruction() {
    swept(Op::Remove);
}
