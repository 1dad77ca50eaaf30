//! Whose pouch is whose: values take their descriptors through a queue.
//!
//! A pouch (`rack.rs`) is held as a block of the store is, by the same words and with the same protocol
//! (`store.rs`): for each there is a block of a second arena, in which nothing is written. What a message
//! names is the pouch, and how many descriptors are in it. So a pouch has one user at a time, whose death the
//! kernel attests, and who uses it needs no lock.
//!
//! # Protocol
//!
//! *put*: (1) allocate; (2) throw away what a killed one has left in it; (3) fill, by one system call; (4) send the
//! message, which names it. *get*: (5) take the message; (6) adopt; (7) peek: duplicates; (8) decode; (9)
//! release the message; (10) throw away what is in it; (11) free. *recover*, after that of the ring: (12) a
//! pouch of the dead that no message names is inherited; then 10 and 11.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | recovery |
//! |---|---|---|
//! | 1, 2 | a pouch that no message names | freed |
//! | 3 | the same, with descriptors in it | thrown away, freed |
//! | 4 | a message that names it | adopted by who takes that |
//! | 5 to 8 | an orphan that names it, and all its descriptors in it | the same: it gets them |
//! | 9 | a pouch that no message names, with descriptors | thrown away, freed |
//! | 10 | a pouch that no message names | freed |
//! | 11 | nothing; who waits for a pouch is not told | it looks at its inner bound |
//! | 12 | what is left is done by the next one | |
//!
//! Until it is recovered, or filled again, what was left in a pouch stays open. Whoever waits for a pouch
//! recovers; `Queue::recover` does it at once.

use std::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiprocess_core::Errno;
use multiprocess_shm::{AllocError, Arena, Block};

use super::envelope::Envelope;
use super::error::QueueError;
use super::rack::{Missing, Pouch, Rack};
use crate::home::Home;
use crate::store::{self, Part, Shape};

/// A power of four, for that is how many a rack has. None is none.
fn round_up(pouches: u64) -> u64 {
    match pouches {
        0 => 0,
        some if some > store::MAX_POUCHES => some,
        some => {
            let power = some.max(store::MIN_POUCHES).next_power_of_two();
            power << (power.ilog2() % 2)
        }
    }
}

/// The pouches of a queue, to this process.
pub(super) struct Pouches {
    arena: Arena<Part<Home>, Home>,
    rack: Rack,
    /// Bytes of a block that stands for one.
    bytes: u64,
}

/// A pouch in our hands, with descriptors in it.
pub(super) struct Held {
    block: Block,
    /// `None`: opened, it is to be thrown away all the same.
    pouch: Option<Pouch>,
}

impl Pouches {
    /// A rack for a queue that is about to be made, which is told of in its shape.
    pub(super) fn rack(shape: &mut Shape) -> Result<Option<Rack>, QueueError> {
        shape.pouches = round_up(shape.pouches);
        if shape.pouches == 0 || shape.pouches > store::MAX_POUCHES {
            return Ok(None);
        }
        let rack = Rack::create(shape.pouches).map_err(QueueError::Sockets)?;
        shape.rack = rack.number().map_err(QueueError::Sockets)?;
        Ok(Some(rack))
    }

    /// Those of the queue in `home`, with the rack that belongs to it.
    pub(super) fn attach(home: &Home, shape: &Shape, rack: Rack) -> Result<Self, QueueError> {
        let part = store::pouches::<Envelope, _>(home.clone())?;
        Ok(Self {
            arena: Arena::attach(part, home.clone())?,
            rack,
            bytes: shape.pouch_bytes(),
        })
    }

    pub(super) fn rack_fd(&self) -> BorrowedFd<'_> {
        self.rack.as_fd()
    }

    fn open(&self, block: &Block) -> Result<Pouch, Missing> {
        self.rack.open(block.offset() / self.bytes)
    }

    /// Step 1. `Ok(None)`: others have all of them.
    pub(super) fn allocate(&self) -> Result<Option<Block>, AllocError> {
        let layout = Layout::from_size_align(self.bytes as usize, 1);
        match layout.map(|layout| self.arena.allocate(layout)) {
            Ok(Err(AllocError::NoSpace { .. })) | Err(_) => Ok(None),
            Ok(other) => other.map(Some),
        }
    }

    /// Steps 2 and 3. The pouch is free again if they fail.
    pub(super) fn fill(&self, block: Block, fds: &[BorrowedFd<'_>]) -> Result<Held, Unfilled> {
        let pouch = match self.open(&block) {
            Ok(pouch) => pouch,
            Err(missing) => {
                let _ = self.arena.free(block);
                return Err(missing.into());
            }
        };
        let filled = match pouch.empty() {
            true => pouch.fill(fds).map_err(Unfilled::System),
            false => Err(Unfilled::Spoilt),
        };
        let held = Held {
            block,
            pouch: Some(pouch),
        };
        match filled {
            Ok(()) => Ok(held),
            Err(error) => {
                self.free(held);
                Err(error)
            }
        }
    }

    /// Step 6, for a message in our hands that names the pouch at `offset`.
    pub(super) fn adopt(&self, offset: u64) -> Option<Held> {
        // SAFETY: the message names it, and is in our hands alone, as in `Blocks::adopt`. Nothing is in the
        // block; a peer that lies about it gets us another value's descriptors.
        let block = unsafe { self.arena.adopt(offset) }?;
        Some(Held { block, pouch: None })
    }

    /// Step 7: so many duplicates.
    pub(super) fn peek(&self, held: &mut Held, count: usize) -> Result<Vec<OwnedFd>, Missing> {
        let pouch = self.open(&held.block)?;
        let fds = pouch.peek(count);
        held.pouch = Some(pouch);
        fds
    }

    /// Steps 10 and 11, for a pouch that no message names.
    pub(super) fn free(&self, held: Held) {
        let Held { block, pouch } = held;
        // No descriptor left to open it: who fills it throws away what is in it.
        if let Some(pouch) = pouch.or_else(|| self.open(&block).ok()) {
            pouch.empty();
        }
        let _ = self.arena.free(block);
    }

    /// Step 12.
    pub(super) fn recover(&self, is_named: impl Fn(u64) -> bool) {
        self.arena
            .inherit_unless(is_named, |block| self.free(Held { block, pouch: None }));
    }
}

impl Held {
    /// What names it.
    pub(super) fn offset(&self) -> u64 {
        self.block.offset()
    }
}

/// Why the descriptors of a value did not get into a pouch.
pub(super) enum Unfilled {
    System(Errno),
    Spoilt,
}

impl From<Missing> for Unfilled {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Scarce(errno) => Self::System(errno),
            Missing::Spoilt => Self::Spoilt,
        }
    }
}
