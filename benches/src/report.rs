//! Lines, notes and the verdict.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::comparison::{Comparison, Failure};
use crate::plot;
use crate::run::{Outcome, Unmeasured};

/// What was compared so far.
pub(crate) struct Report {
    measured: Vec<(&'static Comparison, Outcome)>,
    unmeasured: usize,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            measured: Vec::new(),
            unmeasured: 0,
        }
    }

    /// Prints the line, or why there is none.
    pub(crate) fn add(&mut self, line: &'static Comparison, result: Result<Outcome, Unmeasured>) {
        let name = line.name;
        match result {
            Ok(outcome) => {
                note(name, &outcome);
                println!("{}", columns(line, &outcome));
                let _ = io::stdout().flush();
                self.measured.push((line, outcome));
            }
            // Not a fault of ours: a peer is optional.
            Err(Unmeasured::Absent(why)) => eprintln!("# {name}: skipped: {why}"),
            Err(Unmeasured::Unsteady { counted, dropped }) => {
                eprintln!(
                    "# {name}: not measured: the machine is too restless \
                     ({counted} repetitions of one kind, {dropped} others)"
                );
                self.unmeasured += 1;
            }
            Err(Unmeasured::Failed(why)) => {
                eprintln!("# {name}: not measured: {why}");
                self.unmeasured += 1;
            }
        }
    }

    pub(crate) fn plot(&self, file: &Path) -> Result<(), Failure> {
        plot::draw(file, &self.measured)
    }

    /// 1 if a line falls short of its bar, 2 if one could not be measured.
    pub(crate) fn verdict(&self) -> ExitCode {
        let is_short = |(line, outcome): &(&Comparison, Outcome)| !reaches(line, outcome);
        if self.measured.iter().any(is_short) {
            ExitCode::from(1)
        } else if self.unmeasured > 0 {
            ExitCode::from(2)
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// Whether the median reaches the bar.
pub(crate) fn reaches(line: &Comparison, outcome: &Outcome) -> bool {
    outcome.advantage >= line.bar
}

fn columns(line: &Comparison, outcome: &Outcome) -> String {
    let Comparison {
        name, unit, bar, ..
    } = line;
    let Outcome {
        ours,
        peer,
        advantage,
        min,
        max,
        ..
    } = outcome;
    let unit = unit.label();
    let verdict = if reaches(line, outcome) {
        "ok"
    } else {
        "short"
    };
    format!(
        "{name}\t{ours:.2}\t{peer:.2}\t{unit}\t{advantage:.2}\t{min:.2}\t{max:.2}\t{bar:.2}\t{verdict}"
    )
}

fn note(name: &str, outcome: &Outcome) {
    let Outcome {
        placement,
        floor,
        counted,
        other_bin,
        dropped,
        ..
    } = outcome;
    eprintln!(
        "# {name}: {placement}, floor {floor:.0} ns, {counted} repetitions; left out: \
         {other_bin} at the other distance, {dropped} unsteady"
    );
}
