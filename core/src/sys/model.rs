//! The models' mock of the park backend, loom's and shuttle's: a queue of parked threads under a modelled mutex.
//!
//! Time stands still: a wait ends by a wake, or when the model itself calls [`expire_one`]. A lost
//! wake therefore shows as a deadlock, which both report, and no inner bound hides it.
#![allow(missing_docs, unreachable_pub)]

extern crate std;

use core::cell::Cell;
use std::vec::Vec;

use crate::atomic::checker::sync::Mutex;
use crate::atomic::checker::thread::{self, Thread};
use crate::atomic::{AtomicU32, AtomicU64, Ordering, checker, fence};
use crate::park::{Parked, WaitEntry, WaitWord};
use crate::{Deadline, Errno};

#[derive(Debug)]
pub(crate) struct Backend;

struct Sleeper {
    addresses: Vec<usize>,
    ticket: usize,
    thread: Thread,
}

#[derive(Default)]
struct Queue {
    sleepers: Vec<Sleeper>,
    ended: Vec<(usize, Parked)>,
    next_ticket: usize,
}

checker::lazy_static! {
    static ref QUEUE: Mutex<Queue> = Mutex::new(Queue::default());
}

fn sleep(addresses: Vec<usize>, unchanged: impl Fn() -> bool) -> Parked {
    let ticket = {
        let mut queue = QUEUE.lock().unwrap();
        if !unchanged() {
            return Parked::Changed;
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.sleepers.push(Sleeper {
            addresses,
            ticket,
            thread: thread::current(),
        });
        ticket
    };
    loop {
        thread::park();
        let mut queue = QUEUE.lock().unwrap();
        if let Some(i) = queue.ended.iter().position(|(t, _)| *t == ticket) {
            return queue.ended.swap_remove(i).1;
        }
    }
}

fn end(address: usize, count: u32, how: Parked) -> u32 {
    let mut woken = Vec::new();
    {
        let mut queue = QUEUE.lock().unwrap();
        let mut i = 0;
        while i < queue.sleepers.len() && (woken.len() as u32) < count {
            if queue.sleepers[i].addresses.contains(&address) {
                let sleeper = queue.sleepers.remove(i);
                queue.ended.push((sleeper.ticket, how));
                woken.push(sleeper.thread);
            } else {
                i += 1;
            }
        }
    }
    let count = woken.len() as u32;
    for thread in woken {
        thread.unpark();
    }
    count
}

fn address<T>(word: &T) -> usize {
    core::ptr::from_ref(word).addr()
}

impl super::Park for Backend {
    fn wait32(word: &AtomicU32, expected: u32, _: Deadline) -> Result<Parked, Errno> {
        let unchanged = || word.load(Ordering::SeqCst) == expected;
        Ok(sleep(std::vec![address(word)], unchanged))
    }

    fn wait64(word: &AtomicU64, expected: u32, _: Deadline) -> Result<Parked, Errno> {
        let unchanged = || word.load(Ordering::SeqCst) as u32 == expected;
        Ok(sleep(std::vec![address(word)], unchanged))
    }

    fn wake32(word: &AtomicU32, count: u32) -> u32 {
        end(address(word), count, Parked::Woken)
    }

    fn wake64(word: &AtomicU64, count: u32) -> u32 {
        end(address(word), count, Parked::Woken)
    }

    fn wait_any(entries: &[WaitEntry<'_>], _: Deadline) -> Result<Parked, Errno> {
        let addresses = entries.iter().map(|entry| match entry.word() {
            WaitWord::Bits32(word) => address(word),
            WaitWord::Bits64(word) => address(word),
        });
        let unchanged = || {
            entries.iter().all(|entry| {
                let now = match entry.word() {
                    WaitWord::Bits32(word) => word.load(Ordering::SeqCst),
                    WaitWord::Bits64(word) => word.load(Ordering::SeqCst) as u32,
                };
                now == entry.expected()
            })
        };
        Ok(sleep(addresses.collect(), unchanged))
    }
}

/// Lets the deadline of one sleeper pass, wherever it sleeps; how many slept (0 or 1).
pub fn expire_one() -> u32 {
    let sleeper = {
        let mut queue = QUEUE.lock().unwrap();
        if queue.sleepers.is_empty() {
            return 0;
        }
        let sleeper = queue.sleepers.remove(0);
        queue.ended.push((sleeper.ticket, Parked::TimedOut));
        sleeper
    };
    sleeper.thread.unpark();
    1
}

pub(crate) fn now() -> u64 {
    1
}

/// One CPU: nobody spins in a model.
pub(crate) fn cpus() -> u32 {
    1
}

pub(crate) fn membarrier_works() -> bool {
    true
}

pub(crate) fn membarrier_register() -> bool {
    true
}

std::thread_local! {
    /// Whether [`LightIsNothing`] is in force. Loom runs all threads of a model on one.
    static LIGHT_IS_NOTHING: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, [`light`](crate::asymmetric::light) orders nothing, as on the hardware, where
/// only a peer's heavy fence makes it a fence.
///
/// For models in which nobody sleeps. That fence, which a system call puts into other threads, has
/// no counterpart in loom: with it every `light` is a full fence, which also orders what
/// production code leaves to its Release stores.
#[derive(Debug)]
pub struct LightIsNothing(());

impl LightIsNothing {
    /// For the model that calls it.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        LIGHT_IS_NOTHING.set(true);
        Self(())
    }
}

impl Drop for LightIsNothing {
    fn drop(&mut self) {
        LIGHT_IS_NOTHING.set(false);
    }
}

pub(crate) fn light_fence() {
    if !LIGHT_IS_NOTHING.get() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) fn heavy_fence() -> bool {
    fence(Ordering::SeqCst);
    true
}

/// Threads are numbered by the model ([`Thread::model`](crate::thread::Thread::model)), nobody
/// forks, and the model itself plays the kernel that marks the words of the dead.
pub(crate) mod threads {
    use crate::thread::Node;

    pub(crate) fn generation() -> u64 {
        1
    }

    pub(crate) fn begin_generation() -> u64 {
        1
    }

    pub(crate) fn thread_id() -> u32 {
        0
    }

    pub(crate) fn is_own_thread(_: u32) -> bool {
        false
    }

    pub(crate) fn thread_exists(_: u32) -> bool {
        false
    }

    pub(crate) struct List;

    #[derive(Debug)]
    pub struct Pending;

    impl List {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) fn is_there(&self) -> bool {
            true
        }

        pub(crate) unsafe fn attach(&self) {}

        pub(crate) fn pend(&self, _: &Node) -> Pending {
            Pending
        }

        pub(crate) fn settle(&self, _: Pending) {}

        pub(crate) unsafe fn link(&self, _: &Node) -> bool {
            false
        }

        pub(crate) unsafe fn unlink(&self, _: &Node) -> bool {
            false
        }

        pub(crate) fn len(&self, _: u32) -> u32 {
            0
        }
    }
}
