//! `RawMutex`: the robust lock without data. Algorithm: Drepper's mutex 2
//! (<https://dept-info.labri.fr/~denis/Enseignement/2008-IR/Articles/01-futex.pdf>) on a word
//! that the kernel marks when its owner dies
//! (<https://docs.kernel.org/locking/robust-futexes.html>), with a sticky waiters bit and
//! bounded parks.
//!
//! # Protocol
//!
//! *acquire*: (1) pending = node; (2) CAS free → {tid, participant}. If held: (3) spin while
//! nobody waits; (4) set WAITERS by CAS; (5) park; at the inner bound ask whether the owner's
//! participant is dead, and if so CAS its exact word → ours; a word without a tid is taken by CAS,
//! keeping WAITERS. (6) If the owner had died: state = INCONSISTENT. (7) Link the node; (8) restore
//! pending.
//! *release*: (9) an INCONSISTENT state becomes NOT_RECOVERABLE; (10) pending = node; (11) unlink;
//! (12) CAS {tid, participant} → free; if WAITERS is set: (13) swap WAITERS, (14) wake one, (15) if
//! nobody slept and it is still free, clear WAITERS and wake once more; (16) restore pending.
//!
//! Step 13 keeps WAITERS where pthread's protocol drops it: there, a waiter that is woken, loses
//! to a third party, and is killed before it runs takes the others' wake with it.
//!
//! # Ordering
//!
//! The CASes of 2 and 5 are Acquire and pair with the Release CAS of 12 and swap of 13; a dead
//! owner's stores were made visible by the kernel's own atomic on the word. They are `SeqCst` on
//! top of that, for `RwLock`'s handshake (own word, then the other's), which spares it fences;
//! on x86 a read-modify-write is that anyway. `state` and the node are the owner's, ordered by
//! the word.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | 1, 3 | nothing | go on |
//! | 2, 6, 7, 8, 9, 10, 11 | held by the dead | the kernel marks it (by the list, or by pending) and wakes one: `OwnerDied`; without a list, a waiter asks the participants within its inner bound |
//! | 4, 5 | WAITERS in vain | one wake too many; woken and dead: the kernel wakes another (Linux ≥ 6.2), or the inner bound does |
//! | 12, 15, 16 | free | go on |
//! | 13 | free, nobody woken | the kernel wakes one, because pending still names the word; else the inner bound does |
//! | 14 | free, WAITERS in vain | one wake too many |

use core::fmt;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    spin_loop,
};
use multiprocess_core::park::{self, Parked};
use multiprocess_core::thread::{Caller, Node, is_own_thread, thread_exists};
use multiprocess_core::{Deadline, LayoutHash, ParticipantId, Peers, ShmSafe, Timeout, spin};

use crate::{LockError, NotOwner, TryLockError};

mod observe;

pub(crate) use observe::Look;

const FREE: u64 = 0; // a zeroed page is an unlocked mutex

// Bits of the low half: the kernel's format.
const WAITERS: u64 = 0x8000_0000;
const DIED: u64 = 0x4000_0000;
const TID: u64 = 0x3fff_ffff;
const LOW_HALF: u64 = 0xffff_ffff;

fn is_held(word: u64) -> bool {
    word & TID != 0
}

fn has_waiters(word: u64) -> bool {
    word & WAITERS != 0
}

fn owner_died(word: u64) -> bool {
    word & DIED != 0
}

/// The kernel takes the tid away when it marks a word.
fn is_corrupt(word: u64) -> bool {
    is_held(word) && owner_died(word)
}

fn owner(word: u64) -> ParticipantId {
    ParticipantId::from_bits((word >> 32) as u32)
}

// Values of `state`, the owner's alone:
//
// | state | meaning | who enters | who leaves |
// |---|---|---|---|
// | CONSISTENT | what it guards is whole | creator, `mark_consistent` | acquirer from the dead (6) |
// | INCONSISTENT | an owner died in it, and the present one repairs | acquirer from the dead (6) | `mark_consistent`; release (9) |
// | NOT_RECOVERABLE | released unrepaired | release (9) | nobody |
const CONSISTENT: u32 = 0;
const INCONSISTENT: u32 = 1;
const NOT_RECOVERABLE: u32 = 2;

const PLACED: u32 = 1;

/// Pauses between two looks at a word that somebody holds. Each look takes the line, with the data
/// beside it, from the owner: looking at every pause halves what two contenders get done.
const PAUSES: u32 = 32;

/// A robust lock: owned by a thread, and given to the next one when that thread dies.
///
/// The building block of [`Mutex`](crate::Mutex) and [`RLock`](crate::RLock), and for embedders
/// with guards of their own. Not for handing over between threads ([`Lock`](crate::Lock) is), and not recursive.
///
/// All zero bytes are a valid, unlocked mutex. It has the shape of glibc's `pthread_mutex_t` as
/// the kernel sees it, so that both can be on one thread's list.
///
/// # Examples
///
/// ```
/// use multiprocess_core::thread::Caller;
/// use multiprocess_sync::{NotOwner, RawMutex};
///
/// let mutex = RawMutex::new();
/// let me = Caller::current();
/// mutex.acquire(&me, None)?;
/// assert!(mutex.is_owned_by(&me));
/// std::thread::scope(|s| {
///     s.spawn(|| assert_eq!(mutex.release(&Caller::current()), Err(NotOwner)));
/// });
/// mutex.release(&me)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory ordering
///
/// What an owner wrote before it released, or before it died, is visible to the next owner.
///
/// # Crash safety
///
/// A thread that dies with it, in whatever way, at whatever instruction: the next acquirer has
/// it with [`LockError::OwnerDied`]. The kernel tells, through the thread's list, in microseconds,
/// and also of threads that end while their process lives, and of `exec`. Where there is no list
/// (the mutex was never [placed](ShmSafe::placed), another libc's list, gVisor, several PID
/// namespaces) a waiter asks [`Peers`](multiprocess_core::Peers), which know of processes only,
/// within 50 ms to 1 s. A wake that died with its waker costs a sleeper at most 1 s.
///
/// Trust: *trusting*: while it is held, list links lie in it that its owner follows. Taken by
/// a [`Caller`] among peers of several PID namespaces, it is *guarded*.
///
/// # Fork
///
/// A child does not own its parent's mutexes: releasing one there is [`NotOwner`].
// Bits of `word`:
//
// | word | meaning | who enters | who leaves |
// |---|---|---|---|
// | 0 | free | creator; release (12, 15) | acquirer (2) |
// | tid, participant | held | acquirer (2) | its owner (12); a waiter adds WAITERS (4) |
// | tid, WAITERS, participant | held, somebody may sleep | waiter (4, 5) | its owner (13) |
// | WAITERS | free, somebody may sleep | release (13) | acquirer (5); release (15) |
// | DIED, perhaps WAITERS, participant of the dead | its owner died | the kernel | acquirer (5) |
#[repr(C)]
pub struct RawMutex {
    /// Any party, by CAS; the kernel, when the owner dies.
    word: AtomicU64,
    /// The owner.
    state: AtomicU32,
    /// The owner: how often one has died.
    deaths: AtomicU32,
    /// Whoever places it; never taken back.
    placed: AtomicU32,
    /// The table whose participants take it; 0: none has. The first one, by CAS; never taken back.
    table: AtomicU32,
    /// The owner.
    node: Node,
}

#[cfg(not(loom))]
mod layout {
    use super::{Node, RawMutex};
    use core::mem::offset_of;
    use static_assertions::const_assert_eq;

    const_assert_eq!(size_of::<RawMutex>(), 40);
    const_assert_eq!(align_of::<RawMutex>(), 8);
    const_assert_eq!(offset_of!(RawMutex, word), 0);
    const_assert_eq!(offset_of!(RawMutex, state), 8);
    const_assert_eq!(offset_of!(RawMutex, deaths), 12);
    const_assert_eq!(offset_of!(RawMutex, placed), 16);
    const_assert_eq!(offset_of!(RawMutex, table), 20);
    const_assert_eq!(offset_of!(RawMutex, node), 24);
    const_assert_eq!(size_of::<Node>(), 16);
}

impl RawMutex {
    multiprocess_core::const_unless_loom! {
        /// An unlocked mutex; the same as forty zero bytes.
        pub fn new() -> Self {
            Self {
                word: AtomicU64::new(FREE),
                state: AtomicU32::new(CONSISTENT),
                deaths: AtomicU32::new(0),
                placed: AtomicU32::new(0),
                table: AtomicU32::new(0),
                node: Node::new(),
            }
        }
    }

    /// Takes it for `caller`, waiting for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`LockError`]; with [`OwnerDied`](LockError::OwnerDied) the caller *has* the mutex.
    #[inline]
    pub fn acquire(
        &self,
        caller: &Caller<'_>,
        timeout: impl Into<Timeout>,
    ) -> Result<(), LockError<()>> {
        match self.acquire_by(caller, || Deadline::after(timeout)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.map(drop)),
        }
    }

    /// As [`acquire`](Self::acquire), for a guard; the clock is looked at only if it is held.
    #[inline]
    pub(crate) fn acquire_by(
        &self,
        caller: &Caller<'_>,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<Owner, LockError<Owner>> {
        let mine = name(caller);
        match self.acquire_named(caller, mine, deadline) {
            Ok(()) => Ok(Owner(mine)),
            Err(error) => Err(error.map(|()| Owner(mine))),
        }
    }

    #[inline]
    fn acquire_named(
        &self,
        caller: &Caller<'_>,
        mine: u64,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<(), LockError<()>> {
        let thread = caller.thread();
        if let Some(peers) = caller.peers() {
            self.bind(peers)?;
        }
        // What lies where it may move, or where ids are ambiguous, is in no list.
        let listed = self.placed.load(Relaxed) & PLACED != 0 && caller.trusts_thread_ids();
        if thread.is_full() && listed && caller.peers().is_none() {
            return Err(LockError::TooManyHeld);
        }
        // SAFETY: placed, so it stays where it is; settled below.
        let before = listed.then(|| unsafe { thread.pend(&self.node) });
        // SeqCst: Acquire pairs with the Release half in `give_up`; and see `RwLock`.
        let taken = match self.word.compare_exchange(FREE, mine, SeqCst, Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => self.acquire_contended(caller, mine, deadline()),
        };
        if matches!(taken, Ok(()) | Err(LockError::OwnerDied(()))) {
            if listed {
                // SAFETY: ours and pending. It was placed, so it stays where it is, mapped, until
                // `may_unmap` says that nobody here holds it.
                unsafe { thread.link(&self.node) };
            } else {
                self.node.set_unlinked();
            }
        }
        if let Some(before) = before {
            // SAFETY: of the `pend` above; what a handler has pended since, it has settled.
            unsafe { thread.settle(before) };
        }
        if taken.is_ok() && self.state.load(Relaxed) != CONSISTENT {
            return self.acquired_unrepaired(caller);
        }
        taken
    }

    /// Takes it for `caller` if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; with [`OwnerDied`](TryLockError::OwnerDied) the caller *has* the mutex.
    #[inline]
    pub fn try_acquire(&self, caller: &Caller<'_>) -> Result<(), TryLockError<()>> {
        self.acquire(caller, Timeout::TRY)
            .map_err(TryLockError::from_timed)
    }

    /// The first participant binds the mutex to its table: ids of another one mean others.
    fn bind(&self, peers: &dyn Peers) -> Result<(), LockError<()>> {
        let table = peers.table();
        match self.table.compare_exchange(0, table, Relaxed, Relaxed) {
            Ok(_) => Ok(()),
            Err(bound) if bound == table => Ok(()),
            Err(_) => Err(LockError::OtherParticipants),
        }
    }

    #[cold]
    fn acquire_contended(
        &self,
        caller: &Caller<'_>,
        mine: u64,
        deadline: Deadline,
    ) -> Result<(), LockError<()>> {
        let mut patience = park::Patience::new();
        let mut spins = spin::lock_budget();
        let mut slept = 0; // WAITERS once we have slept: others may sleep behind us
        loop {
            let seen = self.word.load(Relaxed);
            if is_corrupt(seen) {
                return Err(LockError::Corrupt);
            }
            if !is_held(seen) {
                // SeqCst: Acquire pairs with `give_up`, and with the kernel's mark.
                let taken = mine | (seen & WAITERS) | slept;
                if self
                    .word
                    .compare_exchange(seen, taken, SeqCst, Relaxed)
                    .is_ok()
                {
                    return self.inherited(owner_died(seen));
                }
                continue;
            }
            if seen & !WAITERS == mine {
                return Err(LockError::Deadlock);
            }
            if spins > 0 && !has_waiters(seen) && deadline != Deadline::after(Timeout::TRY) {
                for _ in 0..PAUSES {
                    spin_loop();
                }
                spins = spins.saturating_sub(PAUSES);
                continue;
            }
            if deadline.has_passed() {
                return match self.inherit(caller, mine) {
                    true => self.inherited(true),
                    false => Err(LockError::Timeout),
                };
            }
            if !has_waiters(seen)
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            slept = WAITERS;
            let asleep = (seen | WAITERS) & LOW_HALF;
            match patience.park(&self.word, asleep as u32, deadline) {
                Ok(Parked::TimedOut | Parked::Recheck) => {
                    if self.inherit(caller, mine) {
                        return self.inherited(true);
                    }
                }
                Ok(_) => spins = spin::lock_budget(),
                Err(errno) => return Err(LockError::System(errno)),
            }
        }
    }

    /// Takes it from an owner whose process is dead by the word of the participants.
    fn inherit(&self, caller: &Caller<'_>, mine: u64) -> bool {
        let Some(peers) = caller.peers() else {
            return false;
        };
        let seen = self.word.load(Relaxed);
        let owner = owner(seen);
        if !is_held(seen) || owner.is_anonymous() || !peers.is_dead(owner) {
            return false;
        }
        // A process may have left the participants, and one of its threads hold this all the same.
        // Another thread with the dead one's id puts it off.
        if caller.trusts_thread_ids() && thread_exists((seen & TID) as u32) {
            return false;
        }
        // The word that was judged is the word that is replaced: thread, slot and epoch.
        // Acquire: as a fresh start; the dead one's stores are visible since the kernel ended it.
        self.word
            .compare_exchange(seen, mine | WAITERS, SeqCst, Relaxed)
            .is_ok()
    }

    /// Step 6.
    fn inherited(&self, from_the_dead: bool) -> Result<(), LockError<()>> {
        if !from_the_dead {
            return Ok(());
        }
        self.deaths
            .store(self.deaths.load(Relaxed).wrapping_add(1), Relaxed);
        if self.state.load(Relaxed) == NOT_RECOVERABLE {
            return Ok(()); // `acquire` looks at the state
        }
        self.state.store(INCONSISTENT, Relaxed);
        Err(LockError::OwnerDied(()))
    }

    #[cold]
    fn acquired_unrepaired(&self, caller: &Caller<'_>) -> Result<(), LockError<()>> {
        if self.state.load(Relaxed) == INCONSISTENT {
            return Err(LockError::OwnerDied(()));
        }
        // Ours: we have just acquired it. Whoever waits finds out the same way.
        let _ = self.release(caller);
        Err(LockError::NotRecoverable)
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// [`NotOwner`] if `caller` does not own it: another thread does, or nobody, or the parent
    /// of this process.
    #[inline]
    pub fn release(&self, caller: &Caller<'_>) -> Result<(), NotOwner> {
        let mine = name(caller);
        if self.word.load(Relaxed) & !WAITERS != mine {
            return Err(NotOwner);
        }
        if self.state.load(Relaxed) == INCONSISTENT {
            self.state.store(NOT_RECOVERABLE, Relaxed);
        }
        self.release_owned(caller, mine);
        Ok(())
    }

    /// Gives back what a guard holds. Does not look at the word, which has just been changed by a
    /// locked instruction: that look costs as much as the rest.
    ///
    /// # Safety
    ///
    /// `owner` came from an acquisition by `caller` that nothing has released since.
    #[inline]
    pub(crate) unsafe fn release_guarded(
        &self,
        caller: &Caller<'_>,
        owner: Owner,
    ) -> Result<(), NotOwner> {
        // A guard that fork has copied into a child: the thread is another one there.
        if name(caller) != owner.0 {
            return Err(NotOwner);
        }
        if self.state.load(Relaxed) == INCONSISTENT {
            self.state.store(NOT_RECOVERABLE, Relaxed);
        }
        self.release_owned(caller, owner.0);
        Ok(())
    }

    /// As [`release_guarded`](Self::release_guarded); the next one is told of the death that this
    /// one was told of.
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn release_unrepaired(&self, caller: &Caller<'_>, owner: Owner) {
        if name(caller) == owner.0 {
            self.release_owned(caller, owner.0);
        }
    }

    /// Steps 10 to 16.
    #[inline]
    fn release_owned(&self, caller: &Caller<'_>, mine: u64) {
        let thread = caller.thread();
        if self.node.is_linked() {
            // SAFETY: linked, so it was placed, and stays where it is; settled below.
            let before = unsafe { thread.pend(&self.node) };
            // SAFETY: we own it, so this thread linked it, in this process.
            unsafe { thread.unlink(&self.node) };
            self.give_up(mine);
            // SAFETY: of the `pend` above; what a handler has pended since, it has settled.
            unsafe { thread.settle(before) };
        } else {
            self.give_up(mine);
        }
    }

    #[inline]
    fn give_up(&self, mine: u64) {
        // SeqCst: Release pairs with the Acquire half in `acquire`; and see `RwLock`.
        let free = self.word.compare_exchange(mine, FREE, SeqCst, Relaxed);
        if free.is_err() {
            self.give_up_and_wake();
        }
    }

    #[cold]
    fn give_up_and_wake(&self) {
        // SeqCst: Release pairs with the Acquire half in `acquire`; and see `RwLock`.
        self.word.swap(WAITERS, SeqCst);
        if park::wake(&self.word, 1) == 0
            && self
                .word
                .compare_exchange(WAITERS, FREE, Relaxed, Relaxed)
                .is_ok()
        {
            // A third party may have held it in between, with others asleep behind it.
            park::wake(&self.word, 1);
        }
    }

    /// Declares what the mutex guards whole again, after
    /// [`OwnerDied`](LockError::OwnerDied).
    ///
    /// # Errors
    ///
    /// [`NotOwner`] if `caller` does not own it.
    pub fn mark_consistent(&self, caller: &Caller<'_>) -> Result<(), NotOwner> {
        if !self.is_owned_by(caller) {
            return Err(NotOwner);
        }
        if self.state.load(Relaxed) == INCONSISTENT {
            self.state.store(CONSISTENT, Relaxed);
        }
        Ok(())
    }

    /// Whether `caller` owns it.
    #[inline]
    pub fn is_owned_by(&self, caller: &Caller<'_>) -> bool {
        self.owned_by(caller).is_some()
    }

    /// That `caller` owns it, if it does.
    #[inline]
    pub(crate) fn owned_by(&self, caller: &Caller<'_>) -> Option<Owner> {
        let mine = name(caller);
        (self.word.load(Relaxed) & !WAITERS == mine).then_some(Owner(mine))
    }

    /// Whether somebody holds it, at the moment of asking.
    pub fn is_locked(&self) -> bool {
        is_held(self.word.load(Relaxed))
    }

    /// How many owners have died with it, modulo 2^32.
    pub fn deaths(&self) -> u32 {
        self.deaths.load(Relaxed)
    }
}

/// That its bearer holds a mutex: what it wrote into the word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(u64);

/// What an owner writes into the word.
#[inline]
fn name(caller: &Caller<'_>) -> u64 {
    u64::from(caller.thread().id()) | u64::from(caller.participant().bits()) << 32
}

impl Default for RawMutex {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RawMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Relaxed);
        f.debug_struct("RawMutex")
            .field("thread", &(word & TID))
            .field("participant", &owner(word))
            .field("waiters", &has_waiters(word))
            .field("owner_died", &owner_died(word))
            .field("deaths", &self.deaths())
            .finish()
    }
}

// SAFETY: `repr(C)` around atomic words. Every value of the word is handled, an impossible one as
// corrupt. The links in the node are addresses, but of the holder's own process, and only the
// holder follows them.
unsafe impl ShmSafe for RawMutex {
    const LAYOUT: LayoutHash = LayoutHash::of("RawMutex").mix(40).mix(2);

    unsafe fn placed(&self) {
        // Relaxed: a promise about this process's mapping, not about other memory.
        self.placed.fetch_or(PLACED, Relaxed);
    }

    fn may_unmap(&self) -> bool {
        let word = self.word.load(Relaxed);
        !(is_held(word) && self.node.is_linked() && is_own_thread((word & TID) as u32))
    }
}
