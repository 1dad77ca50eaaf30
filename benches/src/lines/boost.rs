//! Our side of the pthread lines against Boost.Interprocess (`peers/cpp/boost_sync.cpp`): the
//! same operations, units and bars.
//!
//! Boost's mutex is not robust, ours is; hence `lock/uncontended/boost`, in which neither is. Boost
//! has no event: the peer hands over by two semaphores, which take fewer steps than a flag with a
//! mutex and a condition. It has no barrier either.

use super::{lock_pthread, pthread};
use crate::comparison::{Comparison, Contender, Language, Program};

pub(crate) const ALL: [Comparison; 8] = [
    against("lock/uncontended/boost", &["mutex"], &lock_pthread::LINE),
    against("mutex/uncontended/boost", &["mutex"], &pthread::MUTEX),
    against("mutex/contended/boost", &["contended"], &pthread::CONTENDED),
    against(
        "semaphore/uncontended/boost",
        &["semaphore"],
        &pthread::SEMAPHORE,
    ),
    against("event/ping-pong/boost", &["event"], &pthread::EVENT),
    against(
        "condition/ping-pong/boost",
        &["condition"],
        &pthread::CONDITION,
    ),
    against("rwlock/read/boost", &["read"], &pthread::READ),
    against(
        "rwlock/read/two-processes/boost",
        &["readers"],
        &pthread::READERS,
    ),
];

/// `like` with the peer `boost_sync WHAT`.
const fn against(
    name: &'static str,
    what: &'static [&'static str],
    like: &Comparison,
) -> Comparison {
    Comparison {
        name,
        unit: like.unit,
        bar: like.bar,
        ours: like.ours,
        peer: Contender::Program(Program {
            language: Language::Boost,
            name: "boost_sync",
            args: what,
        }),
    }
}
