//! Owned handles: a primitive in shared memory of its own, under the name that Python has for it.
//!
//! | here | in shared memory | made by |
//! |---|---|---|
//! | [`Lock`], [`RLock`], [`Event`], [`Once`] | [`sync::Lock`], ... | `new()?` |
//! | [`Semaphore`], [`BoundedSemaphore`] | [`sync::Semaphore`], ... | `new(value)?` |
//! | [`Barrier`] | [`sync::Barrier`] | `new(parties)?` |
//! | [`Mutex`], [`RwLock`] | [`sync::Mutex`], ... | `new(value)?` |
//! | [`OnceCell`] | [`sync::OnceCell`] | `new()?` |
//! | [`Condition`] | [`sync::Condition`] | `new()?` has an `RLock`, `with_lock(lock)?` another one |
//!
//! Each is an [`Owned`], which dereferences to the primitive and so has all its methods, is cheap to
//! clone, and travels to other processes inside their arguments, results and messages. What is to be a field of
//! a shared struct is the primitive itself, from [`sync`]: many of them then cost one
//! small file (a memfd) and not one each.
//!
//! # Examples
//!
//! ```
//! use multiprocess::Context;
//! use multiprocess::owned::{Barrier, Event, Semaphore};
//!
//! fn work((start, seats, go): (Barrier, Semaphore, Event)) {
//!     start.wait().unwrap();
//!     seats.acquire().unwrap();
//!     seats.release().unwrap();
//!     go.set();
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     multiprocess::init();
//!     let (start, seats, go) = (Barrier::new(2)?, Semaphore::new(3)?, Event::new()?);
//!     let worker = Context::default().spawn(work, (start.clone(), seats, go.clone()))?;
//!     start.wait()?;
//!     go.wait()?;
//!     worker.join()?;
//!     Ok(())
//! }
//! ```

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};

use multiprocess_core::{CreateError, ShmSafe};
use multiprocess_shm::Shared;
use multiprocess_sync as sync;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod condition;

pub use condition::Condition;

/// A [`Shared`] primitive that knows how to make itself; see [the module](self).
///
/// # Crash safety, Fork
///
/// The primitive's; and as [`Shared`].
pub struct Owned<T>(Shared<T>);

/// Python's `Lock`: anybody may release it. See [`sync::Lock`].
pub type Lock = Owned<sync::Lock>;
/// Python's `RLock`: its owner may take it again, and its death is told. See [`sync::RLock`].
pub type RLock = Owned<sync::RLock>;
/// Data and the lock that guards it. See [`sync::Mutex`].
pub type Mutex<T> = Owned<sync::Mutex<T>>;
/// Data that many read or one writes. See [`sync::RwLock`].
pub type RwLock<T> = Owned<sync::RwLock<T>>;
/// Python's `Semaphore`. See [`sync::Semaphore`].
pub type Semaphore = Owned<sync::Semaphore>;
/// Python's `BoundedSemaphore`. See [`sync::BoundedSemaphore`].
pub type BoundedSemaphore = Owned<sync::BoundedSemaphore>;
/// Python's `Event`. See [`sync::Event`].
pub type Event = Owned<sync::Event>;
/// Python's `Barrier`. See [`sync::Barrier`].
pub type Barrier = Owned<sync::Barrier>;
/// What is done once by whoever comes first. See [`sync::Once`].
pub type Once = Owned<sync::Once>;
/// A value that is computed once by whoever comes first. See [`sync::OnceCell`].
pub type OnceCell<T> = Owned<sync::OnceCell<T>>;

impl Owned<sync::Lock> {
    /// An unlocked lock.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Shared::new(sync::Lock::new()).map(Self)
    }
}

impl Owned<sync::RLock> {
    /// An unlocked lock.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Shared::new(sync::RLock::new()).map(Self)
    }
}

impl<T: ShmSafe + Send> Owned<sync::Mutex<T>> {
    /// An unlocked mutex around `value`.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new(value: T) -> Result<Self, CreateError> {
        Shared::new(sync::Mutex::new(value)).map(Self)
    }
}

impl<T: ShmSafe + Send + Sync> Owned<sync::RwLock<T>> {
    /// An unlocked lock around `value`.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new(value: T) -> Result<Self, CreateError> {
        Shared::new(sync::RwLock::new(value)).map(Self)
    }
}

impl Owned<sync::Semaphore> {
    /// With `value` permits; Python's default is 1.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for more than [`sync::Semaphore::MAX`]; as [`Shared::new`].
    pub fn new(value: u32) -> Result<Self, CreateError> {
        let permits = sync::Semaphore::new(value);
        let permits = permits.map_err(|_| too_many(value, sync::Semaphore::MAX))?;
        Shared::new(permits).map(Self)
    }
}

impl Owned<sync::BoundedSemaphore> {
    /// With `value` permits, and never more; Python's default is 1.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for 0, or more than [`sync::Semaphore::MAX`]; as [`Shared::new`].
    pub fn new(value: u32) -> Result<Self, CreateError> {
        let permits = sync::BoundedSemaphore::new(value);
        let permits = permits.map_err(|_| too_many(value, sync::Semaphore::MAX))?;
        Shared::new(permits).map(Self)
    }
}

impl Owned<sync::Event> {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Shared::new(sync::Event::new()).map(Self)
    }
}

impl Owned<sync::Barrier> {
    /// For so many parties.
    ///
    /// # Errors
    ///
    /// [`CreateError::Capacity`] for 0, or more than [`sync::Barrier::MAX_PARTIES`]; as
    /// [`Shared::new`].
    pub fn new(parties: u32) -> Result<Self, CreateError> {
        let barrier = sync::Barrier::new(parties);
        let barrier = barrier.map_err(|_| too_many(parties, sync::Barrier::MAX_PARTIES))?;
        Shared::new(barrier).map(Self)
    }
}

impl Owned<sync::Once> {
    /// Not done yet.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Shared::new(sync::Once::new()).map(Self)
    }
}

impl<T: ShmSafe + Send + Sync> Owned<sync::OnceCell<T>> {
    /// Without a value.
    ///
    /// # Errors
    ///
    /// As [`Shared::new`].
    pub fn new() -> Result<Self, CreateError> {
        Shared::new(sync::OnceCell::new()).map(Self)
    }
}

fn too_many(asked: u32, max: u32) -> CreateError {
    CreateError::Capacity {
        requested: asked.into(),
        max: max.into(),
    }
}

impl<T> Owned<T> {
    /// The handle underneath.
    pub fn shared(&self) -> &Shared<T> {
        &self.0
    }
}

impl<T> From<Shared<T>> for Owned<T> {
    fn from(shared: Shared<T>) -> Self {
        Self(shared)
    }
}

impl<T> From<Owned<T>> for Shared<T> {
    fn from(owned: Owned<T>) -> Self {
        owned.0
    }
}

impl<T: ShmSafe> Deref for Owned<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> AsFd for Owned<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: ShmSafe + fmt::Debug> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ShmSafe + Send + Sync> Serialize for Owned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: ShmSafe + Send + Sync> Deserialize<'de> for Owned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Shared::deserialize(deserializer).map(Self)
    }
}
