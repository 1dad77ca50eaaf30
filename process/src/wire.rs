//! Frames on a stream socket: bytes and descriptors, whole or not at all.
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | bytes of the body | u64, little endian |
//! | 8 | descriptors | u32, little endian |
//! | 12 | 0 | u32 |
//!
//! Then, for every 253 descriptors or part thereof, one byte that carries them, then the body.
//! Descriptor bytes are read one by one, so no batch is ever cut by a longer read.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use multiprocess_core::Deadline;
use rustix::net::RecvFlags;

use crate::sys::socket::{self, MAX_FDS};

const HEADER: usize = 16;

/// A body's buffer begins at this and doubles as it fills: a header that lies costs no memory.
const FIRST_STEP: usize = 64 << 10;

/// More descriptors than any process may have open.
const ABSURD_FDS: usize = 1 << 20;

/// A message between parent and child.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends a frame; blocks until the socket has taken all of it.
pub(crate) fn send(socket: BorrowedFd<'_>, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[8..12].copy_from_slice(&(fds.len() as u32).to_le_bytes());
    send_all(socket, &header)?;
    for batch in fds.chunks(MAX_FDS) {
        socket::send(socket, &[0], batch)?;
    }
    send_all(socket, body)
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = socket::send(socket, bytes, &[])?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Receives a frame; blocks until all of it is there.
///
/// # Errors
///
/// `UnexpectedEof` if the peer closes before the end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Frame> {
    let mut reader = Reader::default();
    loop {
        if let Some(frame) = reader.advance(socket, RecvFlags::empty())? {
            return Ok(frame);
        }
    }
}

/// Receives a frame piece by piece, so that a waiting caller keeps its deadline.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    header: [u8; HEADER],
    header_len: usize,
    fds: Vec<OwnedFd>,
    batches: usize,
    /// `body[..filled]` has arrived.
    body: Vec<u8>,
    filled: usize,
}

impl Reader {
    /// Takes what is there without waiting, until the deadline: a peer may send faster than we read.
    /// `None`: more is to come.
    pub(crate) fn try_advance(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<Frame>> {
        loop {
            match self.advance(socket, RecvFlags::DONTWAIT) {
                Ok(None) if deadline.has_passed() => return Ok(None),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                other => return other,
            }
        }
    }

    /// One read. `None`: more is to come.
    fn advance(&mut self, socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<Frame>> {
        if self.header_len < HEADER {
            let rest = &mut self.header[self.header_len..];
            self.header_len += some(socket, rest, &mut self.fds, flags)?;
            if self.header_len < HEADER {
                return Ok(None);
            }
        } else if self.batches < self.fds_expected().div_ceil(MAX_FDS) {
            self.batches += some(socket, &mut [0], &mut self.fds, flags)?;
        } else if self.filled < self.body_expected()? {
            self.read_body(socket, flags)?;
        }
        if self.fds_expected() > ABSURD_FDS {
            return Err(io::Error::other("a frame with absurdly many descriptors"));
        }
        let whole = self.batches == self.fds_expected().div_ceil(MAX_FDS)
            && self.filled == self.body_expected()?;
        if !whole {
            return Ok(None);
        }
        if self.fds.len() != self.fds_expected() {
            return Err(io::Error::other("a frame lacks descriptors"));
        }
        Ok(Some(Frame {
            body: std::mem::take(&mut self.body),
            fds: std::mem::take(&mut self.fds),
        }))
    }

    fn read_body(&mut self, socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<()> {
        if self.filled == self.body.len() {
            let rest = self.body_expected()? - self.filled;
            let step = rest.min(self.filled.max(FIRST_STEP));
            self.body
                .try_reserve_exact(step)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            self.body.resize(self.filled + step, 0);
        }
        self.filled += some(socket, &mut self.body[self.filled..], &mut self.fds, flags)?;
        Ok(())
    }

    fn body_expected(&self) -> io::Result<usize> {
        let [a, b, c, d, e, f, g, h, ..] = self.header;
        usize::try_from(u64::from_le_bytes([a, b, c, d, e, f, g, h])).map_err(io::Error::other)
    }

    fn fds_expected(&self) -> usize {
        let [.., a, b, c, d, _, _, _, _] = self.header;
        u32::from_le_bytes([a, b, c, d]) as usize
    }
}

/// At least one byte.
fn some(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> io::Result<usize> {
    match socket::receive(socket, bytes, fds, flags)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use multiprocess_core::Timeout;
    use rustix::net::SocketType;

    use super::*;

    #[test]
    fn a_deadline_ends_a_pass_though_more_is_there() {
        let (ours, theirs) = socket::pair(SocketType::STREAM).unwrap();
        // Of two steps, and less than a socket holds.
        let body = vec![7; FIRST_STEP + 1];
        send(theirs.as_fd(), &body, &[]).unwrap();
        let mut reader = Reader::default();
        let mut pass = |deadline| reader.try_advance(ours.as_fd(), deadline).unwrap();
        let over = Deadline::after(Timeout::TRY);
        assert!(pass(over).is_none(), "the header");
        assert!(pass(over).is_none(), "the first step");
        assert_eq!(pass(Deadline::NEVER).unwrap().body, body);
    }
}
