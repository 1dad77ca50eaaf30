//! How a function travels: not as a code address, but as the place of a descriptor that the
//! child checks before it calls anything.
//!
//! For each `(F, A, R)` that is spawned the compiler lays down one [`Entry`] in the image. The
//! parent sends its distance from an anchor; the child, which must run the same build (same
//! build id), checks that the place lies inside its own image and is aligned, that the magic
//! is there, and that the type names hash to the same value. A wrong binary is an error.

use std::any::type_name;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use multiprocess_core::LayoutHash;
use multiprocess_shm::transfer::{self, Parcel};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::child::Birth;
use crate::logging::Log;
use crate::named;
use crate::sys::image::Image;

const MAGIC: u64 = u64::from_le_bytes(*b"MPRCENTR");

/// What a child looks up and checks.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    magic: u64,
    /// A hash of the names of `F`, `A` and `R`. A function: `type_name` is not const.
    hash: fn() -> u64,
    /// Decodes arguments, calls, encodes the result.
    pub(crate) run: fn(&[u8], Vec<OwnedFd>) -> Result<Encoded, Refusal>,
}

/// Serialised values, and the descriptors of the handles in them. Unless those are handed on, the
/// peers of ring ends among them are told that nobody got them.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) parcel: Parcel,
}

/// Why a child could not do what it was asked to.
pub(crate) type Refusal = String;

/// Which function is meant, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Target {
    /// By its place.
    Place {
        /// Which build the caller runs.
        identity: Vec<u8>,
        /// Where the entry lies, from the anchor.
        offset: i64,
        hash: u64,
    },
    /// By the name that [`entry!`](crate::entry!) gave it.
    Name {
        name: String,
        /// The names of its types, as the caller knows them.
        signature: String,
    },
}

/// The call, as it travels. The descriptors of the arguments travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) birth: Birth,
    /// Where a fresh process is to log to.
    pub(crate) log: Option<Log>,
    pub(crate) arguments: Vec<u8>,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The function returned this.
    Returned(Vec<u8>),
    /// The function panicked with this message.
    Panicked(String),
    /// The function was not called, or its result could not be serialised.
    Refused(Refusal),
}

/// Serialises a value with its handles.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Encoded, Refusal> {
    let (bytes, parcel) = transfer::collect_parcel(|| postcard::to_stdvec(value));
    Ok(Encoded {
        bytes: bytes.map_err(explain)?,
        parcel,
    })
}

/// The inverse of [`encode`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T, Refusal> {
    let (value, left) = transfer::supply_and_count(fds, || postcard::from_bytes(bytes));
    match (value, left) {
        (Ok(value), 0) => Ok(value),
        (Ok(_), left) => Err(format!(
            "{left} descriptors belong to nothing in the message"
        )),
        (Err(error), _) => Err(explain(error)),
    }
}

/// postcard drops the messages of its errors; a handle's is kept beside it.
fn explain(error: postcard::Error) -> Refusal {
    transfer::take_refusal().unwrap_or_else(|| error.to_string())
}

struct Trampoline<F, A, R>(PhantomData<(F, A, R)>);

impl<F, A, R> Trampoline<F, A, R>
where
    F: Fn(A) -> R + Copy + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    const ENTRY: Entry = Entry {
        magic: MAGIC,
        hash: Self::hash,
        run: Self::run,
    };

    const CAPTURES_NOTHING: () = assert!(
        size_of::<F>() == 0,
        "the function must not capture anything: pass state in `args`, or use fork_closure"
    );

    fn hash() -> u64 {
        LayoutHash::of(type_name::<F>())
            .mix_str(type_name::<A>())
            .mix_str(type_name::<R>())
            .bits()
    }

    fn run(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Encoded, Refusal> {
        const { Self::CAPTURES_NOTHING };
        // SAFETY: F has no size, so there are no bytes to read, and a dangling pointer is
        // aligned. The caller held a value of this type (`of` takes one), so it is inhabited,
        // and F is Copy, so another one duplicates nothing. A fn item or a closure without
        // captures promises nothing beyond that. One that captures a zero-sized witness of
        // something that happened in the caller's process does, and no bound can tell it apart:
        // `Context::spawn` says not to.
        let function = unsafe { NonNull::<F>::dangling().read() };
        let arguments = decode::<A>(bytes, fds)
            .map_err(|error| format!("the arguments cannot be decoded: {error}"))?;
        encode(&function(arguments))
            .map_err(|error| format!("the result cannot be encoded: {error}"))
    }
}

/// The descriptor of a function.
pub(crate) fn of<F, A, R>(_function: F) -> &'static Entry
where
    F: Fn(A) -> R + Copy + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    const { Trampoline::<F, A, R>::CAPTURES_NOTHING };
    const { &Trampoline::<F, A, R>::ENTRY }
}

impl Entry {
    /// Of a function that [`entry!`](crate::entry!) names.
    pub(crate) const fn of_named<F, A, R>() -> &'static Self
    where
        F: Fn(A) -> R + Copy + 'static,
        A: DeserializeOwned,
        R: Serialize,
    {
        const { Trampoline::<F, A, R>::CAPTURES_NOTHING };
        const { &Trampoline::<F, A, R>::ENTRY }
    }

    /// `None` if it lies in another image than this crate (a plugin's function), where a child
    /// could not find it.
    pub(crate) fn target(&'static self) -> Option<Target> {
        let image = Image::own();
        Some(Target::Place {
            identity: image.identity.clone(),
            offset: image.offset_of(self)?,
            hash: (self.hash)(),
        })
    }
}

impl Target {
    /// The entry the caller meant, if this process has it.
    pub(crate) fn entry(&self) -> Result<&'static Entry, Refusal> {
        match self {
            Self::Place {
                identity,
                offset,
                hash,
            } => at_place(identity, *offset, *hash),
            Self::Name { name, signature } => named::find(name, signature),
        }
    }
}

fn at_place(identity: &[u8], offset: i64, hash: u64) -> Result<&'static Entry, Refusal> {
    let image = Image::own();
    if identity.is_empty() || identity != image.identity {
        return Err("the child runs another build than its parent".into());
    }
    let entry = image
        .address_of::<Entry>(offset)
        .ok_or("the function lies outside of the child's image")?;
    // SAFETY: inside our own loaded image and aligned. Only the magic is looked at until
    // it is found right; it and the functions beside it were laid down by the same build.
    let magic = unsafe { (&raw const (*entry).magic).read() };
    if magic != MAGIC {
        return Err("no function is registered at that place".into());
    }
    // SAFETY: as above: an `Entry` of this very build, in a read-only segment.
    let entry = unsafe { &*entry };
    if (entry.hash)() != hash {
        return Err("another function is registered at that place".into());
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twice(value: u32) -> u32 {
        value * 2
    }

    fn target() -> Target {
        of::<_, u32, u32>(twice).target().unwrap()
    }

    #[test]
    fn an_entry_is_found_again_and_runs() {
        let entry = target().entry().unwrap();
        let arguments = encode(&21u32).unwrap().bytes;
        let result = (entry.run)(&arguments, Vec::new()).unwrap();
        let fds = result.parcel.into_fds();
        assert_eq!(decode::<u32>(&result.bytes, fds).unwrap(), 42);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let refused = |change: fn(&mut Vec<u8>, &mut i64, &mut u64)| {
            let mut target = target();
            if let Target::Place {
                identity,
                offset,
                hash,
            } = &mut target
            {
                change(identity, offset, hash);
            }
            target.entry().unwrap_err()
        };
        assert!(refused(|identity, _, _| identity[0] ^= 1).contains("another build"));
        assert!(refused(|identity, _, _| identity.clear()).contains("another build"));
        assert!(refused(|_, offset, _| *offset += 1).contains("outside"));
        assert!(refused(|_, offset, _| *offset = i64::MAX).contains("outside"));
        assert!(refused(|_, offset, _| *offset = 0).contains("no function"));
        assert!(refused(|_, _, hash| *hash ^= 1).contains("another function"));
        let unknown = Target::Name {
            name: "nobody".into(),
            signature: "fn()".into(),
        };
        let unknown = unknown.entry().unwrap_err();
        assert!(unknown.contains("\"nobody\""), "{unknown}");
    }

    #[test]
    fn arguments_of_another_shape_are_refused() {
        let entry = target().entry().unwrap();
        assert!(
            (entry.run)(&[], Vec::new())
                .unwrap_err()
                .contains("decoded")
        );
    }

    #[test]
    fn descriptors_that_nobody_took_are_refused() {
        let arguments = encode(&21u32).unwrap().bytes;
        let fds = vec![std::fs::File::open("/dev/null").unwrap().into()];
        let said = (target().entry().unwrap().run)(&arguments, fds).unwrap_err();
        assert!(said.contains("1 descriptors belong to nothing"), "{said}");
    }
}
