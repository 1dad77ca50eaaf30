//! Segments with a name: found by processes that have nothing else in common.
//!
//! # Protocol
//!
//! A file, and one byte lock of it (`F_OFD_SETLK`, which the kernel drops with the last descriptor
//! of its holder): *shared* by everybody who uses the segment, *exclusive* by who makes it or
//! removes it. What a file is can be judged by whoever has the byte exclusively, since nobody is at
//! work then. A file made by us carries a mark until it is finished, and for good if it is tracked:
//! the sticky bit of its mode, which means nothing on a regular file.
//!
//! *enter*: (1) open, or create with the mark; (2) lock the byte exclusively; else, if others share
//! it, share it, too; else wait; (3) if the name leads to another file now, again from 1 (in
//! [`DIRECTORY`], a tmpfs, that is asked of the file, which has no link any more; elsewhere of the
//! name too, since a network file system may keep a removed file under another one). Alone there: (4)
//! an empty or unfinished file of ours: cut it to nothing, reserve, initialise, say READY, take the
//! mark away unless tracked; (5) a finished one with the mark: everybody who used it is dead; unlink
//! it, again from 1; (6) a finished one without: use it; a file without the mark that is not finished
//! is not ours, and stays as it is. (7) From exclusive to shared, in one step. Not alone: (8) use it.
//! *look in*, of those who may only read, and so cannot lock it exclusively: as 8 if others share the
//! byte; if it is free, as 6. So nobody ever shares the byte of a file that is not finished, or
//! of a leftover: who finds it shared need not judge.
//! *leave*: (9) unmap and close; (10) open it anew, and lock the byte exclusively, which succeeds
//! only if nobody uses it, a forked child with what it inherited neither; (11) if the name leads
//! there still, and the mark is there, unlink it.
//!
//! # Crash safety: killed right after step
//!
//! | step | left behind | the next one |
//! |---|---|---|
//! | 1 | an empty file with the mark, without rights if the umask is such | gives them, and initialises it |
//! | 2, 3 | what was there | judges it again |
//! | 4 | a half-made file with the mark; finished, perhaps | makes it anew |
//! | 5, 11 | nothing | |
//! | 6, 7, 8, 9, 10 | a finished segment that nobody uses | removes it if it was tracked, uses it if not |

use std::alloc::Layout;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multiprocess_core::{AttachError, CreateError, LayoutHash, Place, Region, Timeout};

use crate::{HugePages, Mapping, Options};

mod door;
mod error;
mod file;
mod handle;
mod inspect;

pub use error::NamedError;
pub(crate) use handle::Plain;
pub use handle::{NamedReadOnlySegment, NamedSegment};
pub use inspect::{NamedInfo, NamedState, clean_up, list};

use door::{Door, Entered, Want};

/// Where named shared memory lies: a tmpfs.
pub const DIRECTORY: &str = "/dev/shm";

/// How long is waited for another process that initialises, unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of a segment, and how it is to be made or entered.
///
/// Not for processes that can pass a descriptor on: nameless [`Segment`](crate::Segment)s are sealed, and gone when
/// the last process is. A named file cannot be sealed: whoever may write it can also cut it off,
/// and then the others are killed by `SIGBUS` when they touch what is missing. So it is made with
/// mode 0600, and files of other users are refused.
///
/// A segment does not grow: make one that is large enough, or another one.
///
/// # Tracking
///
/// A tracked name (the default) lives as long as its users: the last one to drop its handle
/// removes it. If that one is killed, the next process that asks for the name does, or
/// [`clean_up`] for all names. Whoever uses it is never disturbed, stopped or not: the kernel says
/// who has it, by a lock on the file, and tells the living from the dead. (If the last one leaves
/// while another thread of its process is starting a child, the child has a copy of the descriptor
/// until it executes, and the name is left to the next one, too.) With
/// [`tracked(false)`](Self::tracked) the name stays until [`remove`](Self::remove).
///
/// # Examples
///
/// ```
/// use core::alloc::Layout;
/// use multiprocess_core::LayoutHash;
/// use multiprocess_shm::Named;
///
/// const LAYOUT: LayoutHash = LayoutHash::of("sixteen bytes, version 1");
/// let name = format!("example-{}", std::process::id());
/// let layout = Layout::new::<[u64; 2]>();
///
/// let first = Named::new(&name)?.open_or_create(LAYOUT, layout, |_bytes| Ok(()))?;
/// assert!(first.is_creator());
/// let second = Named::new(&name)?.open(LAYOUT)?;         // usually in another process
/// assert_eq!(second.payload().len(), 16);
/// drop((first, second));
/// assert!(Named::new(&name)?.open(LAYOUT).is_err(), "the last one removed it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Named {
    path: PathBuf,
    tracked: bool,
    any_owner: bool,
    survives_boot: bool,
    timeout: Timeout,
    options: Options,
    content: Content,
}

/// What a finished file starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A segment's header.
    Segment,
    /// Anything: it is finished once it has a byte.
    Plain,
}

impl Named {
    /// A name in [`DIRECTORY`]; tracked.
    ///
    /// # Errors
    ///
    /// [`NamedError::InvalidName`] for an empty one, one of more than 255 bytes, `.`, `..`, or one
    /// with a slash (but for a leading one, as POSIX and Python write it) or a NUL.
    pub fn new(name: &str) -> Result<Self, NamedError> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let is_valid =
            !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0']);
        match is_valid {
            true => Ok(Self::at(Path::new(DIRECTORY).join(name))),
            false => Err(NamedError::InvalidName),
        }
    }

    /// A file anywhere, on a file system that can reserve space (`fallocate`): tmpfs, ext4, xfs,
    /// btrfs. On a disk it outlives a reboot; see [`survives_boot`](Self::survives_boot). Tracked
    /// like any other name: say [`tracked(false)`](Self::tracked) for data that is to stay. A
    /// relative path is one from the present directory, wherever the process goes.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            // Of an empty path, or where there is no present directory, there is nothing to be made.
            path: std::path::absolute(&path).unwrap_or(path),
            tracked: true,
            any_owner: false,
            survives_boot: false,
            timeout: DEFAULT_TIMEOUT.into(),
            options: Options::new(),
            content: Content::Segment,
        }
    }

    /// Bytes without a header.
    pub(crate) fn plain(mut self) -> Self {
        self.content = Content::Plain;
        self
    }

    /// Whether the name goes with its last user; `true` by default. What the creator says is what
    /// counts.
    pub const fn tracked(mut self, yes: bool) -> Self {
        self.tracked = yes;
        self
    }

    /// Whether files that belong to another user are accepted; `false` by default, since that user
    /// can cut them off at any time.
    pub const fn any_owner(mut self, yes: bool) -> Self {
        self.any_owner = yes;
        self
    }

    /// Whether a file from before the machine was booted is accepted; `false` by default
    /// ([`AttachError::OtherBoot`]): locks and participants in it mean nothing any more.
    pub const fn survives_boot(mut self, yes: bool) -> Self {
        self.survives_boot = yes;
        self
    }

    /// How long to wait for another process that is initialising or removing it; 10 s by default.
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// How the bytes are to lie. [`HugePages::Pool`] and [`one_writer`](Options::one_writer) are for
    /// nameless memory: they are [`NamedError::Unsupported`] here.
    pub const fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What only nameless memory can have.
    fn check_options(&self) -> Result<(), NamedError> {
        let option = match self.options {
            Options {
                one_writer: true, ..
            } => "one_writer",
            Options {
                huge_pages: HugePages::Pool,
                ..
            } => "huge_pages",
            _ => return Ok(()),
        };
        Err(NamedError::Unsupported { option })
    }

    /// Makes it, with a payload of `layout`, zeroed and then filled in by `init`. Leftovers of the
    /// dead are removed before.
    ///
    /// # Errors
    ///
    /// [`NamedError::AlreadyExists`] if somebody uses it, or if it is not tracked and so nobody's
    /// leftover; [`NamedError::Attach`] for a file that is not ours, be it empty, which stays as it is;
    /// [`NamedError::Create`] for what [`Segment::create`](crate::Segment::create) or `init` says, with nothing
    /// left behind (so it is if `init` panics); [`NamedError::Timeout`], [`NamedError::NoDirectory`],
    /// [`NamedError::ForeignOwner`], [`NamedError::Unsupported`], [`NamedError::System`].
    pub fn create(
        &self,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<NamedSegment, NamedError> {
        match Door::enter(self, Want::New)? {
            Entered::Alone(door) => door.make(self, hash, layout, init),
            Entered::Finished(_) => Err(NamedError::AlreadyExists),
        }
    }

    /// Attaches to what another process has made.
    ///
    /// # Errors
    ///
    /// [`NamedError::NotFound`], also for what the dead have left (which is removed);
    /// [`NamedError::Attach`] for what [`Segment::attach`](crate::Segment::attach) refuses, and for
    /// [`AttachError::OtherBoot`]; and as [`create`](Self::create).
    pub fn open(&self, hash: LayoutHash) -> Result<NamedSegment, NamedError> {
        match Door::enter(self, Want::Old)? {
            Entered::Finished(door) => door.attach(self, hash),
            Entered::Alone(door) if door.remove(&self.path) => Err(NamedError::NotFound),
            Entered::Alone(_) => Err(NamedError::Attach(AttachError::Empty)),
        }
    }

    /// Attaches if it is there, and makes it if not: of any number of processes that ask at once
    /// one runs `init`, and the others find it done. If that one is killed, another one does.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(
        &self,
        hash: LayoutHash,
        layout: Layout,
        init: impl FnOnce(Region<'_>) -> Result<(), CreateError>,
    ) -> Result<NamedSegment, NamedError> {
        match Door::enter(self, Want::Either)? {
            Entered::Alone(door) => door.make(self, hash, layout, init),
            Entered::Finished(door) => door.attach(self, hash),
        }
    }

    /// As [`create`](Self::create), `size` bytes without a header; nobody sees them before they are
    /// filled in.
    pub(crate) fn create_plain(
        &self,
        size: u64,
        fill: impl FnOnce(&Mapping),
    ) -> Result<Plain, NamedError> {
        match Door::enter(self, Want::New)? {
            Entered::Alone(door) => door.make_plain(self, size, fill),
            Entered::Finished(_) => Err(NamedError::AlreadyExists),
        }
    }

    /// As [`open`](Self::open), without a header.
    pub(crate) fn open_plain(&self) -> Result<Plain, NamedError> {
        match Door::enter(self, Want::Old)? {
            Entered::Finished(door) => door.attach_plain(self),
            Entered::Alone(door) if door.remove(&self.path) => Err(NamedError::NotFound),
            Entered::Alone(_) => Err(NamedError::Attach(AttachError::Empty)),
        }
    }

    /// As [`open_or_create`](Self::open_or_create), for one [`Place`]; the configuration is that of
    /// whoever made it.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create), and what the place finds wrong.
    pub fn open_or_create_place<P: Place>(
        &self,
        config: &P::Config,
    ) -> Result<(NamedSegment, P::Config), NamedError> {
        let layout = P::layout(config)?;
        let segment = self.open_or_create(P::LAYOUT, layout, |bytes| {
            // SAFETY: a file that we have locked and just cut to nothing: nobody else uses it.
            unsafe { P::init(bytes, config) }
        })?;
        let config = P::attach(segment.payload())?;
        Ok((segment, config))
    }

    /// Attaches for reading only; its file must be readable, no more. It counts as a user, and leaves
    /// as one. Of the [`options`](Self::options) nothing is heeded.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but that leftovers stay.
    pub fn open_read_only(&self, hash: LayoutHash) -> Result<NamedReadOnlySegment, NamedError> {
        Door::look_in(self)?.attach_read_only(self, hash)
    }

    /// Removes the name, whoever uses it: they keep the memory, and nobody can find it any more.
    ///
    /// # Errors
    ///
    /// [`NamedError::NotFound`], [`NamedError::System`].
    pub fn remove(&self) -> Result<(), NamedError> {
        rustix::fs::unlink(&self.path).map_err(|errno| error::of(errno, &self.path))
    }
}
