//! `lock/uncontended/pthread`: our `Lock` against a process-shared `pthread_mutex_t`, both in
//! shared memory. The peer is C, because that is who uses it.

use super::lock;
use crate::comparison::{Comparison, Contender, Language, Program, Unit};

pub(crate) const LINE: Comparison = Comparison {
    name: "lock/uncontended/pthread",
    unit: Unit::Nanoseconds,
    // No bar of the design: a guard and a result cost a nanosecond beside a bare call.
    bar: 0.9,
    ours: Contender::Alone(lock::ours),
    peer: Contender::Program(Program {
        language: Language::C,
        name: "pthread_mutex",
        args: &[],
    }),
};
