//! Freestanding proof: no std, no alloc, no libc, no C runtime. Makes a segment, takes locks
//! in it, pushes through all rings, allocates, waits with a timeout, and exits 0; any step that goes
//! wrong exits with its number.
#![no_std]
#![no_main]

use core::time::Duration;

use multiprocess_channel::{NoPeers, broadcast, bytes, mpmc, spsc};
use multiprocess_core::thread::{Caller, Thread};
use multiprocess_core::{LayoutHash, Region, ShmSafe, Timeout};
use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Participants, Segment, Snapshot};
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

    let _: Region<'_> = segment.payload();
    among_participants()
}

/// What asks for a table of participants.
fn among_participants() -> Result<(), i32> {
    let table = Participants::new(4).map_err(|_| 40)?;
    let me = table.join().map_err(|_| 41)?;

    let ring = Segment::create_place::<spsc::Ring<u64>>(&4).map_err(|_| 7)?;
    let mut producer = spsc::Producer::<u64, _, _>::attach(ring.payload(), &me).map_err(|_| 15)?;
    let mut consumer = spsc::Consumer::<u64, _, _>::attach(ring.payload(), &me).map_err(|_| 16)?;
    for i in 0..100 {
        producer.push(i).map_err(|_| 8)?;
        if consumer.pop() != Ok(i) {
            return Err(9);
        }
    }
    let ring = Segment::create_place::<bytes::Ring>(&256).map_err(|_| 10)?;
    let mut producer = bytes::Producer::attach(ring.payload(), NoPeers).map_err(|_| 17)?;
    let mut consumer = bytes::Consumer::attach(ring.payload(), NoPeers).map_err(|_| 18)?;
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

    let config = mpmc::Config::new(8).endpoints(4);
    let ring = Segment::create_place::<mpmc::Ring<u64>>(&config).map_err(|_| 42)?;
    let mut sender = mpmc::Sender::<u64, _, _>::attach(ring.payload(), &me).map_err(|_| 43)?;
    let mut receiver = mpmc::Receiver::<u64, _, _>::attach(ring.payload(), &me).map_err(|_| 44)?;
    for i in 0..100 {
        sender.send(i).map_err(|_| 45)?;
        if receiver.recv() != Ok(i) {
            return Err(46);
        }
    }

    let config = broadcast::Config::new(8).readers(1);
    let ring = Segment::create_place::<broadcast::Ring<u64>>(&config).map_err(|_| 47)?;
    let mut sender = broadcast::Sender::<u64, _, _>::attach(ring.payload(), &me).map_err(|_| 48)?;
    let mut receiver =
        broadcast::Receiver::<u64, _>::attach(ring.payload(), broadcast::Start::Next)
            .map_err(|_| 49)?;
    sender.send(7).map_err(|_| 50)?;
    if receiver.recv() != Ok(7) {
        return Err(51);
    }

    let config = ArenaConfig::new(1 << 16).map_err(|_| 52)?;
    let segment = Segment::create_place::<ArenaState>(&config).map_err(|_| 53)?;
    let arena = Arena::attach(segment, &me).map_err(|_| 54)?;
    let value = arena.alloc(7_u64).map_err(|_| 55)?;
    let snapshot = arena.alloc(Snapshot::new([1_u64; 4])).map_err(|_| 56)?;
    snapshot.write(&me, [2; 4], None).map_err(|_| 57)?;
    if *value != 7 || snapshot.read() != Ok([2; 4]) {
        return Err(58);
    }
    Ok(())
}
