//! Time per operation: the median over chunks of operations.
//!
//! One number for a whole run hides that a pipeline switches between lock-step and batches,
//! and lets one preemption spoil it; the median of chunks is what the run was like most of
//! the time.

use std::time::{Duration, Instant};

/// How long one side of one repetition runs.
pub(crate) const SPAN: Duration = Duration::from_millis(30);

/// Calls `chunk`, which performs `operations`, until `span` has passed; median nanoseconds per
/// operation. The first tenth of the chunks is warm-up and not counted.
pub(crate) fn nanos_per_operation(
    span: Duration,
    operations: usize,
    mut chunk: impl FnMut(),
) -> f64 {
    let mut chunks = Vec::with_capacity(1 << 14);
    let start = Instant::now();
    let mut before = start;
    while before.duration_since(start) < span || chunks.len() < 10 {
        chunk();
        let after = Instant::now();
        chunks.push(after.duration_since(before).as_nanos() as f64);
        before = after;
    }
    median(&mut chunks.split_off(chunks.len() / 10)) / operations as f64
}

/// The middle of `values`; of an even number, the mean of the two.
///
/// # Panics
///
/// If there are none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (middle, odd) = (values.len() / 2, values.len() % 2 == 1);
    if odd {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_is_the_middle_of_what_is_there() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
