//! Where this process looks first. No part of the shared state: wrong hints cost time and nothing
//! else.

use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};

use super::layout::ArenaConfig;
use super::words::{CLASSES, class_of};

/// Blocks remembered of each class.
const RECENT: usize = 32;

/// Plain loads and stores: threads that get into each other's way lose hints.
pub(super) struct Hints {
    classes: [ClassHints; CLASSES],
    /// The chunk to look for free ones from.
    chunk: AtomicU32,
}

struct ClassHints {
    /// Units of blocks freed by this process, the last one on top.
    recent: [AtomicU32; RECENT],
    len: AtomicU32,
    /// The unit to look on from.
    cursor: AtomicU32,
}

impl Hints {
    /// Processes begin at different places, so as not to meet.
    pub(super) fn new(number: u32, config: &ArenaConfig) -> Self {
        // The golden ratio spreads small numbers well.
        let spread = u64::from(number.wrapping_mul(0x9e37_79b9));
        let chunk = ((spread * u64::from(config.chunks())) >> 32) as u32;
        Self {
            classes: core::array::from_fn(|_| ClassHints::new()),
            chunk: AtomicU32::new(chunk),
        }
        .beginning_at(chunk << config.shift())
    }

    fn beginning_at(self, unit: u32) -> Self {
        for class in &self.classes {
            class.cursor.store(unit, Relaxed);
        }
        self
    }

    /// A class from shared memory may be any number: it is cut to what there is.
    #[inline]
    fn class(&self, class: u32) -> &ClassHints {
        const LAST: u32 = CLASSES as u32 - 1;
        const { assert!(class_of(1 << 13) <= LAST) };
        &self.classes[class.min(LAST) as usize]
    }

    #[inline]
    pub(super) fn freed(&self, class: u32, unit: u32) {
        let hints = self.class(class);
        let len = hints.len.load(Relaxed);
        if let Some(place) = hints.recent.get(len as usize) {
            place.store(unit, Relaxed);
            hints.len.store(len + 1, Relaxed);
        }
    }

    /// A unit that was freed lately.
    #[inline]
    pub(super) fn recent(&self, class: u32) -> Option<u32> {
        let hints = self.class(class);
        let last = hints.len.load(Relaxed).checked_sub(1)?;
        hints.len.store(last, Relaxed);
        Some(hints.recent.get(last as usize)?.load(Relaxed))
    }

    #[inline]
    pub(super) fn cursor(&self, class: u32) -> u32 {
        self.class(class).cursor.load(Relaxed)
    }

    #[inline]
    pub(super) fn set_cursor(&self, class: u32, unit: u32) {
        self.class(class).cursor.store(unit, Relaxed);
    }

    pub(super) fn chunk(&self) -> u32 {
        self.chunk.load(Relaxed)
    }

    pub(super) fn set_chunk(&self, chunk: u32) {
        self.chunk.store(chunk, Relaxed);
    }
}

impl ClassHints {
    fn new() -> Self {
        Self {
            recent: core::array::from_fn(|_| AtomicU32::new(0)),
            len: AtomicU32::new(0),
            cursor: AtomicU32::new(0),
        }
    }
}
