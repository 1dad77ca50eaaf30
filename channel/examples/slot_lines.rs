//! What a slot's shape costs: two threads on two CPUs fill and drain an array of slots in turns, so that
//! every line comes from the other one's cache and nobody polls; then at the same time.
//!
//! `cargo run --release -p multiprocess-channel --example slot_lines`
//!
//! A message is 64 bytes, unless the table says otherwise, with a word beside it that is claimed and
//! published by compare-and-swap, as in `mpmc`. Nanoseconds per message: quartiles of many laps.
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Barrier};
use std::time::Instant;

const SLOTS: usize = 1024;
const LAPS: usize = 400;
const BYTES: usize = 8 << 20;
/// Where the blocks lie, if not beside the words.
const BLOCKS: usize = 1 << 20;

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    slots: usize,
    /// From one word to the next.
    stride: usize,
    /// From one block to the next; 0: the message is behind its word.
    block: usize,
    /// Words of the message.
    words: usize,
    /// Claimed and published by a plain store, after a load.
    stores: bool,
    /// The message's first line is written before the word is claimed.
    write_first: bool,
    /// The word is not loaded before it is claimed.
    blind: bool,
    /// Blocks in an order that no prefetcher knows.
    shuffled: bool,
    huge: bool,
    /// Both at the same time: who has caught up pauses so often before it looks again.
    live: bool,
    pause: u32,
}

const BASE: Shape = Shape {
    name: "",
    slots: SLOTS,
    stride: 72,
    block: 0,
    words: 8,
    stores: false,
    write_first: false,
    blind: false,
    shuffled: false,
    huge: false,
    live: false,
    pause: 0,
};

#[derive(Clone, Copy)]
struct Memory(*mut u8);
// SAFETY: an address; what is done through it is atomic.
unsafe impl Send for Memory {}

impl Memory {
    fn word(self, at: usize) -> &'static AtomicU64 {
        assert!(at + 8 <= BYTES);
        // SAFETY: inside the mapping, which is never unmapped, and aligned.
        unsafe { &*self.0.add(at).cast() }
    }
}

impl Shape {
    fn message(&self, slot: usize) -> usize {
        let order = match self.shuffled {
            true => slot.wrapping_mul(0x9e37_79b1) % self.slots,
            false => slot,
        };
        match self.block {
            0 => slot * self.stride + 8,
            block => BLOCKS + order * block,
        }
    }

    /// One side's turn: the word from `from` to `to`.
    #[inline(always)]
    fn pass(&self, memory: Memory, from: u64, to: u64, touch: impl Fn(&AtomicU64, u64)) {
        for slot in 0..self.slots {
            let word = memory.word(slot * self.stride);
            let at = self.message(slot);
            if self.write_first {
                memory.word(at).store(to, Relaxed);
            }
            if self.live {
                while word.load(Relaxed) != from {
                    for _ in 0..self.pause {
                        std::hint::spin_loop();
                    }
                }
            } else if !self.blind {
                assert_eq!(word.load(Relaxed), from);
            }
            if self.stores {
                word.store(from + 1, Relaxed);
            } else {
                assert!(
                    word.compare_exchange(from, from + 1, Acquire, Relaxed)
                        .is_ok()
                );
            }
            for index in 0..self.words {
                touch(memory.word(at + 8 * index), to);
            }
            if self.stores {
                word.store(to, Release);
            } else {
                assert!(word.compare_exchange(from + 1, to, AcqRel, Relaxed).is_ok());
            }
        }
    }

    fn meet(&self, barrier: &Barrier) {
        if !self.live {
            barrier.wait();
        }
    }

    fn measure(self) {
        let advice = if self.huge {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: a fresh mapping, with room to align it to a huge page.
        let memory = unsafe {
            let (rw, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            let base =
                libc::mmap(ptr::null_mut(), BYTES + (2 << 20), rw, flags, -1, 0).cast::<u8>();
            let base = base.add(base.align_offset(2 << 20));
            libc::madvise(base.cast(), BYTES, advice);
            Memory(base)
        };
        for at in (0..BYTES).step_by(8) {
            memory.word(at).store(0, Relaxed);
        }
        let barrier = Arc::new(Barrier::new(2));
        let meet = Arc::clone(&barrier);
        let drainer = std::thread::spawn(move || {
            let memory = memory;
            pin(1);
            let mut nanos = Vec::new();
            for lap in 0..LAPS as u64 {
                self.meet(&meet);
                let start = Instant::now();
                self.pass(memory, 4 * lap + 2, 4 * lap + 4, |word, _| {
                    black_box(word.load(Relaxed));
                });
                nanos.push(start.elapsed().as_nanos() as f64 / self.slots as f64);
                self.meet(&meet);
            }
            nanos
        });
        pin(0);
        let mut nanos = Vec::new();
        for lap in 0..LAPS as u64 {
            let start = Instant::now();
            self.pass(memory, 4 * lap, 4 * lap + 2, |word, value| {
                word.store(value, Relaxed)
            });
            nanos.push(start.elapsed().as_nanos() as f64 / self.slots as f64);
            self.meet(&barrier);
            self.meet(&barrier);
        }
        let quartiles = |mut nanos: Vec<f64>| {
            nanos.sort_by(f64::total_cmp);
            format!(
                "{:5.1} {:5.1} {:5.1}",
                nanos[LAPS / 4],
                nanos[LAPS / 2],
                nanos[3 * LAPS / 4]
            )
        };
        println!(
            "{:48} fill {}   drain {}",
            self.name,
            quartiles(nanos),
            quartiles(drainer.join().unwrap())
        );
    }
}

fn pin(cpu: usize) {
    // SAFETY: a zeroed set is an empty one; the call reads it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn main() {
    let shapes = [
        Shape {
            name: "64: 56 B behind the word, one line",
            stride: 64,
            words: 7,
            ..BASE
        },
        Shape {
            name: "72: 64 B behind the word",
            ..BASE
        },
        Shape {
            name: "128: 64 B behind the word, two lines",
            stride: 128,
            ..BASE
        },
        Shape {
            name: "128, 56 B: one line of two",
            stride: 128,
            words: 7,
            ..BASE
        },
        Shape {
            name: "192: two lines of three",
            stride: 192,
            ..BASE
        },
        Shape {
            name: "128, plain stores",
            stride: 128,
            stores: true,
            ..BASE
        },
        Shape {
            name: "72, plain stores",
            stores: true,
            ..BASE
        },
        Shape {
            name: "128, not loaded before the claim",
            stride: 128,
            blind: true,
            ..BASE
        },
        Shape {
            name: "128, huge pages",
            stride: 128,
            huge: true,
            ..BASE
        },
        Shape {
            name: "72, huge pages",
            huge: true,
            ..BASE
        },
        Shape {
            name: "128, 64 slots",
            slots: 64,
            stride: 128,
            ..BASE
        },
        Shape {
            name: "72, 64 slots",
            slots: 64,
            ..BASE
        },
        Shape {
            name: "16 + block of 64",
            stride: 16,
            block: 64,
            ..BASE
        },
        Shape {
            name: "16 + block of 64, huge pages",
            stride: 16,
            block: 64,
            huge: true,
            ..BASE
        },
        Shape {
            name: "16 + block of 64, 64 slots",
            slots: 64,
            stride: 16,
            block: 64,
            ..BASE
        },
        Shape {
            name: "16 + block of 64, plain stores",
            stride: 16,
            block: 64,
            stores: true,
            ..BASE
        },
        Shape {
            name: "16 + block of 64, written before the claim",
            stride: 16,
            block: 64,
            write_first: true,
            ..BASE
        },
        Shape {
            name: "16 + block of 128",
            stride: 16,
            block: 128,
            ..BASE
        },
        Shape {
            name: "16 + block of 64, shuffled",
            stride: 16,
            block: 64,
            shuffled: true,
            ..BASE
        },
        Shape {
            name: "16 + block of 4096 (one set of L1)",
            slots: 512,
            stride: 16,
            block: 4096,
            ..BASE
        },
        Shape {
            name: "16 + block of 4160",
            slots: 512,
            stride: 16,
            block: 4160,
            ..BASE
        },
    ];
    for shape in shapes {
        shape.measure();
    }
    for pause in [0, 16, 64] {
        println!("\nat the same time, {pause} pauses between looks");
        for shape in shapes
            .iter()
            .filter(|shape| !shape.blind && !shape.write_first)
        {
            Shape {
                live: true,
                pause,
                ..*shape
            }
            .measure();
        }
    }
}
