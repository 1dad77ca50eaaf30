//! Every comparison. To add one: a file here, and its constant in [`ALL`].

mod lock;
mod spsc_throughput;

use crate::comparison::Comparison;

/// In the order of the report.
pub(crate) const ALL: &[&Comparison] = &[&lock::UNCONTENDED, &spsc_throughput::LINE];
