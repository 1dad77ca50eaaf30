//! Messages of every small size and alignment, in steps and in one, through rings in one's own memory.
#![cfg(all(not(loom), feature = "std"))]

mod common;

use bytemuck::{Pod, Zeroable};
use common::Heap;
use multiprocess_channel::mpmc::{self, Config};
use multiprocess_channel::{NoPeers, spsc};
use multiprocess_core::{LayoutHash, ParticipantId, Peers, ShmSafe};

#[derive(Clone, Copy)]
struct Me;

// SAFETY: nobody is ever said to be dead.
unsafe impl Peers for Me {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(0, 1)
    }
    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Zeroable, Pod, PartialEq, Debug)]
#[repr(C, align(16))]
struct Nothing;
// SAFETY: nothing is anything.
unsafe impl ShmSafe for Nothing {
    const LAYOUT: LayoutHash = LayoutHash::of("Nothing");
}

#[derive(Clone, Copy, Zeroable, Pod, PartialEq, Debug)]
#[repr(C, packed)]
struct Packed(u32, u16, u8);
// SAFETY: plain data.
unsafe impl ShmSafe for Packed {
    const LAYOUT: LayoutHash = LayoutHash::of("Packed");
}

fn all_come<T: spsc::Message + PartialEq + core::fmt::Debug>(make: impl Fn(u64) -> T) {
    for limit in [0, 1, 2, 5] {
        for (send_one, receive_one) in [(true, true), (true, false), (false, true), (false, false)]
        {
            let heap = Heap::holding::<mpmc::Ring<T>>(Config::new(8).endpoints(4).limit(limit));
            let mut sender = mpmc::Sender::<T, _, _>::attach(heap.clone(), Me).unwrap();
            let mut receiver = mpmc::Receiver::<T, _, _>::attach(heap, Me).unwrap();
            sender.set_one_step(send_one);
            receiver.set_one_step(receive_one);
            let most = if limit == 0 { 8 } else { limit };
            for round in 0..20 {
                for i in 0..most {
                    assert_eq!(sender.try_send(make(round * most + i)), Ok(()));
                }
                assert!(sender.try_send(make(0)).is_err());
                for i in 0..most {
                    assert_eq!(receiver.try_recv(), Ok(make(round * most + i)));
                }
                assert!(receiver.try_recv().is_err());
            }
        }
    }
    let heap = Heap::holding::<spsc::Ring<T>>(4);
    let mut producer = spsc::Producer::<T, _, _>::attach(heap.clone(), NoPeers).unwrap();
    let mut consumer = spsc::Consumer::<T, _, _>::attach(heap, NoPeers).unwrap();
    let mut batch = [make(0); 5];
    for round in 0..20 {
        let values: [T; 3] = core::array::from_fn(|i| make(round + i as u64));
        assert_eq!(producer.try_push_slice(&values), Ok(3));
        assert_eq!(consumer.try_pop_slice(&mut batch), Ok(3));
        assert_eq!(batch[..3], values);
    }
}

#[test]
fn messages_of_every_small_size_come_as_they_were() {
    all_come(|i| i as u8);
    all_come(|i| i as u16);
    all_come(|i| [i as u8, 1, i as u8]);
    all_come(|i| [i as u16, 3, i as u16]);
    all_come(|i| [i as u8; 5]);
    all_come(|i| [i as u8; 7]);
    all_come(|i| [i as u32, 9]);
    all_come(|i| [i as u8; 8]);
    all_come(|i| i);
    all_come(|i| [i as u8; 9]);
    all_come(|i| Packed(i as u32, 2, i as u8));
    all_come(|_| Nothing);
    all_come(|_| [0_u8; 0]);
    all_come(|i| [i; 7]);
    all_come(|i| [i; 8]);
    all_come(|i| [i as u8; 20]);
}
