//! A segment with locks in it, which may have to stay mapped.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use crate::Segment;

/// Unmaps its segment when it is dropped, unless a thread of this process has forgotten a lock in
/// it: the kernel, and that thread's next robust lock, go by the address.
///
/// For the handles of this workspace.
#[doc(hidden)]
#[derive(Debug)]
pub struct HeldSegment {
    segment: ManuallyDrop<Segment>,
    may_unmap: fn(&Segment) -> bool,
}

impl HeldSegment {
    /// Holds `segment`, and asks `may_unmap` before it lets go of it.
    pub fn new(segment: Segment, may_unmap: fn(&Segment) -> bool) -> Arc<Self> {
        Arc::new(Self {
            segment: ManuallyDrop::new(segment),
            may_unmap,
        })
    }
}

impl Deref for HeldSegment {
    type Target = Segment;

    #[inline]
    fn deref(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for HeldSegment {
    fn drop(&mut self) {
        if (self.may_unmap)(&self.segment) {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.segment) };
        }
    }
}
