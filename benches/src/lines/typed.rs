//! `RawArray` against memcpy, and `Value` against a bare robust mutex with a word beside it.
//!
//! Both sides of a copy have the same kind of memory: a segment of their own, and a private
//! buffer. What a copy by relaxed atomics promises beyond a memcpy is that it may race. The value's peer is the
//! lock and the addition and nothing else; ours has a handle, a guard, and the word that keeps
//! a second guard away.

use std::hint::black_box;

use multiprocess::{RawArray, Value};

use crate::clock::{SPAN, nanos_per_operation};
use crate::comparison::{Comparison, Contender, Language, Measured, Program, Unit};
use crate::cpu::Cpus;

const BATCH: usize = 1000;
const COPIES: usize = 20;

const LARGE: usize = 64 << 10;
const SMALL: usize = 4 << 10;

pub(crate) const ALL: [Comparison; 5] = [
    copy(
        "raw-array/copy-in/4KiB",
        copy_in::<SMALL>,
        memcpy_in::<SMALL>,
    ),
    copy(
        "raw-array/copy-in/64KiB",
        copy_in::<LARGE>,
        memcpy_in::<LARGE>,
    ),
    copy(
        "raw-array/copy-out/4KiB",
        copy_out::<SMALL>,
        memcpy_out::<SMALL>,
    ),
    copy(
        "raw-array/copy-out/64KiB",
        copy_out::<LARGE>,
        memcpy_out::<LARGE>,
    ),
    Comparison {
        name: "value/increment",
        unit: Unit::Nanoseconds,
        bar: 0.5,
        ours: Contender::Alone(increment),
        peer: Contender::Program(Program {
            language: Language::C,
            name: "pthread_sync",
            args: &["increment"],
        }),
    },
];

const fn copy(
    name: &'static str,
    ours: fn(Cpus) -> Measured,
    memcpy: fn(Cpus) -> Measured,
) -> Comparison {
    Comparison {
        name,
        unit: Unit::GigabytesPerSecond,
        bar: 0.95,
        ours: Contender::Alone(ours),
        peer: Contender::Alone(memcpy),
    }
}

/// Gigabytes per second of `once`, which copies `BYTES`.
fn rate<const BYTES: usize>(mut once: impl FnMut()) -> Measured {
    let nanos = nanos_per_operation(SPAN, COPIES, || (0..COPIES).for_each(|_| once()));
    Ok(BYTES as f64 / nanos)
}

/// What lies in shared memory, and what does not.
fn both<const BYTES: usize>() -> Result<(RawArray<u64>, Vec<u64>), crate::comparison::Failure> {
    let words: Vec<u64> = (0..BYTES as u64 / 8).collect();
    Ok((RawArray::from_slice(&words)?, words))
}

fn copy_in<const BYTES: usize>(_: Cpus) -> Measured {
    let (array, words) = both::<BYTES>()?;
    rate::<BYTES>(|| {
        let array = black_box(&array);
        array
            .copy_from_slice(0, black_box(&words))
            .expect("as long");
    })
}

fn memcpy_in<const BYTES: usize>(_: Cpus) -> Measured {
    let (mut array, words) = both::<BYTES>()?;
    rate::<BYTES>(|| {
        // SAFETY: nobody else has this array.
        let elements = unsafe { array.as_mut_slice() };
        black_box(elements).copy_from_slice(black_box(&words));
    })
}

fn copy_out<const BYTES: usize>(_: Cpus) -> Measured {
    let (array, mut words) = both::<BYTES>()?;
    rate::<BYTES>(|| {
        let array = black_box(&array);
        array
            .copy_to_slice(0, black_box(&mut words))
            .expect("as long");
    })
}

fn memcpy_out<const BYTES: usize>(_: Cpus) -> Measured {
    let (array, mut words) = both::<BYTES>()?;
    rate::<BYTES>(|| {
        // SAFETY: nobody else has this array.
        let elements = unsafe { array.as_slice() };
        black_box(&mut words[..]).copy_from_slice(black_box(elements));
    })
}

fn increment(_: Cpus) -> Measured {
    let value = Value::new(0u64)?;
    let value = black_box(&value);
    Ok(nanos_per_operation(SPAN, BATCH, || {
        for _ in 0..BATCH {
            let mut guard = value.lock().expect("nobody died");
            *guard = black_box(*guard) + 1;
        }
    }))
}
