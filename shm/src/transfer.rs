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

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiprocess_core::ShmSafe;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{Participants, Shared};

thread_local! {
    /// Descriptors of the message being serialised by this thread, if there is one.
    static OUTGOING: RefCell<Option<Vec<OwnedFd>>> = const { RefCell::new(None) };
    /// Descriptors of the message being deserialised that nobody has claimed yet.
    static INCOMING: RefCell<Option<Vec<Option<OwnedFd>>>> = const { RefCell::new(None) };
    /// Why the last handle did not travel.
    static REFUSAL: RefCell<Option<String>> = const { RefCell::new(None) };
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
    REFUSAL.take()
}

fn refuse(why: impl ToString) -> String {
    let why = why.to_string();
    REFUSAL.set(Some(why.clone()));
    why
}

/// The error of a handle that cannot be serialised: its reason outlives a format that drops it.
#[doc(hidden)]
pub fn refuse_sending<E: ser::Error>(why: impl ToString) -> E {
    E::custom(refuse(why))
}

/// The error of a handle that cannot be deserialised, as [`refuse_sending`].
#[doc(hidden)]
pub fn refuse_receiving<E: de::Error>(why: impl ToString) -> E {
    E::custom(refuse(why))
}

/// Puts a thread-local back to what it was, also when the closure in between panics.
struct Restore<T: 'static> {
    slot: &'static std::thread::LocalKey<RefCell<Option<T>>>,
    outer: Option<T>,
}

impl<T> Restore<T> {
    fn replace(slot: &'static std::thread::LocalKey<RefCell<Option<T>>>, value: T) -> Self {
        let outer = slot.replace(Some(value));
        Self { slot, outer }
    }

    /// What the closure left.
    fn take(&self) -> Option<T> {
        self.slot.take()
    }
}

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        self.slot.set(self.outer.take());
    }
}

/// Runs `serialise` and returns, beside its result, the descriptors that handles have put in.
///
/// Calls nest: a handle belongs to the innermost.
pub fn collect<R>(serialise: impl FnOnce() -> R) -> (R, Vec<OwnedFd>) {
    let scope = Restore::replace(&OUTGOING, Vec::new());
    REFUSAL.set(None);
    let result = serialise();
    let fds = scope.take().unwrap_or_default();
    (result, fds)
}

/// Runs `deserialise` while handles can take the descriptors that came with their message.
/// Those that nobody took are closed.
pub fn supply<R>(fds: Vec<OwnedFd>, deserialise: impl FnOnce() -> R) -> R {
    let _scope = Restore::replace(&INCOMING, fds.into_iter().map(Some).collect());
    REFUSAL.set(None);
    deserialise()
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
        let index = OUTGOING.with_borrow_mut(|outgoing| {
            let fds = outgoing.as_mut().ok_or_else(|| {
                refuse_sending("a handle can only be serialised inside a send to a process")
            })?;
            let index = u32::try_from(fds.len()).map_err(refuse_sending)?;
            fds.push(fd.try_clone_to_owned().map_err(refuse_sending)?);
            Ok(index)
        })?;
        index.serialize(serializer)
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
