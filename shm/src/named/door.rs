//! Into a named segment and out of it again: the protocol of [`Named`].

use std::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use multiprocess_core::{AttachError, CreateError, Deadline, LayoutHash, Region};
use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Content, Named, NamedError, NamedSegment, Plain, error};
use crate::header::{self, Progress};
use crate::mapping::Mapping;
use crate::sys::{self, ofd};
use crate::{ReadOnlySegment, Segment};

/// The byte of the file that its users lock: far behind those of participants.
const USE: u64 = 1 << 62;

/// The sticky bit: a file that we make, or that is tracked. It means nothing else on a regular file.
pub(super) const MARK: Mode = Mode::SVTX;

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Between two looks at a byte that another process has for itself.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// An open file whose byte we have locked, and which its name leads to.
pub(super) struct Door {
    file: OwnedFd,
    tracked: bool,
}

pub(super) enum Entered {
    /// Exclusively: empty, or half-made by the dead.
    Alone(Door),
    /// Shared: finished.
    Finished(Door),
}

/// What is found at the door.
enum Found {
    Entered(Entered),
    /// Somebody has it for himself.
    Busy,
    /// Another file has the name now.
    Gone,
}

impl Door {
    /// Steps 1 to 8, up to what is done inside. `making`: a name that is not there is made.
    pub(super) fn enter(named: &Named, making: bool) -> Result<Entered, NamedError> {
        let deadline = Deadline::after(named.timeout);
        let mut pause = FIRST_PAUSE;
        loop {
            let file = open(named, making)?;
            match Self::try_enter(named, file)? {
                Found::Entered(entered) => return Ok(entered),
                Found::Gone => {}
                Found::Busy if deadline.has_passed() => return Err(NamedError::Timeout),
                Found::Busy => {
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Steps 2 to 8.
    fn try_enter(named: &Named, file: OwnedFd) -> Result<Found, NamedError> {
        if !ofd::try_lock(file.as_fd(), USE)? {
            if !ofd::try_share(file.as_fd(), USE)? {
                return Ok(Found::Busy);
            }
            let Some(stat) = current(&file, &named.path)? else {
                return Ok(Found::Gone);
            };
            let tracked = is_marked(&stat);
            return Ok(Found::Entered(Entered::Finished(Self { file, tracked })));
        }
        let Some(stat) = current(&file, &named.path)? else {
            return Ok(Found::Gone);
        };
        let tracked = is_marked(&stat);
        let door = Self { file, tracked };
        match door.progress(named.content, stat.st_size)? {
            // Marked and finished: whoever used it is dead. It may still be mapped by processes that
            // know nothing of the byte, so it is not made anew under them.
            Some(Progress::Ready) if tracked => {
                fs::unlink(&named.path).map_err(|errno| error::of(errno, &named.path))?;
                Ok(Found::Gone)
            }
            Some(Progress::Ready) => {
                // From exclusive to shared in one step: nobody comes in between.
                ofd::try_share(door.file.as_fd(), USE)?;
                Ok(Found::Entered(Entered::Finished(door)))
            }
            None => Ok(Found::Entered(Entered::Alone(door))),
            Some(Progress::Begun | Progress::Zero) if tracked => {
                Ok(Found::Entered(Entered::Alone(door)))
            }
            // Not ours, and never to be touched.
            Some(_) => Err(door.refuse(stat.st_size)),
        }
    }

    /// How far the file has come; `None`: it is empty.
    fn progress(&self, content: Content, size: i64) -> Result<Option<Progress>, NamedError> {
        match content {
            _ if size == 0 => return Ok(None),
            Content::Plain => return Ok(Some(Progress::Ready)),
            Content::Segment => {}
        }
        // Copied out by a call, since a file that is cut off answers a load with SIGBUS.
        let mut bytes = header::Bytes::zeroed();
        let read = rustix::io::pread(&self.file, bytes.as_mut_slice(), 0)?;
        Ok(Some(match bytes.header(read) {
            Ok(header) => header.progress(),
            Err(_) => Progress::Foreign,
        }))
    }

    /// Why a file that is no segment, or no finished one, is refused.
    fn refuse(&self, size: i64) -> NamedError {
        let mut bytes = header::Bytes::zeroed();
        let checked = rustix::io::pread(&self.file, bytes.as_mut_slice(), 0)
            .map_err(AttachError::System)
            .and_then(|read| bytes.header(read))
            .and_then(|header| {
                let any = LayoutHash::of("no layout");
                header.validate(any, size as u64)
            });
        NamedError::Attach(
            checked
                .err()
                .unwrap_or(AttachError::Corrupt { field: "header" }),
        )
    }

    /// Step 4, and step 7.
    pub(super) fn make(
        self,
        named: &Named,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<NamedSegment, NamedError> {
        let made = self.try_make(named, hash, layout, init);
        if made.is_err() {
            // Ours alone still: the duplicate has the lock.
            self.remove(&named.path);
        }
        made
    }

    fn try_make(
        &self,
        named: &Named,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<NamedSegment, NamedError> {
        let size = Segment::size_for(layout)?;
        fs::fchmod(&self.file, PRIVATE | MARK)?;
        // Whoever left it half-made is dead, and nobody maps a file before it is finished.
        fs::ftruncate(&self.file, 0)?;
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0)?;
        let mapping = Mapping::in_file(file, size)?;
        mapping.arrange(&named.options)?;
        let segment = Segment::create_of_boot(mapping, sys::boot(), hash, init)?;
        if !named.tracked {
            fs::fchmod(&self.file, PRIVATE)?;
        }
        ofd::try_share(self.file.as_fd(), USE)?;
        Ok(NamedSegment::new(segment, &named.path, named.tracked, true))
    }

    /// Steps 4 and 7, of a file without a header.
    pub(super) fn make_plain(self, named: &Named, size: u64) -> Result<Plain, NamedError> {
        let made = self.try_make_plain(named, size);
        if made.is_err() {
            self.remove(&named.path);
        }
        made
    }

    fn try_make_plain(&self, named: &Named, size: u64) -> Result<Plain, NamedError> {
        let marked = if named.tracked { MARK } else { Mode::empty() };
        // It has a size at once, or none: killed here, it is empty, and if not tracked, it stays so.
        fs::fchmod(&self.file, PRIVATE | marked)?;
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0)?;
        let mapping = Mapping::in_file(file, size)?;
        mapping.arrange(&named.options)?;
        ofd::try_share(self.file.as_fd(), USE)?;
        Ok(Plain::new(mapping, &named.path, named.tracked))
    }

    /// Step 8, of a file without a header.
    pub(super) fn attach_plain(self, named: &Named) -> Result<Plain, NamedError> {
        let mapping = Mapping::attach_unsealed(self.file)?;
        mapping.arrange(&named.options)?;
        Ok(Plain::new(mapping, &named.path, self.tracked))
    }

    /// Step 8.
    pub(super) fn attach(
        self,
        named: &Named,
        hash: LayoutHash,
    ) -> Result<NamedSegment, NamedError> {
        let mapping = Mapping::attach_unsealed(self.file)?;
        mapping.arrange(&named.options)?;
        let segment = Segment::attach_mapped(mapping, hash)?;
        check_boot(named, segment.boot())?;
        Ok(NamedSegment::new(segment, &named.path, self.tracked, false))
    }

    /// The way in of those who may only read.
    pub(super) fn look_in(named: &Named) -> Result<Self, NamedError> {
        let deadline = Deadline::after(named.timeout);
        let mut pause = FIRST_PAUSE;
        loop {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = fs::open(&named.path, flags, Mode::empty())
                .map_err(|errno| error::of(errno, &named.path))?;
            check_owner(named, &file)?;
            if ofd::try_share(file.as_fd(), USE)? {
                if let Some(stat) = current(&file, &named.path)? {
                    let tracked = is_marked(&stat);
                    // Marked, and used by nobody else: left by the dead.
                    if tracked && !ofd::is_locked(file.as_fd(), USE)? {
                        return Err(NamedError::NotFound);
                    }
                    return Ok(Self { file, tracked });
                }
            } else if deadline.has_passed() {
                return Err(NamedError::Timeout);
            } else {
                std::thread::sleep(pause);
                pause = (2 * pause).min(LAST_PAUSE);
            }
        }
    }

    pub(super) fn attach_read_only(
        self,
        named: &Named,
        hash: LayoutHash,
    ) -> Result<ReadOnlySegment, NamedError> {
        let segment = ReadOnlySegment::attach_unsealed(self.file, hash)?;
        check_boot(named, segment.boot())?;
        Ok(segment)
    }

    /// Removes what the dead left half-made, which we have exclusively. `false`: it is no work of ours.
    pub(super) fn remove(&self, path: &Path) -> bool {
        let stat = current(&self.file, path);
        stat.is_ok_and(|stat| stat.is_some_and(|stat| is_marked(&stat))) && fs::unlink(path).is_ok()
    }
}

/// Step 1.
fn open(named: &Named, making: bool) -> Result<OwnedFd, NamedError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fail = |errno| error::of(errno, &named.path);
    loop {
        match fs::open(&named.path, flags, Mode::empty()) {
            Ok(file) => {
                check_owner(named, &file)?;
                return Ok(file);
            }
            Err(Errno::NOENT) if making => {}
            Err(errno) => return Err(fail(errno)),
        }
        // The umask takes bits of 0600 away at most; who made it can always open it again.
        match fs::open(
            &named.path,
            flags | OFlags::CREATE | OFlags::EXCL,
            PRIVATE | MARK,
        ) {
            Ok(file) => return Ok(file),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
}

fn check_owner(named: &Named, file: &OwnedFd) -> Result<(), NamedError> {
    let stat = fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NamedError::NotAFile);
    }
    if !named.any_owner && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(NamedError::ForeignOwner { uid: stat.st_uid });
    }
    Ok(())
}

fn check_boot(named: &Named, made: u64) -> Result<(), NamedError> {
    let now = sys::boot();
    if made != 0 && now != 0 && made != now && !named.survives_boot {
        return Err(NamedError::Attach(AttachError::OtherBoot));
    }
    Ok(())
}

/// What `file` is, if `path` leads to it.
fn current(file: &OwnedFd, path: &Path) -> Result<Option<Stat>, Errno> {
    let ours = fs::fstat(file)?;
    match fs::lstat(path) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => Ok(Some(ours)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn is_marked(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(MARK)
}

/// A file, among all files: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(file: BorrowedFd<'_>) -> Option<Identity> {
    let stat = fs::fstat(file).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Steps 10 and 11; also of those who clean up after the dead. Whether it was removed. With
/// `expected`, that file and no other.
///
/// Through a description of its own: of one that is shared with a forked child, the kernel would
/// grant the exclusive lock while the child uses the file.
pub(super) fn remove_if_unused(path: &Path, expected: Option<Identity>) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(file) = fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    if expected.is_some_and(|expected| identity(file.as_fd()) != Some(expected)) {
        return false;
    }
    // An error leaves it to the next one.
    ofd::try_lock(file.as_fd(), USE) == Ok(true)
        && current(&file, path).is_ok_and(|stat| {
            stat.is_some_and(|stat| {
                is_marked(&stat)
                    && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                    && stat.st_uid == rustix::process::geteuid().as_raw()
            })
        })
        && fs::unlink(path).is_ok()
}

/// Whether some process uses it.
pub(super) fn is_used(file: BorrowedFd<'_>) -> bool {
    ofd::is_locked(file, USE) != Ok(false)
}
