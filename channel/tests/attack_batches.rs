//! Random operations on both ends of `spsc` and `bytes`, against a model of what they promise.
#![cfg(all(not(loom), feature = "std"))]

use std::collections::VecDeque;

use multiprocess_channel::{
    PopIntoError, TryRecvError, TryReserveError, TrySendError, bytes, spsc,
};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn spsc_does_what_a_queue_does() {
    for seed in 1..60 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let capacity = 1 << dice.roll(4);
        let (mut producer, mut consumer) = spsc::channel::<u32>(capacity).unwrap();
        let (mut model, mut next) = (VecDeque::new(), 0_u32);
        for _ in 0..4000 {
            let room = capacity as usize - model.len();
            match dice.roll(7) {
                0 => match producer.try_push(next) {
                    Ok(()) => {
                        assert!(room > 0);
                        model.push_back(next);
                        next += 1;
                    }
                    error => assert_eq!((error, room), (Err(TrySendError::Full(next)), 0)),
                },
                1 => {
                    let values: Vec<u32> = (next..next + dice.roll(10) as u32).collect();
                    match producer.try_push_slice(&values) {
                        Ok(sent) => {
                            assert_eq!(sent, room.min(values.len()));
                            model.extend(&values[..sent]);
                            next += sent as u32;
                        }
                        error => {
                            assert_eq!(error, Err(TrySendError::Full(())));
                            assert!(room == 0 && !values.is_empty());
                        }
                    }
                }
                2 => assert_eq!(
                    consumer.try_pop(),
                    model.pop_front().ok_or(TryRecvError::Empty)
                ),
                3 => {
                    let mut target = vec![u32::MAX; dice.roll(10) as usize];
                    match consumer.try_pop_slice(&mut target) {
                        Ok(count) => {
                            assert!(count <= model.len());
                            // At least what was there at the last look, one at least.
                            assert!(count > 0 || target.is_empty());
                            let popped: Vec<u32> = model.drain(..count).collect();
                            assert_eq!(target[..count], popped);
                            assert!(target[count..].iter().all(|&rest| rest == u32::MAX));
                        }
                        error => {
                            assert_eq!(error, Err(TryRecvError::Empty));
                            assert!(model.is_empty());
                        }
                    }
                }
                4 => {
                    let front = model.front().copied().ok_or(TryRecvError::Empty);
                    assert_eq!(consumer.peek(), front);
                }
                5 => {
                    let had = consumer.peek().is_ok();
                    if dice.roll(2) == 0 {
                        assert_eq!(consumer.try_pop().ok(), model.pop_front());
                        assert!(!consumer.release(), "what was peeked was popped");
                    } else {
                        assert_eq!(consumer.release(), had);
                        model.pop_front();
                        assert!(!consumer.release());
                    }
                }
                _ => assert_eq!(producer.len(), model.len() as u64),
            }
        }
        // The rest comes after the close.
        producer.close();
        assert!(producer.try_push_slice(&[1]).is_err());
        assert!(consumer.drain().eq(model));
        assert_eq!(consumer.try_pop(), Err(TryRecvError::Disconnected));
        let statistics = consumer.statistics();
        assert_eq!(
            (statistics.sent, statistics.received),
            (next.into(), next.into())
        );
    }
}

fn record(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number as usize * 31 + i) as u8).collect()
}

#[test]
fn bytes_does_what_a_queue_of_records_does() {
    for seed in 1..60 {
        let mut dice = Dice(seed * 0x51_7cc1_b727);
        let capacity = 64 << dice.roll(3);
        let (mut producer, mut consumer) = bytes::channel(capacity).unwrap();
        let max = producer.max_len();
        let (mut model, mut next) = (VecDeque::<Vec<u8>>::new(), 0_u64);
        let mut sent_in_all = 0;
        for _ in 0..4000 {
            match dice.roll(6) {
                0 => {
                    let value = record(next, dice.roll(max as u64 + 3) as usize);
                    match producer.try_push(&value) {
                        Ok(()) => model.push_back(value),
                        Err(TryReserveError::TooLarge { .. }) => assert!(value.len() > max),
                        Err(error) => {
                            assert_eq!(error, TryReserveError::Full);
                            assert!(!model.is_empty(), "room in an empty ring");
                        }
                    }
                    next += 1;
                }
                1 => {
                    let values: Vec<Vec<u8>> = (0..dice.roll(6))
                        .map(|i| record(next + i, dice.roll(max as u64 / 2 + 1) as usize))
                        .collect();
                    let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
                    if let Ok(sent) = producer.try_push_all(&slices) {
                        model.extend(values.into_iter().take(sent));
                    }
                    next += 6;
                }
                2 => {
                    // Reserved and given up, or less than was reserved.
                    let len = dice.roll(max as u64 + 1) as usize;
                    if let Ok(mut grant) = producer.try_reserve(len) {
                        grant.fill(0xee);
                        if dice.roll(2) == 0 {
                            let used = dice.roll(len as u64 + 1) as usize;
                            grant.commit(used);
                            model.push_back(vec![0xee; used]);
                        }
                    }
                }
                3 => {
                    let mut buffer = vec![0; dice.roll(max as u64 + 1) as usize];
                    match (consumer.try_pop_into(&mut buffer), model.front()) {
                        (Ok(len), Some(front)) => {
                            assert_eq!(buffer[..len], front[..]);
                            model.pop_front();
                        }
                        (Err(PopIntoError::BufferTooShort { need }), Some(front)) => {
                            assert!(need == front.len() && need > buffer.len());
                        }
                        (result, None) => {
                            assert_eq!(result, Err(PopIntoError::Recv(TryRecvError::Empty)));
                        }
                        (result, front) => panic!("{result:?}, {front:?}"),
                    }
                }
                4 => match consumer.try_peek_all() {
                    Ok(records) => {
                        assert_eq!(records.len(), model.len());
                        assert!(records.iter().eq(model.iter().map(Vec::as_slice)));
                        if dice.roll(2) == 0 {
                            records.release();
                            model.clear();
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, TryRecvError::Empty);
                        assert!(model.is_empty());
                    }
                },
                _ => match consumer.try_peek() {
                    Ok(record) => {
                        assert_eq!(Some(&*record), model.front().map(Vec::as_slice));
                        if dice.roll(2) == 0 {
                            record.release();
                            model.pop_front();
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, TryRecvError::Empty);
                        assert!(model.is_empty());
                    }
                },
            }
            let statistics = producer.statistics();
            sent_in_all = statistics.sent;
            assert_eq!(statistics.sent - statistics.received, model.len() as u64);
        }
        assert!(sent_in_all > 100);
        drop(producer);
        while let Some(front) = model.pop_front() {
            let record = consumer.try_peek().unwrap();
            assert_eq!(*record, front[..]);
            record.release();
        }
        assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Disconnected));
    }
}
