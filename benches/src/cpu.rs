//! Which two CPUs the sides of a comparison run on.

use std::fmt;
use std::str::FromStr;

use multiprocess_core::spin;
use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The near CPU (the comparing process) and the far CPU (a child, or a second thread).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) near: usize,
    pub(crate) far: usize,
}

impl Cpus {
    /// The first two CPUs this process may run on; `None` if there is only one.
    pub(crate) fn allowed() -> io::Result<Option<Self>> {
        let set = sched_getaffinity(None)?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
        Ok(allowed
            .next()
            .zip(allowed.next())
            .map(|(near, far)| Self { near, far }))
    }

    /// Of the process that was pinned by [`pin_near`]: what a second thread of it uses.
    fn both(self) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(self.near);
        set.set(self.far);
        set
    }
}

/// Pins the calling thread to the near CPU.
pub(crate) fn pin_near(cpus: Cpus) -> io::Result<()> {
    pin(cpus, cpus.near)
}

/// Pins the calling thread to the far CPU.
pub(crate) fn pin_far(cpus: Cpus) -> io::Result<()> {
    pin(cpus, cpus.far)
}

/// Lets the calling thread, and children that it starts, run on both CPUs.
pub(crate) fn unpin(cpus: Cpus) -> io::Result<()> {
    sched_setaffinity(None, &cpus.both())
}

fn pin(cpus: Cpus, cpu: usize) -> io::Result<()> {
    // The library asks once per process how many CPUs it may run on, to know whether spinning
    // can pay. Let it ask before this thread is down to one.
    sched_setaffinity(None, &cpus.both())?;
    let _ = spin::lock_budget();
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one)
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.near, self.far)
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(',')
            .and_then(|(near, far)| near.parse().ok().zip(far.parse().ok()));
        let (near, far) = parsed.ok_or("expected NEAR,FAR")?;
        Ok(Self { near, far })
    }
}
