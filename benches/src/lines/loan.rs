//! `loan/...`: messages that are made by one process and worked on by another, in place, against the same
//! with a copy in and a copy out.
//!
//! Made: every byte is written. Worked on: every word is added up. Ours does both where the message lies. The
//! peer makes it in memory of its own, copies it into a ring, copies it out, and adds up the copy: 64 bytes
//! through `mpmc`, larger ones through `bytes`, which has one sender and one receiver and less to do.

use std::hint::{black_box, spin_loop};
use std::time::Duration;

use multiprocess_channel::loan::{Config, LoanError, Receiver, Ring, Sender};
use multiprocess_channel::{SendError, bytes, mpmc};
use multiprocess_core::Place;

use crate::clock::nanos_per_operation;
use crate::comparison::{Comparison, Contender, Failure, Measured, Pair, Unit};
use crate::stage::Stage;

use super::mpmc::{FAR, NEAR};

pub(crate) const ALL: [Comparison; 3] = [
    Comparison {
        name: "loan/64B",
        unit: Unit::GigabytesPerSecond,
        bar: 0.2,
        ours: lent::<64>(),
        peer: Contender::Pair(Pair {
            bytes: 1 << 18,
            near: slots::near,
            far: slots::far,
        }),
    },
    large::<4096>("loan/4KiB", 0.9),
    large::<65536>("loan/64KiB", 1.0),
];

const fn large<const LEN: usize>(name: &'static str, bar: f64) -> Comparison {
    Comparison {
        name,
        unit: Unit::GigabytesPerSecond,
        bar,
        ours: lent::<LEN>(),
        peer: Contender::Pair(Pair {
            bytes: 4 << 20,
            near: copied::near::<LEN>,
            far: copied::far::<LEN>,
        }),
    }
}

const fn lent<const LEN: usize>() -> Contender {
    Contender::Pair(Pair {
        bytes: 8 << 20,
        near: near::<LEN>,
        far: far::<LEN>,
    })
}

const SPAN: Duration = Duration::from_millis(50);
/// How long a sender waits before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// As many messages under way as a quarter of a mebibyte holds, 8 to 1024, and somewhat more memory than they
/// take: blocks come round before they have left the cache.
const fn config<const LEN: usize>() -> Config {
    let capacity = match (1 << 18) / LEN as u64 {
        few @ ..8 => few + 8,
        some @ 8..1024 => some,
        _ => 1024,
    };
    let block = if LEN < 128 { 128 } else { LEN as u64 };
    Config::new(capacity, (capacity + 4) * block * 5 / 4).endpoints(4)
}

fn make(message: &mut [u8], value: u8) {
    black_box(message).fill(value);
}

/// Whether all of it is `value`.
fn is_made_of(message: &[u8], value: u8) -> bool {
    let (words, word) = (message.as_chunks::<8>().0, u64::from_ne_bytes([value; 8]));
    let wrong = words
        .iter()
        .fold(0, |wrong, next| wrong | u64::from_ne_bytes(*next) ^ word);
    black_box(wrong) == 0
}

/// Works on messages until [`SPAN`] is over; gigabytes per second.
#[inline(always)]
fn drain<const LEN: usize>(mut work: impl FnMut(u8) -> Result<bool, Failure>) -> Measured {
    let chunk = (8 << 20) / LEN;
    let (mut value, mut good, mut failed) = (0_u8, true, None);
    let nanos = nanos_per_operation(SPAN, chunk, || {
        for _ in 0..chunk {
            match work(value) {
                Ok(is_right) => good &= is_right,
                Err(failure) => return failed = Some(failure),
            }
            value = value.wrapping_add(1);
        }
    });
    match failed {
        Some(failure) => Err(failure),
        None if !good => Err("a message is not what was sent".into()),
        None => Ok(LEN as f64 / nanos),
    }
}

fn near<const LEN: usize>(stage: &Stage) -> Measured {
    let region = stage.carve(Ring::layout(&config::<LEN>())?);
    // SAFETY: the far process does not touch the piece before we have met.
    unsafe { Ring::init(region, &config::<LEN>())? };
    let receiver = Receiver::attach(region, NEAR)?;
    stage.meet();
    let measured = drain::<LEN>(|value| Ok(is_made_of(&receiver.take()?, value)));
    stage.stop();
    measured
}

fn far<const LEN: usize>(stage: &Stage) -> Result<(), Failure> {
    let region = stage.carve(Ring::layout(&config::<LEN>())?);
    stage.meet();
    let sender = Sender::attach(region, FAR)?;
    for value in (0..=u8::MAX).cycle() {
        let mut loan = loop {
            match sender.loan_timeout(LEN, LOOK) {
                Ok(loan) => break loan,
                Err(LoanError::Exhausted) if !stage.is_stopped() => {}
                Err(_) => return Ok(()),
            }
        };
        make(&mut loan, value);
        loop {
            match loan.send_timeout(LOOK) {
                Ok(()) => break,
                Err(SendError::Timeout(again)) if !stage.is_stopped() => loan = again,
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}

/// In the slots of `mpmc`.
mod slots {
    use super::*;

    type Message = [u8; 64];
    const SLOTS: mpmc::Config = mpmc::Config::new(1024).endpoints(4);

    pub(super) fn near(stage: &Stage) -> Measured {
        let region = stage.carve(mpmc::Ring::<Message>::layout(&SLOTS)?);
        // SAFETY: the far process does not touch the piece before we have met.
        unsafe { mpmc::Ring::<Message>::init(region, &SLOTS)? };
        let mut receiver = mpmc::Receiver::<Message, _, _>::attach(region, NEAR)?;
        stage.meet();
        let measured = drain::<64>(|value| Ok(is_made_of(&receiver.recv()?, value)));
        stage.stop();
        measured
    }

    pub(super) fn far(stage: &Stage) -> Result<(), Failure> {
        let region = stage.carve(mpmc::Ring::<Message>::layout(&SLOTS)?);
        stage.meet();
        let mut sender = mpmc::Sender::<Message, _, _>::attach(region, FAR)?;
        for value in (0..=u8::MAX).cycle() {
            let mut message = [0; 64];
            make(&mut message, value);
            loop {
                match sender.send_timeout(message, LOOK) {
                    Ok(()) => break,
                    Err(SendError::Timeout(_)) if !stage.is_stopped() => {}
                    Err(_) => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Through a `bytes` ring.
mod copied {
    use super::*;

    const RING: u64 = 1 << 20;

    pub(super) fn near<const LEN: usize>(stage: &Stage) -> Measured {
        let region = stage.carve(bytes::Ring::layout(&RING)?);
        // SAFETY: the far process does not touch the piece before we have met.
        unsafe { bytes::Ring::init(region, &RING)? };
        let mut consumer = bytes::Consumer::attach(region, NEAR)?;
        let mut copy = vec![0; LEN];
        stage.meet();
        let measured = drain::<LEN>(|value| {
            let record = consumer.peek()?;
            record.copy_to(&mut copy);
            record.release();
            Ok(is_made_of(&copy, value))
        });
        stage.stop();
        measured
    }

    pub(super) fn far<const LEN: usize>(stage: &Stage) -> Result<(), Failure> {
        let region = stage.carve(bytes::Ring::layout(&RING)?);
        stage.meet();
        let mut producer = bytes::Producer::attach(region, FAR)?;
        let mut message = vec![0; LEN];
        for value in (0..=u8::MAX).cycle() {
            make(&mut message, value);
            while producer.try_push(&message).is_err() {
                if stage.is_stopped() {
                    return Ok(());
                }
                spin_loop();
            }
        }
        Ok(())
    }
}
