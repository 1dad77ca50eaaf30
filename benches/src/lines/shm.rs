//! Blocks, names, snapshots and named memory, against the system allocator, Boost.Interprocess
//! (`peers/cpp/boost_heap.cpp`), a plain copy, and CPython (`peers/py/shm_cycle.py`).

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;

use multiprocess_shm::{
    Arena, ArenaConfig, ArenaState, Block, Heap, HeapConfig, Participant, Participants, Segment,
    Shared, SharedMemory, Snapshot,
};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Language, Measured, Program, Unit};
use crate::cpu::Cpus;

const BATCH: usize = 1000;
const OBJECTS: usize = 64;
const CYCLES: usize = 50;
const NS: Unit = Unit::Nanoseconds;

pub(crate) const ALL: [Comparison; 10] = [
    line("arena/alloc-free/64B", 0.33, ours::<64>, system::<64>),
    line("arena/alloc-free/4KiB", 0.33, ours::<4096>, system::<4096>),
    line("arena/trace", 0.33, our_trace, system_trace),
    against("arena/alloc-free/boost", 2.0, ours::<64>, boost("allocate")),
    against("heap/find/boost", 1.0, get, boost("find")),
    against("heap/find/boost/counted", 1.0, find, boost("find")),
    line("snapshot/read/64B", 0.5, read::<8>, copy::<8>),
    line("snapshot/read/4KiB", 0.5, read::<512>, copy::<512>),
    against("shm/cycle/python", 3.0, cycle, python("together")),
    against(
        "shm/cycle/python/tracker-apart",
        3.0,
        cycle,
        python("apart"),
    ),
];

const fn python(tracker: &'static str) -> Contender {
    Contender::Program(Program {
        language: Language::Python,
        name: "shm_cycle",
        args: match tracker.as_bytes()[0] {
            b't' => &["together"],
            _ => &["apart"],
        },
    })
}

const fn boost(what: &'static str) -> Contender {
    Contender::Program(Program {
        language: Language::Boost,
        name: "boost_heap",
        args: match what.as_bytes()[0] {
            b'a' => &["allocate"],
            _ => &["find"],
        },
    })
}

const fn against(
    name: &'static str,
    bar: f64,
    ours: fn(Cpus) -> Measured,
    peer: Contender,
) -> Comparison {
    Comparison {
        name,
        unit: NS,
        bar,
        ours: Contender::Alone(ours),
        peer,
    }
}

const fn line(
    name: &'static str,
    bar: f64,
    ours: fn(Cpus) -> Measured,
    peer: fn(Cpus) -> Measured,
) -> Comparison {
    against(name, bar, ours, Contender::Alone(peer))
}

type Blocks = Arena<Segment, Participant>;

fn arena() -> Result<Blocks, crate::comparison::Failure> {
    let me = Participants::new(4)?.join()?;
    let segment = Segment::create_place::<ArenaState>(&ArenaConfig::new(16 << 20)?)?;
    Ok(Arena::attach(segment, me)?)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small size")
}

fn ours<const SIZE: usize>(_: Cpus) -> Measured {
    let arena = arena()?;
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            let block = arena.allocate(layout(SIZE)).expect("one is free");
            black_box(arena.data(&block));
            arena.free(block).expect("it is ours");
        }
    }))
}

fn system<const SIZE: usize>(_: Cpus) -> Measured {
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            // SAFETY: the size is not zero; freed with the layout it was allocated with.
            unsafe { dealloc(black_box(alloc(layout(SIZE))), layout(SIZE)) };
        }
    }))
}

/// Allocations and frees in a fixed random order: mostly small, 256 at a time.
fn trace<B>(mut take: impl FnMut(usize) -> B, mut give: impl FnMut(B, usize)) -> f64 {
    let mut held: Vec<Option<(B, usize)>> = (0..256).map(|_| None).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let size = match state >> 60 {
                0 => 1 + (state >> 20) as usize % 8192,
                _ => 1 + (state >> 20) as usize % 500,
            };
            let place = &mut held[(state >> 40) as usize % 256];
            if let Some((block, size)) = place.replace((take(size), size)) {
                give(block, size);
            }
        }
    })
}

fn our_trace(_: Cpus) -> Measured {
    let arena = arena()?;
    Ok(trace(
        |size| arena.allocate(layout(size)).expect("there is room"),
        |block: Block, _| arena.free(block).expect("it is ours"),
    ))
}

fn system_trace(_: Cpus) -> Measured {
    Ok(trace(
        // SAFETY: sizes are not zero; each is freed with the layout it was allocated with.
        |size| unsafe { black_box(alloc(layout(size))) },
        // SAFETY: as above.
        |block, size| unsafe { dealloc(block, layout(size)) },
    ))
}

/// A heap, and the names of its objects.
fn heap() -> Result<(Heap, Vec<String>), crate::comparison::Failure> {
    let heap = Heap::new(&HeapConfig::default())?;
    let names: Vec<String> = (0..OBJECTS).map(|i| format!("object {i}")).collect();
    for (name, i) in names.iter().zip(0u64..) {
        drop(heap.create(name, i)?);
    }
    Ok((heap, names))
}

fn get(_: Cpus) -> Measured {
    let (heap, names) = heap()?;
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for i in 0..BATCH {
            black_box(heap.get::<u64>(&names[i % OBJECTS]).expect("it is there"));
        }
    }))
}

fn find(_: Cpus) -> Measured {
    let (heap, names) = heap()?;
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for i in 0..BATCH {
            drop(black_box(
                heap.find::<u64>(&names[i % OBJECTS]).expect("it is there"),
            ));
        }
    }))
}

fn read<const WORDS: usize>(_: Cpus) -> Measured
where
    [u64; WORDS]: bytemuck::Pod,
{
    let snapshot = Shared::new(Snapshot::new([7u64; WORDS]))?;
    let snapshot: &Snapshot<[u64; WORDS]> = black_box(&snapshot);
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            black_box(&snapshot.read().expect("nobody writes"));
        }
    }))
}

fn copy<const WORDS: usize>(_: Cpus) -> Measured {
    let plain = [7u64; WORDS];
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            black_box(&{ *black_box(&plain) });
        }
    }))
}

/// Create, attach, close both; the last one removes the name.
fn cycle(_: Cpus) -> Measured {
    Ok(nanos_per_operation(SPAN, CYCLES, || {
        for _ in 0..CYCLES {
            let made = SharedMemory::create(4096).expect("there is room");
            let found = SharedMemory::open(made.name()).expect("just made");
            found.close();
            made.close();
        }
    }))
}
