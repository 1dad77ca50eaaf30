//! The shared memory that the two processes of a pair, or four, meet in.

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

use crate::comparison::{Failure, Measured, Side};
use crate::cpu::Cpus;

#[derive(ShmSafe)]
#[repr(C)]
struct Control {
    /// Arrivals at `meet`; all processes.
    arrived: CachePadded<AtomicU32>,
    /// The near process wants no more; near process.
    stopped: CachePadded<AtomicU32>,
}

/// Of four, the seat of the one that shares the near CPU; of two, that of the far one.
pub(crate) const BESIDE: u16 = 1;

/// Shared bytes, carved into pieces by all processes in the same order.
pub(crate) struct Stage {
    mapping: Mapping,
    parties: u16,
    seat: u16,
    carved: Cell<usize>,
    met: Cell<u32>,
}

impl Stage {
    fn over(mapping: Mapping, parties: u16, seat: u16) -> Self {
        Self {
            mapping,
            parties,
            seat,
            carved: Cell::new(size_of::<Control>()),
            met: Cell::new(0),
        }
    }

    fn create(bytes: usize, parties: u16) -> Result<Self, Failure> {
        // Every piece may lose up to 127 bytes to alignment.
        let size = size_of::<Control>() + bytes + 4096;
        let mapping = Mapping::anonymous(c"benches", size as u64)?;
        Ok(Self::over(mapping, parties, 0))
    }

    /// The stage that the near process passed on.
    pub(crate) fn from_stdin(parties: u16, seat: u16) -> Result<Self, Failure> {
        let file = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self::over(Mapping::attach(file)?, parties, seat))
    }

    /// Which of the processes this is: 0 measures.
    pub(crate) fn seat(&self) -> u16 {
        self.seat
    }

    /// The next piece, aligned to 128 bytes. Zeroed unless the other process has written.
    ///
    /// # Panics
    ///
    /// If the stage was made too small.
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

    /// Waits for the other processes to come to the same call.
    pub(crate) fn meet(&self) {
        let round = self.met.get() + 1;
        self.met.set(round);
        let arrived = &self.control().arrived;
        // What each wrote before the meeting is seen by the others after it.
        arrived.fetch_add(1, AcqRel);
        while arrived.load(Acquire) < u32::from(self.parties) * round {
            std::thread::yield_now();
        }
    }

    /// Tells the others that the near process has seen enough.
    pub(crate) fn stop(&self) {
        self.control().stopped.store(1, Relaxed);
    }

    /// Whether the near process has seen enough.
    pub(crate) fn is_stopped(&self) -> bool {
        self.control().stopped.load(Relaxed) != 0
    }
}

/// Starts the others of `parties` processes, and runs the near part here.
pub(crate) fn measure(
    parties: u16,
    bytes: usize,
    near: fn(&Stage) -> Measured,
    name: &str,
    side: Side,
    cpus: Cpus,
) -> Measured {
    let stage = Stage::create(bytes, parties)?;
    let mut others = Vec::new();
    for seat in 1..parties {
        let other = Command::new("/proc/self/exe")
            .args(["__far", name, &side.to_string(), &cpus.to_string()])
            .arg(seat.to_string())
            .stdin(Stdio::from(stage.mapping.as_fd().try_clone_to_owned()?))
            .stdout(Stdio::null())
            .spawn()?;
        others.push(Other(other));
    }
    let measured = near(&stage)?;
    for mut other in others {
        let status = other.0.wait()?;
        if !status.success() {
            return Err(format!("another process ended with {status}").into());
        }
    }
    Ok(measured)
}

/// Another process; ended if the near part fails.
struct Other(Child);

impl Drop for Other {
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
