//! The shared memory that the two processes of a pair meet in.

use std::alloc::Layout;
use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use multiprocess_core::{CachePadded, Memory, Region, ShmSafe};
use multiprocess_shm::Mapping;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::comparison::{Failure, Measured, Pair, Side};
use crate::cpu::Cpus;

#[derive(ShmSafe)]
#[repr(C)]
struct Control {
    /// Arrivals at `meet`; both processes.
    arrived: CachePadded<AtomicU32>,
    /// The near process wants no more; near process.
    stopped: CachePadded<AtomicU32>,
}

/// Shared bytes, carved into pieces by both processes in the same order.
pub(crate) struct Stage {
    mapping: Mapping,
    carved: Cell<usize>,
    met: Cell<u32>,
}

impl Stage {
    fn over(mapping: Mapping) -> Self {
        Self {
            mapping,
            carved: Cell::new(size_of::<Control>()),
            met: Cell::new(0),
        }
    }

    fn create(bytes: usize) -> Result<Self, Failure> {
        // Every piece may lose up to 127 bytes to alignment.
        let size = size_of::<Control>() + bytes + 4096;
        Ok(Self::over(Mapping::anonymous(c"benches", size as u64)?))
    }

    /// The stage that the near process passed on.
    pub(crate) fn from_stdin() -> Result<Self, Failure> {
        let file = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self::over(Mapping::attach(file)?))
    }

    /// The next piece, aligned to 128 bytes. Zeroed unless the other process has written.
    ///
    /// # Panics
    ///
    /// If [`Pair::bytes`] was too small.
    pub(crate) fn carve(&self, layout: Layout) -> Region<'_> {
        let start = self.carved.get().next_multiple_of(layout.align().max(128));
        let end = start + layout.size();
        let whole = self.mapping.region();
        assert!(end <= whole.len(), "the pair asked for too few bytes");
        self.carved.set(end);
        // SAFETY: inside the mapping, as checked, which lives as long as `self` is borrowed;
        // only what is attached to it accesses the piece, because it is handed out once.
        unsafe { Region::new(whole.base().add(start), layout.size()) }
    }

    /// The next piece as a `T`, zeroed at first.
    pub(crate) fn share<T: ShmSafe>(&self) -> &T {
        let bytes = self.carve(Layout::new::<T>());
        // SAFETY: as large as a T and aligned for it (128 is as much as a `CachePadded`
        // needs); a T accepts any bytes and is changed through its own atomics only.
        unsafe { bytes.base().cast::<T>().as_ref() }
    }

    fn control(&self) -> &Control {
        // SAFETY: every stage begins with a control block, on a page boundary; its fields are
        // atomics.
        unsafe { self.mapping.region().base().cast::<Control>().as_ref() }
    }

    /// Waits for the other process to come to the same call.
    pub(crate) fn meet(&self) {
        let round = self.met.get() + 1;
        self.met.set(round);
        let arrived = &self.control().arrived;
        // What either wrote before the meeting is seen by the other after it.
        arrived.fetch_add(1, AcqRel);
        while arrived.load(Acquire) < 2 * round {
            std::thread::yield_now();
        }
    }

    /// Tells the far process that the near one has seen enough.
    pub(crate) fn stop(&self) {
        self.control().stopped.store(1, Relaxed);
    }

    /// Whether the near process has seen enough.
    pub(crate) fn is_stopped(&self) -> bool {
        self.control().stopped.load(Relaxed) != 0
    }
}

/// Measures a pair: starts the far process, runs the near half here.
pub(crate) fn measure(pair: &Pair, name: &str, side: Side, cpus: Cpus) -> Measured {
    let stage = Stage::create(pair.bytes)?;
    let far = Command::new("/proc/self/exe")
        .args(["__far", name, &side.to_string(), &cpus.to_string()])
        .stdin(Stdio::from(stage.mapping.as_fd().try_clone_to_owned()?))
        .stdout(Stdio::null())
        .spawn()?;
    let mut far = Far(far);
    let measured = (pair.near)(&stage)?;
    let status = far.0.wait()?;
    if !status.success() {
        return Err(format!("the far process ended with {status}").into());
    }
    Ok(measured)
}

/// The far process; ended if the near half fails.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        // Both fail if it has been reaped already, as it should be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nothing that this program starts outlives it.
pub(crate) fn die_with_parent() -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
}
