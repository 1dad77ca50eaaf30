//! Linux: procfs for identities, rlimit and sysinfo for limits, memfd for memory.

use core::ffi::{CStr, c_void};
use core::fmt::Write as _;

#[cfg(feature = "std")]
use multiprocess_core::LayoutHash;
use multiprocess_core::{AttachError, CreateError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{self, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{self, Advice};
use rustix::process::{Pid, PidfdFlags, Resource, getpid, getrlimit, pidfd_open};

use crate::{HugePages, Options};

/// A process, told apart from every other one of its PID namespace, also after its id is
/// used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// As seen in its own namespace.
    pub(crate) pid: u32,
    /// Clock ticks since boot (`/proc/PID/stat`, field 22); 0 if there is no procfs.
    pub(crate) start_time: u64,
    /// Inode of `/proc/thread-self/ns/pid`; 0 if there is no procfs.
    pub(crate) pid_namespace: u64,
}

impl Identity {
    /// This process.
    pub(crate) fn own() -> Self {
        Self {
            pid: getpid().as_raw_nonzero().get() as u32,
            start_time: start_time(c"/proc/self/stat").unwrap_or(0),
            pid_namespace: pid_namespace(),
        }
    }

    /// Whether the kernel attests that all threads of this process have ended, by a pidfd. `false`
    /// if it cannot tell: another PID namespace, or a later process with the same id.
    pub(crate) fn has_ended(self) -> bool {
        if self.pid_namespace == 0 || self.pid_namespace != pid_namespace() {
            return false;
        }
        // Another process may have written anything there.
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(errno) => errno == Errno::SRCH,
            Ok(process) => {
                let mut polled = [PollFd::new(&process, PollFlags::IN)];
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                poll(&mut polled, Some(&now)) == Ok(1)
            }
        }
    }

    /// Whether the kernel attests that this process has ended, also if a later one has its id.
    /// `false` if it cannot tell: another PID namespace, or a `/proc` that hides the process or is
    /// another namespace's.
    pub(crate) fn is_dead(self) -> bool {
        self.has_ended() || self.has_successor()
    }

    /// Whether another process has this id now.
    fn has_successor(self) -> bool {
        self.start_time != 0
            && self.pid_namespace != 0
            && self.pid_namespace == pid_namespace()
            && proc_counts_as_we_do()
            && proc_path(format_args!("{}/stat", self.pid), start_time)
                .is_ok_and(|now| now != self.start_time)
    }
}

/// Whether `/proc` is that of our own PID namespace: it has us under the id that we have.
fn proc_counts_as_we_do() -> bool {
    let mut id = [0u8; 16];
    let Ok(len) = fs::readlinkat_raw(fs::CWD, c"/proc/self", &mut id) else {
        return false;
    };
    let id = core::str::from_utf8(&id[..len]).ok();
    id.and_then(|id| id.parse().ok()) == Some(getpid().as_raw_nonzero().get())
}

/// The inode that names this process's PID namespace; 0 without procfs.
///
/// As in every path here `thread-self`: `self` is the main thread, which may have ended.
pub(crate) fn pid_namespace() -> u64 {
    fs::stat(c"/proc/thread-self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Start time of the process behind a `stat` file; also of a zombie, whose other threads may live.
fn start_time(path: &CStr) -> Result<u64, Errno> {
    let file = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = [0u8; 1024];
    let len = rustix::io::read(&file, &mut bytes)?;
    parse_stat(&bytes[..len]).ok_or(Errno::SRCH)
}

/// Field 22. Field 2 is the command in parentheses and may itself contain blanks and parentheses.
fn parse_stat(stat: &[u8]) -> Option<u64> {
    let after_command = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = stat.get(after_command..)?.split(|byte| *byte == b' ');
    // Fields 3 to 21 lie between.
    let text = core::str::from_utf8(fields.nth(19)?).ok()?;
    text.parse().ok()
}

/// Calls `f` with a path below `/proc`, of 32 bytes at most.
pub(crate) fn proc_path<R>(
    below: core::fmt::Arguments<'_>,
    f: impl FnOnce(&CStr) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let mut path = PathBuffer::default();
    write!(path, "/proc/{below}\0").map_err(|_| Errno::NAMETOOLONG)?;
    let path = CStr::from_bytes_until_nul(&path.bytes).map_err(|_| Errno::NAMETOOLONG)?;
    f(path)
}

/// Of a file that was opened by its path only (`O_PATH`): `fchmod` refuses it.
#[cfg(feature = "std")]
pub(crate) fn change_mode(file: rustix::fd::BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    let number = rustix::fd::AsRawFd::as_raw_fd(&file);
    proc_path(format_args!("thread-self/fd/{number}"), |path| {
        fs::chmod(path, mode)
    })
}

#[derive(Default)]
struct PathBuffer {
    bytes: [u8; 32],
    len: usize,
}

impl core::fmt::Write for PathBuffer {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(core::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// What every machine has: no need to ask.
const SMALL: u64 = 1 << 20;

/// The largest file that could be filled: memory and swap of the machine, or `RLIMIT_FSIZE`; for a
/// small size only the latter is asked for.
///
/// Without this check the kernel answers an absurd size with the OOM killer, and one above
/// `RLIMIT_FSIZE` with `SIGXFSZ`.
pub(crate) fn size_limit(size: u64) -> u64 {
    let file_size = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    if (1..=SMALL).contains(&size) && size <= file_size {
        return file_size;
    }
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let memory = (info.totalram as u64)
        .saturating_add(info.totalswap as u64)
        .saturating_mul(unit);
    memory.min(file_size).min(i64::MAX as u64)
}

/// An empty, sealable, close-on-exec memfd; of huge pages if so wished.
pub(crate) fn anonymous_file(name: &CStr, huge: bool) -> Result<OwnedFd, CreateError> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let file = match fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know NOEXEC_SEAL.
        Err(Errno::INVAL) => fs::memfd_create(name, flags),
        other => other,
    };
    file.map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::INVAL if huge => CreateError::NoHugePages,
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => CreateError::NoMemfd,
        other => CreateError::System(other),
    })
}

/// Rounded up to whole pages of 2 MiB.
pub(crate) fn whole_huge_pages(size: u64) -> u64 {
    size.next_multiple_of(2 << 20)
}

/// The size of a file that cannot shrink any more.
pub(crate) fn sealed_size(file: &OwnedFd) -> Result<u64, AttachError> {
    // A file that does not know seals answers EINVAL.
    let seals = match fs::fcntl_get_seals(file) {
        Ok(seals) => seals,
        Err(Errno::INVAL) => SealFlags::empty(),
        Err(errno) => return Err(errno.into()),
    };
    // Sealed first, sized second: the size that is read cannot shrink any more.
    let size = size(file)?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(AttachError::Unsealed);
    }
    Ok(size)
}

/// The size of a file with at least one byte.
pub(crate) fn size(file: &OwnedFd) -> Result<u64, AttachError> {
    match u64::try_from(fs::fstat(file)?.st_size) {
        Ok(0) | Err(_) => Err(AttachError::Empty),
        Ok(size) => Ok(size),
    }
}

/// Makes a mapping lie as `options` say.
pub(crate) fn arrange(base: *mut c_void, len: usize, options: &Options) -> Result<(), CreateError> {
    if options.huge_pages == HugePages::Advised {
        // SAFETY: a hint about bytes that the caller has mapped; contents stay.
        // A kernel without them says EINVAL: a hint it is.
        let _ = unsafe { mm::madvise(base, len, Advice::LinuxHugepage) };
    }
    if options.locked {
        // SAFETY: as above.
        unsafe { mm::mlock(base, len) }.map_err(|errno| match errno {
            Errno::NOMEM | Errno::PERM | Errno::AGAIN => CreateError::LockLimit,
            other => CreateError::System(other),
        })?;
    }
    if options.populated {
        // SAFETY: as above; populating writes no byte.
        match unsafe { mm::madvise(base, len, Advice::LinuxPopulateWrite) } {
            // EINVAL: Linux before 5.14. Pages are mapped at first use, as ever.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::NOMEM) => return Err(CreateError::NoSpace),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A number for this boot of the machine; 0 without procfs. Asked for once: it does not change in the
/// life of a process, nor of its children.
#[cfg(feature = "std")]
pub(crate) fn boot() -> u64 {
    // Of the thread: a lock that another thread holds while this one forks would be lost to the child.
    std::thread_local! {
        static BOOT: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
    }
    BOOT.with(|boot| {
        if boot.get() == 0 {
            boot.set(ask_for_boot());
        }
        boot.get()
    })
}

#[cfg(feature = "std")]
fn ask_for_boot() -> u64 {
    let mut text = [0u8; 64];
    let path = c"/proc/sys/kernel/random/boot_id";
    let read = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut text));
    match read {
        Ok(len) => core::str::from_utf8(&text[..len]).map_or(0, |id| LayoutHash::of(id).bits()),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_identity_is_alive() {
        let own = Identity::own();
        assert!(own.pid > 0 && own.start_time > 0 && own.pid_namespace > 0);
        assert!(!own.is_dead());
    }

    #[test]
    fn another_start_time_means_another_process() {
        let mut reused = Identity::own();
        reused.start_time += 1;
        assert!(reused.is_dead());
    }

    #[test]
    fn a_number_that_is_no_process_id_attests_nothing() {
        for pid in [0, 1 << 31, u32::MAX] {
            let garbage = Identity {
                pid,
                ..Identity::own()
            };
            assert!(!garbage.has_ended(), "{pid}");
        }
    }

    #[test]
    fn a_foreign_namespace_attests_nothing() {
        let mut foreign = Identity::own();
        foreign.start_time += 1;
        foreign.pid_namespace += 1;
        assert!(!foreign.is_dead());
    }

    #[test]
    fn commands_with_parentheses_do_not_confuse_the_parser() {
        let mut stat = String::from("7 (a) Z (b c)) S");
        for field in 4..=21 {
            stat += &format!(" {field}");
        }
        stat += " 4711 0 0";
        assert_eq!(parse_stat(stat.as_bytes()), Some(4711));
        assert_eq!(
            parse_stat(stat.replace(") S", ") Z").as_bytes()),
            Some(4711)
        );
        assert_eq!(parse_stat(b"7 (x) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
