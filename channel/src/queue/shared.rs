//! What the handles of one process share: its places at the ring, and the arena.
//!
//! A value that does not fit a slot lies in a block of the arena, and the slot says where: `store.rs` has the
//! protocol, and what a kill leaves behind.

use std::alloc::Layout;

use multiprocess_core::{Deadline, Timeout, copy};
use multiprocess_shm::Block;

use super::error::{GetError, PutFailure, QueueError};
use super::spare::Spare;
use super::{Envelope, INLINE};
use crate::home::Home;
use crate::mpmc::{AttachRingError, JoinError, Receiver, Sender};
use crate::store::{Blocks, Names, Part, Refused, Shape};
use crate::{RecvError, SendError};

pub(super) type Tx = Sender<Envelope, Part<Home>, Home>;
pub(super) type Rx = Receiver<Envelope, Part<Home>, Home>;

/// In an envelope's first word, above the length: the second word says where the value lies.
const SPILLED: u64 = 1 << 63;

impl Names for Envelope {
    fn block(&self) -> Option<u64> {
        (self[0] & SPILLED != 0).then_some(self[1])
    }
}

pub(super) struct Shared {
    pub(super) home: Home,
    blocks: Blocks<Envelope, Home, Home>,
    /// The ring's bytes.
    ring: Part<Home>,
    pub(super) shape: Shape,
    senders: Spare<Tx>,
    receivers: Spare<Rx>,
}

/// A message in hand: its ticket, and the block of a large value.
pub(super) struct InHand {
    ticket: u64,
    block: Option<Block>,
}

impl Shared {
    pub(super) fn new(home: Home, shape: Shape) -> Result<Self, QueueError> {
        let (blocks, ring) = Blocks::attach(home.clone(), home.clone())?;
        Ok(Self {
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
        envelope: &Envelope,
        large: Option<Vec<u8>>,
        timeout: Timeout,
    ) -> Result<(), PutFailure> {
        let sent = self.with_sender(|sender| match large {
            None => deliver(sender, envelope, || Deadline::after(timeout)),
            // One for the memory and the slot.
            Some(bytes) => self.send_large(sender, &bytes, Deadline::after(timeout)),
        });
        sent.map_err(|error| PutFailure::Queue(error.into()))?
    }

    fn send_large(
        &self,
        sender: &mut Tx,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), PutFailure> {
        let too_large = PutFailure::TooLarge { bytes: bytes.len() };
        let Ok(layout) = Layout::from_size_align(bytes.len(), 1) else {
            return Err(too_large);
        };
        let recover = || {
            self.blocks.recover(None);
        };
        let block = match self.blocks.allocate(layout, || deadline, recover) {
            Ok(block) => block,
            Err(Refused::TooLarge) => return Err(too_large),
            Err(Refused::Waiting(error)) => return Err(failure(error)),
            Err(Refused::NotAParticipant) => {
                return Err(PutFailure::Queue(QueueError::Join(
                    JoinError::NotAParticipant,
                )));
            }
        };
        // SAFETY: the block is ours, and as large as asked for; peers read it by atomics of the same
        // unit, or not before they have the message.
        unsafe { copy::store_slice(self.blocks.arena().data(&block).as_ptr(), bytes) };
        let mut envelope = Envelope::default();
        envelope[0] = SPILLED | bytes.len() as u64;
        envelope[1] = block.offset();
        let sent = deliver(sender, &envelope, || deadline);
        if sent.is_err() {
            self.blocks.free(block);
        }
        // Otherwise it is whose the message is.
        sent
    }

    /// Takes back all that the dead had.
    pub(super) fn recover(&self) {
        self.blocks.recover(None);
    }

    /// Takes a message and gives its bytes to `decode`. It stays in hand, also if `decode` fails; if that
    /// panics, the message goes to another one with the receiver's place.
    pub(super) fn take<R>(
        &self,
        receiver: &mut Rx,
        timeout: Timeout,
        decode: impl FnOnce(&[u8]) -> R,
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
        let mut hand = InHand {
            ticket,
            block: None,
        };
        let len = (envelope[0] & !SPILLED) as usize;
        if envelope[0] & SPILLED == 0 {
            let bytes: &[u8] = bytemuck::cast_slice(&envelope[1..]);
            let decoded = bytes.get(..len).map(decode).ok_or(GetError::Corrupt);
            return Ok((hand, decoded));
        }
        hand.block = self.blocks.adopt(&envelope);
        let decoded = match &hand.block {
            Some(block) if len <= block.size() => {
                // Copied out: a peer may write there at any time.
                let mut bytes = vec![0_u8; len];
                // SAFETY: inside the block, as just checked.
                unsafe { copy::load_slice(self.blocks.arena().data(block).as_ptr(), &mut bytes) };
                Ok(decode(&bytes))
            }
            _ => Err(GetError::Corrupt),
        };
        Ok((hand, decoded))
    }

    /// Steps 7 and 8 of `store.rs`.
    pub(super) fn release(&self, receiver: &mut Rx, hand: InHand) {
        let released = receiver.release_raw(hand.ticket);
        if let Some(block) = hand.block
            && released
        {
            self.blocks.free(block);
        }
    }

    /// The message goes to another receiver, and its block with it.
    pub(super) fn give_up(receiver: &mut Rx, hand: &InHand) {
        receiver.give_up_raw(hand.ticket);
    }
}

/// The words of an envelope that say something, by its first one.
#[inline]
fn used(envelope: &Envelope) -> usize {
    match envelope[0] & SPILLED {
        0 => (envelope[0] as usize).min(INLINE).div_ceil(8) + 1,
        _ => 2,
    }
}

/// Puts a value's bytes into an envelope, or returns them if they are too many.
#[inline]
pub(super) fn serialise<T: serde::Serialize + ?Sized>(
    value: &T,
    envelope: &mut Envelope,
) -> Result<Option<Vec<u8>>, PutFailure> {
    // What an earlier one has refused is past.
    let _ = multiprocess_shm::transfer::take_refusal();
    let (head, room) = envelope.split_at_mut(1);
    let room: &mut [u8] = bytemuck::cast_slice_mut(room);
    debug_assert_eq!(room.len(), INLINE);
    match postcard::to_slice(value, room) {
        Ok(used) => {
            head[0] = used.len() as u64;
            Ok(None)
        }
        Err(postcard::Error::SerializeBufferFull) => {
            let bytes = postcard::to_stdvec(value).map_err(not_serialisable)?;
            Ok(Some(bytes))
        }
        Err(error) => Err(not_serialisable(error)),
    }
}

#[cold]
fn not_serialisable(error: postcard::Error) -> PutFailure {
    let why = multiprocess_shm::transfer::take_refusal();
    PutFailure::NotSerialisable(why.unwrap_or_else(|| error.to_string()))
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

fn failure<T>(error: SendError<T>) -> PutFailure {
    match error {
        SendError::Timeout(_) => PutFailure::Full,
        SendError::Disconnected(_) => PutFailure::Closed,
        SendError::Corrupt(_) => PutFailure::Corrupt,
        SendError::System(_, errno) => PutFailure::System(errno),
    }
}
