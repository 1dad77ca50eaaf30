//! Linux: thread ids, the kernel's list of robust futexes, and a word that fork zeroes. No libc.
//!
//! The two calls that rustix does not have are made here by hand. The list's format is
//! <https://docs.kernel.org/locking/robust-futex-ABI.html>, with one correction: the kernel
//! clears the thread id of a word that it marks, and walks 2048 entries.

use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::Deadline;
use crate::thread::Node;

/// `struct robust_list_head`. Written by its own thread, and by the kernel once that has ended.
#[derive(Debug)]
#[repr(C)]
struct Head {
    /// The first node, or the head itself; bit 0 of a node's address marks a PI futex.
    list: AtomicUsize,
    /// From a node to its futex word, in bytes.
    offset: isize,
    /// The node that is being locked or unlocked.
    pending: AtomicUsize,
}

/// Where the word of our locks lies, seen from the node: glibc's offset on 64-bit targets.
const OFFSET: isize = -32;

impl Head {
    const fn new() -> Self {
        Self {
            list: AtomicUsize::new(0),
            offset: OFFSET,
            pending: AtomicUsize::new(0),
        }
    }
}

/// The calling thread's list, if our nodes can join it. `own` is registered if there is none.
///
/// # Safety
///
/// `own` must stay where it is until the thread has ended.
unsafe fn robust_head(own: &Head) -> Option<NonNull<Head>> {
    // The kernel's word is the low half of ours, at its beginning: 64 bits, little endian.
    if size_of::<usize>() != 8 || cfg!(target_endian = "big") {
        return None;
    }
    let mut head: *mut Head = ptr::null_mut();
    let mut len = 0usize;
    // SAFETY: both places are locals of the types that the kernel writes.
    let got = unsafe { raw::get_robust_list(&raw mut head, &raw mut len) };
    if got != 0 || len != size_of::<Head>() {
        return None; // gVisor, qemu, seccomp
    }
    if let Some(head) = NonNull::new(head) {
        // SAFETY: the kernel names what this thread registered, which lives as long as it does.
        let offset = unsafe { (&raw const (*head.as_ptr()).offset).read() };
        // musl's offset is another one: its nodes and ours cannot share a list.
        return (offset == OFFSET).then_some(head);
    }
    let this = ptr::from_ref(own);
    own.list.store(this.addr(), Ordering::Relaxed);
    own.pending.store(0, Ordering::Relaxed);
    // SAFETY: the head is initialised, and stays by the caller's word.
    let set = unsafe { raw::set_robust_list(this, size_of::<Head>()) };
    (set == 0).then_some(NonNull::from(own))
}

/// The calling thread's id in its PID namespace.
pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// A page whose first word fork zeroes in the child. The one page that this crate maps, at the
/// first need, once per process, and never unmaps.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// The number of this process's life, or 0: not known yet, or the kernel cannot wipe.
#[inline]
pub(crate) fn generation() -> u64 {
    // Acquire pairs with the Release half of the CAS in `wiped_page`.
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return 0;
    }
    // SAFETY: a page that was published, and is never unmapped.
    unsafe { &*page }.load(Ordering::Relaxed)
}

/// As [`generation`], and known from now on; odd.
#[cold]
pub(crate) fn begin_generation() -> u64 {
    let Some(page) = wiped_page() else {
        // Before Linux 4.14: a system call at every use.
        return (rustix::process::getpid().as_raw_nonzero().get() as u64) << 1 | 1;
    };
    // Time moves on between a fork and what the child does first.
    let fresh = Deadline::now().nanos().unwrap_or(0) | 1;
    match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => fresh,
        Err(known) => known,
    }
}

fn wiped_page() -> Option<&'static AtomicU64> {
    const SIZE: usize = 4096;
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: a page that was published below; it is never unmapped.
        return Some(unsafe { &*page });
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh private mapping replaces nothing, and the advice covers it alone.
    let fresh = unsafe {
        let page = mmap_anonymous(ptr::null_mut(), SIZE, protection, MapFlags::PRIVATE).ok()?;
        if madvise(page, SIZE, Advice::LinuxWipeOnFork).is_err() {
            let _ = munmap(page, SIZE);
            return None;
        }
        page.cast::<AtomicU64>()
    };
    // Release pairs with the Acquire loads: who sees the page sees it advised.
    let won = PAGE.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire);
    // SAFETY: the winner's page is never unmapped; the loser's is known to nobody else.
    unsafe {
        match won {
            Ok(_) => Some(&*fresh),
            Err(theirs) => {
                let _ = munmap(fresh.cast(), SIZE);
                Some(&*theirs)
            }
        }
    }
}

/// Whether thread `id` lives in this process.
pub(crate) fn is_own_thread(id: u32) -> bool {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    raw::probe_thread(process as isize, id as isize) == 0
}

/// Whether thread `id` lives: `kill` finds threads by their own ids, too.
pub(crate) fn thread_exists(id: u32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(id as i32) else {
        return true;
    };
    rustix::process::test_kill_process(pid) != Err(crate::Errno::SRCH)
}

/// One thread's list of robust locks, if the kernel has one that ours can join.
pub(crate) struct List {
    /// Libc's head, or `own`, or null.
    head: Cell<*const Head>,
    own: Head,
}

/// What was pending before.
#[derive(Debug)]
#[must_use = "pass it to settle"]
pub struct Pending(usize);

impl List {
    pub(crate) const fn new() -> Self {
        Self {
            head: Cell::new(ptr::null()),
            own: Head::new(),
        }
    }

    #[inline]
    pub(crate) fn is_there(&self) -> bool {
        !self.head.get().is_null()
    }

    /// # Safety
    ///
    /// `self` must stay where it is until the thread has ended.
    pub(crate) unsafe fn attach(&self) {
        // SAFETY: the caller's word.
        let head = unsafe { robust_head(&self.own) };
        self.head
            .set(head.map_or(ptr::null(), |head| head.as_ptr()));
    }

    #[inline]
    fn head(&self) -> Option<&Head> {
        // SAFETY: null, or a head that lives as long as the thread does (`robust_head`). All
        // accesses to its fields are atomic, also libc's plain ones are by this same thread.
        unsafe { self.head.get().as_ref() }
    }

    #[inline]
    pub(crate) fn pend(&self, node: &Node) -> Pending {
        let Some(head) = self.head() else {
            return Pending(0);
        };
        let before = head.pending.load(Ordering::Relaxed);
        head.pending.store(address(node), Ordering::Relaxed);
        // Before the word is touched: the kernel reads after we have stopped, so that program
        // order is enough.
        compiler_fence(Ordering::SeqCst);
        Pending(before)
    }

    #[inline]
    pub(crate) fn settle(&self, before: Pending) {
        if let Some(head) = self.head() {
            compiler_fence(Ordering::SeqCst);
            head.pending.store(before.0, Ordering::Relaxed);
        }
    }

    /// Whether there were others in the list.
    ///
    /// # Safety
    ///
    /// The node is ours, pending, and stays mapped where it is until it is unlinked.
    #[inline]
    pub(crate) unsafe fn link(&self, node: &Node) -> bool {
        let Some(head) = self.head() else {
            node.set_unlinked();
            return false;
        };
        let first = head.list.load(Ordering::Relaxed);
        let others = first & !PI != ptr::from_ref(head).addr();
        node.next.store(first as u64, Ordering::Relaxed);
        // The head has no back link: musl has no room for one, and glibc never reads its own. Ours
        // to the head would be read by nobody: see `unlink`.
        if others {
            // SAFETY: a node of a lock that this thread holds, so it is mapped; by the shape
            // all nodes of the list have, the word before its link is its back link.
            unsafe { link_at((first & !PI) - size_of::<u64>()) }
                .store(address(node) as u64, Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
        head.list.store(address(node), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        others
    }

    /// Whether others stay in the list.
    ///
    /// # Safety
    ///
    /// This thread linked it, and it is pending.
    #[inline]
    pub(crate) unsafe fn unlink(&self, node: &Node) -> bool {
        let Some(head) = self.head() else {
            return false;
        };
        let this = ptr::from_ref(head).addr();
        let next = node.next.load(Ordering::Relaxed) as usize;
        let is_first = head.list.load(Ordering::Relaxed) & !PI == address(node);
        // Whoever was linked before us has written our back link, and whoever was taken out there.
        let previous = match is_first {
            true => this,
            false => node.previous.load(Ordering::Relaxed) as usize & !PI,
        };
        let is_last = next & !PI == this;
        if !is_last {
            // SAFETY: as in `link`: our neighbour in a list of locks that we hold.
            unsafe { link_at((next & !PI) - size_of::<u64>()) }
                .store(previous as u64, Ordering::Relaxed);
        }
        // SAFETY: as above; the head's first field is its link.
        unsafe { link_at(previous) }.store(next as u64, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        !(is_first && is_last)
    }

    /// Nodes in the list, up to `limit`.
    pub(crate) fn len(&self, limit: u32) -> u32 {
        let Some(head) = self.head() else {
            return 0;
        };
        let mut at = head.list.load(Ordering::Relaxed) & !PI;
        let mut len = 0;
        while at != ptr::from_ref(head).addr() && len < limit {
            len += 1;
            // SAFETY: a node of a lock that this thread holds.
            at = unsafe { link_at(at) }.load(Ordering::Relaxed) as usize & !PI;
        }
        len
    }
}

/// Bit 0 of an address in the list: its lock inherits priority.
const PI: usize = 1;

/// A node is known by the address of its link.
#[inline]
fn address(node: &Node) -> usize {
    ptr::from_ref(&node.next).addr()
}

/// # Safety
///
/// A link of a node, or of the head, must lie there.
#[inline]
unsafe fn link_at<'a>(address: usize) -> &'a AtomicU64 {
    // SAFETY: the caller's word; links are 8-aligned words, and their owner, this thread, is
    // the only one that accesses them.
    unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(address) }
}

#[cfg(target_arch = "x86_64")]
mod raw {
    use super::Head;
    use core::arch::asm;

    pub(super) unsafe fn get_robust_list(head: *mut *mut Head, len: *mut usize) -> isize {
        let result: isize;
        // SAFETY: system call 274 with pid 0 writes one pointer and one length, for which the
        // caller has places; it clobbers rcx and r11 and touches no stack.
        unsafe {
            asm!("syscall", inlateout("rax") 274isize => result, in("rdi") 0, in("rsi") head,
                in("rdx") len, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result
    }

    pub(super) unsafe fn set_robust_list(head: *const Head, len: usize) -> isize {
        let result: isize;
        // SAFETY: system call 273 records an address; the caller keeps what lies there.
        unsafe {
            asm!("syscall", inlateout("rax") 273isize => result, in("rdi") head, in("rsi") len,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result
    }

    pub(super) fn probe_thread(process: isize, thread: isize) -> isize {
        let result: isize;
        // SAFETY: system call 234, tgkill with signal 0, touches no memory.
        unsafe {
            asm!("syscall", inlateout("rax") 234isize => result, in("rdi") process,
                in("rsi") thread, in("rdx") 0, lateout("rcx") _, lateout("r11") _,
                options(nostack));
        }
        result
    }
}

#[cfg(target_arch = "aarch64")]
mod raw {
    use super::Head;
    use core::arch::asm;

    pub(super) unsafe fn get_robust_list(head: *mut *mut Head, len: *mut usize) -> isize {
        let result: isize;
        // SAFETY: system call 100 with pid 0 writes one pointer and one length, for which the
        // caller has places.
        unsafe {
            asm!("svc 0", in("x8") 100, inlateout("x0") 0isize => result, in("x1") head,
                in("x2") len, options(nostack));
        }
        result
    }

    pub(super) unsafe fn set_robust_list(head: *const Head, len: usize) -> isize {
        let result: isize;
        // SAFETY: system call 99 records an address; the caller keeps what lies there.
        unsafe {
            asm!("svc 0", in("x8") 99, inlateout("x0") head => result, in("x1") len,
                options(nostack));
        }
        result
    }

    pub(super) fn probe_thread(process: isize, thread: isize) -> isize {
        let result: isize;
        // SAFETY: system call 131, tgkill with signal 0, touches no memory.
        unsafe {
            asm!("svc 0", in("x8") 131, inlateout("x0") process => result, in("x1") thread,
                in("x2") 0, options(nostack));
        }
        result
    }
}

/// Other architectures: no list, liveness only.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod raw {
    use super::Head;

    const ENOSYS: isize = -38;

    pub(super) unsafe fn get_robust_list(_: *mut *mut Head, _: *mut usize) -> isize {
        ENOSYS
    }

    pub(super) unsafe fn set_robust_list(_: *const Head, _: usize) -> isize {
        ENOSYS
    }

    pub(super) fn probe_thread(_: isize, _: isize) -> isize {
        0 // without a list nothing is ever linked: not asked
    }
}
