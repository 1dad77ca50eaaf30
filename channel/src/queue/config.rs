//! What a queue has room for.

use crate::mpmc::Config;
use crate::store::Shape;

/// How large a queue is.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::queue::{Queue, QueueConfig};
///
/// let config = QueueConfig::new(16).endpoints(8).large(64 << 20);
/// let queue: Queue<Vec<u8>> = Queue::with(&config)?;
/// queue.put(vec![7; 1 << 20])?;
/// assert_eq!(queue.get()?.len(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    maxsize: u64,
    endpoints: u32,
    large: u64,
    descriptors: u32,
}

impl QueueConfig {
    /// At most `maxsize` values that nobody has got; for 64 endpoints, with 1 MiB for large values.
    pub const fn new(maxsize: u64) -> Self {
        Self {
            maxsize,
            endpoints: 64,
            large: 1 << 20,
            descriptors: 0,
        }
    }

    /// For at most so many endpoints at a time, 1 to 8192: each thread that is inside `put` has one, each
    /// that is inside `get` another one, and each [`Job`](super::Job) in hand. A process keeps those it has had.
    #[must_use]
    pub const fn endpoints(mut self, endpoints: u32) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// Bytes for values that are larger than 120 bytes, all together, while they wait. Reserved at once; not
    /// 0.
    #[must_use]
    pub const fn large(mut self, bytes: u64) -> Self {
        self.large = bytes;
        self
    }

    /// Values may carry descriptors and handles: files, sockets, locks, queues. So many values at a time, those
    /// in hand counted in ([`Job`](super::Job)s that are not done): who puts another one waits, as for room. Rounded up
    /// to 4, 16, 64, 256 or 1024; 0, the default, is none.
    ///
    /// For each there is a pair of sockets in which they wait, kept open by the kernel, and counted among the
    /// descriptors that its maker has under way (`RLIMIT_NOFILE` of them at a time, if it is not
    /// privileged): 2.4 for each. A handle on such a queue has one descriptor more.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::fd::OwnedFd;
    /// use std::os::unix::net::UnixStream;
    ///
    /// use multiprocess_channel::queue::{Queue, QueueConfig};
    /// use multiprocess_shm::transfer::Fd;
    ///
    /// // Connections for whichever worker is free, and the name of who is at the other end.
    /// let config = QueueConfig::new(100).descriptors(16);
    /// let connections = Queue::<(String, Fd)>::with(&config)?;
    ///
    /// let (mut client, accepted) = UnixStream::pair()?;
    /// connections.put(("client".into(), Fd::from(OwnedFd::from(accepted))))?;
    ///
    /// let (name, connection) = connections.get()?;
    /// writeln!(UnixStream::from(connection.into_inner()), "hello, {name}")?;
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer)?;
    /// assert_eq!(answer, "hello, client\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn descriptors(mut self, values: u32) -> Self {
        self.descriptors = values;
        self
    }

    const fn slots(&self) -> u64 {
        match self.maxsize {
            0 => 0,
            some => some.saturating_add(self.endpoints as u64),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        // What is in hand has slots, too.
        let ring = Config::new(self.slots())
            .limit(self.maxsize)
            .endpoints(self.endpoints)
            .kept();
        Shape {
            pouches: u64::from(self.descriptors),
            ..Shape::new(ring, self.large)
        }
    }
}
