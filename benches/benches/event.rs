//! Watches for regressions of `Event` that nobody waits for.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use multiprocess_shm::Shared;
use multiprocess_sync::Event;

fn hot(c: &mut Criterion) {
    let event = Shared::new(Event::new()).expect("a page of shared memory");
    let event: &Event = &event;
    c.bench_function("event/set-and-clear", |b| {
        b.iter(|| {
            black_box(event).set();
            black_box(event).clear();
        });
    });
    event.set();
    c.bench_function("event/is-set", |b| b.iter(|| black_box(event).is_set()));
    c.bench_function("event/set-again", |b| b.iter(|| black_box(event).set()));
}

criterion_group!(event, hot);
criterion_main!(event);
