//! Freestanding proof: no std, no alloc, no libc, no C runtime. Makes a segment, takes a lock
//! in it, pushes through both rings, waits with a timeout, and exits 0; any step that goes
//! wrong exits with its number.
#![no_std]
#![no_main]

use core::time::Duration;

use multiprocess_channel::{bytes, spsc};
use multiprocess_core::{LayoutHash, Region};
use multiprocess_shm::Segment;
use multiprocess_sync::{Event, Lock, LockError, WaitError};

mod runtime;

#[repr(C)]
struct State {
    lock: Lock,
    event: Event,
}

/// Called by `_start` on an aligned stack.
extern "C" fn main() -> ! {
    let code = match run() {
        Ok(()) => {
            let _ = rustix::io::write(
                // SAFETY: nobody closes standard output here.
                unsafe { rustix::stdio::stdout() },
                b"freestanding: lock, event, spsc and bytes work\n",
            );
            0
        }
        Err(step) => step,
    };
    runtime::exit(code)
}

fn run() -> Result<(), i32> {
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
