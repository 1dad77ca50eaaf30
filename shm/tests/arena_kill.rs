//! An arena among real processes that are killed.
#![cfg(target_os = "linux")]

mod common;

use std::alloc::Layout;
use std::os::fd::AsFd;
use std::time::Duration;

use common::Random;
use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Block, Participant, Participants, Segment};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const HEAP: u64 = 1 << 20;
const KILLS: u32 = 200;

fn attached() -> Arena<Segment, Participant> {
    let fd = |index| child::fd(index).try_clone_to_owned().unwrap();
    let table = Participants::attach(fd(0)).unwrap();
    let (segment, _) = Segment::attach_place::<ArenaState>(fd(1)).unwrap();
    Arena::attach(segment, table.join().unwrap()).unwrap()
}

/// Allocates and frees at random, every block full of its own byte. Ends only if somebody else has
/// written into one.
fn worker(seed: u64) {
    let arena = attached();
    let mut random = Random(seed);
    let mut held: Vec<(Block, u8)> = Vec::new();
    loop {
        let size = match random.below(30) {
            0 => 1 + random.below(40_000),
            _ => 1 + random.below(1000),
        };
        let layout = Layout::from_size_align(size as usize, 1).unwrap();
        if held.len() < 200
            && random.below(2) == 0
            && let Ok(block) = arena.allocate(layout)
        {
            let byte = random.next() as u8;
            // SAFETY: the block is ours, and as large as it says.
            unsafe { arena.data(&block).write_bytes(byte, block.size()) };
            held.push((block, byte));
        } else if !held.is_empty() {
            let (block, byte) = held.swap_remove(random.below(held.len() as u64) as usize);
            // SAFETY: as above.
            let bytes =
                unsafe { std::slice::from_raw_parts(arena.data(&block).as_ptr(), block.size()) };
            assert!(
                bytes.iter().all(|other| *other == byte),
                "two had the same bytes"
            );
            arena.free(block).unwrap();
        }
        if random.below(2000) == 0 {
            arena.recover();
        }
    }
}

/// `ARENA_KILLS=2000` for more.
#[test]
fn blocks_never_overlap_and_what_the_dead_held_comes_back() {
    let test = "blocks_never_overlap_and_what_the_dead_held_comes_back";
    if let Some(seed) = child::role() {
        return worker(seed.parse().unwrap());
    }
    let _watchdog = Watchdog::seconds(300);
    let kills = std::env::var("ARENA_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let table = Participants::new(8).unwrap();
    let segment = Segment::create_place::<ArenaState>(&ArenaConfig::new(HEAP).unwrap()).unwrap();
    let arena = Arena::attach(segment.try_clone().unwrap(), table.join().unwrap()).unwrap();
    let mut random = Random(0x9e37_79b9 ^ u64::from(std::process::id()));
    println!("seed {:#x}", random.0);
    let start = |seed: u64| Child::run(test, &seed.to_string(), &[table.as_fd(), segment.as_fd()]);
    let mut workers = [start(1), start(2)];
    let (mut recovered, mut midway) = (0, 0);
    for round in 0..kills {
        std::thread::sleep(Duration::from_micros(8000 + random.below(8000)));
        let victim = random.below(2) as usize;
        let other = &mut workers[1 - victim];
        let ended = other.wait_timeout(Duration::ZERO);
        assert!(
            ended.is_none(),
            "round {round}: a worker has ended: {ended:?}"
        );
        if round % 4 == 0 {
            workers[1 - victim].signal(libc::SIGSTOP); // and nobody waits for it
        }
        workers[victim].kill();
        let found = arena.recover();
        recovered += found.blocks;
        midway += found.chunks;
        workers[1 - victim].signal(libc::SIGCONT);
        workers[victim] = start(u64::from(round) + 3);
    }
    for worker in &mut workers {
        worker.kill();
    }
    recovered += arena.recover().blocks;
    let statistics = arena.statistics();
    println!("{kills} kills, {recovered} blocks and {midway} chunks recovered; {statistics:?}");
    assert_eq!(statistics.blocks, 0);
    let whole = arena
        .allocate(Layout::from_size_align(HEAP as usize, 1).unwrap())
        .unwrap();
    arena.free(whole).unwrap();
    assert!(recovered > 0);
}
