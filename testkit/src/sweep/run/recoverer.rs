//! Killing the recoverer, too.

use std::collections::HashSet;

use super::{MAX_STEPS, Point, Run, Sweep};
use crate::control::Role;
use crate::sweep::Mode;
use crate::tracee::{At, Tracee};

impl Sweep<'_> {
    /// For each distinct crash state: the recoverer is killed at every instruction, or where it
    /// changes something, and another one cleans up after both.
    pub(super) fn kill_recoverers(&mut self) {
        if !self.subject.has_recovery() {
            return;
        }
        let since = self.report.violations.len();
        let mut kills = 0;
        for step in self.crash_states.clone() {
            kills += self
                .kill_recoverer_of(step)
                .unwrap_or_else(|(at, message)| {
                    self.violation(Mode::RecovererKilled, None, step, Some(at), message);
                    0
                });
            if self.too_many(since) {
                break;
            }
        }
        self.report
            .kills
            .push(("victim and recoverer".to_owned(), kills));
    }

    /// How many kills it took. The victim is killed at `step`.
    fn kill_recoverer_of(&self, step: u64) -> Result<u64, (u64, String)> {
        let mut states = HashSet::new();
        let mut kills = 0;
        let steps: Box<dyn Iterator<Item = u64>> = match self.config.edges_only {
            true => Box::new(
                self.recoverer_edges(step)
                    .map_err(|why| (0, why))?
                    .into_iter(),
            ),
            false => Box::new(0..),
        };
        for at in steps {
            let done = self.kill_recoverer(step, at, &mut states);
            kills += 2;
            if done.map_err(|why| (at, why))? {
                break;
            }
        }
        Ok(kills)
    }

    /// The victim dead, and a recoverer about to begin.
    fn bring_recoverer(&self, step: u64) -> Result<(Run, Vec<u8>, Tracee), String> {
        let mut run = self.bring(Point {
            step,
            asleep: false,
        })?;
        let before = self.segment.snapshot();
        run.victim.kill();
        let recoverer = Tracee::start(|| {
            let env = self.env(Role::Recoverer);
            Box::new(move || {
                self.subject.recover(&env, Role::Victim);
                0
            })
        })?;
        Ok((run, before, recoverer))
    }

    /// The steps of an undisturbed recovery before and after which the shared state differs, and its
    /// first and last.
    fn recoverer_edges(&self, step: u64) -> Result<Vec<u64>, String> {
        let (_run, _, mut recoverer) = self.bring_recoverer(step)?;
        let (mut edges, mut last) = (vec![0], None);
        let mut visit = |step: u64, _: u64| {
            let state = Some(self.state_hash(false));
            if last != state && step > 0 {
                edges.extend([step - 1, step]);
            }
            last = state;
        };
        let patience = self.config.patience;
        match recoverer.advance(MAX_STEPS, None, &mut || (), patience, &mut visit) {
            At::Done => {}
            other => return Err(format!("undisturbed, recovery ends in {other:?}")),
        }
        edges.push(recoverer.steps);
        edges.dedup();
        Ok(edges)
    }

    /// `true` once the recoverer has come to its end.
    fn kill_recoverer(
        &self,
        step: u64,
        recoverer_step: u64,
        states: &mut HashSet<u64>,
    ) -> Result<bool, String> {
        let (run, before, mut recoverer) = self.bring_recoverer(step)?;
        let patience = self.config.patience;
        let at = recoverer.advance(recoverer_step, None, &mut || (), patience, &mut |_, _| ());
        let done = at == At::Done;
        recoverer.kill();
        // A state that was judged before is judged alike.
        if states.insert(self.state_hash(done)) {
            self.child(Role::SecondRecoverer, |env| {
                self.subject.recover(env, Role::Victim);
                self.subject.recover(env, Role::Recoverer);
                Ok(0)
            })?;
            self.aftermath(run, None, Mode::RecovererKilled, &before)?;
        }
        match at {
            At::Here | At::Done => Ok(done),
            other => Err(format!("recovery ends in {other:?}")),
        }
    }
}
