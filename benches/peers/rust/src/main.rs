//! Peers in Rust with dependencies of their own, between two processes.
//!
//! usage: `multiprocess-peers NEAR_CPU FAR_CPU MILLISECONDS WHAT`, where WHAT is
//! `iceoryx2/8B/throughput`, `iceoryx2/64B/throughput`, `ipc-channel/64B/throughput` (M/s),
//! `iceoryx2/8B/rtt`, or `procspawn/start` (ns). Protocol: `benches/src/program.rs`.
//!
//! The far process is this program once more, with `far NAME` behind the same arguments: what the
//! near one made is found under NAME. It ends when its standard input does: the near one has seen enough,
//! or is gone.

#[path = "../../../src/clock.rs"]
#[allow(dead_code)]
mod clock;
mod iceoryx;
mod ipc;
mod start;

use std::env;
use std::error::Error;
use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

type Measured = Result<f64, Box<dyn Error>>;

/// Messages between two stamps of a stream.
const CHUNK: usize = 8192;

struct Arguments {
    all: Vec<String>,
    span: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    // Processes that procspawn has started end in here.
    procspawn::init();
    let all: Vec<String> = env::args().skip(1).collect();
    let [near, far, milliseconds, what, rest @ ..] = &all[..] else {
        return Err("usage: multiprocess-peers NEAR_CPU FAR_CPU MILLISECONDS WHAT".into());
    };
    if let [role, name] = rest {
        if role != "far" {
            return Err(format!("unknown role {role}").into());
        }
        pin(far)?;
        thread::spawn(watch_input);
        return match &what[..] {
            "iceoryx2/8B/throughput" => iceoryx::feed::<1>(name),
            "iceoryx2/64B/throughput" => iceoryx::feed::<8>(name),
            "iceoryx2/8B/rtt" => iceoryx::echo(name),
            "ipc-channel/64B/throughput" => ipc::feed(name),
            _ => Err(format!("unknown comparison {what}").into()),
        };
    }
    pin(near)?;
    let span = Duration::from_millis(milliseconds.parse()?);
    let what = what.clone();
    let arguments = Arguments { all, span };
    let result = match &what[..] {
        "iceoryx2/8B/throughput" => iceoryx::drain::<1>(&arguments),
        "iceoryx2/64B/throughput" => iceoryx::drain::<8>(&arguments),
        "iceoryx2/8B/rtt" => iceoryx::rounds(&arguments),
        "ipc-channel/64B/throughput" => ipc::drain(&arguments),
        "procspawn/start" => start::starts(&arguments),
        _ => Err(format!("unknown comparison {what}").into()),
    };
    println!("{:.4}", result?);
    Ok(())
}

fn pin(cpu: &str) -> Result<(), Box<dyn Error>> {
    let mut one = CpuSet::new();
    one.set(cpu.parse()?);
    Ok(sched_setaffinity(None, &one)?)
}

/// Of the far process: the near one has seen enough.
static STOPPED: AtomicBool = AtomicBool::new(false);

fn is_stopped() -> bool {
    STOPPED.load(Relaxed)
}

fn watch_input() {
    // The end and an error mean the same.
    let _ = io::stdin().read(&mut [0]);
    STOPPED.store(true, Relaxed);
    // Whoever hangs in a call has had its time.
    thread::sleep(Duration::from_secs(5));
    std::process::exit(4);
}

/// The far process, as the near one sees it.
struct Far(Child);

impl Far {
    fn start(arguments: &Arguments, name: &str) -> io::Result<Self> {
        let mut far = Command::new("/proc/self/exe");
        far.args(&arguments.all).args(["far", name]);
        Ok(Self(
            far.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?,
        ))
    }

    /// Lets it end, `meanwhile` taking what it still sends.
    fn end(mut self, mut meanwhile: impl FnMut()) -> Result<(), Box<dyn Error>> {
        drop(self.0.stdin.take());
        loop {
            match self.0.try_wait()? {
                None => meanwhile(),
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the far process ended with {status}").into()),
            }
        }
    }
}

/// A name of this run's own.
fn unique() -> String {
    format!("multiprocess-peers-{}", std::process::id())
}
