//! Watches for regressions of segments: create one, attach to it, let both go.

use std::alloc::Layout;
use std::os::fd::AsFd;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use multiprocess_core::LayoutHash;
use multiprocess_shm::Segment;

const LAYOUT: LayoutHash = LayoutHash::of("benches");

fn lifecycle(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    for size in [4096, 1 << 20] {
        let layout = Layout::from_size_align(size, 128).expect("a sane size");
        group.bench_function(BenchmarkId::new("create-attach", size), |b| {
            b.iter(|| {
                let made = Segment::create(LAYOUT, layout, |_| Ok(())).expect("shared memory");
                let file = made.as_fd().try_clone_to_owned().expect("a descriptor");
                let attached = Segment::attach(file, LAYOUT).expect("our own segment");
                (made, attached)
            });
        });
    }
    group.finish();
}

criterion_group!(segment, lifecycle);
criterion_main!(segment);
