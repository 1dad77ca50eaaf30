//! `Arena`: blocks that never overlap, and come back.
#![cfg(all(not(loom), target_os = "linux"))]

mod common;

use std::alloc::Layout;
use std::collections::BTreeMap;

use common::{Decreed, Random};
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{AttachError, CreateError, Memory, ParticipantId, Peers, Region, ShmSafe};
use multiprocess_shm::{
    AllocError, Arena, ArenaBox, ArenaConfig, ArenaState, Block, FreeError, Offset, Segment,
};
use multiprocess_testkit::watchdog::Watchdog;

type Alone = Arena<Segment, Decreed>;

fn segment(bytes: u64) -> Segment {
    Segment::create_place::<ArenaState>(&ArenaConfig::new(bytes).unwrap()).unwrap()
}

fn arena(bytes: u64) -> Alone {
    Arena::attach(segment(bytes), Decreed(1)).unwrap()
}

/// Another process's way to the same arena.
fn other(arena: &Segment, number: u16) -> Alone {
    Arena::attach(arena.try_clone().unwrap(), Decreed(number)).unwrap()
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

fn fill(arena: &Alone, block: &Block, byte: u8) {
    // SAFETY: the block is ours, and as large as it says.
    unsafe { arena.data(block).write_bytes(byte, block.size()) };
}

fn is_filled(arena: &Alone, block: &Block, byte: u8) -> bool {
    // SAFETY: as in `fill`.
    let bytes = unsafe { std::slice::from_raw_parts(arena.data(block).as_ptr(), block.size()) };
    bytes.iter().all(|other| *other == byte)
}

#[test]
fn absurd_sizes_are_refused() {
    for size in [0, (1 << 37) + 1, u64::MAX] {
        let refused = ArenaConfig::new(size).unwrap_err();
        assert!(matches!(refused, CreateError::Capacity { requested, .. } if requested == size));
    }
    for (size, chunk) in [
        (1, 4096),
        (1 << 20, 4096),
        (1 << 26, 4096),
        (1 << 28, 1 << 14),
        (1 << 37, 1 << 20),
    ] {
        let config = ArenaConfig::new(size).unwrap();
        assert_eq!(config.chunk_bytes(), chunk, "{size}");
        assert!(config.bytes() >= size && config.bytes() < size + chunk);
    }
}

#[test]
fn what_cannot_be_allocated_is_refused() {
    let arena = arena(1 << 20);
    assert_eq!(arena.allocate(bytes(0)), Err(AllocError::Empty));
    let crooked = Layout::from_size_align(64, 256).unwrap();
    assert_eq!(
        arena.allocate(crooked),
        Err(AllocError::Alignment { requested: 256 })
    );
    for size in [(1 << 20) + 1, 1 << 40, isize::MAX as usize] {
        let no_space = AllocError::NoSpace { requested: size };
        assert_eq!(arena.allocate(bytes(size)), Err(no_space));
    }
    let nobody = Arena::attach(segment(1 << 20), Decreed(0)).unwrap();
    assert_eq!(nobody.allocate(bytes(1)), Err(AllocError::NotAParticipant));
    assert_eq!(nobody.recover(), multiprocess_shm::Recovered::default());
}

#[test]
fn blocks_are_aligned_and_as_large_as_asked_for() {
    let arena = arena(1 << 24);
    for size in (1..20_000).step_by(61) {
        for align in [1, 64, 128] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let block = arena.allocate(layout).unwrap();
            assert!(block.size() >= size && block.offset().is_multiple_of(64));
            assert!(block.size() <= (size + 128) * 2, "{size}: {}", block.size());
            let address = arena.data(&block).addr().get();
            assert!(address.is_multiple_of(align.max(64)));
            arena.free(block).unwrap();
        }
    }
    assert_eq!(arena.statistics().blocks, 0);
}

#[test]
fn all_of_it_can_be_had_and_comes_back_in_one_piece() {
    let arena = arena(1 << 20);
    for size in [1 << 20, 1 << 19, 5000, 4096, 2048, 1000, 64] {
        let mut blocks = Vec::new();
        while let Ok(block) = arena.allocate(bytes(size)) {
            blocks.push(block);
        }
        let statistics = arena.statistics();
        assert_eq!(statistics.blocks, blocks.len() as u64);
        assert!(
            statistics.used * 2 > statistics.capacity,
            "{size}: {statistics:?}"
        );
        assert!(arena.allocate(bytes(size)).is_err());
        for block in blocks {
            arena.free(block).unwrap();
        }
    }
    // Slabs that are empty are turned into chunks again.
    let whole = arena.allocate(bytes(1 << 20)).unwrap();
    assert_eq!((whole.offset(), whole.size()), (0, 1 << 20));
    arena.free(whole).unwrap();
    let statistics = arena.statistics();
    assert_eq!(statistics.largest_free, statistics.capacity);
}

#[test]
fn only_its_holder_can_free_a_block() {
    let memory = segment(1 << 20);
    let (mine, theirs) = (other(&memory, 1), other(&memory, 2));
    for size in [100, 50_000] {
        let block = mine.allocate(bytes(size)).unwrap();
        // SAFETY: refused.
        assert_eq!(unsafe { theirs.block_at(block.offset()) }, Err(FreeError));
        // SAFETY: the other one is forgotten.
        let same = unsafe { mine.block_at(block.offset()) }.unwrap();
        assert_eq!(same, block);
        assert_eq!(theirs.free(same), Err(FreeError));
        // SAFETY: as above.
        let same = unsafe { mine.block_at(block.offset()) }.unwrap();
        mine.free(block).unwrap();
        assert_eq!(mine.free(same), Err(FreeError), "freed twice");
        for offset in [0, 1, 64, 100, 1 << 20, u64::MAX, u64::MAX - 63] {
            // SAFETY: refused.
            assert_eq!(unsafe { mine.block_at(offset) }, Err(FreeError), "{offset}");
        }
    }
}

#[derive(ShmSafe)]
#[repr(C)]
struct Node {
    value: AtomicU64,
    next: Offset<Node>,
}

#[test]
fn values_refer_to_each_other_by_offset() {
    let memory = segment(1 << 16);
    let (mine, theirs) = (other(&memory, 1), other(&memory, 2));
    let mut list = Offset::<Node>::NULL;
    for value in 0..10 {
        let value = AtomicU64::new(value);
        list = mine.alloc(Node { value, next: list }).unwrap().leak();
    }
    let (mut at, mut seen) = (list, 0);
    // SAFETY: nobody frees while we look.
    while let Some(node) = unsafe { theirs.get(at) } {
        seen += node.value.load(Relaxed);
        at = node.next;
    }
    assert_eq!((seen, at.is_null()), (45, true));
    // SAFETY: the offsets come from `leak`, and each is taken back once.
    while let Some(node) = unsafe { ArenaBox::from_offset(&mine, list) } {
        list = node.next;
    }
    assert_eq!(mine.statistics().blocks, 0);
    for bits in [1, 2, 1000, 1 << 40, u64::MAX] {
        let offset = Offset::<Node>::from_bits(bits);
        // SAFETY: refused.
        assert!(unsafe { mine.get(offset) }.is_none(), "{offset:?}");
    }
}

#[test]
fn a_type_too_large_for_the_block_is_not_found_there() {
    let arena = arena(1 << 16);
    let small = arena.alloc(7u64).unwrap();
    let offset = Offset::<[u64; 9]>::from_bits(small.offset().to_bits());
    // SAFETY: refused.
    assert!(unsafe { arena.get(offset) }.is_none());
    // SAFETY: refused.
    assert!(unsafe { ArenaBox::from_offset(&arena, offset) }.is_none());
    assert_eq!(*small, 7);
}

#[test]
fn bytes_that_are_no_arena_are_refused() {
    let good = segment(1 << 16);
    let mut page = vec![std::mem::MaybeUninit::new(0u8); good.payload().len() + 128];
    let at = page.as_ptr().align_offset(128);
    let attach = |region: Region<'_>| Arena::attach(region, Decreed(1)).err();
    let region = Region::from_uninit(&mut page[at..]);
    assert_eq!(attach(region), Some(AttachError::BadMagic { found: 0 }));
    // SAFETY: nobody else uses the bytes.
    unsafe { ArenaState::init_in(region) };
    assert_eq!(attach(region), None);
    for (word, value, field) in [(3, 5, "shift"), (3, 15, "shift"), (4, 0, "chunks")] {
        // SAFETY: inside the region; nobody else is attached.
        let at = unsafe { region.base().cast::<u32>().add(word).as_mut() };
        let was = std::mem::replace(at, value);
        assert_eq!(attach(region), Some(AttachError::Corrupt { field }));
        *at = was;
    }
    // SAFETY: as above.
    let chunks = unsafe { region.base().cast::<u32>().add(4).as_mut() };
    *chunks += 1;
    assert!(matches!(
        attach(region),
        Some(AttachError::Truncated { .. })
    ));
    *chunks = u32::MAX;
    assert!(attach(region).is_some());
}

trait InitIn {
    /// # Safety
    ///
    /// Nobody else may use the bytes.
    unsafe fn init_in(region: Region<'_>);
}

impl InitIn for ArenaState {
    unsafe fn init_in(region: Region<'_>) {
        use multiprocess_core::Place;
        let config = ArenaConfig::new(1 << 16).unwrap();
        // SAFETY: the caller's word.
        unsafe { ArenaState::init(region, &config) }.unwrap();
    }
}

/// A random trace against a model: no two blocks overlap, and each keeps its bytes.
fn trace(arena: &Alone, seed: u64, steps: u32, largest: u64) {
    let mut random = Random(seed);
    let mut held = BTreeMap::new();
    let mut number = 0u8;
    for _ in 0..steps {
        if random.below(100) < 52 {
            let size = match random.below(20) {
                0 => random.below(largest),
                1..5 => random.below(5000),
                _ => random.below(300),
            };
            let Ok(block) = arena.allocate(bytes(size as usize + 1)) else {
                continue;
            };
            number = number.wrapping_add(1);
            fill(arena, &block, number);
            let end = block.offset() + block.size() as u64;
            let before: Option<(&u64, &(Block, u8))> = held.range(..end).next_back();
            if let Some((offset, (other, _))) = before {
                assert!(offset + other.size() as u64 <= block.offset(), "overlap");
            }
            held.insert(block.offset(), (block, number));
        } else if !held.is_empty() {
            let at = random.below(1 << 21);
            let key = held
                .range(at..)
                .next()
                .or(held.iter().next())
                .map(|(key, _)| *key);
            let (block, byte) = held.remove(&key.unwrap()).unwrap();
            assert!(is_filled(arena, &block, byte), "somebody wrote into it");
            arena.free(block).unwrap();
        }
    }
    for (block, byte) in held.into_values() {
        assert!(is_filled(arena, &block, byte), "somebody wrote into it");
        arena.free(block).unwrap();
    }
}

#[test]
fn random_traces_agree_with_a_model() {
    let _watchdog = Watchdog::seconds(120);
    for seed in 1..20 {
        let arena = arena(1 << 21);
        trace(&arena, seed, 20_000, 200_000);
        assert_eq!(arena.statistics().blocks, 0);
        let whole = arena.allocate(bytes(1 << 21)).unwrap();
        arena.free(whole).unwrap();
    }
}

#[test]
fn there_is_room_for_what_can_be_allocated() {
    let arena = arena(1 << 18);
    let mut random = Random(7);
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..20_000 {
        let size = match random.below(10) {
            0 => random.below(1 << 17),
            _ => random.below(9000),
        };
        let align = 64 << random.below(2);
        let layout = Layout::from_size_align(size as usize + 1, align).unwrap();
        let has_room = arena.has_room(layout);
        let allocated = arena.allocate(layout);
        assert_eq!(has_room, allocated.is_ok(), "{layout:?}");
        match allocated {
            Ok(block) => held.push(block),
            Err(_) => {
                refused += 1;
                for _ in 0..random.below(4) {
                    let at = random.below(held.len() as u64 + 1) as usize;
                    held.drain(at..(at + 3).min(held.len()))
                        .for_each(|block| arena.free(block).unwrap());
                }
            }
        }
    }
    assert!(refused > 100 && !arena.has_room(bytes(0)));
}

#[test]
fn threads_and_participants_never_get_the_same_bytes() {
    let _watchdog = Watchdog::seconds(120);
    let memory = segment(1 << 21);
    let arenas: Vec<Alone> = (1..=2).map(|number| other(&memory, number)).collect();
    std::thread::scope(|scope| {
        for (number, arena) in arenas.iter().enumerate() {
            for thread in 0..2 {
                let seed = ((number as u64 + 1) << 4) | thread;
                scope.spawn(move || trace(arena, seed, 100_000, 100_000));
            }
        }
    });
    assert_eq!(arenas[0].statistics().blocks, 0);
    let whole = arenas[0].allocate(bytes(1 << 21)).unwrap();
    arenas[0].free(whole).unwrap();
}

/// A peer of whom participant 9.1 is dead.
struct Survivor;

// SAFETY: the dead one exists as a number only.
unsafe impl Peers for Survivor {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(1, 1)
    }

    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant == ParticipantId::new(9, 1)
    }

    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// Between its two looks at the slab somebody has allocated there; then it was killed.
#[test]
fn a_reclaimer_that_died_before_it_looked_takes_no_living_block() {
    let memory = segment(1 << 16);
    let arena = Arena::attach(memory.try_clone().unwrap(), Survivor).unwrap();
    let block = arena.allocate(bytes(64)).unwrap();
    let chunk = (block.offset() / arena.config().chunk_bytes()) as usize;
    // SAFETY: inside the chunks' words, which begin at 128; all access is by atomics.
    let word: &AtomicU64 = unsafe { memory.region().base().add(128 + 8 * chunk).cast().as_ref() };
    let dead = u64::from(ParticipantId::new(9, 1).bits());
    word.store(5 << 60 | dead, Relaxed); // Emptying, class 0
    arena.recover();
    assert_eq!(arena.statistics().blocks, 1);
    assert!(
        arena.allocate(bytes(1 << 16)).is_err(),
        "a living block is in the way"
    );
    arena.free(block).unwrap();
    assert!(arena.allocate(bytes(1 << 16)).is_ok());
}

/// The other way round: somebody looks at the slab at this moment, and lives.
#[test]
fn a_block_can_be_freed_while_somebody_looks_whether_its_slab_is_empty() {
    let memory = segment(1 << 16);
    let arena = other(&memory, 1);
    let block = arena.allocate(bytes(64)).unwrap();
    let chunk = (block.offset() / arena.config().chunk_bytes()) as usize;
    // SAFETY: inside the chunks' words, which begin at 128; all access is by atomics.
    let word: &AtomicU64 = unsafe { memory.region().base().add(128 + 8 * chunk).cast().as_ref() };
    let slab = word.load(Relaxed);
    let reclaimer = u64::from(ParticipantId::new(2, 1).bits());
    word.store(5 << 60 | reclaimer, Relaxed); // Emptying, class 0
    assert_eq!(arena.free(block), Ok(()));
    word.store(slab, Relaxed);
    assert_eq!(arena.statistics().blocks, 0);
    assert!(arena.allocate(bytes(1 << 16)).is_ok());
}

#[test]
fn whatever_a_peer_writes_into_the_words_calls_return() {
    let _watchdog = Watchdog::seconds(120);
    let memory = segment(1 << 16);
    let arena = other(&memory, 1);
    let words = memory.region();
    // All that lies before the heap.
    let len = words.len() - arena.config().bytes() as usize;
    let mut random = Random(7);
    for round in 0..30_000 {
        let at = 128 + random.below(len as u64 / 8 - 17) as usize * 8;
        let value = match random.below(5) {
            0 => random.next(),
            1 => random.below(5) << 60 | random.below(40),
            2 => u64::from(u32::MAX) << random.below(33),
            3 => 1 | 1 << 16,
            _ => 0,
        };
        // SAFETY: inside the words, all access to which is by atomics.
        unsafe { words.base().add(at).cast::<AtomicU64>().as_ref() }.store(value, Relaxed);
        let block = arena.allocate(bytes(1 + random.below(10_000) as usize));
        if let Ok(block) = block {
            assert!(block.offset() + block.size() as u64 <= arena.config().bytes());
            let _ = arena.free(block);
        }
        if round % 64 == 0 {
            arena.recover();
            let _ = arena.statistics();
            let _ = format!("{arena:?}");
        }
    }
}
