//! Whose an arena's blocks are.
#![cfg(all(not(loom), target_os = "linux"))]

use std::alloc::Layout;

use multiprocess_core::AttachError;
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_shm::{Arena, ArenaConfig, ArenaState, FreeError, Heap, HeapConfig};
use multiprocess_shm::{Participant, Participants, Segment};

fn segment() -> Segment {
    Segment::create_place::<ArenaState>(&ArenaConfig::new(1 << 18).unwrap()).unwrap()
}

fn somebody() -> Participant {
    Participants::new(4).unwrap().join().unwrap()
}

#[test]
fn a_block_is_freed_by_the_handle_that_it_came_from() {
    let [one, other] = [(); 2].map(|()| Arena::attach(segment(), somebody()).unwrap());
    let value = other.alloc(1_u64).unwrap();
    let block = one.allocate(Layout::new::<u64>()).unwrap();
    // Their participants have the same number, each in its own table.
    assert_eq!(other.free(block), Err(FreeError));
    let second = other.alloc(2_u64).unwrap();
    assert_eq!((*value, *second), (1, 2));
}

#[test]
fn nor_by_another_heap() {
    let [one, other] = [(); 2].map(|()| Heap::new(&HeapConfig::default()).unwrap());
    let value = other.arena().alloc(1_u64).unwrap();
    let block = one.arena().allocate(Layout::new::<u64>()).unwrap();
    assert_eq!(other.arena().free(block), Err(FreeError));
    let _second = other.arena().alloc(2_u64).unwrap();
    assert_eq!(*value, 1);
}

#[test]
fn an_arena_belongs_to_one_table_of_participants() {
    let segment = segment();
    let (table, other) = (Participants::new(4).unwrap(), somebody());
    let arena = Arena::attach(segment.try_clone().unwrap(), table.join().unwrap()).unwrap();
    let _value = arena.alloc(1_u64).unwrap();
    let refused = Arena::attach(segment.try_clone().unwrap(), other).err();
    assert_eq!(refused, Some(AttachError::OtherParticipants));
    assert!(Arena::attach(segment, table.join().unwrap()).is_ok());
}

#[test]
fn a_class_that_a_peer_made_up_is_an_error() {
    let segment = segment();
    let peer = segment.try_clone().unwrap();
    let arena = Arena::attach(segment, somebody()).unwrap();
    let block = arena.allocate(Layout::new::<u64>()).unwrap();
    let chunk = (block.offset() / arena.config().chunk_bytes()) as usize;
    // SAFETY: the word of a chunk, behind the header of 128 bytes; accessed atomically by all.
    let word = unsafe {
        let base = peer.payload().base();
        base.add(128 + 8 * chunk).cast::<AtomicU64>().as_ref()
    };
    // A slab, of a class that would shift a number out of its bits.
    word.store(2 << 60 | 200, Relaxed);
    assert_eq!(arena.free(block), Err(FreeError));
}
