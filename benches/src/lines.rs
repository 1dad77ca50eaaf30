//! Every comparison. To add one: a file here, and its constant in [`ALL`].

mod bytes;
mod forkserver;
mod lock;
mod lock_pthread;
mod spsc_blocking;
mod spsc_rtt;
mod spsc_throughput;

use crate::comparison::Comparison;

/// In the order of the report.
pub(crate) const ALL: &[&Comparison] = &[
    &lock::UNCONTENDED,
    &lock_pthread::LINE,
    &spsc_throughput::LINE,
    &spsc_rtt::LINE,
    &spsc_blocking::SLEEPING,
    &spsc_blocking::SPINNING,
    &bytes::FOUR_KIB,
    &bytes::SIXTY_FOUR_KIB,
    &forkserver::LINE,
];
