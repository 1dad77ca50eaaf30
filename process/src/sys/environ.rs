//! The environment of a child, as exec takes it and as a forked child installs it.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

unsafe extern "C" {
    /// POSIX's own; glibc and musl read it anew at every call.
    static mut environ: *const *mut libc::c_char;
}

/// `KEY=value` strings, and pointers to them that end with a null.
#[derive(Debug)]
pub(crate) struct Environ {
    _strings: Vec<CString>,
    pointers: Vec<*mut libc::c_char>,
}

impl Environ {
    /// # Errors
    ///
    /// `InvalidInput`: a key that is empty or has a `=`, or a NUL anywhere.
    pub(crate) fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let strings = variables
            .into_iter()
            .map(|(key, value)| pair(key, &value))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            pointers: pointers(&strings),
            _strings: strings,
        })
    }

    pub(crate) fn as_ptr(&self) -> *const *mut libc::c_char {
        self.pointers.as_ptr()
    }

    /// Makes it this process's environment. Takes no lock: a forked child may do it though another
    /// thread was within `setenv` when it was forked.
    ///
    /// # Safety
    ///
    /// No other thread of this process looks at the environment or changes it.
    pub(crate) unsafe fn install(self) {
        let this = std::mem::ManuallyDrop::new(self); // libc keeps it for good
        // SAFETY: the strings and the array of pointers are never freed; nobody else looks, by the
        // caller's contract. setenv and getenv work on an array that is not libc's own.
        unsafe { environ = this.pointers.as_ptr() };
    }
}

fn pair(key: OsString, value: &OsStr) -> io::Result<CString> {
    // As std: a leading `=` belongs to the key.
    if key.is_empty() || key.as_bytes()[1..].contains(&b'=') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut pair = key;
    pair.push("=");
    pair.push(value);
    c_string(&pair)
}

pub(crate) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::from)
}

pub(crate) fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}
