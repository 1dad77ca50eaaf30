//! Attach validates everything before it trusts anything; creation fails before it could hurt.

use std::alloc::Layout;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use multiprocess_core::atomic::{AtomicU64, Ordering};
use multiprocess_core::{AttachError, CreateError, Errno, LayoutHash, ShmSafe};
use multiprocess_shm::{Mapping, Segment, Shared};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

const LAYOUT: LayoutHash = LayoutHash::of("a test segment");
const MAGIC: usize = 0x00;
const VERSION: usize = 0x08;
const STATE: usize = 0x0c;
const LAYOUT_FIELD: usize = 0x10;
const SIZE: usize = 0x18;
const CREATOR_PID: usize = 0x28;
const CREATOR_START: usize = 0x30;

/// A memfd with these bytes, sealed as a mapping would be.
fn file_of(bytes: &[u8]) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    fd
}

/// The bytes of a good segment with a payload of 64 bytes.
fn good() -> Vec<u8> {
    let segment = Segment::create(LAYOUT, Layout::new::<[u64; 8]>(), |_| Ok(())).unwrap();
    let mut file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn attach(bytes: &[u8]) -> Result<Segment, AttachError> {
    Segment::attach(file_of(bytes), LAYOUT)
}

/// What attach says of a good segment after `change`.
fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> AttachError {
    let mut bytes = good();
    change(&mut bytes);
    attach(&bytes).expect_err("attach must refuse")
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[test]
fn a_good_segment_is_accepted() {
    assert_eq!(attach(&good()).unwrap().payload().len(), 64);
}

#[test]
fn an_empty_file_is_refused() {
    assert_eq!(refusal(Vec::clear), AttachError::Empty);
}

#[test]
fn a_file_shorter_than_the_header_is_refused() {
    let error = refusal(|bytes| bytes.truncate(100));
    assert_eq!(
        error,
        AttachError::Truncated {
            need: 128,
            have: 100
        }
    );
}

#[test]
fn a_file_shorter_than_the_header_says_is_refused() {
    let error = refusal(|bytes| bytes.truncate(191));
    assert_eq!(
        error,
        AttachError::Truncated {
            need: 192,
            have: 191
        }
    );
}

#[test]
fn a_file_longer_than_the_header_says_is_refused() {
    let error = refusal(|bytes| bytes.push(0));
    let expected = AttachError::SizeMismatch {
        header: 192,
        actual: 193,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_size_field_of_any_value_is_refused() {
    for size in [0, 1, 127, 191, 193, u64::MAX] {
        let error = refusal(|bytes| put(bytes, SIZE, size.to_ne_bytes()));
        assert!(
            matches!(
                error,
                AttachError::Truncated { .. } | AttachError::SizeMismatch { .. }
            ),
            "{size}: {error:?}"
        );
    }
}

#[test]
fn wrong_magic_is_refused() {
    let error = refusal(|bytes| put(bytes, MAGIC, *b"ELFELFEL"));
    assert!(matches!(error, AttachError::BadMagic { .. }));
}

#[test]
fn zeroed_memory_is_refused() {
    let error = refusal(|bytes| bytes.fill(0));
    assert_eq!(error, AttachError::BadMagic { found: 0 });
}

#[test]
fn the_other_byte_order_is_refused() {
    let error = refusal(|bytes| bytes[MAGIC..MAGIC + 8].reverse());
    assert_eq!(error, AttachError::ForeignByteOrder);
}

#[test]
fn another_version_is_refused() {
    let error = refusal(|bytes| put(bytes, VERSION, 2u32.to_ne_bytes()));
    assert_eq!(
        error,
        AttachError::Version {
            found: 2,
            expected: 1
        }
    );
}

#[test]
fn another_layout_is_refused() {
    let error = refusal(|bytes| put(bytes, LAYOUT_FIELD, 7u64.to_ne_bytes()));
    let expected = AttachError::Layout {
        found: 7,
        expected: LAYOUT.bits(),
    };
    assert_eq!(error, expected);
}

#[test]
fn an_unknown_state_is_refused() {
    for state in [0u32, 3, u32::MAX] {
        let error = refusal(|bytes| put(bytes, STATE, state.to_ne_bytes()));
        assert_eq!(error, AttachError::Corrupt { field: "state" });
    }
}

#[test]
fn a_living_creator_at_work_is_told_from_a_dead_one() {
    let creating = |bytes: &mut Vec<u8>| put(bytes, STATE, 1u32.to_ne_bytes());
    // The creator recorded in a good segment is this process.
    let own = std::process::id();
    assert_eq!(refusal(creating), AttachError::Initialising { pid: own });

    // The same pid with another start time: its predecessor.
    let reused = refusal(|bytes| {
        creating(bytes);
        put(bytes, CREATOR_START, 1u64.to_ne_bytes());
    });
    assert_eq!(reused, AttachError::CreatorDied { pid: own });

    // A child that has exited and been reaped.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let died = refusal(|bytes| {
        creating(bytes);
        put(bytes, CREATOR_PID, child.id().to_ne_bytes());
    });
    assert_eq!(died, AttachError::CreatorDied { pid: child.id() });
}

#[test]
fn random_bytes_are_refused() {
    // xorshift64: any sequence will do, and this one repeats.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for len in [1usize, 8, 127, 128, 129, 4096, 5000] {
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            attach(&bytes).expect_err("random bytes are no segment");
        }
    }
}

#[test]
fn every_corrupt_byte_of_the_header_is_refused_or_harmless() {
    let good = good();
    for at in 0..128 {
        for flip in [0x01u8, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            match attach(&bytes) {
                // Creator's identity, flags and reserved bytes decide nothing once READY.
                Ok(segment) => assert!(at >= 0x20 && segment.payload().len() == 64, "{at:#x}"),
                Err(error) => assert!(at < 0x20, "{at:#x}: {error}"),
            }
        }
    }
}

#[test]
fn a_file_that_could_shrink_is_refused() {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(&good()).unwrap();
    let error = Segment::attach(file.into(), LAYOUT).unwrap_err();
    assert_eq!(error, AttachError::Unsealed);

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&good()).unwrap();
    let error = Segment::attach(file.into(), LAYOUT).unwrap_err();
    assert_eq!(error, AttachError::Unsealed);
}

#[test]
fn a_read_only_descriptor_is_refused() {
    let segment = Segment::create(LAYOUT, Layout::new::<u64>(), |_| Ok(())).unwrap();
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&segment.as_fd())
    );
    let read_only = File::open(path).unwrap();
    let error = Segment::attach(read_only.into(), LAYOUT).unwrap_err();
    assert_eq!(error, AttachError::System(Errno::ACCESS));
}

#[test]
fn a_peer_can_neither_shrink_nor_unseal_a_segment() {
    let segment = Segment::create(LAYOUT, Layout::new::<u64>(), |_| Ok(())).unwrap();
    let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(1 << 20).is_err());
    assert!(fcntl_add_seals(&file, SealFlags::WRITE).is_err());
}

#[test]
fn a_shared_value_refuses_another_type() {
    #[derive(ShmSafe)]
    #[repr(C)]
    struct Meters(AtomicU64);
    #[derive(ShmSafe)]
    #[repr(C)]
    struct Feet(AtomicU64);

    let meters = Shared::new(Meters(AtomicU64::new(7))).unwrap();
    let fd = || meters.as_fd().try_clone_to_owned().unwrap();
    let same = Shared::<Meters>::attach(fd()).unwrap();
    same.0.store(8, Ordering::Relaxed);
    assert_eq!(meters.0.load(Ordering::Relaxed), 8);
    assert!(!Shared::ptr_eq(&meters, &same));
    let error = Shared::<Feet>::attach(fd()).err().unwrap();
    assert!(matches!(error, AttachError::Layout { .. }), "{error:?}");
}

#[test]
fn absurd_sizes_are_refused_at_creation() {
    let capacity = Mapping::anonymous(c"test", 0).unwrap_err();
    assert!(matches!(
        capacity,
        CreateError::Capacity { requested: 0, .. }
    ));
    for size in [1 << 50, i64::MAX as u64, u64::MAX] {
        let error = Mapping::anonymous(c"test", size).unwrap_err();
        assert!(matches!(error, CreateError::TooLarge { .. }), "{error:?}");
    }
}

#[test]
fn a_failed_initialiser_leaves_nothing() {
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = fds();
    for _ in 0..100 {
        let made = Segment::create(LAYOUT, Layout::new::<u64>(), |_| Err(CreateError::NoSpace));
        assert_eq!(made.unwrap_err(), CreateError::NoSpace);
    }
    // Other tests run beside this one and hold descriptors of their own; a leak would be 100.
    assert!(fds() < before + 50);
}

#[test]
fn a_live_segment_is_not_made_anew() {
    let shared = Shared::new(5u64).unwrap();
    let mapping = || Mapping::attach(shared.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let other = LayoutHash::of("another type");
    let made = Segment::create_in(mapping(), other, |_| Ok(()));
    assert!(
        matches!(made, Err(CreateError::System(Errno::EXIST))),
        "{made:?}"
    );
    // Nor one whose creator is still at work.
    let fresh = Mapping::anonymous(c"test", 4096).unwrap();
    let again = fresh.try_clone().unwrap();
    let made = Segment::create_in(fresh, other, |_| {
        let made = Segment::create_in(again, other, |_| Ok(()));
        assert!(
            matches!(made, Err(CreateError::System(Errno::EXIST))),
            "{made:?}"
        );
        Ok(())
    });
    assert!(made.is_ok());
    assert_eq!(
        *Shared::<u64>::attach(shared.as_fd().try_clone_to_owned().unwrap()).unwrap(),
        5
    );
}
