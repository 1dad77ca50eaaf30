//! What the workers have counted and not answered for yet: an `Array` with a row for each.
//!
//! Only shown, never added to what is counted. A worker that is killed while it writes leaves half
//! a row, and the lock to the next one, who is told; that row is wiped when its owner is replaced.

use multiprocess::{Array, ArrayGuard, LockError};

use super::count::Totals;

/// Files, words.
const COLUMNS: usize = 2;

/// Elements of the array.
pub(crate) fn len(workers: usize) -> usize {
    workers * COLUMNS
}

/// Replaces a row.
pub(crate) fn set(in_hand: &Array<u64>, row: usize, totals: Totals) {
    if let Some(mut guard) = lock(in_hand) {
        let row = &mut guard[row * COLUMNS..][..COLUMNS];
        row.copy_from_slice(&[totals.looked_at(), totals.words]);
    }
}

/// Files and words in all rows.
pub(crate) fn sum(in_hand: &Array<u64>) -> (u64, u64) {
    let Some(guard) = lock(in_hand) else {
        return (0, 0);
    };
    let rows = guard.chunks_exact(COLUMNS);
    rows.fold((0, 0), |(files, words), row| {
        (files + row[0], words + row[1])
    })
}

/// Each row has one writer, so half of one is all that a death can leave.
fn lock(in_hand: &Array<u64>) -> Option<ArrayGuard<'_, u64>> {
    match in_hand.lock() {
        Ok(guard) => Some(guard),
        Err(LockError::OwnerDied(mut guard)) => {
            guard.mark_consistent();
            Some(guard)
        }
        Err(_) => None,
    }
}
