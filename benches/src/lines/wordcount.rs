//! `process/wordcount`: the example `wordcount` with two workers, against the same counting in one
//! process.
//!
//! Both count the Rust sources in cargo's registry (what building this has put there), from the
//! list of files to one table of all words, by the same function. Ours has its processes to start,
//! and tables to send and to merge. Files come from the page cache.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use multiprocess::StartMethod;

use crate::comparison::{self, Comparison, Contender, Measured, Unit};
use crate::cpu::{self, Cpus};
use crate::program::Absent;

/// The example's modules, as they are.
#[path = "../../../process/examples/wordcount"]
#[expect(dead_code, reason = "some of it is for the example's `main`")]
mod example {
    pub(super) mod coordinator;
    pub(super) mod count;
    mod crew;
    mod failure;
    pub(super) mod hash;
    mod in_hand;
    mod ledger;
    mod message;
    pub(super) mod table;
    pub(super) mod walk;
    mod worker;

    use failure::Failure;
}

use example::coordinator::{self, Plan, Watch};
use example::count::{Totals, count_file};
use example::hash::Seeded;
use example::table::Table;
use example::walk;

pub(crate) const LINE: Comparison = Comparison {
    name: "process/wordcount",
    unit: Unit::MillionsPerSecond,
    bar: 1.7,
    ours: Contender::Alone(workers),
    peer: Contender::Alone(one_process),
};

/// Nobody looks on.
struct Nobody;

impl Watch for Nobody {
    fn at(&self, _: impl FnOnce() -> (u64, u64)) {}
    fn line(&self, _: &str) {}
}

/// The walk is not measured, and done once.
fn files() -> Result<&'static [PathBuf], comparison::Failure> {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    if let Some(files) = FILES.get() {
        return Ok(files);
    }
    let sources = walk::registry_sources().and_then(|directory| walk::walk(&directory, true));
    let found = sources.map_err(|why| Absent(format!("no sources to count: {why}")))?;
    Ok(FILES.get_or_init(|| found.files))
}

fn workers(cpus: Cpus) -> Measured {
    let files = files()?;
    let plan = Plan {
        workers: 2,
        method: StartMethod::Spawn,
        chaos: false,
    };
    // Children run where their parent may.
    cpu::unpin(cpus)?;
    let start = Instant::now();
    let counted = coordinator::count(files, &plan, &Nobody);
    let time = start.elapsed();
    cpu::pin_near(cpus)?;
    let counted = counted.map_err(|why| why.to_string())?;
    Ok(counted.totals.words as f64 / time.as_secs_f64() / 1e6)
}

fn one_process(_: Cpus) -> Measured {
    let files = files()?;
    let start = Instant::now();
    let mut table = Table::new(Seeded::default());
    let (mut totals, mut buffer) = (Totals::default(), Vec::new());
    for file in files {
        totals.add(&count_file(file, &mut table, &mut buffer));
    }
    let time = start.elapsed();
    Ok(totals.words as f64 / time.as_secs_f64() / 1e6)
}
