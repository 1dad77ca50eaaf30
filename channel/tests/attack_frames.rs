//! Random operations on a ring of frames whose ends are killed again and again, against a model: what was
//! published is received once, in order, whatever a successor finds of its predecessor's last store.
#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;
use std::fmt::Debug;

use common::Heap;
use multiprocess_channel::spsc::{Consumer, Message, Producer, Ring};
use multiprocess_channel::{NoPeers, TryRecvError, TrySendError};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn run<T: Message + PartialEq + Debug>(seed: u64, message: impl Fn(u64) -> T) {
    let mut dice = Dice(seed * 0x9e37_79b9);
    let capacity = 1 << dice.roll(9);
    let heap = Heap::holding::<Ring<T>>(capacity);
    let mut producer = Producer::<T, _, _>::attach(heap.clone(), NoPeers).unwrap();
    let mut consumer = Consumer::<T, _, _>::attach(heap.clone(), NoPeers).unwrap();
    let (mut model, mut next) = (VecDeque::new(), 0_u64);
    for _ in 0..3000 {
        let room = (capacity as usize) - model.len();
        match dice.roll(9) {
            0..2 => match producer.try_push(message(next)) {
                Ok(()) => {
                    model.push_back(next);
                    next += 1;
                }
                error => assert_eq!((error, room), (Err(TrySendError::Full(message(next))), 0)),
            },
            2 => {
                let batch: Vec<T> = (next..next + dice.roll(capacity + 20))
                    .map(&message)
                    .collect();
                match producer.try_push_slice(&batch) {
                    Ok(sent) => {
                        assert_eq!(sent, room.min(batch.len()));
                        model.extend(next..next + sent as u64);
                        next += sent as u64;
                    }
                    error => assert_eq!((error, room), (Err(TrySendError::Full(())), 0)),
                }
            }
            3..5 => match (consumer.try_pop(), model.pop_front()) {
                (Ok(got), Some(sent)) => assert_eq!(got, message(sent)),
                (got, sent) => assert_eq!((got, sent), (Err(TryRecvError::Empty), None)),
            },
            5 => {
                let mut target = vec![message(u64::MAX); dice.roll(capacity + 20) as usize + 1];
                match consumer.try_pop_slice(&mut target) {
                    Ok(count) => {
                        assert!(count > 0);
                        for (got, sent) in target.iter().zip(model.drain(..count)) {
                            assert_eq!(*got, message(sent));
                        }
                    }
                    error => assert_eq!((error, model.len()), (Err(TryRecvError::Empty), 0)),
                }
            }
            6 => match consumer.peek() {
                Ok(got) => assert_eq!(got, message(model[0])),
                error => assert_eq!((error, model.len()), (Err(TryRecvError::Empty), 0)),
            },
            // Killed: nothing is stored, nobody is told.
            7 => {
                // SAFETY: the former one is used no more.
                let successor = unsafe { Producer::take_over(heap.clone(), NoPeers) }.unwrap();
                std::mem::forget(std::mem::replace(&mut producer, successor));
                assert_eq!(producer.position(), next);
            }
            _ => {
                // SAFETY: as above.
                let successor = unsafe { Consumer::take_over(heap.clone(), NoPeers) }.unwrap();
                std::mem::forget(std::mem::replace(&mut consumer, successor));
                assert_eq!(consumer.position(), next - model.len() as u64);
            }
        }
        let there = model.len() as u64;
        assert_eq!((producer.len(), consumer.len()), (there, there));
        assert_eq!(consumer.statistics().sent, next);
    }
    drop(producer);
    for sent in model {
        assert_eq!(consumer.try_pop(), Ok(message(sent)));
    }
    assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
}

#[test]
fn successors_find_all_and_nothing_twice_in_frames_of_every_shape() {
    for seed in 1..30 {
        run(seed, |_| ());
        run(seed, |number| number as u8);
        run(seed, |number| [number as u8; 14]);
        run(seed, |number| [number as u16; 14]);
        run(seed, |number| number);
        run(seed, u128::from);
        run(seed, |number| [number; 8]);
        run(seed, |number| [number; 64]);
    }
}
