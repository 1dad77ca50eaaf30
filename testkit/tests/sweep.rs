//! The harness finds what it claims to find, and lets correct code pass.
#![allow(clippy::disallowed_methods)]

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Env, Mode, Operation, Outcome, Role, Subject, sweep};

fn word<'a>(env: &Env<'a>, index: usize) -> &'a AtomicU64 {
    // SAFETY: inside the segment (subjects use less than 64 words), aligned, atomic.
    unsafe { &*env.segment.cast::<AtomicU64>().add(index) }
}

/// A subject made of closures.
struct Toy {
    operation: fn(&Env<'_>) -> u64,
    rival: Option<fn(&Env<'_>) -> u64>,
    recover: Option<fn(&Env<'_>)>,
    check: fn(&Env<'_>, &Outcome<'_>) -> Result<&'static str, String>,
}

impl Subject for Toy {
    fn name(&self) -> String {
        "toy".into()
    }
    fn size(&self) -> usize {
        512
    }
    fn setup(&self, _: &Env<'_>) {}
    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let operation = self.operation;
        Box::new(move || operation(&env))
    }
    fn rivals(&self) -> &[&'static str] {
        if self.rival.is_some() {
            &["rival"]
        } else {
            &[]
        }
    }
    fn rival(&self, env: &Env<'_>, _: usize) -> u64 {
        self.rival.map_or(0, |rival| rival(env))
    }
    fn has_recovery(&self) -> bool {
        self.recover.is_some()
    }
    fn recover(&self, env: &Env<'_>, _: Role) {
        if let Some(recover) = self.recover {
            recover(env);
        }
    }
    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        (self.check)(env, outcome)
    }
}

fn fine(_: &Env<'_>, _: &Outcome<'_>) -> Result<&'static str, String> {
    Ok("fine")
}

#[test]
fn a_torn_pair_is_found_and_one_word_is_not_torn() {
    let _watchdog = Watchdog::seconds(60);
    let equal = |env: &Env<'_>, _: &Outcome<'_>| {
        if word(env, 0).load(Relaxed) == word(env, 1).load(Relaxed) {
            Ok("whole")
        } else {
            Err("torn".to_owned())
        }
    };
    let pair = Toy {
        operation: |env| {
            word(env, 0).store(7, Relaxed);
            word(env, 1).store(7, Relaxed);
            0
        },
        rival: None,
        recover: None,
        check: equal,
    };
    sweep(&pair, &Config::default()).assert_caught("torn");

    let one_word = Toy {
        operation: |env| word(env, 0).fetch_add(0x1_0000_0001, Relaxed),
        check: |env, _| {
            let value = word(env, 0).load(Relaxed);
            match (value as u32, (value >> 32) as u32) {
                (0, 0) => Ok("not yet"),
                (1, 1) => Ok("done"),
                _ => Err("torn".to_owned()),
            }
        },
        ..pair
    };
    let report = sweep(&one_word, &Config::default());
    report.assert_ok();
    if report.skipped.is_none() {
        let fates: Vec<_> = report.fates.iter().map(|fate| fate.1.as_str()).collect();
        assert_eq!(fates, ["not yet", "done"]);
        assert!(
            report.fates[1].2.contains("[lock]"),
            "{}",
            report.fates[1].2
        );
    }
}

#[test]
fn a_lock_left_behind_is_a_hang_with_a_place() {
    let _watchdog = Watchdog::seconds(120);
    let left = Toy {
        operation: |env| word(env, 0).swap(1, Acquire),
        rival: None,
        recover: None,
        check: |env, _| {
            while word(env, 0).swap(1, Acquire) != 0 {
                std::hint::spin_loop();
            }
            Ok("got it")
        },
    };
    let config = Config {
        patience: std::time::Duration::from_millis(200),
        max_violations: 1,
        ..Config::default()
    };
    let report = sweep(&left, &config);
    report.assert_caught("Checker hangs");
    report.assert_caught("sweep.rs:");
}

#[test]
fn a_load_and_a_store_instead_of_an_exchange_is_found_by_a_rival_only() {
    let _watchdog = Watchdog::seconds(60);
    fn take(env: &Env<'_>) -> u64 {
        if word(env, 0).load(Relaxed) != 0 {
            return 0;
        }
        word(env, 0).store(1, Relaxed);
        1
    }
    let toy = Toy {
        operation: take,
        rival: Some(take),
        recover: None,
        check: |_, outcome| match (outcome.result, outcome.rival) {
            (1, Some((_, 1))) => Err("both took it".to_owned()),
            _ => Ok("at most one"),
        },
    };
    let kill_only = Config {
        modes: vec![Mode::Kill],
        ..Config::default()
    };
    sweep(&toy, &kill_only).assert_ok();
    sweep(&toy, &Config::default()).assert_caught("both took it");
    let exchange = Toy {
        operation: |env| u64::from(word(env, 0).swap(1, Relaxed) == 0),
        rival: Some(|env| u64::from(word(env, 0).swap(1, Relaxed) == 0)),
        ..toy
    };
    sweep(&exchange, &Config::default()).assert_ok();
}

#[test]
fn a_recovery_that_cannot_be_repeated_is_found() {
    let _watchdog = Watchdog::seconds(60);
    // Word 0: in progress. Recovery moves it to word 1, in the wrong order.
    let toy = Toy {
        operation: |env| {
            word(env, 0).store(1, Release);
            0
        },
        rival: None,
        recover: Some(|env| {
            if word(env, 0).load(Relaxed) == 1 {
                word(env, 0).store(0, Relaxed);
                word(env, 1).fetch_add(1, Relaxed);
            }
        }),
        check: |env, outcome| {
            let was = outcome.before[0];
            match word(env, 1).load(Relaxed) {
                moved if moved == u64::from(was) => Ok("moved once"),
                moved => Err(format!("moved {moved} times")),
            }
        },
    };
    sweep(&toy, &Config::default()).assert_caught("moved 0 times");
}

#[test]
fn a_pointer_in_the_segment_is_found() {
    let _watchdog = Watchdog::seconds(60);
    let toy = Toy {
        operation: |env| {
            word(env, 0).store(env.segment as u64 + 64, Relaxed);
            0
        },
        rival: None,
        recover: None,
        check: |env, _| match word(env, 0).load(Relaxed) {
            0 => Ok("none"),
            address if address == env.segment as u64 + 64 => Ok("mine"),
            _ => Err("it points elsewhere".to_owned()),
        },
    };
    sweep(&toy, &Config::default()).assert_caught("elsewhere");
}

/// Sleeps on a futex until the helper wakes it.
struct Sleeper;

impl Sleeper {
    fn futex(env: &Env<'_>) -> *const AtomicU32 {
        env.segment.cast::<AtomicU32>()
    }
}

impl Subject for Sleeper {
    fn name(&self) -> String {
        "sleeper".into()
    }
    fn size(&self) -> usize {
        64
    }
    fn setup(&self, _: &Env<'_>) {}
    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        Box::new(move || {
            let futex = Self::futex(&env);
            // SAFETY: a word of the segment; no timeout.
            while unsafe { (*futex).load(Acquire) } == 0 {
                // SAFETY: as above.
                unsafe { libc::syscall(libc::SYS_futex, futex, 0, 0, 0usize) };
            }
            1
        })
    }
    fn has_helper(&self) -> bool {
        true
    }
    fn help(&self, env: &Env<'_>, go: &dyn Fn()) -> u64 {
        go();
        // SAFETY: a word of the segment.
        unsafe {
            (*Self::futex(env)).store(1, Release);
            libc::syscall(libc::SYS_futex, Self::futex(env), 1, 1) as u64
        }
    }
    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        fine(env, outcome)
    }
}

#[test]
fn sleep_in_the_kernel_is_a_kill_point() {
    let _watchdog = Watchdog::seconds(60);
    let report = sweep(&Sleeper, &Config::default());
    report.assert_ok();
    if report.skipped.is_none() {
        assert_eq!(report.sleeps.len(), 1, "{report}");
        assert_eq!(report.kill_count(), report.instructions + 2, "{report}");
    }
}
