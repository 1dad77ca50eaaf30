//! `DoorbellFd`: a [`Doorbell`] with a file descriptor, for epoll and async runtimes. Protocol and
//! crash table: `doorbell.rs`.

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use multiprocess_core::Errno;
use rustix::event::{EventfdFlags, eventfd};

use crate::wait_any::first_ready;
use crate::{Doorbell, Source};

/// A [`Doorbell`] that can be waited for as a file descriptor: with poll, epoll, or an async
/// runtime.
///
/// A doorbell in shared memory, and this process's duplicate of one eventfd. `B` is how the
/// doorbell is held: `&Doorbell`, an `Arc`, a handle on shared memory. Every process that rings
/// needs a duplicate of the eventfd ([`as_fd`](AsFd::as_fd), sent by `SCM_RIGHTS` or inherited) and
/// puts it together again by [`from_parts`](Self::from_parts). The `multiprocess` crate has a pair
/// that travels inside messages.
///
/// One poller per doorbell: two would read each other's rings. Any number of threads may also
/// sleep by [`wait_any_with`](crate::wait_any_with). Not for the fastest hand-offs: a round trip
/// through an eventfd costs about one and a half of a futex's.
///
/// # Examples
///
/// The one right loop: [`poll_any`](Self::poll_any), and only if it finds nothing wait for the
/// descriptor, *with a timeout*.
///
/// ```
/// use multiprocess_sync::{Doorbell, DoorbellFd, Event};
/// use rustix::event::{PollFd, PollFlags, Timespec, poll};
///
/// static BELL: Doorbell = Doorbell::new();               // or in a shared segment
/// static DONE: Event = Event::new();
///
/// let bell = DoorbellFd::new(&BELL)?;
/// let theirs = bell.try_clone()?;                        // or sent to another process
/// std::thread::spawn(move || {
///     DONE.set();                                        // publish, then
///     theirs.ring()
/// });
/// let second = Timespec { tv_sec: 1, tv_nsec: 0 };
/// let ready = loop {
///     if let Some(index) = bell.poll_any(&[&DONE])? {
///         break index;
///     }
///     poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&second))?;
/// };
/// assert_eq!(ready, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// A process that is killed after it has set something and before it has rung leaves the poller
/// asleep: the kernel has no inner bound for an eventfd. The poller's own timeout heals that, and
/// so does the next ring of anybody. So poll with a timeout (a second, as the sleepers of this
/// crate do), or watch the setter's pidfd as well. Trust: the doorbell is *guarded*; the eventfd is
/// *trusting*: a peer that has it can keep it readable, or make reads of it block.
///
/// # Fork
///
/// A child inherits the duplicate, and may ring. It must not poll beside its parent.
pub struct DoorbellFd<B> {
    bell: B,
    fd: OwnedFd,
}

impl<B: Deref<Target = Doorbell>> DoorbellFd<B> {
    /// Makes an eventfd for `bell`: once per doorbell, usually by who polls.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no descriptor left.
    pub fn new(bell: B) -> Result<Self, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, fd })
    }

    /// Puts a doorbell and a duplicate of *its* eventfd together again.
    pub fn from_parts(bell: B, fd: OwnedFd) -> Self {
        Self { bell, fd }
    }

    /// The doorbell without its descriptor, for [`wait_any_with`](crate::wait_any_with).
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Wakes who sleeps or polls with this doorbell. Call it after having set what it may wait
    /// for.
    ///
    /// No system call, and no store, if nobody waits.
    ///
    /// # Errors
    ///
    /// The kernel's, if the descriptor cannot be written to; who *sleeps* was woken all the same.
    #[inline]
    pub fn ring(&self) -> Result<(), Errno> {
        self.bell.ring_and(|| self.write())
    }

    #[cold]
    fn write(&self) -> Result<(), Errno> {
        loop {
            match rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
                // A full counter is readable, too.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The first of `sources` that is ready. If none is, the descriptor becomes readable at the
    /// next ring: wait for that, and ask again.
    ///
    /// Rings that came before are forgotten, since everything is looked at.
    ///
    /// # Errors
    ///
    /// The kernel's, if the descriptor cannot be read.
    pub fn poll_any(&self, sources: &[&dyn Source]) -> Result<Option<usize>, Errno> {
        if let Some(ready) = first_ready(sources) {
            return Ok(Some(ready));
        }
        self.arm()?;
        Ok(first_ready(sources))
    }

    /// Forgets the rings so far, and lets the next one make the descriptor readable. Look at
    /// whatever you wait for *after* this, and wait for the descriptor only if it is not there.
    ///
    /// # Errors
    ///
    /// As [`poll_any`](Self::poll_any).
    pub fn arm(&self) -> Result<(), Errno> {
        self.drain()?;
        self.bell.arm_poller();
        Ok(())
    }

    fn drain(&self) -> Result<(), Errno> {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.fd, &mut count) {
                // One read takes all.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Another handle, with a duplicate of the descriptor.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no descriptor left.
    pub fn try_clone(&self) -> std::io::Result<Self>
    where
        B: Clone,
    {
        Ok(Self {
            bell: self.bell.clone(),
            fd: self.fd.try_clone()?,
        })
    }
}

impl<B> AsFd for DoorbellFd<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<B> AsRawFd for DoorbellFd<B> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl<B: Deref<Target = Doorbell>> fmt::Debug for DoorbellFd<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorbellFd")
            .field("bell", &*self.bell)
            .field("fd", &self.fd)
            .finish()
    }
}
