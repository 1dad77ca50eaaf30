//! Uncontended operations make no system call: a process that the kernel kills at its first one
//! (`SECCOMP_MODE_STRICT` allows read, write and exit) runs them all.
#![cfg(all(not(loom), target_os = "linux"))]

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess_core::ShmSafe;
use multiprocess_core::atomic::{AtomicU32, Ordering::Relaxed};
use multiprocess_core::thread::Caller;
use multiprocess_shm::Shared;
use multiprocess_sync::{
    Barrier, BoundedSemaphore, Condition, Doorbell, Event, Lock, Mutex, Once, OnceCell, RLock,
    RawMutex, RwLock, Semaphore,
};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[derive(ShmSafe)]
#[repr(C)]
struct All {
    lock: Lock,
    event: Event,
    raw: RawMutex,
    mutex: Mutex<u64>,
    recursive: RLock,
    table: RwLock<u64, 4>,
    once: Once,
    cell: OnceCell<u64>,
    condition: Condition,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    barrier: Barrier,
    doorbell: Doorbell,
}

impl All {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            lock: Lock::new(),
            event: Event::new(),
            raw: RawMutex::new(),
            mutex: Mutex::new(0),
            recursive: RLock::new(),
            table: RwLock::new(0),
            once: Once::new(),
            cell: OnceCell::new(),
            condition: Condition::new(),
            semaphore: Semaphore::new(1).unwrap(),
            bounded: BoundedSemaphore::new(1).unwrap(),
            barrier: Barrier::new(1).unwrap(),
            doorbell: Doorbell::new(),
        })
        .unwrap()
    }

    fn use_everything(&self) {
        let me = Caller::current();
        let long = Duration::from_secs(3600); // reads the clock, by the vDSO
        drop(self.lock.lock().unwrap());
        drop(self.lock.lock_timeout(long).unwrap());
        drop(self.lock.try_lock().unwrap());
        self.event.set();
        self.event.wait().unwrap();
        self.event.wait_timeout(long).unwrap();
        self.event.clear();
        self.raw.acquire(&me, None).unwrap();
        self.raw.release(&me).unwrap();
        *self.mutex.lock().unwrap() += 1;
        *self.mutex.try_lock().unwrap() += 1;
        *self.mutex.lock_timeout(long).unwrap() += 1;
        let (outer, inner) = (
            self.recursive.lock().unwrap(),
            self.recursive.lock().unwrap(),
        );
        drop((inner, outer));
        *self.table.write().unwrap() += 1;
        let (one, two) = (self.table.read().unwrap(), self.table.try_read().unwrap());
        drop((one, two));
        self.once.call_once(|| ()).unwrap();
        self.once.call_once(|| ()).unwrap();
        assert_eq!(self.cell.get_or_init(|| 7), Ok(&7));
        self.condition.notify(1);
        self.condition.notify_all();
        self.semaphore.acquire().unwrap();
        self.semaphore.release().unwrap();
        self.bounded.try_acquire().unwrap();
        self.bounded.release().unwrap();
        assert!(self.bounded.release().is_err());
        self.barrier.wait().unwrap();
        self.doorbell.ring();
    }
}

#[test]
fn uncontended_operations_make_no_system_call() {
    let test = "uncontended_operations_make_no_system_call";
    if child::role().is_some() {
        let done: Shared<AtomicU32> =
            Shared::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
        let all = All::new();
        // What is looked up once: the thread, the page that fork wipes, the CPUs, the vDSO.
        all.use_everything();
        let again = All::new();
        // SAFETY: from here on this thread makes no system call but exit; the others of the
        // process are not restricted.
        unsafe {
            done.store(1, Relaxed);
            let strict = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
            assert_eq!(strict, 0);
            again.use_everything();
            done.store(2, Relaxed);
            libc::syscall(libc::SYS_exit, 0);
        }
    }
    let _watchdog = Watchdog::seconds(60);
    let done = Shared::new(AtomicU32::new(0)).unwrap();
    let mut child = Child::run(test, "restricted", &[done.as_fd()]);
    // The kernel ends the thread, not the process.
    while done.load(Relaxed) != 2 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.pid()));
        let alive = threads.map_or(0, Iterator::count) > 1 || done.load(Relaxed) == 0;
        let ended = child.wait_timeout(Duration::ZERO);
        let passed = done.load(Relaxed) == 2;
        assert!(
            (alive && ended.is_none()) || passed,
            "a system call was made"
        );
        std::thread::yield_now();
    }
}
