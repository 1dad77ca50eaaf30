//! Making, entering, taking over and leaving a named segment, killed, stopped and preempted.
//!
//! Each at every edge: before and after every system call, since between two of them nothing changes
//! that others can see, but the header and the content while they are made. `SWEEP=full` kills
//! at every instruction (4 minutes); leaving is always swept so.
//!
//! Shown to fail (`.ci/mutants`): READY said before the content is there, a leftover that is
//! entered, a name that is removed by whoever leaves first.
#![cfg(target_os = "linux")]

use std::alloc::Layout;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{CreateError, LayoutHash, Memory, Region};
use multiprocess_shm::{Named, NamedError, NamedSegment, clean_up};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};

const LAYOUT: LayoutHash = LayoutHash::of("a word, version 1");
const WORD: Layout = Layout::new::<u64>();
/// What a finished initialisation leaves.
const CONTENT: u64 = 0x600d;
/// What a leftover holds, and nobody may ever find.
const STALE: u64 = 0xbad;

/// Note 0: what a role found that must not be.
const BROKEN: u64 = 1;

const MADE: u64 = 1;
const FOUND: u64 = 2;
/// Somebody had it exclusively for as long as we cared to wait.
const REFUSED: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// `open_or_create` where there is nothing.
    Make,
    /// The same where the dead have left a half-made one.
    TakeOver,
    /// The same where the dead have left a finished one.
    Replace,
    /// `open` of one that is there and belongs to nobody.
    Open,
    /// The last one leaves.
    Leave,
}

impl Op {
    fn directory(self) -> PathBuf {
        PathBuf::from(format!(
            "/dev/shm/multiprocess-sweep-{}-{self:?}",
            test_process()
        ))
    }

    fn named(self) -> Named {
        Named::at(self.directory().join("name"))
    }
}

/// The test process, of which all roles are forks.
fn test_process() -> u32 {
    static ID: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *ID.get_or_init(std::process::id)
}

fn word(segment: &NamedSegment) -> &AtomicU64 {
    // SAFETY: the segment was made for a word, and is 128-byte aligned.
    unsafe { segment.region().base().cast().as_ref() }
}

fn sets(value: u64) -> impl Fn(Region<'_>) -> Result<(), CreateError> {
    move |bytes| {
        bytes.check(WORD)?;
        // SAFETY: large enough and aligned, as just checked.
        let word: &AtomicU64 = unsafe { bytes.base().cast().as_ref() };
        word.store(value, Relaxed);
        Ok(())
    }
}

/// Enters, looks at what is there, and leaves.
fn visit(named: &Named) -> Result<u64, NamedError> {
    let segment = named.open_or_create(LAYOUT, WORD, sets(CONTENT))?;
    match word(&segment).load(Relaxed) {
        CONTENT if segment.is_creator() => Ok(MADE),
        CONTENT => Ok(FOUND),
        _ => Ok(0),
    }
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn size(&self) -> usize {
        128
    }

    fn setup(&self, _: &Env<'_>) {
        fs::create_dir_all(self.directory()).unwrap();
        // Clocks and limits are looked up lazily.
        assert_eq!(visit(&self.named()), Ok(MADE));
    }

    fn arm<'a>(&'a self, _: Env<'a>) -> Operation<'a> {
        let named = self.named();
        let _ = fs::remove_file(named.path());
        let untracked = named.clone().tracked(false);
        let make = |value| untracked.create(LAYOUT, WORD, sets(value)).unwrap();
        let mark = || fs::set_permissions(named.path(), fs::Permissions::from_mode(0o1600));
        match self {
            Op::Make => {}
            Op::TakeOver => {
                drop(make(STALE));
                // State CREATING, by a creator that is no more.
                let mut bytes = fs::read(named.path()).unwrap();
                bytes[0x0c] = 1;
                fs::write(named.path(), bytes).unwrap();
                mark().unwrap();
            }
            Op::Replace => {
                drop(make(STALE));
                mark().unwrap();
            }
            Op::Open => drop(make(CONTENT)),
            Op::Leave => {}
        }
        match self {
            Op::Open => Box::new(move || {
                let segment = named.open(LAYOUT).unwrap();
                u64::from(word(&segment).load(Relaxed) == CONTENT)
            }),
            Op::Leave => {
                let mut segment = Some(named.create(LAYOUT, WORD, sets(CONTENT)).unwrap());
                Box::new(move || {
                    drop(segment.take());
                    1
                })
            }
            _ => {
                let mut kept = Vec::with_capacity(1);
                Box::new(move || {
                    let segment = named.open_or_create(LAYOUT, WORD, sets(CONTENT)).unwrap();
                    let good = word(&segment).load(Relaxed) == CONTENT;
                    kept.push(segment); // until the victim ends
                    u64::from(good)
                })
            }
        }
    }

    fn rivals(&self) -> &[&'static str] {
        &["visit"]
    }

    fn rival(&self, env: &Env<'_>, _: usize) -> u64 {
        match visit(&self.named().timeout(Duration::from_millis(1))) {
            Ok(0) => {
                env.control.notes[0].store(BROKEN, Relaxed);
                0
            }
            Ok(how) => how,
            Err(NamedError::Timeout) => REFUSED,
            Err(error) => panic!("the rival got: {error}"),
        }
    }

    /// It waits for a maker, and a stopped one is not dead: it is refused then.
    fn rival_may_stall(&self, _: usize) -> bool {
        true
    }

    fn has_recovery(&self) -> bool {
        true
    }

    /// Whoever comes next. `Leave` and `Make` leave nothing but what the next one removes.
    fn recover(&self, _: &Env<'_>, _: Role) {
        if *self == Op::Leave {
            clean_up(self.directory()).unwrap();
        } else {
            let _ = visit(&self.named());
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[0].load(Relaxed) == BROKEN {
            return Err("somebody found content that is not whole".to_owned());
        }
        if outcome.completed && outcome.result != 1 {
            return Err("the victim found content that is not whole".to_owned());
        }
        let named = self.named();
        let fate = match named.path().exists() {
            true => "a file",
            false => "no file",
        };
        let visited = visit(&named).map_err(|error| error.to_string())?;
        match (self, visited) {
            (Op::Open, FOUND) => {} // not tracked: it stays
            (Op::Open, _) => return Err("a name that was to stay is gone".to_owned()),
            // Everybody else is dead or has left.
            (_, MADE) => {}
            (_, how) => return Err(format!("visited: {how}")),
        }
        if *self != Op::Open && named.path().exists() {
            return Err("the last one has not removed it".to_owned());
        }
        let files = fs::read_dir(self.directory()).unwrap().count();
        if files != usize::from(*self == Op::Open) {
            return Err(format!("{files} files are left"));
        }
        Ok(fate)
    }
}

const ALL: &[Mode] = &[Mode::Kill, Mode::Preempt, Mode::PreemptThenKill];

fn at_edges_only() -> bool {
    std::env::var_os("SWEEP").is_none_or(|wish| wish != "full")
}

fn swept(op: Op, edges_only: bool, modes: &[Mode]) {
    let _watchdog = Watchdog::seconds(300);
    let config = Config {
        edges_only,
        modes: modes.to_vec(),
        ..Config::default()
    };
    test_process();
    let report = sweep(&op, &config);
    let _ = fs::remove_dir_all(op.directory());
    report.assert_ok();
}

#[test]
fn making_survives_a_kill() {
    swept(Op::Make, at_edges_only(), ALL);
}

#[test]
fn taking_over_survives_a_kill() {
    swept(Op::TakeOver, at_edges_only(), ALL);
}

#[test]
fn replacing_survives_a_kill() {
    swept(Op::Replace, at_edges_only(), ALL);
}

#[test]
fn opening_survives_a_kill() {
    swept(Op::Open, at_edges_only(), ALL);
}

#[test]
fn leaving_survives_a_kill_at_every_instruction() {
    swept(Op::Leave, false, &[Mode::Kill]);
    swept(Op::Leave, true, ALL);
}
