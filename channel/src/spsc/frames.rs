//! Where the messages lie: in *frames*, each of which begins with a *sign*, the number of messages that
//! had been published when a publication last began in it.
//!
//! Messages of up to 28 bytes share a cache line with their sign, as many as fit: who polls a sign has
//! the message with it. Of larger ones there are seven in a frame, of those over 256 bytes one.
//!
//! | offset in a frame | what | who writes it |
//! |---|---|---|
//! | 0 | sign u64 | producer |
//! | `FIRST` | `COUNT` messages | producer |
//!
//! Frames begin at multiples of `STRIDE`; there is a power of two of them. Message `i` is number
//! `i % COUNT` of frame `i / COUNT`, modulo their number.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use multiprocess_core::atomic::{AtomicU64, Ordering::Acquire, UnsafeCell};

/// A slot. Accessed by the producer while it is free and by the consumer while it is full.
pub(super) type Slot<T> = UnsafeCell<MaybeUninit<T>>;

const LINE: usize = 64;

/// Messages of at most so many bytes share their sign's line.
const SMALL: usize = 28;

/// Messages of more bytes have a frame of their own: a frame that is not full is memory for nothing.
const LARGE: usize = 256;

/// The place of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    /// Below the number of frames.
    pub(super) frame: u64,
    /// Below `COUNT`.
    pub(super) at: u64,
}

/// The frames of a ring of `T`.
pub(super) struct Frames<T> {
    base: NonNull<u8>,
    /// How many there are, less one.
    mask: u64,
    messages: PhantomData<*const T>,
}

impl<T> Frames<T> {
    /// Messages in a frame.
    pub(super) const COUNT: u64 = match size_of::<T>() {
        0 => 7,
        size @ 1..=SMALL => ((LINE - larger(8, align_of::<T>())) / size) as u64,
        size if size <= LARGE => 7,
        _ => 1,
    };

    /// Bytes before the first message. A message of whole lines does not share one with the sign.
    const FIRST: usize = {
        let sign = size_of::<AtomicU64>().next_multiple_of(align_of::<Slot<T>>());
        let lines = size_of::<T>() > 0 && size_of::<T>().is_multiple_of(LINE);
        if lines {
            sign.next_multiple_of(LINE)
        } else {
            sign
        }
    };

    /// A frame.
    pub(super) const LAYOUT: Layout = {
        let align = larger(LINE, align_of::<Slot<T>>());
        let size = Self::FIRST + Self::COUNT as usize * size_of::<Slot<T>>();
        match Layout::from_size_align(size, align) {
            Ok(layout) => layout.pad_to_align(),
            Err(_) => panic!("a message is not that large"),
        }
    };

    /// The frames for `capacity` messages from `base` on.
    ///
    /// # Safety
    ///
    /// [`number`](Self::number) frames must lie there, as long as these are used, and their signs and
    /// slots be accessed by this code only.
    pub(super) unsafe fn new(base: NonNull<u8>, capacity: u64) -> Self {
        Self {
            base,
            mask: Self::number(capacity) - 1,
            messages: PhantomData,
        }
    }

    /// Frames of a ring for `capacity` messages, which is not 0.
    pub(super) const fn number(capacity: u64) -> u64 {
        capacity.div_ceil(Self::COUNT).next_power_of_two()
    }

    /// Writes them for the first time.
    ///
    /// # Safety
    ///
    /// Nobody else may be using the bytes.
    pub(super) unsafe fn init(&self) {
        for frame in 0..=self.mask {
            // SAFETY: inside the ring, by the word of `new`'s caller; a line is aligned for any atomic.
            unsafe {
                self.frame(frame)
                    .cast::<AtomicU64>()
                    .write(AtomicU64::new(0))
            };
            // Slots of a real build need no initialisation; those of a model do.
            if core::mem::needs_drop::<Slot<T>>() || size_of::<Slot<T>>() != size_of::<T>() {
                for at in 0..Self::COUNT {
                    let slot = self.slot_at(Spot { frame, at });
                    // SAFETY: as above.
                    unsafe { slot.write(Slot::<T>::new(MaybeUninit::zeroed())) };
                }
            }
        }
    }

    /// Where the message at `position` lies.
    pub(super) fn spot(&self, position: u64) -> Spot {
        Spot {
            frame: (position / Self::COUNT) & self.mask,
            at: position % Self::COUNT,
        }
    }

    /// The place behind `spot`.
    #[inline(always)]
    pub(super) fn after(&self, spot: Spot) -> Spot {
        if spot.at + 1 < Self::COUNT {
            let at = spot.at + 1;
            return Spot { at, ..spot };
        }
        Spot {
            frame: (spot.frame + 1) & self.mask,
            at: 0,
        }
    }

    /// The sign of a frame well behind the one of `spot`: what it says is behind this one, or of another
    /// lap. Far enough that the producer is not at it when the consumer is close behind, near enough
    /// that it usually is beyond it when there is much.
    #[inline(always)]
    pub(super) fn distant_sign(&self, spot: Spot) -> &AtomicU64 {
        const AHEAD: u64 = 25;
        let frame = (spot.frame + AHEAD) & self.mask;
        self.sign(Spot { frame, at: 0 })
    }

    /// What is published where `tail` was told: the sign there knows of what came since.
    pub(super) fn published(&self, tail: u64) -> u64 {
        // Acquire pairs with the Release store in `Producer::announce`.
        self.sign(self.spot(tail)).load(Acquire).max(tail)
    }

    #[inline(always)]
    fn frame(&self, number: u64) -> NonNull<u8> {
        // SAFETY: a spot's frame is below their number, for which there is memory by the word of
        // `new`'s caller.
        unsafe { self.base.add(number as usize * Self::LAYOUT.size()) }
    }

    /// The sign of the frame of `spot`.
    #[inline(always)]
    pub(super) fn sign(&self, spot: Spot) -> &AtomicU64 {
        // SAFETY: in the ring's memory, as in `frame`, and aligned, as a frame is; written by `init`.
        unsafe { self.frame(spot.frame).cast().as_ref() }
    }

    #[inline(always)]
    fn slot_at(&self, spot: Spot) -> NonNull<Slot<T>> {
        // SAFETY: a frame has `COUNT` slots behind `FIRST`, and a spot's number is below that.
        unsafe {
            self.frame(spot.frame)
                .add(Self::FIRST)
                .cast()
                .add(spot.at as usize)
        }
    }

    #[inline(always)]
    pub(super) fn slot(&self, spot: Spot) -> &Slot<T> {
        // SAFETY: in the ring's memory and aligned; a slot is a cell of bytes that need not be
        // initialised.
        unsafe { self.slot_at(spot).as_ref() }
    }
}

impl<T> Clone for Frames<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Frames<T> {}

const fn larger(a: usize, b: usize) -> usize {
    if a < b { b } else { a }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Frames;

    fn shape<T>() -> (u64, usize, usize) {
        (
            Frames::<T>::COUNT,
            Frames::<T>::FIRST,
            Frames::<T>::LAYOUT.size(),
        )
    }

    #[test]
    fn small_messages_share_a_line_with_their_sign() {
        assert_eq!(shape::<()>(), (7, 8, 64));
        assert_eq!(shape::<u8>(), (56, 8, 64));
        assert_eq!(shape::<u32>(), (14, 8, 64));
        assert_eq!(shape::<u64>(), (7, 8, 64));
        assert_eq!(shape::<u128>(), (3, 16, 64));
        assert_eq!(shape::<[u32; 7]>(), (2, 8, 64));
    }

    #[test]
    fn larger_ones_come_by_the_seven_or_alone() {
        assert_eq!(shape::<[u64; 4]>(), (7, 8, 256));
        assert_eq!(shape::<[u64; 8]>(), (7, 64, 512));
        assert_eq!(shape::<[u64; 33]>(), (1, 8, 320));
        assert_eq!(shape::<[u64; 64]>(), (1, 64, 576));
    }

    #[test]
    fn there_is_a_slot_for_each_message() {
        for (capacity, frames) in [(1, 1), (7, 1), (8, 2), (14, 2), (15, 4), (1024, 256)] {
            assert_eq!(Frames::<u64>::number(capacity), frames);
        }
        assert_eq!(Frames::<[u64; 64]>::number(1 << 40), 1 << 40);
    }
}
