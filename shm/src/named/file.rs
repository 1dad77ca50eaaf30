//! Files behind names: how they are opened, whose they are, what becomes of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::door::Want;
use super::{DIRECTORY, Named, NamedError, error};
use crate::sys::{self, ofd};

/// The byte of the file that its users lock: far behind those of participants.
pub(super) const USE: u64 = 1 << 62;

/// The sticky bit: a file that we make, or that is tracked. It means nothing else on a regular file.
pub(super) const MARK: Mode = Mode::SVTX;

pub(super) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// How long a maker is waited for that has not given itself the right to open its file.
const MAKERS_PAUSE: Duration = Duration::from_millis(5);

/// As it is opened for whatever purpose: not through a link, and without waiting for the other end of a
/// pipe.
const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK);

/// Step 1. Whether it was made; `None`: others make and remove it all the time.
pub(super) fn open(named: &Named, want: Want) -> Result<Option<(OwnedFd, bool)>, NamedError> {
    let flags = OFlags::RDWR | OPEN;
    // Both in turn; first what is likely.
    let mut making = want == Want::New;
    for _ in 0..4 {
        let tried = match making {
            // The umask takes bits of 0600 away at most; who made it can always open it again.
            true => fs::open(
                &named.path,
                flags | OFlags::CREATE | OFlags::EXCL,
                PRIVATE | MARK,
            ),
            false => fs::open(&named.path, flags, Mode::empty()),
        };
        match tried {
            Ok(file) => return Ok(Some((file, making))),
            Err(Errno::EXIST) if making => making = false,
            Err(Errno::NOENT) if !making && want != Want::Old => making = true,
            Err(Errno::ACCESS) if !making && want_rights(named)? => {}
            Err(errno) => return Err(error::of(errno, &named.path)),
        }
    }
    Ok(None)
}

/// Why a file may not be opened. `true`: it was one of ours that was never begun, whose maker's umask has
/// left nobody any right, and may be opened now.
fn want_rights(named: &Named) -> Result<bool, NamedError> {
    let path = &named.path;
    let stat = match fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(true), // removed since
        Err(_) => return Ok(false),           // a directory that we may not look into
    };
    check_owner(named, &stat)?;
    Ok(is_without_rights(&stat) && give_rights(path, identity(&stat)))
}

/// Opens it for those who may only read.
pub(super) fn open_to_read(named: &Named) -> Result<OwnedFd, NamedError> {
    let opened = fs::open(&named.path, OFlags::RDONLY | OPEN, Mode::empty());
    opened.map_err(|errno| no_look_at(named, errno))
}

/// Why a file may not be opened by those who may only read.
fn no_look_at(named: &Named, errno: Errno) -> NamedError {
    match fs::lstat(&named.path) {
        Ok(stat) if errno == Errno::ACCESS => match check_owner(named, &stat) {
            Ok(()) if is_without_rights(&stat) => NamedError::NotFound,
            Ok(()) => NamedError::System(errno),
            Err(error) => error,
        },
        _ => error::of(errno, &named.path),
    }
}

/// A maker gives them (step 4) in a few steps after step 1; so what is without them for longer was
/// left by the dead.
pub(super) fn is_without_rights(stat: &Stat) -> bool {
    is_marked(stat)
        && stat.st_size == 0
        && !Mode::from_raw_mode(stat.st_mode).contains(PRIVATE)
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Of file `seen` and no other. A file without rights cannot be locked, so it is waited for its maker
/// first. One that is stopped for so long, and then makes all of it between our second look and the next
/// system call, finds an untracked name tracked: a window that only such a umask opens.
fn give_rights(path: &Path, seen: Identity) -> bool {
    std::thread::sleep(MAKERS_PAUSE);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(errno) => return errno == Errno::NOENT, // removed since
    };
    let stat = fs::fstat(&file);
    if !stat.is_ok_and(|stat| identity(&stat) == seen && is_without_rights(&stat)) {
        return true; // somebody else has given them, or removed it
    }
    sys::change_mode(file.as_fd(), PRIVATE | MARK).is_ok()
}

pub(super) fn check_owner(named: &Named, stat: &Stat) -> Result<(), NamedError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NamedError::NotAFile);
    }
    if !named.any_owner && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(NamedError::ForeignOwner { uid: stat.st_uid });
    }
    Ok(())
}

/// What `file` is, if `path`, by which it was opened, leads to it still.
pub(super) fn current(file: impl AsFd, path: &Path) -> Result<Option<Stat>, Errno> {
    let ours = fs::fstat(file)?;
    if ours.st_nlink == 0 {
        return Ok(None);
    }
    if is_in_directory(path) {
        return Ok(Some(ours));
    }
    Ok(leads_to(path, identity(&ours))?.then_some(ours))
}

/// Whether `path` is a name of `file`.
pub(super) fn leads_to(path: &Path, file: Identity) -> Result<bool, Errno> {
    match fs::lstat(path) {
        Ok(named) => Ok(identity(&named) == file),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether it is a name below [`DIRECTORY`], a tmpfs: it counts the links of a file as they are.
fn is_in_directory(path: &Path) -> bool {
    let below = path
        .as_os_str()
        .as_bytes()
        .strip_prefix(DIRECTORY.as_bytes());
    matches!(below, Some([b'/', name @ ..]) if !name.windows(2).any(|two| two == b".."))
}

pub(super) fn is_marked(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(MARK)
}

/// A file, among all files: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Steps 10 and 11; also of those who clean up after the dead. Whether it was removed. `entered`: that
/// file and no other; whose it is was judged then.
///
/// Through a description of its own: of one that is shared with a forked child, the kernel would
/// grant the exclusive lock while the child uses the file.
pub(super) fn remove_if_unused(path: &Path, entered: Option<Identity>) -> bool {
    let flags = OFlags::RDWR | OPEN;
    let file = fs::open(path, flags, Mode::empty()).or_else(|errno| {
        let stat = fs::lstat(path)?;
        match is_without_rights(&stat) && give_rights(path, identity(&stat)) {
            true => fs::open(path, flags, Mode::empty()),
            false => Err(errno),
        }
    });
    let Ok(file) = file else {
        return false;
    };
    let is_ours = |stat: &Stat| match entered {
        Some(entered) => entered == identity(stat),
        None => {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_uid == rustix::process::geteuid().as_raw()
        }
    };
    // An error leaves it to the next one.
    ofd::try_lock(file.as_fd(), USE) == Ok(true)
        && current(&file, path)
            .is_ok_and(|stat| stat.is_some_and(|stat| is_marked(&stat) && is_ours(&stat)))
        && fs::unlink(path).is_ok()
}

/// Whether some process uses it.
pub(super) fn is_used(file: BorrowedFd<'_>) -> bool {
    ofd::is_locked(file, USE) != Ok(false)
}
