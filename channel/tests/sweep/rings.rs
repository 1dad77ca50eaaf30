//! The two rings, as the harness drives them: a message is a number that fills its slot.

use std::time::Duration;

use multiprocess_channel::{NoPeers, RecvError, TryRecvError, bytes, spsc};
use multiprocess_core::{Peers, Place, Region};

/// A message of so many words, all made from its number, so that a torn one shows. Two of them are a frame
/// of `spsc`.
const WORDS: usize = 3;

fn fill(number: u64) -> [u64; WORDS] {
    std::array::from_fn(|i| {
        number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(i as u32)
    })
}

fn number(words: &[u64; WORDS]) -> Result<u64, String> {
    // The inverse of the multiplier modulo 2^64: few instructions, as each is a kill.
    let number = words[0].wrapping_mul(0xf1de_83e1_9937_733d);
    match *words == fill(number) {
        true => Ok(number),
        false => Err(format!("torn message {words:x?}")),
    }
}

/// What came, or why nothing came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Message(u64),
    Nothing,
    Disconnected,
}

/// A ring with room for four messages.
pub(crate) trait Ring: Sync + 'static {
    const NAME: &'static str;
    fn new() -> Self;
    fn size(&self) -> usize;
    fn init(&self, region: Region<'_>);
    fn producer<'a>(region: Region<'a>, successor: bool) -> impl Producer + 'a;
    fn consumer<'a>(region: Region<'a>, successor: bool) -> impl Consumer + 'a;
    /// The producer, if nobody has the end, or a dead one had it by the word of `peers`.
    fn attach<'a, P: Peers + 'a>(region: Region<'a>, peers: P) -> Option<impl Producer + 'a>;
}

pub(crate) trait Producer {
    fn try_push(&mut self, number: u64) -> bool;
    fn push(&mut self, number: u64) -> bool;
    /// In one batch, as many as there is room for; how many.
    fn try_push_three(&mut self, first: u64) -> usize;
    fn close(&mut self);
}

pub(crate) trait Consumer {
    /// Looks at the next message, tells `seen` what it is, and only then gives it back.
    fn take(
        &mut self,
        patience: Option<Duration>,
        seen: &mut dyn FnMut(u64),
    ) -> Result<Came, String>;
    /// Takes it by value, and then tells.
    fn pop(&mut self, seen: &mut dyn FnMut(u64)) -> Result<Came, String>;
    /// Takes all that is there in one batch, and tells of each, before it gives them back if the ring
    /// can do that; how many.
    fn try_take_all(&mut self, seen: &mut dyn FnMut(u64)) -> Result<usize, String>;
    fn close(&mut self);
}

pub(crate) struct Spsc;

type Slot = [u64; WORDS];

impl Ring for Spsc {
    const NAME: &'static str = "spsc";

    fn new() -> Self {
        Self
    }

    fn size(&self) -> usize {
        spsc::Ring::<Slot>::layout(&4).unwrap().size()
    }

    fn init(&self, region: Region<'_>) {
        // SAFETY: setup, before any other process exists.
        unsafe { spsc::Ring::<Slot>::init(region, &4).unwrap() };
    }

    fn producer<'a>(region: Region<'a>, successor: bool) -> impl Producer + 'a {
        let mut end = if successor {
            // SAFETY: the harness has killed and reaped the former one.
            unsafe { spsc::Producer::<Slot, _, _>::take_over(region, NoPeers).unwrap() }
        } else {
            spsc::Producer::attach(region, NoPeers).unwrap()
        };
        end.set_spin_cap(0);
        end
    }

    fn consumer<'a>(region: Region<'a>, successor: bool) -> impl Consumer + 'a {
        let mut end = if successor {
            // SAFETY: as above.
            unsafe { spsc::Consumer::<Slot, _, _>::take_over(region, NoPeers).unwrap() }
        } else {
            spsc::Consumer::attach(region, NoPeers).unwrap()
        };
        end.set_spin_cap(0);
        end
    }

    fn attach<'a, P: Peers + 'a>(region: Region<'a>, peers: P) -> Option<impl Producer + 'a> {
        spsc::Producer::<Slot, _, _>::attach(region, peers).ok()
    }
}

impl<P: Peers> Producer for spsc::Producer<Slot, Region<'_>, P> {
    #[inline(always)]
    fn try_push(&mut self, number: u64) -> bool {
        spsc::Producer::try_push(self, fill(number)).is_ok()
    }
    #[inline(always)]
    fn push(&mut self, number: u64) -> bool {
        spsc::Producer::push(self, fill(number)).is_ok()
    }
    #[inline(always)]
    fn try_push_three(&mut self, first: u64) -> usize {
        let batch = [fill(first), fill(first + 1), fill(first + 2)];
        self.try_push_slice(&batch).unwrap_or(0)
    }
    fn close(&mut self) {
        spsc::Producer::close(self);
    }
}

impl Consumer for spsc::Consumer<Slot, Region<'_>, NoPeers> {
    #[inline(always)]
    fn take(
        &mut self,
        patience: Option<Duration>,
        seen: &mut dyn FnMut(u64),
    ) -> Result<Came, String> {
        match self.peek_timeout(patience) {
            Ok(words) => {
                let number = number(&words)?;
                seen(number);
                self.release();
                Ok(Came::Message(number))
            }
            Err(RecvError::Timeout) => Ok(Came::Nothing),
            Err(RecvError::Disconnected) => Ok(Came::Disconnected),
            Err(error) => Err(error.to_string()),
        }
    }
    #[inline(always)]
    fn pop(&mut self, seen: &mut dyn FnMut(u64)) -> Result<Came, String> {
        match self.try_pop() {
            Ok(words) => {
                let number = number(&words)?;
                seen(number);
                Ok(Came::Message(number))
            }
            Err(TryRecvError::Empty) => Ok(Came::Nothing),
            Err(TryRecvError::Disconnected) => Ok(Came::Disconnected),
            Err(error) => Err(error.to_string()),
        }
    }
    #[inline(always)]
    fn try_take_all(&mut self, seen: &mut dyn FnMut(u64)) -> Result<usize, String> {
        let mut batch = [[0; WORDS]; 5];
        let count = self.try_pop_slice(&mut batch).unwrap_or(0);
        for words in &batch[..count] {
            seen(number(words)?);
        }
        Ok(count)
    }
    fn close(&mut self) {
        spsc::Consumer::close(self);
    }
}

pub(crate) struct Bytes;

/// 8 bytes of header and 56 of payload: four records of 64 fill 256 bytes.
const RECORD: usize = 56;

fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [number as u8; RECORD];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn record_number(bytes: &[u8]) -> Result<u64, String> {
    let number = bytes
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word));
    match bytes == record(number) {
        true => Ok(number),
        false => Err(format!("torn record {bytes:x?}")),
    }
}

impl Ring for Bytes {
    const NAME: &'static str = "bytes";

    fn new() -> Self {
        Self
    }

    fn size(&self) -> usize {
        bytes::Ring::layout(&256).unwrap().size()
    }

    fn init(&self, region: Region<'_>) {
        // SAFETY: setup, before any other process exists.
        unsafe { bytes::Ring::init(region, &256).unwrap() };
    }

    fn producer<'a>(region: Region<'a>, successor: bool) -> impl Producer + 'a {
        let mut end = if successor {
            // SAFETY: the harness has killed and reaped the former one.
            unsafe { bytes::Producer::take_over(region, NoPeers).unwrap() }
        } else {
            bytes::Producer::attach(region, NoPeers).unwrap()
        };
        end.set_spin_cap(0);
        end
    }

    fn consumer<'a>(region: Region<'a>, successor: bool) -> impl Consumer + 'a {
        let mut end = if successor {
            // SAFETY: as above.
            unsafe { bytes::Consumer::take_over(region, NoPeers).unwrap() }
        } else {
            bytes::Consumer::attach(region, NoPeers).unwrap()
        };
        end.set_spin_cap(0);
        end
    }

    fn attach<'a, P: Peers + 'a>(region: Region<'a>, peers: P) -> Option<impl Producer + 'a> {
        bytes::Producer::attach(region, peers).ok()
    }
}

impl<P: Peers> Producer for bytes::Producer<Region<'_>, P> {
    #[inline(always)]
    fn try_push(&mut self, number: u64) -> bool {
        bytes::Producer::try_push(self, &record(number)).is_ok()
    }
    #[inline(always)]
    fn push(&mut self, number: u64) -> bool {
        bytes::Producer::push(self, &record(number)).is_ok()
    }
    #[inline(always)]
    fn try_push_three(&mut self, first: u64) -> usize {
        let batch = [record(first), record(first + 1), record(first + 2)];
        let batch: [&[u8]; 3] = [&batch[0], &batch[1], &batch[2]];
        self.try_push_all(&batch).unwrap_or(0)
    }
    fn close(&mut self) {
        bytes::Producer::close(self);
    }
}

impl Consumer for bytes::Consumer<Region<'_>, NoPeers> {
    #[inline(always)]
    fn take(
        &mut self,
        patience: Option<Duration>,
        seen: &mut dyn FnMut(u64),
    ) -> Result<Came, String> {
        match self.peek_timeout(patience) {
            Ok(record) => {
                let number = record_number(&record)?;
                seen(number);
                record.release();
                Ok(Came::Message(number))
            }
            Err(RecvError::Timeout) => Ok(Came::Nothing),
            Err(RecvError::Disconnected) => Ok(Came::Disconnected),
            Err(error) => Err(error.to_string()),
        }
    }
    #[inline(always)]
    fn pop(&mut self, seen: &mut dyn FnMut(u64)) -> Result<Came, String> {
        let mut buffer = [0; RECORD];
        match self.try_pop_into(&mut buffer) {
            Ok(len) => {
                let number = record_number(&buffer[..len])?;
                seen(number);
                Ok(Came::Message(number))
            }
            Err(multiprocess_channel::PopIntoError::Recv(TryRecvError::Empty)) => Ok(Came::Nothing),
            Err(multiprocess_channel::PopIntoError::Recv(TryRecvError::Disconnected)) => {
                Ok(Came::Disconnected)
            }
            Err(error) => Err(error.to_string()),
        }
    }
    #[inline(always)]
    fn try_take_all(&mut self, seen: &mut dyn FnMut(u64)) -> Result<usize, String> {
        let Ok(records) = self.try_peek_all() else {
            return Ok(0);
        };
        for record in records.iter() {
            seen(record_number(record)?);
        }
        let count = records.len();
        records.release();
        Ok(count)
    }
    fn close(&mut self) {
        bytes::Consumer::close(self);
    }
}
