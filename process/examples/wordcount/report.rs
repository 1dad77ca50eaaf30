//! What the user sees.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::coordinator::Counted;
use super::count::{Totals, count_file};
use super::hash::Seeded;
use super::table::Table;

const TOP: usize = 20;

/// A line on stderr. If it cannot be written there is nobody left to tell.
pub(crate) fn complain(what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "wordcount: {what}");
}

/// Prints the top words, totals, shares and speed.
pub(crate) fn print(out: &mut impl Write, counted: &Counted) -> io::Result<()> {
    let Counted {
        table,
        totals,
        shares,
        elapsed,
        ..
    } = counted;
    let mut words: Vec<(&str, u64)> = table.iter().collect();
    // By count, then alphabetically: the same list whatever the order of counting was.
    let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then(a.0.cmp(b.0));
    if words.len() > TOP {
        words.select_nth_unstable_by(TOP, order);
        words.truncate(TOP);
    }
    words.sort_unstable_by(order);
    for (word, count) in words {
        writeln!(out, "{count:>12}  {word}")?;
    }
    writeln!(
        out,
        "{} words ({} different) in {} files, {} bytes; {} not UTF-8, {} unreadable",
        totals.words,
        table.len(),
        totals.files,
        totals.bytes,
        totals.not_utf8,
        totals.unreadable
    )?;
    for share in shares {
        writeln!(
            out,
            "worker {}: {} files, {:.1} % of the bytes, {:.2} s of CPU",
            share.number,
            share.totals.files,
            percent(share.totals.bytes, totals.bytes),
            share.busy.as_secs_f64()
        )?;
    }
    writeln!(
        out,
        "{:.2} s, {:.1} MB/s",
        elapsed.as_secs_f64(),
        rate(totals.bytes, *elapsed)
    )
}

/// Says who has died; what they had in hand was counted by others.
pub(crate) fn mourn(counted: &Counted) {
    for obituary in &counted.obituaries {
        complain(format_args!("{obituary}; others have done its work"));
    }
    if counted.killed > 0 {
        complain(format_args!(
            "chaos: {} workers killed, {} answers came twice",
            counted.killed, counted.repeated
        ));
    }
}

/// Counts again in this process alone. `true` if everything agrees.
pub(crate) fn verify(
    out: &mut impl Write,
    counted: &Counted,
    files: &[PathBuf],
) -> io::Result<bool> {
    let start = Instant::now();
    let mut table = Table::new(Seeded::default());
    let (mut totals, mut buffer) = (Totals::default(), Vec::new());
    for file in files {
        totals.add(&count_file(file, &mut table, &mut buffer));
    }
    let alone = start.elapsed();
    writeln!(
        out,
        "one process: {:.2} s, {:.1} MB/s; the workers were {:.2} times as fast",
        alone.as_secs_f64(),
        rate(totals.bytes, alone),
        ratio(alone, counted.elapsed)
    )?;
    let agrees = totals == counted.totals && table == counted.table;
    if agrees {
        writeln!(
            out,
            "verified: all totals and all {} counts agree",
            table.len()
        )?;
    } else {
        complain(format_args!(
            "one process counted {totals:?} and {} different words, the workers {:?} and {}",
            table.len(),
            counted.totals,
            counted.table.len()
        ));
    }
    Ok(agrees)
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(1e-9)
}
