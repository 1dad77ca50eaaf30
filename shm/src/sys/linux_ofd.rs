//! Linux: byte locks that belong to an open file description, and go with its last descriptor.
//!
//! <https://man7.org/linux/man-pages/man2/F_OFD_SETLK.2const.html>. rustix knows POSIX locks only,
//! which vanish when the process closes *any* descriptor of the file: a live owner would look
//! dead.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

/// `struct flock` of a 64-bit kernel interface.
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    padding: u32,
    start: i64,
    len: i64,
    pid: i32,
    padding_2: u32,
}

const READ_LOCK: i16 = 0;
const WRITE_LOCK: i16 = 1;
const UNLOCKED: i16 = 2;
const GET: isize = 36; // F_OFD_GETLK
const SET: isize = 37; // F_OFD_SETLK

impl Flock {
    fn of(byte: u64, kind: i16) -> Self {
        Self {
            kind,
            whence: 0, // SEEK_SET
            padding: 0,
            start: byte as i64,
            len: 1,
            pid: 0,
            padding_2: 0,
        }
    }
}

/// A file description of one's own for a file that is open already.
pub(crate) fn reopen(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    super::proc_path(
        format_args!("thread-self/fd/{}", file.as_raw_fd()),
        |path| fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()),
    )
}

/// Locks `byte` for this file description; `false` if another one has it. What it had of it before
/// is replaced in one step, or stays.
pub(crate) fn try_lock(file: BorrowedFd<'_>, byte: u64) -> Result<bool, Errno> {
    try_set(file, byte, WRITE_LOCK)
}

/// Locks `byte` together with others that share it; `false` if one has it for itself.
#[cfg(feature = "std")]
pub(crate) fn try_share(file: BorrowedFd<'_>, byte: u64) -> Result<bool, Errno> {
    try_set(file, byte, READ_LOCK)
}

fn try_set(file: BorrowedFd<'_>, byte: u64, kind: i16) -> Result<bool, Errno> {
    match fcntl(file, SET, &mut Flock::of(byte, kind)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// How other file descriptions have a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Free,
    Shared,
    Exclusive,
}

/// How other file descriptions have `byte`. Needs no right to lock it.
pub(crate) fn held(file: BorrowedFd<'_>, byte: u64) -> Result<Held, Errno> {
    let mut lock = Flock::of(byte, WRITE_LOCK);
    fcntl(file, GET, &mut lock)?;
    Ok(match lock.kind {
        UNLOCKED => Held::Free,
        READ_LOCK => Held::Shared,
        _ => Held::Exclusive,
    })
}

/// Whether another file description has `byte` locked, or shares it.
pub(crate) fn is_locked(file: BorrowedFd<'_>, byte: u64) -> Result<bool, Errno> {
    Ok(held(file, byte)? != Held::Free)
}

fn fcntl(file: BorrowedFd<'_>, command: isize, lock: &mut Flock) -> Result<(), Errno> {
    let result = raw::fcntl(file.as_raw_fd() as isize, command, lock);
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result as i32));
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
mod raw {
    use super::Flock;

    pub(super) fn fcntl(fd: isize, command: isize, lock: &mut Flock) -> isize {
        let result: isize;
        // SAFETY: system call 72 with a command that reads and writes one `struct flock`, which
        // `lock` is; it clobbers rcx and r11 and touches no stack.
        unsafe {
            core::arch::asm!("syscall", inlateout("rax") 72isize => result, in("rdi") fd,
                in("rsi") command, in("rdx") lock, lateout("rcx") _, lateout("r11") _,
                options(nostack));
        }
        result
    }
}

#[cfg(target_arch = "aarch64")]
mod raw {
    use super::Flock;

    pub(super) fn fcntl(fd: isize, command: isize, lock: &mut Flock) -> isize {
        let result: isize;
        // SAFETY: system call 25 with a command that reads and writes one `struct flock`, which
        // `lock` is.
        unsafe {
            core::arch::asm!("svc 0", in("x8") 25, inlateout("x0") fd => result,
                in("x1") command, in("x2") lock, options(nostack));
        }
        result
    }
}

/// Other architectures: nobody can join a table.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod raw {
    use super::Flock;

    pub(super) fn fcntl(_: isize, _: isize, _: &mut Flock) -> isize {
        -38 // ENOSYS
    }
}
