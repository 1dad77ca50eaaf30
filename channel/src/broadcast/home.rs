//! A ring in a segment of its own, before the table of those who use it.

use std::alloc::Layout;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{
    AttachError, CreateError, Errno, LayoutHash, Memory, ParticipantId, Peers, Place, Region,
};
use multiprocess_shm::{Participant, Participants, ParticipantsState, ReadOnlySegment, Segment};

use super::{ChannelError, Config, Receiver, Ring, Sender, Start};
use crate::spsc::Message;

/// Processes that may have it mapped writable beside those of the lossless receivers.
const OTHERS: u32 = 32;

/// The ring, where readers find it without looking at anything else, and behind it the table of
/// participants.
struct State<T>(Ring<T>);

fn ring<T: Message>(config: &Config) -> Result<usize, CreateError> {
    Ok(Ring::<T>::layout(config)?.size().next_multiple_of(128))
}

// SAFETY: `attach` lets both parts check their own bytes.
unsafe impl<T: Message> Place for State<T> {
    type Config = Config;

    const LAYOUT: LayoutHash = LayoutHash::of("broadcast in a segment")
        .mix(ParticipantsState::LAYOUT.bits())
        .mix(Ring::<T>::LAYOUT.bits());

    fn layout(config: &Config) -> Result<Layout, CreateError> {
        let table = ParticipantsState::layout(&(config.readers + OTHERS))?;
        let size = ring::<T>(config)?.checked_add(table.size());
        size.and_then(|size| Layout::from_size_align(size, 128).ok())
            .ok_or(CreateError::Capacity {
                requested: config.capacity,
                max: crate::control::MAX_CAPACITY,
            })
    }

    unsafe fn init(region: Region<'_>, config: &Config) -> Result<(), CreateError> {
        // Of a config that is too large, `readers` is not added to.
        let config = config.rounded()?;
        region.check(Self::layout(&config)?)?;
        let (start, len) = (ring::<T>(&config)?, region.len());
        let (Some(first), Some(second)) = (region.sub(0, start), region.sub(start, len - start))
        else {
            return Err(CreateError::RegionTooSmall {
                need: start as u64,
                have: len as u64,
            });
        };
        // SAFETY: nobody else uses the bytes, by the caller's word, and the two do not overlap.
        unsafe {
            Ring::<T>::init(first, &config)?;
            ParticipantsState::init(second, &(config.readers + OTHERS))
        }
    }

    fn attach(region: Region<'_>) -> Result<Config, AttachError> {
        let config = Ring::<T>::attach(region)?;
        let start = ring::<T>(&config).map_err(|_| AttachError::Corrupt { field: "capacity" })?;
        let (need, have) = (start as u64, region.len() as u64);
        let table = region.sub(start, region.len().saturating_sub(start));
        ParticipantsState::attach(table.ok_or(AttachError::Truncated { need, have })?)?;
        Ok(config)
    }
}

struct Inner {
    segment: Segment,
    /// Bytes of the ring.
    ring: usize,
    participant: Participant,
}

/// Where a ring of [`channel`] lies, and who we are there: shared by the handles of a process.
#[derive(Clone)]
pub struct Home(Arc<Inner>);

impl Home {
    fn join(segment: Segment, ring: usize) -> Result<Self, ChannelError> {
        let participants = Participants::within(segment.try_clone()?, ring)?;
        let participant = participants.join()?;
        Ok(Self(Arc::new(Inner {
            segment,
            ring,
            participant,
        })))
    }

    /// Attaches to the ring behind a descriptor that came from [`as_fd`](AsFd::as_fd).
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    pub fn attach<T: Message>(file: OwnedFd) -> Result<Self, ChannelError> {
        let (segment, config) = Segment::attach_place::<State<T>>(file)?;
        Self::join(segment, ring::<T>(&config)?)
    }

    /// A descriptor of the same segment that it can be read through, and mapped read-only, and nothing
    /// else: for [`receiver`] in another process. Who has it and the owner's rights may still open
    /// the file anew by `/proc`: against such a one, run it as another user.
    ///
    /// # Errors
    ///
    /// The kernel's, if `/proc` is not there, or no descriptor is left.
    pub fn read_only(&self) -> Result<OwnedFd, ChannelError> {
        let path = format!("/proc/thread-self/fd/{}", self.as_fd().as_raw_fd());
        match std::fs::File::open(path) {
            Ok(file) => Ok(file.into()),
            Err(error) => {
                let errno = error
                    .raw_os_error()
                    .map_or(Errno::IO, Errno::from_raw_os_error);
                Err(AttachError::System(errno).into())
            }
        }
    }

    /// This process among those who use the ring.
    pub fn participant(&self) -> &Participant {
        &self.0.participant
    }
}

// SAFETY: a part of a mapped segment's payload, whose address does not change while it lives, which is
// as long as any clone does.
unsafe impl Memory for Home {
    fn region(&self) -> Region<'_> {
        let payload = self.0.segment.payload();
        payload.sub(0, self.0.ring).unwrap_or(payload)
    }
}

// SAFETY: the participant's own answers.
unsafe impl Peers for Home {
    fn me(&self) -> ParticipantId {
        self.0.participant.me()
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        self.0.participant.is_dead(participant)
    }
    fn table(&self) -> u32 {
        self.0.participant.table()
    }
    fn share_pid_namespace(&self) -> bool {
        self.0.participant.share_pid_namespace()
    }
}

impl AsFd for Home {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.segment.as_fd()
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Home").field(&self.0.participant).finish()
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own, for 8 lossless
/// receivers and any number of others. Receivers attach to the [`Home`], or to its
/// [descriptors](Home::read_only).
///
/// # Examples
///
/// ```
/// use multiprocess_channel::broadcast::{self, Receiver, Start};
///
/// let (mut sender, home) = broadcast::channel::<u64>(64)?;
/// let mut receiver = Receiver::<u64>::attach(home, Start::Next)?;
/// std::thread::spawn(move || sender.send(7));
/// assert_eq!(receiver.recv()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 messages.
pub fn channel<T: Message>(capacity: u64) -> Result<(Sender<T>, Home), ChannelError> {
    channel_with(&Config::new(capacity))
}

/// As [`channel`], with another [`Config`].
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with<T: Message>(config: &Config) -> Result<(Sender<T>, Home), ChannelError> {
    let config = config.rounded()?;
    let segment = Segment::create_place::<State<T>>(&config)?;
    let home = Home::join(segment, ring::<T>(&config)?)?;
    Ok((Sender::attach(home.clone(), home.clone())?, home))
}

/// A receiver that maps the ring behind `file` read-only: a descriptor of [`Home::read_only`], or any
/// other of that segment.
///
/// # Errors
///
/// [`AttachError`], for whatever is wrong with the bytes.
pub fn receiver<T: Message>(
    file: OwnedFd,
    start: Start,
) -> Result<Receiver<T, ReadOnlySegment>, AttachError> {
    Receiver::attach(ReadOnlySegment::attach(file, State::<T>::LAYOUT)?, start)
}
