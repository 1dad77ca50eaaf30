//! The sockets in which the descriptors of values wait.
//!
//! A *pouch* is a pair of sockets: what was sent into one end waits at the other, and the kernel keeps it
//! open, whoever dies. A *rack* is all pouches of a queue behind one descriptor: a tree whose branches are
//! sockets, in each of which waits, for ever, one message with the four next branches, or with four
//! pouches. It is *peeked* only (`MSG_PEEK` gives duplicates of the descriptors, and the message stays), and
//! nobody has the other ends of its branches, so nothing is added. There is no state to be raced for: no
//! offset, no order, no lock.
//!
//! Who may use a pouch is another matter: `pouch.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiprocess_core::Errno;
use multiprocess_shm::socket::{self, MAX_FDS};
use multiprocess_shm::transfer::is_scarcity;
use rustix::net::{RecvFlags, SocketType};

/// Branches, or pouches, of a branch.
const FANOUT: u32 = 4;
const FANOUT_BITS: u32 = FANOUT.ilog2();

/// The most descriptors of one value: a message of sockets in each of which waits a full message.
pub(super) const MAX_CARRIED: usize = MAX_FDS * MAX_FDS;

/// Messages that somebody may have put into a pouch beside one of ours, before we take it for spoilt.
const MESSAGES: u32 = 1024;

/// Why the descriptors of a value were not had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The kernel has none left for us; those of the value are where they were.
    Scarce(Errno),
    /// Somebody else has been at the sockets.
    Spoilt,
}

impl From<Errno> for Missing {
    fn from(errno: Errno) -> Self {
        match is_scarcity(errno) {
            true => Self::Scarce(errno),
            false => Self::Spoilt,
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// All pouches of a queue. By any number of threads and processes.
#[derive(Debug)]
pub(super) struct Rack {
    root: OwnedFd,
    depth: u32,
}

impl Rack {
    /// As many pouches as `count` says: a power of four.
    pub(super) fn create(count: u64) -> Result<Self, Errno> {
        let depth = depth_of(count);
        let root = branch(depth)?;
        Ok(Self { root, depth })
    }

    /// The rack behind `root`, if it is the one that [`number`](Self::number) was asked of.
    pub(super) fn attach(root: OwnedFd, count: u64, number: u64) -> Option<Self> {
        let rack = Self {
            root,
            depth: depth_of(count),
        };
        (rack.number() == Ok(number)).then_some(rack)
    }

    /// The kernel's number of the root, by which it is known again.
    pub(super) fn number(&self) -> Result<u64, Errno> {
        rustix::net::sockopt::socket_cookie(&self.root)
    }

    /// Pouch number `index`.
    pub(super) fn open(&self, index: u64) -> Result<Pouch, Missing> {
        let at = |level: u32| (index >> (FANOUT_BITS * level)) as u32 % FANOUT;
        let mut branch: Option<OwnedFd> = None;
        for level in (1..self.depth).rev() {
            let from = branch.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let mut next = peek(from, FANOUT as usize)?;
            branch = Some(next.swap_remove(at(level) as usize));
        }
        let from = branch.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        let mut ends = peek(from, 2 * FANOUT as usize)?;
        let mut pair = ends.drain(2 * at(0) as usize..).take(2);
        match (pair.next(), pair.next()) {
            (Some(out), Some(into)) => Ok(Pouch { out, into }),
            _ => Err(Missing::Spoilt),
        }
    }
}

impl AsFd for Rack {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Branches between the root and a pouch, and itself.
fn depth_of(count: u64) -> u32 {
    count.max(2).ilog(u64::from(FANOUT)).max(1)
}

/// A socket in which wait the branches below it.
fn branch(depth: u32) -> Result<OwnedFd, Errno> {
    let mut below = Vec::new();
    for _ in 0..FANOUT {
        match depth {
            1 => {
                let (out, into) = pair()?;
                below.extend([out, into]);
            }
            _ => below.push(branch(depth - 1)?),
        }
    }
    sealed(&below)
}

/// A socket in which `fds` wait, and nothing else will ever: nobody has its other end.
fn sealed(fds: &[impl AsFd]) -> Result<OwnedFd, Errno> {
    let (out, into) = pair()?;
    send(into.as_fd(), fds)?;
    Ok(out)
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socket::pair(SocketType::SEQPACKET).map_err(errno)
}

fn send(into: BorrowedFd<'_>, fds: &[impl AsFd]) -> Result<(), Errno> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    socket::send_now(into, &[0], &fds).map(drop).map_err(errno)
}

/// Duplicates of the descriptors that wait first in line, which are to be so many.
fn peek(from: BorrowedFd<'_>, count: usize) -> Result<Vec<OwnedFd>, Missing> {
    let mut fds = Vec::with_capacity(count.min(MAX_FDS));
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    socket::receive(from, &mut [0], &mut fds, flags).map_err(errno)?;
    match fds.len() == count {
        true => Ok(fds),
        false => Err(Missing::Spoilt),
    }
}

/// A place for the descriptors of one value.
#[derive(Debug)]
pub(super) struct Pouch {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pouch {
    /// Puts descriptors in: all of them by one call, so all or none are there. More than a message takes wait
    /// in sockets of their own, which are what the message carries.
    pub(super) fn fill(&self, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        if fds.len() <= MAX_FDS {
            return send(self.into.as_fd(), fds);
        }
        if fds.len() > MAX_CARRIED {
            return Err(Errno::TOOMANYREFS);
        }
        let bundles = fds.chunks(MAX_FDS).map(sealed);
        send(self.into.as_fd(), &bundles.collect::<Result<Vec<_>, _>>()?)
    }

    /// Duplicates of the descriptors in it, which are to be so many; they stay in it.
    pub(super) fn peek(&self, count: usize) -> Result<Vec<OwnedFd>, Missing> {
        let out = self.out.as_fd();
        if count <= MAX_FDS {
            return peek(out, count);
        }
        if count > MAX_CARRIED {
            return Err(Missing::Spoilt);
        }
        let mut fds = Vec::with_capacity(count);
        for bundle in peek(out, count.div_ceil(MAX_FDS))? {
            fds.extend(peek(bundle.as_fd(), (count - fds.len()).min(MAX_FDS))?);
        }
        Ok(fds)
    }

    /// Throws away what is in it; the kernel closes it. `false` if that does not end.
    pub(super) fn empty(&self) -> bool {
        let one = || rustix::net::recv(&self.out, &mut [0_u8], RecvFlags::DONTWAIT);
        // Without room for descriptors none are made for us.
        (0..MESSAGES).any(|_| one() == Err(Errno::AGAIN))
    }
}
