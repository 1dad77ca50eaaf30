//! The table of sleepers: a shared memory object of the user, `/multiprocess-park-<uid>-v1`.
//!
//! ```text
//! 0x000000  state u64, magic u64, size u64                              128 bytes
//! 0x000080  64 buckets of 128 bits: which nodes somebody sleeps on      1 KiB
//! 0x000480  8192 nodes { sleeper u64, sem_t }, 128 for each bucket
//! ```
//!
//! # Protocol of initialisation
//!
//! The object is created by whoever comes first, empty, which after `posix_fallocate` is all zeroes
//! and state EMPTY. (1) CAS EMPTY → INITIALISING, with the own pid; (2) initialise; (3) CAS → READY.
//! Who finds INITIALISING waits a moment, and goes on without a table if that is not enough; if the
//! one that initialises is dead it takes over *in place*, by CAS from the dead one's pid to its own.
//! There is never a second object: unlinking one that looks abandoned could part those who have it
//! from those who come later.
//!
//! | state | meaning | who enters | who leaves |
//! |---|---|---|---|
//! | EMPTY | nothing is there | the kernel | any process (1) |
//! | INITIALISING, pid | nobody may use it | that process (1) | the same (3); any, once it is dead |
//! | READY | in use, for good | that process (3) | |
//!
//! Killed after 1 or 2: the next process finds it dead and initialises anew; nobody has used the
//! table before 3.

use core::ffi::CStr;
use core::fmt::Write;
use core::ptr;
use core::sync::atomic::AtomicPtr;

use super::node::Node;
use crate::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use crate::{Deadline, Errno};

const BUCKETS: usize = 64;
/// Sleepers of one bucket; those beyond poll.
pub(super) const NODES_PER_BUCKET: usize = 128;
pub(super) const NODES: usize = BUCKETS * NODES_PER_BUCKET;
const WORDS_PER_BUCKET: usize = NODES_PER_BUCKET / 64;

const EMPTY: u64 = 0;
const INITIALISING: u64 = 1 << 32; // with the pid in the low half
const READY: u64 = 2 << 32;

const MAGIC: u64 = u64::from_le_bytes(*b"mp-park1");

/// The table. Made by the kernel, never by Rust.
#[repr(C)]
pub(super) struct Table {
    /// See the table of states above.
    state: AtomicU64,
    /// The next two: written before READY, and never again.
    magic: AtomicU64,
    /// Of the table: another layout, or another `sem_t`, has another one.
    size: AtomicU64,
    pad: [AtomicU64; 13],
    /// Bit n: somebody may sleep on node n of the bucket. Its owner.
    occupied: [[AtomicU64; WORDS_PER_BUCKET]; BUCKETS],
    nodes: [Node; NODES],
}

const SIZE: usize = size_of::<Table>();
static_assertions::const_assert_eq!(core::mem::offset_of!(Table, occupied), 0x80);
static_assertions::const_assert_eq!(core::mem::offset_of!(Table, nodes), 0x480);
static_assertions::const_assert!(NODES <= 1 << 13);

/// Words that lie near each other, and words at the beginnings of cache lines, are spread.
fn bucket(key: u16) -> usize {
    usize::from(key ^ key >> 5) % BUCKETS
}

/// Node `index` of the key's bucket.
pub(super) fn number(key: u16, index: usize) -> u16 {
    (bucket(key) * NODES_PER_BUCKET + index) as u16
}

impl Table {
    pub(super) fn node(&self, number: u16) -> &Node {
        &self.nodes[usize::from(number) % NODES]
    }

    /// The nodes of the key's bucket that somebody may sleep on.
    pub(super) fn occupied(&self, key: u16) -> impl Iterator<Item = u16> {
        let words = &self.occupied[bucket(key)];
        (0..WORDS_PER_BUCKET).flat_map(move |word| {
            // Acquire pairs with the Release in `set_occupied`.
            let mut bits = words[word].load(Acquire);
            core::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(number(key, word * 64 + bit))
            })
        })
    }

    pub(super) fn set_occupied(&self, node: u16, occupied: bool) {
        let (bucket, index) = (
            usize::from(node) / NODES_PER_BUCKET,
            usize::from(node) % NODES_PER_BUCKET,
        );
        let (word, bit) = (&self.occupied[bucket][index / 64], 1 << (index % 64));
        if occupied {
            word.fetch_or(bit, Release);
        } else {
            word.fetch_and(!bit, Release);
        }
    }

    /// Step 2.
    fn initialise(&self) -> bool {
        for word in self.occupied.as_flattened() {
            word.store(0, Relaxed);
        }
        for node in &self.nodes {
            // SAFETY: nobody uses it: the table is not ready.
            if !unsafe { node.initialise() } {
                return false;
            }
        }
        self.magic.store(MAGIC, Relaxed);
        self.size.store(SIZE as u64, Relaxed);
        true
    }

    /// Whether the table may be used: made so, if need be.
    fn begin(&self) -> bool {
        let mine = INITIALISING | u64::from(own_pid());
        for _ in 0..100 {
            // Acquire pairs with the Release that made it READY.
            let seen = self.state.load(Acquire);
            if seen == READY {
                return self.magic.load(Relaxed) == MAGIC && self.size.load(Relaxed) == SIZE as u64;
            }
            let abandoned = seen & !0xffff_ffff == INITIALISING && is_dead(seen as u32);
            if seen != EMPTY && !abandoned {
                super::nap(Deadline::NEVER);
                continue;
            }
            if self
                .state
                .compare_exchange(seen, mine, Acquire, Relaxed)
                .is_ok()
            {
                if !self.initialise() {
                    let _ = self.state.compare_exchange(mine, EMPTY, Relaxed, Relaxed);
                    return false;
                }
                // Release pairs with the Acquire load above, of everybody.
                let _ = self.state.compare_exchange(mine, READY, Release, Relaxed);
            }
        }
        false
    }
}

fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Whether the kernel says that there is no such process. One that is not reaped yet is there.
pub(super) fn is_dead(pid: u32) -> bool {
    match i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        Some(pid) => rustix::process::test_kill_process(pid) == Err(Errno::SRCH),
        None => true, // no process has such a number
    }
}

/// The table, mapped once per process at the first need, and never unmapped. `None` if there is
/// none to be had now: another user's object of that name, another version, no memory, or its
/// creator was stopped in the middle of it.
pub(super) fn of_the_user() -> Option<&'static Table> {
    static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
    // Acquire pairs with the Release half of the CAS below.
    let known = TABLE.load(Acquire);
    if !known.is_null() {
        // SAFETY: published below, and never unmapped.
        return Some(unsafe { &*known });
    }
    let mut name = Name {
        bytes: [0; 48],
        len: 0,
    };
    let uid = rustix::process::geteuid().as_raw();
    write!(name, "/multiprocess-park-{uid}-v1").ok()?;
    let fresh = open(name.as_c_str()?)?;
    match TABLE.compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire) {
        // SAFETY: ready, and never unmapped.
        Ok(_) => Some(unsafe { &*fresh }),
        Err(theirs) => {
            // SAFETY: our own mapping, which nobody else knows; then as above.
            unsafe {
                libc::munmap(fresh.cast(), SIZE);
                Some(&*theirs)
            }
        }
    }
}

/// Opens the object `name`, creates and initialises it if need be, and maps it.
pub(super) fn open(name: &CStr) -> Option<*mut Table> {
    let table = map(name)?;
    // SAFETY: mapped and of the right size; all zeroes, or what another process of the same user
    // has made of it, and everything in it is atomic or behind an `UnsafeCell`.
    if unsafe { &*table }.begin() {
        return Some(table);
    }
    // SAFETY: our own mapping, which nobody else knows.
    unsafe { libc::munmap(table.cast(), SIZE) };
    None
}

fn map(name: &CStr) -> Option<*mut Table> {
    // SAFETY: a string that ends with a zero; the descriptor is closed below and nowhere else.
    unsafe {
        let fd = libc::shm_open(name.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600);
        if fd < 0 {
            return None;
        }
        let table = map_fd(fd);
        libc::close(fd);
        table
    }
}

/// # Safety
///
/// An open descriptor.
unsafe fn map_fd(fd: libc::c_int) -> Option<*mut Table> {
    // SAFETY: an open descriptor, a place for what is asked, and a fresh mapping of a size that the
    // object has.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        if libc::fstat(fd, &raw mut stat) != 0
            || stat.st_uid != libc::geteuid()
            || stat.st_mode & 0o077 != 0
            || !(stat.st_size == 0 || stat.st_size == SIZE as libc::off_t)
        {
            return None;
        }
        // Also when it has the size: an error here instead of a SIGBUS later. Keeps what is there.
        if libc::posix_fallocate(fd, 0, SIZE as libc::off_t) != 0 {
            return None;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let table = libc::mmap(ptr::null_mut(), SIZE, protection, libc::MAP_SHARED, fd, 0);
        (table != libc::MAP_FAILED).then_some(table.cast())
    }
}

/// A short name, without an allocator.
struct Name {
    bytes: [u8; 48],
    len: usize,
}

impl Name {
    fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).ok()
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        // One byte stays zero.
        let room = self.bytes[..47].get_mut(self.len..end);
        room.ok_or(core::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
