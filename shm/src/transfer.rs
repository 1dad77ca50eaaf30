//! How handles travel inside serde messages: descriptors are collected while a message is
//! serialised, sent beside its bytes (`SCM_RIGHTS`), and supplied while it is deserialised.
//!
//! A handle serialises as [`Fd`]: an index into the descriptors of its message. That works
//! inside [`collect`] and [`supply`] only, which whoever sends and receives messages calls;
//! anywhere else it is an error and not a dangling number. The design follows ipc-channel's
//! and tokio-unix-ipc's thread-local stacks.
//!
//! # Examples
//!
//! ```
//! use multiprocess_core::atomic::AtomicU64;
//! use multiprocess_shm::{Shared, transfer};
//!
//! let value = Shared::new(AtomicU64::new(7))?;
//! let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&value));
//! let copy: Shared<AtomicU64> = transfer::supply(fds, || postcard::from_bytes(&bytes?))?;
//! assert_eq!(copy.load(std::sync::atomic::Ordering::Relaxed), 7);
//!
//! assert!(postcard::to_stdvec(&value).is_err(), "outside of a send");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::LocalKey;

use multiprocess_core::{AttachError, Errno, ShmSafe};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{ParticipantError, Participants, Shared};

/// What a message under way has, if there is one. Without a destructor, which would end it with its
/// thread's first locals: what runs at the exit of a program sends, too. Empty at rest.
type Slot<T> = RefCell<ManuallyDrop<Option<T>>>;

thread_local! {
    /// Descriptors of the message being serialised by this thread.
    static OUTGOING: Slot<Parcel> = const { RefCell::new(ManuallyDrop::new(None)) };
    /// Descriptors of the message being deserialised that nobody has claimed yet.
    static INCOMING: Slot<Vec<Option<OwnedFd>>> = const { RefCell::new(ManuallyDrop::new(None)) };
    /// Why the last handle did not travel; nothing when the thread's locals are gone.
    static REFUSAL: RefCell<Option<Refusal>> = const { RefCell::new(None) };
    /// The message being deserialised stays where it is if the kernel is short of something.
    static FOR_NOW: Cell<bool> = const { Cell::new(false) };
}

/// Why a handle did not travel.
#[doc(hidden)]
#[derive(Debug)]
pub struct Refusal {
    /// For people.
    pub why: String,
    /// What the kernel said, if it was the kernel that refused.
    pub errno: Option<Errno>,
}

/// Why the last handle on this thread could not be serialised or deserialised; asking clears it.
///
/// For formats whose errors carry no message. postcard is one: no descriptor left and a value
/// that cannot be serialised look the same.
///
/// # Examples
///
/// ```
/// use multiprocess_core::atomic::AtomicU64;
/// use multiprocess_shm::{Shared, transfer};
///
/// let value = Shared::new(AtomicU64::new(7))?;
/// assert!(postcard::to_stdvec(&value).is_err());
/// assert!(transfer::take_refusal().unwrap().contains("inside a send"));
/// assert_eq!(transfer::take_refusal(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn take_refusal() -> Option<String> {
    take_whole_refusal().map(|refusal| refusal.why)
}

/// As [`take_refusal`], with the kernel's word.
#[doc(hidden)]
pub fn take_whole_refusal() -> Option<Refusal> {
    set_refusal(None)
}

/// What it was before.
fn set_refusal(refusal: Option<Refusal>) -> Option<Refusal> {
    let before = REFUSAL.try_with(|slot| slot.replace(refusal));
    before.ok().flatten()
}

/// Whether the kernel says that it is short of something, and might not be later.
#[doc(hidden)]
pub fn is_scarcity(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS
    )
}

/// Whether the message being deserialised by this thread comes again after that refusal: a handle in it of
/// which there may be one only is nobody's until then, and not closed.
#[doc(hidden)]
pub fn comes_again(refused: &impl Reason) -> bool {
    FOR_NOW.get() && refused.errno().is_some_and(is_scarcity)
}

/// The same after the last refusal: for a handle that is dropped because another one was refused.
#[doc(hidden)]
pub fn is_refused_for_now() -> bool {
    let is_scarce =
        |last: &RefCell<Option<Refusal>>| last.borrow().as_ref().is_some_and(comes_again);
    FOR_NOW.get() && REFUSAL.try_with(is_scarce).unwrap_or(false)
}

/// An error for which a handle does not travel.
#[doc(hidden)]
pub trait Reason: ToString {
    /// The kernel's, if it is one.
    fn errno(&self) -> Option<Errno> {
        None
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Reason for Refusal {
    fn errno(&self) -> Option<Errno> {
        self.errno
    }
}

impl Reason for &str {}
impl Reason for std::num::TryFromIntError {}
impl Reason for std::ffi::NulError {}

impl Reason for std::io::Error {
    fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(self)
    }
}

impl Reason for AttachError {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::System(errno) => Some(*errno),
            _ => None,
        }
    }
}

impl Reason for ParticipantError {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::System(errno) => Some(*errno),
            Self::Full { .. } => None,
        }
    }
}

fn refuse(reason: impl Reason) -> String {
    let (why, errno) = (reason.to_string(), reason.errno());
    set_refusal(Some(Refusal {
        why: why.clone(),
        errno,
    }));
    why
}

/// The error of a handle that cannot be serialised: its reason outlives a format that drops it.
#[doc(hidden)]
pub fn refuse_sending<E: ser::Error>(why: impl Reason) -> E {
    E::custom(refuse(why))
}

/// The error of a handle that cannot be deserialised, as [`refuse_sending`].
#[doc(hidden)]
pub fn refuse_receiving<E: de::Error>(why: impl Reason) -> E {
    E::custom(refuse(why))
}

/// Puts a thread-local back to what it was, also when the closure in between panics.
struct Restore<T: 'static> {
    slot: &'static LocalKey<Slot<T>>,
    outer: Option<T>,
}

impl<T> Restore<T> {
    fn replace(slot: &'static LocalKey<Slot<T>>, value: T) -> Self {
        let outer = put(slot, Some(value));
        Self { slot, outer }
    }

    /// What the closure left.
    fn take(&self) -> Option<T> {
        put(self.slot, None)
    }
}

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        // Dropped when the slot is no longer borrowed: a parcel has something to do then.
        drop(put(self.slot, self.outer.take()));
    }
}

/// Puts something in; what it was before.
fn put<T>(slot: &'static LocalKey<Slot<T>>, value: Option<T>) -> Option<T> {
    ManuallyDrop::into_inner(slot.replace(ManuallyDrop::new(value)))
}

/// The descriptors of a serialised message, on their way to whoever gets them.
///
/// A handle of which there may be one only, such as the end of a ring, is gone from its owner
/// once it was serialised. If the parcel is dropped, because the message was not sent after
/// all, the handle is told that nobody got it, and tells its peers.
/// [`into_fds`](Self::into_fds) hands the descriptors on.
///
/// # Examples
///
/// ```
/// use multiprocess_core::atomic::AtomicU64;
/// use multiprocess_shm::{Shared, transfer};
///
/// let value = Shared::new(AtomicU64::new(7))?;
/// let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(&value));
/// assert_eq!(parcel.fds().len(), 1);
/// // ... send bytes and descriptors; then
/// let _closed_here = parcel.into_fds();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Parcel {
    items: Vec<Item>,
}

struct Item {
    fd: OwnedFd,
    if_lost: Option<IfLost>,
}

/// What is done with the duplicate of a message that was not sent.
type IfLost = Box<dyn FnOnce(OwnedFd) + Send>;

impl Parcel {
    /// The descriptors, in their order in the message.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.items.iter().map(|item| item.fd.as_fd())
    }

    /// Hands the descriptors on: they were sent, or will be by the caller.
    pub fn into_fds(mut self) -> Vec<OwnedFd> {
        let items = std::mem::take(&mut self.items);
        items.into_iter().map(|item| item.fd).collect()
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        for Item { fd, if_lost } in self.items.drain(..) {
            if let Some(tell) = if_lost {
                tell(fd);
            }
        }
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fds()).finish()
    }
}

/// Runs `serialise` and returns, beside its result, the descriptors that handles have put in.
///
/// Calls nest: a handle belongs to the innermost. For callers that surely send what they get:
/// if they do not, the peer of a ring end among the handles is not told. Others use
/// [`collect_parcel`].
pub fn collect<R>(serialise: impl FnOnce() -> R) -> (R, Vec<OwnedFd>) {
    let (result, parcel) = collect_parcel(serialise);
    (result, parcel.into_fds())
}

/// As [`collect`], with the descriptors in a [`Parcel`] that may still be lost.
pub fn collect_parcel<R>(serialise: impl FnOnce() -> R) -> (R, Parcel) {
    let scope = Restore::replace(&OUTGOING, Parcel::default());
    set_refusal(None);
    let result = serialise();
    let parcel = scope.take().unwrap_or_default();
    (result, parcel)
}

/// Runs `deserialise` while handles can take the descriptors that came with their message.
/// Those that nobody took are closed.
pub fn supply<R>(fds: Vec<OwnedFd>, deserialise: impl FnOnce() -> R) -> R {
    supply_and_count(fds, deserialise).0
}

/// As [`supply`], and tells how many descriptors nobody took: a message that was made for the
/// same type leaves none.
pub fn supply_and_count<R>(fds: Vec<OwnedFd>, deserialise: impl FnOnce() -> R) -> (R, usize) {
    let scope = Restore::replace(&INCOMING, fds.into_iter().map(Some).collect());
    // One inside another is for good.
    let _for_good = ForNow(FOR_NOW.replace(false));
    set_refusal(None);
    let result = deserialise();
    let left = scope.take().unwrap_or_default();
    (result, left.iter().flatten().count())
}

/// As [`supply_and_count`], for a message that is supplied again, and not lost, if a handle in it was refused
/// for want of descriptors or memory: [`take_whole_refusal`] tells.
#[doc(hidden)]
pub fn supply_for_now<R>(fds: Vec<OwnedFd>, deserialise: impl FnOnce() -> R) -> (R, usize) {
    supply_and_count(fds, || {
        let _scope = ForNow(FOR_NOW.replace(true));
        deserialise()
    })
}

/// Puts `FOR_NOW` back to what it was.
struct ForNow(bool);

impl Drop for ForNow {
    fn drop(&mut self) {
        FOR_NOW.set(self.0);
    }
}

/// A file descriptor inside a message. Serialising it sends a duplicate.
///
/// # Errors
///
/// Serialising fails outside of [`collect`], or when no descriptor is left for the duplicate.
/// Deserialising fails outside of [`supply`], for an index that the message has no descriptor
/// for, and for one that was taken already.
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl Fd {
    /// Takes the descriptor out.
    pub fn into_inner(self) -> OwnedFd {
        self.0
    }

    /// Serialises a duplicate of `fd`: for `Serialize` impls of handles that own one.
    ///
    /// # Errors
    ///
    /// As the type's.
    pub fn serialize_borrowed<S: Serializer>(
        fd: BorrowedFd<'_>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Self::put_in(fd, None)?.serialize(serializer)
    }

    /// As [`serialize_borrowed`](Self::serialize_borrowed), for handles of which there may be one
    /// only: `if_lost` gets the duplicate if the message is not sent after all.
    ///
    /// It may be called although the handle was not given away, if serialising failed between the
    /// two, and although somebody got it, if the message arrived in part.
    ///
    /// # Errors
    ///
    /// As the type's.
    pub fn serialize_unique<S: Serializer>(
        fd: BorrowedFd<'_>,
        if_lost: impl FnOnce(OwnedFd) + Send + 'static,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Self::put_in(fd, Some(Box::new(if_lost)))?.serialize(serializer)
    }

    /// Puts a duplicate of `fd` into the message being collected; its index there.
    fn put_in<E: ser::Error>(fd: BorrowedFd<'_>, if_lost: Option<IfLost>) -> Result<u32, E> {
        OUTGOING.with_borrow_mut(|outgoing| {
            let parcel = outgoing.as_mut().ok_or_else(|| {
                refuse_sending("a handle can only be serialised inside a send to a process")
            })?;
            let index = u32::try_from(parcel.items.len()).map_err(refuse_sending)?;
            let fd = fd.try_clone_to_owned().map_err(refuse_sending)?;
            parcel.items.push(Item { fd, if_lost });
            Ok(index)
        })
    }
}

/// A descriptor that stays with its owner: serialises as the [`Fd`] that is received.
#[doc(hidden)]
#[derive(Debug)]
pub struct Sent<'a>(pub BorrowedFd<'a>);

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.0, serializer)
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u32::deserialize(deserializer)? as usize;
        INCOMING.with_borrow_mut(|incoming| {
            let fds = incoming.as_mut().ok_or_else(|| {
                refuse_receiving("a handle can only be deserialised from a process's message")
            })?;
            fds.get_mut(index)
                .and_then(Option::take)
                .map(Self)
                .ok_or_else(|| refuse_receiving("a descriptor is missing or was used twice"))
        })
    }
}

impl<T: ShmSafe + Send + Sync> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de, T: ShmSafe + Send + Sync> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = Fd::deserialize(deserializer)?.into_inner();
        Self::attach(fd).map_err(refuse_receiving)
    }
}

impl<T: ShmSafe + Send + Sync> Serialize for Shared<[T]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de, T: ShmSafe + Send + Sync> Deserialize<'de> for Shared<[T]> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = Fd::deserialize(deserializer)?.into_inner();
        Self::attach_slice(fd).map_err(refuse_receiving)
    }
}

impl Serialize for Participants {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fd::serialize_borrowed(self.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Participants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = Fd::deserialize(deserializer)?.into_inner();
        Self::attach(fd).map_err(refuse_receiving)
    }
}
