//! Freestanding proof: no std, no alloc, no libc, no C runtime. Makes a segment, takes locks
//! in it, pushes through both rings, waits with a timeout, and exits 0; any step that goes
//! wrong exits with its number.
#![no_std]
#![no_main]

use core::time::Duration;

use multiprocess_channel::{bytes, spsc};
use multiprocess_core::thread::{Caller, Thread};
use multiprocess_core::{LayoutHash, Region, ShmSafe, Timeout};
use multiprocess_shm::Segment;
use multiprocess_sync::{Event, Lock, LockError, Mutex, RLock, RwLock, Semaphore, WaitError};

mod runtime;

#[derive(ShmSafe)]
#[repr(C)]
struct State {
    lock: Lock,
    event: Event,
    mutex: Mutex<u64>,
    recursive: RLock,
    table: RwLock<u64, 2>,
    semaphore: Semaphore,
}

/// Called by `_start` on an aligned stack.
extern "C" fn main() -> ! {
    // SAFETY: used by this one thread, and stays here: this function does not return.
    let thread = unsafe { Thread::new() };
    let code = match run(Caller::new(&thread)) {
        Ok(()) => {
            let _ = rustix::io::write(
                // SAFETY: nobody closes standard output here.
                unsafe { rustix::stdio::stdout() },
                b"freestanding: locks, robust locks, events and rings work\n",
            );
            0
        }
        Err(step) => step,
    };
    runtime::exit(code)
}

fn run(me: Caller<'_>) -> Result<(), i32> {
    let layout = core::alloc::Layout::new::<State>();
    let segment =
        Segment::create(LayoutHash::of("freestanding"), layout, |_| Ok(())).map_err(|_| 1)?;
    let state = segment.payload().base().cast::<State>();
    // SAFETY: the payload was laid out for a `State`, of which all zeroes are a valid value.
    let state: &State = unsafe { state.as_ref() };

    let guard = state.lock.lock().map_err(|_| 2)?;
    let short = Duration::from_millis(1);
    if state.lock.lock_timeout(short).err() != Some(LockError::Timeout) {
        return Err(3);
    }
    drop(guard);
    drop(state.lock.try_lock().map_err(|_| 4)?);
    if state.event.wait_timeout(short) != Err(WaitError::Timeout) {
        return Err(5);
    }
    state.event.set();
    state.event.wait().map_err(|_| 6)?;

    // SAFETY: the segment stays mapped until the process ends.
    unsafe { state.placed() };
    if !me.thread().has_kernel_list() {
        return Err(20);
    }
    let mut guard = state.mutex.lock_as(me, None).map_err(|_| 21)?;
    *guard += 1;
    let again = state.mutex.lock_as(me, Timeout::TRY).err();
    if me.thread().held() != 1 || again != Some(LockError::Deadlock) {
        return Err(22);
    }
    drop(guard);
    let outer = state.recursive.lock_as(me, None).map_err(|_| 23)?;
    let inner = state.recursive.lock_as(me, short).map_err(|_| 24)?;
    drop((outer, inner));
    *state.table.write_as(me, None).map_err(|_| 25)? = 7;
    if *state.table.read_as(me, None).map_err(|_| 26)? != 7 || me.thread().held() != 0 {
        return Err(27);
    }
    state.semaphore.release().map_err(|_| 28)?;
    state.semaphore.acquire().map_err(|_| 29)?;
    if state.semaphore.acquire_timeout(short) != Err(WaitError::Timeout) {
        return Err(30);
    }

    let (mut producer, mut consumer) = spsc::channel::<u64>(4).map_err(|_| 7)?;
    for i in 0..100 {
        producer.push(i).map_err(|_| 8)?;
        if consumer.pop() != Ok(i) {
            return Err(9);
        }
    }
    let (mut producer, mut consumer) = bytes::channel(256).map_err(|_| 10)?;
    for len in 0..100 {
        producer
            .push(&[len; 100][..usize::from(len)])
            .map_err(|_| 11)?;
        let record = consumer.peek().map_err(|_| 12)?;
        if record.len() != usize::from(len) || record.iter().any(|byte| *byte != len) {
            return Err(13);
        }
        record.release();
    }
    drop(producer);
    if consumer.try_peek().is_ok() {
        return Err(14);
    }
    let _: Region<'_> = segment.payload();
    Ok(())
}
