//! Where the waiting of one side sleep, and how one of them is woken.
//!
//! # Protocol
//!
//! *sleeper*: (a) set SLEEPERS, the word as it is then is what it sleeps on; (b) full fence; (c) look
//! again; (d) park. *waker*, after the CAS that made something ready: (e) load the word; if SLEEPERS
//! is set: (f) wake one; if nobody was asleep: (g) CAS: next sequence, without SLEEPERS; (h) wake all.
//!
//! Either the sleeper's look (c) sees what was made ready, or the waker (e) sees SLEEPERS: the CAS
//! before e and e are `SeqCst`, and b lies between a and c. A sleeper that has not fallen asleep by f
//! finds the word changed by g, or is woken by h. SLEEPERS stays while f finds somebody, since there may
//! be more. Who was woken and finds nothing goes to sleep again.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the others |
//! |---|---|---|
//! | a to d | SLEEPERS in vain | one system call too many |
//! | made ready, e | nobody woken | a sleeper looks at its inner bound, at most 1 s later |
//! | f | one is woken; SLEEPERS still set | the next waker goes on |
//! | woken by f | a wake used up | as e |
//! | g | nobody woken who fell asleep between f and g | as e |

use multiprocess_core::Deadline;
use multiprocess_core::Errno;
use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence, fence_in_model,
};
use multiprocess_core::park::{self, Parked, Patience, WaitEntry};
use multiprocess_sync::Armed;

// | bits of the word | meaning | who enters | who leaves |
// |---|---|---|---|
// | SLEEPERS | somebody may sleep on the word | sleeper (a) | waker (g) |
// | GONE | a hint: nobody is on this side any more | the last who leaves; recoverer | who joins; recoverer |
// | CLOSED | nothing more is sent | anybody | nobody |
// | EVER | somebody has been on this side | who joins | nobody |
// | sequence, from bit 4 | times SLEEPERS was taken away, modulo 2^28 | waker (g) | |
const SLEEPERS: u32 = 1;
const GONE: u32 = 2;
const CLOSED: u32 = 4;
const EVER: u32 = 8;
const ONE: u32 = 16;

#[repr(transparent)]
pub(super) struct Bell(AtomicU32);

impl Bell {
    pub(super) fn new() -> Self {
        // Until the first one joins, nobody has gone.
        Self(AtomicU32::new(0))
    }

    #[inline(always)]
    pub(super) fn is_gone_or_closed(&self) -> bool {
        // Relaxed: what it announces has no data.
        self.0.load(Relaxed) & (GONE | CLOSED) != 0
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.load(SeqCst) & GONE != 0
    }

    pub(super) fn is_closed(&self) -> bool {
        // SeqCst: what was sent before the close is seen by who has seen the close.
        self.0.load(SeqCst) & CLOSED != 0
    }

    /// Whether that is new.
    pub(super) fn set_gone(&self) -> bool {
        self.0.fetch_or(GONE, SeqCst) & GONE == 0
    }

    pub(super) fn clear_gone(&self) {
        self.0.fetch_and(!GONE, SeqCst);
    }

    /// Somebody has joined.
    pub(super) fn join(&self) {
        self.0.fetch_or(EVER, SeqCst);
        self.clear_gone();
    }

    pub(super) fn was_ever_joined(&self) -> bool {
        self.0.load(SeqCst) & EVER != 0
    }

    pub(super) fn close(&self) {
        self.0.fetch_or(CLOSED, SeqCst);
    }

    /// Steps e to h, after a `SeqCst` read-modify-write that made something ready for one.
    #[inline(always)]
    pub(super) fn ring(&self) {
        fence_in_model();
        let seen = self.0.load(SeqCst);
        if seen & SLEEPERS != 0 {
            self.wake_one(seen);
        }
    }

    #[cold]
    fn wake_one(&self, seen: u32) {
        if park::wake(&self.0, 1) > 0 {
            return;
        }
        let awake = seen.wrapping_add(ONE) & !SLEEPERS;
        // A failure means that somebody else has done it, or that a new sleeper is on its way: it
        // looks only after it has changed the word.
        if self
            .0
            .compare_exchange(seen, awake, SeqCst, Relaxed)
            .is_ok()
        {
            park::wake(&self.0, u32::MAX);
        }
    }

    /// Everybody is to look: after a close, a death, or a message given up.
    #[cold]
    pub(super) fn ring_all(&self) {
        fence(SeqCst);
        // The word is changed, for those about to sleep on it; whether others change it, too, does
        // not matter.
        let seen = self.0.load(SeqCst);
        if seen & SLEEPERS != 0 {
            let awake = seen.wrapping_add(ONE) & !SLEEPERS;
            let _ = self.0.compare_exchange(seen, awake, SeqCst, Relaxed);
            park::wake(&self.0, u32::MAX);
        }
    }

    /// Steps a and b; what to sleep on.
    pub(super) fn arm(&self) -> u32 {
        let seen = self.0.fetch_or(SLEEPERS, SeqCst) | SLEEPERS;
        fence(SeqCst);
        seen
    }

    /// Steps a to c, for who sleeps on other words, too.
    pub(super) fn arm_unless(&self, is_ready: impl Fn() -> bool) -> Armed<'_> {
        let armed = self.arm();
        match is_ready() {
            true => Armed::Ready,
            false => Armed::Waiting(WaitEntry::new(&self.0, armed)),
        }
    }

    /// What is slept on.
    #[cfg(feature = "async")]
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Another sleeper is to look, in place of one that was woken and does not take what is there.
    #[cold]
    pub(super) fn pass_on(&self) {
        fence(SeqCst);
        self.ring();
    }

    /// Step d.
    pub(super) fn park(
        &self,
        armed: u32,
        patience: &mut Patience,
        deadline: Deadline,
    ) -> Result<Parked, Errno> {
        patience.park(&self.0, armed, deadline)
    }
}
