//! What a C runtime would have brought: the entry point, the memory functions that the
//! compiler calls, and the symbols that a precompiled `core` refers to.

/// `exit_group(2)`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: system call 231 takes an int and does not return.
    unsafe {
        core::arch::asm!("syscall", "ud2", in("rax") 231, in("rdi") code, options(noreturn));
    }
}

/// `exit_group(2)`.
#[cfg(target_arch = "aarch64")]
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: system call 94 takes an int and does not return.
    unsafe {
        core::arch::asm!("svc #0", "brk #1", in("x8") 94, in("w0") code, options(noreturn));
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// The kernel starts us here, with the stack not yet aligned for a call.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("and rsp, -16", "call {main}", "ud2", main = sym crate::main)
}

/// As above.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("bl {main}", "brk #1", main = sym crate::main)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: the caller's contract. Volatile, or the loop would be compiled to memcpy.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    for i in 0..len {
        let i = if to.cast_const() < from {
            i
        } else {
            len - 1 - i
        };
        // SAFETY: as in memcpy.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: as in memcpy.
        unsafe { to.add(i).write_volatile(byte as u8) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: as in memcpy.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// A precompiled `core` is built for unwinding and names these; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(102)
}

/// Used by rustix to walk the vDSO's symbol names.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller's contract: a NUL ends it.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}
