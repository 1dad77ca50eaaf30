//! Watches for regressions of `Lock` that nobody else wants.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use multiprocess_shm::Shared;
use multiprocess_sync::Lock;

fn uncontended(c: &mut Criterion) {
    let lock = Shared::new(Lock::new()).expect("a page of shared memory");
    let lock: &Lock = &lock;
    c.bench_function("lock/uncontended", |b| {
        b.iter(|| drop(black_box(lock).lock()));
    });
}

criterion_group!(lock, uncontended);
criterion_main!(lock);
