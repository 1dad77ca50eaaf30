//! Functions by name, for other programs to call: `entry!`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Entry, Refusal};

/// Gives a function a name, under which other programs call it by
/// [`Context::spawn_named`](crate::Context::spawn_named). Stands beside the function, at the top
/// level of a module; of two entries of one name either may be taken.
///
/// # Examples
///
/// ```
/// fn add((a, b): (u64, u64)) -> u64 { a + b }
/// multiprocess::entry!("example.add", add);
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Here in the same program; another one is named by `Context::spawn_program`.
/// let context = multiprocess::Context::default();
/// let sum = context.spawn_named::<(u64, u64), u64>("example.add", (40, 2))?;
/// assert_eq!(sum.join()?, 42);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! entry {
    ($name:expr, $function:path) => {
        const _: () = {
            #[used]
            #[unsafe(link_section = "multiprocess_entries")]
            static ENTRY: $crate::NamedEntry = $crate::NamedEntry::new($name, $function);
        };
    };
}

/// What [`entry!`](crate::entry!) lays down: one element of an array that the linker puts
/// together.
#[doc(hidden)]
#[derive(Debug)]
#[repr(C)]
pub struct NamedEntry {
    name: &'static str,
    /// A function: `type_name` is not const.
    signature: fn() -> &'static str,
    entry: Option<&'static Entry>,
}

impl NamedEntry {
    /// Made by [`entry!`](crate::entry!).
    pub const fn new<F, A, R>(name: &'static str, _function: F) -> Self
    where
        F: Fn(A) -> R + Copy + 'static,
        A: DeserializeOwned,
        R: Serialize,
    {
        Self {
            name,
            signature: signature::<A, R>,
            entry: Some(Entry::of_named::<F, A, R>()),
        }
    }
}

/// The linker makes the bounds of a section only if there is one.
#[used]
#[unsafe(link_section = "multiprocess_entries")]
static NOBODY: NamedEntry = NamedEntry {
    name: "",
    signature: || "",
    entry: None,
};

unsafe extern "C" {
    #[link_name = "__start_multiprocess_entries"]
    static START: u8;
    #[link_name = "__stop_multiprocess_entries"]
    static STOP: u8;
}

pub(crate) fn find(name: &str, wanted: &str) -> Result<&'static Entry, Refusal> {
    let (start, stop) = ((&raw const START).addr(), (&raw const STOP).addr());
    let count = (stop - start) / size_of::<NamedEntry>();
    // An exposed address, as in `Image::address_of`: START stands for one byte only.
    let _ = (&raw const NOBODY).expose_provenance();
    let first = std::ptr::with_exposed_provenance(start);
    // SAFETY: nothing but `entry!` and `NOBODY` put anything into this section, and those only
    // put whole values of `NamedEntry`, all of the same size and alignment, hence without gaps.
    let all: &[NamedEntry] = unsafe { std::slice::from_raw_parts(first, count) };
    let found = all.iter().find(|named| named.name == name);
    let Some((entry, named)) = found.and_then(|named| named.entry.zip(Some(named))) else {
        return Err(format!("this program has no entry of the name {name:?}"));
    };
    match (named.signature)() {
        signature if signature == wanted => Ok(entry),
        signature => Err(format!(
            "{name:?} is a {signature} here, and is called as a {wanted}"
        )),
    }
}

/// What both sides must agree upon. Bytes of one type often are a value of another one: -1 as an
/// `i32` is 1 as a `u32`.
pub(crate) fn signature<A, R>() -> &'static str {
    std::any::type_name::<fn(A) -> R>()
}
