//! How full an arena is when it says that there is no space, beside the system's allocator.
//!
//! `cargo run --release -p multiprocess-shm --example fragmentation [MIB] [SEEDS]`
//!
//! Each step of a trace allocates one block of 16 bytes to 64 KiB, every magnitude as likely as every
//! other; of 50 blocks one stays for good, and the others for 1 to 312 steps for each MiB of the arena,
//! every magnitude as likely as every other. The trace ends when the arena refuses a block. One line for
//! each seed: the bytes asked for of the blocks that are alive then, divided by (1) the bytes that the
//! arena has for blocks (its words cost another 6.3 %), (2) those that malloc has got from the system for
//! the same trace up to that step, (3) those of them that are resident. Malloc runs in a process of its
//! own each time.

use std::alloc::{Layout, alloc, dealloc};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::process::Command;

use multiprocess_shm::{Arena, ArenaConfig, ArenaState, Block, Participants, Segment};

/// Blocks of a trace at a time.
const MOST: usize = 1 << 18;

/// Steps and bytes of a trace.
struct End {
    steps: u64,
    live: u64,
}

/// Runs the trace until `allocate` refuses, or for so many steps. What is alive stays.
fn trace<B>(
    seed: u64,
    longest: f64,
    limit: u64,
    mut allocate: impl FnMut(Layout) -> Option<B>,
    mut free: impl FnMut(B, Layout),
) -> End {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    // When a block is freed, and which it is. All have their room before anything is measured.
    let mut due = BinaryHeap::<Reverse<(u64, usize)>>::with_capacity(MOST);
    let mut blocks: Vec<Option<(B, Layout)>> = (0..MOST).map(|_| None).collect();
    let mut places: Vec<usize> = (0..MOST).collect();
    let mut end = End { steps: 0, live: 0 };
    while end.steps < limit {
        while let Some(&Reverse((step, place))) = due.peek()
            && step <= end.steps
        {
            due.pop();
            if let Some((block, layout)) = blocks[place].take() {
                end.live -= layout.size() as u64;
                free(block, layout);
                places.push(place);
            }
        }
        let size = (16.0 * 4096f64.powf(random())) as usize;
        let layout = Layout::from_size_align(size, 8).expect("a small size");
        let stays = random() < 0.02;
        let steps = longest.powf(random()) as u64;
        let Some(block) = allocate(layout) else {
            break;
        };
        end.live += size as u64;
        let place = places.pop().expect("fewer blocks than MOST");
        blocks[place] = Some((block, layout));
        if !stays {
            due.push(Reverse((end.steps + steps, place)));
        }
        end.steps += 1;
    }
    end
}

/// Steps that a block stays, at most, unless it stays for good.
fn longest(mib: u64) -> f64 {
    312.5 * mib as f64
}

fn in_arena(mib: u64, seed: u64) -> Result<(End, u64), Box<dyn std::error::Error>> {
    let segment = Segment::create_place::<ArenaState>(&ArenaConfig::new(mib << 20)?)?;
    let arena = Arena::attach(segment, Participants::new(1)?.join()?)?;
    let allocate = |layout| arena.allocate(layout).ok();
    let free = |block: Block, _| arena.free(block).expect("it is ours");
    let end = trace(seed, longest(mib), u64::MAX, allocate, free);
    Ok((end, arena.config().bytes()))
}

/// What malloc has got from the system, and what is resident: bytes.
fn in_malloc(mib: u64, seed: u64, steps: u64) -> std::io::Result<(u64, u64)> {
    let (mut calls, mut before, mut after) = (0, (0, 0), (0, 0));
    let allocate = |layout: Layout| {
        if calls == 0 {
            before = memory().ok()?;
        }
        // SAFETY: the size is not zero.
        let block = unsafe { alloc(layout) };
        if block.is_null() {
            return None;
        }
        // SAFETY: as many bytes as were asked for.
        unsafe { block.write_bytes(1, layout.size()) };
        calls += 1;
        if calls == steps {
            after = memory().ok()?;
        }
        Some(block)
    };
    // SAFETY: freed once, with the layout that it was allocated with.
    let free = |block, layout| unsafe { dealloc(block, layout) };
    trace(seed, longest(mib), steps, allocate, free);
    Ok((after.0 - before.0, after.1 - before.1))
}

/// Private and resident bytes of this process.
fn memory() -> std::io::Result<(u64, u64)> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Vec<u64> = pages.split_whitespace().flat_map(str::parse).collect();
    Ok((pages[5] * 4096, pages[1] * 4096))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<u64> = std::env::args().skip(1).flat_map(|n| n.parse()).collect();
    if let [mib, seed, steps] = numbers[..] {
        let (got, resident) = in_malloc(mib, seed, steps)?;
        println!("{got} {resident}");
        return Ok(());
    }
    let mib = numbers.first().copied().unwrap_or(64);
    let seeds = numbers.get(1).copied().unwrap_or(9);
    let mut all: [Vec<f64>; 3] = Default::default();
    println!("seed  steps    arena  malloc  resident");
    for seed in 1..=seeds {
        let (end, bytes) = in_arena(mib, seed)?;
        let arguments = [mib, seed, end.steps].map(|number| number.to_string());
        let malloc = Command::new(std::env::current_exe()?)
            .args(arguments)
            .output()?;
        let malloc = String::from_utf8(malloc.stdout)?;
        let malloc: Vec<u64> = malloc.split_whitespace().flat_map(str::parse).collect();
        let of = |bytes: u64| end.live as f64 / bytes as f64;
        let shares = [of(bytes), of(malloc[0]), of(malloc[1])];
        let [arena, got, resident] = shares;
        println!(
            "{seed:4}  {:7}  {arena:.3}  {got:.3}   {resident:.3}",
            end.steps
        );
        for (all, share) in all.iter_mut().zip(shares) {
            all.push(share);
        }
    }
    for (name, mut shares) in ["arena", "malloc", "resident"].into_iter().zip(all) {
        shares.sort_by(f64::total_cmp);
        let (least, most) = (shares[0], shares[shares.len() - 1]);
        println!(
            "{name:8}  median {:.3}  {least:.3} to {most:.3}",
            shares[shares.len() / 2]
        );
    }
    Ok(())
}
