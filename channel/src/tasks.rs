//! Ends of rings in async code, on any executor: [`Async`] around an end, and one [`Reactor`] that sleeps for
//! all of them.
//!
//! A task that finds nothing announces itself at its ring as a sleeping thread does, and leaves to the
//! reactor the word to sleep on; the reactor's thread sleeps on the words of all tasks at once, and wakes the
//! task whose word says so. So the other side does nothing that it would not do for a blocked thread,
//! nothing at all while nobody waits, and needs no descriptor of ours; whoever comes to the ring later,
//! and a program in another language, wakes us, too. The price is one more thread between a message and
//! its task. [`ReadyFd`] is the same as a descriptor for poll and epoll.
//!
//! # Protocol
//!
//! *task*: (1) look; (2) announce, fence, look again: [`Source::arm`]; (3) give word, value and waker to the
//! reactor; (4) kick it if it sleeps. *reactor*: (5) collect what was given; (6) sleep on the kick word and
//! on all of those; (7) wake each task whose word has changed, or whose ring has what it waits for; (8)
//! pass on a wake that came for a task that has withdrawn. *task, done or dropped*: (9) withdraw, and pass
//! on the wake that it may have used up.
//!
//! A change between 2 and 6 is found by the kernel, which compares and falls asleep in one step. 4, 5 and the
//! state "asleep" are under one lock: what is given after 5 changes the kick word before 6 or ends it. A
//! wake that changed no word (`mpmc` wakes one sleeper and leaves the word) is found by 7's look at the
//! ring.
//!
//! # Crash safety
//!
//! Between processes it is the blocking calls': killed after any step, an announcement in vain, or a wake
//! used up, for which the others' inner bounds make up. Each task has the inner bound of a blocked thread,
//! too, 50 ms growing to 1 s, at which it looks for the dead.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use multiprocess_core::AttachError;
use multiprocess_core::park::Patience;
#[cfg(doc)]
use multiprocess_sync::Source;
use multiprocess_sync::{Armed, UNHEARD};

mod ends;
mod fd;
mod keep;
mod reactor;

pub use ends::End;
pub use fd::ReadyFd;
pub(crate) use keep::Keep;
pub use reactor::Reactor;
use reactor::{Given, Seat};

/// Looks in a row at an end that says it is ready and is not; then other tasks get their turn.
const LOOKS: u32 = 4;

/// An end of a ring whose operations are futures.
///
/// Every end of this crate: see its methods for the kind in question. Timeouts are the runtime's
/// (`tokio::time::timeout(second, receiver.recv())`), so is waiting for one of several.
///
/// A [`Reactor`] must run, or futures that have to wait never end.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::mpmc;
/// use multiprocess_channel::tasks::{Async, Reactor};
///
/// let reactor = Reactor::new();
/// let runner = reactor.clone();
/// let thread = std::thread::spawn(move || runner.run());
///
/// let (sender, receiver) = mpmc::channel::<u64>(16)?;     // or one end came in a message
/// let mut sender = Async::new(sender, &reactor)?;
/// let mut receiver = Async::new(receiver, &reactor)?;
/// let answer = async {
///     sender.send(7).await?;
///     Ok::<_, Box<dyn std::error::Error>>(receiver.recv().await?)
/// };
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # let answer = runtime.block_on(answer)?;
/// # assert_eq!(answer, 7);
/// reactor.stop();
/// thread.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
///
/// That of the end. A future that is dropped has sent and received nothing.
///
/// # Fork
///
/// The reactor's thread stays in the parent: make another [`Reactor`] in the child.
#[derive(Debug)]
pub struct Async<E: End> {
    end: E,
    seat: Seat,
    keep: Arc<dyn Keep>,
    /// The present wait's inner bound.
    bound: Duration,
    /// Whether a wake may have been used up for us since we last passed one on.
    waited: bool,
}

impl<E: End> Async<E> {
    /// Lets `reactor` sleep for `end`.
    ///
    /// # Errors
    ///
    /// [`AttachError`] if a peer has overwritten the ring's header since `end` was attached.
    pub fn new(end: E, reactor: &Reactor) -> Result<Self, AttachError> {
        Ok(Self {
            keep: end.keep()?,
            end,
            seat: reactor.seat(),
            bound: Patience::FIRST,
            waited: false,
        })
    }

    /// The end, for calls that do not wait.
    pub fn get_ref(&self) -> &E {
        &self.end
    }

    /// The end, for calls that do not wait.
    pub fn get_mut(&mut self) -> &mut E {
        &mut self.end
    }

    /// Ready if the end is, in the sense of its [`Source`]; otherwise the context's waker is called, once, when
    /// it may be.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context, |end| end.is_ready().then_some(()))
    }

    /// Waits until the end is ready, in the sense of its [`Source`]: look, and wait again if it was another
    /// who got what was there.
    pub async fn ready(&mut self) {
        self.until(|end| end.is_ready().then_some(())).await;
    }

    /// Waits until `attempt` gives something. It is tried before anything is waited for, and again after
    /// each wake.
    pub(crate) async fn until<R>(&mut self, mut attempt: impl FnMut(&mut E) -> Option<R>) -> R {
        let wait = Waiting(self);
        poll_fn(|context| wait.0.poll(context, &mut attempt)).await
    }

    fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut(&mut E) -> Option<R>,
    ) -> Poll<R> {
        if self.seat.take_recheck() {
            self.end.recheck();
            self.bound = (self.bound * 2).min(Patience::LAST);
        }
        for _ in 0..LOOKS {
            if let Some(result) = attempt(&mut self.end) {
                self.withdraw();
                return Poll::Ready(result);
            }
            let mark = self.keep.mark();
            let (entry, bound) = match self.end.arm() {
                Armed::Ready => continue,
                Armed::Waiting(entry) => (entry, self.bound),
                Armed::Unheard(entry) => (entry, UNHEARD),
            };
            self.waited = true;
            self.seat.give(Given {
                keep: &self.keep,
                expected: entry.expected(),
                mark,
                bound,
                waker: context.waker(),
            });
            return Poll::Pending;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Step 9.
    fn withdraw(&mut self) {
        if core::mem::take(&mut self.waited) {
            self.seat.withdraw();
            self.end.pass_on();
            self.bound = Patience::FIRST;
        }
    }
}

impl<E: End> Drop for Async<E> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// A wait that withdraws when it is dropped.
struct Waiting<'a, E: End>(&'a mut Async<E>);

impl<E: End> Drop for Waiting<'_, E> {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}
