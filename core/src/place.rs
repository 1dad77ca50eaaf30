//! Objects of a run-time size: laid out, initialised in bytes they are given, attached to.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::{AttachError, CreateError, LayoutHash};

/// Bytes at a fixed address that stay readable and writable for `'a`.
///
/// What a [`Place`] is initialised in and attached to. Peers may write the bytes at any time,
/// therefore a region hands out no reference to them.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    base: NonNull<u8>,
    len: usize,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Region<'a> {
    /// The `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// For the whole of `'a` the bytes must be mapped, readable and writable, and this process
    /// must not access them by plain (non-atomic) reads, writes or references other than
    /// through what is attached here.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            lifetime: PhantomData,
        }
    }

    /// Memory of this process alone: for tests, or a ring between threads.
    pub fn from_uninit(bytes: &'a mut [MaybeUninit<u8>]) -> Self {
        let len = bytes.len();
        bytes.fill(MaybeUninit::new(0));
        Self {
            base: NonNull::from(bytes).cast(),
            len,
            lifetime: PhantomData,
        }
    }

    /// The first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes in the region.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` of its bytes, from `offset` on; `None` if they are not all inside.
    pub fn sub(&self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is inside, or at the end; the rest is as for the whole.
        Some(unsafe { Self::new(self.base.add(offset), len) })
    }

    /// Whether an object of `layout` can be initialised here.
    ///
    /// # Errors
    ///
    /// [`CreateError::RegionTooSmall`], [`CreateError::Misaligned`].
    pub fn check(&self, layout: Layout) -> Result<(), CreateError> {
        if self.len < layout.size() {
            return Err(CreateError::RegionTooSmall {
                need: layout.size() as u64,
                have: self.len as u64,
            });
        }
        if !self.base.addr().get().is_multiple_of(layout.align()) {
            return Err(CreateError::Misaligned {
                need: layout.align() as u64,
            });
        }
        Ok(())
    }
}

// SAFETY: a region is an address; what is done through it is argued where it is done.
unsafe impl Send for Region<'_> {}
// SAFETY: as above; no method of `&Region` touches the bytes.
unsafe impl Sync for Region<'_> {}

/// Bytes at a fixed address that stay readable for `'a`, and that peers may write at any time.
///
/// A [`Region`] of which only reading is allowed: what is attached to it makes loads and nothing
/// else. On 64-bit targets loads of up to 8 bytes are good on memory that is mapped read-only
/// ([`core::sync::atomic`](core::sync::atomic#atomic-accesses-to-read-only-memory)).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    base: NonNull<u8>,
    len: usize,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    /// The `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// For the whole of `'a` the bytes must be mapped and readable, and this process must not
    /// access them non-atomically.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            lifetime: PhantomData,
        }
    }

    /// The first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes in the view.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether an object of `layout` can lie here.
    ///
    /// # Errors
    ///
    /// [`AttachError::Truncated`], [`AttachError::Misaligned`].
    pub fn check(&self, layout: Layout) -> Result<(), AttachError> {
        if self.len < layout.size() {
            return Err(AttachError::Truncated {
                need: layout.size() as u64,
                have: self.len as u64,
            });
        }
        if !self.base.addr().get().is_multiple_of(layout.align()) {
            return Err(AttachError::Misaligned {
                need: layout.align() as u64,
            });
        }
        Ok(())
    }
}

impl<'a> From<Region<'a>> for View<'a> {
    fn from(region: Region<'a>) -> Self {
        Self {
            base: region.base,
            len: region.len,
            lifetime: PhantomData,
        }
    }
}

// SAFETY: a view is an address; what is done through it is argued where it is done.
unsafe impl Send for View<'_> {}
// SAFETY: as above; no method of `&View` touches the bytes.
unsafe impl Sync for View<'_> {}

/// Keeps bytes mapped at one address for as long as it lives.
///
/// A handle (a ring's producer, say) owns its `Memory`: a mapped segment, or a [`Region`]
/// that somebody else keeps alive.
///
/// # Safety
///
/// [`region`](Self::region) must return the same address and length at every call, also after
/// `self` has been moved, and the bytes must satisfy the contract of [`Region::new`] until
/// `self` is dropped.
pub unsafe trait Memory {
    /// The bytes.
    fn region(&self) -> Region<'_>;
}

// SAFETY: address and length are fields that never change; `'a` outlives the value.
unsafe impl Memory for Region<'_> {
    fn region(&self) -> Region<'_> {
        *self
    }
}

/// Something in shared memory whose size is known only at run time.
///
/// The three verbs of everything that lives in shared memory: *layout* (how many bytes),
/// *init* (once, by the creator), *attach* (by everybody, validating before trusting).
///
/// # Safety
///
/// An implementor's `attach` must hold against arbitrary bytes that change while it runs, and
/// the configuration it returns must be safe to use with a region of the length it was given.
pub unsafe trait Place {
    /// What the size depends on.
    type Config: Copy;

    /// Names the type and everything its layout depends on, except the configuration.
    const LAYOUT: LayoutHash;

    /// Bytes and alignment needed.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] if the configuration is absurd.
    fn layout(config: &Self::Config) -> Result<Layout, CreateError>;

    /// Writes the initial state. The bytes need not be zero.
    ///
    /// # Errors
    ///
    /// As [`layout`](Self::layout), or the region does not fit.
    ///
    /// # Safety
    ///
    /// Nobody else may be using the bytes.
    unsafe fn init(region: Region<'_>, config: &Self::Config) -> Result<(), CreateError>;

    /// Validates what a peer initialised and returns its configuration, copied out once.
    ///
    /// # Errors
    ///
    /// An [`AttachError`] that says what is wrong with the bytes.
    fn attach(region: Region<'_>) -> Result<Self::Config, AttachError>;
}
