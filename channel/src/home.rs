//! One [`Place`] in a segment of its own, and behind it the table of those who use it.
//!
//! | offset in the payload | what |
//! |---|---|
//! | 0 | the place: a ring, where who only reads finds it without looking at anything else |
//! | then, at a multiple of 128 | the table of participants |

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiprocess_core::{
    AttachError, CreateError, Errno, LayoutHash, Memory, ParticipantId, Peers, Place, Region,
};
use multiprocess_shm::{
    Participant, ParticipantError, Participants, ParticipantsState, ReadOnlySegment, Segment,
};

use crate::mpmc::{AttachRingError, JoinError};

/// What lies in a [`Home`]: a ring, which knows how many processes may use it at a time.
pub trait Housed: Place {
    /// Slots in the table of participants. Each process that has the segment mapped by [`Home`] takes
    /// one.
    fn participants(config: &Self::Config) -> u32;
}

/// Participants of a ring with two ends, each of which may travel.
pub(crate) const OF_TWO_ENDS: u32 = 32;

/// The place, and behind it the table.
struct State<R>(PhantomData<R>);

/// Bytes before the table.
fn table_at<R: Housed>(config: &R::Config) -> Result<usize, CreateError> {
    let size = R::layout(config)?.size();
    size.checked_next_multiple_of(128)
        .ok_or(CreateError::Capacity {
            requested: size as u64,
            max: isize::MAX as u64,
        })
}

// SAFETY: `attach` lets both parts check their own bytes.
unsafe impl<R: Housed> Place for State<R> {
    type Config = R::Config;

    const LAYOUT: LayoutHash = LayoutHash::of("in a home")
        .mix(ParticipantsState::LAYOUT.bits())
        .mix(R::LAYOUT.bits());

    fn layout(config: &R::Config) -> Result<Layout, CreateError> {
        // The place first: a config that is absurd is its business.
        let start = table_at::<R>(config)?;
        let table = ParticipantsState::layout(&R::participants(config))?;
        start
            .checked_add(table.size())
            .and_then(|size| Layout::from_size_align(size, 128).ok())
            .ok_or(CreateError::Capacity {
                requested: start as u64,
                max: isize::MAX as u64,
            })
    }

    unsafe fn init(region: Region<'_>, config: &R::Config) -> Result<(), CreateError> {
        region.check(Self::layout(config)?)?;
        let (start, len) = (table_at::<R>(config)?, region.len());
        let (Some(place), Some(table)) = (region.sub(0, start), region.sub(start, len - start))
        else {
            return Err(CreateError::RegionTooSmall {
                need: start as u64,
                have: len as u64,
            });
        };
        // SAFETY: nobody else uses the bytes, by the caller's word, and the two do not overlap.
        unsafe {
            R::init(place, config)?;
            ParticipantsState::init(table, &R::participants(config))
        }
    }

    fn attach(region: Region<'_>) -> Result<R::Config, AttachError> {
        let config = R::attach(region)?;
        let start =
            table_at::<R>(&config).map_err(|_| AttachError::Corrupt { field: "capacity" })?;
        let (need, have) = (start as u64, region.len() as u64);
        let table = region.sub(start, region.len().saturating_sub(start));
        ParticipantsState::attach(table.ok_or(AttachError::Truncated { need, have })?)?;
        Ok(config)
    }
}

struct Inner {
    segment: Segment,
    /// Bytes of the place.
    len: usize,
    participant: Participant,
}

/// Where a ring that `channel` made lies, and who we are there: the memory and the peers of the handles
/// of one process, which share it.
///
/// # Crash safety
///
/// A process that dies is dead to the others at once. Trust: *guarded*.
///
/// # Fork
///
/// A child becomes a participant of its own when it first uses it.
#[derive(Clone)]
pub struct Home(Arc<Inner>);

impl Home {
    /// Makes a place in a nameless segment of its own: a ring whose ends nobody has yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess_channel::{Home, spsc};
    ///
    /// let home = Home::create::<spsc::Ring<u64>>(&64)?;     // its descriptor goes to the producer
    /// let consumer = spsc::Consumer::<u64>::attach(home.clone(), home)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    pub fn create<R: Housed>(config: &R::Config) -> Result<Self, ChannelError> {
        let segment = Segment::create_place::<State<R>>(config)?;
        Self::join::<R>(segment, config).map_err(|(_, error)| error)
    }

    /// With the segment, if this process cannot become a participant.
    fn join<R: Housed>(
        segment: Segment,
        config: &R::Config,
    ) -> Result<Self, (Segment, ChannelError)> {
        let joined = || -> Result<_, ChannelError> {
            let len = table_at::<R>(config)?;
            let participants = Participants::within(segment.try_clone()?, len)?;
            Ok((len, participants.join()?))
        };
        match joined() {
            Ok((len, participant)) => Ok(Self(Arc::new(Inner {
                segment,
                len,
                participant,
            }))),
            Err(error) => Err((segment, error)),
        }
    }

    /// Attaches to the ring behind a descriptor that came from [`as_fd`](AsFd::as_fd): `R` is its
    /// type, [`mpmc::Ring<u64>`](crate::mpmc::Ring) say.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    pub fn attach<R: Housed>(file: OwnedFd) -> Result<Self, ChannelError> {
        Ok(Self::attach_with_config::<R>(file)?.0)
    }

    pub(crate) fn attach_with_config<R: Housed>(
        file: OwnedFd,
    ) -> Result<(Self, R::Config), ChannelError> {
        let (segment, config) = Segment::attach_place::<State<R>>(file)?;
        let joined = Self::join::<R>(segment, &config).map_err(|(_, error)| error)?;
        Ok((joined, config))
    }

    /// As [`attach`](Self::attach). If this process cannot become a participant, `otherwise` gets the
    /// ring's bytes, and why.
    #[cfg(feature = "serde")]
    pub(crate) fn attach_or<R: Housed>(
        file: OwnedFd,
        otherwise: impl FnOnce(Region<'_>, &ChannelError),
    ) -> Result<Self, ChannelError> {
        let (segment, config) = Segment::attach_place::<State<R>>(file)?;
        Self::join::<R>(segment, &config).map_err(|(segment, error)| {
            otherwise(segment.payload(), &error);
            error
        })
    }

    /// A descriptor of the same segment that it can be read through, and mapped read-only, and nothing
    /// else: for [`attach_read_only`](Self::attach_read_only) in another process. Who has it and the
    /// owner's rights may still open the file anew by `/proc`: against such a one, run it as another
    /// user. By locks on bytes of the file it can keep others from becoming participants.
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

    /// Maps the segment behind `file` for reading: a descriptor of [`read_only`](Self::read_only), or
    /// any other. The ring is at the start of its payload; who reads takes no part.
    ///
    /// # Errors
    ///
    /// [`AttachError`], for whatever is wrong with the segment. The ring is not looked at.
    pub fn attach_read_only<R: Housed>(file: OwnedFd) -> Result<ReadOnlySegment, AttachError> {
        ReadOnlySegment::attach(file, State::<R>::LAYOUT)
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
        payload.sub(0, self.0.len).unwrap_or(payload)
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
    fn can_be(&self, participant: ParticipantId) -> bool {
        self.0.participant.can_be(participant)
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
    /// The descriptor is not that of such a ring, or its end is taken.
    Attach(AttachError),
    /// This process did not become a participant.
    Participant(ParticipantError),
    /// There is no seat.
    Join(JoinError),
    /// The kernel refused the sockets in which a queue's descriptors wait: none is left to this process, say.
    Sockets(Errno),
    /// A queue that carries descriptors came without the sockets in which they wait, or with another one's.
    OtherSockets,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Participant(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
            Self::Sockets(errno) => write!(f, "sockets for a queue's descriptors: {errno}"),
            Self::OtherSockets => {
                f.write_str("the sockets for the queue's descriptors are missing, or another one's")
            }
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
