//! What a message costs on its way through a ring, and a record through the table: `cargo bench -p nebula-ring`.
//!
//! Both ends are on one thread, so that it is the work which is measured and not how far apart two cores are.

use criterion::{Criterion, criterion_group, criterion_main};
use nebula_ring::spsc::{Consumer, MESSAGE_BYTES_MAX, Producer, Ring, SLOT_WORDS};
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const SLOTS: usize = 256;

fn ring(criterion: &mut Criterion) {
    let (head, tail) = (AtomicU64::new(0), AtomicU64::new(0));
    let slots: Vec<[AtomicU64; SLOT_WORDS]> = (0..SLOTS).map(|_| [const { AtomicU64::new(0) }; SLOT_WORDS]).collect();
    let ring = Ring { head: &head, tail: &tail, slots: &slots };
    let (mut producer, mut consumer) = (Producer::resume(ring), Consumer::resume(ring));
    let mut group = criterion.benchmark_group("ring");
    // An event, a command without and with SRTP keys, the longest.
    for bytes in [24, 160, 400, MESSAGE_BYTES_MAX] {
        let message = vec![7; bytes];
        group.bench_function(format!("push and pop, {bytes} bytes"), |bencher| {
            bencher.iter(|| {
                producer.push(ring, black_box(&message)).expect("it is empty");
                consumer.pop(ring).expect("it was pushed").as_bytes().len()
            });
        });
    }
    group.bench_function("pop, nothing there", |bencher| bencher.iter(|| consumer.pop(ring).is_none()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = ring
}
criterion_main!(benches);
