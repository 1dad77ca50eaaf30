//! Compare-and-swap of two words that lie side by side: a state and its message change in one step.
//!
//! x86-64 has it in every processor but the first ones (`cmpxchg16b`, Intel SDM volume 2A: atomic if
//! the sixteen bytes are aligned, whatever the sizes of the others' accesses). Elsewhere, in models and under
//! Miri there is none, and who uses it has a form in two steps.

use core::ptr::NonNull;

/// That this processor has it.
#[derive(Debug, Clone, Copy)]
pub struct PairSwap(());

impl PairSwap {
    /// If the processor has it. Asks the processor, which takes long in a virtual machine: ask once.
    pub fn detect() -> Option<Self> {
        sys::is_there().then_some(Self(()))
    }

    /// Swaps the two words at `pair` for `new` if the first one is `expected` and the second one does not
    /// change meanwhile; whether it did. A full barrier, if it did.
    ///
    /// # Safety
    ///
    /// `pair` must be valid for reads and writes of sixteen bytes, and aligned to sixteen. Accesses of this
    /// process that race with this one must be atomic.
    #[inline(always)]
    pub unsafe fn swap(self, pair: NonNull<[u64; 2]>, expected: u64, new: [u64; 2]) -> bool {
        // SAFETY: as the caller says; and the instruction is there, or `self` would not be.
        unsafe { sys::swap(pair, expected, new) }
    }
}

#[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
mod sys {
    use core::arch::asm;
    use core::arch::x86_64::__cpuid;
    use core::ptr::NonNull;

    /// CPUID leaf 1, ECX.
    const CMPXCHG16B: u32 = 1 << 13;

    pub(super) fn is_there() -> bool {
        __cpuid(1).ecx & CMPXCHG16B != 0
    }

    /// # Safety
    ///
    /// As [`swap`](super::PairSwap::swap), and the processor has the instruction.
    #[inline(always)]
    pub(super) unsafe fn swap(pair: NonNull<[u64; 2]>, expected: u64, new: [u64; 2]) -> bool {
        let swapped: u8;
        // SAFETY: accesses the sixteen bytes at `pair` only, which are valid and aligned; the compiler
        // takes it for an access to any memory, in order. Keeps rbx, which is LLVM's; the address is in a
        // register with a name, since any other may be given rbx, which has another value at the swap.
        unsafe {
            asm!(
                "mov rdx, qword ptr [rdi + 8]",
                "xchg rbx, {low}",
                "lock cmpxchg16b xmmword ptr [rdi]",
                "mov rbx, {low}",
                "sete {swapped}",
                in("rdi") pair.as_ptr(),
                low = inout(reg) new[0] => _,
                swapped = out(reg_byte) swapped,
                inout("rax") expected => _,
                out("rdx") _,
                in("rcx") new[1],
                options(nostack),
            );
        }
        swapped != 0
    }
}

#[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
mod sys {
    use core::ptr::NonNull;

    pub(super) fn is_there() -> bool {
        false
    }

    /// # Safety
    ///
    /// None: nobody can call it.
    pub(super) unsafe fn swap(_: NonNull<[u64; 2]>, _: u64, _: [u64; 2]) -> bool {
        false
    }
}
