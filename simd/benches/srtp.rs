//! What a packet costs, by suite, size and kernel, beside aws-lc-rs.
//!
//! `cargo bench -p nebula-simd`; a filter names a part, for example `gcm/172` or `AVX-512`. Sizes are those of whole RTP packets: a
//! header of 12 bytes and a payload. The time is that of one packet. `aes-cm` means what protecting a packet with
//! AES_CM_128_HMAC_SHA1_80 takes of this crate: encrypting the payload, and the tag of all with a rollover counter.
//! libsrtp is measured beside it in `bench/src/bin/srtp-bench.rs`.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac as aws_hmac;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, Level, ctr, gcm, hmac};
use std::hint::black_box;
use std::time::Duration;

/// Bytes of a whole RTP packet: G.729 and Opus at low rates, G.711 in 20 ms, in 40 ms, and video.
const SIZES: [usize; 4] = [60, 172, 332, 1200];
const HEADER_BYTES: usize = 12;

/// Packets of a turn that are done together, each with keys of its own.
const BATCH: usize = 16;

fn levels() -> impl Iterator<Item = Kernels> {
    Level::ALL.into_iter().filter_map(Kernels::of)
}

fn packets(size: usize) -> Vec<Vec<u8>> {
    (0..BATCH).map(|i| (0..size).map(|at| (at * 7 + i) as u8).collect()).collect()
}

fn group<'a>(criterion: &'a mut Criterion, name: &str, size: usize, packets: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("{name}/{size}"));
    group.throughput(Throughput::Elements(packets as u64));
    group
}

fn aes_cm(criterion: &mut Criterion) {
    for (name, long) in [("aes-128-cm-sha1", false), ("aes-256-cm-sha1", true)] {
        let keys: Vec<[u8; 32]> = (0..BATCH).map(|i| [i as u8; 32]).collect();
        for size in SIZES {
            let mut packets = packets(size);
            let schedules: Vec<_> = keys.iter().map(|key| schedule(key, long)).collect();
            let hmac_keys: Vec<_> = keys.iter().map(|key| hmac::Key::new(&key[..20])).collect();
            let mut group = group(criterion, name, size, BATCH);
            for kernels in levels() {
                group.bench_function(format!("{}, {BATCH} at once", kernels.level()), |bencher| {
                    bencher.iter(|| {
                        let mut jobs: [ctr::Job; BATCH] = {
                            let mut all = packets.iter_mut().zip(&schedules);
                            std::array::from_fn(|i| {
                                let (packet, schedule) = all.next().expect("as many");
                                ctr::Job { schedule, iv: [i as u8; 16], data: &mut packet[HEADER_BYTES..] }
                            })
                        };
                        ctr::apply_many(kernels, &mut jobs);
                        let jobs: [_; BATCH] = std::array::from_fn(|i| hmac::Job {
                            key: &hmac_keys[i],
                            data: &packets[i],
                            tail: &[0, 0, 0, 1],
                        });
                        let mut tags = [[0; hmac::TAG_BYTES]; BATCH];
                        hmac::tag_many(kernels, &jobs, &mut tags);
                        black_box(tags)
                    });
                });
            }
            group.finish();
            let mut group = self::group(criterion, name, size, 1);
            for kernels in levels() {
                group.bench_function(format!("{}, alone", kernels.level()), |bencher| {
                    let packet = &mut packets[0];
                    bencher.iter(|| {
                        ctr::apply(kernels, &schedules[0], [1; 16], &mut packet[HEADER_BYTES..]);
                        hmac::tag(kernels, &hmac_keys[0], black_box(packet), &[0, 0, 0, 1])
                    });
                });
            }
            group.bench_function("aws-lc-rs", |bencher| {
                let algorithm = if long { &AES_256 } else { &AES_128 };
                let key = UnboundCipherKey::new(algorithm, &keys[0][..if long { 32 } else { 16 }]).expect("a key");
                let key = EncryptingKey::ctr(key).expect("a key");
                let hmac_key = aws_hmac::Key::new(aws_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &keys[0][..20]);
                let packet = &mut packets[0];
                bencher.iter(|| {
                    let iv = EncryptionContext::Iv128([1; 16].into());
                    key.less_safe_encrypt(&mut packet[HEADER_BYTES..], iv).expect("encrypted");
                    let mut tag = aws_hmac::Context::with_key(&hmac_key);
                    tag.update(packet);
                    tag.update(&[0, 0, 0, 1]);
                    tag.sign()
                });
            });
            group.finish();
        }
    }
}

fn aes_gcm(criterion: &mut Criterion) {
    for (name, long) in [("aes-128-gcm", false), ("aes-256-gcm", true)] {
        for size in SIZES {
            let mut packet = packets(size).remove(0);
            let mut group = group(criterion, name, size, 1);
            let key = if long { gcm::Key::aes_256(&[3; 32]) } else { gcm::Key::aes_128(&[3; 16]) };
            for kernels in levels() {
                group.bench_function(format!("seal, {}", kernels.level()), |bencher| {
                    bencher.iter(|| {
                        let (header, payload) = packet.split_at_mut(HEADER_BYTES);
                        gcm::seal(kernels, &key, black_box(&[1; 12]), header, payload)
                    });
                });
                group.bench_function(format!("open, {}", kernels.level()), |bencher| {
                    let mut sealed = packet.clone();
                    let (header, payload) = sealed.split_at_mut(HEADER_BYTES);
                    let tag = gcm::seal(kernels, &key, &[1; 12], header, payload);
                    let mut copy = sealed.clone();
                    bencher.iter(|| {
                        // The copy is part of the time, a few nanoseconds: opening what is open already would fail.
                        copy.copy_from_slice(&sealed);
                        let (header, payload) = copy.split_at_mut(HEADER_BYTES);
                        gcm::open(kernels, &key, black_box(&[1; 12]), header, payload, &tag).expect("its own tag");
                    });
                });
            }
            let theirs =
                if long { UnboundKey::new(&AES_256_GCM, &[3; 32]) } else { UnboundKey::new(&AES_128_GCM, &[3; 16]) };
            let theirs = LessSafeKey::new(theirs.expect("a key"));
            group.bench_function("seal, aws-lc-rs", |bencher| {
                bencher.iter(|| {
                    let (header, payload) = packet.split_at_mut(HEADER_BYTES);
                    let nonce = Nonce::assume_unique_for_key(*black_box(&[1; 12]));
                    theirs.seal_in_place_separate_tag(nonce, Aad::from(header), payload).expect("sealed")
                });
            });
            group.finish();
        }
    }
}

/// The parts of AES-CM suites by themselves, at the size of G.711.
fn parts(criterion: &mut Criterion) {
    let size = 172;
    let mut packets = packets(size);
    let schedules: Vec<_> = (0..BATCH).map(|i| schedule(&[i as u8; 32], false)).collect();
    let keys: Vec<_> = (0..BATCH).map(|i| hmac::Key::new(&[i as u8; 20])).collect();
    for kernels in levels() {
        let mut group = group(criterion, "parts", size, BATCH);
        group.bench_function(format!("counter mode, {}, {BATCH} at once", kernels.level()), |bencher| {
            let mut all = packets.iter_mut().zip(&schedules);
            let mut jobs: [ctr::Job; BATCH] = std::array::from_fn(|_| {
                let (packet, schedule) = all.next().expect("as many");
                ctr::Job { schedule, iv: [1; 16], data: &mut packet[HEADER_BYTES..] }
            });
            bencher.iter(|| ctr::apply_many(kernels, black_box(&mut jobs)));
        });
        for count in [1, 2, 4, 8, 16] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("HMAC-SHA1, {}, {count} at once", kernels.level()), |bencher| {
                let jobs: Vec<_> = packets
                    .iter()
                    .zip(&keys)
                    .map(|(packet, key)| hmac::Job { key, data: packet, tail: &[0, 0, 0, 1] })
                    .take(count)
                    .collect();
                let mut tags = [[0; hmac::TAG_BYTES]; BATCH];
                bencher.iter(|| hmac::tag_many(kernels, black_box(&jobs), &mut tags[..count]));
            });
        }
        group.finish();
    }
}

fn schedule(key: &[u8; 32], long: bool) -> Schedule {
    if long { Schedule::aes_256(key) } else { Schedule::aes_128(key.first_chunk().expect("16 of 32")) }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(30);
    targets = aes_cm, aes_gcm, parts
}
criterion_main!(benches);
