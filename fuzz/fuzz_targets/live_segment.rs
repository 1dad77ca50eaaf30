//! A peer that scribbles on a live heap, its participants, its directory, snapshots and lists: errors
//! or wrong data, never a panic, an access outside, or a loop without end.
//!
//! `cargo fuzz run live_segment`
#![no_main]

use std::alloc::Layout;
use std::os::fd::AsFd;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{Memory, Region};
use multiprocess_shm::{
    Counted, Heap, HeapConfig, Item, Mapping, ShareableList, Shared, SharedMemory, Snapshot,
};
use rustix::fs::{FallocateFlags, fallocate, ftruncate};

struct Scene {
    heap: Heap,
    heap_bytes: Mapping,
    snapshot: Shared<Snapshot<[u64; 4]>>,
    snapshot_bytes: Mapping,
    list: ShareableList,
}

fn map(file: impl AsFd) -> Mapping {
    Mapping::attach(file.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

impl Scene {
    fn new() -> Self {
        let config = HeapConfig {
            participants: 3,
            objects: 4,
            bytes: 1 << 15,
        };
        let heap = Heap::new(&config).unwrap();
        let snapshot = Shared::new(Snapshot::new([1; 4])).unwrap();
        let items = [
            Item::Int(1),
            Item::from("text"),
            Item::Bool(true),
            Item::None,
        ];
        Self {
            heap_bytes: map(&heap),
            heap,
            snapshot_bytes: map(&snapshot),
            snapshot,
            list: ShareableList::create(&items).unwrap(),
        }
    }
}

/// What lies before the blocks is what a peer's garbage must not break.
fn scribble(region: Region<'_>, at: u16, value: u64) {
    let words = region.len() / 8;
    // SAFETY: inside the mapping; all access to it is by atomics.
    unsafe {
        let word = region
            .base()
            .cast::<AtomicU64>()
            .add(usize::from(at) % words);
        word.as_ref().store(value, Relaxed);
    }
}

fn value(selector: u8, raw: [u8; 8]) -> u64 {
    match selector % 5 {
        0 => u64::from_ne_bytes(raw),
        1 => u64::from(raw[0]) << 60 | u64::from(raw[1]),
        2 => u64::MAX << (raw[0] % 64),
        3 => u64::from(raw[0] & 7) << 2 | u64::from(raw[1] & 3) | u64::from(raw[2] & 3) << 32,
        _ => 0,
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Of a scene that is beyond repair the next input gets another one.
    let scene = Scene::new();
    let heap = &scene.heap;
    let me = heap.participant();
    let mut held: Vec<Counted<[u64; 2]>> = Vec::new();
    let mut blocks = Vec::new();
    for step in bytes.chunks_exact(13).take(64) {
        let [op, selector, at_low, at_high, raw @ .., size] = step else {
            continue;
        };
        let raw: [u8; 8] = raw[..8].try_into().unwrap();
        let at = u16::from_ne_bytes([*at_low, *at_high]);
        scribble(scene.heap_bytes.region(), at, value(*selector, raw));
        let key = ["a", "b", "c"][usize::from(*size) % 3];
        match op % 14 {
            0 => held.extend(heap.share([1, 2])),
            1 => held.extend(heap.find(key)),
            2 => {
                // Entering waits for a turn that a peer may have taken for ever: not here.
                scribble(scene.heap_bytes.region(), at, 0);
                held.extend(heap.by_token(u64::from_ne_bytes(raw)));
            }
            3 => drop(held.pop()),
            4 => {
                let layout = Layout::from_size_align(1 + usize::from(at), 1).unwrap();
                blocks.extend(heap.arena().allocate(layout));
            }
            5 => {
                if let Some(block) = blocks.pop() {
                    let _ = heap.arena().free(block);
                }
            }
            6 => drop(heap.recover()),
            7 => drop(heap.objects().count()),
            8 => drop(heap.statistics()),
            9 => {
                scribble(scene.snapshot_bytes.region(), at, value(*selector, raw));
                let _ = scene.snapshot.read();
                let _ = scene.snapshot.write(me, [2; 4], Duration::from_millis(1));
                let number = scene.snapshot.reader().number();
                let _ = scene.snapshot.reader().wait_changed(number, Duration::ZERO);
            }
            10 => {
                let memory = scene.list.memory();
                let _ = memory.write(usize::from(at) % memory.size(), &raw[..1]);
                for index in 0..5 {
                    let _ = scene.list.get(index);
                    let _ = scene.list.set(index, i64::from(*size));
                }
                let _ = scene.list.format();
            }
            11 => {
                let page = u64::from(at % 8) * 4096;
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(scene.heap.as_fd(), punch, page, 4096);
            }
            12 => assert!(
                ftruncate(scene.heap.as_fd(), u64::from(at)).is_err(),
                "sealed"
            ),
            _ => {
                if let Ok(heap) = Heap::attach(heap.as_fd().try_clone_to_owned().unwrap()) {
                    let _ = heap.find::<[u64; 2]>(key);
                    let _ = heap.recover();
                }
                if let Ok(memory) = SharedMemory::open(scene.list.name()) {
                    let _ = ShareableList::over(memory);
                }
            }
        }
    }
});
