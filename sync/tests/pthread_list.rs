//! Our locks and pthread's robust ones, plain and with priority inheritance, on one thread's list:
//! taken and released at random, with the list walked after every step.
#![cfg(all(not(loom), target_os = "linux", target_env = "gnu"))]

use std::cell::UnsafeCell;

use multiprocess_core::thread::Caller;
use multiprocess_core::{ShmSafe, Timeout};
use multiprocess_sync::{LockError, RawMutex};
use multiprocess_testkit::watchdog::Watchdog;

const OURS: usize = 6;
const PLAIN: usize = 6;
const ALL: usize = 2 * OURS + PLAIN - 3;

/// In shared memory of this process and its children.
struct Stage {
    ours: [RawMutex; OURS],
    /// The last three inherit priority.
    theirs: [UnsafeCell<libc::pthread_mutex_t>; ALL - OURS],
}

unsafe extern "C" {
    fn pthread_mutexattr_setprotocol(
        attributes: *mut libc::pthread_mutexattr_t,
        protocol: libc::c_int,
    ) -> libc::c_int;
}

fn stage() -> &'static Stage {
    // SAFETY: a fresh shared mapping, large enough, zeroed: unlocked mutexes of ours, and bytes
    // that pthread initialises below. Never unmapped.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), 1 << 16, protection, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        let stage = &*page.cast::<Stage>();
        stage.ours.placed();
        for (i, mutex) in stage.theirs.iter().enumerate() {
            let mut attributes = std::mem::zeroed();
            libc::pthread_mutexattr_init(&mut attributes);
            libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            if i >= PLAIN {
                assert_eq!(pthread_mutexattr_setprotocol(&mut attributes, 1), 0); // PRIO_INHERIT
            }
            assert_eq!(libc::pthread_mutex_init(mutex.get(), &attributes), 0);
        }
        stage
    }
}

impl Stage {
    fn lock(&self, i: usize) -> i32 {
        if let Some(mutex) = self.ours.get(i) {
            return match mutex.acquire(&Caller::current(), Timeout::TRY) {
                Ok(()) => 0,
                Err(LockError::OwnerDied(())) => libc::EOWNERDEAD,
                Err(_) => libc::EBUSY,
            };
        }
        // SAFETY: an initialised mutex.
        unsafe { libc::pthread_mutex_trylock(self.theirs[i - OURS].get()) }
    }

    fn unlock(&self, i: usize) {
        match self.ours.get(i) {
            Some(mutex) => mutex.release(&Caller::current()).unwrap(),
            // SAFETY: an initialised mutex that this thread holds.
            None => unsafe {
                assert_eq!(libc::pthread_mutex_unlock(self.theirs[i - OURS].get()), 0);
            },
        }
    }

    fn mark_consistent(&self, i: usize) {
        match self.ours.get(i) {
            Some(mutex) => mutex.mark_consistent(&Caller::current()).unwrap(),
            // SAFETY: an initialised mutex that this thread holds.
            None => unsafe {
                libc::pthread_mutex_consistent(self.theirs[i - OURS].get());
            },
        }
    }
}

/// Toggles one of the mutexes at random.
fn step(stage: &Stage, seed: &mut u64, held: &mut [bool; ALL]) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    let i = (*seed % ALL as u64) as usize;
    if held[i] {
        stage.unlock(i);
    } else {
        assert_eq!(stage.lock(i), 0);
    }
    held[i] = !held[i];
}

#[test]
fn a_hundred_thousand_random_steps_leave_the_list_whole() {
    let _watchdog = Watchdog::seconds(120);
    let stage = stage();
    let (mut seed, mut held) = (88_172_645_463_325_252, [false; ALL]);
    for _ in 0..100_000 {
        step(stage, &mut seed, &mut held);
        let count = held.iter().filter(|held| **held).count();
        // Walks the links; the back links are followed by the releases in the middle.
        assert_eq!(Caller::current().thread().held() as usize, count);
    }
    for i in (0..ALL).filter(|i| held[*i]) {
        stage.unlock(i);
    }
    assert_eq!(Caller::current().thread().held(), 0);
}

#[test]
fn threads_that_die_with_a_mixture_hand_on_just_those() {
    let _watchdog = Watchdog::seconds(120);
    let stage = stage();
    for round in 1..=300_u64 {
        let address = std::ptr::from_ref(stage).expose_provenance();
        let held = std::thread::spawn(move || {
            // SAFETY: the stage is never unmapped, and its mutexes may be shared.
            let stage = unsafe { &*std::ptr::with_exposed_provenance::<Stage>(address) };
            let (mut seed, mut held) = (round.wrapping_mul(0x9e37_79b9_7f4a_7c15), [false; ALL]);
            for _ in 0..round % 60 {
                step(stage, &mut seed, &mut held);
            }
            held
        });
        let held = held.join().unwrap(); // joined: the kernel has walked the list
        for (i, held) in held.into_iter().enumerate() {
            let expected = if held { libc::EOWNERDEAD } else { 0 };
            assert_eq!(stage.lock(i), expected, "round {round}, mutex {i}");
            if held {
                stage.mark_consistent(i);
            }
            stage.unlock(i);
        }
    }
}
