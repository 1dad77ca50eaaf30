//! Into a named segment and out of it again: the protocol of [`Named`].

use std::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use multiprocess_core::{AttachError, CreateError, Deadline, LayoutHash, Region};
use rustix::fs::{self, Mode, Stat};
use rustix::io::Errno;

use super::file::{self, MARK, PRIVATE, USE, check_owner, current, identity, is_marked};
use super::handle::{Inside, NamedReadOnlySegment, NamedSegment, Plain};
use super::{Content, Named, NamedError, error};
use crate::header::{self, Progress};
use crate::mapping::Mapping;
use crate::sys::{self, ofd, ofd::Held};
use crate::{ReadOnlySegment, Segment};

/// Between two looks at a byte that another process has for itself.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// An open file whose byte we have locked, and which its name leads to.
pub(super) struct Door {
    file: OwnedFd,
    /// The file, as it was then.
    stat: Stat,
}

/// What somebody who asks for a name wants behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// What another one has made.
    Old,
    /// Usually nobody has made it.
    New,
    /// Whatever there is.
    Either,
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
    /// Another file has the name now, or the byte was let go of just now.
    Changed,
}

/// Looks again that are no waiting: others come and go.
const FREE_LOOKS: u32 = 16;

/// How often, and how long, it is looked again.
struct Patience {
    deadline: Deadline,
    pause: Duration,
    looks: u32,
}

impl Patience {
    fn new(named: &Named) -> Self {
        Self {
            deadline: Deadline::after(named.timeout),
            pause: FIRST_PAUSE,
            looks: 0,
        }
    }

    /// Before the next look at what has changed.
    fn look_again(&mut self) -> Result<(), NamedError> {
        self.looks += 1;
        match self.looks > FREE_LOOKS && self.deadline.has_passed() {
            true => Err(NamedError::Timeout),
            false => Ok(()),
        }
    }

    /// Before the next look at what somebody has for himself.
    fn wait(&mut self) -> Result<(), NamedError> {
        if self.deadline.has_passed() {
            return Err(NamedError::Timeout);
        }
        std::thread::sleep(self.pause);
        self.pause = (2 * self.pause).min(LAST_PAUSE);
        Ok(())
    }
}

impl Door {
    /// Steps 1 to 8, up to what is done inside.
    pub(super) fn enter(named: &Named, want: Want) -> Result<Entered, NamedError> {
        named.check_options()?;
        let mut patience = Patience::new(named);
        loop {
            let found = match file::open(named, want)? {
                Some((file, made)) => Self::try_enter(named, file, made)?,
                None => Found::Changed,
            };
            match found {
                Found::Entered(entered) => return Ok(entered),
                Found::Changed => patience.look_again()?,
                Found::Busy => patience.wait()?,
            }
        }
    }

    /// Steps 2 to 8. `made`: by us, in step 1.
    fn try_enter(named: &Named, file: OwnedFd, made: bool) -> Result<Found, NamedError> {
        let alone = ofd::try_lock(file.as_fd(), USE)?;
        if !alone {
            match ofd::held(file.as_fd(), USE)? {
                // By users, so it is finished: they shared it when it was, or after they had seen
                // that others do. They may have left since; then it counts as if we had been in first.
                Held::Shared if ofd::try_share(file.as_fd(), USE)? => {}
                // A maker that has been killed, perhaps: to be judged by whoever has it alone.
                Held::Free => return Ok(Found::Changed),
                Held::Shared | Held::Exclusive => {
                    // A stranger is not waited for.
                    check_owner(named, &fs::fstat(&file)?)?;
                    return Ok(Found::Busy);
                }
            }
        }
        let Some(stat) = current(&file, &named.path)? else {
            return Ok(Found::Changed);
        };
        if !made {
            check_owner(named, &stat)?;
        }
        let door = Self { file, stat };
        if !alone {
            return Ok(Found::Entered(Entered::Finished(door)));
        }
        let tracked = door.is_tracked();
        match door.progress(named.content)? {
            // Marked and finished: whoever used it is dead. It may still be mapped by processes that
            // know nothing of the byte, so it is not made anew under them.
            Some(Progress::Ready) if tracked => match fs::unlink(&named.path) {
                Ok(()) | Err(Errno::NOENT) => Ok(Found::Changed),
                Err(errno) => Err(error::of(errno, &named.path)),
            },
            Some(Progress::Ready) => {
                // From exclusive to shared in one step: nobody comes in between.
                ofd::try_share(door.file.as_fd(), USE)?;
                Ok(Found::Entered(Entered::Finished(door)))
            }
            None | Some(Progress::Begun | Progress::Zero) if tracked => {
                Ok(Found::Entered(Entered::Alone(door)))
            }
            // Not ours, and never to be touched.
            _ => Err(door.refuse()),
        }
    }

    fn is_tracked(&self) -> bool {
        is_marked(&self.stat)
    }

    /// How far the file has come; `None`: it is empty.
    fn progress(&self, content: Content) -> Result<Option<Progress>, NamedError> {
        match content {
            _ if self.stat.st_size == 0 => return Ok(None),
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
    fn refuse(&self) -> NamedError {
        if self.stat.st_size == 0 {
            return AttachError::Empty.into();
        }
        let mut bytes = header::Bytes::zeroed();
        let checked = rustix::io::pread(&self.file, bytes.as_mut_slice(), 0)
            .map_err(AttachError::System)
            .and_then(|read| bytes.header(read))
            .and_then(|header| {
                let any = LayoutHash::of("no layout");
                header.validate(any, self.stat.st_size as u64)
            });
        NamedError::Attach(
            checked
                .err()
                .unwrap_or(AttachError::Corrupt { field: "header" }),
        )
    }

    /// Steps 4 and 7.
    pub(super) fn make(
        self,
        named: &Named,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<NamedSegment, NamedError> {
        let file = identity(&self.stat);
        let size = Segment::size_for(layout);
        let mapping = self.make_with(named, size, |mapping| {
            Segment::fill(mapping, sys::boot(), hash, init)
        })?;
        let segment = Segment::of_filled(mapping);
        let inside = Inside::new(segment, file, &named.path, named.tracked);
        Ok(NamedSegment::new(inside, true))
    }

    /// Steps 4 and 7, of a file without a header: `fill` stands in for one that says what is finished.
    pub(super) fn make_plain(
        self,
        named: &Named,
        size: u64,
        fill: impl FnOnce(&Mapping),
    ) -> Result<Plain, NamedError> {
        let file = identity(&self.stat);
        let mapping = self.make_with(named, Ok(size), |mapping| {
            fill(mapping);
            Ok(())
        })?;
        Ok(Inside::new(mapping, file, &named.path, named.tracked))
    }

    /// Reserves, fills in, takes the mark away unless tracked, and shares. What fails, by a panic too,
    /// leaves nothing behind: until it is shared the file is ours alone.
    fn make_with(
        self,
        named: &Named,
        size: Result<u64, CreateError>,
        fill: impl FnOnce(&Mapping) -> Result<(), CreateError>,
    ) -> Result<Mapping, NamedError> {
        let path = &named.path;
        let size = match self.cut().and(size.map_err(NamedError::Create)) {
            Ok(size) => size,
            Err(error) => {
                self.remove(path);
                return Err(error);
            }
        };
        let mapping = match Mapping::in_empty_file(self.file, size) {
            Ok(mapping) => mapping,
            Err((file, error)) => {
                remove(file.as_fd(), path);
                return Err(error.into());
            }
        };
        let file = mapping.as_fd();
        let half_made = HalfMade { file, path };
        mapping.arrange(&named.options)?;
        fill(&mapping)?;
        if !named.tracked {
            fs::fchmod(file, PRIVATE)?;
        }
        ofd::try_share(file, USE)?;
        std::mem::forget(half_made);
        Ok(mapping)
    }

    /// Whoever left it half-made is dead, and nobody maps a file before it is finished.
    fn cut(&self) -> Result<(), NamedError> {
        // A umask may have taken bits away.
        if Mode::from_raw_mode(self.stat.st_mode) != PRIVATE | MARK {
            fs::fchmod(&self.file, PRIVATE | MARK)?;
        }
        if self.stat.st_size != 0 {
            fs::ftruncate(&self.file, 0)?;
        }
        Ok(())
    }

    /// Step 8, of a file without a header.
    pub(super) fn attach_plain(self, named: &Named) -> Result<Plain, NamedError> {
        let (file, tracked) = (identity(&self.stat), self.is_tracked());
        let mapping = self.map(named)?;
        Ok(Inside::new(mapping, file, &named.path, tracked))
    }

    /// Step 8.
    pub(super) fn attach(
        self,
        named: &Named,
        hash: LayoutHash,
    ) -> Result<NamedSegment, NamedError> {
        let (file, tracked) = (identity(&self.stat), self.is_tracked());
        let segment = Segment::attach_mapped(self.map(named)?, hash)?;
        check_boot(named, segment.boot())?;
        let inside = Inside::new(segment, file, &named.path, tracked);
        Ok(NamedSegment::new(inside, false))
    }

    fn map(self, named: &Named) -> Result<Mapping, NamedError> {
        // It was finished when its size was asked for.
        let size = match u64::try_from(self.stat.st_size) {
            Ok(0) | Err(_) => return Err(AttachError::Empty.into()),
            Ok(size) => size,
        };
        let mapping = Mapping::attach_whole(self.file, size)?;
        mapping.arrange(&named.options)?;
        Ok(mapping)
    }

    /// The way in of those who may only read, and cannot have the byte for themselves.
    pub(super) fn look_in(named: &Named) -> Result<Self, NamedError> {
        let mut patience = Patience::new(named);
        loop {
            match Self::try_look_in(named)? {
                Found::Entered(Entered::Finished(door) | Entered::Alone(door)) => return Ok(door),
                Found::Changed => patience.look_again()?,
                Found::Busy => patience.wait()?,
            }
        }
    }

    /// They share the byte of what is finished only, and ask before: others believe in a share.
    fn try_look_in(named: &Named) -> Result<Found, NamedError> {
        let file = file::open_to_read(named)?;
        check_owner(named, &fs::fstat(&file)?)?;
        let held = ofd::held(file.as_fd(), USE)?;
        let Some(stat) = current(&file, &named.path)? else {
            return Ok(Found::Changed);
        };
        let door = Self { file, stat };
        match held {
            Held::Exclusive => return Ok(Found::Busy),
            Held::Shared => {}
            // Left by the dead, or about to be made.
            Held::Free if door.is_tracked() => return Err(NamedError::NotFound),
            Held::Free if door.progress(named.content)? == Some(Progress::Ready) => {}
            Held::Free => return Err(door.refuse()),
        }
        if !ofd::try_share(door.file.as_fd(), USE)? {
            return Ok(Found::Busy);
        }
        let file = door.file;
        Ok(match current(&file, &named.path)? {
            Some(stat) => Found::Entered(Entered::Finished(Self { file, stat })),
            None => Found::Changed,
        })
    }

    pub(super) fn attach_read_only(
        self,
        named: &Named,
        hash: LayoutHash,
    ) -> Result<NamedReadOnlySegment, NamedError> {
        let (file, tracked) = (identity(&self.stat), self.is_tracked());
        let segment = ReadOnlySegment::attach_unsealed(self.file, hash)?;
        check_boot(named, segment.boot())?;
        let inside = Inside::new(segment, file, &named.path, tracked);
        Ok(NamedReadOnlySegment::new(inside))
    }

    /// Removes what the dead left half-made, which we have exclusively. `false`: it is no work of ours.
    pub(super) fn remove(&self, path: &Path) -> bool {
        remove(self.file.as_fd(), path)
    }
}

/// What is being made, which we have exclusively: dropped, it is removed.
struct HalfMade<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
}

impl Drop for HalfMade<'_> {
    fn drop(&mut self) {
        if let Ok(Some(_)) = current(self.file, self.path) {
            // An error leaves it to the next one.
            let _ = fs::unlink(self.path);
        }
    }
}

/// Of a file that we have exclusively.
fn remove(file: BorrowedFd<'_>, path: &Path) -> bool {
    let stat = current(file, path);
    stat.is_ok_and(|stat| stat.is_some_and(|stat| is_marked(&stat))) && fs::unlink(path).is_ok()
}

fn check_boot(named: &Named, made: u64) -> Result<(), NamedError> {
    let now = sys::boot();
    if made != 0 && now != 0 && made != now && !named.survives_boot {
        return Err(NamedError::Attach(AttachError::OtherBoot));
    }
    Ok(())
}
