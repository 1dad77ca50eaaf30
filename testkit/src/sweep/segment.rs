//! The memory under test: one memfd, mapped at one address by the victim and at another one
//! by everybody else.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

#[derive(Debug)]
pub(super) struct Segment {
    file: OwnedFd,
    /// Where the test process and the victim see it.
    pub(super) base: *mut u8,
    len: usize,
    mapped: usize,
}

impl Segment {
    pub(super) fn new(len: usize) -> Self {
        let mapped = len.next_multiple_of(4096);
        // SAFETY: a NUL-terminated name; the result is checked.
        let fd = unsafe { libc::memfd_create(c"sweep".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd: {}", std::io::Error::last_os_error());
        // SAFETY: a fresh descriptor of ours.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a descriptor of ours.
        let grown = unsafe { libc::ftruncate(file.as_raw_fd(), mapped as libc::off_t) };
        assert_eq!(grown, 0, "ftruncate");
        let base = map(libc::MAP_SHARED, mapped, file.as_raw_fd());
        Self {
            file,
            base,
            len,
            mapped,
        }
    }

    /// The same bytes at another address, for as long as this (forked) process lives.
    pub(super) fn elsewhere(&self) -> *mut u8 {
        map(libc::MAP_SHARED, self.mapped, self.file.as_raw_fd())
    }

    pub(super) fn snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: `len` bytes are mapped; whoever could write them is stopped or dead.
        unsafe { ptr::copy_nonoverlapping(self.base, bytes.as_mut_ptr(), self.len) };
        bytes
    }

    pub(super) fn restore(&self, bytes: &[u8]) {
        // SAFETY: as in `snapshot`; a snapshot has `len` bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base, self.len) };
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, used by nobody else.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}

/// Fresh shared memory; of no file if `fd` is -1.
pub(super) fn map(flags: i32, len: usize, fd: i32) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: at an address of the kernel's choice; the result is checked.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, 0) };
    assert!(
        base != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    base.cast()
}
