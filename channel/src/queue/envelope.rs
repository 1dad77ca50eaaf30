//! Messages of a queue, and how a value gets into one.

use multiprocess_shm::transfer::{self, Parcel, Refusal};
use serde::Serialize;

use super::error::PutFailure;
use crate::store::Names;

/// A message: flags and length, and the value's bytes, or where they are.
pub(super) type Envelope = [u64; 16];

/// Bytes of a value that needs no block.
const INLINE: usize = 120;

/// In an envelope's first word, above the length: the value lies in a block.
pub(super) const SPILLED: u64 = 1 << 63;
/// The same: the value has descriptors, in a pouch.
pub(super) const POUCHED: u64 = 1 << 62;

// The words of an envelope: flags and length; if it is pouched, the pouch's offset in the low half, and how
// many descriptors are in it; then the block's offset, or the value's bytes.
//
// | flags | 0 | 1 | 2 | 3 to 15 |
// |---|---|---|---|---|
// | none | length | value | value | value |
// | SPILLED | length | block | | |
// | POUCHED | length | pouch | value | value |
// | both | length | pouch | block | |

/// Where the block's offset, or the value, begins.
pub(super) fn body(envelope: &Envelope) -> usize {
    1 + usize::from(envelope[0] & POUCHED != 0)
}

/// Bytes of the value.
pub(super) fn value_len(envelope: &Envelope) -> usize {
    (envelope[0] & !(SPILLED | POUCHED)) as usize
}

impl Names for Envelope {
    fn block(&self) -> Option<u64> {
        (self[0] & SPILLED != 0).then(|| self[body(self)])
    }
}

/// The offset of its pouch, and how many descriptors are in that.
pub(super) fn pouch(envelope: &Envelope) -> Option<(u64, usize)> {
    let (offset, count) = (envelope[1] & u64::from(u32::MAX), envelope[1] >> 32);
    (envelope[0] & POUCHED != 0).then_some((offset, count as usize))
}

/// The words of an envelope that say something, by its first one.
#[inline]
pub(super) fn used(envelope: &Envelope) -> usize {
    let value = match envelope[0] & SPILLED {
        0 => value_len(envelope).min(INLINE).div_ceil(8),
        _ => 1,
    };
    (body(envelope) + value).min(envelope.len())
}

/// Puts a value's bytes into an envelope, or returns them if they are too many.
#[inline]
pub(super) fn serialise<T: Serialize + ?Sized>(
    value: &T,
    envelope: &mut Envelope,
) -> Result<Option<Vec<u8>>, PutFailure> {
    // What an earlier one has refused is past.
    let _ = transfer::take_refusal();
    let (head, room) = envelope.split_at_mut(1);
    let room: &mut [u8] = bytemuck::cast_slice_mut(room);
    debug_assert_eq!(room.len(), INLINE);
    match postcard::to_slice(value, room) {
        Ok(used) => {
            head[0] = used.len() as u64;
            Ok(None)
        }
        Err(postcard::Error::SerializeBufferFull) => {
            let bytes = postcard::to_stdvec(value).map_err(not_serialisable)?;
            Ok(Some(bytes))
        }
        Err(error) => Err(not_serialisable(error)),
    }
}

/// Serialises a value once, with its descriptors: an end of a ring is given away by that.
pub(super) fn serialise_carrying<T: Serialize + ?Sized>(
    value: &T,
) -> Result<(Vec<u8>, Parcel), PutFailure> {
    let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(value));
    let refused = |error: postcard::Error| match transfer::take_whole_refusal() {
        Some(Refusal {
            errno: Some(errno), ..
        }) => PutFailure::Descriptors(errno),
        Some(Refusal { why, .. }) => PutFailure::NotSerialisable(why),
        None => PutFailure::NotSerialisable(error.to_string()),
    };
    Ok((bytes.map_err(refused)?, parcel))
}

/// The same for bytes that are there, and an envelope whose flags say where they belong.
pub(super) fn enclose(bytes: Vec<u8>, envelope: &mut Envelope) -> Option<Vec<u8>> {
    let body = body(envelope);
    let room: &mut [u8] = bytemuck::cast_slice_mut(&mut envelope[body..]);
    let Some(room) = room.get_mut(..bytes.len()) else {
        return Some(bytes);
    };
    room.copy_from_slice(&bytes);
    envelope[0] |= bytes.len() as u64;
    None
}

#[cold]
fn not_serialisable(error: postcard::Error) -> PutFailure {
    PutFailure::NotSerialisable(match transfer::take_refusal() {
        Some(why) => format!("{why}; this queue carries no handles (QueueConfig::descriptors)"),
        None => error.to_string(),
    })
}
