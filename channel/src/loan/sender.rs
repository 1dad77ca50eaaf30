//! The sending end.

use core::alloc::Layout;
use core::cell::{Cell, RefCell};
use core::fmt;

use multiprocess_core::{Deadline, Memory, Peers, Timeout};
use multiprocess_shm::ArenaStatistics;

use super::held::Held;
use super::{AttachRingError, Home, Loan, LoanError, MAX_LEN, Recovered, Reference, Statistics};
use crate::SendError;
use crate::mpmc;
use crate::spsc::Message;
use crate::store::{Blocks, Part, Refused};

/// Two messages never lie in neighbouring lines: who looks at one makes the hardware fetch the other line, too,
/// under the hands of who writes there (README, *Lines*).
const ALIGN: usize = 128;

/// Lends blocks, which are then sent, beside any number of others.
///
/// A handle has a seat at the ring and is used by one thread; make another one for another thread or
/// process. Dropping it gives the seat back; with the last one the receivers are disconnected.
///
/// # Memory ordering
///
/// What happened before a loan was sent happened before it is taken.
///
/// # Crash safety
///
/// A loan is sent, or not, in one step; of a sender that is killed at most the last one is in doubt, and the
/// blocks it had come back. Killed or stopped at any instruction it blocks nobody. Trust: see the
/// [module](super#trust).
///
/// # Fork
///
/// A child's copy takes a seat of its own when it is first used; if none is free it is disconnected.
pub struct Sender<M: Memory = Home, P: Peers = Home> {
    /// Borrowed for single operations, in which nobody comes back here.
    pub(super) ring: RefCell<mpmc::Sender<Reference, Part<M>, P>>,
    pub(super) blocks: Blocks<Reference, M, P>,
    /// What the last loan was refused for: no such block was free.
    wanted: Cell<Option<Layout>>,
}

impl<M: Memory, P: Peers> Sender<M, P> {
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
        Ok(Self::of(mpmc::Sender::attach(ring, peers)?, blocks))
    }

    pub(super) fn of(
        ring: mpmc::Sender<Reference, Part<M>, P>,
        blocks: Blocks<Reference, M, P>,
    ) -> Self {
        Self {
            ring: RefCell::new(ring),
            blocks,
            wanted: Cell::new(None),
        }
    }

    /// Another sender for the same ring.
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

    /// Borrows `len` bytes, if a block is free.
    ///
    /// # Errors
    ///
    /// [`LoanError`]. That no block is free is said after taking back what the dead had.
    #[inline]
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_, M, P>, LoanError> {
        self.loan_timeout(len, core::time::Duration::ZERO)
    }

    /// Borrows `len` bytes, waiting for a free block as long as it takes. Who holds all the blocks that there
    /// are itself waits for ever.
    ///
    /// # Errors
    ///
    /// [`LoanError`].
    #[inline]
    pub fn loan(&self, len: usize) -> Result<Loan<'_, M, P>, LoanError> {
        self.loan_timeout(len, Timeout::Never)
    }

    /// Borrows `len` bytes, waiting for a free block for at most `timeout`; zero tries once.
    ///
    /// # Errors
    ///
    /// [`LoanError`].
    #[inline]
    pub fn loan_timeout(
        &self,
        len: usize,
        timeout: impl Into<Timeout>,
    ) -> Result<Loan<'_, M, P>, LoanError> {
        // A loan of nothing has a block all the same.
        match Layout::from_size_align(len.max(1), ALIGN) {
            Ok(layout) => self.lend(layout, len, timeout.into()),
            Err(_) => Err(self.too_large()),
        }
    }

    /// Borrows as much as a `T` needs and moves `value` there, waiting for a free block as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LoanError`].
    pub fn loan_value<T: Message>(&self, value: T) -> Result<Loan<'_, M, P>, LoanError> {
        let mut loan = self.loan(size_of::<T>())?;
        loan.copy_from_slice(bytemuck::bytes_of(&value));
        Ok(loan)
    }

    #[inline]
    fn lend(
        &self,
        layout: Layout,
        len: usize,
        timeout: Timeout,
    ) -> Result<Loan<'_, M, P>, LoanError> {
        if len > MAX_LEN {
            return Err(self.too_large());
        }
        let deadline = || Deadline::after(timeout);
        let recover = || {
            self.recover();
        };
        match self.blocks.allocate(layout, deadline, recover) {
            Ok(block) => {
                self.wanted.set(None);
                Ok(Loan {
                    sender: self,
                    held: Held::new(&self.blocks, block, len),
                })
            }
            Err(refused) => {
                let error = self.refusal(refused);
                let is_exhausted = error == LoanError::Exhausted;
                self.wanted.set(is_exhausted.then_some(layout));
                Err(error)
            }
        }
    }

    #[cold]
    fn refusal(&self, refused: Refused) -> LoanError {
        match refused {
            Refused::TooLarge => self.too_large(),
            Refused::NotAParticipant => LoanError::NotAParticipant,
            Refused::Waiting(SendError::Disconnected(())) => LoanError::Disconnected,
            Refused::Waiting(SendError::System((), errno)) => LoanError::System(errno),
            Refused::Waiting(_) => LoanError::Exhausted,
        }
    }

    #[cold]
    fn too_large(&self) -> LoanError {
        let max = self.blocks.arena().config().bytes().min(MAX_LEN as u64) as usize;
        LoanError::TooLarge { max }
    }

    /// What a wait is for, if not for a place in the ring.
    pub(super) fn wanted(&self) -> Option<Layout> {
        self.wanted.get()
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

    /// Whether all receivers are gone, or the ring is closed.
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

impl<M: Memory, P: Peers> fmt::Debug for Sender<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("loan::Sender")
            .field("ring", &self.ring)
            .field("blocks", self.blocks.arena().config())
            .finish_non_exhaustive()
    }
}
