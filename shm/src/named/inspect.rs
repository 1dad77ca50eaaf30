//! What named segments there are, who uses them, and what of them is left over.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file;
use crate::header::{self, Progress};

/// One named segment, or one that is to be or was to be one: as found at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size, bytes.
    pub size: u64,
    /// Whether it goes with its last user.
    pub is_tracked: bool,
    /// Whether some process uses it, or is making or removing it. If it is tracked and this is
    /// `false`, it is a leftover of the dead.
    pub is_used: bool,
    /// What it holds.
    pub state: NamedState,
}

/// What the file of a named segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedState {
    /// Nothing yet, or half of it.
    Unfinished {
        /// The process that makes it, or 0: not said yet.
        creator: u32,
        /// Whether that one is known to have died.
        creator_died: bool,
    },
    /// A segment.
    Finished {
        /// Of its payload ([`LayoutHash::bits`](multiprocess_core::LayoutHash::bits)).
        layout: u64,
        /// The process that made it, as it saw itself.
        creator: u32,
        /// Whether that one is known to have died.
        creator_died: bool,
    },
    /// Bytes without a header, as Python's shared memory has them.
    Plain,
}

impl NamedInfo {
    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("")
    }

    /// Whether it is left over from the dead.
    pub fn is_leftover(&self) -> bool {
        self.is_tracked && !self.is_used
    }

    /// The processes that have it open, of those this one may look at: all of its user's, usually.
    /// Walks all of `/proc`.
    ///
    /// # Errors
    ///
    /// The file or `/proc` cannot be read.
    pub fn users(&self) -> io::Result<Vec<u32>> {
        let file = std::fs::metadata(&self.path)?;
        let is_ours = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|of| (of.dev(), of.ino()) == (file.dev(), file.ino()))
        };
        let mut users = Vec::new();
        for process in std::fs::read_dir("/proc")? {
            let process = process?;
            let Some(pid) = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // It may have ended meanwhile, or be somebody else's.
            let Ok(mut files) = std::fs::read_dir(process.path().join("fd")) else {
                continue;
            };
            if files.any(|file| file.is_ok_and(|file| is_ours(&file.path()))) {
                users.push(pid);
            }
        }
        users.sort_unstable();
        Ok(users)
    }

    /// A file that was never begun, whose maker's umask has left nobody any right.
    fn without_rights(path: &Path) -> Option<Self> {
        let stat = rustix::fs::lstat(path).ok()?;
        file::is_without_rights(&stat).then(|| Self {
            path: path.to_owned(),
            size: 0,
            is_tracked: true,
            is_used: false, // as far as can be told
            state: NamedState::Unfinished {
                creator: 0,
                creator_died: false,
            },
        })
    }

    /// What the file `path` is, if it is one of ours: marked, or with a header.
    fn of(path: &Path) -> Option<Self> {
        // Not through a link, and without waiting for the other end of a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = File::options()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path);
        let Ok(file) = opened else {
            return Self::without_rights(path);
        };
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.file_type().is_socket() {
            return None;
        }
        let is_tracked = metadata.mode() & file::MARK.bits() != 0;
        let mut bytes = header::Bytes::zeroed();
        let read = file.read_at(bytes.as_mut_slice(), 0).unwrap_or(0);
        let state = match bytes.header(read) {
            Ok(header) => {
                let creator = header.creator();
                match header.progress() {
                    Progress::Ready => NamedState::Finished {
                        layout: header.layout_bits(),
                        creator: creator.pid,
                        creator_died: creator.is_dead(),
                    },
                    Progress::Begun => NamedState::Unfinished {
                        creator: creator.pid,
                        creator_died: creator.is_dead(),
                    },
                    Progress::Zero | Progress::Foreign => NamedState::Plain,
                }
            }
            Err(_) if metadata.len() == 0 => NamedState::Unfinished {
                creator: 0,
                creator_died: false,
            },
            Err(_) => NamedState::Plain,
        };
        let is_ours = is_tracked || matches!(state, NamedState::Finished { .. });
        is_ours.then(|| Self {
            path: path.to_owned(),
            size: metadata.len(),
            is_tracked,
            is_used: file::is_used(file.as_fd()),
            state,
        })
    }
}

/// The named segments in `directory` (usually [`DIRECTORY`](super::DIRECTORY)) that this process
/// may read, in the order of their names.
///
/// # Examples
///
/// ```
/// for segment in multiprocess_shm::list(multiprocess_shm::DIRECTORY)? {
///     let state = if segment.is_leftover() { "leftover" } else { "in use" };
///     println!("{} {} {state}", segment.name(), segment.size);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// The directory cannot be read.
pub fn list(directory: impl AsRef<Path>) -> io::Result<Vec<NamedInfo>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        // A file may be gone by now.
        found.extend(NamedInfo::of(&entry?.path()));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Removes what killed processes of this user have left in `directory` (usually
/// [`DIRECTORY`](super::DIRECTORY)): tracked names that nobody uses. Never one that some process
/// uses, be it stopped, and never a file that is not ours. How many there were.
///
/// A program that makes tracked names calls it when it starts. Names that are asked for again are
/// cleaned up anyway.
///
/// # Errors
///
/// The directory cannot be read.
pub fn clean_up(directory: impl AsRef<Path>) -> io::Result<usize> {
    let leftovers = list(directory)?.into_iter().filter(NamedInfo::is_leftover);
    Ok(leftovers
        .filter(|leftover| file::remove_if_unused(&leftover.path, None))
        .count())
}
