//! What the processes of one run share beside the segment under test: results, notes, signals.
//! No part of the state that is killed.

use std::cell::UnsafeCell;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Who a process is in a run; also its participant number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// Executes the operation instruction by instruction, and is killed.
    Victim = 1,
    /// Runs a whole operation while the victim stands still.
    Rival = 2,
    /// Runs beside the victim: a peer that sleeps, a holder that releases.
    Helper = 3,
    /// Cleans up after the victim.
    Recoverer = 4,
    /// Cleans up after victim and recoverer.
    SecondRecoverer = 5,
    /// Judges what is left.
    Checker = 6,
    /// Prepares the segment; the test process itself.
    Setup = 7,
}

/// Returned by a rival that could not make progress but was not blocked either.
pub const STALLED: u64 = u64::MAX;

const MESSAGE: usize = 1024;

/// A role's progress, as the harness sees it.
// | value | meaning | who enters |
// |---|---|---|
// | 0 | started | harness |
// | WAITING | the helper waits to be told, the rival stands inside | the role |
// | DONE | finished, result stored | the role |
// | SETTLED | the helper has done its part after it was told | the role |
pub(crate) const WAITING: u32 = 1;
pub(crate) const DONE: u32 = 2;
pub(crate) const SETTLED: u32 = 4;

/// Shared by all processes of a run; zeroed before each.
#[derive(Debug)]
#[repr(C)]
pub struct Control {
    /// For the subject, as it likes; the last one is the harness's.
    pub notes: [AtomicU64; 16],
    pub(crate) progress: [AtomicU32; 8],
    pub(crate) results: [AtomicU64; 8],
    go: AtomicU32,
    dead: AtomicU32,
    message_len: AtomicU32,
    /// Written by the one process that fails, read by the harness after it has ended.
    message: UnsafeCell<[u8; MESSAGE]>,
}

// SAFETY: all fields are atomics but `message`, whose writer has ended before it is read.
unsafe impl Sync for Control {}

impl Control {
    pub(crate) fn reset(&self) {
        self.notes.iter().for_each(|note| note.store(0, Relaxed));
        self.progress.iter().for_each(|p| p.store(0, Relaxed));
        self.results.iter().for_each(|r| r.store(0, Relaxed));
        for word in [&self.go, &self.dead, &self.message_len] {
            word.store(0, Relaxed);
        }
    }

    /// Whether the victim has been killed.
    pub fn victim_is_dead(&self) -> bool {
        self.dead.load(Acquire) != 0
    }

    /// How often the harness asked the helper to wake the sleeping victim.
    pub fn wakes(&self) -> u32 {
        self.go.load(Acquire)
    }

    /// For a rival: "I stand inside and stay until the victim sleeps, ended or is dead".
    pub fn rival_stands_inside(&self) {
        self.progress[Role::Rival as usize].store(WAITING, Release);
        while self.go.load(Acquire) == 0 {
            crate::process::pause();
        }
    }

    /// For a helper: "what I do when told to go is done".
    pub fn helper_has_settled(&self) {
        self.progress[Role::Helper as usize].store(SETTLED, Release);
    }

    /// Whether the helper has returned.
    pub fn helper_has_returned(&self) -> bool {
        self.progress[Role::Helper as usize].load(Acquire) == DONE
    }

    pub(crate) fn wait_for_go(&self) {
        self.progress[Role::Helper as usize].store(WAITING, Release);
        while self.go.load(Acquire) == 0 {
            crate::process::pause();
        }
    }

    pub(crate) fn tell_go(&self) {
        self.go.fetch_add(1, Release);
    }

    pub(crate) fn tell_dead(&self) {
        self.dead.store(1, Release);
        self.go.fetch_add(1 << 20, Release);
    }

    pub(crate) fn finish(&self, role: Role, result: u64) {
        self.results[role as usize].store(result, Relaxed);
        self.progress[role as usize].store(DONE, Release);
    }

    pub(crate) fn fail(&self, message: &str) {
        let bytes = &message.as_bytes()[..message.len().min(MESSAGE)];
        // SAFETY: one process fails at a time, and the harness reads only after it has ended.
        unsafe { (&mut *self.message.get())[..bytes.len()].copy_from_slice(bytes) };
        self.message_len.store(bytes.len() as u32, Release);
    }

    pub(crate) fn message(&self) -> String {
        let len = self.message_len.load(Acquire) as usize;
        // SAFETY: as in `fail`.
        String::from_utf8_lossy(unsafe { &(&*self.message.get())[..len] }).into_owned()
    }
}

/// What a role works with.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The segment under test. At another address for everybody but the victim and setup, so
    /// that a pointer stored in it is found out.
    pub segment: *mut u8,
    /// Shared by all processes of the run.
    pub control: &'a Control,
    /// Who this process is.
    pub role: Role,
}

impl Env<'_> {
    /// A number for this process: what a lock or slot is stamped with.
    pub fn participant(&self) -> u16 {
        self.role as u16
    }
}
