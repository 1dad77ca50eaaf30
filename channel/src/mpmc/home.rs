//! A ring in a segment of its own, beside the table of those who use it.

use std::alloc::Layout;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{
    AttachError, CreateError, LayoutHash, Memory, ParticipantId, Peers, Place, Region,
};
use multiprocess_shm::{Participant, ParticipantError, Participants, ParticipantsState, Segment};

#[cfg(feature = "serde")]
use super::layout::Parts;
use super::{AttachRingError, Config, Receiver, Ring, Sender};
use crate::spsc::Message;

/// The table of participants, and behind it the ring. The number of slots is that of the ring's
/// endpoints: each process has one at least.
struct State<T>(Ring<T>);

fn table(config: &Config) -> Result<usize, CreateError> {
    Ok(ParticipantsState::layout(&config.endpoints)?
        .size()
        .next_multiple_of(128))
}

// SAFETY: `attach` lets both parts check their own bytes.
unsafe impl<T: Message> Place for State<T> {
    type Config = Config;

    const LAYOUT: LayoutHash = LayoutHash::of("mpmc in a segment")
        .mix(ParticipantsState::LAYOUT.bits())
        .mix(Ring::<T>::LAYOUT.bits());

    fn layout(config: &Config) -> Result<Layout, CreateError> {
        let ring = Ring::<T>::layout(config)?;
        let size = table(config)?.checked_add(ring.size());
        size.and_then(|size| Layout::from_size_align(size, 128).ok())
            .ok_or(CreateError::Capacity {
                requested: config.capacity,
                max: crate::control::MAX_CAPACITY,
            })
    }

    unsafe fn init(region: Region<'_>, config: &Config) -> Result<(), CreateError> {
        region.check(Self::layout(config)?)?;
        let (start, len) = (table(config)?, region.len());
        let (Some(first), Some(second)) = (region.sub(0, start), region.sub(start, len - start))
        else {
            return Err(CreateError::RegionTooSmall {
                need: start as u64,
                have: len as u64,
            });
        };
        // SAFETY: nobody else uses the bytes, by the caller's word, and the two do not overlap.
        unsafe {
            Ring::<T>::init(second, config)?;
            ParticipantsState::init(first, &config.endpoints)
        }
    }

    fn attach(region: Region<'_>) -> Result<Config, AttachError> {
        let seats = ParticipantsState::attach(region)?;
        let start = table(&Config::new(1).endpoints(seats))
            .map_err(|_| AttachError::Corrupt { field: "slots" })?;
        let have = region.len() as u64;
        let need = start as u64;
        let rest = region.len().saturating_sub(start);
        let ring = region.sub(start, rest);
        Ring::<T>::attach(ring.ok_or(AttachError::Truncated { need, have })?)
    }
}

struct Inner {
    segment: Segment,
    /// Where the ring starts.
    start: usize,
    participant: Participant,
}

/// Where a ring of [`channel`] lies, and who we are there: shared by the handles of a process.
#[derive(Clone)]
pub struct Home(Arc<Inner>);

impl Home {
    fn join(segment: Segment, seats: u32) -> Result<Self, ChannelError> {
        let start = table(&Config::new(1).endpoints(seats))?;
        let participants = Participants::within(segment.try_clone()?, 0)?;
        let participant = participants.join()?;
        Ok(Self(Arc::new(Inner {
            segment,
            start,
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
        Self::join(segment, config.endpoints)
    }

    /// The parts of the ring here.
    #[cfg(feature = "serde")]
    pub(super) fn parts<T: Message>(&self) -> Result<Parts<T>, AttachError> {
        let config = Ring::<T>::attach(self.region())?;
        Parts::of(self.region(), &config)
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
        let rest = payload.len().saturating_sub(self.0.start);
        payload.sub(self.0.start, rest).unwrap_or(payload)
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

/// Why a ring in a segment was not made, or not attached to.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChannelError {
    /// The segment was not made.
    Create(CreateError),
    /// The descriptor is not that of such a ring.
    Attach(AttachError),
    /// This process did not become a participant.
    Participant(ParticipantError),
    /// There is no seat.
    Join(super::JoinError),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Participant(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<CreateError> for ChannelError {
    fn from(error: CreateError) -> Self {
        Self::Create(error)
    }
}

impl From<AttachError> for ChannelError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<ParticipantError> for ChannelError {
    fn from(error: ParticipantError) -> Self {
        Self::Participant(error)
    }
}

impl From<AttachRingError> for ChannelError {
    fn from(error: AttachRingError) -> Self {
        match error {
            AttachRingError::Attach(error) => Self::Attach(error),
            AttachRingError::Join(error) => Self::Join(error),
        }
    }
}

/// Makes a ring of at least `capacity` messages in a nameless segment of its own, for 32 endpoints.
///
/// # Examples
///
/// ```
/// use multiprocess_channel::mpmc;
///
/// let (mut sender, mut receiver) = mpmc::channel::<u64>(64)?;
/// let mut second = sender.try_clone()?;
/// std::thread::spawn(move || second.send(7));
/// sender.send(8)?;
/// assert_eq!(receiver.recv()? + receiver.recv()?, 15);
///
/// sender.send(9)?;
/// let job = receiver.take()?;                // killed here, another receiver gets it
/// assert_eq!(job.get(), 9);
/// job.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChannelError`]; [`CreateError::Capacity`] for 0 or more than 2^40 messages.
pub fn channel<T: Message>(capacity: u64) -> Result<(Sender<T>, Receiver<T>), ChannelError> {
    channel_with(&Config::new(capacity))
}

/// As [`channel`], with another [`Config`].
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with<T: Message>(config: &Config) -> Result<(Sender<T>, Receiver<T>), ChannelError> {
    let segment = Segment::create_place::<State<T>>(config)?;
    let home = Home::join(segment, config.endpoints)?;
    Ok((
        Sender::attach(home.clone(), home.clone())?,
        Receiver::attach(home.clone(), home)?,
    ))
}
