//! Long copies by more than a word at a time.
//!
//! In assembly, since Rust has no atomics of 16 or 32 bytes. No 8 bytes are torn on the side that is
//! shared: each lies in one load or store, and a processor reads and writes an aligned quadword at
//! once, also as a part of a wider access (Intel SDM vol. 3, 9.1.1; AMD APM vol. 2, 7.3.2). `rep movs`
//! promises that to nobody.

/// Copies as much of `len` bytes as whole lines make up, at the beginning. How many bytes it was.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `len` bytes; they must not overlap;
/// no racing access by this process to the shared one may be non-atomic; the shared one must be a
/// multiple of 8, the other one must be nobody else's.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(super) unsafe fn copy_wide(source: *const u8, target: *mut u8, len: usize) -> usize {
    // A few words are faster one by one.
    if len < 4 * LINE {
        return 0;
    }
    if len >= LONG && avx::is_there() {
        // SAFETY: as the caller says; the instructions are there.
        return unsafe { avx::copy(source, target, len) };
    }
    let lines = len / LINE;
    // SAFETY: reads and writes `lines * 64` bytes, which are inside both by the caller's word;
    // touches no stack, and all that it changes is named.
    unsafe {
        core::arch::asm!(
            "2:",
            "movdqu {a}, [{source}]",
            "movdqu {b}, [{source} + 16]",
            "movdqu {c}, [{source} + 32]",
            "movdqu {d}, [{source} + 48]",
            "movdqu [{target}], {a}",
            "movdqu [{target} + 16], {b}",
            "movdqu [{target} + 32], {c}",
            "movdqu [{target} + 48], {d}",
            "add {source}, 64",
            "add {target}, 64",
            "dec {lines}",
            "jnz 2b",
            source = inout(reg) source => _,
            target = inout(reg) target => _,
            lines = inout(reg) lines => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
    lines * LINE
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// From so many bytes on, asking for the wider registers, and going to an aligned address, pays.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LONG: usize = 512;

/// By 32 bytes at a time, where processor and kernel have the registers for it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx {
    use core::arch::asm;
    use core::arch::x86_64::__cpuid;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// Bytes in a round of the loop.
    const ROUND: usize = 256;
    /// As wide as a register.
    const WIDE: usize = 32;
    /// From so many bytes on, which leave little of the first cache, the target's lines are asked for
    /// before they are written: a twentieth faster. Shorter copies would be slower.
    const FAR: usize = 32 << 10;
    /// Rounds at the end without that: the lines behind the target are a peer's, perhaps.
    const AHEAD: usize = 2;

    /// The instructions of a round: all loads, then all stores.
    macro_rules! round {
        () => {
            "vmovdqu ymm0, ymmword ptr [{source}]
             vmovdqu ymm1, ymmword ptr [{source} + 32]
             vmovdqu ymm2, ymmword ptr [{source} + 64]
             vmovdqu ymm3, ymmword ptr [{source} + 96]
             vmovdqu ymm4, ymmword ptr [{source} + 128]
             vmovdqu ymm5, ymmword ptr [{source} + 160]
             vmovdqu ymm6, ymmword ptr [{source} + 192]
             vmovdqu ymm7, ymmword ptr [{source} + 224]
             vmovdqu ymmword ptr [{target}], ymm0
             vmovdqu ymmword ptr [{target} + 32], ymm1
             vmovdqu ymmword ptr [{target} + 64], ymm2
             vmovdqu ymmword ptr [{target} + 96], ymm3
             vmovdqu ymmword ptr [{target} + 128], ymm4
             vmovdqu ymmword ptr [{target} + 160], ymm5
             vmovdqu ymmword ptr [{target} + 192], ymm6
             vmovdqu ymmword ptr [{target} + 224], ymm7
             add {source}, 256
             add {target}, 256"
        };
    }

    // What `is_there` has found out, if it has.
    const UNKNOWN: u8 = 0;
    const ABSENT: u8 = 1;
    const THERE: u8 = 2;

    /// Asked once per process: the question takes long in a virtual machine.
    ///
    /// A cache of a fact about the machine; losing the race to fill it changes nothing.
    #[inline]
    pub(super) fn is_there() -> bool {
        static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
        // Relaxed: the value stands alone.
        match KNOWN.load(Relaxed) {
            UNKNOWN => ask(&KNOWN),
            known => known == THERE,
        }
    }

    #[cold]
    fn ask(cache: &AtomicU8) -> bool {
        /// CPUID leaf 1, ECX.
        const OSXSAVE: u32 = 1 << 27;
        const AVX: u32 = 1 << 28;
        /// XCR0: the kernel keeps both halves of the registers for each thread.
        const KEPT: u32 = 0b110;
        let has = |features| __cpuid(1).ecx & features == features;
        let is_there = has(OSXSAVE | AVX) && extended_control() & KEPT == KEPT;
        cache.store(if is_there { THERE } else { ABSENT }, Relaxed);
        is_there
    }

    /// The low half of XCR0. For processors with OSXSAVE.
    fn extended_control() -> u32 {
        let low: u32;
        // SAFETY: reads a register; the instruction is there with OSXSAVE.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack));
        }
        low
    }

    /// Words until `target` is aligned, then whole rounds, then whole registers. How many bytes it was.
    ///
    /// # Safety
    ///
    /// As [`copy_wide`](super::copy_wide), for 512 bytes or more; the processor has AVX.
    #[inline(never)]
    pub(super) unsafe fn copy(source: *const u8, target: *mut u8, len: usize) -> usize {
        // An address that is no multiple of 8 is private, and stays unaligned.
        let words = target.align_offset(WIDE) / 8;
        let rest = len - words * 8;
        let (mut rounds, singles) = (rest / ROUND, rest % ROUND / WIDE);
        let asking = if len < FAR { 0 } else { rounds - AHEAD };
        rounds -= asking;
        // SAFETY: reads and writes `words * 8 + (asking + rounds) * 256 + singles * 32` bytes, which are
        // no more than `len`, and so inside both by the caller's word; of 512 bytes there is a round;
        // touches no stack. A prefetch is a hint, and nothing on processors that do not know it. The
        // upper halves of all registers are cleared at the end, as the ABI wants them, so all registers
        // are named.
        unsafe {
            asm!(
                "test {words}, {words}",
                "jz 3f",
                "2:",
                "mov {word}, qword ptr [{source}]",
                "mov qword ptr [{target}], {word}",
                "add {source}, 8",
                "add {target}, 8",
                "dec {words}",
                "jnz 2b",
                "3:",
                "test {asking}, {asking}",
                "jz 5f",
                ".p2align 5",
                "4:",
                "prefetchw byte ptr [{target} + 512]",
                "prefetchw byte ptr [{target} + 576]",
                "prefetchw byte ptr [{target} + 640]",
                "prefetchw byte ptr [{target} + 704]",
                round!(),
                "dec {asking}",
                "jnz 4b",
                "5:",
                ".p2align 5",
                "6:",
                round!(),
                "dec {rounds}",
                "jnz 6b",
                "test {singles}, {singles}",
                "jz 8f",
                "7:",
                "vmovdqu ymm0, ymmword ptr [{source}]",
                "vmovdqu ymmword ptr [{target}], ymm0",
                "add {source}, 32",
                "add {target}, 32",
                "dec {singles}",
                "jnz 7b",
                "8:",
                "vzeroupper",
                source = inout(reg) source => _,
                target = inout(reg) target => _,
                words = inout(reg) words => _,
                asking = inout(reg) asking => _,
                rounds = inout(reg) rounds => _,
                singles = inout(reg) singles => _,
                word = out(reg) _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack),
            );
        }
        words * 8 + rest / WIDE * WIDE
    }
}

/// Elsewhere all goes word by word.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(super) unsafe fn copy_wide(_: *const u8, _: *mut u8, _: usize) -> usize {
    0
}
