//! The receiving end.

use core::cell::RefCell;
use core::fmt;
use core::mem::ManuallyDrop;

use multiprocess_core::{Deadline, Memory, Peers, Timeout};
use multiprocess_shm::ArenaStatistics;

use super::held::Held;
use super::{AttachRingError, Home, MAX_LEN, Recovered, Reference, Sample, Statistics};
use crate::mpmc;
use crate::store::{Blocks, Part};
use crate::{RecvError, TryRecvError};

/// Takes messages and reads them in place, beside any number of others: each message goes to one of them.
///
/// If a receiver is killed with a message in hand, that goes to another one (at least once), or is dropped, as
/// the ring's [`Orphans`](super::Orphans) say.
///
/// A handle has a seat at the ring and is used by one thread; make another one for another thread or
/// process. Dropping it gives the seat back; with the last one the senders are disconnected.
///
/// # Memory ordering
///
/// What happened before a loan was sent happened before it is taken.
///
/// # Crash safety
///
/// Killed or stopped at any instruction it blocks nobody. Trust: see the [module](super#trust).
///
/// # Fork
///
/// A child's copy takes a seat of its own when it is first used; if none is free it is disconnected.
pub struct Receiver<M: Memory = Home, P: Peers = Home> {
    /// Borrowed for single operations, in which nobody comes back here.
    pub(super) ring: RefCell<mpmc::Receiver<Reference, Part<M>, P>>,
    pub(super) blocks: Blocks<Reference, M, P>,
}

impl<M: Memory, P: Peers> Receiver<M, P> {
    /// Takes a seat at the ring in `memory`, for a process that is `peers` to the others.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`].
    pub fn attach(memory: M, peers: P) -> Result<Self, AttachRingError>
    where
        M: Clone,
        P: Clone,
    {
        let (blocks, ring) = Blocks::attach(memory, peers.clone())?;
        let ring = RefCell::new(mpmc::Receiver::attach(ring, peers)?);
        Ok(Self { ring, blocks })
    }

    /// Another receiver for the same ring.
    ///
    /// # Errors
    ///
    /// [`AttachRingError`]; no seat may be free.
    pub fn try_clone(&self) -> Result<Self, AttachRingError>
    where
        M: Clone,
        P: Clone,
    {
        Self::attach(self.memory().clone(), self.peers().clone())
    }

    /// Takes a message if one is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`]. A message that is `Corrupt` is gone.
    #[inline]
    pub fn try_take(&self) -> Result<Sample<'_, M, P>, TryRecvError> {
        self.take_until(|| None).map_err(|error| match error {
            RecvError::Disconnected => TryRecvError::Disconnected,
            RecvError::Corrupt => TryRecvError::Corrupt,
            RecvError::Timeout | RecvError::System(_) => TryRecvError::Empty,
        })
    }

    /// Takes a message, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError`]. A message that is `Corrupt` is gone.
    #[inline]
    pub fn take(&self) -> Result<Sample<'_, M, P>, RecvError> {
        loop {
            match self.take_timeout(Timeout::Never) {
                Err(RecvError::Timeout) => {}
                other => return other,
            }
        }
    }

    /// Takes a message, waiting for one for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`RecvError`]. A message that is `Corrupt` is gone.
    #[inline]
    pub fn take_timeout(&self, timeout: impl Into<Timeout>) -> Result<Sample<'_, M, P>, RecvError> {
        let timeout = timeout.into();
        let mut deadline = None;
        self.take_until(|| Some(*deadline.get_or_insert_with(|| Deadline::after(timeout))))
    }

    #[inline]
    fn take_until(
        &self,
        mut deadline: impl FnMut() -> Option<Deadline>,
    ) -> Result<Sample<'_, M, P>, RecvError> {
        // As many orphans as there can be; then it is time to ask the caller again.
        for _ in 0..=self.capacity() {
            let (ticket, is_orphan) = self.ring.borrow_mut().take_raw(&mut deadline)?;
            let sample = self.sample(ticket)?;
            if !is_orphan || !self.discards() {
                return Ok(sample);
            }
        }
        Err(RecvError::Timeout)
    }

    /// Step 5 of `store.rs`.
    #[inline]
    fn sample(&self, ticket: u64) -> Result<Sample<'_, M, P>, RecvError> {
        let reference = self.ring.borrow().read_raw(ticket);
        let len = (reference & MAX_LEN as u64) as usize;
        let Some(block) = self.blocks.adopt(&reference) else {
            self.ring.borrow_mut().release_raw(ticket);
            return Err(RecvError::Corrupt);
        };
        let fits = len <= block.size();
        let sample = Sample {
            receiver: self,
            ticket,
            held: ManuallyDrop::new(Held::new(&self.blocks, block, len)),
        };
        match fits {
            true => Ok(sample),
            false => Err(RecvError::Corrupt),
        }
    }

    #[cold]
    fn discards(&self) -> bool {
        self.blocks.ring().discards()
    }

    /// Nothing more is sent into this ring, by anybody: receivers take what is there and are then
    /// disconnected.
    pub fn close_ring(&self) {
        self.ring.borrow_mut().close_ring();
    }

    /// Gives the seat back. Idempotent; dropping does the same.
    pub fn close(&mut self) {
        self.ring.get_mut().close();
    }

    /// Takes back what dead processes held, blocks included. Whoever waits, or finds no block, does this by
    /// itself.
    pub fn recover(&self) -> Recovered {
        self.blocks.recover(Some(&self.ring.borrow().endpoint))
    }

    /// Whether all senders are gone, or the ring is closed; messages may still be there.
    pub fn is_disconnected(&self) -> bool {
        self.ring.borrow().is_disconnected()
    }

    /// Messages the ring holds at most.
    pub fn capacity(&self) -> u64 {
        self.ring.borrow().capacity()
    }

    /// Messages in the ring, at the moment of asking. Walks the ring.
    pub fn len(&self) -> u64 {
        self.ring.borrow().len()
    }

    /// Whether no message is in the ring, at the moment of asking. Walks the ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has gone through the ring.
    pub fn statistics(&self) -> Statistics {
        self.ring.borrow().statistics()
    }

    /// What has become of the memory for blocks. Walks the arena.
    pub fn memory_statistics(&self) -> ArenaStatistics {
        self.blocks.arena().statistics()
    }

    /// Spins at most `pauses` pauses before it sleeps; 0 sleeps at once. The default adapts.
    pub fn set_spin_cap(&mut self, pauses: u32) {
        self.ring.get_mut().set_spin_cap(pauses);
    }

    /// What ring and blocks lie in.
    pub fn memory(&self) -> &M {
        self.blocks.memory()
    }

    /// Who we are.
    pub fn peers(&self) -> &P {
        self.blocks.arena().peers()
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Receiver<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("loan::Receiver")
            .field("ring", &self.ring)
            .field("blocks", self.blocks.arena().config())
            .finish_non_exhaustive()
    }
}
