//! Every comparison. To add one: a file here, and its constant in [`ALL`].

mod bytes;
mod forkserver;
mod lock;
mod lock_pthread;
mod pthread;
mod spsc_blocking;
mod spsc_rtt;
mod spsc_throughput;

use crate::comparison::Comparison;

/// In the order of the report.
pub(crate) const ALL: &[&Comparison] = &[
    &lock::UNCONTENDED,
    &lock_pthread::LINE,
    &pthread::ALL[0],
    &pthread::ALL[1],
    &pthread::ALL[2],
    &pthread::ALL[3],
    &pthread::ALL[4],
    &pthread::ALL[5],
    &pthread::ALL[6],
    &pthread::ALL[7],
    &spsc_throughput::LINE,
    &spsc_rtt::LINE,
    &spsc_blocking::SLEEPING,
    &spsc_blocking::SPINNING,
    &bytes::FOUR_KIB,
    &bytes::SIXTY_FOUR_KIB,
    &forkserver::LINE,
];
