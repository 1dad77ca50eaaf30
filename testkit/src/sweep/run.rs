//! The sweep itself: one fresh run for each instruction and mode.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

mod recoverer;

use super::segment::{Segment, map};
use super::{Config, Mode, Outcome, Subject};
use crate::control::{Control, DONE, Env, Role, SETTLED, STALLED};
use crate::process::{Forked, give_way, pause, state};
use crate::report::{Report, Violation};
use crate::symbol;
use crate::tracee::{At, Tracee, whereabouts};

pub(super) struct Sweep<'s> {
    subject: &'s dyn Subject,
    config: &'s Config,
    segment: Segment,
    control: &'static Control,
    /// The segment after setup: every run starts with it.
    template: Vec<u8>,
    /// The address before each step.
    trace: Vec<u64>,
    /// A hash of the shared state before each step.
    walk: Vec<u64>,
    /// First step of each distinct crash state.
    crash_states: Vec<u64>,
    report: Report,
    started: Instant,
}

/// The processes of one run.
struct Run {
    victim: Tracee,
    helper: Option<Forked>,
}

/// A point to kill at: a step, and whether asleep in the system call that follows.
#[derive(Clone, Copy)]
struct Point {
    step: u64,
    asleep: bool,
}

/// Longest operation that is swept.
const MAX_STEPS: u64 = 200_000;

impl<'s> Sweep<'s> {
    pub(super) fn new(subject: &'s dyn Subject, config: &'s Config) -> Self {
        let segment = Segment::new(subject.size());
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let control = map(flags, size_of::<Control>().next_multiple_of(4096), -1);
        // SAFETY: fresh zeroed memory, which is a valid `Control`, never unmapped.
        let control: &'static Control = unsafe { &*control.cast::<Control>() };
        let mut sweep = Self {
            subject,
            config,
            segment,
            control,
            template: Vec::new(),
            trace: Vec::new(),
            walk: Vec::new(),
            crash_states: Vec::new(),
            report: Report {
                name: subject.name(),
                ..Report::default()
            },
            started: Instant::now(),
        };
        subject.setup(&Env {
            segment: sweep.segment.base,
            control,
            role: Role::Setup,
        });
        sweep.template = sweep.segment.snapshot();
        sweep
    }

    pub(super) fn run(mut self) -> Report {
        match self.record() {
            Ok(()) => {
                for mode in self.config.modes.clone() {
                    match mode {
                        Mode::Kill => self.kill_everywhere(),
                        Mode::Preempt | Mode::PreemptThenKill => self.preempt_everywhere(mode),
                        Mode::RecovererKilled => self.kill_recoverers(),
                    }
                }
            }
            Err(message) => self.violation(Mode::Kill, None, 0, None, message),
        }
        self.report.elapsed = self.started.elapsed();
        self.report
    }

    // ---- roles

    /// What a role other than the victim sees.
    fn env(&self, role: Role) -> Env<'static> {
        Env {
            segment: self.segment.elsewhere(),
            control: self.control,
            role,
        }
    }

    fn start_role(&self, role: Role, work: impl FnOnce(&Env<'_>) -> u64) -> Forked {
        Forked::run(|| {
            let env = self.env(role);
            let result = work(&env);
            self.control.finish(role, result);
        })
    }

    /// Runs `work` in a process of its own to its end.
    fn child(
        &self,
        role: Role,
        work: impl FnOnce(&Env<'_>) -> Result<u64, String>,
    ) -> Result<u64, String> {
        let mut child = Forked::run(|| match work(&self.env(role)) {
            Ok(value) => self.control.finish(role, value),
            Err(message) => {
                self.control.fail(&message);
                // SAFETY: ends the process.
                unsafe { libc::_exit(9) };
            }
        });
        match child.wait(self.config.patience) {
            None => Err(format!("{role:?} hangs: {}", whereabouts(child.pid))),
            Some(0) => Ok(self.control.results[role as usize].load(Relaxed)),
            Some(status) if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 9 => {
                Err(self.control.message())
            }
            Some(status) => Err(format!("{role:?} died: wait status {status:#x}")),
        }
    }

    /// Waits until a role has finished, says so, or sleeps; its progress word (0: asleep).
    fn settle(&self, pid: i32, role: Role) -> u32 {
        let (mut polls, mut sleeps) = (0, 0);
        let start = Instant::now();
        loop {
            let progress = self.control.progress[role as usize].load(Acquire);
            if progress != 0 {
                return progress;
            }
            polls += 1;
            give_way();
            if polls < 20 {
                continue;
            }
            sleeps = match state(pid) {
                b'S' => sleeps + 1,
                b'Z' | b'?' => return DONE,
                _ => 0,
            };
            if sleeps >= 4 || start.elapsed() > self.config.patience {
                return 0;
            }
            pause();
        }
    }

    // ---- one run

    fn begin(&self) -> Result<Run, String> {
        self.segment.restore(&self.template);
        self.control.reset();
        let env = Env {
            segment: self.segment.base,
            control: self.control,
            role: Role::Victim,
        };
        let victim = Tracee::start(|| self.subject.arm(env))?;
        let helper = self.subject.has_helper().then(|| {
            let go = || self.control.wait_for_go();
            self.start_role(Role::Helper, |env| self.subject.help(env, &go))
        });
        if let Some(helper) = &helper {
            self.settle(helper.pid, Role::Helper);
        }
        Ok(Run { victim, helper })
    }

    /// What is done when the victim sleeps: the helper is told, and given time for its part.
    fn waker(&self) -> impl FnMut() + 'static {
        let (control, patience) = (self.control, self.config.patience);
        let helped = self.subject.has_helper();
        move || {
            control.tell_go();
            let start = Instant::now();
            let settled = || {
                let progress = control.progress[Role::Helper as usize].load(Acquire);
                progress == DONE || progress == SETTLED
            };
            while helped && !settled() && start.elapsed() < patience {
                give_way();
            }
        }
    }

    /// One undisturbed run, to learn every address and state.
    fn record(&mut self) -> Result<(), String> {
        let mut run = self.begin()?;
        let (mut trace, mut walk) = (Vec::new(), Vec::new());
        let mut sleeps = Vec::new();
        let mut wake = self.waker();
        let steps = std::cell::Cell::new(0);
        let mut wake_and_note = || {
            sleeps.push(steps.get());
            wake();
        };
        let mut visit = |step: u64, address: u64| {
            steps.set(step);
            trace.push(address);
            walk.push(self.state_hash(false));
        };
        let at = run.victim.advance(
            MAX_STEPS,
            None,
            &mut wake_and_note,
            self.config.patience,
            &mut visit,
        );
        let instructions = run.victim.steps;
        (self.trace, self.walk) = (trace, walk);
        self.report.instructions = instructions;
        self.report.sleeps = sleeps;
        match at {
            At::Done => Ok(()),
            At::Here => Err(format!("longer than {MAX_STEPS} instructions")),
            other => Err(format!("undisturbed, it ends in {other:?}")),
        }
    }

    /// Everything that a death here leaves behind.
    fn state_hash(&self, done: bool) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.segment.snapshot().hash(&mut hasher);
        for note in &self.control.notes {
            note.load(Relaxed).hash(&mut hasher);
        }
        done.hash(&mut hasher);
        hasher.finish()
    }

    fn points(&self) -> Vec<Point> {
        let is_edge = |step: usize| {
            let changes = |a: usize, b: usize| self.walk.get(a) != self.walk.get(b);
            step == 0
                || step + 1 >= self.walk.len()
                || changes(step, step - 1)
                || changes(step, step + 1)
                || crate::tracee::instruction(self.trace[step - 1])[..2] == [0x0f, 0x05]
        };
        let steps = (0..=self.report.instructions)
            .filter(|step| !self.config.edges_only || is_edge(*step as usize))
            .map(|step| Point {
                step,
                asleep: false,
            });
        let sleeps = self.report.sleeps.iter();
        steps
            .chain(sleeps.map(|step| Point {
                step: *step,
                asleep: true,
            }))
            .collect()
    }

    /// A fresh run, with the victim at `point`.
    fn bring(&self, point: Point) -> Result<Run, String> {
        let mut run = self.begin()?;
        let (target, asleep) = if point.asleep {
            (point.step + 1, Some(point.step))
        } else {
            (point.step, None)
        };
        let patience = self.config.patience;
        let at = run
            .victim
            .advance(target, asleep, &mut self.waker(), patience, &mut |_, _| ());
        match at {
            At::Here | At::Done | At::Asleep => Ok(run),
            other => Err(format!("the victim does not come this far: {other:?}")),
        }
    }

    /// The victim is dead: recovery, the others' ends, and the check.
    fn aftermath(
        &self,
        mut run: Run,
        rival: Option<(usize, Forked)>,
        mode: Mode,
        before: &[u8],
    ) -> Result<&'static str, String> {
        if self.subject.has_recovery() && mode != Mode::RecovererKilled {
            self.child(Role::Recoverer, |env| {
                self.subject.recover(env, Role::Victim);
                Ok(0)
            })?;
        }
        self.control.tell_dead();
        let end = |mut forked: Forked, role: Role| match forked.wait(self.config.patience) {
            None => Err(format!(
                "{role:?} is blocked for ever: {}",
                whereabouts(forked.pid)
            )),
            Some(0) => Ok(self.control.results[role as usize].load(Relaxed)),
            Some(status) => Err(format!("{role:?} died: wait status {status:#x}")),
        };
        let helper = run
            .helper
            .take()
            .map(|h| end(h, Role::Helper))
            .transpose()?;
        let rival = match rival {
            Some((which, forked)) => Some((which, end(forked, Role::Rival)?)),
            None => None,
        };
        let outcome = Outcome {
            mode,
            step: run.victim.steps,
            completed: run.victim.done,
            result: run.victim.result,
            before,
            helper,
            rival,
        };
        // The fate travels as the address of its static text: all processes are one image.
        let fate = self.child(Role::Checker, |env| {
            self.subject.check(env, &outcome).map(|fate| {
                self.control.notes[15].store(fate.len() as u64, Relaxed);
                fate.as_ptr() as u64
            })
        })?;
        let len = self.control.notes[15].load(Relaxed) as usize;
        // SAFETY: address and length of a `&'static str` in the checker, a fork of us.
        let bytes = unsafe { std::slice::from_raw_parts(fate as *const u8, len) };
        std::str::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn violation(
        &mut self,
        mode: Mode,
        rival: Option<&'static str>,
        step: u64,
        recoverer_step: Option<u64>,
        message: String,
    ) {
        let at = match self.trace.get((step as usize).wrapping_sub(1)) {
            Some(address) => symbol::of(*address),
            None => "the start".to_owned(),
        };
        self.report.violations.push(Violation {
            mode,
            rival,
            step,
            recoverer_step,
            at,
            message,
        });
    }

    fn too_many(&self, since: usize) -> bool {
        self.report.violations.len() - since >= self.config.max_violations
    }

    // ---- modes

    fn kill_everywhere(&mut self) {
        let since = self.report.violations.len();
        let mut kills = 0;
        let mut seen: HashMap<u64, ()> = HashMap::new();
        let mut last_fate = None;
        for point in self.points() {
            let result = self.bring(point).and_then(|mut run| {
                let hash = self.state_hash(run.victim.done);
                let before = self.segment.snapshot();
                run.victim.kill();
                kills += 1;
                if seen.insert(hash, ()).is_none() && !point.asleep {
                    self.crash_states.push(point.step);
                }
                self.aftermath(run, None, Mode::Kill, &before)
            });
            match result {
                Ok(fate) if !point.asleep && last_fate != Some(fate) => {
                    last_fate = Some(fate);
                    let at = match point.step {
                        0 => "the start".to_owned(),
                        step => symbol::of(self.trace[step as usize - 1]),
                    };
                    self.report.fates.push((point.step, fate.to_owned(), at));
                }
                Ok(_) => {}
                Err(message) => {
                    let message = match point.asleep {
                        true => format!("(killed asleep) {message}"),
                        false => message,
                    };
                    self.violation(Mode::Kill, None, point.step, None, message);
                    if self.too_many(since) {
                        break;
                    }
                }
            }
        }
        self.report.states = seen.len();
        self.report.kills.push(("kill".to_owned(), kills));
    }

    fn preempt_everywhere(&mut self, mode: Mode) {
        for (which, name) in self.subject.rivals().iter().enumerate() {
            let since = self.report.violations.len();
            let mut kills = 0;
            let mut stalls = Vec::new();
            for point in self.points() {
                let result = self.preempt(which, point, mode, &mut stalls);
                kills += 1;
                if let Err(message) = result {
                    self.violation(mode, Some(name), point.step, None, message);
                    if self.too_many(since) {
                        break;
                    }
                }
            }
            let how = if mode == Mode::Preempt {
                "preempt by"
            } else {
                "preempt and kill by"
            };
            if !stalls.is_empty() {
                self.report.stalls.push(((*name).to_owned(), stalls));
            }
            self.report.kills.push((format!("{how} {name}"), kills));
        }
    }

    fn preempt(
        &self,
        which: usize,
        point: Point,
        mode: Mode,
        stalls: &mut Vec<u64>,
    ) -> Result<(), String> {
        let mut run = self.bring(point)?;
        let rival = self.start_role(Role::Rival, |env| self.subject.rival(env, which));
        let progress = self.settle(rival.pid, Role::Rival);
        let refused =
            progress == DONE && self.control.results[Role::Rival as usize].load(Relaxed) == STALLED;
        if progress == 0 || refused {
            if !point.asleep {
                stalls.push(point.step);
            }
            if !self.subject.rival_may_stall(which) {
                let how = if refused { "refused" } else { "blocked" };
                return Err(format!("{how} while the victim stands still"));
            }
        }
        if mode == Mode::Preempt {
            match run.victim.finish(&mut self.waker(), self.config.patience) {
                At::Done => {}
                other => {
                    let place = whereabouts_of(&run.victim);
                    return Err(format!("let go on, the victim ends in {other:?} {place}"));
                }
            }
        }
        let before = self.segment.snapshot();
        run.victim.kill();
        self.aftermath(run, Some((which, rival)), mode, &before)
            .map(drop)
    }
}

fn whereabouts_of(victim: &Tracee) -> String {
    format!("(state {})", char::from(state(victim.pid())))
}
