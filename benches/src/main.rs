//! Ours and the peer's, side by side: `cargo run --release -p multiprocess-benches -- [FILTER]`.
//!
//! One tab-separated line per comparison on stdout: name, ours, peer, unit, advantage, min,
//! max, bar, `ok` or `short`. Everything else goes to stderr. `benches/README.md` is the
//! design document: method, what each line compares, how to add one.

mod boost;
mod clock;
mod comparison;
mod cpu;
mod floor;
mod lines;
mod make;
mod plot;
mod program;
mod report;
mod run;
mod stage;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use comparison::{Contender, Failure, Side};
use cpu::Cpus;

/// Runs ours and the peer alternately and prints one tab-separated line per comparison.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    /// Only comparisons whose name contains this.
    filter: Option<String>,
    /// Exit with 1 if a comparison falls short of its bar, with 2 if one could not be measured.
    #[arg(long)]
    check: bool,
    /// Repetitions to keep per comparison.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Draw the result.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Name the comparisons and measure nothing.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    internal: Option<Internal>,
}

#[derive(Subcommand)]
enum Internal {
    /// The second process of a pair, or one of three; the shared memory is its standard input.
    #[command(name = "__far", hide = true)]
    Far {
        name: String,
        side: Side,
        cpus: Cpus,
        seat: u16,
    },
}

fn main() -> ExitCode {
    multiprocess::init(); // children of `process/*` start here
    let cli = Cli::parse();
    let done = match &cli.internal {
        Some(Internal::Far {
            name,
            side,
            cpus,
            seat,
        }) => far(name, *side, *cpus, *seat),
        None if cli.list => {
            lines::ALL.iter().for_each(|line| println!("{}", line.name));
            Ok(ExitCode::SUCCESS)
        }
        None => compare(&cli),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn compare(cli: &Cli) -> Result<ExitCode, Failure> {
    let mut chosen: Vec<_> = lines::ALL
        .iter()
        .copied()
        .filter(|line| {
            line.name
                .contains(cli.filter.as_deref().unwrap_or_default())
        })
        .collect();
    if chosen.is_empty() {
        let filter = cli.filter.as_deref().unwrap_or_default();
        return Err(format!("no comparison's name contains {filter:?}: see --list").into());
    }
    let Some(cpus) = Cpus::allowed()? else {
        eprintln!("skipped: this process may run on one CPU only, and a comparison needs two");
        return Ok(ExitCode::SUCCESS);
    };
    if chosen.iter().any(|line| line.needs_boost())
        && let Err(why) = boost::compiler()
    {
        eprintln!("boost: skipped, {why}");
        chosen.retain(|line| !line.needs_boost());
    }
    cpu::pin_near(cpus)?;
    let mut report = report::Report::new();
    for line in chosen {
        report.add(line, run::compare(line, cpus, cli.reps as usize));
    }
    if let Some(file) = &cli.plot {
        report.plot(file)?;
    }
    Ok(if cli.check {
        report.verdict()
    } else {
        ExitCode::SUCCESS
    })
}

fn far(name: &str, side: Side, cpus: Cpus, seat: u16) -> Result<ExitCode, Failure> {
    stage::die_with_parent()?;
    let contender = if name == floor::NAME {
        &floor::LINE
    } else {
        let line = lines::ALL.iter().find(|line| line.name == name);
        line.ok_or_else(|| format!("no comparison {name}"))?
            .contender(side)
    };
    let (parties, part) = match contender {
        Contender::Pair(pair) => (2, pair.far),
        Contender::Four(four) if seat == stage::BESIDE => (4, four.beside),
        Contender::Four(four) => (4, four.far),
        _ => return Err(format!("{name} {side} has no second process").into()),
    };
    if parties == 4 && seat == stage::BESIDE {
        cpu::pin_near(cpus)?;
    } else {
        cpu::pin_far(cpus)?;
    }
    part(&stage::Stage::from_stdin(parties, seat)?)?;
    Ok(ExitCode::SUCCESS)
}
