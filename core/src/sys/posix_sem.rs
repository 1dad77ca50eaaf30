//! Park by POSIX semaphores, for Unixes without futexes between processes.
//!
//! A backend is given the address of a word and nothing else, and must find the sleepers of other
//! processes, which have mapped the word elsewhere. Mappings begin at a page everywhere, so the low
//! 12 bits of the address are the same in all of them: they are the *key*. Sleepers sit in nodes,
//! each with a process-shared `sem_t`, of a [table](table) in a shared memory object of the user.
//!
//! Different words may have the same key, so **a wake wakes all sleepers of the key**, and leaves
//! nobody asleep who slept when it began. A sleeper returns though its word is unchanged: a ring's
//! doorbell is woken without being changed.
//!
//! **A wake always returns zero.** How many slept *on this word* is not known, and an answer that
//! counts the sleepers of others would harm: a ring that hears of a sleeper does not wake a second
//! time after it has disarmed the doorbell, and its own sleeper, which fell asleep in between, is
//! lost until its inner bound. Zero is the careful answer. Callers
//! then drop the announcement of sleepers, by CAS, and wake once more, which is right here because
//! nobody of those announced is asleep any longer.
//!
//! # Protocol
//!
//! *wait*: (1) claim a node of the key's bucket; (2) empty its semaphore; (3) queued; (4) set the
//! node's bit in the bucket; (5) fence; (6) compare the word; (7) wait for the semaphore; (8) clear
//! the bit; (9) free the node; (10) fence. Several words: a node for each key, of which all name the
//! first as the one to post to.
//! *wake*: (11) fence; (12) for each bit of the bucket; (13) CAS queued → woken, if the key is the
//! same; (14) post.
//!
//! No locks: a process that is stopped anywhere here delays nobody.
//!
//! # Ordering
//!
//! Dekker, twice, each time between a waker's fence (11) and a sleeper's: either the waker sees
//! queued (3, 4), or the sleeper's comparison (6) sees the word's new value (5); either the waker
//! sees the sleeper gone (9), or it leaves out one that was woken already, whose next look at the
//! word sees the new value (10). A node's memory changes hands by Release (9) and Acquire (1).
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1 to 7 | a node of the dead | one wake posts in vain; who finds no free node takes it, once `kill(pid, 0)` says that there is no such process |
//! | 8 | a node without its bit | the same |
//! | 13 | woken, not posted | the sleeper wakes at its inner bound, at most 1 s later |
//! | 9 to 12, 14 | nothing | go on |
//!
//! # Limits
//!
//! Sleepers of different users, or of different `/dev/shm`s, do not meet; nor do those from before
//! and after somebody has unlinked the object: their wakes are the inner bound alone. In another
//! PID namespace the living may look dead: a node may then be taken from a sleeper, with the same
//! result. Trust: *trusting*, all processes of the user.

mod node;
mod table;

use core::time::Duration;

use rustix::thread::nanosleep;
use rustix::time::Timespec;

use self::node::{Node, Phase, Sleeper};
use self::table::{NODES_PER_BUCKET, Table};
use super::linux::low_half;
use crate::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst, fence};
use crate::park::{MAX_WAIT_ANY, Parked, WaitEntry, WaitWord};
use crate::{Deadline, Errno};

/// The semaphore backend.
#[derive(Debug)]
pub(crate) struct Backend;

impl super::Park for Backend {
    fn wait32(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        wait(
            table::of_the_user(),
            &[WaitEntry::new(word, expected)],
            deadline,
        )
    }

    fn wait64(word: &AtomicU64, expected: u32, deadline: Deadline) -> Result<Parked, Errno> {
        wait(
            table::of_the_user(),
            &[WaitEntry::new(word, expected)],
            deadline,
        )
    }

    fn wake32(word: &AtomicU32, _: u32) -> u32 {
        wake(table::of_the_user(), key(word));
        0
    }

    fn wake64(word: &AtomicU64, _: u32) -> u32 {
        wake(table::of_the_user(), key(low_half(word)));
        0
    }

    fn wait_any(entries: &[WaitEntry<'_>], deadline: Deadline) -> Result<Parked, Errno> {
        wait(table::of_the_user(), entries, deadline)
    }
}

/// Keys there are: words of 4 bytes in a page of the smallest size.
const KEYS: usize = 1024;

/// How long to sleep where there is no node to sleep on.
const NAP: Duration = Duration::from_millis(1);

fn key(word: &AtomicU32) -> u16 {
    (core::ptr::from_ref(word).addr() / 4 % KEYS) as u16
}

fn key_of(entry: &WaitEntry<'_>) -> u16 {
    match entry.word() {
        WaitWord::Bits32(word) => key(word),
        WaitWord::Bits64(word) => key(low_half(word)),
    }
}

/// Step 6.
fn is_unchanged(entry: &WaitEntry<'_>) -> bool {
    let now = match entry.word() {
        WaitWord::Bits32(word) => word.load(SeqCst),
        WaitWord::Bits64(word) => word.load(SeqCst) as u32,
    };
    now == entry.expected()
}

fn wait(
    table: Option<&Table>,
    entries: &[WaitEntry<'_>],
    deadline: Deadline,
) -> Result<Parked, Errno> {
    if !entries.iter().all(is_unchanged) {
        return Ok(Parked::Changed);
    }
    let Some(table) = table else {
        return Ok(nap(deadline)); // no table: polling
    };
    let mut seats = Seats::new(table);
    if !seats.take(entries) {
        drop(seats);
        return Ok(nap(deadline)); // no node left: polling
    }
    // Dekker, sleeper's half: pairs with the fence in `wake`.
    fence(SeqCst);
    if !entries.iter().all(is_unchanged) {
        return Ok(Parked::Changed);
    }
    let parked = table.node(seats.first()).wait(deadline)?;
    // Who was counted as woken says so, though the clock ran out meanwhile.
    Ok(if seats.leave() { Parked::Woken } else { parked })
}

fn nap(deadline: Deadline) -> Parked {
    if deadline.has_passed() {
        return Parked::TimedOut;
    }
    let time = deadline.remaining().map_or(NAP, |left| left.min(NAP));
    let time = Timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos() as _,
    };
    match nanosleep(&time) {
        rustix::thread::NanosleepRelativeResult::Interrupted(_) => Parked::Interrupted,
        _ => Parked::Woken,
    }
}

/// Wakes everybody who sleeps on the key; how many, those included that were killed in their sleep.
fn wake(table: Option<&Table>, key: u16) -> u32 {
    let Some(table) = table else {
        return 0; // who has no table either polls
    };
    // Dekker, waker's half: pairs with the fences in `wait` and in `Seats::leave`.
    fence(SeqCst);
    let mut woken = 0;
    for number in table.occupied(key) {
        let node = table.node(number);
        let mut seen = node.sleeper();
        while seen.phase() == Phase::Queued && seen.key() == key {
            match node.change(seen, seen.in_phase(Phase::Woken)) {
                Ok(()) => {
                    // It may have left meanwhile, and somebody else sit there: a wake too many.
                    table.node(seen.target()).post();
                    woken += 1;
                    break;
                }
                Err(now) => seen = now,
            }
        }
    }
    woken
}

/// The nodes of one sleeper: one for each key. Given back when dropped, at the latest.
struct Seats<'a> {
    table: &'a Table,
    numbers: [u16; MAX_WAIT_ANY],
    /// What each node says while nobody has woken us.
    queued: [Sleeper; MAX_WAIT_ANY],
    len: usize,
}

impl<'a> Seats<'a> {
    fn new(table: &'a Table) -> Self {
        Self {
            table,
            numbers: [0; MAX_WAIT_ANY],
            queued: [Sleeper::NOBODY; MAX_WAIT_ANY],
            len: 0,
        }
    }

    /// The node to sleep on.
    fn first(&self) -> u16 {
        self.numbers[0]
    }

    /// Steps 1 to 4, for each key; `false` if there is no node for one of them.
    fn take(&mut self, entries: &[WaitEntry<'_>]) -> bool {
        let mut taken = [false; KEYS];
        for entry in entries {
            let key = key_of(entry);
            if core::mem::replace(&mut taken[usize::from(key)], true) {
                continue; // the node for this key serves both
            }
            let target = (self.len > 0).then(|| self.first());
            let Some((number, claimed)) = claim(self.table, key, target) else {
                return false;
            };
            let node = self.table.node(number);
            if self.len == 0 {
                node.empty();
            }
            let queued = claimed.in_phase(Phase::Queued);
            if node.change(claimed, queued).is_err() {
                return false; // taken from us: we looked dead to somebody
            }
            self.numbers[self.len] = number;
            self.queued[self.len] = queued;
            self.len += 1;
            self.table.set_occupied(number, true);
        }
        true
    }

    /// Steps 8 to 10; whether a waker has counted us.
    fn leave(&mut self) -> bool {
        let mut woken = false;
        for (&number, &queued) in self.numbers.iter().zip(&self.queued).take(self.len) {
            let node = self.table.node(number);
            let mut seen = node.sleeper();
            // Else taken from us: not ours to give back.
            while seen == queued || seen == queued.in_phase(Phase::Woken) {
                self.table.set_occupied(number, false);
                match node.change(seen, Sleeper::NOBODY) {
                    Ok(()) => {
                        woken |= seen != queued;
                        break;
                    }
                    Err(now) => seen = now,
                }
            }
        }
        self.len = 0;
        // Dekker, the one that leaves: pairs with the fence in `wake`.
        fence(SeqCst);
        woken
    }
}

impl Drop for Seats<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Step 1: a free node of the key's bucket, or one of somebody who is dead.
fn claim(table: &Table, key: u16, target: Option<u16>) -> Option<(u16, Sleeper)> {
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let start = rustix::thread::gettid().as_raw_nonzero().get() as usize;
    let vacancies: [fn(Sleeper) -> bool; 2] = [
        |seen| seen.phase() == Phase::Free,
        |seen| seen.phase() != Phase::Free && table::is_dead(seen.pid()),
    ];
    vacancies.iter().find_map(|is_vacant| {
        (0..NODES_PER_BUCKET).find_map(|index| {
            let number = table::number(key, (start + index) % NODES_PER_BUCKET);
            let node: &Node = table.node(number);
            let seen = node.sleeper();
            let mine = Sleeper::claimed(pid, key, target.unwrap_or(number));
            (is_vacant(seen) && node.change(seen, mine).is_ok()).then_some((number, mine))
        })
    })
}

#[cfg(test)]
mod tests;
