//! Long copies by more than a word at a time.

/// Copies as many whole lines of 64 bytes as `len` has, by loads and stores of 16 bytes. How many
/// bytes it was.
///
/// In assembly, since Rust has no atomic of 16 bytes. No 8 bytes of a line are torn on the side that
/// is shared: each lies in one load or store, and a processor reads and writes an aligned quadword at
/// once, also as half of a wider access (Intel SDM vol. 3, 9.1.1; AMD APM vol. 2, 7.3.2).
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `len` bytes; they must not overlap;
/// no racing access by this process to the shared one may be non-atomic; the shared one must be a
/// multiple of 8, the other one must be nobody else's.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(super) unsafe fn copy_wide(source: *const u8, target: *mut u8, len: usize) -> usize {
    const LINE: usize = 64;
    let lines = len / LINE;
    // A few words are faster one by one.
    if lines < 4 {
        return 0;
    }
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

/// Elsewhere all goes word by word.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(super) unsafe fn copy_wide(_: *const u8, _: *mut u8, _: usize) -> usize {
    0
}
