//! Plain data under each primitive, shared by threads: for ThreadSanitizer (`.ci/tsan`), which
//! knows pthreads and atomics, and takes std's own threads and channels, which are not
//! instrumented, for races. Therefore no harness, and threads by libc. As an ordinary test it
//! checks the sums.
#![cfg_attr(loom, allow(unused))]

#[cfg(all(not(loom), target_os = "linux"))]
fn main() {
    stage::run();
}

#[cfg(not(all(not(loom), target_os = "linux")))]
fn main() {}

#[cfg(all(not(loom), target_os = "linux"))]
mod stage {
    use std::cell::UnsafeCell;
    use std::ffi::c_void;

    use multiprocess_sync::{
        Barrier, Condition, Event, Lock, Mutex, OnceCell, RLock, RwLock, Semaphore,
    };

    const THREADS: u64 = 4;
    const ROUNDS: u64 = 2_000;

    /// Data that only the primitive beside it protects.
    struct Plain(UnsafeCell<u64>);

    // SAFETY: that the primitives order the accesses is what is tested.
    unsafe impl Sync for Plain {}

    impl Plain {
        const fn new() -> Self {
            Self(UnsafeCell::new(0))
        }

        fn add(&self) {
            // SAFETY: by the primitive under test nobody else accesses it now.
            unsafe { *self.0.get() += 1 };
        }

        fn get(&self) -> u64 {
            // SAFETY: by the primitive under test nobody writes it now.
            unsafe { *self.0.get() }
        }
    }

    static LOCK: Lock = Lock::new();
    static RECURSIVE: RLock = RLock::new();
    static MUTEX: Mutex<u64> = Mutex::new(0);
    static TABLE: RwLock<u64, 4> = RwLock::new(0);
    static TURN: Mutex<u64> = Mutex::new(0);
    static TURNED: Condition = Condition::new();
    static STARTED: Event = Event::new();
    static CELL: OnceCell<u64> = OnceCell::new();
    static UNDER: [Plain; 5] = [const { Plain::new() }; 5];

    struct Made {
        permits: Semaphore,
        barrier: Barrier,
    }

    extern "C" fn thread(made: *mut c_void) -> *mut c_void {
        // SAFETY: a local of `run`, which joins this thread.
        let made = unsafe { &*made.cast::<Made>() };
        STARTED.wait().unwrap();
        assert_eq!(
            UNDER[3].get(),
            1,
            "what was written before the event was set"
        );
        assert_eq!(CELL.get_or_init(|| 7), Ok(&7));
        for round in 0..ROUNDS {
            let guard = LOCK.lock().unwrap();
            UNDER[0].add();
            drop(guard);
            let (outer, inner) = (RECURSIVE.lock().unwrap(), RECURSIVE.lock().unwrap());
            UNDER[1].add();
            drop((inner, outer));
            *MUTEX.lock().unwrap() += 1;
            if round % 8 == 0 {
                *TABLE.write().unwrap() += 1;
            } else {
                assert!(*TABLE.read().unwrap() <= THREADS * ROUNDS);
            }
            made.permits.acquire().unwrap();
            UNDER[2].add();
            made.permits.release().unwrap();
            if round % 64 == 0 {
                // One of them writes between two meetings.
                if made.barrier.wait().unwrap() == 0 {
                    UNDER[4].add();
                }
                made.barrier.wait().unwrap();
                assert_eq!(UNDER[4].get(), round / 64 + 1);
            }
            if round % 16 == 0 {
                let mut turn = TURN.lock().unwrap();
                *turn += 1;
                TURNED.notify_all();
                let all = (round / 16 + 1) * THREADS;
                let (_turn, there) = TURNED.wait_for(turn, None, |n| **n >= all).unwrap();
                assert!(there);
            }
        }
        std::ptr::null_mut()
    }

    pub(super) fn run() {
        let mut made = Made {
            permits: Semaphore::new(1).unwrap(),
            barrier: Barrier::new(THREADS as u32).unwrap(),
        };
        let mut threads = [0; THREADS as usize];
        for id in &mut threads {
            // SAFETY: `made` outlives the threads, which are joined below.
            let error = unsafe {
                let made = (&raw mut made).cast();
                libc::pthread_create(id, std::ptr::null(), thread, made)
            };
            assert_eq!(error, 0);
        }
        UNDER[3].add();
        STARTED.set();
        for id in threads {
            // SAFETY: created above, joined once.
            assert_eq!(unsafe { libc::pthread_join(id, std::ptr::null_mut()) }, 0);
        }
        let sums = [
            UNDER[0].get(),
            UNDER[1].get(),
            UNDER[2].get(),
            *MUTEX.lock().unwrap(),
        ];
        assert_eq!(sums, [THREADS * ROUNDS; 4]);
        assert_eq!(*TABLE.read().unwrap(), THREADS * ROUNDS / 8);
    }
}
