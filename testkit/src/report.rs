//! What a sweep found.

use std::fmt;
use std::time::Duration;

use crate::sweep::Mode;

/// A run after which something was wrong.
#[derive(Debug, Clone)]
pub struct Violation {
    /// How the victim was treated.
    pub mode: Mode,
    /// The rival that ran meanwhile.
    pub rival: Option<&'static str>,
    /// Instructions the victim had executed.
    pub step: u64,
    /// Instructions the recoverer had executed when it was killed.
    pub recoverer_step: Option<u64>,
    /// The instruction before the kill: function, file, line.
    pub at: String,
    /// What was wrong.
    pub message: String,
}

/// What a sweep did and found. Print it: it names the lines.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// The subject.
    pub name: String,
    /// Why nothing was done: ptrace is forbidden here, or another architecture.
    pub skipped: Option<String>,
    /// Instructions of the undisturbed operation.
    pub instructions: u64,
    /// Points at which the operation sleeps in the kernel.
    pub sleeps: Vec<u64>,
    /// Distinct states of the segment over all kill points.
    pub states: usize,
    /// Kills in each mode.
    pub kills: Vec<(String, u64)>,
    /// From which step on a kill has which consequence, and the instruction that makes it so.
    pub fates: Vec<(u64, String, String)>,
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// Steps at which rivals could not make progress.
    pub stalls: Vec<(String, Vec<u64>)>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// All kills together.
    pub fn kill_count(&self) -> u64 {
        self.kills.iter().map(|(_, count)| count).sum()
    }

    /// Prints the report.
    ///
    /// # Panics
    ///
    /// If something was wrong. Not if the sweep was skipped: that prints a line.
    pub fn assert_ok(&self) {
        println!("{self}");
        assert!(self.violations.is_empty(), "{self}");
    }

    /// Prints the report.
    ///
    /// # Panics
    ///
    /// If no violation's message contains `needle`: the broken variant was not caught. Not if
    /// the sweep was skipped.
    pub fn assert_caught(&self, needle: &str) {
        println!("{self}");
        if self.skipped.is_none() {
            let caught = self.violations.iter().any(|v| v.message.contains(needle));
            assert!(caught, "not caught ({needle:?}): {self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.skipped {
            return write!(f, "SKIPPED: sweep {}: {why}", self.name);
        }
        writeln!(
            f,
            "{}: {} instructions, {} states, {} sleep(s), {} kills, {:.1} s: {}",
            self.name,
            self.instructions,
            self.states,
            self.sleeps.len(),
            self.kill_count(),
            self.elapsed.as_secs_f64(),
            match self.violations.len() {
                0 => "ok".to_owned(),
                count => format!("{count} VIOLATIONS"),
            }
        )?;
        for (mode, count) in &self.kills {
            writeln!(f, "    {mode}: {count} kills")?;
        }
        for (step, fate, at) in &self.fates {
            writeln!(f, "    from step {step}: {fate}, after {at}")?;
        }
        for (who, steps) in &self.stalls {
            writeln!(
                f,
                "    {who} cannot go on while the victim stands at {}",
                ranges(steps)
            )?;
        }
        for violation in self.violations.iter().take(8) {
            write!(f, "    FAIL {:?}", violation.mode)?;
            if let Some(rival) = violation.rival {
                write!(f, " ({rival})")?;
            }
            write!(f, " at step {}", violation.step)?;
            if let Some(step) = violation.recoverer_step {
                write!(f, ", recoverer at {step}")?;
            }
            writeln!(
                f,
                ": {}\n         after {}",
                violation.message, violation.at
            )?;
        }
        Ok(())
    }
}

/// `1-3,7`.
fn ranges(steps: &[u64]) -> String {
    let mut text = String::new();
    let mut i = 0;
    while i < steps.len() {
        let first = steps[i];
        while i + 1 < steps.len() && steps[i + 1] == steps[i] + 1 {
            i += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text += &first.to_string();
        if steps[i] > first {
            text += &format!("-{}", steps[i]);
        }
        i += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_are_short() {
        assert_eq!(super::ranges(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        assert_eq!(super::ranges(&[]), "");
    }
}
