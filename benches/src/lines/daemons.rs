//! `process/daemons-gone/...`: a process is killed with SIGKILL; how long until all its daemons have
//! ended. The peer is the promise: a tenth of a second.

use std::thread;
use std::time::{Duration, Instant};

use multiprocess::{Context, Process, RawArray, StartMethod};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::comparison::{Comparison, Contender, Failure, Measured, Unit};
use crate::cpu::Cpus;

pub(crate) const ALL: [Comparison; 2] = [
    line("process/daemons-gone/forkserver", |_| {
        gone(StartMethod::Forkserver)
    }),
    line("process/daemons-gone/spawn", |_| gone(StartMethod::Spawn)),
];

const fn line(name: &'static str, ours: fn(Cpus) -> Measured) -> Comparison {
    Comparison {
        name,
        unit: Unit::Nanoseconds,
        bar: 1.0,
        ours: Contender::Alone(ours),
        peer: Contender::Alone(promise),
    }
}

const DAEMONS: usize = 4;

fn promise(_: Cpus) -> Measured {
    Ok(Duration::from_millis(100).as_nanos() as f64)
}

fn gone(method: StartMethod) -> Measured {
    // Each daemon's pid, once it runs.
    let pids = RawArray::<u64>::zeroed(DAEMONS)?;
    let parent = Context::spawn_exec()
        .daemon(true)
        .spawn(employ, (method.to_string(), pids.clone()))?;
    let mut daemons = Vec::new();
    while daemons.len() < DAEMONS {
        match pids.get(daemons.len()) {
            Some(pid) if pid != 0 => {
                let pid = Pid::from_raw(pid as i32).ok_or("no pid")?;
                daemons.push(pidfd_open(pid, PidfdFlags::empty())?);
            }
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
    let start = Instant::now();
    parent.kill()?;
    for daemon in &daemons {
        // Readable when it has ended.
        poll(&mut [PollFd::new(daemon, PollFlags::IN)], None)?;
    }
    let time = start.elapsed();
    match parent.join() {
        Err(_) => Ok(time.as_nanos() as f64),
        Ok(()) => Err("the parent has ended by itself".into()),
    }
}

/// The parent: starts its daemons and waits for its end.
fn employ((method, pids): (String, RawArray<u64>)) {
    let employed = method
        .parse()
        .map_err(Failure::from)
        .and_then(|method| Ok(Context::new(method)?.daemon(true)))
        .and_then(|context| {
            (0..DAEMONS)
                .map(|at| Ok(context.spawn(stay, (at as u64, pids.clone()))?))
                .collect::<Result<Vec<Process<()>>, Failure>>()
        });
    let _daemons = employed.expect("daemons start");
    wait()
}

fn stay((at, pids): (u64, RawArray<u64>)) {
    let _ = pids.set(at as usize, u64::from(std::process::id()));
    wait()
}

fn wait() -> ! {
    loop {
        thread::park();
    }
}
