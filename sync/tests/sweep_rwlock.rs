//! `RwLock`, `Once` and `Condition`, killed, stopped and preempted at every instruction.
//!
//! Shown to fail (`.ci/mutants`): a gate opened before the writer is out, a turn that is done
//! before its work is, a notifier that moves nothing before it wakes.
#![cfg(all(not(loom), target_os = "linux"))]

use std::mem::forget;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::thread::Caller;
use multiprocess_core::{ShmSafe, Timeout};
use multiprocess_sync::{Condition, LockError, Mutex, Once, RwLock};
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Subject, sweep};

/// In the segment; all-zero bytes are a valid value.
#[derive(ShmSafe)]
#[repr(C)]
struct Stage {
    table: RwLock<[u64; 2], 3>,
    once: Once,
    work: [AtomicU64; 2],
    mutex: Mutex<u64>,
    condition: Condition,
}

fn stage<'a>(env: &Env<'a>) -> &'a Stage {
    // SAFETY: at the start of the segment, which is large enough; made of atomics and numbers.
    unsafe { &*env.segment.cast::<Stage>() }
}

const PATIENCE: Duration = Duration::from_secs(8);
const BROKEN: usize = 0;

fn me() -> Caller<'static> {
    Caller::current()
}

/// Writes both halves, which only a death may leave unequal. Whether one had.
fn write(env: &Env<'_>, stay: bool) -> bool {
    let (mut both, died) = match stage(env).table.write_as(me(), PATIENCE) {
        Ok(both) => (both, false),
        Err(LockError::OwnerDied(mut both)) => {
            both[1] = both[0];
            both.mark_consistent();
            (both, true)
        }
        Err(error) => panic!("blocked: {error}"),
    };
    if both[0] != both[1] {
        env.control.notes[BROKEN].store(1, Relaxed);
    }
    both[0] += 1;
    if stay {
        env.control.rival_stands_inside();
    }
    both[1] += 1;
    died
}

/// Reads both halves; repairs first if a writer has died.
fn read(env: &Env<'_>) -> u64 {
    loop {
        match stage(env).table.read_as(me(), PATIENCE) {
            Ok(both) => {
                if both[0] != both[1] {
                    env.control.notes[BROKEN].store(1, Relaxed);
                }
                return both[0];
            }
            Err(LockError::WriterDied) => drop(write(env, false)),
            Err(error) => panic!("blocked: {error}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Read,
    /// A helper writes until the victim sleeps.
    ReadContended,
    EndRead,
    /// A helper waits to write.
    EndReadToWriter,
    Write,
    /// A helper reads until the victim sleeps.
    WriteContended,
    EndWrite,
    /// A helper waits to read.
    EndWriteToReader,
    CallOnce,
    /// A helper waits for its notification.
    Notify,
    /// A helper notifies when the victim sleeps.
    Wait,
}

impl Op {
    fn is_about_table(self) -> bool {
        (self as u8) <= Op::EndWriteToReader as u8
    }
}

fn call_once(env: &Env<'_>) -> u64 {
    let stage = stage(env);
    let called = stage.once.call_once(|| {
        // Half-done by one that died, or not begun.
        stage.work[0].store(1, Relaxed);
        stage.work[1].store(1, Relaxed);
    });
    u64::from(called.is_ok())
}

/// Waits until the number under the mutex is not zero.
fn wait(env: &Env<'_>, timeout: impl Into<Timeout>) -> u64 {
    let stage = stage(env);
    let guard = match stage.mutex.lock() {
        Ok(guard) => guard,
        Err(LockError::OwnerDied(mut guard)) => {
            guard.mark_consistent();
            guard
        }
        Err(error) => panic!("{error}"),
    };
    match stage.condition.wait_for(guard, timeout, |n| **n != 0) {
        Ok((_, there)) => u64::from(there),
        Err(LockError::OwnerDied(mut guard)) => {
            guard.mark_consistent();
            2
        }
        Err(error) => panic!("{error}"),
    }
}

fn tell(env: &Env<'_>) -> u64 {
    let stage = stage(env);
    match stage.mutex.lock() {
        Ok(mut guard) => *guard = 1,
        Err(LockError::OwnerDied(mut guard)) => {
            *guard = 1;
            guard.mark_consistent();
        }
        Err(error) => panic!("{error}"),
    }
    stage.condition.notify(1);
    1
}

impl Subject for Op {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn size(&self) -> usize {
        size_of::<Stage>().next_multiple_of(64)
    }

    fn setup(&self, env: &Env<'_>) {
        // SAFETY: the segment stays mapped at one address in each process.
        unsafe { stage(env).placed() };
        // What is initialised lazily: the clock, the CPU count, the generation's page.
        let _ = stage(env).mutex.lock_timeout(Duration::from_millis(1));
        let _ = wait(env, Duration::from_millis(1));
        stage(env).condition.notify_all();
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let table = &stage(&env).table;
        match self {
            Op::Read | Op::ReadContended => Box::new(move || {
                let guard = table.read_as(me(), None);
                u64::from(guard.map(forget).is_ok())
            }),
            Op::EndRead | Op::EndReadToWriter => {
                let mut guard = Some(table.read_as(me(), None).unwrap());
                Box::new(move || {
                    drop(guard.take());
                    1
                })
            }
            Op::Write | Op::WriteContended => Box::new(move || {
                let guard = table.write_as(me(), None);
                u64::from(guard.map(forget).is_ok())
            }),
            Op::EndWrite | Op::EndWriteToReader => {
                let mut guard = Some(table.write_as(me(), None).unwrap());
                Box::new(move || {
                    drop(guard.take());
                    1
                })
            }
            Op::CallOnce => Box::new(move || call_once(&env)),
            Op::Notify => Box::new(move || tell(&env)),
            Op::Wait => Box::new(move || wait(&env, None)),
        }
    }

    fn has_helper(&self) -> bool {
        !matches!(
            self,
            Op::Read | Op::EndRead | Op::Write | Op::EndWrite | Op::CallOnce
        )
    }

    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        let table = &stage(env).table;
        match self {
            Op::ReadContended => {
                let guard = table.write_as(me(), None).unwrap();
                go();
                drop(guard);
                env.control.helper_has_settled();
            }
            Op::WriteContended => {
                let guard = table.read_as(me(), None).unwrap();
                go();
                drop(guard);
                env.control.helper_has_settled();
            }
            Op::EndReadToWriter => drop(write(env, false)),
            Op::EndWriteToReader => drop(read(env)),
            // Whoever dies before it has told is replaced: see `recover`.
            Op::Notify => return wait(env, PATIENCE),
            _ => {
                go();
                tell(env);
                env.control.helper_has_settled();
            }
        }
        1
    }

    fn rivals(&self) -> &[&'static str] {
        match self {
            Op::Read | Op::EndRead | Op::Write | Op::EndWrite => {
                &["write", "write and stay", "read"]
            }
            Op::CallOnce => &["call once"],
            _ => &[],
        }
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        match (self, which) {
            (Op::CallOnce, _) => return call_once(env),
            (_, 2) => drop(read(env)),
            (_, which) => drop(write(env, which == 1)),
        }
        1
    }

    fn rival_may_stall(&self, _: usize) -> bool {
        true // a stopped holder holds
    }

    fn has_recovery(&self) -> bool {
        *self == Op::Notify
    }

    fn recover(&self, env: &Env<'_>, _: multiprocess_testkit::Role) {
        // Only what the dead one had not done. If it had, its lost wake is healed by the
        // sleeper's inner bound, not by us.
        let done = match stage(env).mutex.lock() {
            Ok(guard) => *guard == 1,
            Err(LockError::OwnerDied(mut guard)) => {
                guard.mark_consistent();
                *guard == 1
            }
            Err(error) => panic!("{error}"),
        };
        if !done {
            tell(env);
        }
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        if env.control.notes[BROKEN].load(Relaxed) != 0 {
            return Err("a reader or writer met a writer".to_owned());
        }
        if outcome.completed && outcome.result != 1 {
            return Err(format!("the operation returned {}", outcome.result));
        }
        if outcome.helper == Some(0) {
            return Err("the sleeper was not released".to_owned());
        }
        let stage = stage(env);
        if self.is_about_table() {
            let died = write(env, false);
            read(env);
            if env.control.notes[BROKEN].load(Relaxed) != 0 {
                return Err("a writer left half of its work, and nobody was told".to_owned());
            }
            return Ok(if died {
                "wrote at its death"
            } else {
                "did not write"
            });
        }
        if *self == Op::CallOnce {
            let was_done = stage.once.is_done();
            let works = || stage.work.each_ref().map(|word| word.load(Relaxed));
            if was_done && works() != [1, 1] {
                return Err("done, and the work is not".to_owned());
            }
            if call_once(env) != 1 || works() != [1, 1] {
                return Err("the turn did not pass on".to_owned());
            }
            return Ok(if was_done { "done" } else { "not done" });
        }
        tell(env);
        if wait(env, PATIENCE) == 0 {
            return Err("it does not work any more".to_owned());
        }
        Ok("notified")
    }
}

fn swept(op: Op) {
    let _watchdog = Watchdog::seconds(300);
    // Operations that spin are killed where the state changes, and asleep; so are writers: a
    // reader that meets a dead one notices at its inner bound.
    let long = op.has_helper() || matches!(op, Op::Write | Op::EndWrite);
    let mut config = Config {
        edges_only: long,
        ..Config::default()
    };
    if op == Op::Notify {
        config.modes = vec![Mode::Kill];
    }
    sweep(&op, &config).assert_ok();
}

macro_rules! sweeps {
    ($($name:ident: $op:ident;)*) => {$(
        #[test]
        fn $name() {
            swept(Op::$op);
        }
    )*};
}

sweeps! {
    read_survives_a_kill_at_every_instruction: Read;
    a_contended_read_survives_a_kill_at_every_instruction: ReadContended;
    the_end_of_a_read_survives_a_kill_at_every_instruction: EndRead;
    the_end_of_a_read_with_a_writer_waiting_survives_a_kill_at_every_instruction: EndReadToWriter;
    write_survives_a_kill_at_every_instruction: Write;
    a_contended_write_survives_a_kill_at_every_instruction: WriteContended;
    the_end_of_a_write_survives_a_kill_at_every_instruction: EndWrite;
    the_end_of_a_write_with_a_reader_waiting_survives_a_kill_at_every_instruction: EndWriteToReader;
    call_once_survives_a_kill_at_every_instruction: CallOnce;
    notify_survives_a_kill_at_every_instruction: Notify;
    wait_survives_a_kill_at_every_instruction: Wait;
}
