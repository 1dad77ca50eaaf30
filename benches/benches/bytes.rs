//! Watches for regressions of `bytes`, both ends in one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multiprocess_channel::bytes::channel;

fn hot(c: &mut Criterion) {
    let (mut producer, mut consumer) = channel(64 << 10).expect("shared memory");
    let mut group = c.benchmark_group("bytes");
    for len in [64, 4096] {
        let source = vec![7; len];
        let mut target = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("push-pop-into", len), |b| {
            b.iter(|| {
                let _ = producer.try_push(&source);
                consumer.try_pop_into(&mut target)
            });
        });
    }
    group.finish();
}

criterion_group!(bytes, hot);
criterion_main!(bytes);
