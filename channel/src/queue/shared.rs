//! What the handles of one process share: its places at the ring, and the arena.
//!
//! A value that does not fit a slot lies in a block of the arena, and the slot says where: `store.rs` has the
//! protocol, and what a kill leaves behind.

use std::alloc::Layout;
use std::os::fd::BorrowedFd;

use multiprocess_core::{Deadline, Timeout, copy};
use multiprocess_shm::Block;
use multiprocess_shm::transfer::{self, Parcel, Refusal, is_scarcity};

use super::envelope::{Envelope, POUCHED, SPILLED, body, enclose, pouch, used, value_len};
use super::error::{GetError, PutFailure, QueueError};
use super::pouch::{Held, Pouches, Unfilled};
use super::rack::{Missing, Rack};
use super::spare::Spare;
use crate::home::Home;
use crate::mpmc::{AttachRingError, JoinError, Receiver, Sender};
use crate::store::{Blocks, Part, Refused, Shape};
use crate::{RecvError, SendError};

pub(super) type Tx = Sender<Envelope, Part<Home>, Home>;
pub(super) type Rx = Receiver<Envelope, Part<Home>, Home>;

pub(super) struct Shared {
    pub(super) home: Home,
    blocks: Blocks<Envelope, Home, Home>,
    /// The ring's bytes.
    ring: Part<Home>,
    pub(super) shape: Shape,
    pub(super) pouches: Option<Pouches>,
    senders: Spare<Tx>,
    receivers: Spare<Rx>,
}

/// A message in hand: its ticket, the block of a large value, and the pouch with its descriptors.
pub(super) struct InHand {
    ticket: u64,
    block: Option<Block>,
    pouch: Option<Held>,
}

impl Shared {
    /// With the rack, if the queue carries descriptors.
    pub(super) fn new(home: Home, shape: Shape, rack: Option<Rack>) -> Result<Self, QueueError> {
        let (blocks, ring) = Blocks::attach(home.clone(), home.clone())?;
        let pouches = rack.map(|rack| Pouches::attach(&home, &shape, rack));
        Ok(Self {
            pouches: pouches.transpose()?,
            home,
            blocks,
            ring,
            shape,
            senders: Spare::new(),
            receivers: Spare::new(),
        })
    }

    /// A sender that no other thread uses. What a forked child has inherited is its parent's.
    #[inline]
    fn with_sender<R>(&self, use_it: impl FnOnce(&mut Tx) -> R) -> Result<R, AttachRingError> {
        let mut sender = match self.senders.take().filter(|sender| sender.is_seated()) {
            Some(sender) => sender,
            None => Box::new(Sender::attach(self.ring.clone(), self.home.clone())?),
        };
        let result = use_it(&mut sender);
        if sender.is_seated() {
            self.senders.keep(sender);
        }
        Ok(result)
    }

    /// Who looks on: it needs no place.
    pub(super) fn onlooker(&self) -> Result<Tx, AttachRingError> {
        Sender::onlooker(self.ring.clone(), self.home.clone())
    }

    #[inline]
    pub(super) fn receiver(&self) -> Result<Box<Rx>, AttachRingError> {
        match self
            .receivers
            .take()
            .filter(|receiver| receiver.is_seated())
        {
            Some(receiver) => Ok(receiver),
            None => Receiver::attach(self.ring.clone(), self.home.clone()).map(Box::new),
        }
    }

    #[inline]
    pub(super) fn keep(&self, receiver: Box<Rx>) {
        if receiver.is_seated() {
            self.receivers.keep(receiver);
        }
    }

    /// Sends a value: its envelope, or what is too large for one.
    #[inline]
    pub(super) fn send(
        &self,
        envelope: &mut Envelope,
        large: Option<Vec<u8>>,
        timeout: Timeout,
    ) -> Result<(), PutFailure> {
        let sent = self.with_sender(|sender| match large {
            None => deliver(sender, envelope, || Deadline::after(timeout)),
            // One for the memory and the slot.
            Some(bytes) => self.send_large(sender, envelope, &bytes, Deadline::after(timeout)),
        });
        sent.map_err(|error| PutFailure::Queue(error.into()))?
    }

    /// The same with descriptors. They are in the queue then, and what is in the parcel is closed.
    pub(super) fn send_carrying(
        &self,
        pouches: &Pouches,
        bytes: Vec<u8>,
        parcel: Parcel,
        timeout: Timeout,
    ) -> Result<(), PutFailure> {
        let mut envelope = Envelope::default();
        if parcel.fds().len() == 0 {
            let large = enclose(bytes, &mut envelope);
            return self.send(&mut envelope, large, timeout);
        }
        let fds: Vec<_> = parcel.fds().collect();
        // One for the pouch, the memory and the slot.
        let deadline = Deadline::after(timeout);
        let held = self.fill_pouch(pouches, &fds, deadline)?;
        envelope[0] = POUCHED;
        envelope[1] = held.offset() | (fds.len() as u64) << 32;
        let large = enclose(bytes, &mut envelope);
        let sent = self.send(&mut envelope, large, deadline.remaining().into());
        match sent {
            // It is whose the message is.
            Ok(()) => drop(parcel.into_fds()),
            Err(_) => self.free_pouch(pouches, held),
        }
        sent
    }

    fn fill_pouch(
        &self,
        pouches: &Pouches,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Held, PutFailure> {
        let again = || pouches.allocate().ok().flatten();
        let block = match pouches.allocate() {
            Ok(Some(block)) => Ok(block),
            Ok(None) => self.blocks.wait(deadline, again, || self.recover()),
            Err(_) => Err(Refused::NotAParticipant),
        };
        let filled = pouches.fill(block.map_err(refused)?, fds);
        filled.map_err(|unfilled| {
            self.blocks.ring().ring_for_memory();
            match unfilled {
                Unfilled::System(errno) => PutFailure::Descriptors(errno),
                Unfilled::Spoilt => PutFailure::Corrupt,
            }
        })
    }

    fn free_pouch(&self, pouches: &Pouches, held: Held) {
        pouches.free(held);
        self.blocks.ring().ring_for_memory();
    }

    fn send_large(
        &self,
        sender: &mut Tx,
        envelope: &mut Envelope,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), PutFailure> {
        let too_large = PutFailure::TooLarge { bytes: bytes.len() };
        let Ok(layout) = Layout::from_size_align(bytes.len(), 1) else {
            return Err(too_large);
        };
        let allocated = self.blocks.allocate(layout, || deadline, || self.recover());
        let block = match allocated {
            Ok(block) => block,
            Err(Refused::TooLarge) => return Err(too_large),
            Err(other) => return Err(refused(other)),
        };
        // SAFETY: the block is ours, and as large as asked for; peers read it by atomics of the same
        // unit, or not before they have the message.
        unsafe { copy::store_bytes(self.blocks.arena().data(&block).as_ptr(), bytes) };
        envelope[0] |= SPILLED | bytes.len() as u64;
        envelope[body(envelope)] = block.offset();
        let sent = deliver(sender, envelope, || deadline);
        if sent.is_err() {
            self.blocks.free(block);
        }
        // Otherwise it is whose the message is.
        sent
    }

    /// Takes back all that the dead had.
    pub(super) fn recover(&self) {
        self.blocks.recover(None);
        if let Some(pouches) = &self.pouches {
            let ring = self.blocks.ring();
            pouches.recover(|offset| {
                ring.has_message(|message| pouch(message).is_some_and(|(at, _)| at == offset))
            });
            ring.ring_for_memory();
        }
    }

    /// Takes a message and gives its bytes to `decode`. It stays in hand, also if `decode` fails; if that
    /// panics, the message goes to another one with the receiver's place.
    pub(super) fn take<R>(
        &self,
        receiver: &mut Rx,
        timeout: Timeout,
        decode: impl FnOnce(&[u8]) -> Result<R, GetError>,
    ) -> Result<(InHand, Result<R, GetError>), GetError> {
        let (ticket, _) = receiver
            .take_raw(|| Some(Deadline::after(timeout)))
            .map_err(|error| match error {
                RecvError::Timeout => GetError::Empty,
                RecvError::Disconnected => GetError::Closed,
                RecvError::Corrupt => GetError::Corrupt,
                RecvError::System(errno) => GetError::System(errno),
            })?;
        let cell = receiver.cell_raw(ticket);
        let mut envelope = Envelope::default();
        cell.load_first(&mut envelope[..1]);
        let used = used(&envelope);
        cell.load_first(&mut envelope[..used]);
        // Before anything can go wrong: whatever becomes of the value, its block is ours to free.
        let mut hand = InHand {
            ticket,
            block: self.blocks.adopt(&envelope),
            pouch: None,
        };
        let decoded = match pouch(&envelope) {
            None => self.open(&envelope, &hand, decode),
            Some(pouch) => self.open_carrying(pouch, &envelope, &mut hand, decode),
        };
        Ok((hand, decoded))
    }

    #[inline]
    fn open<R>(
        &self,
        envelope: &Envelope,
        hand: &InHand,
        decode: impl FnOnce(&[u8]) -> Result<R, GetError>,
    ) -> Result<R, GetError> {
        let len = value_len(envelope);
        if envelope[0] & SPILLED == 0 {
            let bytes: &[u8] = bytemuck::cast_slice(&envelope[body(envelope)..]);
            return decode(bytes.get(..len).ok_or(GetError::Corrupt)?);
        }
        match &hand.block {
            Some(block) if len <= block.size() => {
                // Copied out: a peer may write there at any time.
                let mut bytes = vec![0_u8; len];
                // SAFETY: inside the block, as just checked.
                unsafe { copy::load_bytes(self.blocks.arena().data(block).as_ptr(), &mut bytes) };
                decode(&bytes)
            }
            _ => Err(GetError::Corrupt),
        }
    }

    #[cold]
    fn open_carrying<R>(
        &self,
        (offset, count): (u64, usize),
        envelope: &Envelope,
        hand: &mut InHand,
        decode: impl FnOnce(&[u8]) -> Result<R, GetError>,
    ) -> Result<R, GetError> {
        let pouches = self.pouches.as_ref().ok_or(GetError::Corrupt)?;
        let held = hand
            .pouch
            .insert(pouches.adopt(offset).ok_or(GetError::Corrupt)?);
        let fds = pouches.peek(held, count).map_err(|missing| match missing {
            Missing::Scarce(errno) => GetError::Descriptors(errno),
            Missing::Spoilt => GetError::Corrupt,
        })?;
        let supplied = transfer::supply_for_now(fds, || self.open(envelope, hand, decode));
        match supplied {
            (Ok(value), 0) => Ok(value),
            (Ok(_), left) => Err(GetError::Undecodable(format!(
                "{left} descriptors belong to nothing in the value"
            ))),
            (Err(GetError::Undecodable(why)), _) => Err(match transfer::take_whole_refusal() {
                // What a handle in it needs beside its descriptor may be there later.
                Some(Refusal {
                    errno: Some(errno), ..
                }) if is_scarcity(errno) => GetError::Descriptors(errno),
                Some(Refusal { why, .. }) => GetError::Undecodable(why),
                None => GetError::Undecodable(why),
            }),
            (Err(error), _) => Err(error),
        }
    }

    /// Steps 7 and 8 of `store.rs`, 9 to 11 of `pouch.rs`.
    pub(super) fn release(&self, receiver: &mut Rx, hand: InHand) {
        let InHand {
            ticket,
            block,
            pouch,
        } = hand;
        if !receiver.release_raw(ticket) {
            return;
        }
        if let Some(block) = block {
            self.blocks.free(block);
        }
        if let (Some(held), Some(pouches)) = (pouch, &self.pouches) {
            self.free_pouch(pouches, held);
        }
    }

    /// For a message that was no value: it is gone, unless that was for want of descriptors.
    pub(super) fn put_aside(&self, receiver: &mut Rx, hand: InHand, error: &GetError) {
        match error {
            GetError::Descriptors(_) => Self::give_up(receiver, &hand),
            _ => self.release(receiver, hand),
        }
    }

    /// The message goes to another receiver, and its block with it.
    pub(super) fn give_up(receiver: &mut Rx, hand: &InHand) {
        receiver.give_up_raw(hand.ticket);
    }
}

#[inline]
fn deliver(
    sender: &mut Tx,
    envelope: &Envelope,
    deadline: impl FnOnce() -> Deadline,
) -> Result<(), PutFailure> {
    let words = &envelope[..used(envelope)];
    sender
        .send_by(deadline, |cell| cell.store_first(words))
        .map_err(failure)
}

fn refused(refused: Refused) -> PutFailure {
    match refused {
        // Nobody asks for more than a block.
        Refused::TooLarge => PutFailure::Full,
        Refused::Waiting(error) => failure(error),
        Refused::NotAParticipant => PutFailure::Queue(QueueError::Join(JoinError::NotAParticipant)),
    }
}

fn failure<T>(error: SendError<T>) -> PutFailure {
    match error {
        SendError::Timeout(_) => PutFailure::Full,
        SendError::Disconnected(_) => PutFailure::Closed,
        SendError::Corrupt(_) => PutFailure::Corrupt,
        SendError::System(_, errno) => PutFailure::System(errno),
    }
}
