//! What senders and receivers have in common: a seat, a cursor, and how they wait.

use core::cell::Cell;

use multiprocess_core::atomic::{
    IS_MODEL,
    Ordering::{Relaxed, Release, SeqCst},
};
use multiprocess_core::pair::PairSwap;
use multiprocess_core::park::{Parked, Patience};
use multiprocess_core::spin::AdaptiveSpin;
use multiprocess_core::thread::generation;
use multiprocess_core::{AttachError, Deadline, Errno, Memory, Peers, Place};

use super::bell::Bell;
use super::layout::Parts;
use super::pace::Pace;
use super::table::{JoinError, LAPS, Recovered};
use super::words::{Owner, Role, State, Ticket, WORD, Word};
use super::{AttachRingError, Ring};
use crate::spsc::Message;

/// Looks at the same stalled word before it is stepped over. In a model whoever stands still is stalled.
const PATIENCE: u32 = if IS_MODEL { 0 } else { 256 };

/// A hint is stored once in so many tickets.
pub(super) const HINT_MASK: u64 = 7;

/// The high-water mark is looked for once in so many tickets at most, a power of two.
const HIGH_WATER: u64 = 128;

pub(crate) struct Endpoint<T: Message, M: Memory, P: Peers> {
    memory: M,
    pub(super) parts: Parts<T>,
    peers: P,
    role: Role,
    /// Our number among the seats, and the seat's word as we wrote it.
    pub(super) number: Owner,
    taken: u64,
    /// The process that joined; a forked child has to join by itself.
    generation: u64,
    pub(super) is_open: bool,
    /// Where we look next. Process-local, as all that follows.
    pub(super) cursor: Ticket,
    /// The stalled word that we have looked at, and how often.
    stalled: Cell<(u64, u32)>,
    messages: u64,
    /// Messages that we have taken and not given back.
    pub(super) in_hand: u64,
    /// Tickets before this one are within the ring's limit.
    pub(super) room_until: Cell<Ticket>,
    /// For sending in one step, where a message is a word at most.
    pub(super) pair: Option<PairSwap>,
    /// The number of messages in the ring is looked at when the tail is a multiple of one more than this.
    pub(super) high_water_mask: u64,
    pub(super) pace: Pace,
    spin: AdaptiveSpin,
}

/// Why a wait ended without what was waited for.
pub(super) enum GaveUp<E> {
    Timeout,
    System(Errno),
    Other(E),
}

/// What one look of a waiting handle has found.
pub(super) enum Look<R, E> {
    Done(R),
    NotYet,
    Failed(E),
}

// SAFETY: the parts point into `memory`, which moves along; what they point to is atomics.
unsafe impl<T: Message, M: Memory + Send, P: Peers + Send> Send for Endpoint<T, M, P> {}

impl<T: Message, M: Memory, P: Peers> Endpoint<T, M, P> {
    pub(super) fn attach(memory: M, peers: P, role: Role) -> Result<Self, AttachRingError> {
        let mut endpoint = Self::standing(memory, peers, role)?;
        endpoint.join()?;
        Ok(endpoint)
    }

    /// With a seat that was kept for us, if it still is.
    #[cfg(feature = "serde")]
    pub(super) fn attach_kept(
        memory: M,
        peers: P,
        role: Role,
        (number, kept): (Owner, u64),
    ) -> Result<Self, AttachRingError> {
        let mut endpoint = Self::standing(memory, peers, role)?;
        let me = endpoint.peers.me();
        match endpoint.parts.take_kept(number, kept, role, me) {
            Some(taken) => endpoint.sit_down(number, taken),
            None => endpoint.join()?,
        }
        Ok(endpoint)
    }

    /// Whether it has a seat, of this process.
    pub(crate) fn is_seated(&self) -> bool {
        self.is_open && self.is_ours()
    }

    /// Keeps a seat for who gets a message.
    #[cfg(feature = "serde")]
    pub(super) fn keep_seat(&self) -> Result<(Owner, u64), JoinError> {
        self.free_seat()
    }

    /// Without a seat: to look on, and to close.
    pub(super) fn standing(memory: M, peers: P, role: Role) -> Result<Self, AttachRingError> {
        let config = Ring::<T>::attach(memory.region())?;
        let parts = Parts::of(memory.region(), &config)?;
        parts.bound().bind(&peers)?;
        Ok(Self {
            memory,
            parts,
            peers,
            role,
            number: 0,
            taken: 0,
            generation: generation(),
            is_open: false,
            cursor: Ticket::new(0),
            stalled: Cell::new((0, 0)),
            messages: 0,
            in_hand: 0,
            room_until: Cell::new(Ticket::new(0)),
            pair: match role {
                Role::Sender if size_of::<T>() <= WORD => PairSwap::detect(),
                _ => None,
            },
            high_water_mask: (config.capacity / 8).clamp(HINT_MASK + 1, HIGH_WATER) - 1,
            pace: Pace::new(role, config.capacity),
            spin: AdaptiveSpin::new(),
        })
    }

    fn free_seat(&self) -> Result<(Owner, u64), JoinError> {
        match self.parts.join(self.role, self.peers.me()) {
            Err(JoinError::Full) => {
                // The dead may be in the way.
                self.parts.recover(&self.peers);
                self.parts.join(self.role, self.peers.me())
            }
            other => other,
        }
    }

    fn join(&mut self) -> Result<(), JoinError> {
        let (number, taken) = self.free_seat()?;
        self.sit_down(number, taken);
        Ok(())
    }

    fn sit_down(&mut self, number: Owner, taken: u64) {
        (self.number, self.taken) = (number, taken);
        self.in_hand = 0;
        self.generation = generation();
        self.is_open = true;
        self.stalled.set((0, 0));
        let control = self.parts.control();
        let hint = match self.role {
            Role::Sender => &control.tail,
            Role::Receiver => &control.head,
        };
        self.cursor = Ticket::new(hint.load(Relaxed));
        self.room_until.set(self.cursor);
        let seat = self.parts.seat(self.number);
        self.messages = seat.map_or(0, |seat| seat.messages.load(Relaxed));
    }

    /// Whether this handle may be used; in a forked child it joins by itself at the first use.
    #[inline(always)]
    pub(super) fn is_usable(&mut self) -> bool {
        self.is_open && (self.is_ours() || self.join_in_child())
    }

    /// Whether the process that joined is this one.
    #[inline(always)]
    pub(super) fn is_ours(&self) -> bool {
        self.generation == generation()
    }

    #[cold]
    fn join_in_child(&mut self) -> bool {
        // The seat is the parent's.
        self.is_open = false;
        self.join().is_ok()
    }

    pub(super) fn close(&mut self) {
        if core::mem::take(&mut self.is_open) && self.is_ours() {
            if core::mem::take(&mut self.in_hand) > 0 {
                // Forgotten, or unwound: as if we had died.
                self.parts.take_back(self.number, &mut Recovered::default());
                self.parts.control().receivers.ring_all();
                self.parts.control().senders.ring_all();
            }
            self.parts.leave(self.number, self.taken, self.role);
        }
    }

    #[cfg(feature = "serde")]
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    pub(super) fn peers(&self) -> &P {
        &self.peers
    }

    /// Pauses to spend before the next sleep. In a stream it is several of the pace's, which were
    /// worth it lately.
    fn looks(&self) -> u32 {
        match self.spin.budget() {
            0 => 0,
            budget => budget.max(4 * self.pace.pause()),
        }
    }

    pub(super) fn set_spin_cap(&mut self, cap: u32) {
        self.spin = AdaptiveSpin::with_cap(cap);
    }

    pub(super) fn recover(&self) -> Recovered {
        self.parts.recover(&self.peers)
    }

    /// Whether `bits` has stalled us for long enough to step over it.
    #[allow(
        clippy::absurd_extreme_comparisons,
        reason = "nobody is patient in a model"
    )]
    pub(super) fn is_impatient(&self, bits: u64) -> bool {
        let (seen, looks) = self.stalled.get();
        let looks = if seen == bits {
            looks.saturating_add(1)
        } else {
            0
        };
        self.stalled.set((bits, looks));
        looks >= PATIENCE
    }

    /// Patience counts looks, which says nothing of time once we give up the CPU: the next look at the
    /// same word is the last.
    pub(super) fn hurry(&self) {
        let (seen, _) = self.stalled.get();
        self.stalled.set((seen, u32::MAX - 1));
    }

    /// Steps 4, 7 and 11 for a slot that was taken to be stalled while we had it: the word becomes
    /// `back` of what it is. `false` if the word is not ours, which peers that keep to the protocol
    /// never do.
    #[cold]
    pub(super) fn hand_back(&self, ticket: Ticket, back: impl Fn(Word) -> Word) -> bool {
        let word = &self.parts.slot(ticket).word;
        for _ in 0..LAPS {
            let bits = word.load(Relaxed);
            let seen = Word::from_bits(bits);
            if seen.owner != self.number || !seen.is_held() {
                return false;
            }
            // Release pairs with the Acquire load of who takes the slot next. Third parties only ever
            // advance the ticket, so a failure means that a lap has passed.
            if word
                .compare_exchange(bits, back(seen).bits(), Release, Relaxed)
                .is_ok()
            {
                return true;
            }
        }
        false
    }

    /// Step 7. `false` if a peer has broken the protocol.
    #[inline(always)]
    pub(super) fn give_back(&self, ticket: Ticket) -> bool {
        let word = &self.parts.slot(ticket).word;
        let reading = Word::new(State::Reading, self.number, ticket).bits();
        let free = Word::of_nobody(State::Empty, ticket.plus(self.parts.capacity));
        // Release pairs with the Acquire of step 1: our loads come before the next message's stores.
        // SeqCst for the bell.
        let given = word.compare_exchange(reading, free.bits(), SeqCst, Relaxed);
        if given.is_err() {
            let handed = self.hand_back(ticket, |held| held.skipped());
            self.tell_joiners();
            return handed;
        }
        self.parts.control().senders.ring();
        self.tell_joiners();
        true
    }

    /// A message is done.
    #[inline(always)]
    pub(super) fn tell_joiners(&self) {
        if self.parts.is_joinable {
            self.parts.control().rare.joiners.ring_all();
        }
    }

    /// One more message; only we write the counter.
    #[inline(always)]
    pub(super) fn count_message(&mut self) {
        self.messages = self.messages.wrapping_add(1);
        if let Some(seat) = self.parts.seat(self.number) {
            seat.messages.store(self.messages, Relaxed);
        }
    }

    #[cold]
    pub(super) fn count_quarantine(&self) {
        if let Some(seat) = self.parts.seat(self.number) {
            let count = seat.quarantines.load(Relaxed);
            seat.quarantines.store(count.wrapping_add(1), Relaxed);
        }
    }

    /// The bell of our own side, where we sleep.
    fn own_bell(&self) -> &Bell {
        match self.role {
            Role::Sender => &self.parts.control().senders,
            Role::Receiver => &self.parts.control().receivers,
        }
    }

    /// As [`Parts::len`].
    pub(super) fn len(&self) -> u64 {
        self.parts.len()
    }
}

/// Looks until one look is done: tightly at first, then paced, then asleep. `H` has the endpoint.
#[cold]
pub(super) fn wait<H, T: Message, M: Memory, P: Peers, R, E>(
    handle: &mut H,
    endpoint: impl Fn(&mut H) -> &mut Endpoint<T, M, P>,
    deadline: Deadline,
    look: impl Fn(&mut H) -> Look<R, E>,
) -> Result<R, GaveUp<E>> {
    let budget = match deadline.has_passed() {
        true => 0,
        false => endpoint(handle).looks(),
    };
    let mut used = 0;
    while used < budget {
        used += endpoint(handle).pace.miss().max(1);
        match look(handle) {
            Look::Done(result) => {
                endpoint(handle).spin.record(used);
                return Ok(result);
            }
            Look::Failed(error) => return Err(GaveUp::Other(error)),
            Look::NotYet => {}
        }
    }
    endpoint(handle).spin.record(budget);
    let mut patience = Patience::new();
    loop {
        let late = deadline.has_passed();
        endpoint(handle).hurry();
        let armed = endpoint(handle).own_bell().arm();
        match look(handle) {
            Look::Done(result) => return Ok(result),
            Look::Failed(error) => return Err(GaveUp::Other(error)),
            Look::NotYet if late => return Err(GaveUp::Timeout),
            Look::NotYet => {}
        }
        let endpoint = endpoint(handle);
        match endpoint.own_bell().park(armed, &mut patience, deadline) {
            // The inner bound, or the end of a wait that is too short for one: somebody may have died, and
            // hold what we wait for.
            Ok(Parked::Recheck | Parked::TimedOut) => drop(endpoint.recover()),
            Ok(_) => {}
            Err(errno) => return Err(GaveUp::System(errno)),
        }
    }
}

impl<T: Message, M: Memory, P: Peers> Drop for Endpoint<T, M, P> {
    fn drop(&mut self) {
        self.close();
    }
}

impl From<AttachError> for AttachRingError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<JoinError> for AttachRingError {
    fn from(error: JoinError) -> Self {
        Self::Join(error)
    }
}
