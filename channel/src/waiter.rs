//! How one end of a ring sleeps and how the other end wakes it: *wake, then disarm with a
//! token*.
//!
//! # Protocol
//!
//! Each end has a doorbell. *Sleeper*: (1) store a fresh token; (2) full fence, and a heavy
//! one if the peer publishes lightly; (3) look again; (4) park on the token; (5) CAS token to
//! zero. *Waker*, after its Release store of the index: (6) light or full fence; (7) load the
//! doorbell; if a token is there: (8) wake; (9) CAS that token to zero; (10) if 8 found nobody
//! asleep and 9 succeeded, wake again.
//!
//! Either the waker sees the token (7) or the sleeper sees the index (3): fences 2 and 6 are
//! a Dekker pair. Waking before disarming matters: killed between 8 and 9, the doorbell stays
//! armed and the next publisher wakes again. Disarming first would lose the wake for good.
//! The token keeps 9 from disarming a sleeper that armed after 8. Step 10 is for the sleeper
//! that stood between 3 and 4 during 8, and fell asleep before 9; after 9 it cannot.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the other end |
//! |---|---|---|
//! | 1 to 4 | doorbell armed, nobody asleep | one wake too many |
//! | publishing, 6, 7 | published, sleeper not woken | notices at its inner bound, at most 1 s |
//! | 8 | armed, woken if it slept | the next publisher wakes again |
//! | 9 | disarmed, asleep if it fell asleep between 8 and 9 | notices at its inner bound, at most 1 s |

use core::cell::Cell;
use core::time::Duration;

use multiprocess_core::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence, spin_loop,
};
use multiprocess_core::park::{self, Parked, Patience};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::{Deadline, Errno, asymmetric};

use crate::control::{End, LIGHT};

// | value of a doorbell | meaning | who enters | who leaves |
// |---|---|---|---|
// | SILENT | the owner is awake | creator, owner (5), peer (9) | owner (1) |
// | 1 .. GONE-1 | token: the owner sleeps or is about to | owner (1) | owner (5), peer (9) |
// | GONE | the owner closes its end: its role tells whether it has | owner, before it closes | takeover |
pub(crate) const SILENT: u32 = 0;
pub(crate) const GONE: u32 = 1 << 31;

/// Longest sleep when the peer publishes lightly but the kernel refuses the heavy fence.
const WITHOUT_FENCE: Duration = Duration::from_millis(1);

/// Why a wait ended without what was waited for.
pub(crate) enum GaveUp {
    Timeout,
    /// The peer is dead, by the word of the kernel, and has left nothing that was waited for.
    Abandoned,
    System(Errno),
}

/// The sleeping half of an end. Process-local.
#[derive(Debug)]
pub(crate) struct Waiter {
    spin: AdaptiveSpin,
    token: Cell<u32>,
}

/// A sleeper that has announced itself.
#[derive(Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) token: u32,
    /// Whether the peer, when it publishes, is sure to see it.
    pub(crate) is_heard: bool,
}

impl Waiter {
    pub(crate) fn new() -> Self {
        Self {
            spin: AdaptiveSpin::new(),
            // Unlike the tokens of an earlier owner of this end, in all likelihood; a repeat
            // could cost one wake, which the inner bound heals.
            token: Cell::new(Deadline::now().nanos().unwrap_or(0) as u32 % GONE),
        }
    }

    pub(crate) fn set_spin_cap(&mut self, cap: u32) {
        self.spin = AdaptiveSpin::with_cap(cap);
    }

    fn next_token(&self) -> u32 {
        let token = match (self.token.get() + 1) % GONE {
            SILENT => 1,
            token => token,
        };
        self.token.set(token);
        token
    }

    /// Steps 1 and 2. Look again after this.
    pub(crate) fn announce(&self, doorbell: &AtomicU32, peer: &End) -> Announced {
        // Of a sleep on several words the token may still be there.
        disarm(doorbell, self.token.get());
        let token = self.next_token();
        doorbell.store(token, Relaxed);
        // Dekker, sleeper's half: pairs with the fence in `ring`.
        fence(SeqCst);
        let peer_is_light = peer.role.load(Relaxed) & LIGHT != 0;
        Announced {
            token,
            is_heard: !peer_is_light || asymmetric::heavy(),
        }
    }

    /// Spins, then sleeps, until `ready` says so; or until `is_abandoned`, which is asked at the inner
    /// bound and before a sleep ends for want of time, says that the peer is dead.
    #[cold]
    pub(crate) fn wait(
        &mut self,
        (own, doorbell): (&End, &AtomicU32),
        peer: &End,
        deadline: Deadline,
        mut ready: impl FnMut() -> bool,
        is_abandoned: impl Fn() -> bool,
    ) -> Result<(), GaveUp> {
        if self.spin_until(&mut ready) {
            return Ok(());
        }
        let mut patience = Patience::new();
        loop {
            if deadline.has_passed() {
                return if ready() {
                    Ok(())
                } else {
                    Err(GaveUp::Timeout)
                };
            }
            let Announced { token, is_heard } = self.announce(doorbell, peer);
            if ready() {
                disarm(doorbell, token);
                return Ok(());
            }
            let bound = if is_heard {
                deadline
            } else {
                deadline.min(Deadline::now().plus(WITHOUT_FENCE))
            };
            own.count_wait();
            let parked = patience.park(doorbell, token, bound);
            disarm(doorbell, token);
            if ready() {
                return Ok(());
            }
            match parked {
                Ok(Parked::Recheck | Parked::TimedOut) if is_abandoned() => {
                    // What it did before it died is looked for once more.
                    return if ready() {
                        Ok(())
                    } else {
                        Err(GaveUp::Abandoned)
                    };
                }
                Ok(Parked::TimedOut) if bound == deadline => return Err(GaveUp::Timeout),
                Ok(_) => {}
                Err(errno) => return Err(GaveUp::System(errno)),
            }
        }
    }

    fn spin_until(&mut self, ready: &mut impl FnMut() -> bool) -> bool {
        let budget = self.spin.budget();
        for used in 0..budget {
            if ready() {
                self.spin.record(used);
                return true;
            }
            spin_loop();
        }
        self.spin.record(budget);
        false
    }
}

/// `false` if somebody else was quicker.
pub(crate) fn disarm(doorbell: &AtomicU32, token: u32) -> bool {
    // Relaxed: a hint; what it announces is ordered by the fences.
    doorbell
        .compare_exchange(token, SILENT, Relaxed, Relaxed)
        .is_ok()
}

/// The waking half: called after the Release store of an index. `true` if the peer has closed.
#[inline(always)]
pub(crate) fn ring(doorbell: &AtomicU32, light: bool) -> bool {
    let seen = look(doorbell, light);
    seen != SILENT && answer(doorbell, seen)
}

/// Steps 6 and 7: what is in the doorbell.
#[inline(always)]
pub(crate) fn look(doorbell: &AtomicU32, light: bool) -> u32 {
    // Dekker, waker's half: pairs with the fences in `Waiter::announce`.
    if light {
        asymmetric::light();
    } else {
        fence(SeqCst);
    }
    doorbell.load(Relaxed)
}

/// Steps 8 to 10 for what was `seen`, which is not `SILENT`. `true` if the peer has closed.
#[cold]
pub(crate) fn answer(doorbell: &AtomicU32, seen: u32) -> bool {
    if seen & GONE != 0 {
        return true;
    }
    let woken = park::wake(doorbell, 1);
    if disarm(doorbell, seen) && woken == 0 {
        // It was about to sleep when we called, and may have fallen asleep before we disarmed.
        // From now on it cannot: the token is gone.
        park::wake(doorbell, 1);
    }
    false
}
