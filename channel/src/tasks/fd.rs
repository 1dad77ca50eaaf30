//! An end as a descriptor.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use multiprocess_core::Errno;
use multiprocess_sync::{Doorbell, DoorbellFd};

use super::{Async, End};

/// A descriptor that becomes readable when an end of a ring may be ready: for poll, epoll, and runtimes
/// that have nothing else.
///
/// A [`DoorbellFd`] of this process that the [`Reactor`](super::Reactor) rings. It can stand for several
/// ends: ask all of them after it was readable.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::spsc;
/// use multiprocess_channel::tasks::{Async, Reactor, ReadyFd};
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let reactor = Reactor::new();
/// let runner = reactor.clone();
/// std::thread::spawn(move || runner.run());
///
/// let (mut producer, consumer) = spsc::channel::<u64>(16)?;
/// let mut consumer = Async::new(consumer, &reactor)?;
/// let fd = ReadyFd::new()?;
/// std::thread::spawn(move || producer.push(7));            // or in another process
/// while !fd.is_ready(&mut consumer)? {
///     poll(&mut [PollFd::new(&fd, PollFlags::IN)], None)?;
/// }
/// assert_eq!(consumer.get_mut().try_pop(), Ok(7));
/// # reactor.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Fork
///
/// As the reactor's: not in the child.
pub struct ReadyFd {
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell(DoorbellFd<Box<Doorbell>>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The kernel refuses nothing to the owner of an eventfd.
        let _ = self.0.ring();
    }
}

impl ReadyFd {
    /// A descriptor.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is none left.
    pub fn new() -> Result<Self, Errno> {
        let bell = Arc::new(Bell(DoorbellFd::new(Box::new(Doorbell::new()))?));
        Ok(Self {
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        })
    }

    /// Whether `end` is ready. If it is not, the descriptor becomes readable when it may be: wait for that, and
    /// ask again. What made it readable before is forgotten.
    ///
    /// # Errors
    ///
    /// The kernel's, if the descriptor cannot be read.
    pub fn is_ready<E: End>(&self, end: &mut Async<E>) -> Result<bool, Errno> {
        self.bell.0.arm()?;
        let polled = end.poll_ready(&mut Context::from_waker(&self.waker));
        Ok(polled == Poll::Ready(()))
    }
}

impl AsFd for ReadyFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }
}

impl fmt::Debug for ReadyFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyFd").field(&self.bell.0).finish()
    }
}
