//! One end of a single-writer ring: owns its memory, its role, its index and its doorbell.
//! Common to `spsc` and `bytes`, producer and consumer.
//!
//! An end's role names its owner among the `Peers`. Who waits asks them at its inner bound whether the
//! owner of the other end is dead, and who attaches whether the one before it is. Killed between the
//! two steps that make a successor (the role by CAS, then its doorbell silenced), it is a dead owner
//! like the one before it: the next one does both again.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;

use multiprocess_core::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};
use multiprocess_core::thread::generation;
use multiprocess_core::{AttachError, Deadline, Memory, ParticipantId, Peers, asymmetric};

use crate::control::{CLAIMED, CLOSED, Control, End, HEAVY, Kind, LIGHT, SENT, owned_by, owner};
use crate::waiter::{GONE, GaveUp, SILENT, Waiter, answer, look, ring};

mod ready;

/// Which words of the control block are ours and which the peer's.
pub(crate) trait Side {
    fn own(control: &Control) -> &End;
    fn peer(control: &Control) -> &End;
    fn own_doorbell(control: &Control) -> &AtomicU32;
    fn peer_doorbell(control: &Control) -> &AtomicU32;
    /// Which of the two indices is ours.
    fn own_index(start: &Start) -> u64;
}

#[derive(Debug)]
pub(crate) struct ProducerSide;

impl Side for ProducerSide {
    #[inline(always)]
    fn own(control: &Control) -> &End {
        &control.producer
    }
    #[inline(always)]
    fn peer(control: &Control) -> &End {
        &control.consumer
    }
    #[inline(always)]
    fn own_doorbell(control: &Control) -> &AtomicU32 {
        &control.producer_doorbell
    }
    #[inline(always)]
    fn peer_doorbell(control: &Control) -> &AtomicU32 {
        &control.consumer_doorbell
    }
    fn own_index(start: &Start) -> u64 {
        start.tail
    }
}

#[derive(Debug)]
pub(crate) struct ConsumerSide;

impl Side for ConsumerSide {
    #[inline(always)]
    fn own(control: &Control) -> &End {
        &control.consumer
    }
    #[inline(always)]
    fn peer(control: &Control) -> &End {
        &control.producer
    }
    #[inline(always)]
    fn own_doorbell(control: &Control) -> &AtomicU32 {
        &control.consumer_doorbell
    }
    #[inline(always)]
    fn peer_doorbell(control: &Control) -> &AtomicU32 {
        &control.producer_doorbell
    }
    fn own_index(start: &Start) -> u64 {
        start.head
    }
}

/// What an end begins with. Each word of the ring was read once.
pub(crate) struct Start {
    pub(crate) capacity: u64,
    pub(crate) head: u64,
    pub(crate) tail: u64,
}

/// What this handle may still do with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    /// Closed: the peer knows.
    Closed,
    /// Not ours: sent to another process, or not claimed yet.
    Sent,
}

/// How an end comes into a process's hands.
pub(crate) enum Claim {
    /// Nobody has had it, or its owner is dead, by the word of our peers.
    Free,
    /// Another process has sent it to us.
    #[cfg(feature = "serde")]
    Received,
    /// Its owner is dead, by the word of the caller.
    Inherited,
}

impl Claim {
    /// From its last owner, who knows.
    fn is_received(&self) -> bool {
        match self {
            #[cfg(feature = "serde")]
            Self::Received => true,
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Endpoint<S: Side, M: Memory, P: Peers> {
    memory: M,
    peers: P,
    control: NonNull<Control>,
    waiter: Waiter,
    /// We publish with light fences, and our role says so.
    light: bool,
    /// The kernel has registered us for heavy fences.
    registered: bool,
    standing: Cell<Standing>,
    /// The peer's role whose owner was found dead, or 0.
    dead: Cell<u64>,
    /// The process whose end it is: a forked child's copy closes nothing.
    generation: u64,
    side: PhantomData<S>,
}

// SAFETY: the control pointer points into `memory`, which moves along; the words behind it
// are atomics. `Cell` makes the handle !Sync, not !Send.
unsafe impl<S: Side, M: Memory + Send, P: Peers + Send> Send for Endpoint<S, M, P> {}

/// Whether `role` has an owner that is dead. Of one that closed, or sent its end away, it does not
/// matter.
fn is_left_behind<P: Peers>(peers: &P, role: u64) -> bool {
    let id = owner(role);
    role & (CLAIMED | CLOSED | SENT) == CLAIMED
        && !id.is_anonymous()
        && id != peers.me()
        && peers.is_dead(id)
}

/// Whether the owner of an end is dead, and nobody has taken its place.
#[cold]
fn is_abandoned<P: Peers>(peers: &P, role: &AtomicU64) -> bool {
    let seen = role.load(Acquire);
    // A successor may have come while the kernel was asked.
    is_left_behind(peers, seen) && role.load(Acquire) == seen
}

impl<S: Side, M: Memory, P: Peers> Endpoint<S, M, P> {
    /// Validates the ring in `memory` and claims this end of it.
    ///
    /// `published` is given what lies behind the control block, the capacity and the tail, and says what
    /// the tail is if its owner was killed before it told.
    pub(crate) fn attach(
        memory: M,
        peers: P,
        kind: &Kind,
        claim: &Claim,
        published: impl Fn(NonNull<u8>, u64, u64) -> u64,
    ) -> Result<(Self, Start), AttachError> {
        let capacity = kind.validate(memory.region().into())?;
        let control = NonNull::from(Control::of(memory.region().into())?);
        // SAFETY: as in `control`; `memory` is here.
        unsafe { control.as_ref() }.bound().bind(&peers)?;
        let endpoint = Self {
            memory,
            peers,
            control,
            waiter: Waiter::new(),
            light: false,
            registered: asymmetric::register(),
            // Not ours to close before it is claimed.
            standing: Cell::new(Standing::Sent),
            dead: Cell::new(0),
            generation: generation(),
            side: PhantomData,
        };
        let before = endpoint.claim(claim)?;
        // Not before the claim: until then ours was another's, who moved it. Head first: it never
        // passes a tail that is read later.
        let head = endpoint.head();
        let tail = published(endpoint.body(), capacity, endpoint.tail());
        let start = Start {
            capacity,
            head,
            tail,
        };
        let index = S::own_index(&start);
        if tail.wrapping_sub(head) > capacity
            || !index.is_multiple_of(kind.step)
            || head.max(tail) > kind.max_index
        {
            endpoint.own().role.store(before, Release);
            return Err(AttachError::Corrupt { field: "index" });
        }
        endpoint.store_index(index);
        endpoint.standing.set(Standing::Open);
        if before != 0 && !claim.is_received() {
            S::own_doorbell(endpoint.control()).store(SILENT, Release);
        }
        // Before our first publication the peer must see that we are not light (any more).
        fence(SeqCst);
        if before != 0 {
            // For what our predecessor published and did not tell.
            ring(S::peer_doorbell(endpoint.control()), false);
        }
        Ok((endpoint, start))
    }

    /// Takes the role; what its word was before.
    fn claim(&self, claim: &Claim) -> Result<u64, AttachError> {
        let role = &self.own().role;
        let heavy = if asymmetric::can_heavy() { HEAVY } else { 0 };
        // Of the former process LIGHT and SENT do not stay: its promise, and its message.
        let ours = CLAIMED | heavy | owned_by(self.peers.me());
        match claim {
            Claim::Free => {
                let seen = role.load(Relaxed);
                if seen != 0 && !is_left_behind(&self.peers, seen) {
                    return Err(AttachError::RoleTaken);
                }
                // The word that was judged is the word that is replaced: of two successors one gets
                // it. Acquire and Release: one owner's index is seen by the next.
                role.compare_exchange(seen, ours, AcqRel, Relaxed)
                    .map_err(|_| AttachError::RoleTaken)
            }
            #[cfg(feature = "serde")]
            Claim::Received => {
                let seen = role.load(Relaxed);
                if seen & SENT == 0 {
                    // Never sent, or received already.
                    return Err(AttachError::RoleTaken);
                }
                if seen & (CLAIMED | CLOSED) != CLAIMED {
                    return Err(AttachError::Corrupt { field: "role" });
                }
                // Acquire pairs with the Release of `give_away`. By CAS: of two who received the
                // same message, one gets the end.
                role.compare_exchange(seen, ours, AcqRel, Relaxed)
                    .map_err(|_| AttachError::RoleTaken)
            }
            Claim::Inherited => Ok(role.swap(ours, AcqRel)),
        }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: points into `memory`, which `self` owns; size and alignment were checked in
        // `attach`; all fields are atomics.
        unsafe { self.control.as_ref() }
    }

    /// The first byte behind the control block.
    pub(crate) fn body(&self) -> NonNull<u8> {
        // SAFETY: `validate` found the region larger than a control block.
        unsafe { self.memory.region().base().add(size_of::<Control>()) }
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    #[inline(always)]
    pub(crate) fn own(&self) -> &End {
        S::own(self.control())
    }

    #[inline(always)]
    pub(crate) fn peer(&self) -> &End {
        S::peer(self.control())
    }

    fn tail(&self) -> u64 {
        self.control().producer.progress.index.load(Acquire)
    }

    fn head(&self) -> u64 {
        self.control().consumer.progress.index.load(Acquire)
    }

    /// Messages or bytes between the two indices, at the moment of asking; `None` if they
    /// contradict each other.
    pub(crate) fn len(&self, capacity: u64) -> Option<u64> {
        // Head first: it never passes a tail that is read later.
        let head = self.head();
        let len = self.tail().wrapping_sub(head);
        (len <= capacity).then_some(len)
    }

    /// Records ever published or given back at this end: `bytes` counts them.
    pub(crate) fn records(&self) -> u64 {
        self.own().progress.records.load(Relaxed)
    }

    /// After `publish`: a record that is published and not counted is one that a kill came between.
    #[inline(always)]
    pub(crate) fn count_records(&self, records: u64) {
        self.own().progress.records.store(records, Relaxed);
    }

    /// Moves our index and wakes the peer. `true` if the peer has closed its end.
    #[inline(always)]
    pub(crate) fn publish(&self, index: u64) -> bool {
        self.store_index(index);
        ring(S::peer_doorbell(self.control()), self.light)
    }

    /// As [`publish`](Self::publish), where the caller knows that we are light: no look at a flag.
    #[inline(always)]
    pub(crate) fn publish_light(&self, index: u64) -> bool {
        debug_assert!(self.light);
        self.store_index(index);
        ring(S::peer_doorbell(self.control()), true)
    }

    /// As [`publish_light`](Self::publish_light) for what is published by other means: our index is only
    /// moved if the peer sleeps, so that who is woken finds it moved.
    #[inline(always)]
    pub(crate) fn wake_light(&self, index: u64) -> bool {
        debug_assert!(self.light);
        let doorbell = S::peer_doorbell(self.control());
        let seen = look(doorbell, true);
        if seen == SILENT {
            return false;
        }
        self.store_index(index);
        answer(doorbell, seen)
    }

    /// Moves our index, and tells nobody.
    #[inline(always)]
    pub(crate) fn store_index(&self, index: u64) {
        // Release pairs with the Acquire loads in `peer_index` and `tail`.
        self.own().progress.index.store(index, Release);
    }

    /// Whether we publish with light fences.
    #[inline]
    pub(crate) fn is_light(&self) -> bool {
        self.light
    }

    /// The peer's index. Unchecked: a peer may write anything.
    #[inline(always)]
    pub(crate) fn peer_index(&self) -> u64 {
        // Acquire pairs with the Release store in `publish`.
        self.peer().progress.index.load(Acquire)
    }

    /// Goes over to light fences once both sides can: called where the peer's index is
    /// reloaded, not per message.
    #[inline]
    pub(crate) fn lighten(&mut self) {
        if !self.light && self.registered && self.peer().role.load(Relaxed) & HEAVY != 0 {
            self.promise_light();
        }
    }

    #[cold]
    fn promise_light(&mut self) {
        let role = &self.own().role;
        role.store(role.load(Relaxed) | LIGHT, Relaxed);
        // A sleeper whose fence comes before this one is seen by our next look at its
        // doorbell; one whose fence comes after it reads LIGHT and runs the heavy fence.
        fence(SeqCst);
        self.light = true;
    }

    /// Whether the peer has closed its end, or was found dead and has no successor. Acquire: its last
    /// index is seen afterwards.
    #[inline]
    pub(crate) fn peer_is_gone(&self) -> bool {
        let role = self.peer().role.load(Acquire);
        role & CLOSED != 0 || role != 0 && role == self.dead.get()
    }

    /// Whether the kernel attests the peer's death: a system call, if it has an owner that can be asked
    /// about.
    pub(crate) fn peer_is_dead(&self) -> bool {
        is_abandoned(&self.peers, &self.peer().role)
    }

    /// Whether this handle still owns its end.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.standing.get() == Standing::Open
    }

    /// Waits until the peer's index is no longer `seen`, or the peer has closed.
    pub(crate) fn wait_for_index(&mut self, seen: u64, deadline: Deadline) -> Result<(), GaveUp> {
        // SAFETY: as in `control`; the borrow of `self` below does not reach what it points to.
        let control = unsafe { self.control.as_ref() };
        // Acquire pairs with the Release store in `store_index`.
        self.wait_until(
            || S::peer(control).progress.index.load(Acquire) != seen,
            deadline,
        )
    }

    /// Waits until the peer has `moved`, or has closed.
    pub(crate) fn wait_until(
        &mut self,
        moved: impl Fn() -> bool,
        deadline: Deadline,
    ) -> Result<(), GaveUp> {
        let Self {
            control,
            waiter,
            peers,
            ..
        } = self;
        // SAFETY: as in `control`; the borrow of `waiter` is disjoint.
        let control = unsafe { control.as_ref() };
        let peer = S::peer(control);
        waiter.wait(
            (S::own(control), S::own_doorbell(control)),
            peer,
            deadline,
            // Acquire pairs with the Release store in `close`.
            || moved() || peer.role.load(Acquire) & CLOSED != 0,
            || is_abandoned(peers, &peer.role),
        )
    }

    pub(crate) fn set_spin_cap(&mut self, cap: u32) {
        self.waiter.set_spin_cap(cap);
    }

    /// Tells the peer that nothing more will come, or be taken. Idempotent.
    pub(crate) fn close(&self) {
        if !self.is_open() {
            return;
        }
        self.standing.set(Standing::Closed);
        if generation() != self.generation {
            return; // a forked child's copy
        }
        // Where the peer looks with every message that it publishes: it is to look at our role. Comes
        // first: once the role is closed a successor may have it, and sleep on this doorbell. Until then
        // the peer finds the role open, and goes on; killed here, we are dead with an open role.
        S::own_doorbell(self.control()).store(GONE, Relaxed);
        let role = &self.own().role;
        // Release pairs with the Acquire load in `peer_is_gone`, and with that in `claim`.
        role.store(role.load(Relaxed) | CLOSED, Release);
        ring(S::peer_doorbell(self.control()), false);
    }

    /// The end belongs to whoever receives it from now on; `false` if it is not ours to give: a forked
    /// child's copy gives nothing of its parent's away.
    #[cfg(feature = "serde")]
    pub(crate) fn give_away(&self) -> bool {
        if !self.is_open() || generation() != self.generation {
            return false;
        }
        let role = &self.own().role;
        let seen = role.load(Relaxed);
        // Release pairs with the Acquire in `claim`: the receiver sees our last index. Fails only
        // if a peer wrote to our word.
        let given = seen & (CLAIMED | CLOSED | SENT) == CLAIMED
            && role
                .compare_exchange(seen, seen | SENT, Release, Relaxed)
                .is_ok();
        if given {
            self.standing.set(Standing::Sent);
        }
        given
    }
}

impl<S: Side, M: Memory, P: Peers> Drop for Endpoint<S, M, P> {
    fn drop(&mut self) {
        #[cfg(feature = "serde")]
        if multiprocess_shm::transfer::is_refused_for_now() && self.give_away() {
            return; // its message comes again
        }
        self.close();
    }
}

/// No peers: who attaches with it is anonymous. Nobody attests its death to others, and it learns of
/// nobody's.
///
/// For rings in memory of one's own, without a table of participants: there a successor comes by
/// `take_over`, and whoever watches the processes says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

// SAFETY: nobody is ever said to be dead, and we are nobody.
unsafe impl Peers for NoPeers {
    fn me(&self) -> ParticipantId {
        ParticipantId::ANONYMOUS
    }
    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }
    fn can_be(&self, _: ParticipantId) -> bool {
        false
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        false
    }
}
