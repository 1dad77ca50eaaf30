//! A peer that writes anything anywhere in a live ring: errors or wrong payload, never a
//! panic, an access outside the ring, or a loop without end.
//!
//! `cargo fuzz run hostile_ring`
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiprocess_channel::{NoPeers, bytes, spsc};
use multiprocess_core::{Memory, Place, Region};
use multiprocess_shm::Segment;

/// One step: scribble eight bytes, or one operation of ours.
fn scribble(region: Region<'_>, at: u16, value: u64) {
    let words = region.len() / 8;
    let at = usize::from(at) % words;
    // SAFETY: inside the region, aligned; volatile because the ring reads it behind our back.
    unsafe {
        region.base().cast::<u64>().add(at).write_volatile(value);
    }
}

fn typed(steps: &[[u8; 11]]) {
    let segment = Segment::create_place::<spsc::Ring<u64>>(&8).unwrap();
    let region = segment.region();
    let mut producer = spsc::Producer::<u64, _, _>::attach(region, NoPeers).unwrap();
    let mut consumer = spsc::Consumer::<u64, _, _>::attach(region, NoPeers).unwrap();
    for step in steps {
        let at = u16::from_le_bytes([step[1], step[2]]);
        let value = u64::from_le_bytes(step[3..11].try_into().unwrap());
        match step[0] % 10 {
            0 | 1 => scribble(region, at, value),
            2 => scribble(region, at, value % 32),
            3 => drop(producer.try_push(value)),
            4 => drop(consumer.try_pop()),
            5 => drop(consumer.peek()),
            6 => drop(consumer.release()),
            7 => {
                let _ = producer.try_push_slice(&[value; 12][..usize::from(at % 12)]);
            }
            8 => {
                let _ = consumer.try_pop_slice(&mut [0; 12][..usize::from(at % 12)]);
            }
            _ => drop(consumer.pop_timeout(Duration::from_nanos(1))),
        }
        std::hint::black_box((producer.len(), consumer.is_disconnected()));
    }
    let _ = <spsc::Ring<u64> as Place>::attach(region);
    let _ = spsc::Ring::<u64>::statistics(region);
}

fn records(steps: &[[u8; 11]]) {
    let segment = Segment::create_place::<bytes::Ring>(&128).unwrap();
    let region = segment.region();
    let mut producer = bytes::Producer::attach(region, NoPeers).unwrap();
    let mut consumer = bytes::Consumer::attach(region, NoPeers).unwrap();
    for step in steps {
        let at = u16::from_le_bytes([step[1], step[2]]);
        let value = u64::from_le_bytes(step[3..11].try_into().unwrap());
        match step[0] % 10 {
            0 | 1 => scribble(region, at, value),
            2 => scribble(region, at, value % 256),
            3 => drop(producer.try_push(&value.to_le_bytes()[..(at % 9).into()])),
            4 => {
                if let Ok(mut grant) = producer.try_reserve(usize::from(at)) {
                    grant.fill(7);
                    let len = grant.len() / 2;
                    grant.commit(len);
                }
            }
            5 => drop(consumer.try_peek().map(|record| record.to_vec())),
            6 => drop(consumer.try_pop_into(&mut [0; 16])),
            7 => {
                let record = value.to_le_bytes();
                let _ = producer.try_push_all(&[&record[..usize::from(at % 9)]; 3]);
            }
            8 => {
                if let Ok(records) = consumer.try_peek_all() {
                    scribble(region, at, value);
                    std::hint::black_box(records.iter().map(<[u8]>::len).sum::<usize>());
                    records.release();
                }
            }
            _ => drop(
                consumer
                    .peek_timeout(Duration::from_nanos(1))
                    .map(|r| r.release()),
            ),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (steps, _) = input.as_chunks::<11>();
    typed(steps);
    records(steps);
});
