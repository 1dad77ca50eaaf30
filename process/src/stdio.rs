//! Standard streams of a child: inherited, discarded, piped, or a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_shm::transfer::Sent;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::registry::{self, ParentEnd};

/// What one of a child's standard streams is; see [`Context::stdout`](crate::Context::stdout).
///
/// # Examples
///
/// ```
/// use std::io::Read;
/// use multiprocess::{Context, Stdio};
///
/// let context = Context::default().stdout(Stdio::piped());
/// let mut child = context.spawn(|()| println!("heard"), ())?;
/// let mut said = String::new();
/// child.take_stdout().unwrap().read_to_string(&mut said)?;
/// child.join()?;
/// assert_eq!(said, "heard\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stdio(Kind);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Kind {
    Inherit,
    Null,
    Piped,
    File(#[serde(with = "as_fd")] Arc<OwnedFd>),
}

/// A file travels as its descriptor.
mod as_fd {
    use super::{Arc, AsFd, OwnedFd, Sent};
    use multiprocess_shm::transfer::Fd;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        fd: &Arc<OwnedFd>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Sent(fd.as_fd()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<OwnedFd>, D::Error> {
        Ok(Arc::new(Fd::deserialize(deserializer)?.into_inner()))
    }
}

impl Stdio {
    /// This process's own stream, as it is when the child is started. (Where nothing is said, a
    /// forkserver's child has the streams with which its server was started.)
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe to this process: [`Process::take_stdin`](crate::Process::take_stdin) and its like.
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// The child's side, and ours of a pipe.
    fn open(&self, stream: usize) -> io::Result<(ParentEnd, Option<ParentEnd>)> {
        let own = |fd: BorrowedFd<'_>| -> io::Result<ParentEnd> {
            Ok(ParentEnd::new(fcntl_dupfd_cloexec(fd, FIRST_FREE)?))
        };
        match &self.0 {
            Kind::Inherit => {
                let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
                let fd = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()][stream];
                Ok((own(fd)?, None))
            }
            Kind::Null => {
                let null = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?;
                Ok((own(null.as_fd())?, None))
            }
            Kind::File(file) => Ok((own(file.as_fd())?, None)),
            Kind::Piped => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                let (theirs, ours) = if stream == 0 {
                    (read, write)
                } else {
                    (write, read)
                };
                Ok((own(theirs.as_fd())?, Some(own(ours.as_fd())?)))
            }
        }
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::File(Arc::new(fd)))
    }
}

/// Numbers below are those of the streams themselves: a descriptor that is to become one must not
/// be overwritten by another one before.
const FIRST_FREE: i32 = 3;

/// What is said about the three streams; `None`: nothing.
pub(crate) type Choice = [Option<Stdio>; 3];

/// Both sides of one start's streams. No other child that is forked keeps either.
#[derive(Debug, Default)]
pub(crate) struct Plumbing {
    pub(crate) theirs: [Option<ParentEnd>; 3],
    pub(crate) ours: Pipes,
}

/// Our ends of a child's pipes.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<StdinPipe>,
    pub(crate) stdout: Option<OutputPipe>,
    pub(crate) stderr: Option<OutputPipe>,
}

impl Plumbing {
    pub(crate) fn new(choice: &Choice) -> io::Result<Self> {
        let mut plumbing = Self::default();
        if choice.iter().all(Option::is_none) {
            return Ok(plumbing);
        }
        let _starting = registry::starting(); // until both ends are registered
        for (stream, stdio) in choice.iter().enumerate() {
            let Some(stdio) = stdio else { continue };
            let (theirs, ours) = stdio.open(stream)?;
            plumbing.theirs[stream] = Some(theirs);
            match stream {
                0 => plumbing.ours.stdin = ours.map(StdinPipe),
                1 => plumbing.ours.stdout = ours.map(OutputPipe),
                _ => plumbing.ours.stderr = ours.map(OutputPipe),
            }
        }
        Ok(plumbing)
    }

    /// Which streams change.
    pub(crate) fn streams(&self) -> [bool; 3] {
        self.theirs.each_ref().map(Option::is_some)
    }
}

/// In the child: opens `/dev/null` for streams that its parent has closed. Else the next
/// descriptors to come, of shared memory, would have their numbers, and what is printed would be
/// written over it. Rust's own runtime does this before main; the hook comes earlier.
pub(crate) fn occupy() -> io::Result<()> {
    for number in 0..FIRST_FREE {
        // SAFETY: asks about a number, whatever it is.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
            continue;
        }
        // The lowest number that is free is this one. Not close-on-exec, as streams are.
        // SAFETY: the path is NUL-terminated.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// In the child: makes `fd` the stream of that number.
pub(crate) fn install(stream: usize, fd: BorrowedFd<'_>) -> io::Result<()> {
    // Received descriptors may have low numbers, where the streams were closed.
    let fd = fcntl_dupfd_cloexec(fd, FIRST_FREE)?;
    Ok(match stream {
        0 => rustix::stdio::dup2_stdin(&fd),
        1 => rustix::stdio::dup2_stdout(&fd),
        _ => rustix::stdio::dup2_stderr(&fd),
    }?)
}

/// The writing end of a child's standard input. Dropping it is the input's end.
///
/// # Crash safety
///
/// Writing to a child that has died is `BrokenPipe`, and raises no SIGPIPE unless the program has
/// made it deadly again.
///
/// # Fork
///
/// A forked child has no copy that works.
#[derive(Debug)]
pub struct StdinPipe(ParentEnd);

impl Write for StdinPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::write(&self.0, bytes)
        })?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for StdinPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The reading end of a child's standard output or standard error; it ends when the child and all
/// who inherited the stream have closed it.
///
/// # Fork
///
/// A forked child has no copy that works.
#[derive(Debug)]
pub struct OutputPipe(ParentEnd);

impl Read for OutputPipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.0, &mut *bytes) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl AsFd for OutputPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
