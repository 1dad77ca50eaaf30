//! The thread that sleeps for all tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use multiprocess_core::park::{self, MAX_WAIT_ANY, Parked, WaitEntry};
use multiprocess_core::{Deadline, Errno};

use super::keep::Keep;

/// How long a word can stay unnoticed that is not among those of the present sleep: beyond 127 tasks, or
/// without `futex_waitv`.
const SLICE: Duration = Duration::from_millis(10);

/// Sleeps for all the tasks of a process that wait for ends of rings. Its thread is the caller's.
///
/// Handles are cheap and mean the same reactor. Up to 127 tasks are slept for at once; of more, and where
/// `futex_waitv` is missing, a task may be woken 10 ms late.
///
/// # Examples
///
/// See [`Async`](super::Async).
#[derive(Clone, Default)]
pub struct Reactor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Changed and woken, under the lock, when the sleeper has to collect anew. Private to the process.
    kick: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waits: HashMap<u64, Wait>,
    seats: u64,
    is_running: bool,
    is_asleep: bool,
    is_stopped: bool,
}

/// What a task has given.
struct Wait {
    keep: Arc<dyn Keep>,
    expected: u32,
    mark: u64,
    recheck: Deadline,
    waker: Waker,
}

/// One of the waits that are slept for.
struct Slept {
    seat: u64,
    keep: Arc<dyn Keep>,
    expected: u32,
}

/// What a task waits for.
pub(super) struct Given<'a> {
    pub(super) keep: &'a Arc<dyn Keep>,
    pub(super) expected: u32,
    pub(super) mark: u64,
    pub(super) bound: Duration,
    pub(super) waker: &'a Waker,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A waker that panics leaves nothing half-done: they are called without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Step 4, under the lock.
    fn kick(&self, state: &State) {
        if state.is_asleep {
            self.kick.fetch_add(1, Relaxed);
            park::wake(&self.kick, 1);
        }
    }
}

impl Reactor {
    /// One that does not run yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sleeps and wakes until [`stop`](Self::stop): a thread's whole work. One thread at a time: a second
    /// call returns at once, as does one after a stop.
    pub fn run(&self) {
        let shared = &*self.0;
        if core::mem::replace(&mut shared.lock().is_running, true) {
            return;
        }
        let mut start = 0;
        let mut width = MAX_WAIT_ANY - 1;
        loop {
            let (kick, set, bound) = {
                let mut state = shared.lock();
                if state.is_stopped {
                    return;
                }
                state.is_asleep = true;
                state.collect(&mut start, width, shared.kick.load(Relaxed))
            };
            // Step 6.
            let mut entries = [WaitEntry::new(&shared.kick, kick); MAX_WAIT_ANY];
            for (entry, slept) in entries.iter_mut().skip(1).zip(&set) {
                *entry = WaitEntry::new(slept.keep.word(), slept.expected);
            }
            let parked = park::wait_any(&entries[..=set.len()], bound);
            if matches!(parked, Err(Errno::NOSYS | Errno::PERM)) {
                width = 0;
            }
            let (wakers, passed) = shared.lock().sort(&set, width, parked);
            for slept in passed {
                slept.keep.pass_on();
            }
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends [`run`](Self::run). Futures that wait from now on look over and over.
    pub fn stop(&self) {
        let wakers: Vec<Waker> = {
            let mut state = self.0.lock();
            state.is_stopped = true;
            self.0.kick(&state);
            state.waits.drain().map(|(_, wait)| wait.waker).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn seat(&self) -> Seat {
        let mut state = self.0.lock();
        state.seats += 1;
        Seat {
            reactor: self.clone(),
            number: state.seats,
            recheck: None,
        }
    }
}

impl State {
    /// Step 5: the value of the kick word, what to sleep on, and until when.
    fn collect(&self, start: &mut usize, width: usize, kick: u32) -> (u32, Vec<Slept>, Deadline) {
        let count = self.waits.len();
        let len = count.min(width);
        let mut bound = match len < count {
            true => Deadline::now().plus(SLICE),
            false => Deadline::NEVER,
        };
        for wait in self.waits.values() {
            bound = bound.min(wait.recheck);
        }
        let from = if count == 0 { 0 } else { *start % count };
        let slept = |(&seat, wait): (&u64, &Wait)| Slept {
            seat,
            keep: Arc::clone(&wait.keep),
            expected: wait.expected,
        };
        let both = self.waits.iter().chain(&self.waits);
        let set = both.skip(from).take(len).map(slept).collect();
        *start = from + len;
        (kick, set, bound)
    }

    /// Steps 7 and 8: whom to wake, and what to pass on.
    fn sort<'a>(
        &mut self,
        set: &'a [Slept],
        width: usize,
        parked: Result<Parked, Errno>,
    ) -> (Vec<Waker>, Vec<&'a Slept>) {
        self.is_asleep = false;
        let mut wakers = Vec::new();
        let mut passed = Vec::new();
        for slept in set {
            // What it waits for by now: it may have looked again meanwhile.
            let wait = self.waits.get(&slept.seat);
            let is_to_look = wait.map(|wait| wait.keep.is_to_look(wait.expected, wait.mark));
            if is_to_look == Some(true) {
                wakers.extend(self.waits.remove(&slept.seat).map(|wait| wait.waker));
            }
            if is_to_look.is_none() && parked == Ok(Parked::Woken) {
                // Withdrawn while we slept: a wake may have come for it.
                passed.push(slept);
            }
        }
        // Those that were not slept for, and those whose inner bound has passed.
        let all = set.len() < self.waits.len() && (width == 0 || parked == Ok(Parked::TimedOut));
        let seats: Vec<u64> = self
            .waits
            .iter()
            .filter(|(_, wait)| {
                wait.recheck.has_passed()
                    || all && wait.keep.is_to_look(wait.expected, wait.mark)
                    // A word that cannot be slept on is for its owner to find out.
                    || parked.is_err() && width > 0
            })
            .map(|(&seat, _)| seat)
            .collect();
        for seat in seats {
            wakers.extend(self.waits.remove(&seat).map(|wait| wait.waker));
        }
        (wakers, passed)
    }
}

/// A task's place at the reactor.
pub(super) struct Seat {
    reactor: Reactor,
    number: u64,
    /// When the present wait's inner bound passes.
    recheck: Option<Deadline>,
}

impl Seat {
    /// Steps 3 and 4.
    pub(super) fn give(&mut self, given: Given<'_>) {
        let shared = &*self.reactor.0;
        // Wakes do not put the inner bound off.
        let recheck = *self
            .recheck
            .get_or_insert_with(|| Deadline::now().plus(given.bound));
        let mut state = shared.lock();
        if state.is_stopped {
            drop(state);
            given.waker.wake_by_ref();
            return;
        }
        let wait = Wait {
            keep: Arc::clone(given.keep),
            expected: given.expected,
            mark: given.mark,
            recheck,
            waker: given.waker.clone(),
        };
        state.waits.insert(self.number, wait);
        shared.kick(&state);
    }

    /// Whether the inner bound has passed since the last call.
    pub(super) fn take_recheck(&mut self) -> bool {
        let passed = self.recheck.is_some_and(|recheck| recheck.has_passed());
        if passed {
            self.recheck = None;
        }
        passed
    }

    /// The task waits no longer. The sleeper may still be asleep at its word, and passes on what comes.
    pub(super) fn withdraw(&mut self) {
        self.recheck = None;
        self.reactor.0.lock().waits.remove(&self.number);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Reactor")
            .field("waits", &state.waits.len())
            .field("is_stopped", &state.is_stopped)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("number", &self.number)
            .finish()
    }
}
