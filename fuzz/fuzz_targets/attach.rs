//! Attaching to arbitrary bytes: a typed error or a segment inside its bounds, nothing else.
//!
//! `cargo fuzz run attach`
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::{NoPeers, bytes, spsc};
use multiprocess_core::{LayoutHash, Memory};
use multiprocess_shm::{Mapping, Segment, Shared};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

fn file_of(bytes: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("fuzz", flags).unwrap());
    file.write_all(bytes).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file.into()
}

/// A header that passes: fuzzing then reaches what lies behind it.
fn with_good_header(bytes: &[u8], layout: LayoutHash) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    if whole.len() >= 128 {
        whole[..8].copy_from_slice(b"MPRCSEG1");
        whole[8..12].copy_from_slice(&1u32.to_ne_bytes());
        whole[12..16].copy_from_slice(&2u32.to_ne_bytes());
        whole[16..24].copy_from_slice(&layout.bits().to_ne_bytes());
        let size = whole.len() as u64;
        whole[24..32].copy_from_slice(&size.to_ne_bytes());
    }
    whole
}

fuzz_target!(|bytes: &[u8]| {
    const LAYOUT: LayoutHash = LayoutHash::of("fuzz");
    if let Ok(segment) = Segment::attach(file_of(bytes), LAYOUT) {
        assert_eq!(segment.payload().len() + 128, bytes.len());
    }
    if let Ok(mapping) = Mapping::attach(file_of(bytes)) {
        assert_eq!(mapping.region().len(), bytes.len());
    }
    let _ = Shared::<[u64; 4]>::attach(file_of(bytes));

    let good = with_good_header(bytes, LAYOUT);
    if let Ok(segment) = Segment::attach(file_of(&good), LAYOUT) {
        let region = segment.payload();
        if let Ok(mut consumer) = spsc::Consumer::<u64, _, _>::attach(region, NoPeers) {
            for _ in 0..8 {
                let _ = consumer.try_pop();
            }
        }
        if let Ok(mut producer) = spsc::Producer::<u64, _, _>::attach(region, NoPeers) {
            for i in 0..8 {
                let _ = producer.try_push(i);
            }
        }
        if let Ok(mut consumer) = bytes::Consumer::attach(region, NoPeers) {
            for _ in 0..8 {
                if let Ok(record) = consumer.try_peek() {
                    std::hint::black_box(record.to_vec());
                    record.release();
                }
            }
        }
        if let Ok(mut producer) = bytes::Producer::attach(region, NoPeers) {
            let _ = producer.try_push(b"fuzz");
        }
    }
});
