//! Watches for regressions of `spsc`, both ends in one thread: instructions, no cache misses.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multiprocess_channel::spsc::channel;

fn hot(c: &mut Criterion) {
    let (mut producer, mut consumer) = channel::<u64>(1024).expect("shared memory");
    let mut group = c.benchmark_group("spsc/8B");
    group.throughput(Throughput::Elements(1));
    group.bench_function("push-pop", |b| {
        b.iter(|| {
            let _ = producer.try_push(7);
            consumer.try_pop()
        });
    });
    // The cached indices pay only here: one look at the other end per batch.
    group.throughput(Throughput::Elements(512));
    group.bench_function("push-512-pop-512", |b| {
        b.iter(|| {
            for value in 0..512 {
                let _ = producer.try_push(value);
            }
            (0..512)
                .filter_map(|_| consumer.try_pop().ok())
                .sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(spsc, hot);
criterion_main!(spsc);
