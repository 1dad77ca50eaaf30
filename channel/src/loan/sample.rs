//! A message in a receiver's hands.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use multiprocess_core::{Memory, Peers};

use super::held::Held;
use super::{Home, Receiver};
use crate::spsc::Message;

/// A message in place. Dropped, it is released, and its block is free.
///
/// A receiver may have many at a time; each takes a slot of the ring, which is stepped over.
///
/// # Crash safety
///
/// If this process dies before it is released, the message goes to another receiver, or is dropped with its
/// block, as the ring's [`Orphans`](super::Orphans) say. Forgotten ([`core::mem::forget`]), it stays in hand
/// until then, or until the receiver is dropped.
///
/// # Fork
///
/// It stays the parent's; dropped in a child, nothing happens.
#[must_use = "a message that is not looked at is lost"]
pub struct Sample<'a, M: Memory = Home, P: Peers = Home> {
    pub(super) receiver: &'a Receiver<M, P>,
    pub(super) ticket: u64,
    pub(super) held: ManuallyDrop<Held<'a, M, P>>,
}

impl<'a, M: Memory, P: Peers> Sample<'a, M, P> {
    /// The message has been worked on.
    #[inline]
    pub fn release(self) {
        drop(self);
    }

    /// The message was not worked on: it goes to another receiver, out of order, or is dropped where orphans
    /// are.
    pub fn give_up(self) {
        let this = ManuallyDrop::new(self);
        // The block is the message's.
        this.receiver.ring.borrow_mut().give_up_raw(this.ticket);
    }

    /// Releases the message and keeps its block: for what is to stay for longer than a slot of the ring can be
    /// missed. If this process dies, the message is gone.
    pub fn keep(self) -> Kept<'a, M, P> {
        let mut this = ManuallyDrop::new(self);
        this.receiver.ring.borrow_mut().release_raw(this.ticket);
        // SAFETY: taken once, since `this` is not dropped.
        Kept(unsafe { ManuallyDrop::take(&mut this.held) })
    }

    /// The bytes as a `T`. `None` if there are not as many as a `T` has, or they are not aligned for one:
    /// blocks are aligned to 128 bytes.
    pub fn value<T: Message>(&self) -> Option<&T> {
        bytemuck::try_from_bytes(&self.held).ok()
    }

    /// Copies as many bytes as there is room for; how many. In a way that a hostile peer can make wrong and
    /// nothing else.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        self.held.copy_to(target)
    }
}

impl<M: Memory, P: Peers> Drop for Sample<'_, M, P> {
    #[inline]
    fn drop(&mut self) {
        // Steps 7 and 8 of `store.rs`. If the slot is not ours any more, a peer has broken the protocol;
        // or we are a forked child.
        if self.receiver.ring.borrow_mut().release_raw(self.ticket) {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.held) };
        }
    }
}

impl<M: Memory, P: Peers> Deref for Sample<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.held
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Sample<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sample").field(&*self.held).finish()
    }
}

/// The block of a message that was [kept](Sample::keep): ours alone. Dropped, it is free.
///
/// # Crash safety
///
/// If this process dies, the block comes back, and the message is gone.
///
/// # Fork
///
/// It stays the parent's; dropped in a child, nothing happens.
pub struct Kept<'a, M: Memory = Home, P: Peers = Home>(Held<'a, M, P>);

impl<M: Memory, P: Peers> Deref for Kept<'_, M, P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<M: Memory, P: Peers> DerefMut for Kept<'_, M, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl<M: Memory, P: Peers> fmt::Debug for Kept<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.0).finish()
    }
}
