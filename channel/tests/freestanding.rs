//! `core`, `sync` and the rings work without libc, without std, without an allocator: a static
//! binary built with `-nostartfiles -nostdlib` links them and runs.
#![cfg(all(not(loom), target_os = "linux"))]

use std::path::Path;
use std::process::Command;

#[test]
fn a_binary_without_libc_locks_and_pushes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/freestanding");
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freestanding");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(env!("CARGO"))
        .current_dir(&source) // its .cargo/config.toml counts
        .args(["build", "--release", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(built.success(), "the freestanding binary does not link");

    let binary = target_dir.join(&target).join("release/freestanding");
    assert!(
        !needs_interpreter(&std::fs::read(&binary).unwrap()),
        "linked against something that needs a loader"
    );
    let output = Command::new(&binary).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "step {:?} failed",
        output.status.code()
    );
    assert!(said.contains("work"), "{said}");
}

/// Whether an ELF64 file has a PT_INTERP or PT_DYNAMIC program header.
fn needs_interpreter(elf: &[u8]) -> bool {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
    let start = u64::from_le_bytes(elf[32..40].try_into().unwrap()) as usize;
    let (size, count) = (u16_at(54), u16_at(56));
    (0..count).any(|i| {
        let header = start + i * size;
        let kind = u32::from_le_bytes(elf[header..header + 4].try_into().unwrap());
        matches!(kind, 2 | 3)
    })
}
