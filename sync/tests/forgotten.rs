//! A guard that was forgotten leaves its lock on the thread's robust list, by its address: the memory stays
//! mapped, whatever it lies in.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::mem::forget;

use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Heap, HeapConfig, Participants};
use multiprocess_shm::{Segment, Shared};
use multiprocess_sync::Mutex;

/// The next lock of this thread links itself to the forgotten one.
fn another_lock_works() {
    let other = Shared::new(Mutex::new(5_u64)).unwrap();
    assert_eq!(*other.lock().unwrap(), 5);
}

#[test]
fn in_a_value_of_a_heap() {
    let heap = Heap::new(&HeapConfig::default()).unwrap();
    let mutex = heap.share(Mutex::new(1_u64)).unwrap();
    forget(mutex.lock().unwrap());
    drop(mutex);
    drop(heap);
    another_lock_works();
}

#[test]
fn in_an_object_that_a_heap_has_lent() {
    let heap = Heap::new(&HeapConfig::default()).unwrap();
    heap.create("mutex", Mutex::new(1_u64)).unwrap();
    forget(heap.get::<Mutex<u64>>("mutex").unwrap().lock().unwrap());
    drop(heap);
    another_lock_works();
}

#[test]
fn in_a_block_of_an_arena() {
    let config = ArenaConfig::new(1 << 16).unwrap();
    let segment = Segment::create_place::<ArenaState>(&config).unwrap();
    let me = Participants::new(4).unwrap().join().unwrap();
    let arena = Arena::attach(segment, me).unwrap();
    let mutex = arena.alloc(Mutex::new(1_u64)).unwrap();
    forget(mutex.lock().unwrap());
    drop(mutex);
    drop(arena);
    another_lock_works();
}

#[test]
fn in_a_segment_of_its_own() {
    let mutex = Shared::new(Mutex::new(1_u64)).unwrap();
    forget(mutex.lock().unwrap());
    drop(mutex);
    another_lock_works();
}
